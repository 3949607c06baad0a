"""A worker process: judges batches of samples that its parent sends over a socket, one sample at a time.

It dies with its parent, ignores the terminal's Ctrl-C (its parent decides), does nothing but compute (`sandbox`), and
ends a sample that takes too long by an alarm of its own. Where no alarm reaches it (in a C call), its parent kills it.
Verifiers run in this process's main thread.
"""

import mmap
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

import msgspec

from services.reward.judging import plugins
from services.reward.judging.judge import failed, judge
from services.reward.judging.registry import discover
from services.reward.verdict import Sample
from services.reward.workers import sandbox
from services.reward.workers.memory import Learned
from shared.errors import UserError
from shared.messages import Reward, RewardSpec
from shared.runtime.collector import ignore_what_is_there

HEADER = struct.Struct("<Q")
"""Length of the frame that follows, in bytes."""
PROGRESS = struct.Struct("<qd")
"""What the worker is at: the place in the batch (-1: none yet), and since when (monotonic seconds)."""
BUDGET_S = 0.05
"""A worker that has worked so long on a batch returns what it has; the rest is given out again."""
SOFT = 0.9
"""The share of a sample's deadline after which the worker ends it by itself."""


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """The rewards of the first samples of a batch; with `retire` the worker has become too large and has ended."""

    rewards: list[Reward]
    retire: bool = False


class _TimeUp(BaseException):
    """The alarm; no Exception, so that no verifier takes it for one of its own."""


def main(argv: Sequence[str]) -> int:
    """`python -m services.reward.workers.worker SOCKET_FD PROGRESS_FD MEMORY_BYTES PARENT_PID [PLUGIN_ROOT …]`."""
    descriptor, progress, memory, parent = (int(text) for text in argv[:4])
    sandbox.isolate()
    plugins.allow([Path(root) for root in argv[4:]])
    sandbox.die_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _raise_time_up)
    try:
        discover()
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    for sample in _WARM_UP:
        judge(sample)
    ignore_what_is_there()
    sandbox.limit(memory)
    with socket.socket(fileno=descriptor) as channel, mmap.mmap(progress, PROGRESS.size) as board:
        _serve(channel, board, memory)
    return 0


# The library's parser learns its grammar as it goes; the first formula of a kind costs tens of milliseconds.
_WARM_UP = tuple(
    Sample(
        completion=f"\\boxed{{{answer}}}",
        spec=RewardSpec(verifier="mathverify", answer="", ground_truth=f"\\boxed{{{truth}}}"),
    )
    for answer, truth in (
        ("2x+1", "\\frac{x}{2}-3"),
        ("2\\sqrt{3}", "3^2\\pi"),
        ("(1, 2)", "[1, 2)"),
        ("\\text{a tree}", "new truck 24"),
        ("x=3", "x<\\frac{1}{2}"),
    )
)


def _serve(channel: socket.socket, board: mmap.mmap, memory: int) -> None:
    decoder, encoder = msgspec.msgpack.Decoder(list[Sample]), msgspec.msgpack.Encoder()
    learned = Learned()
    frames = channel.makefile("rb")
    PROGRESS.pack_into(board, 0, -1, 0.0)
    _send(channel, encoder.encode(Reply([])))
    while (frame := _receive(frames)) is not None:
        rewards = _judged(decoder.decode(frame), board)
        del frame
        retire = learned.kept_small() > memory // 2
        PROGRESS.pack_into(board, 0, -1, 0.0)
        _send(channel, encoder.encode(Reply(rewards, retire)))
        if retire:
            return


def _judged(samples: Sequence[Sample], board: mmap.mmap) -> list[Reward]:
    sandbox.allow_cpu(sum(sample.deadline_s for sample in samples))
    return list(_work(samples, board))


def _work(samples: Sequence[Sample], board: mmap.mmap) -> Iterator[Reward]:
    until = time.monotonic() + BUDGET_S
    for place, sample in enumerate(samples):
        now = time.monotonic()
        if place and now > until:
            return
        PROGRESS.pack_into(board, 0, place, now)
        yield _judge_in_time(sample)


def _judge_in_time(sample: Sample) -> Reward:
    try:
        with _alarm(sample.deadline_s * SOFT):
            return judge(sample)
    except _TimeUp:
        return failed(
            f"verifier {sample.spec.verifier!r} did not finish within its deadline of {sample.deadline_s:g} s"
        )


@contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    # Again every 50 ms: a bare `except:` in a library may swallow the first one.
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), 0.05)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _raise_time_up(number: int, frame: object) -> None:
    raise _TimeUp


def _receive(frames: BufferedReader) -> bytes | None:
    """The next frame; None when the parent has closed."""
    header = frames.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    (size,) = HEADER.unpack(header)
    frame = frames.read(size)
    return frame if len(frame) == size else None


def _send(channel: socket.socket, frame: bytes) -> None:
    channel.sendall(HEADER.pack(len(frame)) + frame)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
