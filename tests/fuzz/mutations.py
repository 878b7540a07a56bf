"""Faults put into a model: in its nodes, edges, attributes, shapes, tensors, opsets, functions, subgraphs and bytes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

_OPS = (
    *("Add", "BatchNormalization", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv", "Dropout"),
    *("Expand", "Flatten", "Gather", "Gemm", "Identity", "LayerNormalization", "MatMul", "Mul", "Pow", "Range"),
    *("ReduceMean", "ReduceSum", "Relu", "Reshape", "Shape", "Slice", "Softmax", "SoftmaxCrossEntropyLoss"),
    *("SplitToSequence", "Sqrt", "Squeeze", "Sub", "Tile", "Transpose", "Unsqueeze"),
    *("BatchNormInternal", "BatchNormalizationGrad", "ReluGrad"),
    *("BatchNormTrain", "BatchNormTrainUpdate", "ChannelNormalize", "ChannelStats", "RunningStats", "Nothing"),
)
_DOMAINS = ("", "", "", "ai.onnx", "com.microsoft", "onnx_cbp", "local", "nowhere")
_NAMES = (
    *("axis", "axes", "perm", "epsilon", "momentum", "training_mode", "spatial", "keepdims", "to", "relu", "unbiased"),
    *("value", "is_test", "consumed_inputs", "min", "max", "group", "layer", "pads", "ratio", "stash_type", "transB"),
)
_SIZES = (-1, 0, 1, 2, 3, 5, 7, 64, 2**31 - 1, 2**40)
_TYPES = (0, 1, 2, 7, 8, 9, 10, 11, 16, 23, 99)

Mutation = Callable[[onnx.ModelProto, np.random.Generator], None]


def mutate(model: onnx.ModelProto, rng: np.random.Generator) -> tuple[onnx.ModelProto, list[str]]:
    """A copy of the model with one to four faults, and what these are called."""
    mutant = onnx.ModelProto()
    mutant.CopyFrom(model)
    names = []
    for _ in range(int(rng.choice([1, 1, 2, 3, 4]))):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        names.append(mutation.__name__)
        try:
            mutation(mutant, rng)
        except (IndexError, ValueError, TypeError):  # there is nothing of the kind to change
            names[-1] += "?"
    if rng.random() < 0.08:
        mutant = _bytes(mutant, rng)
        names.append("bytes")
    return mutant, names


def _pick(rng: np.random.Generator, among: object) -> object:
    every = list(among)  # type: ignore[call-overload]
    return every[int(rng.integers(len(every)))]


def _graphs(model: onnx.ModelProto) -> list[onnx.GraphProto]:
    found, waiting = [], [model.graph]
    while waiting:
        graph = waiting.pop()
        found.append(graph)
        waiting += [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return found


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [node for graph in _graphs(model) for node in graph.node] + [n for f in model.functions for n in f.node]


def _names(model: onnx.ModelProto) -> list[str]:
    names = ["", "nowhere", *(value.name for value in model.graph.input)]
    names += [tensor.name for tensor in model.graph.initializer]
    return names + [name for node in _nodes(model) for name in node.output]


def op_type(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    _pick(rng, _nodes(model)).op_type = _pick(rng, _OPS)  # type: ignore[attr-defined]


def domain(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    _pick(rng, _nodes(model)).domain = _pick(rng, _DOMAINS)  # type: ignore[attr-defined]


def _random_attribute(name: str, rng: np.random.Generator) -> onnx.AttributeProto:
    kind = int(rng.integers(9))
    value = float(rng.choice([0, 0.5, 1, -1, 1e30, np.nan]))
    if kind == 0:
        return helper.make_attribute(name, int(rng.choice([*_SIZES, -5])))
    if kind == 1:
        return helper.make_attribute(name, value)
    if kind == 2:
        return helper.make_attribute(name, bytes(rng.integers(0, 256, 4, np.uint8)))
    if kind == 3:
        return helper.make_attribute(name, [int(rng.choice(_SIZES)) for _ in range(int(rng.integers(1, 6)))])
    if kind == 4:
        return helper.make_attribute(name, [value] * int(rng.integers(1, 4)))
    if kind == 5:
        return helper.make_attribute(name, _tensor("", rng))
    if kind == 6:
        return helper.make_attribute(name, helper.make_graph([], "empty", [], []))
    if kind == 7:
        return onnx.AttributeProto(name=name, type=int(rng.integers(15)))
    return onnx.AttributeProto(name=name, type=int(rng.integers(1, 9)), ref_attr_name="reference")


def attribute(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    node: onnx.NodeProto = _pick(rng, _nodes(model))  # type: ignore[assignment]
    kind = int(rng.integers(4))
    if kind == 0 or not node.attribute:
        node.attribute.append(_random_attribute(str(_pick(rng, _NAMES)), rng))
    elif kind == 1:
        del node.attribute[int(rng.integers(len(node.attribute)))]
    else:
        changed = node.attribute[int(rng.integers(len(node.attribute)))]
        changed.CopyFrom(_random_attribute(changed.name, rng))


def edge(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    node: onnx.NodeProto = _pick(rng, _nodes(model))  # type: ignore[assignment]
    names = node.input if rng.random() < 0.7 else node.output
    kind = int(rng.integers(5))
    if kind == 0:
        names.append(str(_pick(rng, _names(model))))
    elif kind == 1:
        del names[int(rng.integers(len(names)))]
    elif kind == 2:
        names[int(rng.integers(len(names)))] = ""
    else:
        names[int(rng.integers(len(names)))] = str(_pick(rng, _names(model)))


def arity(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    node: onnx.NodeProto = _pick(rng, _nodes(model))  # type: ignore[assignment]
    names = node.input if rng.random() < 0.6 else node.output
    del names[int(rng.integers(len(names) + 1)) :]


def remove_node(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    graph: onnx.GraphProto = _pick(rng, _graphs(model))  # type: ignore[assignment]
    del graph.node[int(rng.integers(len(graph.node)))]


def copy_node(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    graph: onnx.GraphProto = _pick(rng, _graphs(model))  # type: ignore[assignment]
    copy = graph.node.add()
    copy.CopyFrom(graph.node[int(rng.integers(len(graph.node) - 1))])
    if rng.random() < 0.7:
        copy.output[:] = [f"{name}_copy" for name in copy.output]


def shuffle(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    order = rng.permutation(len(model.graph.node))
    nodes = [onnx.NodeProto.FromString(model.graph.node[index].SerializeToString()) for index in order]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def cycle(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    nodes = model.graph.node
    first = int(rng.integers(len(nodes)))
    last = int(rng.integers(first, len(nodes)))
    nodes[first].input[int(rng.integers(len(nodes[first].input)))] = nodes[last].output[0]


def value_type(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    graph = model.graph
    value: onnx.ValueInfoProto = _pick(rng, [*graph.input, *graph.output, *graph.value_info])  # type: ignore[assignment]
    kind = int(rng.integers(5))
    if kind == 0:
        value.type.tensor_type.elem_type = int(rng.choice(_TYPES))
    elif kind == 1:
        value.type.tensor_type.ClearField("shape")
    elif kind == 2:
        value.ClearField("type")
    elif kind == 3:
        value.type.sequence_type.elem_type.tensor_type.elem_type = 1
    else:
        _dimensions(value, rng)


def shape(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    graph = model.graph
    _dimensions(_pick(rng, [*graph.input, *graph.output, *graph.value_info]), rng)  # type: ignore[arg-type]


def _dimensions(value: onnx.ValueInfoProto, rng: np.random.Generator) -> None:
    dims = value.type.tensor_type.shape.dim
    kind = int(rng.integers(4))
    if kind == 0:
        dims.add().dim_value = int(rng.choice(_SIZES))
    elif kind == 1:
        del dims[int(rng.integers(len(dims)))]
    elif kind == 2:
        dims[int(rng.integers(len(dims)))].dim_value = int(rng.choice(_SIZES))
    else:
        dims[int(rng.integers(len(dims)))].dim_param = "M"


def declare(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Say something of a value of which nothing was said."""
    sizes = [int(rng.choice([1, 2, 3, 4])) for _ in range(int(rng.integers(6)))]
    info = helper.make_tensor_value_info(str(_pick(rng, _names(model))), int(rng.choice([1, 1, 7, 11])), sizes)
    _pick(rng, [model.graph.value_info, model.graph.input, model.graph.output]).append(info)  # type: ignore[attr-defined]


def graph_ends(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    graph: onnx.GraphProto = _pick(rng, _graphs(model))  # type: ignore[assignment]
    values = graph.output if rng.random() < 0.5 else graph.input
    kind = int(rng.integers(3))
    if kind == 0:
        del values[int(rng.integers(len(values)))]
    elif kind == 1:
        values.add().CopyFrom(values[0])
    else:
        values[int(rng.integers(len(values)))].name = str(_pick(rng, _names(model)))


def _tensor(name: str, rng: np.random.Generator) -> TensorProto:
    sizes = [int(size) for size in rng.integers(0, 4, int(rng.integers(4)))]
    dtype = rng.choice([np.float32, np.float64, np.int64, np.float16, bool])
    return numpy_helper.from_array(rng.normal(1, 1, sizes).astype(dtype), name)


def initializer(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    tensors = model.graph.initializer
    tensor: TensorProto = _pick(rng, tensors)  # type: ignore[assignment]
    kind = int(rng.integers(9))
    if kind == 0:
        tensor.dims[:] = [int(rng.choice(_SIZES)) for _ in range(int(rng.integers(4)))]
    elif kind == 1:
        tensor.raw_data = bytes(int(rng.integers(0, 40)))
    elif kind == 2:
        tensor.data_type = int(rng.choice(_TYPES))
    elif kind == 3:
        tensors.remove(tensor)
    elif kind == 4:
        tensors.add().CopyFrom(tensor)
    elif kind == 5:
        tensor.name = str(_pick(rng, _names(model)))
    elif kind == 6:
        tensor.CopyFrom(_tensor(tensor.name, rng))
    elif kind == 7:
        tensor.int64_data.append(3)
        tensor.ClearField("raw_data")
    else:
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", str(rng.choice(["weights", "../weights", "/dev/zero", ""]))


def shared(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Let a node read one initializer in the place of another."""
    names = [tensor.name for tensor in model.graph.initializer]
    old, new = str(_pick(rng, names)), str(_pick(rng, names))
    for node in _nodes(model):
        node.input[:] = [new if name == old else name for name in node.input]


def initializer_as_input(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    model.ir_version = int(rng.choice([3, 4, 8]))
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))


def initializer_as_constant(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    tensor = TensorProto()
    tensor.CopyFrom(_pick(rng, model.graph.initializer))  # type: ignore[arg-type]
    model.graph.initializer.remove(tensor)
    model.graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))


def opset(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    holder: object = _pick(rng, [model, *model.functions])
    imports = holder.opset_import  # type: ignore[attr-defined]
    kind = int(rng.integers(5))
    if kind == 0:
        _pick(rng, imports).domain = str(_pick(rng, _DOMAINS))  # type: ignore[attr-defined]
    elif kind == 1:
        del imports[int(rng.integers(len(imports)))]
    elif kind == 2:
        imports.append(helper.make_opsetid(str(_pick(rng, _DOMAINS)), int(rng.integers(1, 25))))
    else:
        _pick(rng, imports).version = int(rng.choice([-1, 0, 1, 6, 7, 9, 11, 13, 14, 15, 17, 18, 22, 2**62]))  # type: ignore[attr-defined]


def ir_version(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    model.ir_version = int(rng.choice([0, 1, 2, 3, 4, 7, 9, 13, 99, 2**40]))


def function(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """A function of a few nodes, in the place of one of them."""
    node: onnx.NodeProto = _pick(rng, model.graph.node)  # type: ignore[assignment]
    body = onnx.NodeProto()
    body.CopyFrom(node)
    version = next((each.version for each in model.opset_import if each.domain == ""), 17)
    own = version if rng.random() < 0.5 else int(rng.choice([7, 9, 11, 13, 15, 17, 18]))
    name = f"G{len(model.functions)}" if rng.random() < 0.9 else node.op_type
    imports = [helper.make_opsetid("", own)] + [helper.make_opsetid(node.domain, 1)] * bool(node.domain)
    formals = [f"i{index}" for index in range(len(body.input))]
    body.input[:] = formals
    made = helper.make_function("local", name, formals, list(body.output), [body], imports)
    kind = int(rng.integers(5))
    if kind == 0:
        del made.output[1:]
    elif kind == 1:
        del made.input[int(rng.integers(len(made.input))) :]
    elif kind == 2:
        made.node[0].op_type, made.node[0].domain = name, "local"
    elif kind == 3 and made.node[0].attribute:
        changed = made.node[0].attribute[0]
        given = onnx.AttributeProto()
        given.CopyFrom(changed)
        changed.CopyFrom(onnx.AttributeProto(name=given.name, type=given.type, ref_attr_name=given.name))
        made.attribute.append(given.name)
    model.functions.append(made)
    node.op_type, node.domain = name, "local"
    if kind != 3:
        del node.attribute[:]
    if all(each.domain != "local" for each in model.opset_import):
        model.opset_import.append(helper.make_opsetid("local", 1))


def tower(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Functions that call one another twice each."""
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    relu = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("local", "T0", ["a"], ["b"], [relu], imports))
    height = int(rng.choice([2, 4, 20, 60]))
    for level in range(1, height):
        nodes = [helper.make_node(f"T{level - 1}", [a], [b], domain="local") for a, b in ("ac", "cb")]
        model.functions.append(helper.make_function("local", f"T{level}", ["a"], ["b"], nodes, imports))
    node: onnx.NodeProto = _pick(rng, model.graph.node)  # type: ignore[assignment]
    model.graph.node.append(helper.make_node(f"T{height - 1}", [node.output[0]], ["towered"], domain="local"))


def subgraph(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """Move a node into a branch, a body or a scan."""
    index = int(rng.integers(len(model.graph.node)))
    node = onnx.NodeProto()
    node.CopyFrom(model.graph.node[index])
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output]
    if rng.random() < 0.5:
        outputs = [helper.make_tensor_value_info(name, 1, None) for name in node.output]
    names = [f"{name}_out" if rng.random() < 0.5 else name for name in node.output]
    fixed = {"condition": np.array(True), "trips": np.array(2, np.int64)}  # a loop without trips would never end
    known = {tensor.name for tensor in model.graph.initializer}
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in fixed.items() if name not in known
    )
    kind = int(rng.integers(3))
    if kind == 0:
        graph = helper.make_graph([node], "branch", [], outputs)
        new = helper.make_node("If", ["condition"], names, then_branch=graph, else_branch=graph)
    elif kind == 1:
        ends = [helper.make_tensor_value_info(name, dtype, []) for name, dtype in (("i", 7), ("k", 9), ("k2", 9))]
        same = helper.make_node("Identity", ["k"], ["k2"])
        graph = helper.make_graph([node, same], "body", ends[:2], [ends[2], *outputs])
        new = helper.make_node("Loop", ["trips", "condition"], names, body=graph)
    else:
        graph = helper.make_graph([node], "scan", [onnx.ValueInfoProto(name=node.input[0])], outputs)
        new = helper.make_node("Scan", [node.input[0]], names, body=graph, num_scan_inputs=1)
    model.graph.node[index].CopyFrom(new)


def constant(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    """A value that is computed of constants, and may be large, in front of a node."""
    node: onnx.NodeProto = _pick(rng, model.graph.node)  # type: ignore[assignment]
    sizes = np.array([int(rng.choice(_SIZES)) for _ in range(int(rng.integers(1, 4)))], np.int64)
    kind = str(rng.choice(["ConstantOfShape", "Expand", "Tile", "Range", "Reshape"]))
    nodes = [helper.make_node("Constant", [], ["k_sizes"], value=numpy_helper.from_array(sizes))]
    nodes.append(helper.make_node("Constant", [], ["k_one"], value=numpy_helper.from_array(np.ones(1, np.float32))))
    if kind == "ConstantOfShape":
        nodes.append(helper.make_node(kind, ["k_sizes"], ["k_big"]))
    elif kind == "Range":
        for name, value in (("k_start", 0), ("k_end", int(sizes[0])), ("k_step", int(rng.choice([1, -1, 0])))):
            tensor = numpy_helper.from_array(np.array(value, np.int64))
            nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        nodes.append(helper.make_node(kind, ["k_start", "k_end", "k_step"], ["k_big"]))
    else:
        nodes.append(helper.make_node(kind, ["k_one", "k_sizes"], ["k_big"]))
    for each in reversed(nodes):
        model.graph.node.insert(0, each)
    node.input[int(rng.integers(len(node.input)))] = "k_big"


def metadata(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    node: onnx.NodeProto = _pick(rng, _nodes(model))  # type: ignore[assignment]
    node.name = str(_pick(rng, ["", "a/b", "*", "x" * 3000, "line\nbreak", *_names(model)]))
    node.doc_string = "\ud7ff"


def sparse(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    graph: onnx.GraphProto = _pick(rng, _graphs(model))  # type: ignore[assignment]
    values = numpy_helper.from_array(np.ones(1, np.float32), str(_pick(rng, _names(model))))
    indices = numpy_helper.from_array(np.zeros(1, np.int64), "indices")
    graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [3]))


def _bytes(model: onnx.ModelProto, rng: np.random.Generator) -> onnx.ModelProto:
    """The model with a few bytes changed; the model itself where that is none any more."""
    content = bytearray(model.SerializeToString())
    for _ in range(int(rng.integers(1, 4))):
        content[int(rng.integers(len(content)))] = int(rng.choice([0, 1, 8, 127, 128, 255]))
    try:
        return onnx.ModelProto.FromString(bytes(content))
    except DecodeError:
        return model


MUTATIONS: tuple[Mutation, ...] = (
    *(op_type, domain, attribute, attribute, edge, edge, arity, remove_node, copy_node, shuffle, cycle, value_type),
    *(shape, declare, graph_ends, initializer, initializer, shared, initializer_as_input, initializer_as_constant),
    *(opset, ir_version, function, function, tower, subgraph, constant, metadata, sparse),
)
