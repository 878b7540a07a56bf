"""A page in a headless Chromium, driven by selenium."""

from __future__ import annotations

import functools
import http.server
import importlib.util
import math
import shutil
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_cbp

#: Nothing that asks the network for anything: the page needs only its folder.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
    *("--hide-scrollbars", "--force-device-scale-factor=1"),
)
WINDOW = (1120, 1000)
#: How long a training may take, in seconds.
PATIENCE = 300


def missing_browser() -> str:
    """What is missing to drive a headless Chromium, and how to get it; empty where nothing is."""
    if importlib.util.find_spec("selenium") is None:
        return "no module 'selenium', which drives the browser: pip install selenium"
    if _chromium() is None or shutil.which("chromedriver") is None:
        return "no chromium with its chromedriver: apt-get install chromium chromium-driver (Debian's packages)"
    return ""


def _chromium() -> str | None:
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@dataclass
class Page:
    """A page that trains.

    Attributes:
        driver: selenium's.
        browser: name and version.
    """

    driver: Any
    browser: str

    def wait_until_trained(self) -> dict[str, Any]:
        """What the page tells of its training when that is done: steps, losses, milliseconds, accuracy.

        Raises:
            OnnxCbpError: it failed, or did not end; with what the page says.
        """
        from selenium.common.exceptions import TimeoutException

        state = "return document.body.dataset.state"
        try:
            self._wait(lambda driver: driver.execute_script(state) in ("done", "failed"), PATIENCE)
        except TimeoutException:
            raise onnx_cbp.OnnxCbpError(f"the page had not trained after {PATIENCE} s: {self._status()}") from None
        if self.driver.execute_script(state) == "failed":
            raise onnx_cbp.OnnxCbpError(f"the page: {self._status()}")
        return self.driver.execute_script(
            "const {steps, losses, milliseconds, accuracy} = training; return {steps, losses, milliseconds, accuracy}"
        )

    def draw(self, strokes: Sequence[Sequence[tuple[float, float]]]) -> dict[str, Any]:
        """Draw by mouse, from (0, 0) at the top left to (1, 1); what the page says it is: digit, probabilities."""
        from selenium.webdriver import ActionChains

        self.driver.find_element("id", "clear").click()
        canvas = self.driver.find_element("id", "drawing")
        width, height = canvas.size["width"], canvas.size["height"]
        for stroke in strokes:
            actions = ActionChains(self.driver, duration=2)
            for index, (x, y) in enumerate(stroke):
                actions.move_to_element_with_offset(canvas, round((x - 0.5) * width), round((y - 0.5) * height))
                if not index:
                    actions.click_and_hold()
            actions.release().perform()
        return self._wait(lambda driver: driver.execute_script("return training.prediction"), 30)

    def picture(self, path: Path) -> None:
        """Save what the page looks like."""
        self.driver.save_screenshot(str(path.absolute()))

    def _wait(self, condition: Any, seconds: float) -> Any:
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.driver, seconds, poll_frequency=0.1).until(condition)

    def _status(self) -> str:
        return self.driver.find_element("id", "status").text


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Requests are not printed."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port, as `python -m http.server` does; its address."""
    handler = functools.partial(_Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start Chromium; selenium's driver of it.

    Raises:
        OnnxCbpError: there is no Chromium, or it does not start.
    """
    if missing := missing_browser():
        raise onnx_cbp.OnnxCbpError(missing)
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = _chromium() or ""
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={WINDOW[0]},{WINDOW[1]}"):
            options.add_argument(flag)
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        try:
            driver = webdriver.Chrome(options=options, service=service)
        except WebDriverException as error:
            raise onnx_cbp.OnnxCbpError(f"Chromium does not start: {(error.msg or '').splitlines()[0]}") from None
        try:
            yield driver
        finally:
            driver.quit()


@contextmanager
def open_page(folder: Path, query: str = "") -> Iterator[Page]:
    """Serve a folder and open its page.

    Raises:
        OnnxCbpError: there is no Chromium, or it does not start.
    """
    with open_browser() as driver, served(folder) as address:
        driver.get(f"{address}/index.html{query}")
        about = driver.capabilities
        yield Page(driver, f"Chromium {about['browserVersion'].split('.')[0]}")


def _arc(x: float, y: float, width: float, height: float, start: float, end: float) -> list[tuple[float, float]]:
    """Points of an ellipse, between two angles in parts of a turn; 0 is at the right, and a quarter at the bottom."""
    turns = [start + (end - start) * index / 12 for index in range(13)]
    return [(x + width * math.cos(math.tau * turn), y + height * math.sin(math.tau * turn)) for turn in turns]


#: Digits as people write them, in strokes; an 8 is not among them, which takes a longer training than the tests'.
DRAWN = {
    0: [_arc(0.5, 0.5, 0.24, 0.38, -0.25, 0.75)],
    1: [[(0.38, 0.3), (0.52, 0.12), (0.52, 0.88)]],
    2: [[*_arc(0.5, 0.32, 0.21, 0.2, -0.45, 0.1), (0.28, 0.86), (0.74, 0.86)]],
    3: [[*_arc(0.46, 0.31, 0.2, 0.19, -0.4, 0.25), *_arc(0.46, 0.69, 0.24, 0.2, -0.25, 0.42)]],
    4: [[(0.46, 0.12), (0.26, 0.58), (0.76, 0.58)], [(0.6, 0.36), (0.58, 0.9)]],
    5: [[(0.7, 0.13), (0.36, 0.13), (0.33, 0.45), *_arc(0.46, 0.66, 0.24, 0.21, -0.3, 0.4)]],
    6: [[(0.6, 0.1), (0.4, 0.3), (0.3, 0.6), *_arc(0.5, 0.69, 0.2, 0.19, 0.5, 1.5)]],
    7: [[(0.28, 0.14), (0.72, 0.14), (0.46, 0.88)], [(0.36, 0.5), (0.7, 0.5)]],
    9: [[*_arc(0.48, 0.33, 0.2, 0.2, 0, -1), (0.68, 0.33), (0.64, 0.9)]],
}


def draw_digit(page: Page, digit: int) -> dict[str, Any]:
    """Draw one of `DRAWN`; what the page says it is."""
    return page.draw(DRAWN[digit])
