"""A launcher of programs' processes seen from its parent: start it, have it run one, end it."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from services.reward.outside.launcher import NEXT
from services.reward.outside.program import READY
from services.reward.workers.process import ended
from services.reward.workers.sandbox import clean_environment
from shared.errors import Unavailable

START_S = 60.0
"""How long a launcher may take to start."""
_MODULE = "services.reward.outside.launcher"
_ROOT = Path(__file__).parents[3]
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_ENDING_S = 1.0


class Late(Exception):
    """The program did not end within its limit."""


class Launcher:
    """A running launcher; one program at a time."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket) -> None:
        self._process, self._channel = process, channel

    @classmethod
    async def start(cls) -> "Launcher":
        """A new one, ready to work; raises Unavailable when it cannot be started, or not within `START_S`."""
        try:
            launcher = cls(*_spawn())
        except OSError as error:
            raise Unavailable(f"a launcher of programs could not be started: {error}") from error
        try:
            async with asyncio.timeout(START_S):
                await launcher._hear()
        except TimeoutError:
            await launcher.close()
            raise Unavailable(f"a launcher of programs did not start within {START_S:g} s") from None
        except BaseException:
            await launcher.close()
            raise
        return launcher

    @property
    def runs(self) -> bool:
        return self._process.poll() is None

    async def run(self, work: bytes, limit_s: float) -> bytes:
        """What the program in `work` told until it ended, after `READY`; of one that tells too much nothing.

        Raises Unavailable when its process did not start, Late past the limit. After either, or when it is cancelled,
        the launcher is of no more use.
        """
        answer = bytearray()
        try:
            ours = self._ask()
        except OSError as error:
            raise Unavailable(f"a process for a program could not be started: {error}") from error
        try:
            async with asyncio.timeout(limit_s):
                await _exchange(ours, work, answer)
                if len(answer) > _MAX_ANSWER_BYTES:
                    await self.close()
                    return b""
                await self._hear()
        except TimeoutError:
            if answer.startswith(READY):
                raise Late from None
            raise Unavailable(f"a process for a program did not start within {limit_s:g} s") from None
        except OSError as error:
            raise Unavailable(f"a process for a program did not start: {error}") from error
        if not answer.startswith(READY):
            raise Unavailable("a process for a program ended before it began")
        return bytes(answer.removeprefix(READY))

    def _ask(self) -> socket.socket:
        """Have it start the next process; returns our end of that one's socket, raises OSError."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._channel, [NEXT], [theirs.fileno()])
        except OSError:
            ours.close()
            raise
        return ours

    async def _hear(self) -> None:
        """Wait until it can take the next program; raises Unavailable when it has ended."""
        with contextlib.suppress(OSError):
            if await asyncio.get_running_loop().sock_recv(self._channel, 1):
                return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ENDING_S):
                await ended(self._process)
        await self.close()
        raise Unavailable(f"a launcher of programs did not start, or was ended: code {self._process.returncode}")

    async def close(self) -> None:
        """End it, and what it runs; safe to call twice."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._channel.close()
        await ended(self._process)


def _spawn() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """A launcher's process and our end of its channel; raises OSError, and has closed what it opened then."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    try:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-B", "-m", _MODULE, str(theirs.fileno()), str(os.getpid())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=clean_environment(os.environ),
                cwd=_ROOT,
                start_new_session=True,
            )
    except BaseException:
        ours.close()
        raise
    return process, ours


async def _exchange(ours: socket.socket, work: bytes, answer: bytearray) -> None:
    """Give the work, and take the answer as it comes, until its end or the first byte that is too many."""
    reader, writer = await asyncio.open_connection(sock=ours)
    try:
        with contextlib.suppress(ConnectionError):  # it may have ended already
            writer.write(work)
            await writer.drain()
            writer.write_eof()
        while len(answer) <= _MAX_ANSWER_BYTES and (part := await reader.read(64 * 1024)):
            answer += part
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
