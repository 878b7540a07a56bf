"""Finds every batch norm of a model, in every dialect, and says whether it can be rewritten."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Mapping

import onnx_ir as ir
from onnx_ir.traversal import RecursiveGraphIterator

from onnx_cbp.custom_ops import DOMAIN
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.scopes import scopes
from onnx_cbp.graph_passes.core.sites import BackwardSite, ForwardSite, InferenceSite, LeftAlone, Site
from onnx_cbp.graph_passes.core.types import FLOATS, NO_NUMBERS, Types
from onnx_cbp.graph_passes.core.values.sample_axes import SampleAxes
from onnx_cbp.graph_passes.dialects import DIALECTS, made_statistics, primitive_arithmetic
from onnx_cbp.graph_passes.dialects._reading import WrongAttributeError

#: The domains that have batch norms: ONNX's, ONNX Runtime's and ours.
_DOMAINS = ("", "com.microsoft", DOMAIN)
_CAST_FIRST = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_CAST_TO_NUMBER_SINCE = 6
#: Ops whose result has the type of what they are given.
_COPIES = ("Identity", "Reshape", "Squeeze", "Unsqueeze", "Expand", "Transpose")


def find_sites(model: ir.Model) -> Iterator[Site]:
    """Every batch norm of the model, in the order of its nodes: main graph, subgraphs, model-local functions.

    Each is read when it is asked for, so a pass may replace one before it goes on to the next.
    """
    types = Types(model)
    samples = SampleAxes(model, types)
    for node, imports in list(_nodes(model)):
        site = _site(node, imports, types, samples)
        if site is not None:
            yield site


def made_statistics_sites(model: ir.Model, trained: Collection[str] = ()) -> list[InferenceSite]:
    """Ops in inference form whose statistics depend on data, and are not those of their batch; as what they are.

    With `trained`, also those that are made of a parameter with one of these names.
    """
    types = Types(model)
    samples = SampleAxes(model, types)
    found = []
    for node, imports in _nodes(model):
        site = recognise(node, onnx_opset(imports))
        if isinstance(site, InferenceSite) and made_statistics.has_gradient(site, types, samples, trained):
            found.append(site)
    return found


def _nodes(model: ir.Model) -> Iterator[tuple[ir.Node, Mapping[str, int]]]:
    """Every node, with the opsets by domain that its graph or function imports."""
    for scope in scopes(model):
        imports = scope.opset_imports or model.opset_imports
        for node in RecursiveGraphIterator(scope):
            yield node, imports


def recognise(node: ir.Node, opset: int) -> Site | None:
    """The batch norm that a node is in some dialect, even if it cannot be rewritten; None if the node is none."""
    for dialect in DIALECTS:
        try:
            site = dialect.recognise(node, opset)
        except WrongAttributeError as error:
            return LeftAlone(node, node.op_type, str(error))
        if site is not None:
            return site
    return None


def _site(node: ir.Node, imports: Mapping[str, int], types: Types, samples: SampleAxes) -> Site | None:
    if node.domain not in _DOMAINS:
        return None
    opset = onnx_opset(imports)
    site = recognise(node, opset) or primitive_arithmetic.recognise(node, opset, types, samples)
    site = made_statistics.resolve(site, types, samples)
    if site is None or isinstance(site, LeftAlone):
        return site
    # Parameters and statistics of one in inference form may be of any type: a Cast may come behind them.
    reason = _wrong_vector(site) if isinstance(site, InferenceSite) else _obstacle(site, opset, types)
    return site if reason is None else LeftAlone(node, site.form, reason)


def _wrong_type(values: Iterable[object]) -> str | None:
    """Which of a site's values has a declared type that no batch norm takes; None if none has."""
    for value in values:
        dtype = _type_of(value) if isinstance(value, ir.Value) else None
        if isinstance(value, ir.Value) and dtype is not None and dtype not in FLOATS:
            return f"'{value.name}' has type {dtype}: use float, double, float16 or bfloat16"
    return None


def _wrong_vector(site: InferenceSite) -> str | None:
    """Which of the values of a batch norm in inference form no Cast makes what it takes; None if none is."""
    for value in (site.scale, site.B, site.mean, site.var):
        dtype = _type_of(value)
        if dtype in NO_NUMBERS and dtype != ir.DataType.UNDEFINED:
            return f"'{value.name}' has type {dtype}: use float, double, float16 or bfloat16"
    return _wrong_type([site.X])


def _type_of(value: ir.Value) -> ir.DataType | None:
    """The type that the graph declares of a value, or that of the constant which it is a copy of."""
    while value.dtype is None and (node := value.producer()) is not None and node.domain == "":
        if node.op_type == "Constant":
            tensor = ir.convenience.get_const_tensor(value)
            return None if tensor is None else tensor.dtype
        if node.op_type not in _COPIES or node.inputs[0] is None:
            return None
        value = node.inputs[0]
    return value.dtype


def _obstacle(site: ForwardSite | BackwardSite, opset: int, types: Types) -> str | None:
    """Why the channel ops cannot accept the values of this site; None if they can."""
    epsilon = getattr(site, "epsilon", 0.0)
    if not 0 <= epsilon < math.inf:
        return f"its epsilon is {epsilon}, expected a finite number, 0 or more"
    shape = site.X.shape
    if shape is not None and len(shape) < 2:
        return f"'{site.X.name}' has shape {shape}: batch norm needs rank 2 or more"
    wrong = _wrong_type(getattr(site, field.name) for field in dataclasses.fields(site))
    if wrong is not None:
        return wrong
    if types.of(site.scale) is None:
        return f"the type of '{site.scale.name}' is not known: run onnx.shape_inference on the model first"
    # The cast is ONNX's, whoever's the batch norm is.
    if opset < _CAST_TO_NUMBER_SINCE and types.of(site.scale) in _CAST_FIRST:
        return f"'{site.scale.name}' has a 16-bit type, which opset {opset} cannot cast: convert to opset 6 or newer"
    return None
