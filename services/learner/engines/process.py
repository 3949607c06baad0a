"""The process of one rank under torchrun: how it begins and how it ends."""

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def run_rank(main: Callable[[], int]) -> NoReturn:
    """Run `main` and end this process with the exit code that it returns (1 after an error), without finalisation.

    DeepSpeed holds its process groups until the process ends, and with them gloo's threads. Such a thread lets go of a
    call's tensors some time after the call has returned, and takes Python's lock for it. CPython 3.11 ends a thread
    that asks for the lock of an interpreter that is being finalised; the destructors it is in must not be unwound, so
    that C++ ends the whole process ("terminate called without an active exception", SIGABRT: pytorch/pytorch#190489).
    """
    end_with_parent()
    code = 1
    try:
        code = main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - said as the interpreter would
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def end_with_parent() -> None:
    """Have the kernel end this process when its parent, torchrun, dies: it is in a session of its own."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
