"""What the page of a model is made of: layers, drawings, statistics, check, and the file."""

from __future__ import annotations

import json
import re
from itertools import combinations

import numpy as np
import onnx
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.report import write_report
from onnx_cbp.report.document import collect
from onnx_cbp.report.layout import place
from support.made_up.hostile import HOSTILE, hostile_model
from support.models import INFERENCE, TRAINING, parse
from support.training import MODELS


def _ops(drawing, state):
    return sorted(node["op"] for node in drawing["nodes"] if node["state"] == state)


def test_a_layer_forward_and_its_gradient_are_one_row():
    document = collect(parse(TRAINING), check=False)
    (layer,) = document["layers"]
    forward, gradient = layer["parts"]
    assert (forward["title"], gradient["title"], layer["state"]) == ("Forward", "Gradient", "rewritten")
    assert (_ops(forward["before"], "old"), _ops(gradient["before"], "old")) == (
        ["BatchNormInternal"],
        ["BatchNormalizationGrad"],
    )
    assert _ops(forward["after"], "new") == ["BatchNormTrainUpdate", "InPlaceAccumulatorV2", "InPlaceAccumulatorV2"]
    assert _ops(gradient["after"], "new") == ["BatchNormGrad"]
    assert "BatchNormGrad" in _ops(forward["after"], "other")
    assert "--checkpoint" in layer["no_statistics"]


def test_a_sample_model_before_and_after():
    model = onnx.load(MODELS / "resnet_digits" / "training_model.onnx")
    document = collect(model, checkpoint=MODELS / "resnet_digits" / "checkpoint", check=False)
    assert len(document["layers"]) == 15
    for layer in document["layers"]:
        assert [part["title"] for part in layer["parts"]] == ["Forward", "Gradient"]
        assert sum(layer["statistics"]["mean"]["running"]) == layer["channels"]
        for part in layer["parts"]:
            assert "old" in {node["state"] for node in part["before"]["nodes"]}
            assert "new" in {node["state"] for node in part["after"]["nodes"]}
    done = collect(onnx_cbp.rewrite(model), check=False)
    assert [len(layer["parts"]) for layer in done["layers"]] == [2] * 15
    assert {layer["state"] for layer in done["layers"]} == {"done"}
    assert {part["after"] is None for layer in done["layers"] for part in layer["parts"]} == {True}


def test_statistics_are_held_against_data():
    x = np.random.default_rng(0).normal(2, 3, (32, 3, 4, 4)).astype(np.float32)
    model = parse(INFERENCE)
    document = collect(model, [x])
    (layer,) = document["layers"]
    assert (layer["state"], document["check"]["state"]) == ("frozen", "not run")
    mean, var = x.astype(float).mean((0, 2, 3)), x.astype(float).var((0, 2, 3), ddof=1)
    off = np.abs(np.array([1, -2, 0.25]) - mean) / np.sqrt(var + 1e-3)
    factor = (var + 1e-3) / (np.array([0.5, 4, 1]) + 1e-3)
    assert layer["statistics"]["mean_off"] == pytest.approx(off.max(), rel=1e-5)
    assert layer["statistics"]["var_off"] == pytest.approx(np.maximum(factor, 1 / factor).max(), rel=1e-5)
    bins = layer["statistics"]["mean"]
    assert sum(bins["running"]) == sum(bins["fresh"]) == 3
    assert (bins["edges"][0], bins["running"][0]) == (-2, 1)


def test_check_is_told_layer_by_layer():
    document = collect(hostile_model())
    assert document["check"]["state"] == "within"
    first, _ = document["layers"]
    assert {"rm", "rv"} <= {row["name"] for row in first["check"]}
    assert all(row["good"] for row in first["check"])


def test_nothing_in_the_data_means_anything_to_html(tmp_path):
    write_report(hostile_model(), tmp_path / "page.html", check=False)
    text = (tmp_path / "page.html").read_text()
    assert text.count("<script") == 2
    (inside,) = re.findall(r'id="document">(.*?)</script>', text, re.DOTALL)
    assert re.search(r"(src|href)\s*=|url\(|import\(", text.replace(inside, "")) is None
    assert not set(inside) & set("<>&'")
    assert json.loads(inside)["layers"][0]["name"] == HOSTILE["node"]


@pytest.mark.parametrize("field", ["epsilon", "momentum"])
def test_numbers_that_json_does_not_have(field):
    model = hostile_model()
    model.graph.node[0].attribute.append(onnx.helper.make_attribute(field, float("nan")))
    json.dumps(collect(model, check=False), allow_nan=False)


def test_statistics_that_are_not_finite_or_all_the_same():
    model = parse(INFERENCE)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    tensors["mean"].CopyFrom(onnx.numpy_helper.from_array(np.array([1, np.nan, np.inf], np.float32), "mean"))
    tensors["var"].CopyFrom(onnx.numpy_helper.from_array(np.ones(3, np.float32), "var"))
    statistics = collect(model, check=False)["layers"][0]["statistics"]
    assert statistics["mean"]["strange"] == 2
    assert sum(statistics["var"]["running"]) == 3
    json.dumps(statistics, allow_nan=False)


@pytest.mark.parametrize("seed", range(12))
def test_nodes_do_not_lie_on_one_another(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 14))
    edges = [(a, b) for a, b in combinations(range(count), 2) if rng.random() < 0.25]
    sizes = [(float(rng.integers(40, 200)), float(rng.integers(20, 90))) for _ in range(count)]
    placement = place(sizes, edges)
    boxes = [(x, y, x + w, y + h) for (x, y), (w, h) in zip(placement.places, sizes, strict=True)]
    assert all(x >= 0 and y >= 0 and a <= placement.width and b <= placement.height for x, y, a, b in boxes)
    for one, other in combinations(boxes, 2):
        apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
        assert apart, (one, other)
    for (tail, head), route in zip(edges, placement.routes, strict=True):
        assert boxes[tail][3] < boxes[head][1], "edges lead down"
        assert route[0][1] == boxes[tail][3]
        assert route[-1][1] == boxes[head][1]


def test_a_chain_stands_in_one_column():
    placement = place([(50, 20)] * 4, [(0, 1), (1, 2), (2, 3)])
    assert len({x for x, _ in placement.places}) == 1


def test_the_file_is_written_whole_or_not_at_all(tmp_path):
    with pytest.raises(OnnxCbpError, match="does not exist"):
        write_report(parse(INFERENCE), tmp_path / "missing" / "page.html")
    with pytest.raises(OnnxCbpError, match="is a folder"):
        write_report(parse(INFERENCE), tmp_path)
    (tmp_path / "page.html").write_text("before")
    with pytest.raises(OnnxCbpError, match="nothing is fed to 'x'"):
        write_report(parse(INFERENCE), tmp_path / "page.html", batches=[{}])
    assert (tmp_path / "page.html").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
