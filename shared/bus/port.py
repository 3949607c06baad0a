"""What services may ask of the bus; `shared.bus.nats.bus` and `shared.bus.memory.bus` are the two that answer.

Four shapes of traffic, no more:

- work      prompts and completions: each message goes to one replica, and stays until it is acked
- journal   scored: an append-only log, read in order from a sequence, purged behind a checkpoint
- events    the last state of each subject and what follows it
- records   a key-value bucket with compare-and-set (jobs, leases)

A server that is away, and a stream that is full, are waited for as long as it takes; who can't wait so long says it by
`shared.runtime.retry.within`, past whose limit every call raises `Unavailable`. A message is acked only after its
result is durably published.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared.messages import AnyMessage, DeadLetter, Event, Heartbeat, Kind, Message

ACK_WAIT_S = 5.0
"""A message that is neither acked nor kept alive for so long is delivered again."""
HEARTBEAT_S = 1.0
"""How often work in hand is kept alive, and how often a service says that it is alive."""
DELIVERY_BUDGET = 5
"""A message whose work was begun more often than this is given up: its group is void, its letter dead."""
ID_WINDOW_S = 300.0
"""A message id is known to the server for so long; a server that was started again knows those of stored messages."""
MAX_IN_HAND = 4096
"""What all replicas together may hold of one job's prompts or completions of one kind."""
MAX_BODY_BYTES = 512 * 1024
"""A larger body goes to the blob store; the message carries its digest."""
WORK_STREAMS = ("prompts", "completions")
STREAMS = (*WORK_STREAMS, "scored", "events", "dead")
LOG_STREAMS = ("scored", "events")
"""A job's log: read in order, purged behind what still needs it (`shared.log`); no message of it is ever dropped."""
KEPT_PER_SUBJECT = {"dead": 10_000}
"""It drops the oldest message of a subject; the others refuse when full, so that they push back."""


class Delivery(Protocol):
    """One message in hand."""

    @property
    def message(self) -> AnyMessage: ...
    @property
    def subject(self) -> str: ...
    @property
    def sequence(self) -> int:
        """Its sequence in the stream, from 1."""
        ...

    @property
    def deliveries(self) -> int:
        """How often it was delivered, this time included."""
        ...

    @property
    def attempts(self) -> int:
        """How often work on it was begun, this time included: deliveries that ended in a `hand_back` don't count."""
        ...

    @property
    def trace(self) -> Mapping[str, str]:
        """W3C trace headers that it came with, for `opentelemetry.propagate.extract`."""
        ...

    async def ack(self) -> None:
        """Done: its result is durably published."""
        ...

    async def keep(self) -> None:
        """Still at work: starts `ACK_WAIT_S` anew."""
        ...

    async def hand_back(self, delay_s: float = 0.0, *, counts: bool = False) -> None:
        """Give it to another replica, after `delay_s`. With `counts` the work on it failed as by a death."""
        ...


class WorkQueue(Protocol):
    """A durable consumer of one job's prompts or completions of one kind, shared by all replicas."""

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[Delivery]:
        """At most `max_messages`, as soon as there is one; none after `wait_s`.

        A server that is away is waited for (within `wait_s`), not an error.
        """
        ...


@dataclass(frozen=True)
class JournalEntry:
    """One record of the journal with its sequence in the stream (from 1, increasing, gaps only between jobs)."""

    sequence: int
    message: AnyMessage
    trace: Mapping[str, str] = field(default_factory=dict)
    """W3C trace headers that it came with."""
    body: bytes = b""
    """What `message` was decoded from, for who keeps records as they came; empty where that was not readable."""


class JournalReader(Protocol):
    """Reads a part of a job's log in order, from a sequence, without ever skipping a message."""

    @property
    def position(self) -> int:
        """Everything up to this sequence of the stream was fetched."""
        ...

    async def fetch(self, max_messages: int, wait_s: float) -> Sequence[JournalEntry]:
        """At most `max_messages`, as soon as there is one; none after `wait_s`. Raises Corrupt at a gap.

        None is no end: the server may be away. The end is a sequence (`last_sequence`, `shared.log.reading`).
        """
        ...

    async def ack(self, sequence: int) -> None:
        """Everything up to `sequence` is safely stored: the floor below which a purge may go."""
        ...

    async def close(self) -> None: ...


@dataclass(frozen=True)
class StreamState:
    """A stream's numbers: sequences, bytes, and its creation time (a recreated stream is another one)."""

    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int
    max_bytes: int
    created: str


@dataclass(frozen=True)
class Record:
    """A value of the key-value bucket with the revision that a compare-and-set names."""

    value: bytes
    revision: int


class Bus(Protocol):
    """The message bus; `stream` is one of prompts, completions, scored, events, dead, and `job` a job id."""

    # ---- publish
    async def publish(self, stream: str, job: str, kind: Kind, message: Message, message_id: str) -> int:
        """Store `message` under `<stream>.<job>.<kind>`; returns its sequence. A known id stores nothing new.

        A refused or timed-out publish is tried again with the same id and back-off. The caller keeps its own work in
        hand alive meanwhile.
        """
        ...

    async def announce(self, event: Event, *, expected_last: int | None = None) -> int:
        """Store an event under `events.<job>.<name>`; returns its sequence.

        With `expected_last` (the sequence of that subject's newest message; 0: none) it raises `Refused` when somebody
        else has written since: the fence against a woken zombie.
        """
        ...

    # ---- work
    async def work(self, stream: str, job: str, kind: Kind) -> WorkQueue:
        """The durable consumer of `<stream>.<job>.<kind>`, created when it is missing."""
        ...

    # ---- log
    async def read_journal(
        self, job: str, kind: Kind, *, start: int | None = None, durable: str | None = None
    ) -> JournalReader:
        """Records of `scored.<job>.<kind>` from sequence `start`; None: from where the acks of `durable` ended.

        Raises Corrupt when records from there on were purged, or the stream ends before.
        """
        ...

    async def read_events(self, job: str, *names: str, start: int = 1, durable: str | None = None) -> JournalReader:
        """Events of the job with those names (none: all), in order from sequence `start`; raises as `read_journal`."""
        ...

    async def last_sequence(self, stream: str, job: str, name: str) -> int:
        """The sequence of the newest message of `<stream>.<job>.<name>`; 0 when there is none. `*`: of any name."""
        ...

    async def purge(self, stream: str, job: str, name: str, *, below: int | None = None) -> None:
        """Remove the messages of `<stream>.<job>.<name>` (with `below`: those with a smaller sequence)."""
        ...

    async def floor(self, stream: str, job: str, name: str, durable: str) -> int:
        """The highest sequence that the durable reader has acked; 0 when it has none. For events the name is `*`."""
        ...

    # ---- events
    async def last_event(self, job: str, name: str) -> tuple[Event, int] | None:
        """The newest `events.<job>.<name>` and its sequence; None when there is none."""
        ...

    def events(self, job: str, *names: str, after: int = 0) -> AsyncIterator[tuple[Event, int]]:
        """Events of the job with those names (none: all) with a sequence above `after`, then new ones as they come."""
        ...

    # ---- records
    async def get(self, key: str) -> Record | None: ...
    async def put(self, key: str, value: bytes, *, revision: int | None = None) -> int:
        """Write `key`; returns the new revision.

        With `revision` (0: must not exist) it raises `Refused` when the key's newest revision is another.
        """
        ...

    async def keys(self, prefix: str = "") -> list[str]: ...
    def records(self, prefix: str) -> AsyncIterator[tuple[str, Record]]:
        """Every key that starts with `prefix` (it ends with a dot) and its record, then each newer one when written.

        Of records written in between only the newest comes. A server that is away is waited for; raises Corrupt when
        the bucket was lost.
        """
        ...

    # ---- life
    async def beat(self, heartbeat: Heartbeat) -> None:
        """Tell the monitor (core NATS: not stored, not waited for)."""
        ...

    def heartbeats(self) -> AsyncIterator[Heartbeat]: ...
    async def stream_state(self, stream: str) -> StreamState: ...
    async def waiting(self, stream: str, job: str, kind: Kind) -> tuple[int, int]:
        """Messages of that job not yet delivered, and delivered but not acked."""
        ...

    async def stored(self, stream: str, job: str, kind: Kind) -> int:
        """How many of the job's messages the stream holds."""
        ...

    async def dead_letters(self, job: str, limit: int) -> Sequence[DeadLetter]:
        """What was given up of the job: the newest `limit` letters, oldest first."""
        ...

    async def forget_job(self, job: str) -> None:
        """Delete the job's consumers and purge its prompts and completions."""
        ...

    async def erase_job(self, job: str) -> None:
        """Remove all that is stored of the job, in every stream and of its records all but `job.<id>`."""
        ...

    async def close(self) -> None: ...
