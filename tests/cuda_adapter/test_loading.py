"""The CUDA ops without a GPU: how the adapter finds the kernels' library, and what it says where it cannot use it."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import onnxruntime as ort
import pytest

from support.gpu.cuda_adapter import needed_folder
from support.native_table import CUDA_FUNCTIONS, NATIVE, declared
from support.ops import feeds_of, make_case, op_model, run, session

KERNELS = "libonnx_cbp_cuda.so"
C_API = (NATIVE / "cuda" / "c_api.h").read_text()
INTERFACE = int(re.search(r"#define ONNX_CBP_CUDA_INTERFACE (\d+)", C_API)[1])


@pytest.fixture
def adapter(tmp_path):
    """A copy of the adapter, where it is in an installation, without the kernels."""
    folder = tmp_path / "onnx_cbp" / "custom_ops"
    folder.mkdir(parents=True)
    shutil.copy(needed_folder() / "libonnx_cbp.so", folder)
    return folder


def _session(folder, case):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(str(folder / "libonnx_cbp.so"))
    return ort.InferenceSession(op_model(case).SerializeToString(), options, providers=["CPUExecutionProvider"])


def _refusal(folder):
    with pytest.raises(Exception, match=re.escape(str(folder / KERNELS))) as caught:
        _session(folder, make_case("ChannelStats", (2, 3, 4)))
    message = str(caught.value).strip()
    assert "\n" not in message
    assert "reinstall" in message
    return message


@pytest.mark.parametrize("place", [".", "../../onnx_cbp_cuda"])
def test_where_the_kernels_lie(adapter, place):
    (adapter / place).mkdir(exist_ok=True)
    shutil.copy(needed_folder() / KERNELS, adapter / place)
    case = make_case("ChannelStats", (2, 3, 4))
    for got, want in zip(_session(adapter, case).run(None, feeds_of(case)), run(case, "native"), strict=True):
        np.testing.assert_array_equal(got, want)


def test_kernels_that_the_environment_names(adapter, tmp_path, monkeypatch):
    monkeypatch.setenv("ONNX_CBP_CUDA_LIBRARY", str(tmp_path / "other.so"))
    with pytest.raises(Exception, match=re.escape(str(tmp_path / "other.so"))):
        _session(adapter, make_case("ChannelStats", (2, 3, 4)))
    shutil.copy(needed_folder() / KERNELS, tmp_path / "other.so")
    _session(adapter, make_case("ChannelStats", (2, 3, 4)))


def test_no_kernels(adapter):
    assert "No such file" in _refusal(adapter)


def test_what_is_no_library(adapter):
    (adapter / KERNELS).write_text("not a library")
    assert "file too short" in _refusal(adapter)


def test_the_library_of_something_else(adapter):
    shutil.copy(adapter / "libonnx_cbp.so", adapter / KERNELS)
    assert "onnx_cbp_cuda_interface" in _refusal(adapter)


@pytest.mark.parametrize(("source", "words"), [("999", "is number 999"), (str(INTERFACE), "onnx_cbp_cuda_check")])
def test_another_interface(adapter, source, words):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to make a library with")
    (adapter / "other.cc").write_text(f'extern "C" int onnx_cbp_cuda_interface() {{ return {source}; }}\n')
    command = [compiler, "-shared", "-fPIC", "-o", str(adapter / KERNELS), str(adapter / "other.cc")]
    subprocess.run(command, check=True)
    assert words in _refusal(adapter)


def test_what_cuda_says_is_passed_on_when_the_session_is_made(adapter):
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no g++ to make a library with")
    functions = declared("cuda/c_api.h") | CUDA_FUNCTIONS
    functions -= {"onnx_cbp_cuda_interface", "onnx_cbp_cuda_check"}
    code = [
        f"int onnx_cbp_cuda_interface() {{ return {INTERFACE}; }}",
        'const char* onnx_cbp_cuda_check(int) { return "the driver is too old: install another"; }',
        *(f"void {function}() {{}}" for function in functions),
    ]
    (adapter / "other.cc").write_text('extern "C" {\n' + "\n".join(code) + "\n}\n")
    command = [compiler, "-shared", "-fPIC", "-o", str(adapter / KERNELS), str(adapter / "other.cc")]
    subprocess.run(command, check=True)
    with pytest.raises(Exception, match=r"ChannelStats.*the driver is too old: install another; or run") as caught:
        _session(adapter, make_case("ChannelStats", (2, 3, 4)))
    assert "\n" not in str(caught.value).strip()


def test_after_a_failure_a_later_session_tries_again(adapter):
    _refusal(adapter)
    shutil.copy(needed_folder() / KERNELS, adapter)
    case = make_case("ChannelStats", (2, 3, 4))
    _session(adapter, case).run(None, feeds_of(case))


@pytest.mark.parametrize("name", ["ChannelBackprop", "RunningStats"])
def test_counts_are_not_looked_at(name):
    """They stay in the device's memory: reading one would make every call wait for the device."""
    needed_folder()
    case = make_case(name, (2, 3, 4))
    session(op_model(case), "native").run(None, {**feeds_of(case), "count": np.array(-1, np.int64)})


def test_a_collective_has_its_count_at_hand():
    needed_folder()
    case = make_case("AllGather", (2, 3, 4))
    with pytest.raises(Exception, match="input 'count' is -1"):
        session(op_model(case), "native").run(None, {**feeds_of(case), "count": np.array(-1, np.int64)})
