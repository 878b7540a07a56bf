"""Every plain C function of the table refuses what it cannot work on in one line; the process goes on.

Run in a process of their own: what is tested is that there is none that ends it.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from onnx_cbp.custom_ops import OPERATORS
from onnx_cbp.custom_ops.library import get_library_path
from onnx_cbp.custom_ops.operator import STRUCTURAL_ATTRIBUTES
from support.native_table import FUNCTIONS, OPS

pytestmark = pytest.mark.native

SIZES = {
    "outer": 2,
    "channels": 3,
    "inner": 4,
    "replicas": 1,
    "batch": 2,
    "multiplier": 2,
    "outputs": 5,
    "axes": 2,
}
#: Lists that tell sizes.
LISTS = {"size": [4, 5], "kernel_shape": [3, 2], "strides": [1, 2], "pads": [1, 0, 1, 0], "dilations": [1, 1]}
UNKNOWN, NEGATIVE, MANY, NULL = "unknown type", "a size is negative", "more elements than", "is null"

#: Calls functions with arguments by name, in the order of a list, and prints the answers.
CALLER = """
import ctypes, json, sys
library = ctypes.CDLL(sys.argv[1])
ROOM = [(ctypes.c_double * 256)() for _ in range(32)]
KINDS = {"int": ctypes.c_int, "int64_t": ctypes.c_int64, "double": ctypes.c_double}
answers = []
for name, parameters, values in json.load(sys.stdin):
    function = getattr(library, name)
    function.restype = ctypes.c_char_p
    arguments, kept = [], []
    for number, (kind, parameter) in enumerate(parameters):
        if kind in KINDS:
            arguments.append(KINDS[kind](values[parameter]))
        elif parameter in ("group", "layer", "reduction"):
            text = values.get(parameter, "sum" if parameter == "reduction" else "world")
            arguments.append(ctypes.c_char_p(None if text is None else text.encode()))
        else:
            missing = parameter in values.get("null", [])
            place = ROOM[number]
            if parameter in values:
                place = (ctypes.c_int64 * len(values[parameter]))(*values[parameter])
                kept.append(place)
            arguments.append(ctypes.c_void_p(None if missing else ctypes.addressof(place)))
    answer = function(*arguments)
    answers.append(None if answer is None else answer.decode())
print(json.dumps(answers))
"""


def _answers(calls: list[tuple[str, dict[str, object]]]) -> list[str | None]:
    document = [(name, FUNCTIONS[name], {**_usual(name), **values}) for name, values in calls]
    result = subprocess.run(
        [sys.executable, "-c", CALLER, get_library_path()],
        input=json.dumps(document), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 0, f"the process ended: {result.returncode} {result.stderr}"
    return json.loads(result.stdout)


def _usual(name: str) -> dict[str, object]:
    numbers = {"int": 1, "double": 0.5, "int64_t": 0}
    usual = {p: SIZES.get(p, numbers[kind]) for kind, p in FUNCTIONS[name] if kind in numbers}
    return usual | {p: LISTS[p] for p in _lists(name)}


def _lists(name: str) -> list[str]:
    return [p for kind, p in FUNCTIONS[name] if kind == "const int64_t*" and p in LISTS]


def _names(name: str, *kinds: str) -> list[str]:
    return [parameter for kind, parameter in FUNCTIONS[name] if kind in kinds]


def _tensors(name: str) -> list[str]:
    return [p for kind, p in FUNCTIONS[name] if kind.endswith("*") and kind != "const char*" and p not in LISTS]


def test_the_table_is_read():
    assert len(FUNCTIONS) == 20
    assert all(_tensors(name) for name in FUNCTIONS)


def test_the_table_has_what_the_descriptions_have():
    assert set(OPS) == set(OPERATORS)
    c_types = {int: "int", float: "double", str: "const char*"}
    types = {"Data": ("T", "X"), "Vector": ("U", "C"), "ReplicaVectors": ("U", "RC"), "Count": ("int64", "")}
    types |= {"ReplicaCounts": ("int64", "R"), "DepthwiseResults": ("T", "windows"), "DepthwiseWeight": ("T", "kernel")}
    types |= {"Results": ("T", "outputs"), "Weight": ("T", "weight"), "ExchangedWeight": ("T", "exchanged weight")}
    for name, operator in OPERATORS.items():
        attributes = [a for a in operator.attributes if a.name not in STRUCTURAL_ATTRIBUTES]
        expected = [("ATTRIBUTE", c_types[type(a.default)], a.name) for a in attributes]
        for what, formals in (("IN", operator.inputs), ("OUT", operator.outputs)):
            expected += [(what, t.name, t.type, t.shape) for t in formals]
        got = [row if len(row) == 3 else (row[0], row[2], *types[row[3]]) for row in OPS[name]]
        assert got == expected, name


def test_the_documentation_has_every_function_as_it_is():
    text = (Path(__file__).parents[2] / "docs" / "internals" / "native_interface.md").read_text()
    documented = {
        name: [tuple(part.strip().rsplit(" ", 1)) for part in parameters.split(",")]
        for name, parameters in re.findall(r"^    const char\* (onnx_cbp_\w+)\(([^)]*)\);", text, re.MULTILINE)
        if parameters != "void"
    }
    assert documented == FUNCTIONS


def test_usual_arguments_are_taken():
    assert _answers([(name, {}) for name in FUNCTIONS]) == [None] * len(FUNCTIONS)


def test_unknown_types():
    calls = [
        (name, {kind: number})
        for name in FUNCTIONS
        for kind in _names(name, "int")
        if kind.endswith("_type")
        for number in (0, -1, 2, 7, 12, 17, 99, 2**31 - 1, -(2**31), *([10, 16] if kind == "stats_type" else []))
    ]
    for (name, values), answer in zip(calls, _answers(calls), strict=True):
        assert UNKNOWN in (answer or ""), (name, values, answer)


@pytest.mark.parametrize("size", [-1, -7, -(2**62), -(2**63)])
def test_negative_sizes(size):
    calls = [(name, {which: size}) for name in FUNCTIONS for which in _names(name, "int64_t")]
    calls += [(name, dict.fromkeys(_names(name, "int64_t"), size)) for name in FUNCTIONS]
    for (name, values), answer in zip(calls, _answers(calls), strict=True):
        assert NEGATIVE in (answer or ""), (name, values, answer)


def test_sizes_whose_product_overflows():
    calls = [(name, dict.fromkeys(sizes, 2**40)) for name in FUNCTIONS if len(sizes := _names(name, "int64_t")) > 1]
    for (name, values), answer in zip(calls, _answers(calls), strict=True):
        assert MANY in (answer or ""), (name, values, answer)


def test_null_for_a_tensor_that_is_not_empty():
    calls = [(name, {"null": [tensor]}) for name in FUNCTIONS for tensor in _tensors(name)]
    for (name, values), answer in zip(calls, _answers(calls), strict=True):
        assert NULL in (answer or ""), (name, values, answer)


def test_null_for_an_empty_tensor():
    """Nothing is read of it, or written to it; a count is there all the same."""
    calls = []
    for name in FUNCTIONS:
        tensors = [t for t in _tensors(name) if "count" not in t]
        sizes = dict.fromkeys(_names(name, "int64_t"), 0) | ({"axes": 2} if _lists(name) else {})
        calls.append((name, {"null": tensors, **sizes, "replicas": 1}))
    assert _answers(calls) == [None] * len(calls)


def test_null_for_a_list():
    calls = [(name, {"null": [p]}) for name in FUNCTIONS for p in _lists(name)]
    assert len(calls) == 20
    for (name, values), answer in zip(calls, _answers(calls), strict=True):
        assert NULL in (answer or ""), (name, values, answer)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"axes": 0}, "one to three axes"),
        ({"axes": 4}, "one to three axes"),
        ({"kernel_shape": [9, 2]}, "larger than the padded data"),
        ({"size": [0, 5]}, "larger than the padded data"),
        ({"kernel_shape": [0, 2]}, "1 or more"),
        ({"strides": [1, 0]}, "1 or more"),
        ({"dilations": [0, 1]}, "1 or more"),
        ({"pads": [1, 0, -1, 0]}, NEGATIVE),
        ({"size": [-4, 5]}, NEGATIVE),
        ({"size": [2**40, 2**40]}, MANY),
        ({"pads": [2**62, 0, 0, 0]}, MANY),
        ({"kernel_shape": [2**30, 2], "dilations": [2**30, 1]}, MANY),
    ],
)
def test_windows_that_are_none(values, says):
    answers = _answers([(name, values) for name in FUNCTIONS if _lists(name)])
    assert len(answers) == 4
    assert all(says in (answer or "") for answer in answers)


def test_null_for_a_text():
    calls = [(name, {p: None}) for name in FUNCTIONS for p in _names(name, "const char*")]
    assert len(calls) == 8
    for (name, values), answer in zip(calls, _answers(calls), strict=True):
        assert NULL in (answer or ""), (name, values, answer)


@pytest.mark.parametrize("replicas", [0, 2, 1000])
def test_room_for_another_number_of_replicas(replicas):
    (answer,) = _answers([("onnx_cbp_all_gather", {"replicas": replicas})])
    assert f"there is room for {replicas} replicas, and the group has 1" in (answer or "")
