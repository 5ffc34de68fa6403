"""A whole report in a real browser: nothing fails to load, nothing is wider than the window."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from carkp.report.accuracy import accuracy_parts
from carkp.report.page import html_page
from tests.browser import opened_browser
from tests.report.made_up import content, family

HEIGHT = 900
LOADED = "return [...document.images].map(image => image.complete && image.naturalWidth > 0)"
TOO_WIDE = """return [...document.querySelectorAll('body *')]
  .filter(item => !item.closest('.wide, .chart, pre') && item.getBoundingClientRect().right > window.innerWidth + 1)
  .map(item => item.outerHTML.slice(0, 120))"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def driver() -> Iterator[object]:
    with opened_browser() as opened:
        yield opened


@pytest.fixture(scope="module", params=["one family", "three families"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    families = [family()] if request.param == "one family" else [family(name) for name in ("first", "second", "third")]
    made = content(*families)
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(html_page(made.title, accuracy_parts(made), has_contents=True), encoding="utf-8")
    return path


def show(driver, path: Path, width: int, features: dict[str, str], media: str = "") -> None:
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    emulated = [{"name": name, "value": value} for name, value in features.items()]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": emulated})
    driver.get(path.as_uri())


def paper(driver) -> str:
    return str(driver.execute_script("return getComputedStyle(document.body).backgroundColor"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_page_is_whole_and_fits_the_window(driver, page: Path, width: int, scheme: str) -> None:
    show(driver, page, width, {"prefers-color-scheme": scheme})
    assert driver.get_log("browser") == []
    assert driver.execute_script("return window.innerWidth") == width
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert driver.execute_script(TOO_WIDE) == []
    loaded = driver.execute_script(LOADED)
    assert len(loaded) > 30
    assert all(loaded)
    assert (paper(driver) == "rgb(255, 255, 255)") == (scheme == "light")
    ink = "return getComputedStyle(document.querySelector('.chart svg text')).fill"
    assert (sum(map(int, driver.execute_script(ink)[4:-1].split(","))) < 3 * 128) == (scheme == "light")


def test_paper_is_white_and_shows_everything(driver, page: Path) -> None:
    show(driver, page, 740, {"prefers-color-scheme": "dark"}, media="print")
    assert paper(driver) == "rgb(255, 255, 255)"
    hidden = "return [...document.querySelectorAll('.wide, .chart')].filter(box => box.scrollWidth > 740).length"
    assert driver.execute_script(hidden) == 0
    folded = "return document.querySelector('details pre').getBoundingClientRect().height"
    assert driver.execute_script(folded) > 0
