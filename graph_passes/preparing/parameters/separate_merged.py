"""Separates parameters that an exporter merged because they were equal."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import InPlacePass, PassResult

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.batch_norms.calls import is_parameter_name
from onnx_cbp.graph_passes.core.batch_norms.naming import NAME_SCOPES, module_path
from onnx_cbp.graph_passes.core.own_initializer import own_initializer
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Names
from onnx_cbp.graph_passes.core.types import FLOATS

#: PyTorch's names for the parameters of a layer, by op and position.
_ROLES = {
    **{("BatchNormalization", index): role for index, role in enumerate(("", "weight", "bias", "running_mean"))},
    ("BatchNormalization", 4): "running_var",
    **{
        (op, index): role
        for op in ("Conv", "ConvTranspose", "Gemm", "GroupNormalization", "InstanceNormalization", "LayerNormalization")
        for index, role in ((1, "weight"), (2, "bias"))
    },
    ("MatMul", 0): "weight",
    ("MatMul", 1): "weight",
    ("PRelu", 1): "weight",
    ("Gather", 0): "weight",
}
_STATISTICS = ("running_mean", "running_var")
_DEEPEST = 8  # between a parameter and the op that uses it
#: Ops through which a parameter may pass on its way to its own op.
_ON_THE_WAY = ("Cast", "CastLike", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")
#: PyTorch's default exporter does not merge larger ones.
_LARGEST = 1024


@dataclass
class _Part:
    """Those readers of an initializer that read the same parameter.

    Attributes:
        name: the name of the parameter; "" if nothing tells it.
        role: what it is there, in PyTorch's words.
        module: the path of its module; "" if it is not known.
        uses: the readers: node, and index of the input.
        copy: the named copy of the initializer that they read; None if they read the initializer itself.
    """

    name: str
    role: str
    module: str
    uses: list[tuple[ir.Node, int]] = field(default_factory=list)
    copy: ir.Value | None = None


class SeparateMergedPass(InPlacePass):
    """Gives every parameter its own initializer again, if the exporter merged equal ones.

    In a fresh network, the scales and running variances of all batch norms of one size are equal, and so are biases and
    running means (all zero). PyTorch's default exporter (optimize=True) writes them as one initializer, if it has up to
    1,024 elements. Its older exporter writes Identity copies with the names of the parameters. Parameters that should
    train are then tied to each other, or frozen.

    Running statistics are always separated from everything that trains. Readers in one module stay together, since the
    module is called several times. Readers in several modules stay together if the model shows no merging, or if their
    tensor is too large for it: then their weights are tied.

    Args:
        trained: names of parameters with a gradient, as in the file or in the module; None: all of them.
        tied: names as in the file or in the module, or patterns, of what several modules share, if this cannot be
            decided; everything else of this kind was merged. None: such a trained initializer is an error.

    Attributes:
        parts: after a call, by the name of each initializer that was separated, the names of its parts that train.
        names: after a call, by the module's name for a parameter, the name of its initializer.

    Raises:
        OnnxCbpError: for readers of a trained initializer it cannot be decided whether they are merged or tied; or a
            name in `tied` belongs to nothing that several modules read.
    """

    def __init__(self, trained: Collection[str] | None = None, tied: Collection[str] | None = None) -> None:
        super().__init__()
        self._trained, self._tied = trained, tied
        self.parts: dict[str, list[str]] = {}
        self.names: dict[str, str] = {}

    def stands_for(self, names: Sequence[str]) -> list[str]:
        """The parameters that names mean after a call.

        If one of them exists only in the module, all are names of the module, and each means itself. Otherwise they are
        names of the file, and each means all parameters that were merged into it.
        """
        if any(name in self.names for name in names):
            return list(dict.fromkeys(self.names.get(name, name) for name in names))
        found = itertools.chain.from_iterable(self.parts.get(name, [name]) for name in names)
        return list(dict.fromkeys(found))

    def call(self, model: ir.Model) -> PassResult:
        """Separate in place; if one case cannot be decided, nothing changes."""
        self.parts, self.names = {}, {}
        found = {
            value: parts
            for value in list(model.graph.initializers.values())
            if value.dtype in FLOATS and not value.is_graph_input() and value.const_value is not None
            if len(parts := _parts(value)) > 1
        }
        merged = _Merging(model, found, self._tied)
        apart = {}
        for value, parts in found.items():
            groups = merged.groups(value, parts, self._is_trained(value, parts), self._trained)
            if len(groups) > 1:
                apart[value] = groups
            for part in (part for group in groups[:1] for part in group):
                if part.name and part.name not in model.graph.initializers:
                    self.names[part.name] = value.name or ""  # tied: the module has two names for it
        names = Names(model)
        for value, groups in apart.items():
            self._separate(value, groups, model, names)
        return PassResult(model, bool(apart))

    def _is_trained(self, value: ir.Value, parts: Sequence[_Part]) -> bool:
        return self._trained is None or any(name in self._trained for name in (value.name, *(p.name for p in parts)))

    def _separate(self, value: ir.Value, groups: list[list[_Part]], model: ir.Model, names: Names) -> None:
        assert value.const_value is not None
        mine = next((group for group in groups if any(part.name == value.name for part in group)), groups[0])
        made = []
        for group in [mine, *(group for group in groups if group is not mine)]:
            first, own = group[0], value
            if group is not mine and first.copy is not None:
                own = own_initializer(first.copy, model)
            elif group is not mine:
                tensor = ir.Tensor(value.const_value.numpy().copy(), dtype=value.dtype)
                wanted = first.name or f"{value.name}/{label(first.uses[0][0])}.{first.role}"
                own = ir.Value(name=names.fresh(wanted), type=value.type, shape=value.shape, const_value=tensor)
                model.graph.register_initializer(own)
                for node, index in (use for part in group for use in part.uses):
                    node.replace_input_with(index, own)
            for part in group:
                if part.name:
                    self.names[part.name] = own.name or ""
            if not all(part.role in _STATISTICS for part in group):
                made.append(own.name or "")
        self.names.pop(value.name or "", None)  # the file has this name too
        self.parts[value.name or ""] = made


class _Merging:
    """What a model tells about whether its exporter merged equal initializers."""

    def __init__(
        self, model: ir.Model, found: dict[ir.Value, list[_Part]], tied: Collection[str] | None = None
    ) -> None:
        self._tied = tied
        for pattern in tied or ():
            if set(pattern) - {"*"} and not any(_is_named(pattern, *each) for each in found.items()):
                raise OnnxCbpError(
                    f"tied_params: '{pattern}' is no parameter that several modules read; they read together: "
                    f"{_quoted([value.name or '' for value in found]) or 'none'}"
                )
        roles = [{part.role for part in parts} for parts in found.values()]
        self._certain = any(each & set(_STATISTICS) and each - set(_STATISTICS) for each in roles)
        # If an exporter writes copies of what it merges, layers read the same initializer only if they are tied.
        copies = any(part.copy is not None for parts in found.values() for part in parts)
        self._possible = not copies and (self._certain or not (_has_equal_ones(model) or _is_as_exported(model)))

    def groups(
        self, value: ir.Value, parts: list[_Part], is_trained: bool, names: Collection[str] | None
    ) -> list[list[_Part]]:
        """The parts of an initializer, in groups that stay one.

        Raises:
            OnnxCbpError: see `SeparateMergedPass`.
        """
        statistics = [part for part in parts if part.role in _STATISTICS and part.copy is None]
        weights = [part for part in parts if part.role not in _STATISTICS and part.copy is None]
        copies = [[part] for part in parts if part.copy is not None]
        apart = [] if not weights else self._weights(value, weights, is_trained, names)
        if statistics:
            known = self._possible and all(part.module for part in statistics)
            apart += [[part] for part in statistics] if known else _by_role(statistics)
        return apart + copies

    def _weights(
        self, value: ir.Value, weights: list[_Part], is_trained: bool, names: Collection[str] | None
    ) -> list[list[_Part]]:
        size = int(np.prod(value.const_value.shape.numpy()))  # type: ignore[union-attr]
        if len(weights) == 1 or not self._possible or size > _LARGEST:
            return [weights]
        if names is not None and sum(part.name in names for part in weights) == len(weights):
            return [[part] for part in weights]  # a caller who names all of them has several
        array = value.const_value.numpy()  # type: ignore[union-attr]
        known = all(part.module for part in weights)
        if known and size > 1 and (array == array.reshape(-1)[0]).all():
            return [[part] for part in weights]  # zeros or ones, like fresh parameters of any layers
        if is_trained and (known or self._certain) and size > 1:
            if self._tied is not None:
                tied = any(_is_named(pattern, value, weights) for pattern in self._tied)
                return [weights] if tied else [[part] for part in weights]
            readers = [part.module or label(part.uses[0][0]) for part in weights]
            raise OnnxCbpError(
                f"initializer '{value.name}' is read by {_quoted(readers)}, and nothing says whether the model ties "
                f"them or the exporter merged equal ones: say tied_params=['{value.name}'] (--tied) or tied_params=[] "
                "(--tied ''), or export with optimize=False"
            )
        return [weights]


def _is_named(pattern: str, value: ir.Value, parts: Sequence[_Part]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in (value.name or "", *(part.name for part in parts)))


def _quoted(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _by_role(parts: list[_Part]) -> list[list[_Part]]:
    """Running means together, and variances together: as far as is known, they belong to calls of one module."""
    return [group for role in _STATISTICS if (group := [part for part in parts if part.role == role])]


def _parts(value: ir.Value) -> list[_Part]:
    """The readers of an initializer, grouped by the parameter that they read."""
    parts: dict[object, _Part] = {}
    for node, index in value.uses():
        copy = node.outputs[0] if (node.domain, node.op_type) == ("", "Identity") else None
        if copy is not None and not copy.is_graph_output() and is_parameter_name(copy.name or ""):
            role = next((_role(*each) for each in copy.uses()), "")
            parts[copy] = _Part(copy.name or "", role, "", [(node, index)], copy)
            continue
        role, module = _role(node, index), module_path(node)
        key = (module, role) if module else (node, role)
        known = module and not role[-1:].isdigit()
        parts.setdefault(key, _Part(f"{module}.{role}" if known else "", role, module)).uses.append((node, index))
    direct = [part for part in parts.values() if part.copy is None]
    return [*direct, *(part for part in parts.values() if part.copy is not None)]


def _role(node: ir.Node, index: int, depth: int = 0) -> str:
    """What a reader uses an initializer as: PyTorch's word, or the op and the position."""
    role = _ROLES.get((node.op_type, index)) if node.domain == "" else None
    if role is not None:
        return role
    if node.domain == "" and node.op_type in _ON_THE_WAY and index == 0 and depth < _DEEPEST:
        behind = {_role(*each, depth + 1) for each in node.outputs[0].uses()}
        if len(behind) == 1:
            return behind.pop()
    if (node.domain, node.op_type) == ("", "Add") and any(_is_product(value) for value in node.inputs):
        return "bias"
    return f"{node.op_type}{index}"


def _is_product(value: ir.Value | None) -> bool:
    producer = None if value is None else value.producer()
    return producer is not None and (producer.domain, producer.op_type) == ("", "MatMul")


def _has_equal_ones(model: ir.Model) -> bool:
    """Whether there are two equal initializers that would have been merged."""
    seen: set[tuple[object, ...]] = set()
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is None or value.dtype not in FLOATS or value.is_graph_input():
            continue
        shape = tuple(tensor.shape.numpy())
        if not 1 < np.prod(shape) <= _LARGEST:
            continue
        key = (value.dtype, shape, tensor.numpy().tobytes())
        if key in seen:
            return True
        seen.add(key)
    return False


def _is_as_exported(model: ir.Model) -> bool:
    """Whether a model of PyTorch's default exporter is unchanged: its optimiser computes what depends on no data."""
    nodes = list(model.graph)
    return any(NAME_SCOPES in node.metadata_props for node in nodes) and any(
        node.domain == "" and (node.op_type == "Constant" or _moves_small_initializer(node)) for node in nodes
    )


def _moves_small_initializer(node: ir.Node) -> bool:
    given = node.inputs[0] if node.op_type in _ON_THE_WAY and node.inputs else None
    return given is not None and given.const_value is not None and given.const_value.size <= _LARGEST


def merged_with_statistics(value: ir.Value) -> str | None:
    """The initializer that a parameter shares with running statistics; None if there is none."""
    copy = value.producer()
    if copy is not None and (copy.domain, copy.op_type) == ("", "Identity") and copy.inputs[0] is not None:
        value = copy.inputs[0]
    if not value.is_initializer():
        return None
    roles = {part.role for part in _parts(value)}
    return value.name if roles & set(_STATISTICS) and roles - set(_STATISTICS) else None
