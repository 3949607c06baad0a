"""What a verifier worker may do: compute. Completions are hostile text, and verifiers may be a third party's.

No secret in its environment, no new privileges, no network (where the kernel allows a namespace), no other process, no
file written, few files open, limits on memory and on the CPU time of each batch.
"""

import ctypes
import os
import resource
import sys
from collections.abc import Mapping

_KEPT = ("PATH", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "HOME")
"""Variables that a worker needs to start; nothing else of its parent's environment reaches it."""
_OPEN_FILES = 128
_SPARE_CPU_S = 10.0
"""CPU time of a batch beyond its samples' deadlines."""
_PR_SET_NO_NEW_PRIVS = 38
_NOBODY = 65534
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def clean_environment(parent: Mapping[str, str]) -> dict[str, str]:
    """Of `parent` what a worker needs; one thread, so that it can leave the network, and no byte code written."""
    kept = {name: parent[name] for name in _KEPT if name in parent}
    return kept | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def isolate() -> bool:
    """First thing in the process: no new privileges, no network. False where the kernel does not allow the latter."""
    if sys.platform != "linux":
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return any(libc.unshare(flags) == 0 for flags in (_CLONE_NEWUSER | _CLONE_NEWNET, _CLONE_NEWNET))


def drop_root() -> None:
    """Root goes on as nobody: the kernel holds everybody but root to the limit on processes."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)


def limit(memory_bytes: int) -> None:
    """Once everything is imported: memory, and no other process, thread, file or core dump."""
    for what, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_NPROC, 0),  # the kernel does not hold root to it
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (most, most))


def allow_cpu(seconds: float) -> None:
    """From now on the process may compute for `seconds` and a little more; past that the kernel ends it."""
    times = os.times()
    until = int(times.user + times.system + seconds + _SPARE_CPU_S) + 1
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))
