"""The ops are registered twice, by hand, beside onnxruntime-extensions: it works, or one line says what to do."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from onnx_cbp.custom_ops.library import find_library
from support.models import FORWARD
from support.programs.elsewhere import ELSEWHERE

#: In a process of its own: what one session registers must not be seen by others. h: the library by hand; e:
#: onnxruntime-extensions by hand; n, p: `register` with the native and with the Python ops.
CHILD = """
import json, sys
import numpy as np, onnxruntime as ort, onnxruntime_extensions, onnx_cbp
from onnx import parser
text, orders, own = json.loads(sys.argv[1])
if own:
    @onnxruntime_extensions.onnx_op(op_type="Mine", inputs=[onnxruntime_extensions.PyOp.dt_float])
    def mine(x):
        return x + 1
model = onnx_cbp.rewrite(parser.parse_model(text))
steps = {
    "h": lambda options: options.register_custom_ops_library(onnx_cbp.get_library_path()),
    "e": lambda options: options.register_custom_ops_library(onnxruntime_extensions.get_library_path()),
    "n": lambda options: onnx_cbp.register(options, "native"),
    "p": lambda options: onnx_cbp.register(options, "python"),
}
x = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
ones = np.ones(3, np.float32)
said = {}
for order in orders:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        for step in order:
            steps[step](options)
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        y = session.run(["y"], {"x": x, "gamma": ones, "beta": ones, "mean": ones, "var": ones})[0]
        want = (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-3) + 1
        said[order] = "right" if abs(y - want).max() < 1e-4 else "wrong"
    except onnx_cbp.OnnxCbpError as error:
        said[order] = str(error)
    except Exception as error:
        said[order] = "raw: " + str(error)
print(json.dumps(said))
"""

needs_native = pytest.mark.skipif(find_library() is None, reason="this installation has no native library")


def outcomes(*orders, own_ops=False):
    """What becomes of sessions that register so, one after the other in one process."""
    pytest.importorskip("onnxruntime_extensions", reason="the Python ops need onnxruntime-extensions")
    given = json.dumps([FORWARD, orders, own_ops])
    command = [sys.executable, "-c", CHILD, given]
    child = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ELSEWHERE)
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout.splitlines()[-1])


@needs_native
def test_the_library_twice_in_any_order():
    said = outcomes("hn", "nh", "hh", "nn", "hhnn", "en", "ne", "eh", "he")
    assert set(said.values()) == {"right"}, said


@needs_native
def test_a_session_of_python_ops_spoils_no_later_one():
    said = outcomes("p", "n", "ne", "en", "he", "hn", "p", "pp", "ph")
    assert set(said.values()) == {"right"}, said


def test_python_ops_bring_those_of_the_caller_along():
    said = outcomes("p", "pp", own_ops=True)
    assert set(said.values()) == {"right"}, said


def test_python_ops_behind_extensions_say_what_to_do():
    said = outcomes("ep", "p")
    assert "new SessionOptions without it" in said["ep"]
    assert said["p"] == "right"


@needs_native
def test_two_backends_on_the_same_options_say_what_to_do():
    for order, said in outcomes("np", "pn", "hp").items():
        assert "use new SessionOptions for backend" in said, order
