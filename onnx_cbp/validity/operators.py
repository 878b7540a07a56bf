"""Checks inputs, outputs and attributes of nodes: ONNX's ops, ours, and some of ONNX Runtime's."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

import onnx
from onnx.defs import OpSchema

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.custom_ops.ops import OPERATORS
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.opsets import function_opsets
from onnx_cbp.validity.walking import called, canonical, function_identifier, identifier, nodes, scopes

_MOST = 2**31
_Type = onnx.AttributeProto


@dataclass(frozen=True)
class _Signature:
    """What an op takes.

    Attributes:
        inputs, outputs: the fewest and the most that a node may have.
        named: how many of the first inputs may not be left out by an empty name.
        attributes: the type of each attribute by its name; that of others is not looked at.
        required: attributes that a node must have.
        closed: a node may have no others.
    """

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    named: int = 0
    attributes: Mapping[str, int] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    closed: bool = False


_FLOATS = dict.fromkeys(("epsilon", "momentum", "alpha"), _Type.FLOAT)
_INTS = dict.fromkeys(("axis", "training_mode", "ignore_index"), _Type.INT)
_READ = {**_FLOATS, **_INTS}
#: The ops of ONNX Runtime (com.microsoft) that something here reads; it publishes no schemas.
_MICROSOFT = {
    "BatchNormInternal": _Signature((3, 5), (1, 5), 3, _READ),  # of arithmetic our builder makes it with 3
    "BatchNormalizationGrad": _Signature((5, 5), (1, 3), 5, _READ),
    "ConcatTraining": _Signature((1, _MOST), (1, 2), 1, _READ),
    "FastGelu": _Signature((1, 2), (1, 1), 1, _READ),
    "FusedMatMul": _Signature((2, 2), (1, 1), 2),
    "Gelu": _Signature((1, 1), (1, 1), 1, _READ),
    "InPlaceAccumulatorV2": _Signature((2, 3), (1, 2), 2, _READ),
    "Pad": _Signature((2, 3), (1, 1), 2),
    "QuickGelu": _Signature((1, 1), (1, 1), 1, _READ),
    "ReluGrad": _Signature((2, 2), (1, 1), 2, _READ),
    "Scale": _Signature((2, 2), (1, 1), 2, _READ),
    "SoftmaxCrossEntropyLossGrad": _Signature((3, 5), (1, 1), 3, _READ),
    "SoftmaxCrossEntropyLossInternal": _Signature((2, 4), (1, 2), 2, _READ),
    "SoftmaxCrossEntropyLossInternalGrad": _Signature((3, 6), (1, 1), 3, _READ),
}
#: ONNX Runtime has it under ONNX's name in opsets that do not.
_BEFORE_ONNX = {"LayerNormalization": _Signature((2, 3), (1, 3), 2, _READ)}
#: ONNX Runtime writes evaluation models in which batch norms keep the outputs of training; we take them away.
_KEEP_OUTPUTS = ("BatchNormalization",)
#: Of these it is said which attribute has another type where the batch norm is, which is left alone.
_NAMED_LATER = ("BatchNormalization", "BatchNormInternal")
#: It has one attribute, whichever that is.
_CONSTANT = "Constant"
#: It means nothing, and exporters have left it out.
_LEGACY = "consumed_inputs"


def check_operators(model: onnx.ModelProto, functions: Iterable[onnx.FunctionProto], imports: dict[str, int]) -> None:
    """Check every node whose op is known, by the opsets that the model imports.

    Args:
        model: what is looked at.
        functions: those of the model that its nodes may call.
        imports: the opsets that the model imports.

    Raises:
        OnnxCbpError: too few or too many inputs or outputs, one that is missing, an attribute of another type, one that
            the op has not, one that is missing, or a training_mode that is neither 0 nor 1.
    """
    identifiers = {function_identifier(function) for function in functions}
    for scope in scopes(model):
        versions = function_opsets(scope, imports) if isinstance(scope, onnx.FunctionProto) else imports
        opset = versions.get("", 0)
        for node in nodes(scope):
            domain = canonical(node.domain)
            _check_attributes(node, isinstance(scope, onnx.FunctionProto))
            if domain != DOMAIN and identifiers and identifier(node) in identifiers:
                continue
            signature = _signature(domain, node.op_type, opset)
            if signature is not None:
                _check(node, signature)


def required_inputs(node: onnx.NodeProto, opset: int) -> int:
    """How many of its first inputs a node may not do without; 0 where its op is not known."""
    signature = _signature(canonical(node.domain), node.op_type, opset)
    return 0 if signature is None else signature.named


def required_attributes(node: onnx.NodeProto, opset: int) -> Collection[str]:
    """The attributes that a node may not do without, of those that it has."""
    if (canonical(node.domain), node.op_type) == ("", _CONSTANT):
        return [attribute.name for attribute in node.attribute]
    signature = _signature(canonical(node.domain), node.op_type, opset)
    return () if signature is None else signature.required


def _error(reason: str) -> OnnxCbpError:
    return OnnxCbpError(f"the model is not valid ONNX: {reason}")


def _check_attributes(node: onnx.NodeProto, in_function: bool) -> None:
    """Check what every attribute must have, whatever the op: a name of its own, and a type."""
    names: set[str] = set()
    for attribute in node.attribute:
        name = attribute.name
        if not name or not isinstance(name, str):
            raise _error(f"{called(node)} has an attribute without a name")
        if name in names:
            raise _error(f"{called(node)} has the attribute '{name}' twice: keep one")
        names.add(name)
        if attribute.type == _Type.UNDEFINED:
            raise _error(f"{called(node)} has the attribute '{name}' without a type: say which it is")
        if attribute.ref_attr_name and attribute.type in (_Type.GRAPH, _Type.GRAPHS):
            # onnx-ir walks through the graphs of every node, and here is none yet.
            raise _error(f"{called(node)} takes the graph '{name}' from the caller of a function: write it out there")
        if attribute.ref_attr_name and not in_function:
            raise _error(
                f"{called(node)} takes the attribute '{name}' from the caller of a function, and stands in none: "
                "give its value"
            )


def _check(node: onnx.NodeProto, signature: _Signature) -> None:
    for kind, names, (fewest, most) in (
        ("input", node.input, signature.inputs),
        ("output", node.output, signature.outputs),
    ):
        if not fewest <= len(names) <= most:
            takes = f"{fewest}" if fewest == most else f"{fewest} or more" if most >= _MOST else f"{fewest} to {most}"
            raise _error(f"{called(node)} has {len(names)} {kind}s, and the op has {takes}")
    for index in range(min(signature.named, len(node.input))):
        if not node.input[index]:
            raise _error(f"{called(node)} has nothing for its input {index}, which the op needs")
    given = set()
    for attribute in node.attribute:
        name = attribute.name
        given.add(name)
        wanted = signature.attributes.get(name)
        if wanted is None:
            if signature.closed and not name.startswith("__"):  # ONNX Runtime marks what its builder made so
                raise _error(f"{called(node)} has the attribute '{name}', which the op of its opset has not")
        elif attribute.type != wanted and node.op_type in _NAMED_LATER and name != _LEGACY:
            continue
        elif attribute.type != wanted:
            kinds = _Type.AttributeType
            raise _error(
                f"{called(node)} has the attribute '{name}' of type {kinds.Name(attribute.type)}, expected "
                f"{kinds.Name(wanted)}"
            )
        elif attribute.ref_attr_name:
            continue
        elif wanted == _Type.STRING:
            _check_utf8(node, name, attribute.s)
        elif name == "training_mode" and attribute.i not in (0, 1):  # ONNX Runtime trains by 1 alone
            raise _error(f"{called(node)} has training_mode {attribute.i}: write 1 where it trains, and else 0")
    if node.op_type == _CONSTANT and len(given) != 1:
        raise _error(f"{called(node)} has {len(given)} attributes, and a Constant has one, its value")
    missing = signature.required - given
    if missing:
        raise _error(f"{called(node)} lacks the attribute '{min(missing)}', which the op needs")


def _check_utf8(node: onnx.NodeProto, name: str, text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise _error(f"{called(node)} has the attribute '{name}', which is no UTF-8: {text!r:.60}") from None


@functools.lru_cache(maxsize=4096)
def _signature(domain: str, op_type: str, opset: int) -> _Signature | None:
    """What an op takes; None where that is not known."""
    if domain == DOMAIN:
        return _ours(op_type)
    if domain == "com.microsoft":
        return _MICROSOFT.get(op_type)
    return None if domain else _onnx(op_type, opset)


def _ours(op_type: str) -> _Signature | None:
    operator = OPERATORS.get(op_type)
    if operator is None:
        return None
    kinds = {int: _Type.INT, float: _Type.FLOAT, str: _Type.STRING, tuple: _Type.INTS}
    inputs, outputs = len(operator.inputs), len(operator.outputs)
    attributes = {each.name: kinds[type(each.default)] for each in operator.attributes}
    required = frozenset(attributes.keys() - operator.defaults(0).keys())
    return _Signature((inputs, inputs), (outputs, outputs), inputs, attributes, required)


def _onnx(op_type: str, opset: int) -> _Signature | None:
    schema, closed = _schema(op_type, opset), True
    if schema is None:  # no op of this opset: whoever runs the model will say so
        if op_type in _BEFORE_ONNX:
            return _BEFORE_ONNX[op_type]
        schema, closed = _nearest(op_type, opset), False
        if schema is None:
            return None
    single = OpSchema.FormalParameterOption.Single
    named = 0
    for formal in schema.inputs:
        if formal.option != single:
            break
        named += 1
    attributes = {name: _Type.AttributeType.Value(each.type.name) for name, each in schema.attributes.items()}  # type: ignore[attr-defined]
    required = frozenset(name for name, attribute in schema.attributes.items() if attribute.required)
    most = _MOST if op_type in _KEEP_OUTPUTS else schema.max_output
    return _Signature(
        (schema.min_input, schema.max_input),
        (schema.min_output, most),
        named,
        attributes,
        required - {_LEGACY},
        closed,
    )


def _schema(op_type: str, opset: int) -> OpSchema | None:
    """An op of ONNX in an opset; None where that has it not, or not any more."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def _nearest(op_type: str, opset: int) -> OpSchema | None:
    """An op of ONNX that an opset does not have, as its last version before that has it, or else its first one.

    Who reads a node by the name of its op alone relies on the inputs and attributes that an op of this name has.
    """
    every = [each for each in onnx.defs.get_all_schemas_with_history() if (each.domain, each.name) == ("", op_type)]
    versions = sorted((each for each in every if not each.deprecated), key=lambda each: each.since_version)
    before = [each for each in versions if each.since_version <= opset]
    return before[-1] if before else next(iter(versions), None)
