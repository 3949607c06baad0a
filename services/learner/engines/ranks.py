"""Many processes that train one model, started by torchrun: what goes between them, and how they end together.

Every rank makes the same calls in the same order. An error that all ranks can know of is agreed on and ends the call on
all of them. Any other one breaks the team: its sentence is left where every rank finds it, rank 0 says it, and all
processes end. Whoever has started torchrun starts it again.
"""

import contextlib
import time
from collections.abc import Mapping
from datetime import timedelta

import msgspec
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from services.learner.engine import DoesNotFit
from services.learner.engines.team import numbers
from services.learner.policy.optimizer import Diverged
from shared.errors import BadJob, Corrupt, TriuneError, Unavailable
from shared.runtime.settings import Rank

COLLECTIVE_S = 1800.0
"""How long a rank may keep the others waiting within a call."""
IDLE = timedelta(days=365)
"""How long a rank waits for the next command: a learner without a job has none."""
HEARD_S = 60.0
"""How long a rank of a broken team stays for rank 0 to say why in the job's record: torchrun ends all with it."""
FAILURE_S = 2.0
"""After a lost connection, how long the sentence of the rank that closed it is waited for."""
_LOOK_S = 0.05
_FAILURE, _HEARD = "failure", "heard"
_KINDS = {kind.__name__: kind for kind in (BadJob, Corrupt, DoesNotFit, Diverged, Unavailable, TriuneError)}


class Failure(msgspec.Struct):
    """An error on its way to other ranks."""

    rank: int
    kind: str
    sentence: str

    @classmethod
    def of(cls, error: TriuneError, rank: int) -> "Failure":
        """`error` as it happened on `rank`."""
        kind = next(name for name, known in _KINDS.items() if isinstance(error, known))
        return cls(rank, kind, str(error))

    def error(self) -> TriuneError:
        """The error as another rank raises it."""
        return BadJob(self.sentence.split("\n")) if self.kind == "BadJob" else _KINDS[self.kind](self.sentence)


class RankLost(Unavailable):
    """A process of the team is gone; no error of the job: the learner ends and is started again."""


class Ranks:
    """See `services.learner.engines.team.Team`, which this implements over gloo (and NCCL for tensors on GPUs)."""

    def __init__(self, place: Rank) -> None:
        """Join the others; blocks until all are there."""
        self.rank, self.world = place.number, place.world
        self.device = torch.device("cpu")
        if torch.cuda.is_available():
            self.device = torch.device("cuda", place.local)
            torch.cuda.set_device(self.device)
        store, _, _ = next(rendezvous("env://", self.rank, self.world))
        self._store = PrefixStore("triune", store)
        dist.init_process_group(
            "nccl" if self.device.type == "cuda" else "gloo",
            store=PrefixStore("ranks", store),
            rank=self.rank,
            world_size=self.world,
            timeout=timedelta(seconds=COLLECTIVE_S),
        )
        self._control = dist.new_group(backend="gloo", timeout=IDLE)
        self.agreed: TriuneError | None = None
        self.broken = False

    # ---------------------------------------------------------------- what goes between ranks

    def send(self, data: bytes) -> None:
        """From rank 0 to all others."""
        dist.broadcast(torch.tensor([len(data)]), 0, group=self._control)
        dist.broadcast(torch.frombuffer(bytearray(data), dtype=torch.uint8), 0, group=self._control)

    def receive(self) -> bytes:
        """What rank 0 sends; may take as long as there is nothing to do."""
        size = torch.zeros(1, dtype=torch.int64)
        dist.broadcast(size, 0, group=self._control)
        data = torch.empty(int(size), dtype=torch.uint8)
        dist.broadcast(data, 0, group=self._control)
        return data.numpy().tobytes()

    def reduce(
        self, sums: Mapping[str, Tensor], maxima: Mapping[str, Tensor]
    ) -> tuple[dict[str, float], dict[str, float]]:
        """See `Team.reduce`."""
        found = []
        for scalars, operation in ((sums, dist.ReduceOp.SUM), (maxima, dist.ReduceOp.MAX)):
            row = torch.tensor(list(numbers(scalars).values()), dtype=torch.float64)
            dist.all_reduce(row, operation, group=self._control)
            found.append(dict(zip(scalars, row.tolist(), strict=True)))
        return found[0], found[1]

    def agree(self, error: TriuneError | None) -> None:
        """See `Team.agree`."""
        data = msgspec.msgpack.encode(None if error is None else Failure.of(error, self.rank))
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self._control)
        longest = int(max(sizes))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        rows = [torch.empty(longest, dtype=torch.uint8) for _ in range(self.world)]
        dist.all_gather(rows, padded, group=self._control)
        for size, row in zip(sizes, rows, strict=True):
            failure = msgspec.msgpack.decode(row[: int(size)].numpy().tobytes(), type=Failure | None)
            if failure is not None:
                self.agreed = failure.error()
                raise self.agreed

    # ---------------------------------------------------------------- the end of a team

    def fail(self, error: TriuneError) -> None:
        """Leave the sentence of this rank's own error for the others."""
        with contextlib.suppress(RuntimeError):  # the store is gone with its process: then all are ending
            self._store.set(_FAILURE, msgspec.json.encode(Failure.of(error, self.rank)).decode())
        self.broken = True

    def failure(self) -> TriuneError | None:
        """The sentence that a rank has left; may be asked beside a call that hangs."""
        with contextlib.suppress(RuntimeError):
            if self._store.check([_FAILURE]):
                return msgspec.json.decode(self._store.get(_FAILURE), type=Failure).error()
        return None

    def lost(self, cause: RuntimeError) -> TriuneError:
        """What a connection that broke within a call means: a rank has failed, or is gone without a word."""
        until = time.monotonic() + FAILURE_S
        while (found := self.failure()) is None and time.monotonic() < until:
            time.sleep(_LOOK_S)
        self.broken = True
        return found or RankLost(f"one of {self.world} ranks is gone: {str(cause).splitlines()[0]}")

    def release(self) -> None:
        """On rank 0: what was to be said of a broken team is on record, the other ranks may end."""
        with contextlib.suppress(RuntimeError):
            self._store.set(_HEARD, "")

    def wait_released(self) -> None:
        """On another rank: return when rank 0 has called `release`, or after `HEARD_S`."""
        until = time.monotonic() + HEARD_S
        with contextlib.suppress(RuntimeError):
            while not self._store.check([_HEARD]) and time.monotonic() < until:
                time.sleep(_LOOK_S)

    def leave(self) -> None:
        """Close the connections at a good end."""
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def is_connection_lost(error: RuntimeError) -> bool:
    """Whether `error` is of a peer, not of what was computed: gloo raises plain RuntimeErrors that name it."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)
