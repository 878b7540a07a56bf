"""Checks that every value has one name and one producer, and that there are no cycles."""

from __future__ import annotations

import graphlib
from collections.abc import Callable, Iterable, Sequence

import onnx

from onnx_cbp.errors import OnnxCbpError
from onnx_cbp.validity.walking import Scope, called, subgraphs

#: Subgraphs in subgraphs: protobuf reads no message that is nested deeper than about 30 of them.
_DEEPEST = 60


def check_names(model: onnx.ModelProto) -> bool:
    """Check the names in all graphs; whether the nodes of all stand in an order in which they can be computed.

    Raises:
        OnnxCbpError: a name that is none, a value that two make or nobody does, nodes that need each other's results.
    """
    checker = _Checker()
    checker.graph(model.graph, "the graph", lambda name: False, 0)  # noqa: ARG005
    for function in model.functions:
        checker.graph(function, f"the function '{function.name}'", lambda name: False, 0)  # noqa: ARG005
    return checker.in_order


class _Checker:
    """Looks graphs over, one by one.

    Attributes:
        in_order: the nodes of all so far stand behind those whose results they read.
    """

    def __init__(self) -> None:
        self.in_order = True

    def graph(self, graph: Scope, where: str, is_outside: Callable[[str], bool], depth: int) -> set[str]:
        """Check a graph with all that is in it; the names of the values of graphs around it that it reads."""
        if depth > _DEEPEST:
            raise _error(
                f"{where} is nested more than {_DEEPEST} graphs deep: take some of its If, Loop and Scan apart"
            )
        given = _given(graph, where)
        makers: dict[str, int] = {}
        for index, node in enumerate(graph.node):
            _check_texts((node.op_type, node.domain, node.name), called, node)
            for name in node.output:
                if not name:
                    continue
                _check_text(name, where)
                if name in given or name in makers:
                    other = called(graph.node[makers[name]]) if name in makers else "an input or initializer"
                    raise _error(f"{called(node)} makes '{name}', which {other} is already: give it another name")
                makers[name] = index

        def is_known(name: str) -> bool:
            return name in makers or name in given or is_outside(name)

        free: set[str] = set()
        needs: list[list[int]] = []
        for index, node in enumerate(graph.node):
            read = [name for name in node.input if name]
            for subgraph in subgraphs(node) if node.attribute else ():
                read += self.graph(subgraph, f"a subgraph of {called(node)}", is_known, depth + 1)
            own: list[int] = []
            for name in read:
                maker = makers.get(name)
                if maker is not None:
                    own.append(maker)
                elif name not in given:
                    _check_text(name, where)
                    if not is_outside(name):
                        raise _error(
                            f"{called(node)} reads '{name}', which nothing makes: it is no input, no initializer and "
                            f"no node's result of {where}"
                        )
                    free.add(name)
            needs.append(own)
            self.in_order &= all(maker < index for maker in own)
        if not self.in_order:
            _refuse_cycles(graph, needs)
        _check_outputs(graph, where, lambda name: name in makers or name in given)
        return free


def _error(reason: str) -> OnnxCbpError:
    return OnnxCbpError(f"the model is not valid ONNX: {reason}")


def _given(graph: Scope, where: str) -> set[str]:
    """The names of what a graph has without computing it: inputs and initializers."""
    if isinstance(graph, onnx.FunctionProto):
        return _each_once(graph.input, f"input of {where}")
    inputs = _each_once((value.name for value in graph.input), f"input of {where}")
    dense = _each_once((tensor.name for tensor in graph.initializer), f"initializer of {where}")
    sparse = _each_once((tensor.values.name for tensor in graph.sparse_initializer), f"sparse initializer of {where}")
    if dense & sparse:
        raise _error(f"two initializers of {where} are called '{min(dense & sparse)}': give each a name of its own")
    return inputs | dense | sparse


def _each_once(names: Iterable[str], what: str) -> set[str]:
    found: set[str] = set()
    for name in names:
        if not name:
            raise _error(f"an {what} has no name: give it one")
        _check_text(name, what)
        if name in found:
            raise _error(f"more than one {what} is called '{name}': give each a name of its own")
        found.add(name)
    return found


def _check_text(name: str | bytes, where: str) -> None:
    """A name that is no UTF-8 comes out of protobuf as bytes."""
    if isinstance(name, bytes):
        raise _error(f"a name in {where} is no UTF-8: {name!r:.60}")


def _check_texts(texts: Sequence[str | bytes], where: Callable[[onnx.NodeProto], str], node: onnx.NodeProto) -> None:
    if any(isinstance(text, bytes) for text in texts):
        _check_text(next(text for text in texts if isinstance(text, bytes)), where(node))
    if not texts[0]:
        raise _error(f"{where(node)} has no op_type")


def _check_outputs(graph: Scope, where: str, is_here: Callable[[str], bool]) -> None:
    names = graph.output if isinstance(graph, onnx.FunctionProto) else [value.name for value in graph.output]
    for name in names:
        _check_text(name, where)
        if not is_here(name):
            raise _error(
                f"{where} has the output '{name}', which nothing in it makes: name one that is made, or add an "
                "Identity that makes it"
            )


def _refuse_cycles(graph: Scope, needs: list[list[int]]) -> None:
    try:
        graphlib.TopologicalSorter(dict(enumerate(needs))).prepare()
    except graphlib.CycleError as error:
        nodes = [graph.node[index] for index in error.args[1][:-1]]
        some = ", ".join(called(node) for node in nodes[:3]) + (", ..." if len(nodes) > 3 else "")
        raise _error(
            f"a cycle: {some} {'reads its own result' if len(nodes) == 1 else 'need one another'}: cut it"
        ) from None
