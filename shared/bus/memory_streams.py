"""Streams and consumers of the in-memory bus: what JetStream stores, without a server."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.bus.port import KEPT_PER_SUBJECT, StreamState
from shared.errors import Corrupt


@dataclass(frozen=True)
class Stored:
    """A message in a stream; sequences count from 1."""

    sequence: int
    subject: str
    body: bytes
    trace: Mapping[str, str]


class MemoryStream:
    """Messages by sequence; `ids` outlive the messages, so a known id is never stored twice."""

    def __init__(self, name: str, max_bytes: int | None) -> None:
        self.name, self.max_bytes = name, max_bytes
        self.entries: dict[int, Stored] = {}
        self.ids: dict[str, int] = {}
        self.last_sequence = 0
        self.bytes = 0
        self.purged: dict[str, int] = {}  # subject -> the smallest sequence that was not purged
        self._created = datetime.now(UTC).isoformat()
        self._counts: Counter[str] = Counter()

    def is_full(self, size: int) -> bool:
        return self.max_bytes is not None and self.bytes + size > self.max_bytes

    def append(self, subject: str, body: bytes, message_id: str | None, trace: Mapping[str, str]) -> int:
        """Store it and return its sequence; a known id returns the sequence that it had."""
        if message_id is not None and message_id in self.ids:
            return self.ids[message_id]
        self.last_sequence += 1
        self.entries[self.last_sequence] = Stored(self.last_sequence, subject, body, trace)
        self.bytes += len(body)
        self._counts[subject] += 1
        if message_id is not None:
            self.ids[message_id] = self.last_sequence
        kept = KEPT_PER_SUBJECT.get(self.name)
        if kept is not None and self._counts[subject] > kept:
            self.remove(next(entry.sequence for entry in self.entries.values() if entry.subject == subject))
        return self.last_sequence

    def remove(self, sequence: int) -> None:
        """Drop one message; absent is fine."""
        stored = self.entries.pop(sequence, None)
        if stored is not None:
            self.bytes -= len(stored.body)
            self._counts[stored.subject] -= 1

    def purge(self, subject: str, below: int | None) -> list[int]:
        """Drop the subject's messages (with `below`: of smaller sequence); returns their sequences."""
        end = self.last_sequence + 1 if below is None else below
        gone = [stored.sequence for stored in self.entries.values() if stored.subject == subject]
        gone = [sequence for sequence in gone if sequence < end]
        for sequence in gone:
            self.remove(sequence)
        self.purged[subject] = max(end, self.purged.get(subject, 0))
        return gone

    def check_start(self, subject: str, start: int) -> None:
        """Raise Corrupt when records of `subject` from sequence `start` on were purged."""
        first = self.purged.get(subject, 0)
        if start < first:
            raise Corrupt(f"the journal of {subject} was purged below sequence {first}, expected it from {start}")

    def after(self, sequence: int, wanted: Callable[[str], bool], limit: int) -> list[Stored]:
        """The first `limit` messages past `sequence` whose subject is wanted, in order."""
        found: list[Stored] = []
        for number in range(sequence + 1, self.last_sequence + 1):
            stored = self.entries.get(number)
            if stored is not None and wanted(stored.subject):
                found.append(stored)
                if len(found) == limit:
                    break
        return found

    def last(self, subject: str) -> Stored | None:
        """The newest message of `subject`."""
        return next((stored for stored in reversed(self.entries.values()) if stored.subject == subject), None)

    def count(self, subject: str) -> int:
        """How many messages `subject` has."""
        return self._counts[subject]

    def state(self) -> StreamState:
        """The stream's numbers, as a server tells them."""
        return StreamState(
            first_sequence=next(iter(self.entries), self.last_sequence + 1),
            last_sequence=self.last_sequence,
            messages=len(self.entries),
            bytes=self.bytes,
            max_bytes=-1 if self.max_bytes is None else self.max_bytes,
            created=self._created,
        )


class MemoryConsumer:
    """A work queue's place: what was handed out, how often, and when it is due again if nobody acks it."""

    def __init__(self, stream: MemoryStream, subject: str) -> None:
        self._stream, self._subject = stream, subject
        self._next = 1
        self._deliveries: Counter[int] = Counter()
        self.due: dict[int, float] = {}  # sequence -> clock time of the next delivery

    def take(self, limit: int, now: float, due: float) -> list[tuple[Stored, int]]:
        """At most `limit` messages with their delivery counts: those due again first, then new ones."""
        again = [sequence for sequence, at in sorted(self.due.items(), key=lambda item: item[1]) if at <= now]
        taken = [self._stream.entries[sequence] for sequence in again[:limit]]
        if len(taken) < limit:
            fresh = self._stream.after(self._next - 1, lambda subject: subject == self._subject, limit - len(taken))
            if fresh:
                self._next = fresh[-1].sequence + 1
            taken += fresh
        for stored in taken:
            self.due[stored.sequence] = due
            self._deliveries[stored.sequence] += 1
        return [(stored, self._deliveries[stored.sequence]) for stored in taken]

    def due_at(self, sequence: int, at: float) -> None:
        """Deliver `sequence` again at clock time `at`, unless it was acked."""
        if sequence in self.due:
            self.due[sequence] = at

    def ack(self, sequence: int) -> None:
        """Done with it; an ack of a message that is gone is fine, also a late one."""
        self._stream.remove(sequence)
        self.drop([sequence])

    def drop(self, sequences: list[int]) -> None:
        """Forget messages that are no longer in the stream."""
        for sequence in sequences:
            self.due.pop(sequence, None)
            self._deliveries.pop(sequence, None)
