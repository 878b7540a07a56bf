"""External data belong to the folder of the model's file: every verb reads those, and refuses others in one line."""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnx_cbp
import onnx_cbp.checking
from onnx_cbp.model_files.model_io import load_model
from support.models import parse

_NETWORK = """
<ir_version: 8, opset_import: ["" : 17, "local" : 1]>
agraph (float[N, 3, 4, 4] x, bool choice) => (float[N, 2, 4, 4] y)
<float[2, 3, 1, 1] w = {1, 2, 3, 4, 5, 6}, float[2] scale = {1, 2}, float[2] zero = {0, 0}, float[2] one = {1, 1}>
{
    c = Conv (x, w)
    n = BatchNormalization (c, scale, zero, zero, one)
    k = Constant <value: tensor = float[2, 1, 1] {1, 2}> ()
    a = Add (n, k)
    f = local.shift (a)
    y = If (choice) <
        then_branch = yes () => (float[N, 2, 4, 4] t) <float[2, 1, 1] u = {3, 4}> { t = Mul (f, u) },
        else_branch = no () => (float[N, 2, 4, 4] e) {
            v = Constant <value: tensor = float[2, 1, 1] {5, 6}> ()
            e = Mul (f, v)
        }
    >
}
<domain: "local", opset_import: ["" : 17]>
shift (a) => (b)
{
    q = Constant <value: tensor = float[2, 1, 1] {7, 8}> ()
    b = Add (a, q)
}
"""


def _network() -> onnx.ModelProto:
    model = parse(_NETWORK)
    for tensor in (*_places(model).values(), *model.graph.initializer):
        _as_loaded(tensor)
    return model


def _as_loaded(tensor: TensorProto) -> TensorProto:
    """A tensor as it is once its data are read from a file."""
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))
    tensor.data_location = TensorProto.DEFAULT
    return tensor


def _places(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """A tensor of every kind of place that can hold one."""
    graph, branches = model.graph, {a.name: a.g for a in model.graph.node[-1].attribute}
    return {
        "initializer": graph.initializer[0],
        "Constant": next(n for n in graph.node if n.op_type == "Constant").attribute[0].t,
        "initializer of a subgraph": branches["then_branch"].initializer[0],
        "Constant of a subgraph": branches["else_branch"].node[0].attribute[0].t,
        "Constant of a function": model.functions[0].node[0].attribute[0].t,
    }


PLACES = list(_places(parse(_NETWORK)))


def _move_out(tensor: TensorProto, location: str, **entries: object) -> bytes:
    """Make a tensor name a file, and give what is to be in it."""
    data = tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        tensor.external_data.add(key=key, value=str(value))
    return data


def _verbs(model):
    """Every call that reads a model, on one."""
    x = np.ones((2, 3, 4, 4), np.float32)
    return {
        "inspect": lambda: onnx_cbp.inspect(model),
        "rewrite": lambda: onnx_cbp.rewrite(model),
        "finalize": lambda: onnx_cbp.finalize(model),
        "update_bn": lambda: onnx_cbp.update_bn(model, [{"x": x, "choice": np.array(True)}]),
        "check": lambda: onnx_cbp.checking.compare(model, model),
        "generate_artifacts": lambda: _generate_artifacts(model),
    }


def _generate_artifacts(model):
    pytest.importorskip("onnxruntime.training.artifacts", reason="needs onnxruntime-training-cpu", exc_type=ImportError)
    from onnx_cbp.training import generate_artifacts

    generate_artifacts(model, requires_grad=["w"], loss="MSELoss")


VERBS = list(_verbs(None))


def _refusal(call) -> str:
    with pytest.raises(onnx_cbp.OnnxCbpError) as refused:
        call()
    message = str(refused.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("place", PLACES)
def test_data_beside_the_model_are_read(tmp_path, place):
    model, whole = _network(), _network()
    data = _move_out(_places(model)[place], "w.data", offset=64, length=len(_places(whole)[place].raw_data))
    (tmp_path / "w.data").write_bytes(bytes(64) + data)
    onnx.save(model, tmp_path / "model.onnx")
    assert load_model(tmp_path / "model.onnx") == whole
    assert onnx_cbp.finalize(tmp_path / "model.onnx") == onnx_cbp.finalize(whole)


@pytest.mark.parametrize("location", ["deep/w.data", "./w.data", "deep//deeper/w.data", "w with blanks,ü"])
def test_folders_in_the_folder_are_its_own(tmp_path, location):
    model, whole = _network(), _network()
    file = tmp_path / location
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_move_out(model.graph.initializer[0], location))
    onnx.save(model, tmp_path / "model.onnx")
    assert load_model(tmp_path / "model.onnx") == whole


@pytest.mark.parametrize(
    "values", [np.float16([1, 2]), np.int64([3]), np.float64([[1.5, 2.5]]), np.zeros((0, 3), np.float32)]
)
def test_data_of_any_type_and_shape(tmp_path, values):
    model, whole = _network(), _network()
    for each in (model, whole):
        each.graph.initializer.append(_as_loaded(numpy_helper.from_array(values, "more")))
    (tmp_path / "w.data").write_bytes(_move_out(model.graph.initializer[-1], "w.data"))
    onnx.save(model, tmp_path / "model.onnx")
    assert load_model(tmp_path / "model.onnx") == whole


def test_a_sparse_initializer(tmp_path):
    values = _as_loaded(numpy_helper.from_array(np.float32([1, 2]), "s"))
    indices = _as_loaded(numpy_helper.from_array(np.int64([1, 3]), "s_indices"))
    sparse = helper.make_sparse_tensor(values, indices, [4])
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "s"], ["y"])], "sparse",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
        sparse_initializer=[sparse],
    )  # fmt: skip
    whole = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for part in ("values", "indices"):
        model = onnx.ModelProto.FromString(whole.SerializeToString())
        data = _move_out(getattr(model.graph.sparse_initializer[0], part), "w.data")
        assert "no folder" in _refusal(lambda model=model: onnx_cbp.rewrite(model))
        (tmp_path / "w.data").write_bytes(data)
        onnx.save(model, tmp_path / "model.onnx")
        assert load_model(tmp_path / "model.onnx") == whole
        assert onnx_cbp.rewrite(tmp_path / "model.onnx") == whole


class TestModelsInMemory:
    """They have no folder: whatever the current one holds under that name is another model's."""

    @pytest.mark.parametrize("verb", VERBS)
    @pytest.mark.parametrize("place", PLACES)
    def test_each_verb_refuses_each_place(self, verb, place, tmp_path, monkeypatch):
        model = _network()
        data = _move_out(_places(model)[place], "w.data")
        monkeypatch.chdir(tmp_path)
        Path("w.data").write_bytes(data)
        message = _refusal(_verbs(model)[verb])
        assert f"tensor '{_places(model)[place].name}'" in message
        assert "'w.data'" in message
        assert "give the path of the model" in message

    def test_a_model_that_onnx_has_saved(self, tmp_path):
        """onnx.save takes the data out of the very object that it is given."""
        model = _network()
        path = tmp_path / "model.onnx"
        onnx.save(model, path, save_as_external_data=True, location="model.data", size_threshold=0)
        assert "model.data" in _refusal(lambda: onnx_cbp.finalize(model))
        assert onnx_cbp.finalize(path) == onnx_cbp.finalize(onnx.load(path)) == onnx_cbp.finalize(_network())
        without = onnx.load(path, load_external_data=False)
        assert "onnx.load" in _refusal(lambda: onnx_cbp.rewrite(without))


#: What leads out of the folder or is no file of data, and the words that say so. `{outside}` is a file elsewhere.
LEAVING = {
    "absolute": ("{outside}", "absolute path"),
    "absolute, of another system": ("C:\\secret", "absolute path"),
    "parent": ("../outside/secret", "leads out"),
    "parent behind a folder": ("folder/../../outside/secret", "leads out"),
    "parent, of another system": ("..\\outside\\secret", "leads out"),
    "back again": ("folder/../w.data", "leads out"),
    "link": ("link", "is a link"),
    "link inside": ("inside", "is a link"),
    "link of a link": ("second", "is a link"),
    "behind a link": ("linked/secret", "is a link"),
    "link in a circle": ("circle", "is a link"),
    "hard link": ("hard", "hard link"),
    "fifo": ("fifo", "no regular file"),
    "device": ("linked_zero", "is a link"),
    "folder": ("folder", "no regular file"),
    "the folder itself": (".", "no regular file"),
    "no name": ("", "no name of a file"),
    "missing": ("missing", "does not exist"),
    "behind a file": ("w.data/x", "cannot be read"),
    "an address in memory": ("*/_ORT_MEM_ADDR_/*", "does not exist"),
}


@pytest.fixture
def folder(tmp_path):
    """A folder with everything that data must not be read from."""
    outside, folder = tmp_path / "outside", tmp_path / "model"
    outside.mkdir()
    (folder / "folder").mkdir(parents=True)
    (outside / "secret").write_bytes(b"s" * 24)
    (folder / "w.data").write_bytes(bytes(24))
    (folder / "link").symlink_to(outside / "secret")
    (folder / "inside").symlink_to("w.data")
    (folder / "second").symlink_to("link")
    (folder / "linked").symlink_to(outside)
    (folder / "circle").symlink_to("circle")
    (folder / "linked_zero").symlink_to("/dev/zero")
    (outside / "other").write_bytes(b"s" * 24)
    os.link(outside / "other", folder / "hard")
    os.mkfifo(folder / "fifo")
    return folder


@pytest.mark.parametrize("way", LEAVING)
def test_what_leaves_the_folder_is_refused(folder, way):
    location, words = LEAVING[way]
    model = _network()
    _move_out(model.graph.initializer[0], location.format(outside=folder.parent / "outside" / "secret"))
    onnx.save(model, folder / "model.onnx")
    for name, verb in _verbs(folder / "model.onnx").items():
        if name == "generate_artifacts":
            continue  # below
        message = _refusal(verb)
        assert words in message, name
        assert "tensor 'w'" in message
        assert str(folder / "model.onnx") in message


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("place", PLACES)
def test_each_verb_refuses_each_place(folder, verb, place):
    model = _network()
    _move_out(_places(model)[place], "link")
    onnx.save(model, folder / "model.onnx")
    assert "is a link" in _refusal(_verbs(folder / "model.onnx")[verb])


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"length": 20}, "has 20 bytes for it, where its shape [2, 3, 1, 1] and type need 24"),
        ({"length": 28}, "need 24"),
        ({"offset": 4}, "has 24 bytes, where it should have 28"),
        ({"offset": 2**62}, "it is cut short"),
        ({"offset": -1}, "the offset '-1', which is no number of bytes"),
        ({"length": "many"}, "the length 'many'"),
        ({"offset": "9" * 30}, "no number of bytes"),
    ],
)
def test_data_that_do_not_fit(folder, entries, words):
    model = _network()
    _move_out(model.graph.initializer[0], "w.data", **entries)
    onnx.save(model, folder / "model.onnx")
    assert words in _refusal(lambda: load_model(folder / "model.onnx"))
    assert words in _refusal(lambda: load_model(folder / "model.onnx", external_data=False))


def test_two_locations(folder):
    """Which of them another reader takes is not known."""
    model = _network()
    _move_out(model.graph.initializer[0], "w.data")
    model.graph.initializer[0].external_data.add(key="location", value="link")
    onnx.save(model, folder / "model.onnx")
    assert "stated twice" in _refusal(lambda: load_model(folder / "model.onnx"))


def test_text_cannot_stand_in_a_file(folder):
    model = _network()
    model.graph.initializer.add(name="t", dims=[24], data_type=TensorProto.STRING)
    _move_out(model.graph.initializer[-1], "w.data")
    onnx.save(model, folder / "model.onnx")
    assert "only numbers can stand in a file" in _refusal(lambda: load_model(folder / "model.onnx"))


@pytest.mark.parametrize("field", ["key", "value"])
def test_what_is_no_utf8_names_no_file(folder, field):
    """protobuf gives it as bytes."""
    model = _network()
    _move_out(model.graph.initializer[0], "w.data")
    setattr(model.graph.initializer[0].external_data[0], field, "QQQQ")
    damaged = model.SerializeToString().replace(b"QQQQ", b"Q\xff\xfeQ")
    (folder / "model.onnx").write_bytes(damaged)
    for verb in _verbs(folder / "model.onnx").values():
        assert "is no text in UTF-8: name the file anew" in _refusal(verb)
    in_memory = onnx.ModelProto.FromString(damaged)
    for verb in (onnx_cbp.inspect, onnx_cbp.rewrite, onnx_cbp.finalize):
        assert "has its data in a file" in _refusal(functools.partial(verb, in_memory))
