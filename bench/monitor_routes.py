"""How long the API takes to answer about a large run, as ratios to the same question about smaller ones.

`times_small`: a run of one step. `times_drawn`: a run that stores as many points a curve as the answer draws, so that
what is left of the ratio is the cost of points that nobody sees.
"""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from services.monitor.analysis.report import build_report
from services.monitor.history.batch import Batch
from services.monitor.history.files import write_report
from services.monitor.history.fold import Fold
from services.monitor.history.queries import reading
from services.monitor.history.store import Store
from services.monitor.values.where import ALL, Where
from shared.bus.memory.server import MemoryServer
from tests.monitor import runs
from tests.monitor.stage import Stage

POINTS, GROUPS, GROUPS_A_STEP, SERIES = 1_000_000, 50_000, 500, 100
DRAWN = 200
"""Points of a curve in an answer."""
LEARNER = 20
"""So many of the series are the learner's."""
ROUTES = {
    "job": "",
    "a curve": "/metrics?name=reward&source=sums&max_points=600",
    "all curves": f"/metrics?max_points={DRAWN}",
    "the learner's 20 series": f"/metrics?name=learner/*&source=&task=&max_points={DRAWN}",
    "newest samples": "/samples?limit=20",
    "samples of a source by reward": "/samples?source=shapes&max_reward=0.3&limit=20",
    "one step's groups": "/samples?step=1&limit=100",
    "void groups": "/voids",
    "findings": "/diagnostics",
}
REPEATS = 3


def measure_routes() -> list[dict[str, object]]:
    """One line a route: seconds of the large run, and how many times those of the small one."""
    with TemporaryDirectory() as folder:
        return asyncio.run(_measure(Path(folder)))


async def _measure(folder: Path) -> list[dict[str, object]]:
    stage = Stage(folder, MemoryServer())
    small, drawn, large = [await stage.submit() for _ in range(3)]
    fill(folder / "runs" / small, steps=1, points=SERIES)
    fill(folder / "runs" / drawn, steps=2, points=SERIES * DRAWN)
    fill(folder / "runs" / large, steps=GROUPS // GROUPS_A_STEP, points=POINTS)
    for job in (small, drawn, large):
        await _report(stage, job)
    lines: list[dict[str, object]] = []
    for what, route in ROUTES.items():
        one, seen, many = [await _seconds(stage.http, f"/v1/jobs/{job}{route}") for job in (small, drawn, large)]
        ratios = {"times_small": round(many / one, 1), "times_drawn": round(many / seen, 2)}
        line = {"points": POINTS, "groups": GROUPS, "value": round(many, 4), **ratios}
        lines.append({"what": f"seconds for {what}", **line})
    await stage.http.aclose()
    return lines


async def _report(stage: Stage, job: str) -> None:
    """The run's report.json, as the monitor writes it while it reads a job."""
    record, folder = await stage.jobs.get(job), stage.folder / "runs" / job
    assert record is not None
    with reading(folder) as reader:
        write_report(folder, build_report(record, reader, 0))


async def _seconds(http: httpx.AsyncClient, url: str) -> float:
    """The least of a few: others compute on this machine, too."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        answer = await http.get(url)
        taken.append(time.perf_counter() - began)
        assert answer.status_code == 200, answer.text
    return min(taken)


def fill(folder: Path, *, steps: int, points: int) -> None:
    store = Store(folder)
    fold, ordinal = Fold(store), 0
    for step in range(1, steps + 1):
        groups = [_group(ordinal + k) for k in range(GROUPS_A_STEP)]
        done = runs.step_done(step, range(ordinal, ordinal + GROUPS_A_STEP))
        fold.apply(Batch(train=runs.entries(*groups, first=ordinal + 1), events=[(done, step)]))
        ordinal += GROUPS_A_STEP
    with store.transaction():
        for first, values in _more_points(points):
            store.add_points(first, float(first), values)
    store.close()


def _group(ordinal: int) -> object:
    source = ("sums", "shapes")[ordinal % 2]
    return runs.group(ordinal, ((ordinal % 5) / 4, (ordinal % 3) / 2), source=source, task=source)


def _more_points(count: int) -> Iterator[tuple[int, dict[Where, dict[str, float]]]]:
    for step in range(count // SERIES):
        names = [f"learner/extra-{k}" if k < LEARNER else f"part/part-{k}" for k in range(SERIES)]
        yield step, {ALL: {name: (step * 7 + k) % 1000 / 1000 for k, name in enumerate(names)}}


if __name__ == "__main__":
    import json
    import sys

    for line in measure_routes():
        sys.stdout.write(json.dumps(line) + "\n")
