"""Small samples, and verifiers that misbehave on purpose."""

import contextlib
import json
import os
import signal
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from services.reward.verdict import Context, Sample, Verdict
from shared.messages import RewardSpec


def math(content: str, truth: str = "4", deadline_s: float = 10.0) -> Sample:
    """A boxed answer against a boxed truth; the reward is the accuracy."""
    return text(f"\\boxed{{{content}}}", "mathverify", f"\\boxed{{{truth}}}", deadline_s)


def text(completion: str, verifier: str = "mathverify", truth: str = "\\boxed{4}", deadline_s: float = 10.0) -> Sample:
    spec = RewardSpec(verifier=verifier, answer="", ground_truth=truth, format_ratio=0.0)
    return Sample(completion=completion, spec=spec, deadline_s=deadline_s)


def misbehave(completion: str, spec: RewardSpec, context: Context) -> Verdict:
    """A verifier that does what the completion says; an unknown word is fine."""
    if completion == "confess":
        raise RuntimeError(json.dumps(_confession(int(spec.ground_truth))))
    _DEEDS.get(completion, lambda: None)()
    return Verdict(1.0, 1.0)


def _hang() -> None:
    """Deaf to the worker's own alarm."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    signal.pause()


def _loop() -> None:
    while True:
        pass


def _raise() -> None:
    raise RuntimeError("on purpose")


def _confession(port: int) -> dict[str, object]:
    """What this process can do; `port` is one that somebody listens on, on this machine."""
    status = Path("/proc/self/status").read_text()
    return {
        "environment": sorted(os.environ),
        "no_new_privs": "NoNewPrivs:\t1" in status,
        "connects": _does(lambda: socket.create_connection(("127.0.0.1", port), 1.0).close()),
        "writes": _does(lambda: Path("/tmp/written-by-a-verifier").write_text("x")),
        "forks": _does(_fork),
        "opens": _does(lambda: [_FILES.append(open(os.devnull)) for _ in range(500)]),  # noqa: PTH123
    }


def _does(deed: Callable[[], object]) -> bool:
    try:
        deed()
    except OSError:
        return False
    finally:
        _FILES.clear()
    return True


def _fork() -> None:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)


def _babble() -> None:
    """Write to its parent what is no reply, whatever number its socket has here."""
    for descriptor in (int(path.name) for path in list(Path("/dev/fd").iterdir())):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                os.write(descriptor, struct.pack("<Q", 4) + b"\xff" * 4)
    _hang()


_FILES: list[TextIO] = []
_KEPT: list[bytearray] = []
_DEEDS: dict[str, Callable[[], object]] = {
    "babble": _babble,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": _hang,
    "loop": _loop,
    "memory": lambda: bytearray(64 * 1024**3),
    "grow": lambda: _KEPT.append(bytearray(b"x") * (600 * 1024**2)),
    "sleep": lambda: time.sleep(0.05),
    "raise": _raise,
    "print": lambda: sys.stdout.write("noise\n" * 100),
}
