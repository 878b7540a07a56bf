"""The page that trains, in a headless Chromium: its losses, its curve, and what it says of digits drawn by mouse."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from headless import DRAWN, draw_digit, missing_browser, open_page, served

from onnx_cbp import OnnxCbpError

WEB = os.environ.get("ONNX_CBP_WEB")
STEPS = 63
_LACKS = (
    "" if find_spec("sklearn") and find_spec("matplotlib") else "the digits are scikit-learn's: pip install '.[demo]'",
    "" if WEB else "ONNX_CBP_WEB names no folder with onnxruntime-web: there is no node or npm, or it could not get it",
    missing_browser(),
)
pytestmark = pytest.mark.skipif(any(_LACKS), reason="; ".join(filter(None, _LACKS)))


@pytest.fixture(scope="module")
def prepared():
    from digits_web import Prepared

    return Prepared.make(epochs=3, seed=0)


@pytest.fixture(scope="module")
def page(prepared, tmp_path_factory):
    """The page, when it has trained."""
    from digits_web import runtime_in

    folder = tmp_path_factory.mktemp("page")
    prepared.write(folder, runtime_in(Path(WEB)))
    with open_page(folder, f"?steps={STEPS}") as page:
        page.wait_until_trained()
        yield page


def _pixels(page, canvas: str) -> np.ndarray:
    """RGBA [height, width, 4] of a canvas."""
    code = """
        const canvas = document.getElementById(arguments[0]);
        const image = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        return [image.height, image.width, Array.from(image.data)]"""
    height, width, data = page.driver.execute_script(code, canvas)
    return np.array(data, np.uint8).reshape(height, width, 4)


@pytest.fixture(scope="module")
def in_python(prepared):
    """The same training in Python, and its last state."""
    return prepared.train(STEPS)


def test_it_trains_as_python_does(page, in_python):
    web, (python, _) = page.wait_until_trained(), in_python
    assert len(web["losses"]) == STEPS == len(web["milliseconds"])
    np.testing.assert_allclose(web["losses"][:10], python.losses[:10], atol=1e-4)
    assert np.mean(web["losses"][-5:]) < 0.25 * web["losses"][0]
    assert web["accuracy"] == pytest.approx(python.accuracy, abs=0.02)
    assert web["accuracy"] > 0.85


def test_the_curve_is_drawn_and_falls(page):
    red, _, blue, alpha = np.moveaxis(_pixels(page, "curve").astype(int), -1, 0)
    rows, columns = np.nonzero((alpha > 200) & (blue - red > 150))  # the blue of the mean
    assert columns.max() - columns.min() > 0.7 * red.shape[1], "from the first step to the last"
    left, right = rows[columns < columns.min() + 9], rows[columns > columns.max() - 9]
    assert right.mean() - left.mean() > 0.4 * red.shape[0]


@pytest.mark.parametrize("digit", list(DRAWN))
def test_it_tells_a_digit_that_is_drawn(page, prepared, digit):
    told = draw_digit(page, digit)
    assert told["digit"] == digit
    assert np.sum(told["probabilities"]) == pytest.approx(1)
    assert page.driver.find_element("id", "prediction").text.startswith(f"It is a {digit}")
    # What the network sees is like the data: 8 x 8 counts of black pixels, from the top to the bottom.
    image = np.array(page.driver.execute_script("return Array.from(training.drawing.pixels())")).reshape(8, 8)
    np.testing.assert_array_equal(image * 16, np.rint(image * 16))
    assert image[[0, -1]].max(1).min() > 0
    np.testing.assert_allclose(_pixels(page, "pixels")[..., 3] / 255, image, atol=1 / 255)
    images, labels = prepared.digits.train
    typical = images[labels == digit].mean((0, 1)).sum()
    assert image.sum() == pytest.approx(typical, rel=0.25), "about as much ink as in the data"


def test_its_probabilities_are_those_of_python(page, prepared, in_python):
    told, (_, state) = draw_digit(page, 0), in_python
    image = np.array(page.driver.execute_script("return Array.from(training.drawing.pixels())"), np.float32)
    logits = prepared.logits(state, image.reshape(1, 1, 8, 8))[0].astype(np.float64)
    powers = np.exp(logits - logits.max())
    np.testing.assert_allclose(told["probabilities"], powers / powers.sum(), atol=0.02)


def test_clear_takes_drawing_and_prediction_away(page):
    draw_digit(page, 7)
    page.driver.find_element("id", "clear").click()
    assert page.driver.find_element("id", "prediction").text == ""
    assert not _pixels(page, "pixels")[..., 3].any()
    assert not _pixels(page, "drawing")[..., 3].any()


@pytest.mark.parametrize("missing", ["index.json", "state.bin", "onnxruntime"])
def test_a_folder_that_is_not_whole_says_what_is_missing(page, missing, prepared, tmp_path):
    from digits_web import runtime_in

    prepared.write(tmp_path, runtime_in(Path(WEB)))
    path = tmp_path / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    try:
        with served(tmp_path) as address:
            page.driver.get(address)
            with pytest.raises(OnnxCbpError, match=r"the page: Failed: .*(index\.json|state\.bin|worker)"):
                page.wait_until_trained()
    finally:
        page.driver.close()
        page.driver.switch_to.window(before)
