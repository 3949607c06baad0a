"""The monitor's state is a fold over journal and events; one batch of them is one transaction.

A step waits until every group it consumed has its record here (of a void one: the record that says so), and the events
behind it wait with it: so its points are of exactly its groups, whatever the streams' relative speed was, and a monitor
that was killed makes the same ones.
"""

import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from services.monitor.history.batch import Batch, Progress
from services.monitor.history.groups import Arrived, Key, key_of, key_of_record, key_of_row
from services.monitor.history.samples import (
    FOLDER,
    GROUPS_TOGETHER,
    REST_FILE,
    evaluation_file,
    step_file,
    write_part,
)
from services.monitor.history.shelf import Near
from services.monitor.history.store import Store
from services.monitor.history.totals import STALENESS
from services.monitor.values.answers import answers_of
from services.monitor.values.columns import Sample, sample_table
from services.monitor.values.facts import Facts, facts_of, join_facts
from services.monitor.values.series import error_rates, values_by_set
from services.monitor.values.where import ALL, Where
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
    WeightsLoaded,
    WeightsPublished,
)

EVENTS = "events"
FINAL = "final"
"""The fact in the store that names the end state once everything is on file."""


class Fold:
    """Applies batches to a store. Calls block (disk): one thread at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: deque[tuple[Event, int]] = deque()
        self._fresh: dict[Key, Arrived] = {}  # of this batch: on the shelf only if no step of it consumes them
        self._near = Near()
        self._is_patient = True

    @property
    def waiting(self) -> int:
        """Events that wait for the journal."""
        return len(self._waiting)

    def apply(self, batch: Batch) -> Progress:
        """Commit a batch; what it returns may be acked."""
        progress = Progress()
        self._fresh.clear()
        known = max(self._store.sequence(EVENTS), self._waiting[-1][1] if self._waiting else 0)
        self._waiting.extend((event, sequence) for event, sequence in batch.events if sequence > known)
        waiting = deque(self._waiting)
        with self._store.transaction():
            progress.train_sequence = self._read_journal("train", batch.train, progress)
            progress.eval_sequence = self._read_journal("eval", batch.eval, progress)
            while waiting and self._on_event(*waiting[0], progress):
                progress.event_sequence = waiting.popleft()[1]
                self._store.set_sequence(EVENTS, progress.event_sequence)
            left = list(self._fresh.values())
            self._store.put_waiting(left)
        self._waiting = waiting
        self._fresh.clear()
        self._near.extend(left)
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
        new = [entry for entry in entries if entry.sequence > stored]
        first = self._store.first_records(key_of_record(entry.message) for entry in new)
        arrived: list[Arrived] = []
        for entry in new:
            match entry.message:
                case Scored() as scored:
                    group = Arrived(key_of_record(scored), entry.sequence, scored, entry.body)
                    self._on_scored(group, first, arrived)
                case Voided() as void:
                    self._add(arrived)
                    arrived = []
                    self._on_voided(void, entry.sequence, first, progress)
        self._add(arrived)
        progress.groups += len(new)
        if new:
            stored = new[-1].sequence
            self._store.set_sequence(kind, stored)
        return stored

    def _add(self, arrived: Sequence[Arrived]) -> None:
        if arrived:
            self._store.add_scored(arrived)
            self._fresh.update((group.key, group) for group in arrived)

    def _on_scored(self, group: Arrived, first: dict[Key, str], arrived: list[Arrived]) -> None:
        """`first`: of each group whose record is here, the stage that gave it up."""
        stage = first.get(group.key)
        if stage is None:
            first[group.key] = ""
            arrived.append(group)
        elif stage != "learner":  # else late: the learner had given up an ordinal that was on its way
            self._store.add_duplicate(group.scored.prompt.kind, group.scored.prompt.source)

    def _on_voided(self, void: Voided, sequence: int, first: dict[Key, str], progress: Progress) -> None:
        key = key_of_record(void)
        found = self._store.group(key)
        if found is None or found["sequence"] is None:
            self._store.add_void(key, sequence, void)
            first[key] = void.stage
            progress.voids.append(void)
        elif void.stage == "learner" and found["state"] != "trained":
            # The learner alone may give up a scored group (filtered, stopped): a verdict, not a second record.
            self._store.update_group(key, state="void", reason=void.reason, stage=void.stage, detail=void.detail[:500])
            first[key] = void.stage
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
            case WeightsLoaded():
                self._on_weights_loaded(event)
        return True

    def _on_weights_loaded(self, event: WeightsLoaded) -> None:
        """A point for each replica that loaded the version."""
        values: dict[str, float] = {
            "weights/fetched": event.fetched_bytes, "weights/load": event.load_s, "weights/load_stall": event.stall_s,
        }  # fmt: skip
        self._add_weights(event.version, event.loaded_at, values)

    def _on_weights_published(self, event: WeightsPublished) -> None:
        store = self._store
        if int(store.meta("version") or -1) < event.version:
            sync = event.sync
            values: dict[str, float] = {
                "weights/bytes": sync.sent_bytes, "weights/full_bytes": sync.full_bytes,
                "weights/stall": sync.export_s, "weights/publish": sync.publish_s,
            }  # fmt: skip
            self._add_weights(event.version, event.published_at, values)
        store.announce(event.version, digest=event.digest)
        store.set_meta("version", str(event.version))
        store.set_meta("bound", str(max(event.max_staleness, int(store.meta("bound") or 0))))

    def _add_weights(self, version: int, at: float, values: dict[str, float]) -> None:
        self._store.add_points(version, at, {ALL: values})
        self._store.add_totals({name: [value] for name, value in values.items()})

    def _on_step_done(self, event: StepDone, sequence: int, progress: Progress) -> bool:
        store = self._store
        if store.has_step(event.step):
            return True  # a learner that was restarted tells it again
        if event.step > store.last_step() + 1:
            raise Corrupt(f"step {event.step} follows step {store.last_step()}: the events between them are missing")
        if self._is_patient and not (store.has_all(event.trained) and store.has_all(event.voided, void=True)):
            return False
        store.mark_trained(event.step, dict(zip(event.trained, event.staleness, strict=True)))
        for ordinal in event.voided:
            self._void_by_step(key_of("train", None, ordinal), event.step)
        ordinals = sorted([*event.trained, *event.voided])
        rows = store.training_groups(ordinals)
        facts = self._write_samples(step_file(event.step), [rows[ordinal] for ordinal in ordinals], event.advantages)
        values = values_by_set(facts)
        self._add_learner_values(values, event)
        progress.tasks.update(zip(facts.sources, facts.tasks, strict=True))
        progress.verifier_errors.update(error_rates(facts))
        self._add_voids(values, [rows[ordinal] for ordinal in event.voided])
        store.add_points(event.step, event.finished_at, values)
        store.add_step(event, sequence)
        store.add_totals({STALENESS: event.staleness} | {f"timing/{k}": [v] for k, v in event.timing.items()})
        store.announce(event.step, importance=event.importance)
        progress.steps.append((event, values))
        return True

    def _void_by_step(self, key: Key, step: int) -> None:
        """A step passed the group over; one that has no word on why counts as filtered (only after `release`)."""
        group = self._store.group(key)
        was_scored = group is not None and group["state"] == "scored" and group["sequence"] is not None
        self._store.update_group(key, state="void", step=step, **({"reason": "filtered"} if was_scored else {}))

    def _add_learner_values(self, values: dict[Where, dict[str, float]], event: StepDone) -> None:
        everything = values.setdefault(ALL, {})
        everything.update({f"learner/{name}": value for name, value in event.metrics.items()})
        everything.update({f"timing/{name}": value for name, value in event.timing.items()})
        seconds = event.finished_at - self._store.step_finished_at(event.step - 1, event.finished_at)
        if seconds > 0:
            everything["throughput/groups"] = len(event.trained) / seconds
            everything["throughput/tokens"] = event.metrics.get("tokens", 0.0) / seconds

    def _add_voids(self, values: dict[Where, dict[str, float]], voided: Sequence[sqlite3.Row]) -> None:
        for group in voided:
            reason, source, task = group["reason"] or "unknown", group["source"], group["task"]
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
        facts = self._write_samples(evaluation_file(event.version), store.groups_of("eval", event.version))
        values = values_by_set(facts)
        named = {where: {f"eval/{name}": value for name, value in by_name.items()} for where, by_name in values.items()}
        if event.void:
            named.setdefault(ALL, {})["eval/void"] = float(event.void)
        time = store.newest_time("eval", event.version)
        store.add_points(event.version, time, named)
        store.add_evaluation(event, sequence, time)
        progress.evaluations.append(event)
        return True

    # ---- samples
    def _write_samples(
        self, name: str, groups: Sequence[sqlite3.Row], advantages: Mapping[int, Sequence[float]] | None = None
    ) -> Facts:
        """Put the groups, which wait no longer, into a file; the facts of those that are not void."""
        found: list[Facts] = []
        write_part(self._store.folder, name, self._tables(groups, advantages or {}, found))
        keys = [key_of_row(group) for group in groups]
        self._store.drop_waiting([key for key in keys if self._fresh.pop(key, None) is None])
        self._near.drop(keys)
        return join_facts(found)

    def _tables(
        self, groups: Sequence[sqlite3.Row], advantages: Mapping[int, Sequence[float]], found: list[Facts]
    ) -> Iterator[pa.Table]:
        """Some groups after the other, so that memory holds no more of them; their facts go to `found`."""
        for first in range(0, len(groups), GROUPS_TOGETHER):
            rows = groups[first : first + GROUPS_TOGETHER]
            samples = [Sample(dict(r), self._record(key_of_row(r)), advantages.get(r["ordinal"])) for r in rows]
            answers = answers_of([sample.scored for sample in samples if sample.scored])
            counted = [(s.scored, s.group["staleness"]) for s in samples if s.scored and s.group["state"] != "void"]
            groups_counted = [scored for scored, _ in counted]
            same = len(counted) == len(answers.groups)
            of_counted = answers if same else answers_of(groups_counted)
            found.append(facts_of(of_counted, [staleness for _, staleness in counted]))
            yield sample_table(samples, answers)

    def _record(self, key: Key) -> Scored | None:
        held = self._fresh.get(key) or self._near.get(key)
        return held.scored if held is not None else self._store.waiting_record(key)

    def write_rest(self) -> None:
        """The groups that no step has consumed, in a file of their own; they stay here, for a job that goes on."""
        groups = self._store.unconsumed()
        if groups:
            write_part(self._store.folder, REST_FILE, self._tables(groups, {}, []))

    def reopen(self) -> None:
        """Before reading on: the job is not on file, and steps may yet consume the groups of the rest."""
        with self._store.transaction():
            self._store.set_meta(FINAL, "")
        (self._store.folder / FOLDER / REST_FILE).unlink(missing_ok=True)
