"""Batch norms chosen by the module that PyTorch's default exporter wrote down for them."""

from __future__ import annotations

import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError
from support.models import parse

KEY = "pkg.torch.onnx.name_scopes"
#: Modules by node, as the exporter has them: the root, modules from the outermost in, the operation.
MODULES = {
    "node_batch_norm": "['', 'stem', 'stem.1', 'batch_norm']",
    "node_batch_norm_1": "['', 'layer1.0', 'layer1.0.bn', 'batch_norm_1']",
    "node_batch_norm_2": "['', 'layer1.1', 'layer1.1.bn', 'batch_norm_2']",
}
TEXT = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, 4] x, float[3] s, float[3] b, float[3] m, float[3] v) => (float[N, 3, 4] z)
{{
    y, m1, v1 = BatchNormalization {mode} (x, s, b, m, v)
    w, m2, v2 = BatchNormalization {mode} (y, s, b, m1, v1)
    z, m3, v3 = BatchNormalization {mode} (w, s, b, m2, v2)
}}
"""
INFERENCE = TEXT.replace(", m1, v1 =", " =").replace(", m2, v2 =", " =").replace(", m3, v3 =", " =")
INFERENCE = INFERENCE.replace("m1, v1", "m, v").replace("m2, v2", "m, v")


def model(*, trains=True, modules=None):
    made = parse((TEXT if trains else INFERENCE).format(mode="<training_mode: int = 1>" if trains else ""))
    for node, (name, scopes) in zip(made.graph.node, (modules or MODULES).items(), strict=True):
        node.name = name
        node.metadata_props.add(key=KEY, value=scopes)
    return made


PATTERNS = {
    "layer1.0.bn": [1],
    "layer1.1": [2],
    "layer1*": [1, 2],
    "layer1.?.bn": [1, 2],
    "*bn": [1, 2],
    "stem*": [0],
    "node_batch_norm": [0],
    "*batch_norm_[12]": [1, 2],
    "*": [0, 1, 2],
}


def _chosen(found, word):
    return [index for index, finding in enumerate(found) if word in finding.explanation]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_option_takes_them(pattern):
    want, found = PATTERNS[pattern], []
    onnx_cbp.rewrite(model(), freeze=pattern, report=found.extend)
    assert _chosen(found, "frozen: normalised with its running statistics") == want
    found = []
    onnx_cbp.rewrite(model(), synchronize={pattern: "size:2"}, report=found.extend)
    assert _chosen(found, "over all replicas of group 'size:2'") == want
    found = []
    onnx_cbp.rewrite(model(trains=False), train=[pattern], report=found.extend)
    assert _chosen(found, "batch statistics") == want


def test_the_first_pattern_that_fits_decides():
    found = []
    groups = {"layer1.0.bn": "size:2", "layer1.?": "size:3", "node_*": "size:4"}
    onnx_cbp.rewrite(model(), synchronize=groups, report=found.extend)
    assert [_chosen(found, f"'size:{size}'") for size in (2, 3, 4)] == [[1], [2], [0]]


@pytest.mark.parametrize("pattern", ["batch_norm", "layer1.0.b", "Layer1", "layer2*", "layer1.0.bn.running_mean"])
def test_a_pattern_that_no_name_and_no_module_fits_is_refused(pattern):
    for options in ({"freeze": pattern}, {"synchronize": {pattern: "world"}}):
        with pytest.raises(OnnxCbpError, match="chooses no batch norm of the model"):
            onnx_cbp.rewrite(model(), **options)
    with pytest.raises(OnnxCbpError, match="chooses no batch norm of the model"):
        onnx_cbp.rewrite(model(trains=False), train=pattern)


@pytest.mark.parametrize("switches", [{}, {"one_pass": False}, {"synchronize": True}], ids=str)
def test_a_rewritten_model_keeps_them(switches):
    rewritten = onnx_cbp.rewrite(model(), **switches)
    assert [f.module for f in onnx_cbp.inspect(rewritten)] == ["stem.1", "layer1.0.bn", "layer1.1.bn"]
    with pytest.raises(OnnxCbpError, match="cannot be frozen: it is rewritten already"):
        onnx_cbp.rewrite(rewritten, freeze="layer1.0.bn")


@pytest.mark.parametrize("text", ["", "[", "7", "{'a': 1}", "['', 3, 'x']", "['batch_norm']", "[]", "(" * 500])
def test_metadata_that_says_nothing_names_nothing(text):
    found = onnx_cbp.inspect(model(modules=dict.fromkeys(MODULES, text)))
    assert [f.module for f in found] == ["", "", ""]
    assert "module" not in found[0].as_dict()
