"""The `Builder` with which gradient rules write nodes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnx_cbp.custom_ops import DOMAIN, OPERATORS
from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.graph_passes.core.detach import detach
from onnx_cbp.graph_passes.core.opsets import onnx_opset
from onnx_cbp.graph_passes.core.sites import label
from onnx_cbp.graph_passes.core.splice import Names
from onnx_cbp.graph_passes.core.types import Types
from onnx_cbp.graph_passes.core.values.ancestry import made_of
from onnx_cbp.graph_passes.core.values.constants import Constants
from onnx_cbp.graph_passes.differentiating.our_ops import infer_ours
from onnx_cbp.graph_passes.differentiating.registry import ZERO

#: The input of a node; None where an optional input is left out. If a value must be there, the builder refuses None.
Read = ir.Value | None
Size = int | str | None
#: What an op accepts as an input: a value, nothing, a number (which becomes a scalar of the type of the op's first
#: value), integers (a vector of int64), or an array.
Input = ir.Value | None | float | Sequence[int] | np.ndarray

_REDUCED_AXES_ARE_AN_INPUT_SINCE = {"ReduceSum": 13}
_OTHERS_SINCE = 18
_SIZES_MAY_BE_ZERO_SINCE = 14
_SCATTER_ADDS_SINCE = 16
_KNOWN_TO_INFERENCE = 64  # elements of a constant that shapes may depend on
_MOST_NUMBERS = 2**26  # of a constant that a rule makes


class Builder:
    """Writes the nodes of gradients. None of them is in the graph before `commit`.

    Every ONNX op is a method: `g.Mul(dY, g.Cos(X))`, `g.Transpose(dY, perm=[1, 0])`. Each new value has the type and
    shape that ONNX's inference finds, or those of `like`. A rule may write more than is used: `commit` leaves out the
    nodes that no result needs.

    Attributes:
        opset: of ONNX's own domain.
        wanted: the inputs of the current node whose gradients are wanted (`wants`).
        own_ops: whether ops of ours may be written where standard ones are slower. Gradients of our ops that are in
            the graph already use our ops in any case.
        own_convolutions: whether our convolutions may be written, which have no CUDA kernel (`direct_conv`).
    """

    ZERO = ZERO  # for rules that are next to the descriptions of our ops

    def __init__(
        self,
        model: ir.Model,
        *,
        own_ops: bool = False,
        own_convolutions: bool = False,
        changing: Collection[ir.Value] = (),
    ) -> None:
        self.own_ops = own_ops
        self.own_convolutions = own_convolutions
        self.opset = onnx_opset(model.opset_imports)
        self.wanted: Collection[ir.Value | None] = ()
        self.model = model
        self._names = Names(model)
        self._types = Types(model)
        self._known = Constants(model)
        self._changing = frozenset(changing)
        self._written: dict[ir.Node, None] = {}
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._shapes: dict[ir.Value, ir.Value] = {}
        self._widened: list[tuple[ir.Node, int]] = []
        self._node: ir.Node | None = None

    # --- The current node ---------------------------------------------------------------------------------------------

    def work_on(self, node: ir.Node, wanted: Collection[ir.Value | None]) -> None:
        """Start with a node: new nodes are named after it, and its rule can ask what is wanted."""
        self._node, self.wanted = node, wanted

    def wants(self, value: ir.Value | None) -> bool:
        """Whether the gradient of this input is wanted; if not, a rule may leave out costly nodes."""
        return value is not None and value in self.wanted

    def refuse(self, reason: str) -> OnnxCbpError:
        """The error that says in one line why the current node, or the loss itself, cannot be differentiated."""
        what = "the loss" if self._node is None else f"node '{label(self._node)}' ({self._node.op_type})"
        return OnnxCbpError(f"{what} cannot be differentiated: {reason}")

    def check_size(self, *sizes: int) -> None:
        """Check that a constant of these sizes is one that a model can hold.

        Raises:
            OnnxCbpError: it is not.
        """
        if math.prod(sizes) > _MOST_NUMBERS:
            raise self.refuse(f"its gradient needs a constant of {' x '.join(map(str, sizes))} numbers")

    def there(self, value: Read) -> ir.Value:
        """A value without which an op cannot work.

        Raises:
            OnnxCbpError: the node has none.
        """
        if value is None:
            raise self.refuse("an input that it needs is missing: the model is not valid")
        return value

    # --- What is known of values --------------------------------------------------------------------------------------

    def dtype(self, value: Read) -> ir.DataType:
        """The element type of a value.

        Raises:
            OnnxCbpError: it is not known.
        """
        value = self.there(value)
        found = self._types.of(value)
        if found is None:
            raise self.refuse(f"the type of '{value.name}' is not known: run onnx.shape_inference on the model first")
        return found

    def shape(self, value: Read) -> tuple[Size, ...]:
        """The shape of a value; sizes that are not fixed are a symbol or None.

        Raises:
            OnnxCbpError: its rank is not known.
        """
        value = self.there(value)
        found = self._types.shape(value)
        if found is None:
            raise self.refuse(f"the rank of '{value.name}' is not known: run onnx.shape_inference on the model first")
        return found

    def rank(self, value: Read) -> int:
        """The number of axes of a value."""
        return len(self.shape(value))

    def fixed(self, value: Read, axes: Iterable[int]) -> list[int]:
        """The sizes of some axes, each of which must be a number.

        Raises:
            OnnxCbpError: one is not.
        """
        shape, sizes = self.shape(value), []
        for axis in axes:
            size = shape[axis]
            if not isinstance(size, int):
                raise self.refuse(
                    f"axis {axis} of '{self.there(value).name}' has no fixed size (shape {_text(shape)}): "
                    "export the model with only the batch dynamic"
                )
            sizes.append(size)
        return sizes

    def known(self, value: ir.Value | None) -> np.ndarray | None:
        """The elements of a value that is always the same; None if it depends on what is fed, or on what trains."""
        array = self._known.of(value)
        if array is None or value is None or (self._changing and not self._changing.isdisjoint(made_of(value))):
            return None
        return array

    def needed(self, value: Read, what: str) -> np.ndarray:
        """The elements of a value that the rule must know.

        Raises:
            OnnxCbpError: it depends on what is fed.
        """
        array = self.known(value)
        if array is None:
            raise self.refuse(f"{what} '{self.there(value).name}' is not a constant: fold the model's constants first")
        return array

    def needed_vector(self, value: Read, what: str) -> np.ndarray:
        """The elements of a vector that the rule must know.

        Raises:
            OnnxCbpError: it depends on what is fed, or is no vector.
        """
        array = self.needed(value, what)
        if array.ndim != 1:
            raise self.refuse(f"{what} '{self.there(value).name}' has shape {list(array.shape)}: it must be a vector")
        return array

    def check(self, gradient: ir.Value, value: ir.Value) -> None:
        """Compare the type and shape of a gradient with those of its value, and give it the value's symbolic sizes.

        Raises:
            OnnxCbpError: type or shape differ.
        """
        dtype, shape = self._types.of(value), self._types.shape(value)
        own_type, own = self._types.of(gradient), self._types.shape(gradient)
        same = own is None or shape is None or (len(own) == len(shape) and all(map(_may_be_equal, own, shape)))
        if not same or (dtype is not None and own_type not in (None, dtype)):
            raise OnnxCbpError(
                f"the gradient '{gradient.name}' of '{value.name}' has type {own_type} and shape {_text(own or ())}, "
                f"expected {dtype} and {_text(shape or ())}"
            )
        if gradient.producer() in self._written:
            self.let_be_like(gradient, value)

    # --- Writing ------------------------------------------------------------------------------------------------------

    def __getattr__(self, op_type: str) -> Callable[..., ir.Value]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)
        return lambda *inputs, **options: self.op(op_type, *inputs, **options)

    def op(self, op_type: str, *inputs: Input, like: Read = None, **options: Any) -> ir.Value:
        """Write a node and return its only output; see `ops`."""
        (output,) = self.ops(op_type, *inputs, like=like, **options)
        return output

    def ops(
        self,
        op_type: str,
        *inputs: Input,
        outputs: int = 1,
        like: Read = None,
        shape: Sequence[Size] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """Write a node and return its outputs.

        Args:
            op_type: of an op of `domain`.
            inputs: see `Input`.
            outputs: how many.
            like: a value with the shape of the first output; needed where inference would lose a symbolic size.
            shape: the shape of the first output, for the same reason.
            domain: "" is ONNX's own.
            attributes: of the node.
        """
        values = self._inputs(inputs)
        stem = "gradient" if self._node is None else f"{label(self._node)}/gradient"
        named = [ir.Value(name=self._names.fresh(f"{stem}/{op_type}")) for _ in range(outputs)]
        node = ir.node(
            op_type,
            values,
            attributes or None,
            domain=domain,
            outputs=named,
            name=self._names.fresh(f"{stem}/{op_type}"),
        )
        self._written[node] = None
        self._infer(node)
        if like is not None:
            self.let_be_like(named[0], like)
        if shape is not None:
            named[0].shape = ir.Shape(shape)
        return tuple(named)

    def ours(self, op_type: str, *inputs: Input, **attributes: Any) -> tuple[ir.Value, ...]:
        """Write a node of our domain and return all its outputs."""
        return self.ops(op_type, *inputs, outputs=len(OPERATORS[op_type].outputs), domain=DOMAIN, **attributes)

    def let_be_like(self, value: ir.Value, like: Read) -> ir.Value:
        """Give a new value the shape of another, and its type if inference found none."""
        like = self.there(like)
        dtype, shape = self._types.of(like), self._types.shape(like)
        value.type = value.type or (None if dtype is None else ir.TensorType(dtype))
        value.shape = value.shape if shape is None else ir.Shape(shape)
        return value

    def constant(self, array: np.ndarray, dtype: ir.DataType | None = None) -> ir.Value:
        """A constant; equal ones are one initializer."""
        dtype = dtype or ir.DataType.from_numpy(array.dtype)
        key = (dtype, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(array, dtype=dtype, name=self._names.fresh("gradient/constant"))
            self._constants[key] = ir.Value(
                name=tensor.name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
        return self._constants[key]

    def ints(self, *numbers: int) -> ir.Value:
        """A vector of int64."""
        return self.constant(np.array(numbers, np.int64))

    def scalar(self, number: float, like: Read) -> ir.Value:
        """A number as a scalar of the type of a value."""
        dtype = self.dtype(like)
        return self.constant(np.array(number).astype(dtype.numpy()), dtype)

    def full(self, value: Read, number: float) -> ir.Value:
        """The same number everywhere, in the type and fixed shape of a value."""
        dtype = self.dtype(value)
        shape = self.fixed(value, range(self.rank(value)))
        self.check_size(*shape)
        return self.constant(np.full(shape, number).astype(dtype.numpy()), dtype)

    def as_type(self, value: Read, dtype: ir.DataType) -> ir.Value:
        """A value converted to a type; the value itself if it has that type."""
        value = self.there(value)
        return value if self.dtype(value) == dtype else self.Cast(value, to=dtype.value)

    # --- Shapes -------------------------------------------------------------------------------------------------------

    def nonzero(self, value: Read) -> ir.Value:
        """1 where a value is not zero, and 0 elsewhere, in its type.

        Written as two Casts: on a CPU ONNX Runtime's Sign takes five times as long.
        """
        return self.Cast(self.Cast(value, to=ir.DataType.BOOL.value), to=self.dtype(value).value)

    def shape_of(self, value: Read) -> ir.Value:
        """The shape of a value as a vector of int64: a constant where every size is fixed."""
        shape = self.shape(value)
        if all(isinstance(size, int) for size in shape):
            return self.ints(*(size for size in shape if isinstance(size, int)))
        value = self.there(value)
        if value not in self._shapes:
            self._shapes[value] = self.Shape(value)
        return self._shapes[value]

    def sizes_of(self, value: Read, axes: Sequence[int]) -> ir.Value:
        """The sizes of some axes as a vector of int64."""
        shape = self.shape(value)
        sizes = [shape[axis] for axis in axes]
        if all(isinstance(size, int) for size in sizes):
            return self.ints(*(size for size in sizes if isinstance(size, int)))
        return self.Gather(self.shape_of(value), list(axes), axis=0)

    def joined(self, parts: Sequence[ir.Value | Sequence[int]]) -> ir.Value:
        """Vectors of int64, joined one after another: a constant if all of them are."""
        arrays = [self.known(part) if isinstance(part, ir.Value) else np.array(part, np.int64) for part in parts]
        if all(array is not None for array in arrays):
            return self.ints(*(int(each) for array in arrays if array is not None for each in array.reshape(-1)))
        return self.Concat(*parts, axis=0) if len(parts) > 1 else self.op("Identity", *parts)

    def computed(self, op_type: str, *inputs: Input, **attributes: Any) -> ir.Value:
        """The result of an op on sizes: a constant if all of them are."""
        values = [self.known(each) if isinstance(each, ir.Value) else each for each in inputs]
        output = self.op(op_type, *inputs, **attributes)
        if any(value is None for value in values):
            return output
        array = self.known(output)
        return output if array is None else self.constant(array)

    def count(self, value: Read, axes: Sequence[int], like: Read) -> ir.Value:
        """The number of elements over some axes, as a scalar of the type of `like`."""
        sizes = [self.shape(value)[axis] for axis in axes]
        if all(isinstance(size, int) for size in sizes):
            return self.scalar(math.prod(size for size in sizes if isinstance(size, int)), like)
        product = self.reduce("ReduceProd", self.sizes_of(value, axes), [0], keepdims=0)
        return self.Cast(product, to=self.dtype(like).value)

    def divided_by_count(self, gradient: ir.Value, value: Read, axes: Sequence[int]) -> ir.Value:
        """A gradient, divided by the number of elements of a value over some axes.

        In float where float16 would round the number, or not hold it.
        """
        dtype = self.dtype(gradient)
        if dtype != ir.DataType.FLOAT16:
            return self.Div(gradient, self.count(value, axes, gradient))
        wide = self.Cast(gradient, to=ir.DataType.FLOAT.value)
        return self.Cast(self.Div(wide, self.count(value, axes, wide)), to=dtype.value)

    def one_hot(self, indices: Read, depth: Input, dtype: ir.DataType, *, axis: int) -> ir.Value:
        """1 at each index along a new axis, and 0 elsewhere; of the types that it may have, ONNX Runtime has float."""
        values = np.array([0, 1], np.float32)
        return self.as_type(self.OneHot(indices, depth, values, axis=axis), dtype)

    def scatter_add(
        self, op_type: str, zeros: ir.Value, indices: Read, updates: ir.Value, **attributes: Any
    ) -> ir.Value:
        """What ScatterND or ScatterElements adds to zeros; in float where ONNX Runtime adds none of the type."""
        dtype = self.dtype(zeros)
        if dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE):
            return self.op(op_type, zeros, indices, updates, reduction="add", like=zeros, **attributes)
        wide_zeros, wide = (self.Cast(each, to=ir.DataType.FLOAT.value) for each in (zeros, updates))
        wide_sum = self.op(op_type, wide_zeros, indices, wide, reduction="add", like=wide_zeros, **attributes)
        return self.as_type(wide_sum, dtype)

    def reshape_like(self, gradient: ir.Value, value: Read) -> ir.Value:
        """The elements of a gradient in the shape of a value."""
        shape = self.shape(value)
        if self._types.shape(gradient) == shape and all(size is not None for size in shape):
            return gradient
        free = [size for size in shape if not isinstance(size, int)]
        if len(free) == 1 and 0 not in shape:
            sizes = self.ints(*(size if isinstance(size, int) else -1 for size in shape))
        else:
            return self.reshape(gradient, self.shape_of(value), like=value)
        return self.Reshape(gradient, sizes, like=value)

    def column(self, vector: Read, axis: int, rank: int) -> ir.Value:
        """A vector of channels, reshaped to broadcast over data of this rank with the channels at this axis."""
        return self.Unsqueeze(vector, [i for i in range(rank) if i != axis % rank])

    def expand_like(self, gradient: ir.Value, value: Read) -> ir.Value:
        """A gradient broadcast to the shape of a value."""
        return self.Expand(gradient, self.shape_of(value), like=value)

    def zeros_like(self, value: Read) -> ir.Value:
        """Zeros of the type and shape of a value."""
        return self.expand_like(self.scalar(0, value), value)

    def unbroadcast(self, gradient: ir.Value, value: Read) -> ir.Value:
        """The sum of a gradient over the axes along which a value was broadcast.

        If a symbolic size leaves open whether an axis was, the graph finds it out when it runs.

        Raises:
            OnnxCbpError: the value has more axes than its gradient: the model declares one of them wrongly.
        """
        small, large = self.shape(value), self.shape(gradient)
        if small == large and None not in small:
            return gradient
        lead = len(large) - len(small)
        if lead < 0:
            raise self.refuse(
                f"'{self.there(value).name}' has {len(small)} axes, and what is computed from it {len(large)}: the "
                "shapes that the model declares contradict each other"
            )
        pairs = list(zip(small, large[lead:], strict=True))
        if all(isinstance(a, int) or (a is not None and a == b) for a, b in pairs):
            stretched = [lead + i for i, (a, b) in enumerate(pairs) if a == 1 and b != 1]
            if lead and stretched:
                return self.reshape_like(self.sum(gradient, [*range(lead), *stretched], keepdims=0), value)
            return self.sum(gradient, [*range(lead), *stretched], keepdims=int(not lead), like=value)
        sizes = self.shape_of(value)
        padded = self.Concat([1] * lead, sizes, axis=0) if lead else sizes
        differs = self.Not(self.Equal(padded, self.shape_of(gradient)))
        axes_now = self.Squeeze(self.NonZero(differs), [0])
        summed = self.ReduceSum(gradient, axes_now, noop_with_empty_axes=1, shape=[None] * len(large))
        return self.Reshape(summed, sizes, like=value)

    # --- Ops whose form changed between opsets ------------------------------------------------------------------------

    def reshape(self, value: Read, sizes: ir.Value, **options: Any) -> ir.Value:
        """A value in another shape, of which a size may be 0, as with no samples; older opsets read that as a copy."""
        options |= {"allowzero": 1} if self.opset >= _SIZES_MAY_BE_ZERO_SINCE else {}
        return self.Reshape(value, sizes, **options)

    def reduce(
        self, op_type: str, value: ir.Value, axes: Sequence[int], *, keepdims: int = 1, like: Read = None
    ) -> ir.Value:
        """A reduction over some axes; over none it is the value itself."""
        if not axes:
            return value
        if self.opset >= _REDUCED_AXES_ARE_AN_INPUT_SINCE.get(op_type, _OTHERS_SINCE):
            return self.op(op_type, value, list(axes), keepdims=keepdims, like=like)
        return self.op(op_type, value, axes=list(axes), keepdims=keepdims, like=like)

    def sum(self, value: ir.Value, axes: Sequence[int], *, keepdims: int = 1, like: Read = None) -> ir.Value:
        """The sum over some axes, in the steps of `steps_of_sum`."""
        *before, last = steps_of_sum(axes, self.rank(value))
        gone: list[int] = []
        for step in before:
            value = self.reduce("ReduceSum", value, _without(gone, step), keepdims=keepdims)
            gone += [] if keepdims else step
        return self.reduce("ReduceSum", value, _without(gone, last), keepdims=keepdims, like=like)

    def can_scatter_add(self) -> bool:
        """Whether ScatterElements and ScatterND can add up elements with the same index."""
        return self.opset >= _SCATTER_ADDS_SINCE

    # --- Changes to the existing graph --------------------------------------------------------------------------------

    def output(self, node: ir.Node, index: int, dtype: ir.DataType, shape: Sequence[Size]) -> ir.Value:
        """An optional output of a forward node; the node gets it if it does not have it yet."""
        if index >= len(node.outputs):
            self._widened.append((node, len(node.outputs)))
            node.resize_outputs(index + 1)
        value = node.outputs[index]
        if not value.name:
            value.name = self._names.fresh(f"{label(node)}/{node.op_type}_{index}")
            value.type = ir.TensorType(dtype)
            value.shape = ir.Shape(shape)
        return value

    def adopt(self, nodes: Sequence[ir.Node]) -> None:
        """Give nodes that were made elsewhere, and their outputs, names that the model does not have yet."""
        assert self._node is not None
        for node in nodes:
            node.name = self._names.fresh(f"{label(self._node)}/{node.op_type}")
            for value in node.outputs:
                value.name = self._names.fresh(f"{label(self._node)}/{value.name}") if value.name else value.name

    def rename(self, value: ir.Value, wanted: str) -> None:
        """Give a value that was written here another name."""
        value.name = self._names.fresh(wanted)

    def commit(self, results: Collection[ir.Value | None]) -> None:
        """Put the nodes that the results need at the end of the graph."""
        needed = set()
        waiting = [value.producer() for value in results if value is not None]
        while waiting:
            node = waiting.pop()
            if node is not None and node in self._written and node not in needed:
                needed.add(node)
                waiting.extend(value.producer() for value in node.inputs if value is not None)
        detach(node for node in self._written if node not in needed)
        self.model.graph.extend(node for node in self._written if node in needed)
        for value in self._constants.values():
            if value.uses() or value in results:
                self.model.graph.register_initializer(value)
        self._narrow()

    def abandon(self) -> None:
        """Leave the graph as it was."""
        detach(self._written)
        self._narrow()

    def _narrow(self) -> None:
        """Remove the outputs that were added to forward nodes and that nothing reads."""
        for node, count in reversed(self._widened):
            if not any(value.uses() for value in node.outputs[count:]):
                node.resize_outputs(count)

    # --- Types and shapes of new values -------------------------------------------------------------------------------

    def _inputs(self, inputs: Sequence[Input]) -> list[ir.Value | None]:
        first = next((each for each in inputs if isinstance(each, ir.Value)), None)
        values: list[ir.Value | None] = []
        for each in inputs:
            if each is None or isinstance(each, ir.Value):
                values.append(each)
            elif isinstance(each, np.ndarray):
                values.append(self.constant(each))
            elif isinstance(each, int | float):
                assert first is not None, "a number has the type of a value"
                values.append(self.scalar(each, first))
            else:
                values.append(self.ints(*each))
        return values

    def _infer(self, node: ir.Node) -> None:
        if node.domain == DOMAIN:
            infer_ours(node, self._types)
            return
        if not onnx.defs.has(node.op_type, node.domain):
            return  # an op of a runtime: its rule says the types and shapes of its outputs
        schema = _schema(node.op_type, self.opset, node.domain)
        types, data = {}, {}
        for value in node.inputs:
            if value is None or value.name is None:
                continue
            dtype = self._types.of(value)
            if dtype is None:
                return
            shape = self._types.shape(value)
            types[value.name] = onnx.helper.make_tensor_type_proto(dtype.value, shape)
            tensor = ir.convenience.get_const_tensor(value)
            if tensor is not None and tensor.dtype == ir.DataType.INT64 and tensor.size <= _KNOWN_TO_INFERENCE:
                data[value.name] = onnx.numpy_helper.from_array(tensor.numpy(), value.name)
        imports = [onnx.helper.make_opsetid("", self.opset)]
        try:
            found = onnx.shape_inference.infer_node_outputs(
                schema, ir.serde.serialize_node(node), types, data, None, imports
            )
        except KeyError:  # onnx 1.16 wants the type even of an input that is left out: the rule says the shape
            first = node.inputs[0]
            node.outputs[0].type = None if first is None else first.type
            return
        except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError) as error:
            raise self.refuse(f"its gradient would hold a {node.op_type} that is not valid ({error})") from error
        for value in node.outputs:
            proto = found.get(value.name or "")
            if proto is not None and proto.HasField("tensor_type"):
                value.type = ir.TensorType(ir.DataType(proto.tensor_type.elem_type))
                if proto.tensor_type.HasField("shape"):
                    value.shape = ir.Shape([_size(dim) for dim in proto.tensor_type.shape.dim])


#: onnx searches for a schema as long as it infers by it.
_schema = functools.cache(onnx.defs.get_schema)


def steps_of_sum(axes: Sequence[int], rank: int) -> list[list[int]]:
    """In which steps to sum over axes, so that roundings do not add up in a long sum.

    ONNX Runtime adds all rows of leading axes one after another, in float: 784 rows lose 3 times the digits of 196 rows
    in each of 4 samples, and then 4 sums, which take no longer. So these axes are summed one by one, the last one
    first. Where every axis is summed, the leading half comes first, so that many sums run side by side as long as
    there are many numbers. Axes at the end are summed well, and together, if others stay.
    """
    axes = sorted(axis % rank for axis in axes)
    if len(axes) == rank > 1:
        half = (rank + 1) // 2
        return [*([axis] for axis in reversed(range(half))), list(range(half, rank))]
    if not axes or axes[-1] == rank - 1:
        return [axes]
    return [[axis] for axis in reversed(axes)]


def _without(gone: Collection[int], axes: Sequence[int]) -> list[int]:
    """Axes as they are counted where others are gone."""
    return [axis - sum(each < axis for each in gone) for axis in axes]


def _may_be_equal(one: Size, other: Size) -> bool:
    return one == other or not (isinstance(one, int) and isinstance(other, int))


def _size(dim: onnx.TensorShapeProto.Dimension) -> Size:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None


def _text(shape: Sequence[Size]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
