"""The page on a run of 10^6 points and 50,000 groups against an empty one, in a headless Chromium: JSON lines.

Milliseconds from the page's address to its first paint, to its curves, and from a filter of the samples to the groups
that it leaves; medians of several looks, and their ratios to those of a run with nothing in it.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.monitor import GROUPS_A_STEP, group, step_done
from services.monitor.history.batch import Batch
from services.monitor.history.fold import EVENTS, Fold
from services.monitor.history.store import Store
from services.monitor.values.where import Where
from shared.bus.port import JournalEntry
from tests.monitor.browser import WebDriver, chromium, until
from tests.monitor.theatre import Theatre, theatre_in

POINTS, GROUPS = 1_000_000, 50_000
LOOKS = 7
TOKENS = 40


def main() -> None:
    with TemporaryDirectory() as name, theatre_in(Path(name)) as theatre, chromium(Path(name)) as browser:
        empty, large = over(theatre), over(theatre)
        began = time.process_time()
        fill(theatre.stage.folder / "runs" / large)
        sys.stderr.write(f"the large run is made, in {time.process_time() - began:.0f} s of CPU\n")
        measured = {job: measure(theatre, browser, job) for job in (empty, large)}
        for what in measured[empty]:
            none, much = measured[empty][what], measured[large][what]
            numbers = {"what": what, "ms": round(much), "empty_ms": round(none), "ratio": round(much / none, 2)}
            sys.stdout.write(json.dumps({"bench": "page", "points": POINTS, "groups": GROUPS, **numbers}) + "\n")


def over(theatre: Theatre) -> str:
    """A job that is done and on file, with nothing in it."""
    job = theatre.run(theatre.stage.submit())
    theatre.run(theatre.stage.state(job, "running"))
    theatre.run(theatre.stage.jobs.move(job, "done"))
    theatre.run(theatre.stage.report(job, "done"))

    def is_on_file() -> bool:
        return bool(theatre.run(theatre.stage.show(job))["on_file"])

    until(is_on_file, "the job on file")
    return job


def fill(folder: Path) -> None:
    """Groups step by step, as the monitor would have read them; then points of the same steps up to `POINTS`."""
    store = Store(folder)
    fold = Fold(store)
    read, told = store.sequence("train") + 1, store.sequence(EVENTS) + 1  # the job has begun and ended already
    for step in range(GROUPS // GROUPS_A_STEP):
        ordinals = range(step * GROUPS_A_STEP, (step + 1) * GROUPS_A_STEP)
        entries = [JournalEntry(ordinal + read, group(ordinal, TOKENS)) for ordinal in ordinals]
        fold.apply(Batch(train=entries, events=[(step_done(step + 1, ordinals), step + told)]))
    names = [f"learner/extra_{k}" for k in range(20)]
    per_series = POINTS // len(names)
    with store.transaction():
        for step in range(per_series):
            store.add_points(step, float(step), {Where(): {name: (step * 7 % 1000) / 1000 for name in names}})
    store.close()


def measure(theatre: Theatre, browser: WebDriver, job: str) -> dict[str, float]:
    """Medians in milliseconds by what was waited for."""
    root = f"http://127.0.0.1:{theatre.port}/#/{job}"

    def look(path: str, script: str) -> float:
        browser.get("about:blank")
        browser.get(f"{root}/{path}")
        return float(browser.execute_async_script(_UNTIL + script))  # type: ignore[no-untyped-call]

    looks: dict[str, Callable[[], float]] = {
        "first paint": lambda: look("curves", _FIRST_PAINT),
        "curves": lambda: look("curves", _CURVES),
        "curves of the learner, 10^6 points": lambda: look("curves", _LEARNER),
        "filter of samples": lambda: look("samples", _FILTER),
        "filter of samples by reward": lambda: look("samples", _REWARDS),
    }
    return {what: statistics.median(one() for _ in range(LOOKS)) for what, one in looks.items()}


_UNTIL = """
const done = arguments[arguments.length - 1];
const until = (condition) => new Promise((ready) => {
  const look = () => (condition() ? ready(performance.now()) : requestAnimationFrame(look));
  look();
});
const set = (selector, value) => {
  const field = document.querySelector(selector);
  field.value = value;
  field.dispatchEvent(new Event("change", {bubbles: true}));
};
const drawn = () => document.querySelector("#samples .sample, #samples .hint:not([role])");
const filter = async (selector, value) => {
  await until(drawn);
  const before = drawn(), began = performance.now();
  set(selector, value);
  done(await until(() => drawn() && drawn() !== before) - began);
};
"""
_FIRST_PAINT = """
until(() => performance.getEntriesByName("first-contentful-paint").length)
  .then(() => done(performance.getEntriesByName("first-contentful-paint")[0].startTime));
"""
_CURVES = 'until(() => document.querySelector("figure.chart")).then(done);'
_LEARNER = """
until(() => document.querySelector("figure.chart")).then(async () => {
  const before = document.querySelector("figure.chart"), began = performance.now();
  set('select[aria-label="show"]', "learner");
  done(await until(() => document.querySelector("#charts").firstChild !== before) - began);
});
"""
_FILTER = """filter('select[aria-label="kind"]', "train");"""
_REWARDS = """filter('input[aria-label="reward from"]', "0.5");"""


if __name__ == "__main__":
    main()
