"""The page of `onnx-cbp inspect --html` in a headless Chromium: what it shows, and that a model's names run nothing."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from headless import missing_browser, open_browser

from onnx_cbp.report import write_report
from support.made_up.hostile import HOSTILE, hostile_model

pytestmark = pytest.mark.skipif(bool(missing_browser()), reason=missing_browser())


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """The page of a model whose names are attacks, with its running statistics measured."""
    folder = tmp_path_factory.mktemp("page")
    onnx.save(hostile_model(), folder / "model.onnx")
    batch = {"x": np.random.default_rng(0).normal(1, 2, (64, 3, 5)).astype(np.float32)}
    write_report(folder / "model.onnx", folder / "page.html", batches=[batch])
    with open_browser() as driver:
        driver.get((folder / "page.html").as_uri())
        yield driver


def _rows(browser):
    return browser.find_elements("css selector", "#layers tbody tr")


def test_it_draws_itself_and_asks_the_network_for_nothing(browser):
    assert browser.execute_script("return document.body.dataset.state") == "ready"
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert [entry["message"] for entry in browser.get_log("browser")] == []
    assert len(_rows(browser)) == 2


def test_names_are_text(browser):
    assert browser.execute_script("return window.attacked") is None
    assert browser.find_elements("css selector", "img, iframe, a, object, link") == []
    _rows(browser)[0].click()
    assert browser.find_element("css selector", "#detail h2").get_attribute("textContent") == HOSTILE["node"]
    assert HOSTILE["parameter"] in [
        cell.get_attribute("textContent") for cell in _node_facts(browser, "#detail .node.old")
    ]


def _node_facts(browser, which):
    node = browser.find_element("css selector", which)
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", node)
    return browser.find_elements("css selector", ".node-facts:not([hidden]) td")


def test_a_chosen_batch_norm_is_drawn_before_and_after(browser):
    _rows(browser)[0].click()
    captions = [each.text for each in browser.find_elements("css selector", "#detail figcaption")]
    assert captions == ["Before", "After the rewrite", "mean", "variance"]
    ops = {
        state: [each.text for each in browser.find_elements("css selector", f"#detail .node.{state} .op")]
        for state in ("old", "new")
    }
    assert ops == {"old": ["BatchNormalization", "Relu"], "new": ["BatchNormTrainUpdate"]}
    assert len(browser.find_elements("css selector", "#detail .bar.running")) >= 2
    assert len(browser.find_elements("css selector", "#detail .bar.fresh")) >= 2


def test_the_table_is_filtered_sorted_and_walked(browser):
    search = browser.find_element("id", "search")
    search.send_keys("second")
    assert len(_rows(browser)) == 1
    search.clear()
    search.send_keys("no such name")
    assert len(_rows(browser)) == 0
    assert browser.find_element("id", "none").is_displayed()
    browser.execute_script("arguments[0].value = ''; arguments[0].dispatchEvent(new Event('input'))", search)
    states = [row.find_element("class name", "pill").text for row in _rows(browser)]
    assert states == ["rewritten", "frozen"]
    heading = next(e for e in browser.find_elements("css selector", "#layers th button") if e.text == "state")
    heading.click()
    assert [row.find_element("class name", "pill").text for row in _rows(browser)] == states[::-1]
    row = _rows(browser)[0]
    row.click()
    row.send_keys("\ue015")  # the arrow down
    assert [each.get_attribute("aria-selected") for each in _rows(browser)] == ["false", "true"]


def test_what_check_found_is_told(browser):
    assert "within tolerance" in browser.find_element("id", "check").text
