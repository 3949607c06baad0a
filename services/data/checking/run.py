"""Whole files checked on all cores: groups of rows in parallel, a bounded number at a time, reports in order."""

import os
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context

from services.data.checking.duplicates import Duplicates, Seen, find_duplicates
from services.data.checking.facts import Tally, joined
from services.data.checking.rows import Depth, GroupReport, Weigh, check_group
from shared.errors import TriuneError
from shared.samples.files import DataFile

MakeWeigh = Callable[[], Weigh]
"""Builds a token counter inside a worker process (so it must be picklable); raises BadJob when it cannot."""


@dataclass(frozen=True)
class Task:
    """One group to look at, or `only` some of its rows."""

    file: int
    group: int
    only: frozenset[int] | None


@dataclass
class Checked:
    """What all groups together hold."""

    rows: int = 0
    tallies: dict[str, Tally] = field(default_factory=dict)
    images: list[Seen] = field(default_factory=list)

    def add(self, file: int, report: GroupReport) -> None:
        self.rows += report.looked_at
        self.tallies = joined([self.tallies, report.tallies])
        self.images += [Seen(file, row, digest, seen) for row, digest, seen in report.images]

    def duplicates(self) -> Duplicates:
        return find_duplicates(self.images)


def plan(files: Sequence[DataFile], *, sample: int | None = None, seed: int = 0) -> list[Task]:
    """Every group of every file; with `sample` as many rows, drawn from all, and only the groups that hold them."""
    groups = [(number, group, rows) for number, file in enumerate(files) for group, rows in enumerate(file.groups)]
    total = sum(rows for _, _, rows in groups)
    if sample is None or sample >= total:
        return [Task(file, group, None) for file, group, rows in groups if rows]
    chosen = deque(sorted(random.Random(seed).sample(range(total), sample)))
    tasks, start = [], 0
    for file, group, rows in groups:
        inside = []
        while chosen and chosen[0] < start + rows:
            inside.append(chosen.popleft() - start)
        if inside:
            tasks.append(Task(file, group, frozenset(inside)))
        start += rows
    return tasks


def check_files(
    files: Sequence[DataFile],
    tasks: Sequence[Task],
    depth: Depth,
    *,
    workers: int | None = None,
    make_weigh: MakeWeigh | None = None,
) -> Iterator[tuple[Task, GroupReport]]:
    """The tasks' reports in their order, made by `workers` processes (None: one a core); at most two wait a worker.

    Raises TriuneError when a worker is killed (most often for memory), and what `make_weigh` raises.
    """
    count = min(workers or len(os.sched_getaffinity(0)), len(tasks))
    if count <= 1:
        weigh = make_weigh() if make_weigh is not None else None
        yield from (
            (task, check_group(files[task.file], task.group, depth, only=task.only, weigh=weigh)) for task in tasks
        )
        return
    with ProcessPoolExecutor(count, get_context("spawn"), _start, (make_weigh,)) as pool:
        waiting: deque[tuple[Task, Future[GroupReport]]] = deque()
        left = iter(tasks)
        try:
            while True:
                for task in left:
                    waiting.append((task, pool.submit(_work, files[task.file], task.group, depth, task.only)))
                    if len(waiting) >= 2 * count:
                        break
                if not waiting:
                    return
                task, future = waiting.popleft()
                yield task, future.result()
        except BrokenProcessPool as error:
            raise TriuneError(f"a worker process was killed while it read {files[task.file].place}; memory?") from error
        finally:
            for _, future in waiting:
                future.cancel()


_make_weigh: MakeWeigh | None = None


def _start(make_weigh: MakeWeigh | None) -> None:
    """Runs once in each worker."""
    global _make_weigh
    _make_weigh = cache(make_weigh) if make_weigh is not None else None


def _work(file: DataFile, group: int, depth: Depth, only: frozenset[int] | None) -> GroupReport:
    weigh = _make_weigh() if _make_weigh is not None else None  # here, so that what it raises comes back as a result
    return check_group(file, group, depth, only=only, weigh=weigh)
