"""Child processes that do not outlive their parent, and the last lines of what they said."""

import ctypes
import os
import secrets
import shutil
import signal
import socket
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from shared.errors import Unavailable

LOG_BYTES = 64 << 20
"""What a log may hold; as much is kept of what it held before."""
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def spawn(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
    """Start `command` in a session of its own, its output appended to `log`; it is killed when this process dies.

    The kernel watches the calling *thread*: call it from one that lives as long as the child shall.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    parent = os.getpid()

    def die_with_parent() -> None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            os._exit(1)

    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(env) if env is not None else None,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )


def end_group(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to the process and all that share its group; gone is fine."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return


def last_lines(log: Path, count: int = 5, limit: int = 8192) -> str:
    """The last `count` lines of a log file, in one line."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - limit))
        lines = file.read().decode(errors="replace").splitlines()
    return " | ".join(line.strip() for line in lines[-count:])


def bound_log(log: Path, most: int = LOG_BYTES) -> None:
    """Move what a log of more than `most` bytes holds to `<log>.1`, while it is written; raises OSError."""
    if log.exists() and log.stat().st_size > most:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)  # whoever writes it appends


PORTS = range(20_000, 32_000)
"""Below the range that the kernel draws outgoing connections' ports from, which could take one before its server."""


_drawn: deque[int] = deque(maxlen=len(PORTS) // 2)
"""Ports that this process has drawn lately: whom one was drawn for may not listen on it yet."""


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago, and another one each time.

    Raises Unavailable when a hundred drawn ones are not free.
    """
    for _ in range(100):
        port = secrets.choice(PORTS)
        if port not in _drawn and port_is_free(port):
            _drawn.append(port)
            return port
    raise Unavailable(f"no free port on 127.0.0.1 from {PORTS.start} to {PORTS.stop - 1}")


def port_is_free(port: int) -> bool:
    """Whether 127.0.0.1:`port` can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
