from __future__ import annotations

import onnx
import pytest

from support.models import FORWARD, op_types, parse


@pytest.fixture
def frozen(tmp_path):
    text = FORWARD.replace("training_mode: int = 1", "training_mode: int = 0").replace("y, new_mean, new_var =", "y =")
    model = parse(text.replace(", float[3] new_mean, float[3] new_var)", ")"))
    model.graph.node[0].name = "layer1.bn"
    onnx.save(model, tmp_path / "frozen.onnx")
    return tmp_path / "frozen.onnx"


def test_inspect_names_the_option_and_it_works(run, frozen, tmp_path):
    assert "--train 'layer1.bn' makes it train" in " ".join(run("inspect", frozen, "--json").stdout.split())
    result = run("rewrite", frozen, "-o", tmp_path / "out.onnx", "--train", "layer1.bn")
    assert result.exit_code == 0
    assert "1 batch norm node: 1 rewritten, 0 left alone" in result.stdout
    assert op_types(onnx.load(tmp_path / "out.onnx")) == ["BatchNormTrainUpdate"]


def test_a_pattern_that_chooses_nothing_writes_nothing(run, frozen, tmp_path):
    result = run("rewrite", frozen, "-o", tmp_path / "out.onnx", "--train", "layer1.*", "--train", "layer2.*")
    assert result.exit_code == 2
    assert "train: 'layer2.*' chooses no batch norm of the model" in result.stderr
    assert not (tmp_path / "out.onnx").exists()
