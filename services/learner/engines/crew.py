"""One engine on many ranks: `Crew` is rank 0's handle and an engine itself, `follow` is the life of the others."""

import contextlib
import typing
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from torch import Tensor

from services.learner.attention.batch import Ready
from services.learner.engine import Facts, Layout, OverlappingEngine, Scope, StepResult, StepWork, TensorSink
from services.learner.engines.ranks import Ranks, is_connection_lost
from shared.errors import TriuneError
from shared.jobs.spec import JobSpec
from shared.runtime.logging import get_logger

Result = TypeVar("Result")


class Open(msgspec.Struct, tag="open"):
    spec: JobSpec
    checkpoint: str | None


class Step(msgspec.Struct, tag="step"):
    work: StepWork


class Begin(msgspec.Struct, tag="begin"):
    groups: list[Ready]
    importance: bool


class Export(msgspec.Struct, tag="export"):
    scope: Scope


class Save(msgspec.Struct, tag="save"):
    folder: str


class Close(msgspec.Struct, tag="close"):
    """The job is over; the next command is Open."""


class Leave(msgspec.Struct, tag="leave"):
    """The learner ends."""


Command = Open | Begin | Step | Export | Save | Close | Leave


class Crew:
    """See `services.learner.engine.Engine`: every call is made on all ranks, with `engine` on this one.

    An error of any rank is raised here with its sentence. When not all ranks could know of it the team is broken, and
    the learner's process has to end.
    """

    def __init__(self, ranks: Ranks, engine: OverlappingEngine) -> None:
        self._ranks, self._engine = ranks, engine
        self._is_open = False

    def open(self, spec: JobSpec, checkpoint: Path | None) -> Facts:
        """See `Engine.open`."""
        command = Open(spec, None if checkpoint is None else str(checkpoint))
        self._is_open = True
        return self._on_all(command, lambda: self._engine.open(spec, checkpoint)) | {"ranks": self._ranks.world}

    def begin(self, groups: Sequence[Ready], *, importance: bool) -> None:
        """See `Overlapping.begin`."""
        work = partial(self._engine.begin, groups, importance=importance)
        self._on_all(Begin(list(groups), importance), work)

    def step(self, work: StepWork) -> StepResult:
        """See `Engine.step`."""
        return self._on_all(Step(work), lambda: self._engine.step(work))

    def export(self, sink: TensorSink, *, scope: Scope) -> None:
        """See `Engine.export`."""
        self._on_all(Export(scope), lambda: self._engine.export(sink, scope=scope))

    def save(self, folder: Path) -> None:
        """See `Engine.save`; `folder` is on a file system that all ranks see."""
        self._on_all(Save(str(folder)), lambda: self._engine.save(folder))

    def close(self) -> None:
        """See `Engine.close`."""
        if self._is_open and not self._ranks.broken:
            self._on_all(Close(), self._engine.close)
        self._is_open = False

    def _on_all(self, command: Command, work: Callable[[], Result]) -> Result:
        try:
            self._ranks.send(encode(command))
            return together(self._ranks, work)
        except RuntimeError as error:
            if not is_connection_lost(error):
                raise
            raise self._ranks.lost(error) from error


class _Nowhere:
    """The sink of a rank that only takes part in the gather."""

    def begin(self, layout: Layout) -> None: ...

    def put(self, name: str, tensor: Tensor) -> None: ...


def follow(ranks: Ranks, make_engine: Callable[[], OverlappingEngine]) -> int:
    """Do what rank 0 commands until it ends; returns the process's exit code."""
    engine = make_engine()
    log = get_logger(rank=ranks.rank)
    while True:
        try:
            command = decode(ranks.receive())
            if isinstance(command, Leave):
                ranks.leave()
                return 0
            if isinstance(command, Open):
                engine = make_engine()
            together(ranks, lambda command=command, engine=engine: _obey(engine, command))  # type: ignore[misc]
        except RuntimeError as error:
            if not is_connection_lost(error):
                raise
            log.error("the team is broken", error=str(ranks.lost(error)))
            ranks.wait_released()
            return 1
        except TriuneError as error:
            if ranks.broken:
                log.error("this rank failed", error=str(error))
                ranks.wait_released()
                return 1


def dismiss(ranks: Ranks) -> None:
    """Let the other ranks end."""
    if not ranks.broken:
        with contextlib.suppress(RuntimeError):  # torchrun has ended them already
            ranks.send(encode(Leave()))
        ranks.leave()


def together(ranks: Ranks, work: Callable[[], Result]) -> Result:
    """`work` here, then a word from all that theirs is done; an error that was not agreed on breaks the team."""
    try:
        result = work()
        ranks.agree(None)
    except TriuneError as error:
        if error is not ranks.agreed:
            ranks.fail(error)
        raise
    return result


def _obey(engine: OverlappingEngine, command: Command) -> None:
    match command:
        case Open(spec=spec, checkpoint=checkpoint):
            engine.open(spec, None if checkpoint is None else Path(checkpoint))
        case Begin(groups=groups, importance=importance):
            engine.begin(groups, importance=importance)
        case Step(work=work):
            engine.step(work)
        case Export(scope=scope):
            engine.export(_Nowhere(), scope=scope)
        case Save(folder=folder):
            engine.save(Path(folder))
        case Close():
            engine.close()


# ---------------------------------------------------------------- commands as bytes


def encode(command: Command) -> bytes:
    """msgpack; an array is its type, its shape and its bytes."""
    return msgspec.msgpack.encode(command, enc_hook=_from_array)


def decode(data: bytes) -> Command:
    """What `encode` was given."""
    return msgspec.msgpack.decode(data, type=Command, dec_hook=_to_array)


def _from_array(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()
    raise NotImplementedError(f"{type(value).__name__} in a command")


def _to_array(kind: Any, value: Any) -> Any:
    if typing.get_origin(kind) is not np.ndarray:
        return value  # a field of any type
    dtype, shape, data = value
    return np.frombuffer(bytearray(data), dtype=dtype).reshape(shape)
