"""A headless Chromium for tests of the page, and what a person does with it."""

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pytest

from tests.monitor.theatre import LIMIT_S

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install -e .[dev])")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webdriver import WebDriver  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
needs_chromium = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="chromium and chromedriver are not installed (apt-get install chromium chromium-driver)",
)
Result = TypeVar("Result")


@contextlib.contextmanager
def chromium(folder: Path) -> Iterator[WebDriver]:
    """A browser whose profile and downloads lie in `folder`."""
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1500,1100"]
    for flag in (*flags, f"--user-data-dir={folder / 'chromium'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "downloads")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))
    driver.set_script_timeout(2 * LIMIT_S)
    try:
        yield driver
    finally:
        driver.quit()


def until(condition: Callable[[], Result | bool | None], what: str) -> Result:
    """What `condition` returns once it is true; a page that is drawn anew meanwhile is looked at again."""
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


def find_all(browser: WebDriver, selector: str) -> list[WebElement]:
    return browser.find_elements(By.CSS_SELECTOR, selector)


def text_of(browser: WebDriver, selector: str) -> str:
    return find(browser, selector).text


def click(browser: WebDriver, selector: str) -> None:
    """Click what `selector` names, scrolled into the middle of the window."""

    def clicked() -> bool:
        element = find(browser, selector)
        run(browser, "arguments[0].scrollIntoView({block: 'center', inline: 'center'})", element)
        element.click()
        return True

    until(clicked, f"a click on {selector}")


def type_into(browser: WebDriver, selector: str, text: str) -> None:
    run(
        browser,
        "const field = document.querySelector(arguments[0]); field.value = arguments[1];"
        "field.dispatchEvent(new Event('change', {bubbles: true}));",
        selector,
        text,
    )


def choose(browser: WebDriver, label: str, value: str) -> None:
    type_into(browser, f'select[aria-label="{label}"]', value)


def run(browser: WebDriver, script: str, *arguments: object) -> Any:
    return browser.execute_script(script, *arguments)  # type: ignore[no-untyped-call]


def points(browser: WebDriver, series: str) -> int:
    return int(find(browser, f'figure[data-series="{series}"]').get_attribute("data-points") or 0)


_HARMLESS = ("422", "ERR_NETWORK_CHANGED")
"""In a message of the console: a job file was refused; the machine's network interfaces have changed."""


def severe(browser: WebDriver) -> list[str]:
    """Errors of the console since the last look, the harmless ones left out."""
    log = browser.get_log("browser")  # type: ignore[no-untyped-call]
    found = [entry["message"] for entry in log if entry["level"] == "SEVERE"]
    return [message for message in found if not any(sign in message for sign in _HARMLESS)]


def hosts(browser: WebDriver) -> set[str]:
    """Every host that the page sent a request to since the last look."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]  # type: ignore[no-untyped-call]
    urls = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    return {urlsplit(url).netloc for url in urls if url.startswith("http")}


def resize(browser: WebDriver, width: int, height: int) -> None:
    """The page's own size: a window cannot be as narrow as a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)  # type: ignore[no-untyped-call, attr-defined]


def show_theme(browser: WebDriver, theme: str) -> None:
    """`light` or `dark`, as the reader's system would ask for it."""
    feature = {"name": "prefers-color-scheme", "value": theme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})  # type: ignore[no-untyped-call, attr-defined]


def overflow(browser: WebDriver) -> int:
    """By how many pixels the page is wider than the window."""
    return int(run(browser, "return document.documentElement.scrollWidth - document.documentElement.clientWidth"))
