"""The monitor's state is a fold over journal and events; one batch of them is one transaction.

A step waits until every group it consumed has its record here (of a void one: the record that says so), and the events
behind it wait with it: so its points are of exactly its groups, whatever the streams' relative speed was, and a monitor
that was killed makes the same ones.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from services.monitor.history.facts import group_facts
from services.monitor.history.samples import FOLDER, REST_FILE, evaluation_file, sample_row, step_file, write_part
from services.monitor.history.series import ALL, Placed, Where, error_rates, values_by_set
from services.monitor.history.store import Key, Store, key_of
from shared.bus.port import JournalEntry
from shared.errors import Corrupt
from shared.messages import (
    EndOfOrder,
    EngineOpened,
    EvalDone,
    Event,
    Kind,
    Scored,
    StepDone,
    Voided,
    WeightsPublished,
    decode,
)

EVENTS = "events"
FINAL = "final"
"""The fact in the store that names the end state once everything is on file."""


@dataclass
class Batch:
    """What was read since the last commit, each in the order of its stream."""

    train: Sequence[JournalEntry] = ()
    eval: Sequence[JournalEntry] = ()
    events: Sequence[tuple[Event, int]] = ()

    def __bool__(self) -> bool:
        return bool(self.train or self.eval or self.events)


@dataclass
class Progress:
    """What a batch brought: for the acks, the gauges and the live stream of the page."""

    train_sequence: int = 0
    eval_sequence: int = 0
    event_sequence: int = 0
    steps: list[tuple[StepDone, dict[Where, dict[str, float]]]] = field(default_factory=list)
    evaluations: list[EvalDone] = field(default_factory=list)
    tasks: dict[str, str] = field(default_factory=dict)
    verifier_errors: dict[str, float] = field(default_factory=dict)
    voids: list[Voided] = field(default_factory=list)
    groups: int = 0


class Fold:
    """Applies batches to a store. Calls block (disk): one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[tuple[Event, int]] = deque()
        self._is_patient = True

    @property
    def waiting(self) -> int:
        """Events that wait for the journal."""
        return len(self._waiting)

    def apply(self, batch: Batch) -> Progress:
        """Commit a batch; what it returns may be acked."""
        progress = Progress()
        known = max(self._store.sequence(EVENTS), self._waiting[-1][1] if self._waiting else 0)
        self._waiting.extend((event, sequence) for event, sequence in batch.events if sequence > known)
        waiting = deque(self._waiting)
        with self._store.transaction():
            progress.train_sequence = self._read_journal("train", batch.train, progress)
            progress.eval_sequence = self._read_journal("eval", batch.eval, progress)
            while waiting and self._on_event(*waiting[0], progress):
                progress.event_sequence = waiting.popleft()[1]
                self._store.set_sequence(EVENTS, progress.event_sequence)
        self._waiting = waiting
        return progress

    def release(self) -> Progress:
        """Apply the events that wait although records are missing: the job has ended and no more will come."""
        progress = Progress()
        self._is_patient = False
        with self._store.transaction():
            for event, sequence in self._waiting:
                self._on_event(event, sequence, progress)
                self._store.set_sequence(EVENTS, sequence)
        self._waiting.clear()
        self._is_patient = True
        return progress

    # ---- journal
    def _read_journal(self, kind: Kind, entries: Sequence[JournalEntry], progress: Progress) -> int:
        stored = self._store.sequence(kind)
        for entry in entries:
            if entry.sequence <= stored:
                continue
            match entry.message:
                case Scored() as scored:
                    self._on_scored(scored, entry.sequence)
                case Voided() as void:
                    self._on_voided(void, entry.sequence, progress)
            stored = entry.sequence
            progress.groups += 1
        if entries:
            self._store.set_sequence(kind, stored)
        return stored

    def _on_scored(self, scored: Scored, sequence: int) -> None:
        prompt = scored.prompt
        key = key_of(prompt.kind, prompt.version, prompt.ordinal)
        found = self._store.group(key)
        if found is not None and found["sequence"] is not None:
            if found["stage"] != "learner":  # else late: the learner had given up an ordinal that was on its way
                self._store.add_duplicate(prompt.kind, prompt.source)
            return
        self._store.add_scored(key, sequence, scored, group_facts(scored))

    def _on_voided(self, void: Voided, sequence: int, progress: Progress) -> None:
        key = key_of(void.kind, void.version, void.ordinal)
        found = self._store.group(key)
        if found is None or found["sequence"] is None:
            self._store.add_void(key, sequence, void)
            progress.voids.append(void)
        elif void.stage == "learner" and found["state"] != "trained":
            # The learner alone may give up a scored group (filtered, stopped): a verdict, not a second record.
            self._store.update_group(key, state="void", reason=void.reason, stage=void.stage, detail=void.detail[:500])
            progress.voids.append(void)
        else:
            self._store.add_duplicate(void.kind, void.source)

    # ---- events
    def _on_event(self, event: Event, sequence: int, progress: Progress) -> bool:
        """Apply one event; False when it has to wait for the journal."""
        match event:
            case EngineOpened():
                self._store.set_engine(event)
            case StepDone():
                return self._on_step_done(event, sequence, progress)
            case EvalDone():
                return self._on_eval_done(event, sequence, progress)
            case EndOfOrder(kind="train"):
                self._store.set_meta("order_total", str(event.total))
            case WeightsPublished():
                self._on_weights_published(event)
        return True

    def _on_weights_published(self, event: WeightsPublished) -> None:
        store = self._store
        if int(store.meta("version") or -1) < event.version:
            sync = event.sync
            values: dict[str, float] = {
                "weights/bytes": sync.sent_bytes, "weights/full_bytes": sync.full_bytes,
                "weights/stall": sync.export_s, "weights/publish": sync.publish_s,
            }  # fmt: skip
            store.add_points(event.version, event.published_at, {ALL: values})
        store.set_meta("version", str(event.version))
        store.set_meta("bound", str(max(event.max_staleness, int(store.meta("bound") or 0))))

    def _on_step_done(self, event: StepDone, sequence: int, progress: Progress) -> bool:
        store = self._store
        if store.has_step(event.step):
            return True  # a learner that was restarted tells it again
        if event.step > store.last_step() + 1:
            raise Corrupt(f"step {event.step} follows step {store.last_step()}: the events between them are missing")
        if self._is_patient and not (store.has_all(event.trained) and store.has_all(event.voided, void=True)):
            return False
        trained = [key_of("train", None, ordinal) for ordinal in event.trained]
        voided = [key_of("train", None, ordinal) for ordinal in event.voided]
        for key, staleness in zip(trained, event.staleness, strict=True):
            store.update_group(key, state="trained", reason="", step=event.step, staleness=staleness)
        for key in voided:
            self._void_by_step(key, event.step)
        placed = self._placed(trained, event.staleness)
        values = values_by_set(placed)
        self._add_learner_values(values, event)
        progress.tasks.update((group.source, group.task) for group in placed)
        progress.verifier_errors.update(error_rates(placed))
        self._add_voids(values, voided)
        store.add_points(event.step, event.finished_at, values)
        store.add_step(event, sequence)
        self._write_samples(step_file(event.step), sorted(trained + voided), event.advantages)
        progress.steps.append((event, values))
        return True

    def _void_by_step(self, key: Key, step: int) -> None:
        """A step passed the group over; one that has no word on why counts as filtered (only after `release`)."""
        group = self._store.group(key)
        was_scored = group is not None and group["state"] == "scored" and group["sequence"] is not None
        self._store.update_group(key, state="void", step=step, **({"reason": "filtered"} if was_scored else {}))

    def _placed(self, keys: Sequence[Key], staleness: Sequence[int]) -> list[Placed]:
        placed = []
        for key, age in zip(keys, staleness, strict=True):
            facts = self._store.pending_facts(key)
            if facts is not None:
                placed.append(Placed(*self._store.source_and_task(key), facts, age))
        return placed

    def _add_learner_values(self, values: dict[Where, dict[str, float]], event: StepDone) -> None:
        everything = values.setdefault(ALL, {})
        everything.update({f"learner/{name}": value for name, value in event.metrics.items()})
        everything.update({f"timing/{name}": value for name, value in event.timing.items()})
        seconds = event.finished_at - self._store.step_finished_at(event.step - 1, event.finished_at)
        if seconds > 0:
            everything["throughput/groups"] = len(event.trained) / seconds
            everything["throughput/tokens"] = event.metrics.get("tokens", 0.0) / seconds

    def _add_voids(self, values: dict[Where, dict[str, float]], voided: Sequence[Key]) -> None:
        for key in voided:
            group = self._store.group(key)
            reason = (group["reason"] if group else "") or "unknown"
            source, task = self._store.source_and_task(key)
            for where in {Where(source=source), Where(task=task), ALL}:
                named = values.setdefault(where, {})
                named["void"] = named.get("void", 0.0) + 1
                named[f"void/{reason}"] = named.get(f"void/{reason}", 0.0) + 1

    def _on_eval_done(self, event: EvalDone, sequence: int, progress: Progress) -> bool:
        store = self._store
        if store.has_evaluation(event.version):
            return True
        if self._is_patient and store.count_groups("eval", event.version) < event.total:
            return False
        keys = store.pending_keys("eval", event.version)
        facts = [(key, store.pending_facts(key)) for key in keys]
        values = values_by_set(Placed(*store.source_and_task(key), fact) for key, fact in facts if fact)
        named = {where: {f"eval/{name}": value for name, value in by_name.items()} for where, by_name in values.items()}
        time = store.newest_time("eval", event.version)
        store.add_points(event.version, time, named)
        store.add_evaluation(event, sequence, time)
        self._write_samples(
            evaluation_file(event.version), [_row_key(row) for row in store.groups_of("eval", event.version)]
        )
        progress.evaluations.append(event)
        return True

    # ---- samples
    def _write_samples(self, name: str, keys: Sequence[Key], advantages: dict[int, list[float]] | None = None) -> None:
        write_part(self._store.folder, name, (row for key in keys if (row := self._sample(key, advantages or {}))))
        self._store.drop_pending(keys)

    def _sample(self, key: Key, advantages: dict[int, list[float]]) -> dict[str, Any] | None:
        group, body = self._store.group(key), self._store.pending_body(key)
        if group is None:
            return None
        scored = decode(body) if body else None
        return sample_row(dict(group), scored if isinstance(scored, Scored) else None, advantages.get(key.ordinal))

    def write_rest(self) -> None:
        """The groups that no step has consumed, in a file of their own; they stay here, for a job that goes on."""
        keys = self._store.unconsumed()
        if keys:
            write_part(self._store.folder, REST_FILE, (row for key in keys if (row := self._sample(key, {}))))

    def reopen(self) -> None:
        """Before reading on: the job is not on file, and steps may yet consume the groups of the rest."""
        with self._store.transaction():
            self._store.set_meta(FINAL, "")
        (self._store.folder / FOLDER / REST_FILE).unlink(missing_ok=True)


def _row_key(row: Any) -> Key:
    return Key(row["kind"], row["version"], row["ordinal"])
