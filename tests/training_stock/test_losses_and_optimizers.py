"""Losses against float64 arithmetic, optimisers against their formulas: one step of a small network."""

from __future__ import annotations

import numpy as np
import pytest

from onnx_cbp import OnnxCbpError
from onnx_cbp.training.losses import BCEWithLogitsLoss, CrossEntropyLoss, L1Loss, MSELoss
from onnx_cbp.training.optimizers import SGD, Adam, AdamW, OrtAdamW
from support.stepping import PERCEPTRON, Training, batches, network, slopes, weights

WEIGHT = [0.5, 2.0, 1.25]


def _logits(values, x):
    return np.maximum(x.astype(np.float64) @ values["w1"] + values["b1"], 0) @ values["w2"] + values["b2"]


def _log_softmax(z):
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))


def _cross_entropy(weight=(1.0, 1.0, 1.0), ignore_index=None, smoothing=0.0, reduction="mean"):
    def loss(values, x, labels):
        log_p, weight_ = _log_softmax(_logits(values, x)), np.array(weight)
        counts = np.ones(len(labels)) if ignore_index is None else (labels != ignore_index) * 1.0
        index = np.where(counts > 0, labels, 0)
        own = weight_[index] * counts
        picked = -log_p[np.arange(len(labels)), index] * own
        spread = -(log_p * weight_).sum(1) * counts / 3
        total = ((1 - smoothing) * picked + smoothing * spread).sum()
        return total / own.sum() if reduction == "mean" else total

    return loss


def _elementwise(function, reduction="mean"):
    def loss(values, x, target):
        terms = function(_logits(values, x), target.astype(np.float64))
        return terms.mean() if reduction == "mean" else terms.sum()

    return loss


def _bce(z, y, weight=1.0, pos_weight=1.0):
    return weight * (pos_weight * y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z))


CLASSES = {
    "plain": ("CrossEntropyLoss", _cross_entropy()),
    "sum": (CrossEntropyLoss(reduction="sum"), _cross_entropy(reduction="sum")),
    "weights": (CrossEntropyLoss(weight=WEIGHT), _cross_entropy(WEIGHT)),
    "ignored": (CrossEntropyLoss(ignore_index=1), _cross_entropy(ignore_index=1)),
    "ignored, no class": (CrossEntropyLoss(ignore_index=-100), _cross_entropy(ignore_index=-100)),
    "smooth": (CrossEntropyLoss(label_smoothing=0.1), _cross_entropy(smoothing=0.1)),
    "all": (
        CrossEntropyLoss(weight=WEIGHT, ignore_index=-1, label_smoothing=0.2),
        _cross_entropy(WEIGHT, -1, 0.2),
    ),
}
NUMBERS = {
    "mse": ("MSELoss", _elementwise(lambda z, y: (z - y) ** 2)),
    "mse, sum": (MSELoss(reduction="sum"), _elementwise(lambda z, y: (z - y) ** 2, "sum")),
    "l1": ("L1Loss", _elementwise(lambda z, y: abs(z - y))),
    "l1, sum": (L1Loss(reduction="sum"), _elementwise(lambda z, y: abs(z - y), "sum")),
    "bce": ("BCEWithLogitsLoss", _elementwise(_bce)),
    "bce, weights": (
        BCEWithLogitsLoss(weight=WEIGHT, pos_weight=[3.0, 1.0, 0.5]),
        _elementwise(lambda z, y: _bce(z, y, np.array(WEIGHT), np.array([3.0, 1.0, 0.5]))),
    ),
}


def _check(loss, want, target, folder, opset, size=6):
    values = weights(3)
    (x, _), *_ = batches(1, 4, size)
    trained = Training(network(PERCEPTRON, values, opset), folder, loss=loss, optimizer=None)
    got, gradients = trained.gradients(x, target)
    assert got == pytest.approx(want(values, x, target), rel=1e-5)
    slope = slopes(lambda v: want(v, x, target), values)
    assert set(gradients) == set(values)
    for name, gradient in slope.items():
        np.testing.assert_allclose(gradients[name], gradient, rtol=2e-4, atol=2e-5 * np.abs(gradient).max())
    trained.module.eval()
    assert float(trained.module(x, target)) == pytest.approx(got, rel=1e-6)


@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", list(CLASSES))
def test_losses_of_classes(name, opset, tmp_path):
    loss, want = CLASSES[name]
    ignored = getattr(loss, "ignore_index", None)
    labels = np.array([0, 2, 1, 1, 2, 0])
    if ignored is not None:
        labels[[1, 4]] = ignored
    _check(loss, want, labels, tmp_path, opset)


@pytest.mark.parametrize("name", list(NUMBERS))
def test_losses_of_numbers(name, tmp_path):
    loss, want = NUMBERS[name]
    rng = np.random.default_rng(8)
    target = rng.random((6, 3)) if "bce" in name else rng.standard_normal((6, 3))
    _check(loss, want, target.astype(np.float32), tmp_path, 17)


def test_large_scores_are_no_trouble(tmp_path):
    values = weights(3) | {"b2": np.array([300.0, -300.0, 0.0], np.float32)}
    (x, _), *_ = batches(1, 4)
    for number, (loss, target) in enumerate(
        [
            ("CrossEntropyLoss", np.array([1, 0, 2, 1, 0, 2])),
            ("BCEWithLogitsLoss", np.eye(3, dtype=np.float32)[[0] * 6]),
        ]
    ):
        trained = Training(network(PERCEPTRON, values), tmp_path / str(number), loss=loss, optimizer=None)
        got, gradients = trained.gradients(x, target)
        assert np.isfinite(got)
        assert all(np.isfinite(g).all() for g in gradients.values())


def test_a_batch_of_ignored_labels_has_no_loss(tmp_path):
    trained = Training(network(PERCEPTRON, weights(1)), tmp_path, loss=CrossEntropyLoss(ignore_index=2), optimizer=None)
    (x, _), *_ = batches(1, 4)
    got, gradients = trained.gradients(x, np.full(6, 2))
    assert got == 0
    assert not any(g.any() for g in gradients.values())


@pytest.mark.parametrize("wrong", [3, -1, 100])
def test_a_label_that_is_no_class_is_an_error(wrong, tmp_path):
    trained = Training(network(PERCEPTRON, weights(1)), tmp_path)
    before = trained.values()
    (x, labels), *_ = batches(1, 4)
    labels[2] = wrong
    with pytest.raises(OnnxCbpError, match=r"training_model.onnx.*out of") as caught:
        trained.step(x, labels)
    assert "\n" not in str(caught.value)
    assert all(np.array_equal(value, before[name]) for name, value in trained.values().items())


def test_classes_of_every_pixel(tmp_path):
    text = """
<ir_version: 8, opset_import: ["" : OPSET]>
pixels (float[N, 2, H, W] x) => (float[N, 3, H, W] logits)
{
    scaled = Mul (x, w)  logits = Concat <axis: int = 1> (scaled, b0)
}"""
    rng = np.random.default_rng(0)
    values = {"w": rng.standard_normal((1, 2, 1, 1)).astype(np.float32), "b0": np.zeros((2, 1, 4, 5), np.float32)}
    x, labels = rng.standard_normal((2, 2, 4, 5)).astype(np.float32), rng.integers(0, 3, (2, 4, 5))
    trained = Training(network(text, values), tmp_path, requires_grad=["w"], optimizer=None)

    def want(v):
        logits = np.concatenate([x * v["w"], np.zeros((2, 1, 4, 5))], 1)
        return -np.take_along_axis(_log_softmax(logits), labels[:, None], 1).mean()

    got, gradients = trained.gradients(x, labels)
    assert got == pytest.approx(want(values), rel=1e-5)
    np.testing.assert_allclose(gradients["w"], slopes(want, {"w": values["w"]})["w"], rtol=1e-4, atol=1e-6)


class _Formula:
    """An optimiser in float64, as its documentation writes it."""

    def __init__(self, optimizer, rate):
        self.o, self.rate, self.t, self.memory = optimizer, rate, 0, {}

    def step(self, values, gradients):
        o, self.t = self.o, self.t + 1
        if o.max_grad_norm is not None:
            norm = np.sqrt(sum((g**2).sum() for g in gradients.values()))
            gradients = {n: g * min(1, o.max_grad_norm / (norm + 1e-6)) for n, g in gradients.items()}
        return {n: self._one(n, p, gradients[n]) for n, p in values.items()}

    def _one(self, name, p, d):
        o, rate = self.o, self.rate
        spared = name in o.no_decay or (not o.decay_vectors and p.ndim < 2)
        decay = 0.0 if spared else o.weight_decay
        if isinstance(o, SGD):
            d = d + decay * p
            m = self.memory[name] = o.momentum * self.memory.get(name, 0) + d
            return p - rate * (d + o.momentum * m if o.nesterov else m)
        if not isinstance(o, AdamW):
            d = d + decay * p
        m, v = self.memory.get(name, (0, 0))
        m, v = self.memory[name] = o.betas[0] * m + (1 - o.betas[0]) * d, o.betas[1] * v + (1 - o.betas[1]) * d**2
        c1, c2 = (1 - beta**self.t for beta in o.betas)
        if isinstance(o, OrtAdamW):
            p = p - rate * np.sqrt(c2) / c1 * m / (np.sqrt(v) + o.eps)
            return p - rate * decay * p
        kept = 1 - rate * decay if isinstance(o, AdamW) else 1
        return p * kept - rate * m / c1 / (np.sqrt(v / c2) + o.eps)


OPTIMIZERS = {
    "SGD": SGD(),
    "momentum": SGD(momentum=0.9, weight_decay=0.1),
    "Nesterov": SGD(momentum=0.8, nesterov=True, weight_decay=0.05),
    "Adam": Adam(weight_decay=0.1),
    "AdamW": AdamW(),
    "AdamW, no vectors": AdamW(weight_decay=0.3, decay_vectors=False, betas=(0.8, 0.95), eps=1e-4),
    "AdamW, by name": AdamW(weight_decay=0.3, no_decay=["w2"]),
    "ONNX Runtime's": OrtAdamW(weight_decay=0.1, eps=1e-3),
    "clipped": SGD(momentum=0.9, max_grad_norm=0.5),
    "clipped, Adam": Adam(max_grad_norm=1e-3),
}


@pytest.mark.product
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_optimizers_are_their_formulas(name, opset, tmp_path):
    optimizer, rate = OPTIMIZERS[name], 0.05
    trained = Training(network(PERCEPTRON, weights(5), opset), tmp_path, optimizer=optimizer)
    trained.optimizer.set_learning_rate(rate)
    formula = _Formula(optimizer, rate)
    values = {n: v.astype(np.float64) for n, v in trained.values().items()}
    for x, labels in batches(6, 6):
        trained.step(x, labels)
        # By the gradients as they are: an Adam's step by one that is nearly zero has hardly a digit that is right.
        gradients = {n: np.float64(p.grad) for n, p in trained.state.parameters}
        values = formula.step(values, gradients)
        for n, value in trained.values().items():
            np.testing.assert_allclose(value, values[n], rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("option", ["weight", "pos_weight"])
@pytest.mark.parametrize("shape", [(2,), (2, 1, 3), (1, 1, 1)])
def test_factors_that_would_make_more_of_the_scores_are_refused(shape, option, tmp_path):
    with pytest.raises(OnnxCbpError, match=f"^{option} has shape .* which does not broadcast to that of 'logits'"):
        Training(network(PERCEPTRON, weights(1)), tmp_path, loss=BCEWithLogitsLoss(**{option: np.ones(shape)}))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: SGD(momentum=1.0), "momentum is 1.0"),
        (lambda: SGD(nesterov=True), "nesterov is True"),
        (lambda: Adam(betas=(0.9, 1.0)), "betas"),
        (lambda: AdamW(weight_decay=-1), "weight_decay is -1"),
        (lambda: SGD(max_grad_norm=0.0), "max_grad_norm is 0.0"),
        (lambda: CrossEntropyLoss(label_smoothing=2), "label_smoothing is 2"),
        (lambda: MSELoss(reduction="none"), "reduction is 'none'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, said):
    with pytest.raises(OnnxCbpError, match=said):
        make()


#: Actions that are not allowed, say, have a score of -inf; each row of the labels means a class that has one.
MASKED = """
<ir_version: 8, opset_import: ["" : OPSET]>
masked (float[N, 5] x, bool[N, 3] mask) => (float[N, 3] logits)
{
    scores = MatMul (x, w)
    logits = Where (mask, infinite, scores)
}"""


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("ignore_index", [None, 0, -1])
def test_classes_that_are_masked(ignore_index, opset, tmp_path):
    rng = np.random.default_rng(8)
    w, x = rng.normal(size=(5, 3)).astype(np.float32), rng.normal(size=(4, 5)).astype(np.float32)
    mask, labels = np.zeros((4, 3), bool), np.array([1, 2, 1, 0 if ignore_index is None else ignore_index])
    mask[0, 0] = mask[1, 1] = True
    mask[3, 0] = ignore_index is not None
    trained = Training(
        *(network(MASKED, {"w": w, "infinite": np.array(-np.inf, np.float32)}, opset), tmp_path),
        loss=CrossEntropyLoss(ignore_index=ignore_index),
        requires_grad=["w"],
    )
    counted = np.ones(4, bool) if ignore_index is None else labels != ignore_index

    def loss(values, x):
        z = np.where(mask, -np.inf, x.astype(np.float64) @ values["w"])[counted]
        return (np.log(np.exp(z).sum(1)) - z[np.arange(len(z)), labels[counted]]).mean()

    values = {"w": w.astype(np.float64)}
    got, gradients = trained.gradients(x, mask, labels)
    assert got == pytest.approx(loss(values, x), rel=1e-6)
    np.testing.assert_allclose(gradients["w"], slopes(lambda v: loss(v, x), values)["w"], rtol=1e-4, atol=1e-6)
    trained.module.eval()
    assert trained.module(x, mask, labels) == pytest.approx(loss(values, x), rel=1e-6)
