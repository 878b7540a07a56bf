"""Graphs whose input was given a free batch size afterwards: the shapes between their nodes have the old one.

ONNX Runtime warns at most, and computes sizes from such shapes; what is written from them would be for that one size.
"""

from __future__ import annotations

import importlib

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime as ort
import pytest

import onnx_cbp
from onnx_cbp.graph_passes.differentiating import DifferentiatePass
from onnx_cbp.training import generate_artifacts
from support.ops import session

#: {old} is the batch size of the shapes between the nodes.
MODEL = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3, 4, 4] x) => (float[{old}, 3] y, float loss{more})
<
    float[3] s = {{1.5, 0.5, -2}}, float[3] b = {{0.5, 0, 1}}, float[3] m = {{0, 0, 0}}, float[3] v = {{1, 1, 1}},
    int64[1] first = {{0}}, int64[2] others = {{3, 16}},
    float[{old}, 3, 4, 4] a, float[{old}, 3, 16] r, float[{old}, 3, 16] n, float[{old}, 3] y
>
{{
    a = Relu (x)
    sizes = Shape (a)
    batch = Gather (sizes, first)
    whole = Concat <axis = 0> (batch, others)
    r = Reshape (a, whole)
    n{written} = BatchNormalization {form} (r, s, b, m, v)
    e = Exp (n)
    y = ReduceMean <axes = [2], keepdims = 0> (e)
    loss = ReduceMean <keepdims = 0> (y)
}}
"""
X = np.random.default_rng(3).normal(size=(5, 3, 4, 4)).astype(np.float32)


def model(old, *, trains=False):
    more = (", float[3] p, float[3] q", ", p, q", "<training_mode = 1>") if trains else ("", "", "")
    return onnx.parser.parse_model(MODEL.format(old=old, more=more[0], written=more[1], form=more[2]))


def ran(made, backend=None):
    return session(made, backend).run(None, {"x": X})


def finalized(old, _folder):
    return ran(onnx_cbp.finalize(model(old)))


def rewritten(old, _folder):
    return ran(onnx_cbp.rewrite(model(old, trains=True), unbiased_running_var=True), "python")


def portable(old, _folder):
    return ran(onnx_cbp.rewrite(model(old, trains=True), portable=True))


def with_new_statistics(old, _folder):
    return ran(onnx_cbp.finalize(onnx_cbp.update_bn(model(old), [{"x": X}])))


def differentiated(old, _folder):
    inner = ir.from_proto(model(old))
    DifferentiatePass("loss", ["s", "b"])(inner)
    return ran(ir.to_proto(inner), "python")


def trained(old, folder, builder="onnx_cbp"):
    how = {"loss": "MSELoss", "loss_input_names": ["y"], "train_batch_norms": "*", "builder": builder}
    generate_artifacts(model(old), ["s", "b"], **how, artifact_directory=folder)
    runs = importlib.import_module(f"{builder}.training.api")
    state = runs.CheckpointState.load_checkpoint(folder / "checkpoint")
    options = ort.SessionOptions()
    if builder == "onnxruntime":
        onnx_cbp.register(options)
    module = runs.Module(folder / "training_model.onnx", state, session_options=options)
    loss = module(X, np.ones((5, 3), np.float32))
    return [np.asarray(loss), *(p.grad for _, p in state.parameters if p.requires_grad)]


@pytest.mark.parametrize("old", [1, 7, 2**40])
@pytest.mark.parametrize(
    "verb", [finalized, rewritten, portable, with_new_statistics, differentiated, trained], ids=lambda v: v.__name__
)
def test_the_old_batch_size_is_not_relied_on(verb, old, tmp_path):
    for got, want in zip(verb(old, tmp_path), verb("N", tmp_path), strict=True):
        assert got.shape == want.shape
        np.testing.assert_array_equal(got, want)


@pytest.mark.training
def test_nor_by_the_gradient_builder_of_onnx_runtime(tmp_path):
    got = trained(7, tmp_path, "onnxruntime")
    for each, want in zip(got, trained("N", tmp_path), strict=True):
        np.testing.assert_allclose(each, want, rtol=1e-4)


#: The old size stands on one side of an addition, behind an op through which no name is followed, or from an input
#: whose free sizes have no names.
BEHIND = """
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[{new}, 3, 4, 4] x) => (float[{new}, 3, 4, 4] y, float loss)
<
    float[1, 3, 1, 1] w = {{1, 2, 3}}, float[3, 3, 1, 1] k = {{1, 2, 3, 4, 5, 6, 7, 8, 9}},
    float[4] twice = {{1, 1, 2, 2}},
    int64[1] first = {{0}}, float one = {{1}},
    float[{old}, 3, 2, 2] p, float[{old}, 3, 4, 4] u, float[{old}, 3, 4, 4] z
>
{{
    sizes = Shape <start = 0, end = 1> (x)
    as_float = Cast <to = 1> (sizes)
    product = Mul (as_float, one)
    ends = Cast <to = 7> (product)
    p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (x)
    u = {up}
    z = {product}
    y = Add (x, z)
    square = Mul (y, y)
    loss = ReduceMean <keepdims = 0> (square)
}}
"""


#: Ends of a slice that were computed in floating point, through which inference does not follow even numbers.
COMPUTED = "Slice (x, first, ends, first)"


@pytest.mark.parametrize("up", ["Resize (p, , twice)", "Identity (x)", COMPUTED])
@pytest.mark.parametrize("product", ["Mul (u, w)", "Conv (u, k)"])
@pytest.mark.parametrize("old", [1, 4])
@pytest.mark.parametrize("new", ["N", None])
def test_where_no_name_is_followed(new, old, product, up):
    def gradients(old):
        made = onnx.parser.parse_model(BEHIND.format(new=new or "N", old=old, product=product, up=up))
        for value in () if new else (made.graph.input[0], made.graph.output[0]):
            value.type.tensor_type.shape.dim[0].Clear()
        inner = ir.from_proto(made)
        DifferentiatePass("loss", ["w" if product == "Mul (u, w)" else "k"])(inner)
        return ran(ir.to_proto(inner), "auto")

    for got, want in zip(gradients(old), gradients("N"), strict=True):
        np.testing.assert_array_equal(got, want)


def test_a_size_that_a_graph_fixes_itself_stays():
    """A free input that is added to a constant of seven samples has seven, or one."""
    made = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 17]>
    agraph (float[N, 3] x) => (float[7, 3] y) <float[7, 3] a>
    { w = ConstantOfShape (sizes) a = Add (x, w) y = Relu (a) }
    """)
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([7, 3]), "sizes"))
    final = onnx_cbp.finalize(made)
    assert [size.dim_value for size in final.graph.output[0].type.tensor_type.shape.dim] == [7, 3]
