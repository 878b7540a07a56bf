"""Describes an op once, as an :class:`Operator`, from which everything else about it is made.

Schema, reference evaluation, function body and Python op all read the same description, and check their inputs with
:meth:`Operator.bind`. Only the C++ ops repeat names and order; a test compares them with this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx

from onnx_cbp.custom_ops.windows import WINDOW_ATTRIBUTES, Windows, defaults_of, windows_of

DOMAIN = "onnx_cbp"
OPSET_VERSION = 1

#: ONNX's numbers of the types that statistics, scale and B may have (U in the op table).
STATISTICS_TYPES = {onnx.TensorProto.FLOAT: np.float32, onnx.TensorProto.DOUBLE: np.float64}

#: Attributes that say how to read X, and the type of the results. C functions get them as sizes and types.
STRUCTURAL_ATTRIBUTES = ("axis", "stash_type", *WINDOW_ATTRIBUTES)

#: For a convolution of one group: the axis of a tensor that tells the number of outputs.
AXIS_OF_OUTPUTS = {"outputs": 1, "weight": 0, "exchanged weight": 1}

Arrays = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Tensor:
    """One input or output.

    Attributes:
        name: the formal name.
        type: "T" (type of X), "U" (type of the statistics) or "int64".
        shape: "X" (shape of X); for a depthwise convolution of X "windows" (one place per window) and "kernel" (its
            weight); for one of one group "outputs" (one place per window), "weight" and "exchanged weight"; or a letter
            for each dimension: "C" channels, "R" replicas; "" is a scalar.
        doc: one line for the schema.
    """

    name: str
    type: str
    shape: str
    doc: str


@dataclass(frozen=True)
class Attribute:
    """One attribute. Its type is that of its default: int, float, str, or a list of int, whose default is ()."""

    name: str
    default: int | float | str | tuple[int, ...]
    doc: str


@dataclass(frozen=True)
class Layout:
    """X seen as [outer, channels, inner]: the dimensions before, at and after the channel axis."""

    outer: int
    channels: int
    inner: int

    @property
    def count(self) -> int:
        """The number of elements per channel: M in the formulas."""
        return self.outer * self.inner

    def per_channel(self, vector: np.ndarray) -> np.ndarray:
        """The vector [C], in a shape that broadcasts over [outer, channels, inner]."""
        return vector.reshape(1, self.channels, 1)


@dataclass(frozen=True)
class Binding:
    """The result of checking an op's inputs and attributes.

    Attributes:
        layout: the layout of X; [1, channels, 1] for an op that has only per-channel vectors.
        sizes: what the C function gets: the sizes of the layout, or the dimensions of the first input. For a
            convolution: batch, channels, results per channel (or outputs, if it has one group), axes of space, and
            lists with a number for each axis.
        windows: of a convolution.
        output_shapes: in order.
        output_dtypes: in order.
    """

    layout: Layout
    sizes: tuple[int | tuple[int, ...], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    output_dtypes: tuple[np.dtype, ...]
    windows: Windows | None = None


@dataclass(frozen=True)
class Operator:
    """An op of the domain.

    Attributes:
        name: op type.
        doc: what it computes, with the formula.
        inputs, outputs: in order; every op has a fixed number of them.
        attributes: in order, as the C function takes those that it needs.
        reference: the float64 oracle. It takes float64 arrays (X and dY as [outer, channels, inner]) and an int64
            count, then by name the layout (if the op has X) and the other attributes; it returns a tuple of float64
            arrays. The reference of a convolution takes arrays with their own shapes, and the windows.
        body: statements of the function body in ONNX's textual syntax, for a given opset of the default domain; None if
            standard ONNX cannot express the op.
        choices: integer attributes that the body chooses by. It takes each as an argument, too, and is shorter and
            faster where the value is known; where it is None, the body chooses when it runs.
        gradient: the rule that differentiates it, see `derivatives`; None if it has none.
    """

    name: str
    doc: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    attributes: tuple[Attribute, ...]
    reference: Callable[..., Arrays] = field(repr=False)
    body: Callable[..., str] | None = field(repr=False)
    choices: tuple[str, ...] = field(default=(), repr=False)
    gradient: Callable[..., Sequence[Any]] | None = field(default=None, repr=False)

    @property
    def has_data(self) -> bool:
        """Whether the op has X (RunningStats has only per-channel vectors)."""
        return any(t.shape == "X" for t in self.inputs)

    @property
    def has_windows(self) -> bool:
        """Whether the op works on the windows of a convolution over X."""
        return any(a.name == "kernel_shape" for a in self.attributes)

    @property
    def is_collective(self) -> bool:
        """Whether the op exchanges values with other replicas."""
        return any(a.name == "group" for a in self.attributes)

    def defaults(self, axes: int) -> dict[str, Any]:
        """The attributes that a node may leave out, as stored; those of windows are for so many axes of space."""
        stored = self.as_stored({a.name: a.default for a in self.attributes} | defaults_of(axes))
        return {name: value for name, value in stored.items() if name != "kernel_shape"}

    def bind(self, inputs: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> Binding:
        """Check inputs and attributes, and derive the shapes and types of the outputs.

        Raises:
            ValueError: one line that names the op, the input or attribute, its value, and what to do.
            OnnxCbpError: a collective has an unknown group.
        """
        if len(inputs) != len(self.inputs):
            names = ", ".join(t.name for t in self.inputs)
            raise ValueError(f"{self}: {len(inputs)} inputs, expected {len(self.inputs)}: {names}")
        arrays = dict(zip((t.name for t in self.inputs), inputs, strict=True))
        self._check_attributes(attributes)
        windows = self._windows(arrays, attributes) if self.has_windows else None
        layout, shapes, sizes = self._shapes(arrays, attributes) if windows is None else self._shapes_of(windows)
        types = self._check_types(arrays, attributes)
        for t in self.inputs:
            if arrays[t.name].shape != shapes[t.shape]:
                raise ValueError(
                    f"{self}: input '{t.name}' has shape {list(arrays[t.name].shape)}, expected "
                    f"{list(shapes[t.shape])}" + self._shape_reason(t, attributes)
                )
        if "count" in arrays and (arrays["count"] < 0).any():
            raise ValueError(f"{self}: input 'count' is {arrays['count'].tolist()}; it must be 0 or more")
        return Binding(
            layout,
            sizes,
            tuple(shapes[t.shape] for t in self.outputs),
            tuple(types[t.type] for t in self.outputs),
            windows,
        )

    def evaluate(self, *inputs: np.ndarray, **attributes: Any) -> Arrays:
        """The float64 oracle: outputs in float64 (count in int64), not rounded to U or T.

        Raises:
            ValueError: as in `bind`, or no memory holds the outputs.
        """
        binding = self.bind(inputs, attributes)
        stored = self.as_stored(attributes)
        computed = {name: value for name, value in stored.items() if name not in STRUCTURAL_ATTRIBUTES}
        wide = [
            value if t.type == "int64" else np.asarray(value, np.float64)
            for t, value in zip(self.inputs, inputs, strict=True)
        ]
        layout = binding.layout
        seen: dict[str, Any] = {}
        if binding.windows is not None:
            seen = {"windows": binding.windows}
        elif self.has_data:
            seen = {"layout": layout}
        planes = [
            value.reshape(layout.outer, layout.channels, layout.inner) if t.shape == "X" and "layout" in seen else value
            for t, value in zip(self.inputs, wide, strict=True)
        ]
        with np.errstate(all="ignore"):  # the caller is responsible for NaN and Inf in the data
            try:
                results = self.reference(*planes, **seen, **computed)
            except MemoryError:
                raise ValueError(f"{self}: outputs of shapes {binding.output_shapes} do not fit into memory") from None
        return tuple(
            np.asarray(value).reshape(shape) for value, shape in zip(results, binding.output_shapes, strict=True)
        )

    def evaluate_rounded(self, *inputs: np.ndarray, **attributes: Any) -> Arrays:
        """The float64 oracle, rounded once to the output types of the op."""
        dtypes = self.bind(inputs, attributes).output_dtypes
        with np.errstate(over="ignore"):
            results = self.evaluate(*inputs, **attributes)
            return tuple(np.asarray(r).astype(d) for r, d in zip(results, dtypes, strict=True))

    def as_stored(self, attributes: Mapping[str, Any]) -> dict[str, Any]:
        """The attributes as ONNX stores them: a float has 32 bits there, so a momentum of 0.9 is not quite 0.9."""
        kinds: dict[type, Callable[[Any], Any]] = {
            int: int,
            float: lambda value: float(np.float32(value)),
            str: str,
            tuple: lambda value: tuple(map(int, value)),
        }
        return {a.name: kinds[type(a.default)](attributes[a.name]) for a in self.attributes}

    def __str__(self) -> str:
        return f"{DOMAIN}.{self.name}"

    def _shapes(
        self, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]
    ) -> tuple[Layout, dict[str, tuple[int, ...]], tuple[int | tuple[int, ...], ...]]:
        """The layout, the shape of each kind of tensor, and the sizes for the C function."""
        if not self.has_data:
            first = self.inputs[0]
            sizes = arrays[first.name].shape
            if len(sizes) != len(first.shape):
                expected = f"[{','.join(first.shape)}] (R replicas, C channels)"
                raise ValueError(f"{self}: input '{first.name}' has shape {list(sizes)}, expected {expected}")
            letters = dict(zip(first.shape, sizes, strict=True))
            if self.is_collective:
                letters["R"] = _replicas(str(self), str(attributes["group"]))
                sizes = (*sizes, letters["R"]) if any("R" in t.shape for t in self.outputs) else sizes
            kinds = {t.shape: tuple(letters[letter] for letter in t.shape) for t in self.inputs + self.outputs}
            return Layout(1, letters["C"], 1), kinds, sizes
        shape = arrays["X"].shape
        rank = len(shape)
        if rank < 2:
            raise ValueError(
                f"{self}: input 'X' has shape {list(shape)}; it needs a batch and a channel axis, rank 2 or more"
            )
        axis = attributes["axis"]
        if not -rank <= axis < rank:
            raise ValueError(
                f"{self}: attribute 'axis' is {axis}, out of range for X of shape {list(shape)}; "
                f"use {-rank} to {rank - 1}"
            )
        axis %= rank
        layout = Layout(math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
        kinds = {"X": shape, "C": (layout.channels,), "": ()}
        return layout, kinds, (layout.outer, layout.channels, layout.inner)

    def _windows(self, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> Windows:
        """The windows on X; the other input tells the number of results."""
        data = arrays["X"].shape
        shape, results = next((t.shape, arrays[t.name].shape) for t in self.inputs if t.shape != "X")
        outputs = None
        if shape in AXIS_OF_OUTPUTS:
            outputs = int(results[AXIS_OF_OUTPUTS[shape]]) if len(results) == len(data) else 0
        try:
            lists = {name: attributes[name] for name in WINDOW_ATTRIBUTES}
            return windows_of(data, results, lists, outputs=outputs)
        except ValueError as error:
            raise ValueError(f"{self}: {error}") from None

    def _shapes_of(
        self, windows: Windows
    ) -> tuple[Layout, dict[str, tuple[int, ...]], tuple[int | tuple[int, ...], ...]]:
        """Like `_shapes`, for a convolution."""
        layout = Layout(windows.batch, windows.channels, math.prod(windows.size))
        kinds = {
            "X": windows.data_shape,
            **dict.fromkeys(("windows", "outputs"), windows.result_shape),
            **dict.fromkeys(("kernel", "weight"), windows.weight_shape),
            "exchanged weight": windows.exchanged_shape,
        }
        lists = (windows.size, windows.kernel, windows.strides, windows.pads, windows.dilations)
        results = windows.multiplier if windows.outputs is None else windows.outputs
        numbers = (windows.batch, windows.channels, results, len(windows.size))
        return layout, kinds, (*numbers, *lists)

    def _check_attributes(self, attributes: Mapping[str, Any]) -> None:
        expected = {a.name for a in self.attributes}
        if set(attributes) != expected:
            raise ValueError(f"{self}: attributes {sorted(attributes)}, expected {sorted(expected)}")
        if attributes.get("stash_type", 1) not in STATISTICS_TYPES:
            raise ValueError(
                f"{self}: attribute 'stash_type' is {attributes['stash_type']}; use 1 (float) or 11 (double)"
            )
        if not 0.0 <= attributes.get("epsilon", 0.0) < math.inf:
            raise ValueError(f"{self}: attribute 'epsilon' is {attributes['epsilon']}; it must be finite, 0 or more")
        if attributes.get("reduction", "sum") not in ("sum", "mean"):
            raise ValueError(f"{self}: attribute 'reduction' is {attributes['reduction']!r}; use 'sum' or 'mean'")

    def _check_types(self, arrays: Mapping[str, np.ndarray], attributes: Mapping[str, Any]) -> dict[str, np.dtype]:
        """The dtypes of T, U and int64; every input must have the dtype of its type name."""
        types: dict[str, np.dtype] = {"int64": np.dtype(np.int64)}
        if "stash_type" in attributes:
            types["U"] = np.dtype(STATISTICS_TYPES[attributes["stash_type"]])
        for t in self.inputs:
            dtype = arrays[t.name].dtype
            if t.type == "U" and dtype not in (np.float32, np.float64):
                raise ValueError(f"{self}: input '{t.name}' has type {dtype}, expected float32 or float64")
            if dtype != types.setdefault(t.type, dtype):
                raise ValueError(f"{self}: input '{t.name}' has type {dtype}, expected {types[t.type]}")
        if "T" in types and types["T"].name not in ("float16", "bfloat16", "float32", "float64"):
            raise ValueError(f"{self}: X has type {types['T']}, expected float16, bfloat16, float32 or float64")
        return types

    def _shape_reason(self, tensor: Tensor, attributes: Mapping[str, Any]) -> str:
        if tensor.shape == "X":
            return ", the shape of X"
        if tensor.shape == "windows":
            return ", one place a window on X, and the channels of X or a multiple"
        of_dense = {
            "outputs": ", one place a window on X, for every output",
            "weight": ", outputs, channels of X and kernel_shape",
            "exchanged weight": ", channels of X, outputs and kernel_shape",
        }
        if tensor.shape in of_dense:
            return of_dense[tensor.shape]
        if tensor.shape == "C":
            return ", one value a channel" + (f" (axis {attributes['axis']} of X)" if "axis" in attributes else "")
        return ", a scalar" if not tensor.shape else f" ([{','.join(tensor.shape)}]: R replicas, C channels)"


def _replicas(name: str, group: str) -> int:
    from onnx_cbp.custom_ops import collectives  # here: it needs the native library, which imports this file

    return collectives.replicas(name, group)
