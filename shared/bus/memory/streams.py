"""Streams and consumers of the in-memory bus: what JetStream stores, without a server."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.bus.port import ID_WINDOW_S, KEPT_PER_SUBJECT, StreamState
from shared.errors import Corrupt


@dataclass(frozen=True)
class Stored:
    """A message in a stream; sequences count from 1."""

    sequence: int
    subject: str
    body: bytes
    trace: Mapping[str, str]


class MemoryStream:
    """Messages by sequence; an id outlives its message, but only for `ID_WINDOW_S` on `clock`."""

    def __init__(self, name: str, max_bytes: int | None, clock: Callable[[], float]) -> None:
        self.name, self.max_bytes, self._clock = name, max_bytes, clock
        self.entries: dict[int, Stored] = {}
        self._ids: dict[str, tuple[int, float]] = {}  # -> sequence, when it was stored
        self.last_sequence = 0
        self.bytes = 0
        self.purged: dict[str, int] = {}  # subject -> the smallest sequence that was not purged
        self._created = datetime.now(UTC).isoformat()
        self._counts: Counter[str] = Counter()

    def is_full(self, size: int) -> bool:
        return self.max_bytes is not None and self.bytes + size > self.max_bytes

    def known(self, message_id: str) -> int | None:
        """The sequence that was stored under this id within the window."""
        sequence, at = self._ids.get(message_id, (None, 0.0))
        return sequence if sequence is not None and self._clock() - at < ID_WINDOW_S else None

    def forget_ids(self) -> None:
        """As a server that is started again: of messages that are gone it knows no id any more."""
        self._ids = {name: found for name, found in self._ids.items() if found[0] in self.entries}

    def append(self, subject: str, body: bytes, message_id: str | None, trace: Mapping[str, str]) -> int:
        """Store it and return its sequence; a known id returns the sequence that it had."""
        known = None if message_id is None else self.known(message_id)
        if known is not None:
            return known
        self.last_sequence += 1
        self.entries[self.last_sequence] = Stored(self.last_sequence, subject, body, trace)
        self.bytes += len(body)
        self._counts[subject] += 1
        if message_id is not None:
            self._ids[message_id] = self.last_sequence, self._clock()
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
            raise Corrupt(f"the log {subject} was purged below sequence {first}, expected it from {start}")

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
        """The newest message of `subject`, which may end in `*`."""
        head = subject.removesuffix("*")
        return next(
            (
                stored
                for stored in reversed(self.entries.values())
                if stored.subject == subject or (head != subject and stored.subject.startswith(head))
            ),
            None,
        )

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

    def __init__(self, stream: MemoryStream, subject: str, max_in_hand: int) -> None:
        self._stream, self._subject, self._max_in_hand = stream, subject, max_in_hand
        self._next = 1
        self._deliveries: Counter[int] = Counter()
        self.excused: Counter[int] = Counter()  # deliveries that were handed back
        self.due: dict[int, float] = {}  # sequence -> clock time of the next delivery

    def take(self, limit: int, now: float, due: float) -> list[tuple[Stored, int]]:
        """At most `limit` messages with their delivery counts: those due again first, then new ones.

        No new one while `max_in_hand` are handed out and not acked, to whomever.
        """
        again = [sequence for sequence, at in sorted(self.due.items(), key=lambda item: item[1]) if at <= now]
        taken = [self._stream.entries[sequence] for sequence in again[:limit]]
        room = min(limit - len(taken), self._max_in_hand - len(self.due))
        if room > 0:
            fresh = self._stream.after(self._next - 1, lambda subject: subject == self._subject, room)
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
            self.excused.pop(sequence, None)
