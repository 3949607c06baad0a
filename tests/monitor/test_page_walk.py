"""The whole way through the page, narrow and wide, light and dark; and every view by the rules of axe-core.

With `SCREENSHOTS=FOLDER` each view is also saved there: `make screenshots` makes the pictures of the documentation.
"""

import io
import os
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from tests.monitor.actor import Actor
from tests.monitor.browser import (
    WebDriver,
    choose,
    chromium,
    click,
    find,
    find_all,
    hosts,
    needs_chromium,
    overflow,
    points,
    resize,
    run,
    severe,
    show_theme,
    text_of,
    type_into,
    until,
)
from tests.monitor.theatre import Theatre, theatre_in

pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[dev])")
from selenium.webdriver.common.keys import Keys

pytestmark = needs_chromium

SHOTS = os.environ.get("SCREENSHOTS")
HEIGHTS = {390: 844, 768: 1024, 1440: 900, 1920: 1080}
LOOKED_AT = tuple((width, theme) for width in (1440, 390) for theme in ("light", "dark"))
"""Where the walk is gone, and with `SCREENSHOTS` axe-core is run."""
PICTURES = ((1440, "light"), (390, "dark"))
"""Where pictures are taken, and axe-core is always run."""
STEPS = 22
"""The rules look at windows of 20 steps."""


class Show(NamedTuple):
    """Two repetitions that are done, watched by one browser."""

    theatre: Theatre
    browser: WebDriver
    repetitions: list[str]


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Show]:
    folder = tmp_path_factory.mktemp("walk")
    with pytest.MonkeyPatch.context() as patch, theatre_in(folder) as theatre, chromium(folder) as browser:
        patch.setattr("services.monitor.handlers.draw_curves", lambda *_: None)  # nobody looks at curves.png here
        yield Show(theatre, browser, [repetition(theatre, seed) for seed in (1, 2)])
        browser.get("about:blank")


def repetition(theatre: Theatre, seed: int) -> str:
    """A run with an evaluation before and after, that is over."""
    stage = theatre.stage
    priced = {"gpus": 8, "gpu_hour_price": 2.5}
    job = theatre.run(stage.submit(name="baseline", seed=seed, total_steps=6, monitor=priced))
    theatre.run(stage.state(job, "running"))
    actor = Actor(stage, job, seed=seed)
    theatre.run(actor.evaluate(0))
    for _ in range(6):
        theatre.run(actor.step())
    theatre.run(actor.evaluate(6))
    finish(theatre, job)
    return job


def finish(theatre: Theatre, job: str) -> None:
    theatre.run(theatre.stage.jobs.move(job, "done"))
    theatre.run(theatre.stage.report(job, "done"))


def play(theatre: Theatre, job: str, *, steps: int = STEPS) -> Actor:
    """A run that every view has something of: one source is solved, and held-out answers at three versions."""
    actor = Actor(theatre.stage, job, solved=frozenset({"sums"}))
    theatre.run(actor.load())
    theatre.run(actor.evaluate(0))
    for step in range(1, steps + 1):
        theatre.run(actor.step())
        if step in (steps // 2, steps):
            theatre.run(actor.evaluate(step))
    return actor


def address(show: Show, path: str) -> str:
    return f"http://127.0.0.1:{show.theatre.port}/#/{path}"


@pytest.mark.parametrize(("width", "theme"), LOOKED_AT)
def test_a_person_walks_from_a_new_job_to_an_exported_comparison(show: Show, width: int, theme: str) -> None:
    theatre, browser = show.theatre, show.browser
    severe(browser)
    hosts(browser)
    resize(browser, width, HEIGHTS[width])
    show_theme(browser, theme)
    job = submit(show)
    try:
        play(theatre, job)
        from_curve_to_step(show)
        from_group_to_box(show, job)
        patch_by_a_finding(show, job)
    finally:
        finish(theatre, job)  # the next one could not run
    compare_and_export(show, job)
    assert severe(browser) == []
    assert hosts(browser) == {f"127.0.0.1:{theatre.port}"}


def submit(show: Show) -> str:
    browser, folder = show.browser, show.theatre.stage.folder
    browser.get("about:blank")
    browser.get(address(show, ""))
    click(browser, "#new-job")
    job_file = (
        f'name = "walk"\nmodel = "{folder}/model"\ntotal_steps = 100\n[data]\ntrain = ["{folder}/train.parquet"]\n'
        "[monitor]\ngpus = 8\ngpu_hour_price = 2.5\n"
    )
    type_into(browser, "#submit textarea", job_file)
    click(browser, "#check-job")
    until(lambda: "It could be submitted" in text_of(browser, "#submit [role=status]"), "the check's answer")
    click(browser, "#submit button[type=submit]")
    until(lambda: text_of(browser, "#state") == "running", "the state running")
    return until(lambda: text_of(browser, "#header h1"), "the job's id")


def from_curve_to_step(show: Show) -> None:
    """By keyboard alone: along the curve, and from a point of it to the groups of that step."""
    browser = show.browser
    until(lambda: text_of(browser, "#step") == str(STEPS), "the steps")
    until(lambda: points(browser, "reward") == 2 * STEPS, "a point of each source and step")

    def is_opened() -> bool:
        chart = find(browser, 'figure[data-series="reward"] svg[role=application]')
        chart.send_keys(Keys.END, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
        nearest = text_of(browser, 'figure[data-series="reward"] .readout .nearest')
        chart.send_keys(Keys.ENTER)
        return nearest.startswith("shapes")

    until(is_opened, "the groups of a point")
    until(lambda: f"step={STEPS - 2}&source=shapes" in browser.current_url, "the step before the last but one")


def from_group_to_box(show: Show, job: str) -> None:
    browser = show.browser
    until(lambda: len(find_all(browser, "#groups .group")) == 3, "the step's groups of one source")
    find(browser, "#groups").send_keys(Keys.ARROW_DOWN)
    until(lambda: find_all(browser, "#groups .group")[1].get_attribute("aria-selected") == "true", "the second group")
    click(browser, ".completion[data-index='1']")
    until(lambda: "chosen" in (find(browser, ".completion[data-index='1']").get_attribute("class") or ""), "a choice")
    until(lambda: find(browser, ".sample img").get_property("naturalWidth") == 280, "the image")

    def is_lit() -> bool:
        run(browser, "document.querySelector('.completion.chosen .rendered mark')?.focus()")
        return bool(find_all(browser, "rect.box.predicted.lit"))

    until(is_lit, "the box that the text names")
    browser.get(address(show, f"{job}/samples?source=sums&kind=train&state=trained"))
    until(lambda: find_all(browser, ".completion .math mfrac"), "a formula")
    browser.get(address(show, f"{job}/samples?kind=eval&ordinal=1"))
    until(lambda: len(find_all(browser, ".film .frame-card")) == 3, "the sample at three versions")


def patch_by_a_finding(show: Show, job: str) -> None:
    browser, stage = show.browser, show.theatre.stage
    rule = 'details[data-rule="variance-collapse"]'
    open_up(browser, 'details[data-rule="warnings"]')
    open_up(browser, rule)
    click(browser, f"{rule} button.apply")

    def is_changed() -> bool:
        return [change["key"] for change in show.theatre.run(stage.show(job))["changes"]] == ["sources.sums.weight"]  # type: ignore[attr-defined]

    until(is_changed, "the weight in the record")
    click(browser, "#tab-sources")
    until(lambda: find(browser, "tr[data-source=sums] input").get_property("value") != "1", "the weight in the table")


def open_up(browser: WebDriver, details: str) -> None:
    """Open a `details`, unless it is open."""
    script = (
        "const it = document.querySelector(arguments[0]); if (it && !it.open) it.firstChild.click(); return it?.open"
    )
    until(lambda: run(browser, script, details), f"{details} to be open")


def compare_and_export(show: Show, job: str) -> None:
    browser, folder = show.browser, show.theatre.folder / "downloads"
    click(browser, "#tab-compare")
    for other in show.repetitions:
        click(browser, f'li[data-job="{other}"] input[type=checkbox]')
    until(lambda: len(find_all(browser, "#overlay figure[data-series=reward] path.band")) == 1, "the repetitions' band")
    until(lambda: len(find_all(browser, "#overlay figure[data-series=reward] path.line")) == 2, "two lines")
    assert all(other in browser.current_url for other in show.repetitions)
    until(lambda: "±" in text_of(browser, "#comparison tr[data-source=shapes]"), "standard errors")
    until(lambda: "total_steps" in text_of(browser, "#comparison"), "the settings that differ")
    for old in folder.glob("*"):
        old.unlink()
    click(browser, "#export-markdown")
    click(browser, "#export-csv")
    click(browser, '#overlay figure[data-series="reward"] button[data-export=png]')
    names = {"comparison.md", "comparison.csv", "reward.png"}
    until(lambda: {path.name for path in folder.glob("*")} == names, "the files")
    assert "| shapes |" in (folder / "comparison.md").read_text()
    assert (folder / "comparison.csv").read_text().startswith("source,task,run,before,before_error")
    with Image.open(folder / "reward.png") as picture:
        assert picture.width > picture.height > 100


# ---- every view
VIEWS = {
    "curves": ("{job}/curves", f'figure[data-series="reward"][data-points="{2 * STEPS}"]'),
    "samples": ("{job}/samples?source=shapes&kind=train&state=trained", ".sample rect.box.predicted"),
    "film": ("{job}/samples?kind=eval&ordinal=1", ".film .frame-card"),
    "sources": ("{job}/sources", "tr[data-source=sums]"),
    "time": ("{job}/time", "#engines tr[data-engine=learner] + tr[data-engine=rollout]"),
    "void": ("{job}/void", "#view-void tbody tr"),
    "compare": ("{job}/compare?with={others}", "#comparison tbody tr"),
    "settings": ("{job}/settings", 'table[data-table="algorithm"]'),
    "services": ("{job}/services", "#view-services tbody tr"),
}


@pytest.fixture(scope="module")
def seen(show: Show) -> Iterator[Actor]:
    """A job with something in every view, while it runs."""
    theatre = show.theatre
    priced = {"gpus": 8, "gpu_hour_price": 2.5}
    job = theatre.run(theatre.stage.submit(name="seen", total_steps=100, monitor=priced))
    theatre.run(theatre.stage.state(job, "running"))
    yield play(theatre, job)
    finish(theatre, job)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_fits_every_width_and_breaks_no_serious_rule_of_accessibility(
    show: Show, seen: Actor, theme: str
) -> None:
    browser = show.browser
    severe(browser)
    show_theme(browser, theme)
    others = ",".join(show.repetitions)
    mistakes = []
    for name, (path, sign) in VIEWS.items():
        resize(browser, *next((width, HEIGHTS[width]) for width, one in PICTURES if one == theme))
        show.theatre.run(seen.beat())
        browser.get("about:blank")
        browser.get(address(show, path.format(job=seen.job, others=others)))
        until(lambda sign=sign: find_all(browser, sign), f"something in {name}")
        until(lambda: text_of(browser, "#step") == str(STEPS), "all steps")
        for width, height in HEIGHTS.items():
            resize(browser, width, height)
            if overflow(browser) > 0:
                mistakes.append(f"{name} at {width} px, {theme}: {overflow(browser)} px too wide")
            if (width, theme) in (LOOKED_AT if SHOTS else PICTURES):
                mistakes += [f"{name} at {width} px, {theme}: {found}" for found in serious(browser)]
            if SHOTS and (width, theme) in PICTURES:
                save(browser, Path(SHOTS) / f"{name}-{width}.png")
    assert mistakes == []
    assert severe(browser) == []


def serious(browser: WebDriver) -> list[str]:
    """What axe-core finds on the page, as far as it is serious or critical."""
    if not run(browser, "return typeof axe === 'object'"):
        script = files("selenium_axe_python") / "axe-core" / "axe.min.js"
        run(browser, script.read_text())
    found: dict[str, Any] = browser.execute_async_script(  # type: ignore[no-untyped-call]
        "const done = arguments[arguments.length - 1];"
        "const runOnly = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa'];"
        "axe.run(document, {resultTypes: ['violations'], runOnly}).then(done);"
    )
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
        for node in rule["nodes"][:3]
    ]


def save(browser: WebDriver, path: Path) -> None:
    """A screenshot in 255 colours: a third of the bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(io.BytesIO(browser.get_screenshot_as_png())) as picture:
        picture.convert("RGB").quantize(255, dither=Image.Dither.NONE).save(path, optimize=True)


def test_repetitions_have_a_mean_and_the_interval_of_students_t(show: Show) -> None:
    browser = show.browser
    browser.get(address(show, ""))

    def result(call: str) -> Any:
        script = f"import('/page/bands.js').then((bands) => arguments[0](bands.{call}))"
        return browser.execute_async_script(script)  # type: ignore[no-untyped-call]

    found = result("interval([1, 2, 3])")
    assert (found["mean"], round(found["half"], 3)) == (2, 2.484)  # s = 1, t of two degrees of freedom: 4.303 / √3
    line = result("meanLine([[[0, 0], [2, 2]], [[1, 3], [2, 4]]])")  # the first one is 1 at x = 1
    assert line["points"] == [[0, 0, 0], [1, 2, 1], [2, 3, 2]]
    assert [[x, round(low, 2), round(high, 2)] for x, low, high in line["band"]] == [
        [1, -10.71, 14.71],  # s = √2, 12.706 · √2 / √2
        [2, -9.71, 15.71],
    ]


def test_a_view_without_content_says_what_will_be_there(show: Show) -> None:
    theatre, browser = show.theatre, show.browser
    resize(browser, 1440, HEIGHTS[1440])
    job = theatre.run(theatre.stage.submit(name="empty"))
    browser.get("about:blank")
    for view in ("samples", "sources", "time", "void", "compare"):
        browser.get(address(show, f"{job}/{view}"))
        until(lambda view=view: find_all(browser, f"#view-{view} .hint"), f"a word in {view}")
    browser.get(address(show, "nobody/curves"))
    until(lambda: "no job" in text_of(browser, "#notice"), "the error")
    theatre.run(theatre.stage.jobs.move(job, "failed", "it was never meant to run"))


def test_a_run_is_named_and_tagged_on_the_page_and_hidden_from_its_list(show: Show) -> None:
    browser, (one, other) = show.browser, show.repetitions
    resize(browser, 1440, HEIGHTS[1440])
    browser.get(address(show, f"{other}/curves"))
    click(browser, f'li[data-job="{one}"] .edit')
    type_into(browser, "#label input[type=text]", "the first seed")
    find_all(browser, "#label input[type=text]")[1].send_keys(" reference")
    click(browser, "#label button[type=submit]")
    until(lambda: "the first seed" in text_of(browser, f'li[data-job="{one}"]'), "the title")
    assert text_of(browser, f'li[data-job="{one}"] .tag') == "reference"
    click(browser, f'li[data-job="{one}"] .edit')
    click(browser, "#label input[type=checkbox]")
    click(browser, "#label button[type=submit]")
    until(lambda: not find_all(browser, f'li[data-job="{one}"]'), "one run less in the list")
    choose(browser, "show", "main")
    assert severe(browser) is not None
