"""A worker process seen from its parent: start it, give it batches, see where it is, end it."""

import asyncio
import contextlib
import mmap
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from services.reward.workers.sandbox import clean_environment
from services.reward.workers.worker import HEADER, PROGRESS, Reply
from shared.errors import Unavailable
from shared.runtime.logging import get_logger

START_S = 60.0
"""How long a worker may take to start."""
_MAX_REPLY_BYTES = 256 * 1024 * 1024
_MAX_LINE_BYTES, _MAX_LOGGED_BYTES = 4096, 64 * 1024
"""What is logged of a worker's output at once, and in its life."""
_LOOK_S = 0.002
_MODULE = "services.reward.workers.worker"
_ROOT = Path(__file__).parents[3]  # so that a checkout that is not installed works from anywhere


class WorkerDied(Exception):
    """The worker process ended; `place` is the sample it was at (-1: none yet), `reason` how it ended."""

    def __init__(self, place: int, reason: str) -> None:
        self.place = place
        self.reason = reason
        super().__init__(reason)


class Worker:
    """A running worker process and the two ways to it: a socket for batches, a shared page for its progress."""

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        board: mmap.mmap,
    ) -> None:
        self._process, self._reader, self._writer, self._board = process, reader, writer, board
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self._ear = asyncio.ensure_future(_log_output(process))

    @classmethod
    async def start(cls, memory_bytes: int, plugin_roots: Sequence[Path] = ()) -> "Worker":
        """A new process, ready to work, that loads plugins from `plugin_roots` alone.

        Raises Unavailable when it cannot be started (no process, file or memory is left), or not within `START_S`;
        nothing is left of it then.
        """
        try:
            process, ours, board = _spawn(memory_bytes, plugin_roots)
        except OSError as error:
            raise Unavailable(f"a reward worker could not be started: {error}") from error
        try:
            reader, writer = await asyncio.open_connection(sock=ours)
        except BaseException:
            with process, ours, board:
                process.kill()
            raise
        worker = cls(process, reader, writer, board)
        try:
            async with asyncio.timeout(START_S):
                await worker.receive()
        except BaseException as error:
            await worker.close()
            board.close()  # the error's traceback would hold it
            if not isinstance(error, (TimeoutError, WorkerDied)):
                raise
            raise Unavailable(f"a reward worker did not start: {error or f'no answer within {START_S:g} s'}") from error
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def progress(self) -> tuple[int, float]:
        """The place of the sample it is at (-1: none) and since when (monotonic seconds)."""
        place, since = PROGRESS.unpack_from(self._board)
        return place, since

    async def send(self, samples: Sequence[msgspec.Raw]) -> None:
        """Give it a batch of encoded samples; raises WorkerDied."""
        frame = msgspec.msgpack.encode(samples)
        try:
            self._writer.write(HEADER.pack(len(frame)) + frame)
            await self._writer.drain()
        except OSError:
            raise await self.died() from None

    async def receive(self) -> Reply:
        """Its answer to the last batch; raises WorkerDied."""
        try:
            (size,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
            if size > _MAX_REPLY_BYTES:
                raise await self.died(f"answered {size} bytes, expected at most {_MAX_REPLY_BYTES}")
            return self._decoder.decode(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            raise await self.died() from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:  # its verifier can write there, too
            raise await self.died(f"answered what is no reply: {error}") from None

    async def died(self, reason: str = "") -> WorkerDied:
        """The error that says how it ended, or the `reason` why it is made to end."""
        place, _ = self.progress
        await self.close()
        code = self._process.returncode
        return WorkerDied(place, reason or (f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"))

    async def close(self) -> None:
        """Kill the process and wait for it; safe to call twice."""
        self._process.kill()
        self._writer.close()
        await ended(self._process)
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        await asyncio.wait({self._ear})  # the pipe has ended with the process


async def ended(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process that was killed: milliseconds, and by no thread, which may not start where no process does."""
    while process.poll() is None:  # noqa: ASYNC110 — the kernel rings no bell without a descriptor
        await asyncio.sleep(_LOOK_S)


def _spawn(memory_bytes: int, plugin_roots: Sequence[Path]) -> tuple[subprocess.Popen[bytes], socket.socket, mmap.mmap]:
    """A worker's process, our end of its socket, and its page; raises OSError, and has closed what it opened then."""
    with contextlib.ExitStack() as opened:
        ours, theirs = socket.socketpair()
        opened.enter_context(ours)
        with theirs, tempfile.TemporaryFile() as page:
            page.truncate(PROGRESS.size)
            board = opened.enter_context(mmap.mmap(page.fileno(), PROGRESS.size))
            descriptors = (theirs.fileno(), page.fileno())
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE, *map(str, (*descriptors, memory_bytes, os.getpid(), *plugin_roots))],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                env=clean_environment(os.environ),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=_ROOT,
            )
        opened.pop_all()
    return process, ours, board


async def _log_output(process: subprocess.Popen[bytes]) -> None:
    """Log what it prints, up to a limit: it may write no file, and its parent's log may be one."""
    printed, left = asyncio.StreamReader(_MAX_LINE_BYTES), _MAX_LOGGED_BYTES
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(printed), process.stdout)
    while data := await printed.read(_MAX_LINE_BYTES):
        if left > 0:
            text = data[:left].decode(errors="replace").strip()
            get_logger().warning("a verifier printed", worker=process.pid, text=text)
        left -= len(data)
