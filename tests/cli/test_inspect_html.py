"""The options of `onnx-cbp inspect` that write a page."""

from __future__ import annotations

import os

import numpy as np


def test_a_page_is_written_and_the_table_is_printed(run, forward, tmp_path):
    result = run("inspect", forward, "--html", tmp_path / "page.html", "--no-check")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 would be rewritten" in result.stdout
    assert "forward.onnx" in (tmp_path / "page.html").read_text()


def test_the_model_may_be_a_pipe(run, forward, tmp_path):
    end, start = os.pipe()
    os.write(start, forward.read_bytes())
    os.close(start)
    result = run("inspect", f"/dev/fd/{end}", "--html", tmp_path / "page.html", "--no-check")
    os.close(end)
    assert (result.exit_code, result.stderr) == (0, "")
    assert (tmp_path / "page.html").exists()


def test_data_that_do_not_fit_are_one_line(run, forward, tmp_path):
    np.savez(tmp_path / "data.npz", y=np.zeros(3, np.float32))
    result = run("inspect", forward, "--html", tmp_path / "page.html", "--data", tmp_path / "data.npz")
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "page.html").exists()


def test_options_of_the_page_want_a_page(run, forward):
    for option in (("--data", "x.npz"), ("--checkpoint", "c"), ("--no-check",), ("--batch-size", "2")):
        result = run("inspect", forward, *option)
        assert result.exit_code == 2
        assert "--html" in result.stderr
