"""Finalizing networks whose subgraphs return the statistics of their batch norms."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnx_cbp
from support.models import op_types, parse
from support.running import assert_same_results

VECTORS = "<float[3] s = {1, 2, 3}, float[3] z = {0, 0.5, 1}, float[3] m = {1, 2, 3}, float[3] v = {1, 2, 4}>"
X = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
YES, NO, TWICE = np.array(True), np.array(False), np.array(2)

TRAINS = "a, am, av = BatchNormalization <training_mode = 1> (i, s, z, rm, rv)"
KEPT = "bm = Identity (m) bv = Identity (v)"
#: Name, opset, the model that trains, what it is at inference, and inputs.
CASES = {
    "If": (
        15,
        f"""agraph (float[N, 3] x, bool c) => (float[N, 3] y, float[3] m2, float[3] v2) {VECTORS} {{
    y, m2, v2 = If (c) <then_branch = t () => (float[N, 3] a, float[3] am, float[3] av) {{
            i = Neg (x) rm = Identity (m) rv = Identity (v) {TRAINS} }},
        else_branch = e () => (float[N, 3] b, float[3] bm, float[3] bv) {{ b = Relu (x) {KEPT} }}> }}""",
        f"""agraph (float[N, 3] x, bool c) => (float[N, 3] y) {VECTORS} {{
    y = If (c) <then_branch = t () => (float[N, 3] a) {{ i = Neg (x) a = BatchNormalization (i, s, z, m, v) }},
        else_branch = e () => (float[N, 3] b) {{ b = Relu (x) }}> }}""",
        {"x": X, "c": YES},
    ),
    "If that returns them first, in double, and computed with afterwards": (
        15,
        f"""agraph (float[N, 3] x, bool c) => (double[3] m3, float[N, 3] y, double[3] v2) {VECTORS} {{
    m2, v2, y = If (c) <then_branch = t () => (double[3] am2, double[3] av2, float[N, 3] a) {{
            i = Neg (x) rm = Identity (m) rv = Identity (v) {TRAINS} am2 = Cast <to = 11> (am) av2 = Cast <to = 11> (av)
        }}, else_branch = e () => (double[3] bm2, double[3] bv2, float[N, 3] b) {{
            b = Relu (x) {KEPT} bm2 = Cast <to = 11> (bm) bv2 = Cast <to = 11> (bv) }}>
    m3 = Neg (m2) }}""",
        f"""agraph (float[N, 3] x, bool c) => (float[N, 3] y) {VECTORS} {{
    y = If (c) <then_branch = t () => (float[N, 3] a) {{ i = Neg (x) a = BatchNormalization (i, s, z, m, v) }},
        else_branch = e () => (float[N, 3] b) {{ b = Relu (x) }}> }}""",
        {"x": X, "c": NO},
    ),
    "If in an If, with the statistics of the batch": (
        13,
        f"""agraph (float[N, 3] x, bool c) => (float[N, 3] y, float[3] m2, float[3] v2) {VECTORS} {{
    y, m2, v2 = If (c) <then_branch = t () => (float[N, 3] q, float[3] qm, float[3] qv) {{
        q, qm, qv = If (c) <then_branch = u () => (float[N, 3] a, float[3] sm, float[3] sv) {{
                a, am, av, sm, sv = BatchNormalization (x, s, z, m, v) }},
            else_branch = d () => (float[N, 3] f, float[3] fm, float[3] fv) {{
                f = Neg (x) fm = Identity (m) fv = Identity (v) }}> }},
        else_branch = e () => (float[N, 3] b, float[3] bm, float[3] bv) {{ b = Relu (x) {KEPT} }}> }}""",
        f"""agraph (float[N, 3] x, bool c) => (float[N, 3] y) {VECTORS} {{
    y = If (c) <then_branch = t () => (float[N, 3] a) {{ a = BatchNormalization (x, s, z, m, v) }},
        else_branch = e () => (float[N, 3] b) {{ b = Relu (x) }}> }}""",
        {"x": X, "c": YES},
    ),
    "Loop that carries them": (
        15,
        f"""agraph (float[N, 3] x, int64 n) => (float[N, 3] y, float[3] m2, float[3] v2) {VECTORS} {{
    y, m2, v2 = Loop (n, , x, m, v) <body = b (int64 k, bool c, float[N, 3] i, float[3] rm, float[3] rv) =>
        (bool d, float[N, 3] a, float[3] am, float[3] av) {{ d = Identity (c) {TRAINS} }}> }}""",
        f"""agraph (float[N, 3] x, int64 n) => (float[N, 3] y) {VECTORS} {{
    y = Loop (n, , x) <body = b (int64 k, bool c, float[N, 3] i) => (bool d, float[N, 3] a) {{
        d = Identity (c) a = BatchNormalization (i, s, z, m, v) }}> }}""",
        {"x": X, "n": TWICE},
    ),
    "Loop that stacks them before a result": (
        15,
        f"""agraph (float[N, 3] x, int64 n) => (float[K, 3] m2, float[K, N, 3] all, float[N, 3] y) {VECTORS} {{
    y, m2, all = Loop (n, , x) <body = b (int64 k, bool c, float[N, 3] i) =>
        (bool d, float[N, 3] a, float[3] am, float[N, 3] h) {{
            d = Identity (c) rm = Identity (m) rv = Identity (v) {TRAINS} h = Neg (a) }}> }}""",
        f"""agraph (float[N, 3] x, int64 n) => (float[K, N, 3] all, float[N, 3] y) {VECTORS} {{
    y, all = Loop (n, , x) <body = b (int64 k, bool c, float[N, 3] i) => (bool d, float[N, 3] a, float[N, 3] h) {{
        d = Identity (c) a = BatchNormalization (i, s, z, m, v) h = Neg (a) }}> }}""",
        {"x": X, "n": TWICE},
    ),
    "Scan with axes and directions": (
        15,
        f"""agraph (float[K, N, 3] x) => (float[K, 3] all, float[3] v2, float[N, K, 3] y) {VECTORS} {{
    m2, v2, all, y = Scan (m, v, x) <num_scan_inputs = 1, scan_output_axes = [0, 1], scan_output_directions = [0, 1],
        body = b (float[3] rm, float[3] rv, float[N, 3] i) =>
            (float[3] am, float[3] av, float[3] sm, float[N, 3] a) {{ {TRAINS} sm = Identity (am) }}> }}""",
        f"""agraph (float[K, N, 3] x) => (float[N, K, 3] y) {VECTORS} {{
    y = Scan (x) <num_scan_inputs = 1, scan_output_axes = [1], scan_output_directions = [1],
        body = b (float[N, 3] i) => (float[N, 3] a) {{ a = BatchNormalization (i, s, z, m, v) }}> }}""",
        {"x": np.stack([X, -X])},
    ),
}


def _model(text: str, opset: int) -> onnx.ModelProto:
    return parse(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}')


@pytest.mark.parametrize("name", CASES)
def test_statistics_that_subgraphs_return_are_no_results(name):
    opset, trains, infers, feeds = CASES[name]
    model, wanted = _model(trains, opset), _model(infers, opset)
    finished = onnx_cbp.finalize(model)
    assert list(finished.graph.output) == list(wanted.graph.output)
    assert_same_results(finished, wanted, feeds)
    assert onnx_cbp.finalize(finished) == finished


@pytest.mark.parametrize("name", ["If", "If in an If, with the statistics of the batch"])
def test_branches_return_no_statistics_any_more(name):
    opset, trains, _, _ = CASES[name]
    finished = onnx_cbp.finalize(_model(trains, opset), outputs="y")
    assert op_types(finished) == ["If"]
    assert all(len(attribute.g.output) == 1 for attribute in finished.graph.node[0].attribute)


def test_what_only_a_removed_branch_read_goes_with_it():
    """The product is read by the batch norm alone then, so that is folded."""
    model = _model(
        """agraph (float[N, 3] x, bool c) => (float[N, 3] y)
<float[3, 3] w = {1, 2, 3, 4, 5, 6, 7, 8, 9}, float[3] s = {1, 2, 3}, float[3] z = {0, 0.5, 1},
 float[3] m = {1, 2, 3}, float[3] v = {1, 2, 4}> {
    h = MatMul (x, w)
    y = BatchNormalization (h, s, z, m, v)
    unread = If (c) <then_branch = t () => (float[N, 3] f) { f = Neg (h) },
        else_branch = e () => (float[N, 3] g) { g = Neg (x) }>
    last = Neg (unread) }""",
        15,
    )
    finished = onnx_cbp.finalize(model)
    assert not {"BatchNormalization", "If"} & set(op_types(finished))
    assert_same_results(finished, model, {"x": X, "c": YES})
    assert onnx_cbp.finalize(finished) == finished
