"""The page in a headless Chromium: a person submits a job, watches, steers, looks at samples, and stops it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.monitor import runs
from tests.monitor.actor import Actor
from tests.monitor.browser import (
    By,
    WebDriver,
    WebElement,
    choose,
    chromium,
    click,
    find,
    hosts,
    needs_chromium,
    points,
    severe,
    type_into,
    until,
)
from tests.monitor.theatre import Theatre, theatre_in

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[dev])")
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = needs_chromium


@pytest.fixture
def theatre(tmp_path: Path) -> Iterator[Theatre]:
    with theatre_in(tmp_path) as theatre:
        yield theatre


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebDriver]:
    with chromium(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def browser(window: WebDriver) -> Iterator[WebDriver]:
    """The one browser of these tests, as new; it leaves the page before the monitor goes."""
    window.set_window_size(1500, 1100)
    severe(window)
    hosts(window)
    yield window
    window.get("about:blank")


def true_box(browser: WebDriver) -> list[float]:
    """The first true box of the first detection sample: x, y, width, height as fractions of the image."""
    box = find(browser, ".sample[data-source=shapes] rect.box.true")
    return [round(float(box.get_attribute(name) or 0), 3) for name in ("x", "y", "width", "height")]


def lines(browser: WebDriver, series: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, f'figure[data-series="{series}"] path.line')


def test_a_person_submits_watches_steers_looks_and_stops(theatre: Theatre, browser: WebDriver) -> None:
    stage, shots = theatre.stage, theatre.folder
    browser.get(f"http://127.0.0.1:{theatre.port}/")

    click(browser, "#new-job")
    job_file = (
        f'name = "seen"\nmodel = "{stage.folder}/model"\ntotal_steps = 50\n'
        f'[data]\ntrain = ["{stage.folder}/train.parquet"]\n'
    )
    type_into(browser, "#submit textarea", "total_stepz = 1")
    click(browser, "#submit button[type=submit]")
    assert "total_steps" in until(lambda: find(browser, ".mistakes").text, "the mistakes of the job file")
    type_into(browser, "#submit textarea", job_file)
    click(browser, "#submit button[type=submit]")
    until(lambda: find(browser, "#state").text == "running", "the state running")
    job = until(lambda: find(browser, "#header h1").text, "the job's id")
    shots = stage.folder / "runs" / job

    actor = Actor(stage, job)
    theatre.run(actor.evaluate(0))
    theatre.run(actor.step())
    until(lambda: points(browser, "reward") >= 2, "the first points")
    before = until(lambda: points(browser, "reward"), "points")
    for _ in range(5):
        theatre.run(actor.step())
    until(lambda: points(browser, "reward") >= before + 10, "a curve that moves")  # five steps of two sources
    until(lambda: find(browser, "#step").text == "6", "the step in the head")
    assert browser.save_screenshot(str(shots / "page-curves.png"))

    until(lambda: "max 0" in find(browser, "#header").text, "staleness 0 in the head")
    type_into(browser, "#eta", "2")
    until(lambda: theatre.run(stage.show(job))["max_staleness"] == 2, "the change of η in the record")
    for _ in range(3):
        theatre.run(actor.step())
    until(lambda: "max 2" in find(browser, "#header").text, "staleness 2 in the head")

    click(browser, 'figure[data-series="reward"] svg')  # the step and the source nearest to the middle
    until(lambda: "step=" in browser.current_url and "/samples" in browser.current_url, "the samples of a step")
    browser.get(f"http://127.0.0.1:{theatre.port}/#/{job}/samples?source=shapes&state=trained")
    until(
        lambda: len(browser.find_elements(By.CSS_SELECTOR, ".sample[data-source=shapes] rect.box.true")) > 0,
        "true boxes",
    )
    find(browser, ".sample[data-source=shapes] rect.box.predicted")
    assert until(lambda: true_box(browser), "the place of the true box") == [0.2, 0.3, 0.4, 0.5]
    until(lambda: find(browser, ".sample[data-source=shapes] img").get_property("naturalWidth") == 280, "the image")
    assert browser.save_screenshot(str(shots / "page-samples.png"))

    browser.get(f"http://127.0.0.1:{theatre.port}/#/{job}/samples?source=sums&state=trained")
    until(lambda: browser.find_elements(By.CSS_SELECTOR, ".sample[data-source=sums] math mfrac"), "LaTeX as MathML")
    for view in ("sources", "void", "services"):
        click(browser, f"#tab-{view}")
        until(lambda view=view: find(browser, f"#view-{view} tbody tr"), f"a row of {view}")
        assert browser.save_screenshot(str(shots / f"page-{view}.png"))

    click(browser, "#move-stop")
    browser.switch_to.alert.accept()
    until(lambda: find(browser, "#state").text == "stopping", "the state stopping")
    theatre.run(stage.jobs.move(job, "stopped"))
    until(lambda: find(browser, "#state").text == "stopped", "the state stopped")

    assert severe(browser) == []
    assert hosts(browser) == {f"127.0.0.1:{theatre.port}"}


def without_variance(theatre: Theatre, job: str, steps: int) -> None:
    """Steps in which the groups of two of three sources have equal rewards."""
    for step in range(1, steps + 1):
        rewards = {"sums": (1.0, 1.0), "shapes": (0.0, 0.0), "charts": (1.0, 0.0)}
        first = len(rewards) * (step - 1)
        groups = [runs.group(first + k, pair, source=name) for k, (name, pair) in enumerate(rewards.items())]
        theatre.run(theatre.stage.publish(job, *groups))
        theatre.run(theatre.stage.announce(job, runs.step_done(step, list(range(first, first + len(rewards))))))


def test_a_finding_is_one_line_for_all_its_sources_and_its_button_changes_the_job(
    theatre: Theatre, browser: WebDriver
) -> None:
    stage = theatre.stage
    job = theatre.run(stage.submit(total_steps=100))
    theatre.run(stage.state(job, "running"))
    without_variance(theatre, job, 25)
    browser.get(f"http://127.0.0.1:{theatre.port}/#/{job}/curves")
    until(lambda: find(browser, "#step").text == "25", "the steps")
    rule = 'details[data-rule="variance-collapse"]'
    until(lambda: "2 of 3 sources" in find(browser, f"{rule} > summary").text, "the line of the rule")
    assert len(browser.find_elements(By.CSS_SELECTOR, rule)) == 1
    click(browser, f"{rule} > summary")
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, f"{rule} li")) == 2, "its sources")
    for width, height in ((1440, 900), (390, 844)):
        browser.set_window_size(width, height)
        assert browser.save_screenshot(str(stage.folder / f"page-findings-{width}.png"))
    overflow = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(overflow) <= 0  # type: ignore[no-untyped-call]
    browser.set_window_size(1440, 900)
    click(browser, f"{rule} button.apply")
    until(lambda: len(theatre.run(stage.show(job))["changes"]) == 2, "the weights in the record")  # type: ignore[arg-type]
    theatre.run(stage.jobs.move(job, "done"))
    until(lambda: find(browser, "#state").text == "done", "the end")
    until(lambda: "of this run" in find(browser, "#findings > details.notes > summary").text, "the summary of the run")
    assert not browser.find_elements(By.CSS_SELECTOR, "#eta, #total-steps, button.apply")
    assert severe(browser) == []


def test_runs_are_compared_and_curves_are_seen_by_task_and_time(theatre: Theatre, browser: WebDriver) -> None:
    stage = theatre.stage
    jobs = []
    for _ in range(2):
        job = theatre.run(stage.submit())
        theatre.run(stage.state(job, "running"))
        actor = Actor(stage, job)
        for _ in range(4):
            theatre.run(actor.step())
        theatre.run(stage.jobs.move(job, "done"))
        theatre.run(stage.report(job, "done"))
        jobs.append(job)
    browser.get(f"http://127.0.0.1:{theatre.port}/#/{jobs[1]}/curves")
    until(lambda: len(lines(browser, "reward")) == 2, "a line for each source")
    click(browser, f'li[data-job="{jobs[0]}"] input[type=checkbox]')
    until(lambda: len(lines(browser, "reward")) == 4, "lines of both runs")
    assert sum(bool(line.get_attribute("stroke-dasharray")) for line in lines(browser, "reward")) == 2
    choose(browser, "by", "task")
    until(lambda: "detection" in find(browser, ".legend").text, "the tasks")
    choose(browser, "by", "all")
    until(lambda: len(lines(browser, "reward")) == 2, "one line a run")
    choose(browser, "axis", "time")
    until(lambda: " s" in find(browser, 'figure[data-series="reward"] .axes').text, "seconds on the axis")
    choose(browser, "show", "learner")
    until(lambda: lines(browser, "learner/entropy"), "the learner's curves")
    assert severe(browser) == []


def test_groups_are_rows_of_dots_that_the_arrow_keys_walk_through(theatre: Theatre, browser: WebDriver) -> None:
    stage = theatre.stage
    job = theatre.run(stage.submit())
    theatre.run(stage.state(job, "running"))
    actor = Actor(stage, job)
    for _ in range(2):  # eight groups a step, the last one void
        theatre.run(actor.step())
    until(lambda: theatre.run(stage.published(job)) == 16, "the groups in the store")
    browser.get(f"http://127.0.0.1:{theatre.port}/#/{job}/samples?step=2&kind=train")
    until(lambda: len(browser.find_elements(By.CSS_SELECTOR, "#groups .group")) == 8, "a row for each group")
    assert find(browser, "#groups .group.void .reason").text == "bad-sample"
    assert len(browser.find_elements(By.CSS_SELECTOR, "#groups .group:not(.void) .dot")) == 7 * 4

    def chosen() -> str:
        return find(browser, "#samples .sample").get_attribute("data-ordinal") or ""

    assert until(chosen, "a chosen group") == "15"
    find(browser, "#groups").send_keys(Keys.ARROW_DOWN)
    until(lambda: chosen() == "14", "the next group")
    until(lambda: "at=train--14" in browser.current_url, "its place in the address")
    assert {mark.text for mark in browser.find_elements(By.CSS_SELECTOR, ".mark")} <= {"best", "worst"}
    find(browser, "#groups").send_keys(Keys.ARROW_LEFT)
    until(lambda: "step=1" in browser.current_url and chosen() == "7", "the step before")
    browser.get("about:blank")
    browser.get(f"http://127.0.0.1:{theatre.port}/#/{job}/samples?step=1&kind=train&at=train--3")
    until(lambda: chosen() == "3", "the group that the address names")
    until(lambda: find(browser, ".box-label.predicted").text.startswith("square "), "the label of an answered box")
    for width, height in ((1440, 900), (390, 844)):
        browser.set_window_size(width, height)
        assert browser.save_screenshot(str(stage.folder / f"page-groups-{width}.png"))
    assert severe(browser) == []


def test_hostile_answers_are_shown_as_text(theatre: Theatre, browser: WebDriver) -> None:
    stage = theatre.stage
    job = theatre.run(stage.submit())
    theatre.run(stage.state(job, "running"))
    hostile = (
        "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script> $\\frac{1}{$ \\boxed{{{"
    )
    theatre.run(stage.publish(job, runs.group(0, (1.0, 0.0), texts=[hostile, "$" + "{" * 5000 + "$"])))
    until(lambda: theatre.run(stage.published(job)) == 1, "the group in the store")
    browser.get(f"http://127.0.0.1:{theatre.port}/#/{job}/samples")
    until(lambda: "onerror" in find(browser, ".completion .text").text, "the answer as it is")
    assert "owned" not in browser.title
    assert severe(browser) == []
