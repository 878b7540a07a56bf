"""CheckpointState, Module, Optimizer and LinearLRScheduler: what ONNX Runtime's do, on any onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.training import generate_artifacts
from onnx_cbp.training.api import CheckpointState, LinearLRScheduler, Module, Optimizer
from onnx_cbp.training.checkpoints import Checkpoint
from onnx_cbp.training.optimizers import SGD
from onnx_cbp.training.running import training_session
from support.stepping import DROPOUT, PERCEPTRON, Training, batches, network, weights


@pytest.fixture
def trained(tmp_path):
    return Training(network(PERCEPTRON, weights(0)), tmp_path, additional_output_names=["logits"])


def test_names_and_sizes(trained):
    module = trained.module
    assert (module.input_names(), module.output_names()) == (["x", "labels"], ["loss", "logits"])
    module.eval()
    assert not module.training
    assert (module.input_names(), module.output_names()) == (["x", "labels"], ["loss", "logits"])
    assert module.train() is module
    assert module.training
    assert module.get_parameters_size() == module.get_parameters_size(False) == 5 * 7 + 7 + 7 * 3 + 3
    assert len(trained.state.parameters) == 4
    assert [name for name, _ in trained.state.parameters] == ["b1", "b2", "w1", "w2"]
    parameter = trained.state.parameters["w1"]
    assert (parameter.name, parameter.requires_grad, parameter.data.shape) == ("w1", True, (5, 7))
    assert repr(parameter) == "Parameter(name=w1, requires_grad=True)"
    assert "w1" in trained.state.parameters
    assert "nothing" not in trained.state.parameters


def test_arrays_in_arrays_out_and_ort_values_in_ort_values_out(trained):
    (x, labels), *_ = batches(1, 1)
    loss, logits = trained.module(x, labels)
    assert (loss.shape, logits.shape, loss.dtype) == ((), (6, 3), np.float32)
    values = [ort.OrtValue.ortvalue_from_numpy(each) for each in (x, labels)]
    got = trained.module(*values)
    assert all(isinstance(each, ort.OrtValue) for each in got)
    np.testing.assert_array_equal(got[1].numpy(), logits)
    assert isinstance(trained.module(values[0], labels)[0], np.ndarray)


def test_gradients_add_up_until_they_are_reset(trained):
    state, module = trained.state, trained.module
    first, second = batches(2, 2)
    assert not state.parameters["w1"].grad.any()
    module(*first)
    one = np.array(state.parameters["w1"].grad)
    module(*second)
    both = np.array(state.parameters["w1"].grad)
    module.lazy_reset_grad()
    np.testing.assert_array_equal(state.parameters["w1"].grad, both)  # lazily
    module(*second)
    np.testing.assert_allclose(state.parameters["w1"].grad + one, both, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", SGD(momentum=0.9)])
def test_whether_a_step_was_one_run_or_two_is_not_seen(optimizer, tmp_path):
    """The update is made ahead with the gradients. What is changed in between, or looked at, must not get lost."""
    model = network(PERCEPTRON, weights(0))
    ahead, alone = (Training(model, tmp_path / name, optimizer=optimizer) for name in ("ahead", "alone"))
    alone.module._session._joins = alone.module._session._together = False
    for number, (x, labels) in enumerate(batches(12, 3)):
        for each in (ahead, alone):
            each.module(x, labels)
            if number in (2, 3, 7):  # gradients of two passes
                each.module(x[:2], labels[:2])
            if number == 4:
                each.optimizer.set_learning_rate(0.05)
            if number == 5:
                each.state.parameters["b1"] = np.full(7, 0.25, np.float32)
            before = each.values()
            each.optimizer.step()
            if number == 8:  # once more along the same gradients
                each.optimizer.step()
            if number != 9:
                each.module.lazy_reset_grad()
            assert any(not np.array_equal(value, before[name]) for name, value in each.values().items())
        for name, value in alone.values().items():
            np.testing.assert_allclose(ahead.values()[name], value, rtol=1e-6, atol=1e-7)


def test_a_pass_alone_changes_no_parameter(trained):
    before = trained.values()
    for batch in batches(3, 4):
        trained.module(*batch)
    assert all(np.array_equal(value, before[name]) for name, value in trained.values().items())


def test_values_are_copies_that_cannot_be_written(trained):
    held = trained.state.parameters["w1"].data
    kept = held.copy()
    trained.step(*batches(1, 5)[0])
    np.testing.assert_array_equal(held, kept)
    for array in (held, trained.state.parameters["w1"].grad):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0


@pytest.mark.parametrize("value", [np.zeros(7, np.float32), np.zeros((5, 7))])
def test_a_value_of_another_type_or_shape_is_refused(value, trained):
    with pytest.raises(OnnxCbpError, match=r"'w1' is float32\[5, 7\]"):
        trained.state.parameters["w1"] = value


@pytest.mark.parametrize("trainable_only", [True, False])
def test_parameters_as_one_vector(trainable_only, tmp_path):
    model = network(PERCEPTRON, weights(0))
    trained = Training(model, tmp_path, requires_grad=["w1", "b2"], frozen_params=["w2"])
    names = ["w1", "b2"] if trainable_only else ["w1", "b2", "w2"]
    buffer = trained.module.get_contiguous_parameters(trainable_only)
    assert buffer.numpy().size == trained.module.get_parameters_size(trainable_only)
    assert sorted(buffer.numpy()) == sorted(np.concatenate([weights(0)[n].reshape(-1) for n in names]))
    twice = ort.OrtValue.ortvalue_from_numpy(buffer.numpy() * 2)
    trained.module.copy_buffer_to_parameters(twice, trainable_only)
    for name, value in trained.values().items():
        np.testing.assert_array_equal(value, weights(0)[name] * (2 if name in names else 1))
    with pytest.raises(OnnxCbpError, match="elements"):
        trained.module.copy_buffer_to_parameters(ort.OrtValue.ortvalue_from_numpy(np.zeros(3, np.float32)))


def test_what_is_returned_has_memory_of_its_own(tmp_path):
    """Also where the OrtValue is gone: a view on what only the OrtValue keeps would read freed memory."""
    trained = Training(network(PERCEPTRON, weights(0)), tmp_path, additional_output_names=["x"])
    wanted = trained.module.get_contiguous_parameters().numpy().copy()
    (x, labels), *_ = batches(1, 1)
    for _ in range(20):
        vector = trained.module.get_contiguous_parameters().numpy()
        _, same = trained.module(np.asfortranarray(x), labels)
        _, value = trained.module(*(ort.OrtValue.ortvalue_from_numpy(each.copy()) for each in (x, labels)))
        copied = value.numpy()
        others = [np.full_like(each, 7) for each in (vector, same, copied) for _ in range(4)]
        np.testing.assert_array_equal(vector, wanted)
        np.testing.assert_array_equal(same, x)
        np.testing.assert_array_equal(copied, x)
        del others


def test_a_nominal_checkpoint_waits_for_its_values(tmp_path):
    trained = Training(network(PERCEPTRON, weights(0)), tmp_path, nominal_checkpoint=True)
    (x, labels), *_ = batches(1, 1)
    state = CheckpointState.load_checkpoint(tmp_path / "nominal_checkpoint")
    module = Module(tmp_path / "training_model.onnx", state)
    with pytest.raises(OnnxCbpError, match="copy_buffer_to_parameters"):
        module(x, labels)
    parameters = state.parameters
    for use in (
        lambda: parameters["w1"].data,
        lambda: parameters.__setitem__("w1", np.ones((5, 7), np.float32)),
        module.get_contiguous_parameters,
    ):
        with pytest.raises(OnnxCbpError, match="the checkpoint is nominal: give the parameters values"):
            use()
    module.copy_buffer_to_parameters(trained.module.get_contiguous_parameters(True), True)
    assert module(x, labels) == trained.module(x, labels)
    np.testing.assert_array_equal(parameters["w1"].data, weights(0)["w1"])


def test_a_nominal_checkpoint_may_have_names_alone(tmp_path):
    """That of ONNX Runtime has no shapes."""
    trained = Training(network(PERCEPTRON, weights(0)), tmp_path)
    names = {name: np.zeros((), np.float32) for name in weights(0)}
    module = Module(tmp_path / "training_model.onnx", CheckpointState(Checkpoint(names, tuple(names), nominal=True)))
    module.copy_buffer_to_parameters(trained.module.get_contiguous_parameters())
    (batch,) = batches(1, 1)
    assert module(*batch) == trained.module(*batch)


ORDERS = [({"w1", "b1", "w2", "b2"}, []), (["b2", "w1", "w2", "b1"], []), (["w2", "b1"], ["b2", "w1"])]


@pytest.mark.parametrize(("trained", "frozen"), ORDERS, ids=["a set", "another order", "some are frozen"])
def test_the_vector_has_the_order_of_the_model(trained, frozen, tmp_path):
    """As in ONNX Runtime, whatever the order of the names."""
    made = Training(network(PERCEPTRON, weights(0)), tmp_path, requires_grad=trained, frozen_params=frozen)
    wanted = np.concatenate([value.reshape(-1) for value in weights(0).values()])
    np.testing.assert_array_equal(made.module.get_contiguous_parameters().numpy(), wanted)
    first = np.concatenate([value.reshape(-1) for name, value in weights(0).items() if name in trained])
    np.testing.assert_array_equal(made.module.get_contiguous_parameters(True).numpy(), first)
    made.module.copy_buffer_to_parameters(ort.OrtValue.ortvalue_from_numpy(wanted * 2), False)
    for name, value in made.values().items():
        np.testing.assert_array_equal(value, weights(0)[name] * 2)
    assert list(made.state._session.program.graph.gradients) == [name for name in weights(0) if name in trained]


def test_a_frozen_counter_is_in_the_vector_of_floats(tmp_path):
    text = PERCEPTRON.replace("positive = Relu (hidden)", "f = Cast <to = 1> (n)  positive = Mul (hidden, f)")
    values = weights(0) | {"n": np.array([3], np.int64)}
    trained = Training(network(text, values), tmp_path, requires_grad=[*weights(0)], frozen_params=["n"])
    vector = trained.module.get_contiguous_parameters().numpy()
    assert vector.dtype == np.float32
    trained.module.copy_buffer_to_parameters(ort.OrtValue.ortvalue_from_numpy(vector + 1), False)
    np.testing.assert_array_equal(trained.state.parameters["n"].data, [4])


def test_a_parameter_may_be_called_as_the_target(tmp_path):
    values = {"target" if name == "b2" else name: value for name, value in weights(0).items()}
    model = network(PERCEPTRON.replace("b2)", "target)"), values)
    (x, labels), *_ = batches(1, 1)
    trained = Training(model, tmp_path, loss="MSELoss")
    assert trained.module.input_names() == ["x", "target_1"]
    assert trained.module.eval().input_names() == ["x", "target_1"]
    wanted = np.eye(3, dtype=np.float32)[labels]
    evaluated = trained.module(x, wanted)
    assert trained.module.train()(x, wanted) == pytest.approx(evaluated, rel=1e-6)


def test_the_loss_is_left_out_of_the_model_for_inference(trained, tmp_path, caplog):
    names = trained.module.eval().output_names()
    trained.module.export_model_for_inferencing(tmp_path / "inference.onnx", names)
    assert [value.name for value in onnx.load(tmp_path / "inference.onnx").graph.output] == ["logits"]
    assert "the loss 'loss' is left out" in caplog.text


def test_properties(trained, tmp_path):
    properties = trained.state.properties
    properties["epoch"], properties["best"], properties["name"] = 3, 0.1, "x"
    assert list(properties) == [("best", 0.1), ("epoch", 3), ("name", "x")]
    assert len(properties) == 3
    assert "epoch" in properties
    for wrong in (lambda: properties["none"], lambda: trained.state.parameters["none"]):
        with pytest.raises(KeyError, match=r"none not found\."):
            wrong()
    with pytest.raises(OnnxCbpError, match="keeps int, float and str"):
        properties["list"] = [1]
    CheckpointState.save_checkpoint(trained.state, tmp_path / "saved")
    assert dict(CheckpointState.load_checkpoint(tmp_path / "saved").properties) == {
        "best": 0.1,
        "epoch": 3,
        "name": "x",
    }


def test_the_schedule_rises_and_falls(trained):
    scheduler = LinearLRScheduler(trained.optimizer, 3, 8, 0.6)
    rates = []
    for batch in batches(10, 1):
        rates.append(trained.optimizer.get_learning_rate())
        trained.step(*batch)
        scheduler.step()
    assert rates == pytest.approx([0, 0.2, 0.4, 0.6, 0.48, 0.36, 0.24, 0.12, 0, 0])
    with pytest.raises(OnnxCbpError, match="warmup_step_count is 9"):
        LinearLRScheduler(trained.optimizer, 9, 8, 0.1)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (("3", 8), "warmup_step_count: '3' is no finite number: give one, such as 1000"),
        ((3, "8"), "total_step_count: '8' is no finite number"),
        ((0, None), "total_step_count: None is no finite number"),
        ((0, float("inf")), "total_step_count: inf is no finite number"),
    ],
)
def test_a_schedule_counts_steps_in_numbers(trained, counts, message):
    with pytest.raises(OnnxCbpError, match=message):
        LinearLRScheduler(trained.optimizer, *counts, 0.1)


def test_a_schedule_is_of_an_optimizer(trained):
    with pytest.raises(OnnxCbpError, match="is no Optimizer: give the one whose learning rate it sets"):
        LinearLRScheduler(trained.module, 1, 2, 0.1)


def test_the_rate_is_onnx_runtimes_until_it_is_set(trained):
    assert trained.optimizer.get_learning_rate() == pytest.approx(1e-3)


@pytest.mark.product
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.parametrize("text", [PERCEPTRON, DROPOUT], ids=["plain", "dropout"])
@pytest.mark.parametrize("optimizer", ["AdamW", SGD(momentum=0.9, nesterov=True), "SGD"], ids=["AdamW", "SGD", "bare"])
def test_a_training_goes_on_bit_for_bit(optimizer, text, opset, tmp_path):
    model = network(text, weights(0), opset)
    straight = Training(model, tmp_path / "straight", optimizer=optimizer)
    straight.optimizer.set_learning_rate(0.0123)
    data = batches(9, 7)
    losses = [straight.step(*batch) for batch in data[:4]]
    CheckpointState.save_checkpoint(straight.state, tmp_path / "saved", include_optimizer_state=True)
    losses = [straight.step(*batch) for batch in data[4:]]
    straight.load(tmp_path / "saved")
    assert [straight.step(*batch) for batch in data[4:]] == losses
    again = Training(model, tmp_path / "again", optimizer=optimizer)
    again.load(tmp_path / "saved")
    assert [again.step(*batch) for batch in data[4:]] == losses


def test_without_its_memory_an_optimizer_begins_anew(tmp_path):
    trained = Training(network(PERCEPTRON, weights(0)), tmp_path)
    for batch in batches(3, 7):
        trained.step(*batch)
    CheckpointState.save_checkpoint(trained.state, tmp_path / "saved")
    trained.load(tmp_path / "saved")
    assert trained.module._session.steps == 0


def test_dropout_drops_its_part_and_draws_anew(tmp_path):
    text = DROPOUT.replace("Gemm (x, w1, b1)", "Add (x, w1)").replace("Gemm (kept, w2, b2)", "Mul (kept, w2)")
    values = {"w1": np.zeros(5, np.float32), "w2": np.ones(5, np.float32)}
    text = text.replace("float[N, 3]", "float[N, 5]")
    trained = Training(network(text, values), tmp_path, loss="MSELoss", additional_output_names=["logits"])
    x = np.ones((2000, 5), np.float32)
    masks = [trained.module(x, x)[1] for _ in range(2)]
    for mask in masks:
        assert set(np.unique(mask.round(5))) == {0.0, np.float32(1 / 0.6).round(5)}
        assert (mask == 0).mean() == pytest.approx(0.4, abs=0.02)
        for lag in (1, 2, 5, 7, 64):  # elements have nothing to do with each other
            flat = (mask == 0).reshape(-1) - 0.4
            assert abs((flat[lag:] * flat[:-lag]).mean()) < 0.01
    assert abs(((masks[0] == 0) == (masks[1] == 0)).mean() - (0.4**2 + 0.6**2)) < 0.02
    grad = trained.state.parameters["w2"].grad
    assert grad.shape == (5,)
    trained.module.eval()
    np.testing.assert_array_equal(trained.module(x, x)[1], x)
    seeds = []
    for seed in (5, 5, 6):
        trained.state.random_state = seed
        trained.module.train()
        seeds.append(trained.module(x, x)[1])
    np.testing.assert_array_equal(seeds[0], seeds[1])
    assert (seeds[0] != seeds[2]).any()


def test_update_bn_draws_as_the_steps_of_a_training_do(tmp_path):
    text = DROPOUT.replace("logits = Gemm (kept, w2, b2)", "logits = BatchNormalization (kept, gamma, beta, mean, var)")
    ones, zeros = np.ones(7, np.float32), np.zeros(7, np.float32)
    values = {**weights(0), "gamma": ones, "beta": zeros, "mean": zeros, "var": ones}
    values = {name: value for name, value in values.items() if name not in ("w2", "b2")}
    model = network(text.replace("float[N, 3]", "float[N, 7]"), values)
    trained = Training(model, tmp_path, train_batch_norms="*", rewrite_options={"momentum": "cumulative"})
    data = batches(3, 7)
    for batch in data:
        trained.module(*batch)
    options = {"checkpoint": tmp_path / "checkpoint", "unbiased_running_var": False}
    onnx_cbp.update_bn(tmp_path / "training_model.onnx", [x for x, _ in data], **options)
    measured = CheckpointState.load_checkpoint(tmp_path / "checkpoint")
    for name in ("mean", "var"):
        got, want = measured.parameters[name].data, trained.state.parameters[name].data
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert measured.random_state == trained.state.random_state - len(data), "it stays as it is"


def test_the_model_for_inference(trained, tmp_path):
    (x, labels), *_ = batches(1, 1)
    for batch in batches(3, 2):
        trained.step(*batch)
    trained.module.eval()
    want = trained.module(x, labels)[1]
    trained.module.export_model_for_inferencing(tmp_path / "inference.onnx", ["logits"])
    session = ort.InferenceSession(str(tmp_path / "inference.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], want, rtol=1e-6)
    with pytest.raises(OnnxCbpError, match="nothing"):
        trained.module.export_model_for_inferencing(tmp_path / "no.onnx", ["nothing"])
    assert not (tmp_path / "no.onnx").exists()


def test_two_modules_of_one_state(trained):
    other = Module(trained.folder / "training_model.onnx", trained.state, trained.folder / "eval_model.onnx").eval()
    (x, labels), *_ = batches(1, 1)
    for batch in batches(2, 2):
        trained.step(*batch)
    trained.module.eval()
    assert other(x, labels)[0] == trained.module(x, labels)[0]


def test_two_modules_of_a_nominal_state(tmp_path):
    trained = Training(network(PERCEPTRON, weights(0)), tmp_path, nominal_checkpoint=True)
    state = CheckpointState.load_checkpoint(tmp_path / "nominal_checkpoint")
    first, second = (Module(tmp_path / "training_model.onnx", state) for _ in range(2))
    (x, labels), *_ = batches(1, 1)
    with pytest.raises(OnnxCbpError, match="the checkpoint is nominal"):
        second(x, labels)
    first.copy_buffer_to_parameters(trained.module.get_contiguous_parameters(), trainable_only=False)
    assert first(x, labels) == second(x, labels) == trained.module(x, labels)


def _again(trained, *, evaluates=False):
    """Another module of the same state, and another optimizer, which keep its learning rate."""
    module = Module(trained.folder / "training_model.onnx", trained.state, trained.folder / "eval_model.onnx")
    return (module.eval(), None) if evaluates else (module, Optimizer(trained.folder / "optimizer_model.onnx", module))


def _another_optimizer(trained, _folder):
    trained.optimizer = Optimizer(trained.folder / "optimizer_model.onnx", trained.module)


def _another_module(trained, _folder):
    trained.module, trained.optimizer = _again(trained)


def _another_module_that_is_not_used(trained, _folder):
    _again(trained)


def _another_module_for_evaluation_then_saved(trained, folder):
    module, _ = _again(trained, evaluates=True)
    module(*batches(1, 9)[0])
    CheckpointState.save_checkpoint(trained.state, folder / "saved", include_optimizer_state=True)
    trained.state = CheckpointState.load_checkpoint(folder / "saved")
    trained.module, trained.optimizer = _again(trained)


@pytest.mark.product
@pytest.mark.parametrize("most_joined", [2**20, 10], ids=["few", "many"])
@pytest.mark.parametrize("optimizer", ["AdamW", SGD(momentum=0.9)], ids=["AdamW", "momentum"])
@pytest.mark.parametrize(
    ("change", "between"),
    [
        *((_another_optimizer, between) for between in (False, True)),
        *((_another_module, between) for between in (False, True)),
        *((_another_module_that_is_not_used, between) for between in (False, True)),
        (_another_module_for_evaluation_then_saved, False),
    ],
    ids=lambda value: value.__name__[1:] if callable(value) else ("between pass and step" if value else "after a step"),
)
def test_what_is_made_again_goes_on(change, optimizer, between, most_joined, tmp_path, monkeypatch):
    """The optimiser's state is that of the training, whoever looks at it."""
    monkeypatch.setattr(training_session, "_MOST_JOINED", most_joined)
    model = network(PERCEPTRON, weights(0))
    one, other = (Training(model, tmp_path / name, optimizer=optimizer) for name in ("one", "other"))
    for each in (one, other):
        each.optimizer.set_learning_rate(0.03)
        for number, batch in enumerate(batches(6, 3)):
            if each is other and number == 3 and not between:
                change(other, tmp_path)
            each.module(*batch)
            if each is other and number == 3 and between:
                change(other, tmp_path)
            each.optimizer.step()
            each.module.lazy_reset_grad()
    assert other.optimizer.get_learning_rate() == one.optimizer.get_learning_rate()
    for name, value in one.values().items():
        np.testing.assert_allclose(other.values()[name], value, rtol=1e-6, atol=1e-7)


def test_two_optimizers_in_turn(tmp_path):
    """Each takes a step along the gradients that are there, as two of PyTorch do."""
    model = network(PERCEPTRON, weights(0))
    two, one = (Training(model, tmp_path / name, optimizer=SGD(momentum=0.9)) for name in ("two", "one"))
    module, optimizer = _again(two)
    first, second = batches(2, 6)
    two.module(*first)
    module(*second)
    two.optimizer.step()
    optimizer.step()
    one.module(*second)
    one.optimizer.step()
    one.optimizer.step()
    for name, value in one.values().items():
        np.testing.assert_allclose(two.values()[name], value, rtol=1e-6, atol=1e-7)


def test_another_kind_of_optimizer_does_not_take_the_state(trained, tmp_path):
    Training(network(PERCEPTRON, weights(0)), tmp_path / "other", optimizer="SGD")
    with pytest.raises(OnnxCbpError, match="is another optimizer"):
        Optimizer(tmp_path / "other" / "optimizer_model.onnx", trained.module)
    trained.step(*batches(1, 1)[0])


def test_session_options_and_models_in_memory(tmp_path):
    trained = Training(network(PERCEPTRON, weights(0)), tmp_path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    state = CheckpointState.load_checkpoint(tmp_path / "checkpoint")
    models = [onnx.load(tmp_path / f"{kind}_model.onnx") for kind in ("training", "optimizer")]
    module = Module(models[0], state, session_options=options, providers=["CPUExecutionProvider"])
    optimizer = Optimizer(models[1], module)
    for x, labels in batches(3, 2):
        want = trained.step(x, labels)
        assert module(x, labels) == pytest.approx(want, rel=1e-6)
        optimizer.step()
        module.lazy_reset_grad()


class _Wrong:
    """Mistakes, each with what the line says of it."""

    def __init__(self, folder):
        self.folder = folder
        self.trained = Training(network(PERCEPTRON, weights(0)), folder / "right")
        (self.x, self.labels), *_ = batches(1, 1)

    def other(self):
        values = {n: np.concatenate([v, v], -1) for n, v in weights(0).items()} | {"w2": np.zeros((14, 6), np.float32)}
        text = PERCEPTRON.replace("float[N, 3]", "float[N, 6]")
        return Training(network(text, values), self.folder / "other").folder

    def state(self):
        return CheckpointState.load_checkpoint(self.folder / "right" / "checkpoint")

    def no_file(self):
        Module(self.folder / "none.onnx", self.state())

    def no_artifact(self):
        onnx.save(network(PERCEPTRON, weights(0)), self.folder / "forward.onnx")
        Module(self.folder / "forward.onnx", self.state())

    def another_checkpoint(self):
        Module(
            self.folder / "right" / "training_model.onnx", CheckpointState.load_checkpoint(self.other() / "checkpoint")
        )

    def another_optimizer(self):
        Optimizer(self.other() / "optimizer_model.onnx", self.trained.module)

    def an_optimizer_with_the_memory_of_another(self):
        self.trained.step(self.x, self.labels)
        CheckpointState.save_checkpoint(self.trained.state, self.folder / "saved", include_optimizer_state=True)
        sgd = Training(network(PERCEPTRON, weights(0)), self.folder / "sgd", optimizer=SGD(momentum=0.9))
        sgd.load(self.folder / "saved")

    def an_input_less(self):
        self.trained.module(self.x)

    def another_type(self):
        self.trained.module(self.x, self.labels.astype(np.int32))

    def another_rank(self):
        self.trained.module(self.x[0], self.labels)

    def another_width(self):
        self.trained.module(self.x[:, :4], self.labels)

    def batches_of_two_sizes(self):
        self.trained.module(self.x, self.labels[:-1])

    def no_evaluation_model(self):
        Module(self.folder / "right" / "training_model.onnx", self.state()).eval()(self.x, self.labels)

    def a_path_for_the_state(self):
        Module(self.folder / "right" / "training_model.onnx", str(self.folder / "right" / "checkpoint"))

    def a_number_for_the_model(self):
        Module(3, self.state())

    def a_state_for_the_module(self):
        Optimizer(self.folder / "right" / "optimizer_model.onnx", self.trained.state)

    def a_module_for_the_state(self):
        CheckpointState.save_checkpoint(self.trained.module, self.folder / "saved")

    def a_property_without_a_name(self):
        self.trained.state.properties[3] = 1

    def no_learning_rate(self):
        self.trained.optimizer.set_learning_rate(None)

    def a_learning_rate_in_a_list(self):
        self.trained.optimizer.set_learning_rate([0.1])

    def an_infinite_learning_rate(self):
        self.trained.optimizer.set_learning_rate(float("inf"))

    def a_schedule_of_no_rate(self):
        LinearLRScheduler(self.trained.optimizer, 1, 2, None)

    def a_text_of_outputs(self):
        self.trained.module.export_model_for_inferencing(self.folder / "out.onnx", "logits")

    def no_outputs(self):
        self.trained.module.export_model_for_inferencing(self.folder / "out.onnx", [])

    def a_loss_for_inference(self):
        self.trained.module.export_model_for_inferencing(self.folder / "out.onnx", ["loss"])

    def no_device(self):
        Module(self.folder / "right" / "training_model.onnx", self.state(), device="tpu")

    def no_cuda(self):
        Module(self.folder / "right" / "training_model.onnx", self.state(), device="cuda:0")


WRONG = {
    "no_file": "does not exist",
    "no_artifact": "generate_artifacts",
    "another_checkpoint": "load the checkpoint that belongs to it",
    "another_optimizer": "elements of parameters",
    "an_optimizer_with_the_memory_of_another": "the state of AdamW, and .* is SGD",
    "an_input_less": "1 inputs were given, and the model takes 2: 'x', 'labels'",
    "another_type": "'labels' is int32, and the model takes int64",
    "another_rank": r"'x' has shape \[5\]",
    "another_width": r"'x' has shape \[6, 4\]",
    "batches_of_two_sizes": "training_model.onnx",
    "no_evaluation_model": "eval_model_uri",
    "a_path_for_the_state": "is no CheckpointState",
    "a_number_for_the_model": "3 is no model",
    "a_state_for_the_module": "is no Module",
    "a_module_for_the_state": "is no CheckpointState",
    "a_property_without_a_name": "property 3 has no name",
    "no_learning_rate": "None is no finite number",
    "a_learning_rate_in_a_list": r"\[0.1\] is no finite number",
    "an_infinite_learning_rate": "inf is no finite number",
    "a_schedule_of_no_rate": "initial_lr: None is no finite number",
    "a_text_of_outputs": "'logits' is no list",
    "no_outputs": "no value of inference is named",
    "a_loss_for_inference": "no value of inference is named",
    "no_device": "device is 'tpu'",
    "no_cuda": "CUDAExecutionProvider",
}


@pytest.mark.parametrize("mistake", list(WRONG))
def test_mistakes_are_one_line(mistake, tmp_path):
    if mistake == "no_cuda" and "CUDAExecutionProvider" in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    wrong = _Wrong(tmp_path)
    with pytest.raises(OnnxCbpError, match=WRONG[mistake]) as caught:
        getattr(wrong, mistake)()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"loss": "Nothing"}, "the graph has no value 'Nothing'"),
        ({"loss": 3}, "CrossEntropyLoss"),
        ({"optimizer": "Nothing"}, "AdamW, SGD, Adam"),
        ({"prefix": "sub/p_"}, "'sub/p_' names a folder"),
        ({"builder": "torch"}, "'onnx_cbp' or 'onnxruntime'"),
        ({"requires_grad": ["w9"]}, "'w9'"),
        ({"requires_grad": ["w1"], "frozen_params": ["w1"]}, "'w1'"),
        ({"additional_output_names": ["nowhere"]}, "'nowhere'"),
        ({"loss_input_names": ["nowhere"]}, "'nowhere'"),
        ({"ort_format": True}, "ort_format"),
        ({"optimizer": SGD(weight_decay=1e-3, no_decay="bn*")}, r"'bn\*'"),
        ({"loss": None}, "'logits'"),
        ({"artifact_directory": "/nowhere/at/all"}, "does not exist"),
        ({"train_batch_norms": "*"}, "chooses no batch norm"),
    ],
)
def test_arguments_that_mean_nothing_are_one_line_and_write_nothing(arguments, said, tmp_path):
    given = {"loss": "CrossEntropyLoss", "optimizer": "SGD", "artifact_directory": tmp_path, "builder": "onnx_cbp"}
    with pytest.raises(OnnxCbpError, match=said) as caught:
        generate_artifacts(network(PERCEPTRON, weights(0)), **{**given, **arguments})
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
