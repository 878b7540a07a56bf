"""Two replicas of our artifacts take the steps of one process with the whole batch."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp import OnnxCbpError, distributed
from onnx_cbp.training.api import CheckpointState
from onnx_cbp.training.losses import CrossEntropyLoss, MSELoss
from onnx_cbp.training.optimizers import SGD, AdamW
from support.stepping import DROPOUT, NORMALISED, PERCEPTRON, Training, batches, network, normalised_weights, weights

pytestmark = pytest.mark.native
REPLICAS = {"synchronize": True, "data_parallel": True}
LOSSES = {
    "plain": "CrossEntropyLoss",
    "weights": CrossEntropyLoss(weight=[0.5, 2, 1], ignore_index=1),
    "sum": CrossEntropyLoss(reduction="sum"),
    "mse": "MSELoss",
    "mse, sum": MSELoss(reduction="sum"),
}


#: The gradient of w3 comes of no batch norm's gradient.
BEHIND = NORMALISED.replace("=> (float[N, 3] logits)", "=> (float[N, 3] behind)").replace(
    "}", "    behind = MatMul (logits, w3)\n}"
)


@pytest.fixture(autouse=True)
def _alone():
    yield
    distributed.finalize()


def _data(loss: str, number: int):
    data = batches(number, 5, size=12)
    if "mse" not in loss:
        return data
    rng = np.random.default_rng(1)
    return [(x, rng.standard_normal((len(x), 3)).astype(np.float32)) for x, _ in data]


@pytest.mark.product
@pytest.mark.parametrize(
    ("text", "loss", "bucket_cap_mb"),
    [
        *(("plain", loss, 25) for loss in LOSSES),
        *(("batch norm", loss, 1e-4) for loss in LOSSES),
        *(("a layer behind it", loss, 25) for loss in ("plain", "mse")),
    ],
)
def test_unequal_shards_are_one_batch(text, loss, bucket_cap_mb, tmp_path):
    model = network(PERCEPTRON, weights(0)) if text == "plain" else network(NORMALISED, normalised_weights(0))
    if text == "a layer behind it":
        model = network(BEHIND, normalised_weights(0) | {"w3": np.eye(3, dtype=np.float32) + np.float32(0.1)})
    options = REPLICAS if text != "plain" else {"data_parallel": True}
    data = _data(loss, 3)
    given = {"loss": LOSSES[loss], "optimizer": SGD(momentum=0.9)}
    alone = Training(model, tmp_path / "alone", **given)
    shared = {**given, "rewrite_options": {**options, "bucket_cap_mb": bucket_cap_mb}}
    Training(model, tmp_path / "replicas", **shared)
    rate = 0.002 if "sum" in loss else 0.05
    want = _run(alone, data, rate, slice(None))

    def replicate():
        trained = Training.at(tmp_path / "replicas")
        return _run(trained, data, rate, slice(0, 5) if distributed.rank() == 0 else slice(5, None))

    for losses, values in distributed.run_replicas(replicate, 2):
        np.testing.assert_allclose(losses, want[0], rtol=1e-5)
        for name, value in want[1].items():
            np.testing.assert_allclose(values[name], value, rtol=1e-4, atol=1e-5)


def _run(trained, data, rate, shard):
    trained.optimizer.set_learning_rate(rate)
    losses = [trained.step(*(each[shard] for each in batch)) for batch in data]
    return losses, trained.values()


def test_alone_such_artifacts_train_as_others(tmp_path):
    model = network(NORMALISED, normalised_weights(0))
    one, other = (
        Training(model, tmp_path / str(n), optimizer=AdamW(), rewrite_options=o) for n, o in enumerate([{}, REPLICAS])
    )
    for batch in batches(3, 6):
        assert one.step(*batch) == pytest.approx(other.step(*batch), rel=1e-6)


def test_without_the_library_there_are_no_replicas(tmp_path):
    options = {"portable": True, "data_parallel": True}
    with pytest.raises(OnnxCbpError, match="portable and data_parallel exclude each other"):
        Training(network(PERCEPTRON, weights(0)), tmp_path, rewrite_options=options)


def test_replicas_drop_different_elements_and_save_one_random_state(tmp_path):
    model = network(DROPOUT, weights(0))
    Training(model, tmp_path, rewrite_options={"data_parallel": True}, additional_output_names=["kept"])

    def replicate():
        trained = Training.at(tmp_path)
        x, labels = np.ones((64, 5), np.float32), np.zeros(64, np.int64)

        def mask():
            dropped = np.asarray(trained.module(x, labels)[1]) == 0
            trained.optimizer.step()
            trained.module.lazy_reset_grad()
            return dropped

        masks = [mask(), mask()]
        if distributed.rank() == 0:
            CheckpointState.save_checkpoint(trained.state, tmp_path / "saved", include_optimizer_state=True)
        masks.append(mask())  # one message at least, so the file is there
        state = trained.state.random_state
        trained.load(tmp_path / "saved")
        masks.append(mask())
        return masks, (state, trained.state.random_state)

    (first, states), (second, other_states) = distributed.run_replicas(replicate, 2)
    assert len({*states, *other_states}) == 1
    for one, other in zip(first, second, strict=True):
        assert (one != other).mean() > 0.1
    for masks in (first, second):
        assert all((masks[i] != masks[j]).mean() > 0.1 for i, j in ((0, 1), (1, 2), (0, 2)))
        np.testing.assert_array_equal(masks[2], masks[3])  # from the same checkpoint on


def test_what_counts_samples_is_refused(tmp_path):
    counts = """
    <ir_version: 8, opset_import: ["" : OPSET]>
    counts (float[N, 5] x) => (float[N, 3] logits)
    {
        h = MatMul (x, w)
        samples = Shape <start = 0, end = 1> (h)
        n = Cast <to = 1> (samples)
        logits = Div (h, n)
    }"""
    model = network(counts, {"w": np.ones((5, 3), np.float32)})
    for options in (REPLICAS, {"data_parallel": True}):
        with pytest.raises(OnnxCbpError, match="calculates with the number of samples"):
            Training(model, tmp_path, rewrite_options=options)


#: Two losses of a batch, side by side.
TWO_LOSSES = """entropy = SoftmaxCrossEntropyLoss (logits, y)
        squares = Mul (logits, logits)
        size = ReduceMean <keepdims = 0> (squares)
        axis = Constant <value_ints = [0]> ()
        losses_0 = Unsqueeze (entropy, axis)
        losses_1 = Unsqueeze (size, axis)
        losses = Concat <axis = 0> (losses_0, losses_1)"""
#: The positive elements of logits, as exporters write `logits[logits > 0]`.
CHOSEN = """
        least = Sub (one, one)
        are_above = Greater (logits, least)
        found = NonZero (are_above)
        where = Transpose (found)
        chosen = GatherND (logits, where)"""
#: Losses that the graph itself computes of logits and y.
OWN = {
    "cross entropy": "own = SoftmaxCrossEntropyLoss <ignore_index = 1> (logits, y, rates)",
    "logarithms": """
        logs = LogSoftmax (logits)
        own = NegativeLogLikelihoodLoss (logs, y)""",
    "with a penalty": """
        entropy, logs = SoftmaxCrossEntropyLoss <reduction = "sum"> (logits, y)
        squares = Mul (w1, w1)
        penalty = ReduceMean <keepdims = 0> (squares)
        own = Add (entropy, penalty)""",
    "a root": """
        squares = Mul (logits, logits)
        of_samples = ReduceSum <keepdims = 0> (squares, last)
        mean = ReduceMean (of_samples)
        own = Sqrt (mean)""",
    "a quotient": """
        probabilities = Softmax (logits)
        squares = Mul (probabilities, probabilities)
        above = ReduceSum <keepdims = 0> (squares)
        below = ReduceSum <keepdims = 0> (probabilities)
        quotient = Div (above, below)
        own = Sub (one, quotient)""",
    "of chosen elements": f"{CHOSEN} own = ReduceMean <keepdims = 0> (chosen)",
    "a mean of losses": f"""
        {TWO_LOSSES}
        own = ReduceMean <keepdims = 0> (losses)""",
    "by numbers of samples": """
        squares = Mul (logits, logits)
        total = ReduceSum <keepdims = 0> (squares)
        sizes = Shape (logits)
        row = Constant <value_int = 0> ()
        samples = Gather (sizes, row)
        as_float = Cast <to = 1> (samples)
        of_samples = Div (total, as_float)
        elements = Size (x)
        more = Cast <to = 1> (elements)
        of_elements = Div (total, more)
        own = Add (of_samples, of_elements)""",
    "learned weights": f"""
        {TWO_LOSSES}
        against = Neg (uncertain)
        precise = Exp (against)
        weighed = Mul (losses, precise)
        terms = Add (weighed, uncertain)
        own = ReduceSum <keepdims = 0> (terms)""",
    "a learned exponent and a norm": """
        entropy = SoftmaxCrossEntropyLoss (logits, y)
        raised = Pow (entropy, exponent)
        hot = Mul (logits, exponent)
        size = ReduceMean <keepdims = 0> (hot)
        norm = ReduceL2 <keepdims = 0> (w1)
        most = Max (raised, size)
        own = Add (most, norm)""",
    "means of classes": """
        shares = Softmax (logits)
        first = Constant <value_ints = [0]> ()
        means = ReduceMean <axes = [0], keepdims = 0> (shares)
        sums = ReduceSum <keepdims = 1> (shares, first)
        flat = Reshape (sums, last)
        logs = Log (means)
        parts = Mul (logs, flat)
        own = ReduceMax <keepdims = 0> (parts)""",
}
#: Parameters that enter a loss directly.
DIRECT = {"uncertain": np.float32([0.3, -0.2]), "exponent": np.float32([1.3])}


def _with_own_loss(own: str, **more):
    text = NORMALISED.replace("(float[N, 5] x) => (float[N, 3] logits)", "(float[N, 5] x, int64[N] y) => (float own)")
    if "own = Sqrt" in own or "exponent" in own:
        text = text.replace("(float own)", "(float[1] own)")
    given = {"rates": np.float32([0.5, 2, 1]), "last": np.array([-1]), "one": np.float32(1), **DIRECT, **more}
    given = {name: value for name, value in given.items() if name in own}
    return network(text.replace("}", f"    {own}\n}}"), normalised_weights(0) | given)


@pytest.mark.parametrize("loss", OWN)
def test_a_loss_of_the_graph_itself(loss, tmp_path):
    model = _with_own_loss(OWN[loss])
    given = {"loss": "own", "optimizer": SGD(momentum=0.9)}
    data = batches(3, 5, size=12)
    want = _run(Training(model, tmp_path / "alone", **given), data, 0.002, slice(None))
    Training(model, tmp_path / "replicas", **given, rewrite_options=REPLICAS)

    def replicate():
        shard = slice(0, 5) if distributed.rank() == 0 else slice(5, None)
        return _run(Training.at(tmp_path / "replicas"), data, 0.002, shard)

    for losses, values in distributed.run_replicas(replicate, 2):
        np.testing.assert_allclose(losses, want[0], rtol=1e-5)
        for name, value in want[1].items():
            np.testing.assert_allclose(values[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("own", "said"),
    [
        ("most = ReduceMax <keepdims = 0> (logits) own = Identity (most)", r"\(ReduceMax\) makes the loss"),
        (
            "means = ReduceMean <axes = [1], keepdims = 0> (logits) squares = Mul (means, means) own = Neg (squares)",
            r"\(ReduceMean\) makes the loss: it does not reduce all of its input",
        ),
        ("own = ReduceL2 <keepdims = 0> (w1)", "the loss 'own' depends on no sample of a batch"),
        (
            "sizes = Shape (logits) elements = ReduceProd (sizes) flat = Reshape (logits, elements) "
            "total = ReduceSum <keepdims = 0> (flat) n = Cast <to = 1> (elements) own = Div (total, n)",
            r"\(ReduceProd\) makes a number of samples that the loss and node '.+' \(Reshape\) read",
        ),
    ],
    ids=["the largest of a batch", "means of samples", "no samples", "a shared size"],
)
def test_a_loss_that_is_not_made_of_sums_is_refused(own, said, tmp_path):
    with pytest.raises(OnnxCbpError, match=said):
        Training(_with_own_loss(own), tmp_path, loss="own", rewrite_options={"data_parallel": True})


PAIRED = """
        across = Transpose (logits)
        pairs = MatMul (logits, across)"""


@pytest.mark.parametrize(
    ("own", "said"),
    [
        (f"{PAIRED} squares = Mul (pairs, pairs) own = ReduceMean <keepdims = 0> (squares)", r"\(MatMul\) pairs the"),
        (f"{PAIRED} own = SoftmaxCrossEntropyLoss (pairs, y)", r"\(MatMul\) pairs the"),
        ("means = ReduceMean <axes = [0], keepdims = 0> (logits) own = Identity (means)", None),
    ],
    ids=["mean", "cross entropy", "scores"],
)
def test_losses_that_take_samples_together_are_refused(own, said, tmp_path):
    if said:
        model, loss = _with_own_loss(own), "own"
    else:  # one of the library, of scores that are means over the batch
        text = NORMALISED.replace("(float[N, 3] logits)", "(float[3] own)").replace("}", f"    {own}\n}}")
        model, loss, said = network(text, normalised_weights(0)), "MSELoss", "'own' has no samples any more"
    with pytest.raises(OnnxCbpError, match=said) as caught:
        Training(model, tmp_path, loss=loss, rewrite_options={"data_parallel": True})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "own",
    [
        "sums = ReduceSum <keepdims = 0> (logits, last) most, places = TopK (sums, two) own = ReduceMean (most)",
        "mean = ReduceMean (logits) centred = Sub (logits, mean) own = ReduceMean <keepdims = 0> (centred)",
        "shares = Softmax <axis = 0> (logits) parts = Mul (shares, logits) own = ReduceSum <keepdims = 0> (parts)",
        "some = Slice (logits, zero, two, zero) own = ReduceMean <keepdims = 0> (some)",
        "sums = CumSum (logits, first) own = ReduceMean <keepdims = 0> (sums)",
        f"{CHOSEN} most, places = TopK (chosen, two) own = ReduceMean (most)",
        "chosen = Compress (logits, fixed) own = ReduceMean <keepdims = 0> (chosen)",
    ],
    ids=["the largest", "a batch's mean", "shares of a batch", "the first", "running sums", "most of some", "some"],
)
def test_losses_of_samples_that_others_change_are_refused(own, tmp_path):
    integers = {"two": np.array([2]), "zero": np.array([0]), "first": np.array(0), "fixed": np.array([True, False])}
    said = r"takes '\w+' together over the samples of a batch.* let the loss take samples together last"
    with pytest.raises(OnnxCbpError, match=said):
        Training(_with_own_loss(own, **integers), tmp_path, loss="own", rewrite_options={"data_parallel": True})
    assert not list(tmp_path.iterdir())


STEPS_FIRST = """
<ir_version: 8, opset_import: ["" : OPSET]>
steps_first (float[4, N, 5] x, int64[N] y) => (float own)
{
    hidden = MatMul (x, w)
    BETWEEN
    own = SoftmaxCrossEntropyLoss (logits, y)
}"""


@pytest.mark.parametrize(
    ("between", "refused"),
    [
        ("logits = ReduceMean <axes = [0], keepdims = 0> (hidden)", False),
        (
            "mean = ReduceMean <axes = [1], keepdims = 1> (hidden) centred = Sub (hidden, mean) "
            "logits = ReduceSum <keepdims = 0> (centred, first)",
            True,
        ),
    ],
    ids=["of time steps", "of samples"],
)
def test_labels_tell_where_samples_lie_behind_time_steps(between, refused, tmp_path):
    rng = np.random.default_rng(0)
    model = network(
        STEPS_FIRST.replace("BETWEEN", between),
        {"w": rng.standard_normal((5, 3)).astype(np.float32)} | ({"first": np.array([0])} if refused else {}),
    )
    given = {"loss": "own", "rewrite_options": {"data_parallel": True}}
    if refused:
        with pytest.raises(OnnxCbpError, match="takes 'hidden' together over the samples of a batch"):
            Training(model, tmp_path, **given)
        return
    x, y = rng.standard_normal((4, 6, 5)).astype(np.float32), rng.integers(0, 3, 6)
    loss, want = Training(model, tmp_path, **given).gradients(x, y)

    def replicate():
        shard = slice(0, 2) if distributed.rank() == 0 else slice(2, None)
        return Training.at(tmp_path).gradients(x[:, shard], y[shard])

    for own, got in distributed.run_replicas(replicate, 2):
        assert own == pytest.approx(loss, rel=1e-5)
        np.testing.assert_allclose(got["w"], want["w"], atol=1e-6)
