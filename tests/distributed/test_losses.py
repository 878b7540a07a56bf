"""Every loss that training artifacts have: with data_parallel it is the whole batch's, and so are the gradients."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
from onnx_cbp import distributed
from onnx_cbp.training import Artifacts, load_artifacts
from onnx_cbp.training.compare import gradient_differences
from support.made_up.networks import CLASSES, random_network
from support.training import generate, trainer

pytestmark = [pytest.mark.training, pytest.mark.native]

N = 40
#: Unequal shards. The labels of the middle one are all 2, which some losses ignore.
BOUNDS = [0, 21, 29, 40]
IGNORED = 2
#: A parameter without a gradient; `generate` takes what is called so for a running statistic.
FROZEN = "running.frozen"
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 3.0], np.float32)


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)


def block(build):
    """A loss of ONNX Runtime's onnxblock: `build` is given the block and the name of the logits."""
    load_artifacts()
    from onnxruntime.training.onnxblock import blocks

    class Loss(blocks.Block):
        def build(self, logits):
            return build(self, logits)

    return Loss()


def sum_of_shares(made, logits):
    """Of samples that are divided by their number first: added up over replicas, it would be too large."""
    made.base.graph.initializer.append(numpy_helper.from_array(np.array(0), "first"))
    number = node(made, "Gather", node(made, "Shape", logits), "first")
    shares = node(made, "Div", logits, node(made, "Cast", number, to=TensorProto.FLOAT))
    return node(made, "ReduceSum", node(made, "Mul", shares, logits), keepdims=0)


def losses():
    load_artifacts()
    from onnxruntime.training.onnxblock import loss

    return loss


def node(made, op_type, *inputs, **attributes):
    """Append a node to the graph under construction."""
    name = f"{op_type}{len(made.base.graph.node)}"
    made.base.graph.node.append(helper.make_node(op_type, inputs, [f"{name}_out"], name=name, **attributes))
    return f"{name}_out"


def constant(made, value, name):
    made.base.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), name))
    return name


def cross_entropy(made, logits, weights=None, **attributes):
    made.base.graph.input.append(helper.make_tensor_value_info("labels", TensorProto.INT64, ["N"]))
    inputs = [logits, "labels"]
    if weights is not None:
        inputs.append(constant(made, weights, "class_weights"))
    made.base.graph.node.append(
        helper.make_node("SoftmaxCrossEntropyLoss", inputs, ["ce", "log_prob"], name="ce", **attributes)
    )
    return "ce"


def two_losses(made, logits):
    ce = cross_entropy(made, logits, reduction="mean", ignore_index=IGNORED)
    mse = losses().MSELoss()(logits)
    return node(made, "Add", ce, node(made, "Mul", mse, constant(made, 0.3, "weight_of_mse")))


def mean_that_keeps_its_axes(made, logits):
    return node(made, "Squeeze", node(made, "ReduceMean", node(made, "Sigmoid", logits), axes=[0, -1]))


def masked_mean(made, logits):
    made.base.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", CLASSES]))
    squares = node(made, "Mul", logits, logits)
    total = node(made, "ReduceSum", node(made, "Mul", squares, "mask"), keepdims=0)
    return node(made, "Div", total, node(made, "ReduceSum", "mask", keepdims=0))


def mean_of_a_mask(made, logits):
    made.base.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, ["N", CLASSES]))
    mse = losses().MSELoss()(logits)
    return node(made, "Div", mse, node(made, "ReduceMean", "mask", keepdims=0))


def penalty(kind, weights="fc.weight"):
    def build(made, logits):
        squares = node(made, "Mul", weights, weights)
        of_weights = node(made, kind, squares, keepdims=0)
        ce = cross_entropy(made, logits, reduction="mean")
        return node(made, "Add", ce, node(made, "Mul", of_weights, constant(made, 0.1, "decay")))

    return build


LOSSES = {
    "cross entropy": lambda: block(lambda m, x: cross_entropy(m, x, reduction="mean")),
    "ignored labels": lambda: block(lambda m, x: cross_entropy(m, x, reduction="mean", ignore_index=IGNORED)),
    "weighted labels": lambda: block(lambda m, x: cross_entropy(m, x, WEIGHTS, reduction="mean")),
    "weighted and ignored": lambda: block(lambda m, x: cross_entropy(m, x, WEIGHTS, reduction="mean", ignore_index=-1)),
    "sum of cross entropy": lambda: block(lambda m, x: cross_entropy(m, x, WEIGHTS, reduction="sum")),
    "mean squared error": lambda: losses().MSELoss(),
    "sum of squared errors": lambda: losses().MSELoss(reduction="sum"),
    "root mean squared error": lambda: block(lambda m, x: node(m, "Sqrt", losses().MSELoss()(x))),
    "mean absolute error": lambda: losses().L1Loss(),
    "binary cross entropy": lambda: losses().BCEWithLogitsLoss(pos_weight=WEIGHTS + 1),
    "mean that keeps its axes": lambda: block(mean_that_keeps_its_axes),
    "two losses": lambda: block(two_losses),
    "masked mean": lambda: block(masked_mean),
    "mean of a mask": lambda: block(mean_of_a_mask),
    "sum as penalty": lambda: block(penalty("ReduceSum")),
    "mean as penalty": lambda: block(penalty("ReduceMean")),
    "sum of what is frozen": lambda: block(penalty("ReduceSum", FROZEN)),
}


def whole_batch(name):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, CLASSES, N)
    labels[BOUNDS[1] : BOUNDS[2]] = IGNORED
    if name == "weighted and ignored":  # what is ignored need not be a class
        labels[labels == IGNORED] = -1
    return {
        "x": rng.normal(0.5, 2.0, (N, 5)).astype(np.float32),
        "labels": labels,
        "target": rng.uniform(0.0, 1.0, (N, CLASSES)).astype(np.float32),
        "mask": rng.integers(0, 2, (N, CLASSES)).astype(np.float32),
    }


def network():
    """A network of float [N, 5]; its kinks are smooth, so that no step needs to be told apart."""
    made = next(
        net
        for net in (random_network(seed, 2) for seed in range(100))
        if net.graph.input[0].type.tensor_type.shape.dim[1].dim_value == 5
    )
    for each in made.graph.node:
        each.op_type = "Tanh" if each.op_type == "Relu" else each.op_type
    return made


def one_step(artifacts, batch, first, last):
    graph = onnx.load(artifacts.training_model).graph
    made = trainer(artifacts, "native")
    loss = made.forward_backward([batch[v.name][first:last] for v in graph.input if v.name in batch])
    return loss, made.gradients()


def rewritten(artifacts: Artifacts, folder, **options) -> Artifacts:
    path = folder / "rewritten.onnx"
    model = onnx_cbp.rewrite(artifacts.training_model, **options)
    onnx.checker.check_model(model, full_check=True)
    assert onnx_cbp.rewrite(model, **options) == model
    onnx.save(model, path)
    return dataclasses.replace(artifacts, training_model=path)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients_are_those_of_the_whole_batch(name, tmp_path):
    made, batch = network(), whole_batch(name)
    if "frozen" in name:
        made.graph.initializer.append(numpy_helper.from_array(np.float32([1.0, 2.0]), FROZEN))
    artifacts = generate(made, tmp_path, LOSSES[name]())
    loss, gradients = one_step(artifacts, batch, 0, N)
    ours = rewritten(artifacts, tmp_path, synchronize=True, data_parallel=True)

    def replicate():
        return one_step(ours, batch, *BOUNDS[distributed.rank() : distributed.rank() + 2])

    for mine, own in [*distributed.run_replicas(replicate, 3, timeout=60), one_step(ours, batch, 0, N)]:
        assert mine == pytest.approx(loss, rel=1e-6)
        assert max(gradient_differences(gradients, own).values()) < 2e-5


def test_a_penalty_on_what_is_frozen_counts_once_where_the_batch_is_fixed(tmp_path):
    """A frozen parameter is an input of a fixed shape then, beside others of that kind."""
    made, batch = network(), whole_batch("")
    made.graph.initializer.append(numpy_helper.from_array(np.float32([1.0, 2.0]), FROZEN))
    artifacts = generate(made, tmp_path, LOSSES["sum of what is frozen"]())
    loss, gradients = one_step(artifacts, batch, 0, N)
    model = onnx.load(artifacts.training_model)
    del model.graph.value_info[:]
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_value = N // 2
    onnx.save(model, artifacts.training_model)
    ours = rewritten(artifacts, tmp_path, synchronize=True, data_parallel=True)

    def replicate():
        first = distributed.rank() * N // 2
        return one_step(ours, batch, first, first + N // 2)

    for mine, own in distributed.run_replicas(replicate, 2, timeout=60):
        assert mine == pytest.approx(loss, rel=1e-6)
        assert max(gradient_differences(gradients, own).values()) < 2e-5


def test_weighting_the_gradients_at_the_end_would_be_wrong(tmp_path):
    # What is held against here: every shard's own mean, and the gradients weighted by the numbers of samples.
    artifacts, batch = generate(network(), tmp_path), whole_batch("")
    _, gradients = one_step(artifacts, batch, 0, N)
    ours = rewritten(artifacts, tmp_path, synchronize=True)

    def replicate():
        first, last = BOUNDS[distributed.rank() : distributed.rank() + 2]
        return last - first, one_step(ours, batch, first, last)[1]

    found = distributed.run_replicas(replicate, 3, timeout=60)
    weighted = {name: sum(n * own[name] for n, own in found) / N for name in gradients}
    assert max(gradient_differences(gradients, weighted).values()) > 0.05


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_where_no_label_counts_the_loss_is_zero_as_it_is_in_one_process(weights, tmp_path):
    loss = block(lambda m, x: cross_entropy(m, x, weights, reduction="mean", ignore_index=IGNORED))
    artifacts, batch = generate(network(), tmp_path, loss), whole_batch("")
    batch["labels"][:] = IGNORED
    assert one_step(artifacts, batch, 0, N)[0] == 0.0
    ours = rewritten(artifacts, tmp_path, synchronize=True, data_parallel=True)
    cut = [0, 15, N]
    for mine, own in distributed.run_replicas(
        lambda: one_step(ours, batch, *cut[distributed.rank() : distributed.rank() + 2]), 2, timeout=60
    ):
        assert mine == 0.0
        assert all(not gradient.any() for gradient in own.values())


def sum_of_means(made, logits):
    """Replicas' means over their own samples are no parts of a sum."""
    return node(made, "ReduceSum", node(made, "ReduceMean", logits, axes=[0], keepdims=0), keepdims=0)


REFUSED = {
    "a sum of means": (
        lambda: block(sum_of_means),
        r"node 'ReduceMean\d+' \(ReduceMean\) makes the loss: it does not reduce all of its input to one value",
    ),
    "no reduction": (lambda: block(lambda m, x: cross_entropy(m, x, reduction="none")), "its reduction is 'none'"),
    "no mean": (
        lambda: block(lambda m, x: node(m, "ReduceLogSumExp", x, axes=[0, 1], keepdims=1)),
        r"node 'ReduceLogSumExp\d+' \(ReduceLogSumExp\) makes the loss: data_parallel needs",
    ),
    "a parameter as it is": (
        lambda: block(lambda m, x: node(m, "Mul", losses().MSELoss()(x), node(m, "Exp", "log_weight"))),
        "the loss depends on 'log_weight' as it is",
    ),
    "a sum of shares": (
        lambda: block(sum_of_shares),
        r"node 'Div\d+' \(Div\) calculates with the number of samples in a batch",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_told_is_refused(name, tmp_path):
    loss, reason = REFUSED[name]
    made = network()
    if "parameter" in name:
        made.graph.initializer.append(numpy_helper.from_array(np.float32(0.5), "log_weight"))
    artifacts = generate(made, tmp_path, loss())
    with pytest.raises(onnx_cbp.OnnxCbpError, match=reason) as caught:
        onnx_cbp.rewrite(artifacts.training_model, data_parallel=True)
    assert "\n" not in str(caught.value)
