"""The measuring script, where only the device differs: tiny shapes on the processor."""

from __future__ import annotations

import dataclasses
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from support.gpu.cuda import TorchDevice


@pytest.fixture
def measure(monkeypatch):
    if not find_spec("torch"):
        pytest.skip("PyTorch is not installed here, which the kernels are measured against")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import measure

    return measure


def test_a_table_and_a_file(measure, kernels, device, tmp_path, capsys):
    if not isinstance(device, TorchDevice):
        pytest.skip("what is measured is in PyTorch's tensors")
    rows = measure.measure(kernels, device.name, ["float32", "bfloat16"], batch=2, quick=True, rounds=1)
    names = {row.kernel for row in rows}
    assert len(rows) == len(names) * 5 * 2 * 2
    assert len(names) == 10
    for row in rows:
        assert row.milliseconds > 0
        assert row.of_bandwidth > 0
        assert row.reached
    # PyTorch has these on every device.
    everywhere = [row for row in rows if row.kernel.startswith("batch_norm_")]
    assert len(everywhere) == 6 * 5 * 2 * 2
    assert all(row.against_torch and row.right for row in everywhere), [row for row in everywhere if not row.right]
    measure.show(rows, "a title")
    table = capsys.readouterr().out
    assert "batch_norm_recompute_relu_grad" in table
    assert "of 200 rows" in table
    measure.save(rows, tmp_path / "rows.json", {"gpu": "none"})
    saved = json.loads((tmp_path / "rows.json").read_text())
    assert len(saved["rows"]) == len(rows)
    assert saved["rows"][0]["reached"]


def test_a_wrong_result_is_seen(measure, kernels, device):
    if not isinstance(device, TorchDevice):
        pytest.skip("what is measured is in PyTorch's tensors")
    from contenders import Shape

    shape = Shape(kernels, device.name, (2, 8, 7, 7), "float32")
    work = {made.name: made for made in shape.work()}
    assert shape.is_right(work["batch_norm_grad"])
    broken = dataclasses.replace(work["batch_norm_grad"], ours=lambda: None)
    assert not shape.is_right(broken)
    other = dataclasses.replace(work["batch_norm_grad"], ours=work["batch_norm_relu_grad"].ours)
    assert not shape.is_right(other)


def test_medians_are_of_every_contender(measure):
    from timing import medians

    calls = {"a": 0, "b": 0}

    def count(name):
        def call():
            calls[name] += 1

        return call

    found = medians("cpu", {name: count(name) for name in calls}, rounds=3, budget=0.01)
    assert set(found) == {"a", "b"}
    assert min(calls.values()) >= 5


def test_without_a_gpu_it_says_so_and_ends_with_2(measure, monkeypatch, capsys):
    monkeypatch.setattr(measure, "why_no_gpu", lambda: "there is none")
    monkeypatch.setattr("sys.argv", ["measure.py"])
    assert measure.main() == 2
    assert capsys.readouterr().err == "the kernels cannot be measured: there is none\n"
