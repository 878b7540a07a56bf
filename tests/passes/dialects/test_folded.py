"""Batch norms that an exporter folded away are named by what it wrote down, and none is seen where none was."""

from __future__ import annotations

import onnx
import pytest

from onnx_cbp import OnnxCbpError, inspect, rewrite
from support.models import FORWARD, parse

CONVOLUTION = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, 8, 8] x, float[4, 3, 3, 3] w, float[4] b) => (float[N, 4, 6, 6] y) { y = Conv (x, w, b) }
"""
RULE, NODE, CLASSES = (
    "pkg.onnxscript.rewriter.rule_name",
    "pkg.torch.onnx.fx_node",
    "pkg.torch.onnx.class_hierarchy",
)
BATCH_NORM = "aten._native_batch_norm_legit_no_training.default"


def convolution(metadata=(), weights=("w", "b")) -> onnx.ModelProto:
    model = parse(CONVOLUTION)
    (node,) = model.graph.node
    node.name = "layer1.conv"
    for value, name in zip(model.graph.input[1:], weights, strict=True):
        value.name = name
    node.input[1:] = weights
    for key, text in dict(metadata).items():
        node.metadata_props.add(key=key, value=text)
    return model


@pytest.mark.parametrize(
    "metadata",
    [
        {RULE: "RemoveOptionalBiasFromConv, FuseBatchNormIntoConv"},
        {NODE: f"%bn = call_function[target=torch.ops.{BATCH_NORM}](args = (%conv2d, %w), kwargs = {{}})"},
        {CLASSES: f"['Net', 'torch.nn.modules.batchnorm.BatchNorm2d', '{BATCH_NORM}']"},
    ],
    ids=["rule", "call", "classes"],
)
def test_what_the_exporter_wrote_down(metadata):
    model = convolution(metadata)
    (found,) = inspect(model)
    assert (found.node, found.form, found.rewritten) == ("layer1.conv", "folded into Conv", False)
    assert found.explanation == (
        "left alone: the exporter folded a batch norm into it, so none is left to train: "
        "torch.onnx.export(..., dynamo=True, optimize=False) keeps it"
    )
    assert rewrite(model) == model
    with pytest.raises(OnnxCbpError, match=r"'layer1.conv' \(folded into Conv\) cannot be made to train"):
        rewrite(model, train="*")


def test_names_alone_are_probable():
    (found,) = inspect(convolution(weights=("onnx::Conv_14", "onnx::Conv_15")))
    assert "probably" in found.explanation


@pytest.mark.parametrize(
    ("metadata", "weights"),
    [
        ({}, ("batch_norm.weight", "conv_bias")),
        ({}, ("onnx::Conv_14", "conv.bias")),
        ({RULE: "RemoveOptionalBiasFromConv"}, ("w", "b")),
        ({NODE: "%c = call_function[target=torch.ops.aten.conv2d.default](args = (%batch_norm, %w))"}, ("w", "b")),
        ({CLASSES: "['Batch_norm_net', 'torch.nn.modules.conv.Conv2d', 'aten.conv2d.default']"}, ("w", "b")),
    ],
)
def test_none_is_seen_where_none_was(metadata, weights):
    assert inspect(convolution(metadata, weights)) == []


def test_one_beside_a_batch_norm_that_is_synchronized_is_no_obstacle():
    model = onnx.compose.merge_models(
        onnx.compose.add_prefix(convolution({RULE: "FuseBatchNormIntoConv"}), "a/"),
        parse(FORWARD.replace("N, 3", "N, 4").replace("float[3]", "float[4]")),
        io_map=[("a/y", "x")],
    )
    rewritten = rewrite(model, synchronize=True)
    assert "AllGather" in [node.op_type for node in rewritten.graph.node]
