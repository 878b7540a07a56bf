"""What the gradient rules of our ops share. `onnx_cbp.graph_passes.differentiating` applies these rules.

A rule is `gradient(g, node, *gradients of the outputs) -> gradients of the inputs`; `g` is that package's Builder,
whose methods write nodes. The letters are those of docs/internals/mathematics.md: x_hat = (X - mean) inv_std, and M is
the number of elements per channel.
"""

from __future__ import annotations

from typing import Any

Value = Any
Builder = Any
Node = Any
Gradients = list[Any]


def axis_of(node: Node) -> int:
    """The channel axis of X."""
    return int(node.attributes["axis"].as_int())


def over_channels(g: Builder, value: Value, axis: int) -> list[int]:
    """All axes except that of the channels."""
    rank = g.rank(value)
    return [i for i in range(rank) if i != axis % rank]


def times(g: Builder, data: Value, vector: Value, axis: int) -> Value:
    """Data times a vector of channels."""
    return g.Mul(data, g.column(g.as_type(vector, g.dtype(data)), axis, g.rank(data)))


def count_of(g: Builder, X: Value, axis: int, like: Value) -> Value:
    """M, as a scalar in the type of the statistics."""
    return g.count(X, over_channels(g, X, axis), like)


def of_sums(g: Builder, X: Value, mean: Value, inv_std: Value, V: Value, axis: int) -> tuple[Value, Value]:
    """sum(V x_hat) and sum(V) for every channel."""
    return g.ours("ChannelBackpropStats", X, mean, inv_std, V, axis=axis)


def of_statistics(g: Builder, X: Value, mean: Value, d_mean: Value | None, d_var: Value | None, axis: int) -> Value:
    """DX for mean = sum(X) / M and var = sum((X - mean)^2) / M: d_mean / M + 2 (X - mean) d_var / M."""
    like = d_mean if d_var is None else d_var
    M, rank, dtype = count_of(g, X, axis, like), g.rank(X), g.dtype(X)
    parts = []
    if d_mean is not None:
        parts.append(g.expand_like(g.column(g.as_type(g.Div(d_mean, M), dtype), axis, rank), X))
    if d_var is not None:
        centred = g.Sub(X, g.column(g.as_type(mean, dtype), axis, rank))
        parts.append(times(g, centred, g.Div(g.Mul(d_var, 2.0), M), axis))
    return parts[0] if len(parts) == 1 else g.Add(*parts)


def of_inv_std(g: Builder, inv_std: Value, d_inv_std: Value) -> Value:
    """d_var for inv_std = (var + epsilon)^(-1/2): -inv_std^3 d_inv_std / 2."""
    return g.Mul(g.Mul(g.Mul(inv_std, g.Mul(inv_std, inv_std)), d_inv_std), -0.5)


def of_backprop(
    g: Builder,
    V: Value,
    dY: Value,
    X: Value,
    scale: Value,
    mean: Value,
    inv_std: Value,
    scale_grad: Value,
    bias_grad: Value,
    M: Value,
    axis: int,
) -> dict[str, Value]:
    """The gradients of Z = scale inv_std (dY - bias_grad / M - x_hat scale_grad / M), given that of Z, which is V.

    With k = scale inv_std / M, they are: for dY V scale inv_std; for X -V k inv_std scale_grad; for bias_grad
    -k sum(V); for scale_grad -k sum(V x_hat); for mean k inv_std scale_grad sum(V). With r = sum(V dY) - (bias_grad
    sum(V) + scale_grad sum(V x_hat)) / M, they are: for scale inv_std r; for inv_std scale r - scale scale_grad
    sum(V x_hat) / M.
    """
    projected, summed = of_sums(g, X, mean, inv_std, V, axis)
    slope = g.Mul(scale, inv_std)
    k = g.Div(slope, M)
    zeros = g.Sub(mean, mean)
    product, _ = of_sums(g, dY, zeros, g.Exp(zeros), V, axis)
    by_statistics = g.Div(g.Mul(scale_grad, projected), M)
    r = g.Sub(g.Sub(product, g.Div(g.Mul(bias_grad, summed), M)), by_statistics)
    along = g.Mul(k, g.Mul(inv_std, scale_grad))
    return {
        "dY": times(g, V, slope, axis),
        "X": g.Neg(times(g, V, along, axis)),
        "scale": g.Mul(inv_std, r),
        "mean": g.Mul(along, summed),
        "inv_std": g.Mul(scale, g.Sub(r, by_statistics)),
        "scale_grad": g.Neg(g.Mul(k, projected)),
        "bias_grad": g.Neg(g.Mul(k, summed)),
    }


def of_both_steps(
    g: Builder,
    node: Node,
    dY: Value,
    inputs: tuple[Value, Value, Value, Value],
    gradients: tuple[Value | None, Value | None, Value | None],
) -> dict[str, Value]:
    """The gradients of dX, scale_grad, bias_grad = BatchNormGrad(dY, X, scale, mean, inv_std).

    The op is ChannelBackprop of the results of ChannelBackpropStats. So gradients of these results pass both ops.
    """
    X, scale, mean, inv_std = inputs
    V, d_scale_grad, d_bias_grad = gradients
    axis = axis_of(node)
    result: dict[str, Value] = {}
    if V is not None:
        sums = of_sums(g, X, mean, inv_std, dY, axis)
        M = count_of(g, X, axis, scale)
        result = of_backprop(g, V, dY, X, scale, mean, inv_std, *sums, M, axis)
        d_scale_grad = added(g, d_scale_grad, result.pop("scale_grad"))
        d_bias_grad = added(g, d_bias_grad, result.pop("bias_grad"))
    zeros = g.Sub(mean, mean)
    through = g.ours(
        "ChannelBackpropStatsGrad",
        *(X, mean, inv_std, dY),
        zeros if d_scale_grad is None else d_scale_grad,
        zeros if d_bias_grad is None else d_bias_grad,
        axis=axis,
    )
    for name, gradient in zip(("X", "mean", "inv_std", "dY"), through, strict=True):
        result[name] = added(g, result.get(name), gradient)
    result.setdefault("scale", g.Sub(scale, scale))
    return result


def of_forward(
    g: Builder,
    node: Node,
    dX: Value | None,
    d_mean: Value | None,
    d_var: Value | None,
    mean: Value,
) -> Value:
    """DX of a batch norm, including the gradients that reach its statistics."""
    if d_mean is None and d_var is None:
        return dX
    return added(g, dX, of_statistics(g, node.inputs[0], mean, d_mean, d_var, axis_of(node)))


def added(g: Builder, one: Value | None, other: Value | None) -> Value | None:
    """The sum of two gradients, each of which may be None."""
    if one is None or other is None:
        return other if one is None else one
    return g.Add(one, other)
