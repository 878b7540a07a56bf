"""Every gradient rule against ONNX Runtime 1.19.2's own gradient of the op, where it has one.

Where the two differ, differences of the op in double say who is right: it is ours. What is wrong or missing in ONNX
Runtime is listed below, and a test fails when an entry is no longer true. What `generate_artifacts` hands its builder
has little of it: each case goes through `suit_builder`, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from onnx_cbp import OnnxCbpError
from support.gradients.gradient_cases import CASES, Case, with_fixed_sizes
from support.gradients.gradient_driver import (
    Arrays,
    differences,
    directions,
    feeds_of,
    forward_model,
    newest_opset,
    runner,
    with_gradients,
)

pytestmark = pytest.mark.training
ort_gradients = pytest.importorskip("support.gradients.ort_gradients")

#: Ops that its builder has no gradient of, or one without a kernel for the processor.
WITHOUT = frozenset(
    (
        *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "CastLike", "Celu", "CenterCropPad", "Compress"),
        *("ConvTranspose", "Cosh"),
        *("CumSum", "DeformConv", "DepthToSpace", "Einsum", "Elu", "GlobalLpPool", "GlobalMaxPool", "GridSample"),
        *(
            "GroupNormalization",
            "HardSigmoid",
            "HardSwish",
            "InstanceNormalization",
            "LRN",
            "LpNormalization",
            "LpPool",
            "Mean",
            "Mish",
        ),
        *("Mod", "NegativeLogLikelihoodLoss", "OneHot", "PRelu", "RMSNormalization", "ReduceL1", "ReduceLogSum"),
        *("ReduceMax", "ReduceMin", "ReduceProd", "ReduceSumSquare", "Resize", "ReverseSequence", "RoiAlign", "Selu"),
        *("Shrink", "Sinh", "Softplus", "Softsign", "SpaceToDepth", "Sum", "Swish", "Tan", "ThresholdedRelu"),
    )
)


@dataclass(frozen=True)
class Known:
    """A form of an op whose gradient ONNX Runtime has wrong, or not at all.

    Attributes:
        form: a pattern that is found in the text of a case.
        why: what is wrong there.
        fails: there is no gradient; otherwise a wrong one.
        free: only where a size is not fixed.
        ends: it may end the process, so it is not run.
    """

    form: str
    why: str
    fails: bool = False
    free: bool = False
    ends: bool = False


KNOWN = (
    Known("^(Add|Sub|Mul) sizes found out", "what was broadcast by a size of 1 is not summed", free=True),
    Known("^AveragePool (?!.*(auto_pad|dilations|Nx1x3x4x3))", "the gradient has no samples", free=True),
    Known("^AveragePool .*auto_pad", "auto_pad is not looked at"),
    Known("^AveragePool .*dilations", "dilations are not looked at"),
    Known("^AveragePool Nx1x3x4x3", "strides of three axes of space are mixed up"),
    Known("^BatchNormalization (?!training)", "running statistics have none", fails=True),
    Known("^Cast .*to=11", "a loss in double does not fit it", fails=True),
    Known("^Clip .*,", "bounds have none", fails=True),
    Known("^Conv .*auto_pad=SAME", "auto_pad is not looked at"),
    Known("^Dropout", "it is scaled in inference form, too"),
    Known("^Gelu .*tanh", "it is that of the exact form"),
    Known("^Gemm .*beta=2", "that of a scalar is a vector of one element"),
    Known("^LayerNormalization .*axis=1", "a bias that is left out is read", fails=True),
    Known("^MatMul (Nx3,3|3,Nx3x2|3,3)$", "vectors are taken for matrices", fails=True),
    Known(r"^Pad .*mode=|^Pad Nx3x4,\[1,2\]", "there is one for mode = constant alone, without axes", fails=True),
    Known("^MaxPool .*MxM", "height and width that are open are 0 to it", free=True, ends=True),
    Known("^Pow (sizes|Nx3x4,|1x4,|,)", "the exponent has none", fails=True),
    Known("^Pow integer exponent", "an exponent of another type does not fit it", fails=True),
    Known(r"^ReduceL2 .*\[0,1,2\] keepdims=0", "without keepdims it has the wrong rank"),
    Known("^Reduce(L2|LogSumExp) Nx3x4 keepdims=0", "without keepdims it is not valid", fails=True),
    Known("^Scatter(Elements|ND) .*reduction=add", "reduction is not looked at"),
    Known(r"^Slice Nx(7|6x4).*-", "steps from the back fail", fails=True),
    Known("^SoftmaxCrossEntropyLoss and log_prob", "that of its log_prob is left out"),
    Known("^SoftmaxCrossEntropyLoss by log_prob", "that of its log_prob is left out", fails=True),
    Known("^Split one part", "what goes unread is left out"),
    Known("^Transpose Nx3x4$", "it has none without perm", fails=True),
    Known("^Where Nx3x4,4|^Where 2x1", "what was broadcast is not summed"),
)
#: What stays so in what `generate_artifacts` hands it.
KEPT = (
    Known("^(Add|Sub|Mul|Pow) sizes found out", "what was broadcast by a size of 1 is not summed"),
    Known("^AveragePool .*ceil_mode=1 pads.*count_include_pad", "its forward kernel is wrong"),
    Known("^BatchNormalization (?!training)", "running statistics have none", fails=True),
    Known("^Cast .*to=11", "a loss in double does not fit it", fails=True),
    Known("^Clip .*,", "bounds have none", fails=True),
    Known("^Gemm .*beta=2", "that of a scalar is a vector of one element"),
    Known("^SoftmaxCrossEntropyLoss and log_prob", "that of its log_prob is left out"),
    Known("^SoftmaxCrossEntropyLoss by log_prob", "that of its log_prob is left out", fails=True),
)
#: Ops that `suit_builder` refuses: it has no other form for them.
REFUSED = frozenset(
    (
        *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "CenterCropPad", "Compress", "Cosh", "CumSum"),
        *("DeformConv", "Einsum"),
        *("GlobalLpPool", "GridSample", "LRN", "LpPool", "Mod", "OneHot", "RMSNormalization", "ReduceProd"),
        *("ReverseSequence", "RoiAlign", "Sinh", "Tan"),
    )
)
#: Forms of others that it refuses.
REFUSED_FORMS = ("reduction=add", "CRD.*12xNx1|12xNx1.*CRD", "^MaxPool .*MxM")
NEWEST = newest_opset()
OF_ONNX = [case for case in CASES if not case.domain and case.since <= NEWEST]


def known(case: Case, sizes: str, among: tuple[Known, ...] = KNOWN) -> Known | None:
    """What is known of a case with "free" or "fixed" sizes."""
    found = [each for each in among if re.search(each.form, str(case)) and (sizes == "free" or not each.free)]
    assert len(found) <= 1, found
    return found[0] if found else None


def _runs() -> Iterator[tuple[Case, str]]:
    for case in OF_ONNX:
        free = known(case, "free")
        if free is None or not free.ends:
            yield case, "free"
        if known(case, "free") != known(case, "fixed"):
            yield case, "fixed"


RUNS = list(_runs())


@pytest.mark.parametrize(("case", "sizes"), RUNS, ids=[f"{case} {sizes}" for case, sizes in RUNS])
def test_a_rule_equals_onnx_runtimes(case: Case, sizes: str):
    expected = known(case, sizes)
    case = case if sizes == "free" else with_fixed_sizes(case)
    if case.op in WITHOUT or (expected is not None and expected.fails):
        with pytest.raises(ort_gradients.NoGradientError):
            apart(case)
    elif expected is None:
        assert apart(case) == ""
    else:
        assert apart(case) != "", f"it is right by now: {expected.why}"
        hold_against_differences(case)


@pytest.mark.parametrize("case", OF_ONNX, ids=str)
def test_what_the_builder_is_given_is_right_or_refused(case: Case):
    expected = known(case, "free", KEPT)
    if expected is not None and expected.fails:
        with pytest.raises(ort_gradients.NoGradientError):
            apart(case, suited=True)
        return
    refused = case.op in REFUSED or any(re.search(form, str(case)) for form in REFUSED_FORMS)
    if refused:
        with pytest.raises(OnnxCbpError, match=r"^[^\n]*node 'node' [^\n]*$"):
            apart(case, suited=True)
        return
    difference = apart(case, suited=True)
    assert (difference != "") == (expected is not None), difference or expected


def test_every_entry_is_met():
    for entries in (KNOWN, KEPT):
        for entry in entries:
            assert any(re.search(entry.form, str(case)) for case in OF_ONNX), entry
    assert {case.op for case in OF_ONNX} >= WITHOUT - {"RMSNormalization", "Swish"}  # those are newer


def apart(case: Case, *, suited: bool = False) -> str:
    """In what ONNX Runtime's gradients differ from ours; "" where they do not."""
    feeds = feeds_of(case, 2, seed=5)
    theirs = ort_gradients.builders_gradients(case, suited=suited)
    seeds, want = ours(case, feeds)
    got = theirs({**feeds, **seeds})
    for name, expected in want.items():
        if got[name].shape != expected.shape:
            return f"{name} has shape {got[name].shape}"
        error = np.abs(got[name] - expected).max()
        if not error <= 2e-5 * max(1.0, np.abs(expected).max()):
            return f"{name} is off by {error:.2g}"
    return ""


def ours(case: Case, feeds: Arrays) -> tuple[Arrays, Arrays]:
    """Random gradients to begin with, and what our rule makes of them, in double."""
    forward, names = forward_model(case, case.since), ort_gradients.names_of(case)
    run, gradients = (
        runner(model, "reference", keeps_float=not case.single)
        for model in (forward, with_gradients(forward, case.seeded, names))
    )
    outputs, rng = run(feeds), np.random.default_rng(5)
    seeds = {f"dy{i}": rng.uniform(0.5, 1.5, outputs[i].shape).astype(outputs[i].dtype) for i in case.seeded}
    return seeds, dict(zip(names, gradients({**feeds, **seeds}), strict=True))


def hold_against_differences(case: Case) -> None:
    """Our gradients are those of the op in double."""
    feeds = feeds_of(case, 2, seed=5)
    seeds, gradients = ours(case, feeds)
    run = runner(forward_model(case, case.since), "reference", keeps_float=not case.single)
    for name, gradient in gradients.items():
        want = differences(run, feeds, seeds, name)
        got = np.array([(gradient * direction).sum() for direction in directions(gradient.shape)])
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * max(1.0, np.abs(want).max()))
