"""The page in a real browser, of the real command: a picture is sent, boxes come from the mouse and the keyboard."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.browser import opened_browser
from tests.stages.conftest import ROOT
from tests.view.conftest import NUM_FRAMES, video

CARS = ROOT / "reports" / "pictures" / "infer.jpg"
"""A generated frame of 1280x720 pixels."""

HEIGHT = 900
PATIENCE_S = 30
TOO_WIDE = """return [...document.querySelectorAll('body *')].filter(item => item.checkVisibility()
  && !item.closest('.hidden-input, .hidden-text, svg')
  && item.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(item => item.outerHTML.slice(0, 120))"""
SETTLED = "!document.body.classList.contains('busy') && !document.querySelector('.stage.stale')"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of `carkp view`, which ends well and leaves no file."""
    temporary = tmp_path_factory.mktemp("temporary")
    words = [sys.executable, "-m", "carkp.command.main", "view", "--port", "0", "--no-browser"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    line = server.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", line)
    assert found, line
    yield found[0]
    server.send_signal(signal.SIGINT)
    assert server.wait(PATIENCE_S) == 0
    assert list(temporary.glob("carkp-view-*")) == []


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads: Path) -> Iterator[object]:
    with opened_browser() as opened:
        behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
        opened.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)  # type: ignore[attr-defined]
        yield opened


def show(driver, address: str, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": features})
    driver.get(address)
    until(driver, "document.querySelector('#models').textContent.includes('int8')")


def until(driver, condition: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not driver.execute_script(f"return {condition}"):
        assert time.monotonic() < end, (condition, driver.execute_script("return document.body.innerText")[:800])
        time.sleep(0.05)


def send(driver, path: Path) -> None:
    driver.find_element("id", "file").send_keys(str(path))
    until(driver, f"document.querySelectorAll('.stage').length > 0 && {SETTLED}")


def draw_box(driver, start: tuple[float, float], end: tuple[float, float]) -> None:
    """With the mouse on the first stage; shares of its width and height."""
    from selenium.webdriver.common.action_chains import ActionChains

    stage = driver.find_element("css selector", ".stage")
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", stage)
    width, height = stage.size["width"], stage.size["height"]
    chain = ActionChains(driver)
    for move, (x, y) in enumerate((start, end)):
        chain.move_to_element_with_offset(stage, int((x - 0.5) * width), int((y - 0.5) * height))
        if move == 0:
            chain.click_and_hold()
    chain.release().perform()
    until(driver, SETTLED)


def press(driver, *keys: str) -> None:
    """What has the focus gets the last key while the others are held."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    *held, last = (getattr(Keys, key, key) for key in keys)
    chain = ActionChains(driver)
    for key in held:
        chain.key_down(key)
    chain.send_keys(last)
    for key in held:
        chain.key_up(key)
    chain.perform()
    until(driver, SETTLED)


def boxes(driver) -> list[list[float]]:
    values = "row => [...row.querySelectorAll('input')].map(input => input.value)"
    rows = driver.execute_script(f"return [...document.querySelectorAll('.carrow')].map({values})")
    return [[float(value) for value in row] for row in rows]


def num_points(driver) -> list[int]:
    """Of each stage."""
    script = "return [...document.querySelectorAll('.stage')].map(stage => stage.querySelectorAll('.point').length)"
    return list(driver.execute_script(script))


def is_whole_noted(driver) -> bool:
    return bool(driver.execute_script("return document.querySelector('#whole').checkVisibility()"))


def assert_fits(driver) -> None:
    assert driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert driver.execute_script(TOO_WIDE) == []


def focused(driver) -> str:
    return str(driver.execute_script("return document.activeElement.dataset.key || document.activeElement.id"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_keypoints_appear_in_a_box_that_is_drawn(driver, address: str, width: int, scheme: str) -> None:
    show(driver, address, width, scheme)
    assert_fits(driver)
    paper = driver.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    send(driver, CARS)
    assert is_whole_noted(driver)
    assert_fits(driver)
    draw_box(driver, (0.48, 0.27), (0.70, 0.66))
    draw_box(driver, (0.88, 0.77), (0.61, 0.46))
    first, _ = boxes(driver)
    np.testing.assert_allclose(first, [0.48 * 1280, 0.27 * 720, 0.22 * 1280, 0.39 * 720], atol=8)
    assert not is_whole_noted(driver)
    assert min(num_points(driver)) > 12
    assert len(driver.find_elements("css selector", "#table tbody tr")) == 12
    assert_fits(driver)
    assert driver.get_log("browser") == []


def test_everything_is_done_from_the_keyboard(driver, address: str) -> None:
    show(driver, address, 1440)
    send(driver, CARS)
    press(driver, "n")
    assert focused(driver) == "box-0"
    ((x, y, width, height),) = boxes(driver)
    for keys in (
        ("ARROW_RIGHT",),
        ("CONTROL", "ARROW_DOWN"),
        ("SHIFT", "ARROW_LEFT"),
        ("CONTROL", "SHIFT", "ARROW_UP"),
    ):
        press(driver, *keys)
    assert focused(driver) == "box-0"
    ((x_now, y_now, width_now, height_now),) = boxes(driver)
    assert (x_now - x, y_now - y, width_now - width, height_now - height) == (13, 1, -13, -1)
    press(driver, "n")
    assert focused(driver) == "box-1"
    press(driver, "z")
    assert driver.execute_script("return document.querySelector('.stage').getAttribute('viewBox')") != "0 0 1280 720"
    press(driver, "z")
    press(driver, "TAB")
    assert focused(driver).startswith("point-1-")
    tip = driver.find_element("id", "tip")
    assert "confidence" in tip.text
    press(driver, "SHIFT", "TAB")
    press(driver, "DELETE")
    assert focused(driver) == "box-0"
    press(driver, "DELETE")
    assert focused(driver) == "add"
    assert is_whole_noted(driver)
    assert driver.get_log("browser") == []


def test_what_moved_is_marked(driver, address: str) -> None:
    show(driver, address, 1440)
    send(driver, CARS)
    rows = "document.querySelectorAll('#table tr.moved').length"
    limit = "const i = document.querySelector('#threshold'); i.value = {}; i.dispatchEvent(new Event('input'))"
    driver.execute_script(limit.format(0))
    assert (
        driver.execute_script(f"return {rows}")
        == driver.execute_script("return document.querySelectorAll('.stage circle.ring[r]').length") / 2
    )
    assert driver.execute_script(f"return {rows}") > 0
    driver.execute_script(limit.format(999))
    assert driver.execute_script(f"return {rows}") == 0
    assert "none of 12 keypoints moved by more than 999 px" in driver.find_element("id", "summary").text


def test_results_are_saved_and_boxes_come_back(driver, address: str, downloads: Path) -> None:
    show(driver, address, 1440)
    send(driver, CARS)
    draw_box(driver, (0.48, 0.27), (0.70, 0.66))
    for button in driver.find_elements("css selector", "#saves button"):
        button.click()
    names = ("infer.int8.json", "infer.float.json", "infer.csv", "boxes.csv")
    end = time.monotonic() + PATIENCE_S
    while not all((downloads / name).is_file() for name in names):
        assert time.monotonic() < end, list(downloads.iterdir())
        time.sleep(0.1)
    document = json.loads((downloads / "infer.int8.json").read_text())
    (car,) = document["images"]["infer.jpg"]["cars"]
    assert document["model"] == "carkp-car12"
    assert car["box"] == boxes(driver)[0]
    rows = list(csv.DictReader((downloads / "infer.csv").read_text().splitlines()))
    assert len(rows) == 2 * 12
    assert [float(rows[0]["x"]), float(rows[0]["y"])] == car["points"][0]
    show(driver, address, 1440)
    send(driver, CARS)
    driver.find_element("id", "boxfile").send_keys(str(downloads / "boxes.csv"))
    until(driver, f"document.querySelectorAll('.carrow').length == 1 && {SETTLED}")
    assert boxes(driver)[0] == car["box"]


def test_a_frame_of_a_video_is_chosen(driver, address: str, tmp_path: Path) -> None:
    show(driver, address, 390)
    send(driver, video(tmp_path / "clip.mp4"))
    slider = driver.find_element("id", "frame")
    assert slider.get_attribute("max") == str(NUM_FRAMES - 1)
    driver.execute_script("arguments[0].focus()", slider)
    press(driver, "ARROW_RIGHT")
    until(driver, "document.querySelector('#moment').textContent.startsWith('1 of 11, 0.10 s')")
    assert_fits(driver)


def test_the_page_shows_what_the_server_says(driver, address: str, tmp_path: Path) -> None:
    show(driver, address, 390)
    path = tmp_path / "notes.jpg"
    path.write_bytes(b"no picture")
    driver.find_element("id", "file").send_keys(str(path))
    until(driver, "document.querySelector('#error').checkVisibility()")
    assert "cannot be decoded" in driver.find_element("id", "sentence").text
    assert_fits(driver)
    cv2.imwrite(str(tmp_path / "grey.png"), np.full((90, 120, 3), 128, np.uint8))
    send(driver, tmp_path / "grey.png")
    assert not driver.execute_script("return document.querySelector('#error').checkVisibility()")
