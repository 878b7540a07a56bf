"""Our training API takes every call that ONNX Runtime 1.19.2's does: names, arguments, their order and defaults."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from onnx_cbp.training import api, generate_artifacts, load_api
from onnx_cbp.training.runtime import load_artifacts

pytestmark = pytest.mark.training

CLASSES = ("CheckpointState", "LinearLRScheduler", "Module", "Optimizer", "Parameter", "Parameters", "Properties")
#: What a file of ONNX Runtime's is made of: `load_checkpoint` gives a state in both.
INTERNAL = {("CheckpointState", "__init__"), ("Parameter", "__init__"), ("Parameters", "__init__")}
INTERNAL |= {("Properties", "__init__")}


def their(name: str) -> Any:
    theirs = load_api()
    return getattr(theirs, name, None) or getattr(theirs.checkpoint_state, name)


def members(kind: type) -> dict[str, Any]:
    """Its public ones, and those that syntax calls."""
    skipped = ("__module__", "__dict__", "__weakref__", "__doc__", "__annotations__", "__repr__")
    return {
        name: member
        for name, member in vars(kind).items()
        if name not in skipped and (not name.startswith("_") or name.endswith("__"))
    }


@pytest.mark.parametrize("name", CLASSES)
def test_every_member_takes_what_theirs_takes(name):
    own, found = getattr(api, name), 0
    for member, theirs in members(their(name)).items():
        assert member in vars(own), member
        ours = vars(own)[member]
        assert type(ours) is type(theirs), member
        if isinstance(theirs, property):
            assert (ours.fset is None) == (theirs.fset is None), member
        elif (name, member) not in INTERNAL:
            hold(getattr(own, member), getattr(their(name), member), member)
        found += 1
    assert found > 1


def test_artifacts_are_asked_for_alike():
    hold(generate_artifacts, load_artifacts().generate_artifacts, "generate_artifacts")


def hold(ours: Any, theirs: Any, name: str) -> None:
    """Each parameter of theirs is one of ours: of the same kind and default, and at the same place."""
    got = list(inspect.signature(ours).parameters.values())
    wanted = list(inspect.signature(theirs).parameters.values())
    for index, parameter in enumerate(wanted):
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:  # options of theirs that are named in no signature
            continue
        same = next((each for each in got if each.name == parameter.name), None)
        assert same is not None, (name, parameter.name)
        assert same.kind is parameter.kind, (name, parameter.name)
        assert same.default == parameter.default, (name, parameter.name)
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD:
            assert got.index(same) == index, (name, parameter.name)
    for more in got[len(wanted) :]:
        assert more.default is not inspect.Parameter.empty or more.kind is inspect.Parameter.VAR_KEYWORD, more
