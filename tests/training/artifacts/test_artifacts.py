"""generate_artifacts: the files of ONNX Runtime's, with what is frozen frozen."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

import onnx_cbp
from onnx_cbp import OnnxCbpError
from onnx_cbp.training import Artifacts, Trainer, compare_steps, generate_artifacts, load_artifacts
from onnx_cbp.training.compare import gradient_differences
from support.made_up.finetuning import LAYERS, batch, gradients, loss, network, parameters
from support.made_up.networks import random_network
from support.models import op_types, parse
from support.training import generate, trainer

pytestmark = pytest.mark.training

FROZEN = [("bn0",), ("bn1",), LAYERS]
TOLERANCE = 1e-5


def _trained(values, also_frozen=()):
    return [name for name in values if "running" not in name and name not in also_frozen]


def _ours(model, folder, values=None, **arguments) -> Artifacts:
    names = [tensor.name for tensor in model.graph.initializer]
    arguments.setdefault("requires_grad", _trained(names))
    generate_artifacts(model, loss="CrossEntropyLoss", optimizer="AdamW", artifact_directory=folder, **arguments)
    return Artifacts.in_folder(folder)


def _text(values) -> str:
    """Nodes or values as text, without the numbers that ONNX Runtime counts on from call to call."""
    return re.sub(r"(onnx::\w+::)\d+", r"\1", "".join(str(value) for value in values))


def _far_off(trained, values, data, frozen) -> tuple[float, float]:
    """How far the loss and the worst gradient are from float64."""
    want = gradients(values, *data, frozen)
    got_loss = trained.forward_backward(data)
    got = trained.gradients()
    want = {name: want[name] for name in got}
    return abs(got_loss - loss(values, *data, frozen)), max(gradient_differences(want, got).values())


@pytest.mark.parametrize("frozen", FROZEN)
@pytest.mark.parametrize("opset", [13, 17])
def test_frozen_batch_norms_have_their_own_gradients(opset, frozen, tmp_path):
    values, data = parameters(1), batch(2)
    model = network(values, frozen, opset)
    # What goes wrong: ONNX Runtime's own trains what is frozen.
    (tmp_path / "original").mkdir()
    original = trainer(generate(model, tmp_path / "original"))
    wrong_loss, wrong_gradients = _far_off(original, values, data, frozen)
    assert wrong_loss > 1e-3
    assert wrong_gradients > 0.1
    right_loss, right_gradients = _far_off(trainer(_ours(model, tmp_path), "auto"), values, data, frozen)
    assert right_loss <= 1e-6
    assert right_gradients <= TOLERANCE


@pytest.mark.parametrize("frozen", FROZEN)
def test_scale_and_bias_frozen_too(frozen, tmp_path):
    values, data = parameters(3), batch(4)
    fixed = [f"{layer}.{name}" for layer in frozen for name in ("weight", "bias")]
    artifacts = _ours(network(values, frozen), tmp_path, requires_grad=_trained(values, fixed), frozen_params=fixed)
    # Nobody asks for the sums of a layer whose scale and bias are frozen.
    sums = op_types(onnx.load(artifacts.training_model)).count("ChannelBackpropStats")
    assert sums == 0
    assert max(_far_off(trainer(artifacts, "auto"), values, data, frozen)) <= TOLERANCE


@pytest.mark.parametrize("as_parameters", [True, False])
def test_running_statistics_of_frozen_batch_norms_keep_their_bits(as_parameters, tmp_path):
    values = parameters(5)
    statistics = [name for name in values if "running" in name]
    artifacts = _ours(network(values, ("bn0",)), tmp_path, frozen_params=statistics if as_parameters else None)
    trained = trainer(artifacts, "auto", learning_rate=1e-2)
    for seed in range(3):
        trained.step(batch(seed))
    after = trained.values()
    for name in values:
        if name.startswith("bn0.running"):
            if as_parameters:
                np.testing.assert_array_equal(after[name], values[name])
            else:
                assert name not in after, "a constant of the graph"
        else:
            assert np.abs(after[name] - values[name]).max() > 1e-4, f"{name} is trained"


@pytest.mark.parametrize("kind", ["Identity", "Constant"])
def test_statistics_that_an_exporter_merged_are_each_kept(kind, tmp_path):
    values = parameters(12)
    for name in ("running_mean", "running_var"):
        values[f"bn1.{name}"] = values[f"bn0.{name}"]
    plain = network(values, ())
    model = onnx.ModelProto()
    model.CopyFrom(plain)
    for name in ("running_mean", "running_var"):
        tensor = next(t for t in model.graph.initializer if t.name == f"bn1.{name}")
        source = ["bn0." + name] if kind == "Identity" else []
        attributes = {} if kind == "Identity" else {"value": tensor}
        model.graph.node.insert(0, onnx.helper.make_node(kind, source, [tensor.name], **attributes))
        model.graph.initializer.remove(tensor)
    (tmp_path / "plain").mkdir()
    want = trainer(_ours(plain, tmp_path / "plain"), "auto")
    got = trainer(_ours(model, tmp_path), "auto")
    for seed in range(3):
        want.step(batch(seed))
        got.step(batch(seed))
    after, expected = got.values(), want.values()
    assert set(after) == set(expected)
    assert np.abs(after["bn1.running_mean"] - after["bn0.running_mean"]).max() > 1e-2
    for name in expected:
        np.testing.assert_allclose(after[name], expected[name], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("prefix", ["", "net_"])
def test_files_and_names_are_those_of_onnx_runtime(prefix, tmp_path):
    artifacts, model = load_artifacts(), random_network(7, 4)
    folders = [tmp_path / "theirs", tmp_path / "ours"]
    for folder, function in zip(folders, (artifacts.generate_artifacts, generate_artifacts), strict=True):
        folder.mkdir()
        names = [tensor.name for tensor in model.graph.initializer]
        function(
            model,
            _trained(names),
            [name for name in names if "running" in name],
            artifacts.LossType.CrossEntropyLoss,
            artifacts.OptimType.SGD,
            str(folder),
            prefix,
            nominal_checkpoint=True,
            additional_output_names=["logits"],
        )
    theirs, ours = (sorted(file.name for file in folder.iterdir()) for folder in folders)
    assert ours == theirs
    for name in (f"{prefix}checkpoint", f"{prefix}nominal_checkpoint"):
        assert (folders[1] / name).stat().st_size == (folders[0] / name).stat().st_size
    for name in (f"{prefix}training_model.onnx", f"{prefix}eval_model.onnx"):
        first, second = (onnx.load(folder / name).graph for folder in folders)
        assert _text(first.input) == _text(second.input)
        assert _text(first.output) == _text(second.output)


@pytest.mark.parametrize("rank", [2, 4])
def test_what_trains_equals_the_rewritten_artifacts_of_onnx_runtime(rank, tmp_path):
    model = random_network(rank, rank)
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    theirs = onnx_cbp.rewrite(generate(model, tmp_path / "theirs").training_model)
    ours = onnx.load(_ours(model, tmp_path / "ours").training_model)
    assert _text(ours.graph.node) == _text(theirs.graph.node)
    assert list(ours.graph.input) == list(theirs.graph.input), "running statistics are parameters without being named"


def test_what_trains_takes_the_steps_of_onnx_runtimes(tmp_path):
    model = network(parameters(11), ())
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    theirs = trainer(generate(model, tmp_path / "theirs"))
    differences = compare_steps(
        theirs, trainer(_ours(model, tmp_path / "ours"), "auto"), [batch(seed) for seed in range(5)]
    )
    assert differences.loss <= 1e-6
    assert differences.largest_gradient <= TOLERANCE
    assert len(differences.statistics) == 4
    assert differences.largest_statistic <= 1e-6


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("frozen", [(), ("bn0",), LAYERS])
def test_the_evaluation_model_is_pure_onnx_and_evaluates(frozen, opset, tmp_path):
    values, (x, labels) = parameters(6), batch(7)
    artifacts = _ours(network(values, frozen, opset), tmp_path)
    model = onnx.load(artifacts.eval_model)
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}
    onnx.checker.check_model(model, full_check=True)
    session = ort.InferenceSession(str(artifacts.eval_model), providers=["CPUExecutionProvider"])
    fed = {value.name for value in session.get_inputs()}
    feeds = {"x": x, "labels": labels, **values}
    got = session.run(None, {name: value for name, value in feeds.items() if name in fed})[0]
    assert got == pytest.approx(loss(values, x, labels, LAYERS), abs=1e-6)


def test_arithmetic_with_batch_statistics_goes_on_by_the_batch(tmp_path):
    model = parse("""
<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 3] x) => (float[N, 4] logits)
<float[3, 4] weight = {0.5, -1, 2, 0.1, 1, 0.3, -0.7, 0.2, 0.9, -0.4, 0.6, 1.5}, float epsilon = {0.001}>
{
    h = MatMul (x, weight)
    mean = ReduceMean <axes = [0]> (h)  d = Sub (h, mean)  q = Mul (d, d)  var = ReduceMean <axes = [0]> (q)
    shifted = Add (var, epsilon)  std = Sqrt (shifted)  logits = Div (d, std)
}""")
    artifacts = _ours(model, tmp_path)
    x, labels = batch(3)
    x = x[:, :3]
    h = x.astype(np.float64) @ numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    logits = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-3)
    labels = labels % 4
    picked = np.take_along_axis(logits, labels[:, None], 1)[:, 0]
    want = (np.log(np.exp(logits).sum(1)) - picked).mean()
    trained = trainer(artifacts, "auto")
    assert trained.forward_backward((x, labels)) == pytest.approx(want, abs=1e-5)
    trained.module.eval()
    assert float(trained.module(x, labels)) == pytest.approx(want, abs=1e-5)


def test_a_module_trains_evaluates_and_exports(tmp_path):
    values = parameters(8)
    artifacts = _ours(network(values, ("bn0",)), tmp_path)
    trained = trainer(artifacts, "auto", learning_rate=1e-2)
    data = batch(9)
    first = trained.step(data)
    for _ in range(9):
        last = trained.step(data)
    assert last < first
    trained.module.eval()
    evaluated = float(trained.module(*data))
    after = {**values, **trained.values()}
    assert evaluated == pytest.approx(loss(after, *data, LAYERS), abs=1e-5)
    path = tmp_path / "inference.onnx"
    trained.module.export_model_for_inferencing(str(path), ["logits"])
    ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_onnx_runtimes_own_generator_is_what_it_was(tmp_path):
    model = random_network(2, 2)
    _ours(model, tmp_path)
    theirs = onnx.load(generate(model, tmp_path).training_model)
    assert {"BatchNormInternal", "BatchNormalizationGrad"} <= set(op_types(theirs))
    assert "onnx_cbp" not in {node.domain for node in theirs.graph.node}


def test_the_model_is_not_changed_and_may_be_a_file(tmp_path):
    model = network(parameters(1), ("bn0",))
    for node in model.graph.node:
        node.name = ""  # as some exporters leave them
    before = model.SerializeToString(deterministic=True)
    results = []
    for name, given in (("proto", model), ("file", tmp_path / "model.onnx"), ("text", str(tmp_path / "model.onnx"))):
        folder = tmp_path / name
        folder.mkdir()
        onnx.save(model, tmp_path / "model.onnx")
        _ours_of(given, model, folder)
        results.append(onnx.load(folder / "training_model.onnx"))
    assert model.SerializeToString(deterministic=True) == before
    assert _text(results[0].graph.node) == _text(results[1].graph.node) == _text(results[2].graph.node)
    assert op_types(results[0]).count("BatchNormTrainUpdate") == 1


def _ours_of(given, model, folder):
    names = [tensor.name for tensor in model.graph.initializer]
    generate_artifacts(given, requires_grad=_trained(names), loss="CrossEntropyLoss", artifact_directory=folder)


def test_a_model_above_the_limit_goes_as_a_file(tmp_path, monkeypatch):
    model = network(parameters(1), ("bn0",))
    onnx.save(model, tmp_path / "model.onnx")
    folder = tmp_path / "ours"
    folder.mkdir()
    monkeypatch.setattr(load_artifacts(), "USE_PATH_THRESHOLD", 100)
    _ours_of(tmp_path / "model.onnx", model, folder)
    assert op_types(onnx.load(folder / "training_model.onnx")).count("BatchNormTrainUpdate") == 1
    with pytest.raises(OnnxCbpError, match="pass in a path"):
        _ours_of(model, model, folder)


def test_the_arguments_are_those_of_onnx_runtime():
    theirs = inspect.signature(load_artifacts().generate_artifacts).parameters.values()
    ours = [p for p in inspect.signature(generate_artifacts).parameters.values() if p.kind != p.KEYWORD_ONLY]
    assert [(p.name, p.default) for p in ours] == [(p.name, p.default) for p in theirs]


def test_replicas(tmp_path):
    options = {"synchronize": True, "data_parallel": True}
    model = network(parameters(1), ("bn0",))
    artifacts = _ours(model, tmp_path, rewrite_options=options)
    types = op_types(onnx.load(artifacts.training_model))
    assert (types.count("AllGather"), types.count("AllReduce")) == (1, 1), "of the one that is not frozen"
    assert "AllReduceBucket" in types
    both = _ours(model, tmp_path, rewrite_options={**options, "freeze": "bn1*"})
    assert not {"AllGather", "AllReduce"} & set(op_types(onnx.load(both.training_model)))


@pytest.mark.native
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the converter leaves files open
def test_the_ort_format(tmp_path, capfd):
    values = parameters(1)
    generate_artifacts(
        network(values, ("bn0",)),
        _trained(values),
        loss="CrossEntropyLoss",
        artifact_directory=tmp_path,
        ort_format=True,
    )
    assert {"training_model.ort", "eval_model.ort"} <= {file.name for file in tmp_path.iterdir()}
    artifacts = Artifacts(tmp_path / "training_model.ort", tmp_path / "checkpoint", None)
    options = ort.SessionOptions()
    onnx_cbp.register(options, "native")
    trained = Trainer.load(artifacts, options)
    assert max(_far_off(trained, values, batch(2), ("bn0",))) <= TOLERANCE


def test_a_loss_of_the_callers_own(tmp_path):
    load_artifacts()
    from onnxruntime.training import onnxblock

    class TwoLosses(onnxblock.Block):
        def __init__(self):
            super().__init__()
            self.first = onnxblock.loss.MSELoss()
            self.second = onnxblock.loss.L1Loss()
            self.sum = onnxblock.blocks.Add()

        def build(self, logits):
            return self.sum(self.first(logits, "target"), self.second(logits, "target"))

    values = parameters(1)
    names = _trained(values)
    generate_artifacts(network(values, LAYERS), names, loss=TwoLosses(), artifact_directory=tmp_path)
    types = op_types(onnx.load(tmp_path / "training_model.onnx"))
    assert types.count("ChannelNormalize") == 4


def test_model_local_functions(tmp_path):
    """What the gradient builder inlines is found in it."""
    values = parameters(1)
    model = network(values, LAYERS)
    node = next(node for node in model.graph.node if node.name == "bn0")
    body = onnx.NodeProto()
    body.CopyFrom(node)
    formals = ["x", "scale", "bias", "mean", "var"]
    body.input[:], body.output[:] = formals, ["y"]
    function = onnx.helper.make_function("local", "Norm", formals, ["y"], [body], [onnx.helper.make_opsetid("", 17)])
    model.functions.append(function)
    model.opset_import.append(onnx.helper.make_opsetid("local", 1))
    node.op_type, node.domain = "Norm", "local"
    del node.attribute[:]
    types = op_types(onnx.load(_ours(model, tmp_path).training_model))
    assert types.count("ChannelNormalize") == 4
    assert "BatchNormTrainUpdate" not in types


def test_neither_the_import_nor_the_generator_needs_torch(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'torch' else find(name, *rest)\n"
        "from onnx_cbp.training import generate_artifacts\n"
        "from support.made_up.finetuning import network, parameters\n"
        "v = parameters(1)\n"
        "generate_artifacts(network(v, ('bn0',)), ['fc.weight'], loss='CrossEntropyLoss', artifact_directory='.')\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {"PYTHONPATH": ":".join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert Path(tmp_path / "training_model.onnx").is_file()
