"""The page in a headless Chromium: a person submits a job, watches, steers, looks at samples, and stops it."""

import asyncio
import shutil
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from shared.http import serve_http
from shared.memory_bus import MemoryServer
from tests.monitor.actor import Actor
from tests.monitor.stage import Stage, running

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[dev])")
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="chromium and chromedriver are not installed (apt-get install chromium chromium-driver)",
)
LIMIT_S = 30.0
Result = TypeVar("Result")


class Theatre:
    """A monitor that is served for real, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stage: Stage
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LIMIT_S)

    def open(self) -> None:
        self._thread.start()
        self._ready = threading.Event()
        self._done = asyncio.run_coroutine_threadsafe(self._play(), self._loop)
        assert self._ready.wait(LIMIT_S)

    async def _play(self) -> None:
        self._stop = asyncio.Event()
        async with running(Stage(self.folder, MemoryServer())) as self.stage:
            serving = asyncio.ensure_future(serve_http(self.stage.monitor.api, "127.0.0.1", self.port))
            self._ready.set()
            await self._stop.wait()
            serving.cancel()
            await asyncio.wait({serving})

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._done.result(LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LIMIT_S)
        self._loop.close()


@pytest.fixture
def theatre(tmp_path: Path) -> Iterator[Theatre]:
    theatre = Theatre(tmp_path)
    theatre.open()
    yield theatre
    theatre.close()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1100"]
    for flag in (*flags, f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    yield driver
    driver.quit()


def until(condition: Callable[[], Result | bool | None], what: str) -> Result:
    """What `condition` returns once it is true; a page that is drawn anew meanwhile is looked at again."""
    from selenium.common.exceptions import StaleElementReferenceException

    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        try:
            found = condition()
        except StaleElementReferenceException:
            continue
        if found:
            return found  # type: ignore[return-value]
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {LIMIT_S} s")


def find(browser: WebDriver, selector: str) -> WebElement:
    return until(lambda: next(iter(browser.find_elements(By.CSS_SELECTOR, selector)), None), f"{selector} on the page")


def click(browser: WebDriver, selector: str) -> None:
    def clicked() -> bool:
        find(browser, selector).click()
        return True

    until(clicked, f"a click on {selector}")


def type_into(browser: WebDriver, selector: str, text: str) -> None:
    browser.execute_script(  # type: ignore[no-untyped-call]
        "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('change', {bubbles: true}));",
        selector,
        text,
    )


def points(browser: WebDriver, series: str) -> int:
    return int(find(browser, f'figure[data-series="{series}"]').get_attribute("data-points") or 0)


def hosts(browser: WebDriver) -> set[str]:
    """Every host that the page sent a request to."""
    import json
    from urllib.parse import urlsplit

    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).netloc for url in urls if url.startswith("http")}


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
    job = find(browser, "#header h1").text
    shots = stage.folder / "runs" / job

    actor = Actor(stage, job)
    theatre.run(actor.evaluate(0))
    theatre.run(actor.step())
    until(lambda: points(browser, "reward") >= 2, "the first points")
    before = points(browser, "reward")
    for _ in range(5):
        theatre.run(actor.step())
    until(lambda: points(browser, "reward") >= before + 10, "a curve that moves")  # five steps of two sources
    until(lambda: find(browser, "#step").text == "6", "the step in the head")
    assert browser.save_screenshot(str(shots / "page-curves.png"))

    assert "max 0" in find(browser, "#header").text
    type_into(browser, "#eta", "2")
    until(lambda: theatre.run(stage.show(job))["max_staleness"] == 2, "the change of η in the record")
    for _ in range(3):
        theatre.run(actor.step())
    until(lambda: "max 2" in find(browser, "#header").text, "staleness 2 in the head")

    curve = find(browser, 'figure[data-series="reward"] svg')
    curve.click()  # the step and the source nearest to the middle
    until(lambda: "step=" in browser.current_url and "/samples" in browser.current_url, "the samples of a step")
    browser.get(f"http://127.0.0.1:{theatre.port}/#/{job}/samples?source=shapes&state=trained")
    until(
        lambda: len(browser.find_elements(By.CSS_SELECTOR, ".sample[data-source=shapes] rect.box.true")) > 0,
        "true boxes",
    )
    card = find(browser, ".sample[data-source=shapes]")
    until(lambda: card.find_elements(By.CSS_SELECTOR, "rect.box.predicted"), "predicted boxes")
    box = card.find_element(By.CSS_SELECTOR, "rect.box.true")
    place = [round(float(box.get_attribute(name) or 0), 3) for name in ("x", "y", "width", "height")]
    assert place == [0.2, 0.3, 0.4, 0.5]
    picture = card.find_element(By.CSS_SELECTOR, "img")
    until(lambda: picture.get_property("naturalWidth") == 280, "the image itself")
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

    mistakes = [e for e in browser.get_log("browser") if e["level"] == "SEVERE" and "422" not in e["message"]]  # type: ignore[no-untyped-call]
    assert mistakes == []
    assert hosts(browser) == {f"127.0.0.1:{theatre.port}"}
