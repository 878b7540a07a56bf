"""Draw docs/images/before_after.svg: a batch norm of a sample model in its training graph, before and after a rewrite.

The graph and its places are those of the page that `onnx-cbp inspect --html` writes.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import onnx_cbp
from onnx_cbp.graph_passes import InlineFunctionsPass, find_sites
from onnx_cbp.ir_models import read_model, to_ir
from onnx_cbp.report.drawing import Rewrite
from onnx_cbp.report.layers import layers_of
from onnx_cbp.report.layout import place

ROOT = Path(__file__).parent.parent.parent
PICTURE = ROOT / "docs" / "images" / "before_after.svg"
MODEL = ROOT / "models" / "resnet_digits" / "training_model.onnx"
WIDTH = 224.0
LAYER = "/blocks/blocks.0/bn1/BatchNormalization_BatchNormInternal"

_STYLE = """
svg { font: 11px ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
.paper { fill: #fff } .ink { fill: #1c2330 } .soft { fill: #5d6778 }
.op, .title { font-family: system-ui, "Noto Sans", "DejaVu Sans", sans-serif; font-weight: 600; font-size: 11.5px }
.title { font-size: 15px }
rect.node { fill: #f3f5f8; stroke: #c9cfd9 } .old rect { fill: #fdeee2; stroke: #b4541a; stroke-width: 1.8 }
.new rect { fill: #e3f5ea; stroke: #1c7c46; stroke-width: 1.8 } .old .op { fill: #b4541a } .new .op { fill: #1c7c46 }
.other rect { stroke-dasharray: 4 3 } .edge { fill: none; stroke: #8791a3; stroke-width: 1.3 } .tip { fill: #8791a3 }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117 } .ink { fill: #e4e8ef } .soft { fill: #98a3b5 }
  rect.node { fill: #232a35; stroke: #3a4352 } .old rect { fill: #3a2618; stroke: #f0a06a }
  .new rect { fill: #173524; stroke: #6fd09a } .old .op { fill: #f0a06a } .new .op { fill: #6fd09a }
}
"""


def picture() -> str:
    """The picture as SVG."""
    source = read_model(MODEL)
    model = to_ir(source)
    InlineFunctionsPass()(model)
    sites = list(find_sites(model))
    pair = Rewrite(model, to_ir(onnx_cbp.rewrite(source)), sites, reach=1)
    layer = next(parts for parts in layers_of(sites, onnx_cbp.inspect(source)) if parts[0].finding.node == LAYER)
    before, after = pair.draw(*(part.site for part in layer))
    assert after is not None
    before, after = _smaller(before), _smaller(after)
    width, height = before["width"] + after["width"] + 24, max(before["height"], after["height"]) + 34
    titles = ("ONNX Runtime's training graph", "after onnx-cbp rewrite")
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="paper" width="{width}" height="{height}"/>',
        _graph(before, titles[0], 0),
        _graph(after, titles[1], before["width"] + 24),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _smaller(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph in narrow boxes, without the ends of other layers that only read what is shown."""
    read = {tail for tail, _ in (edge["ends"] for edge in graph["edges"])}
    nodes = [n for i, n in enumerate(graph["nodes"]) if n["state"] or i in read or n["op"] == "ConvGrad"]
    at = {id(node): number for number, node in enumerate(nodes)}
    ends = [tuple(at.get(id(graph["nodes"][end])) for end in edge["ends"]) for edge in graph["edges"]]
    edges = [(tail, head) for tail, head in ends if tail is not None and head is not None]
    placement = place([(WIDTH, node["h"]) for node in nodes], edges)
    placed = [{**n, "x": x, "y": y, "w": WIDTH} for n, (x, y) in zip(nodes, placement.places, strict=True)]
    routes = [{"points": route} for route in placement.routes]
    return {"nodes": placed, "edges": routes, "width": placement.width, "height": placement.height}


def _graph(graph: dict[str, Any], title: str, left: float) -> str:
    lines = [f'<g transform="translate({left},34)">', f'<text class="title ink" x="12" y="-12">{escape(title)}</text>']
    for edge in graph["edges"]:
        (x, y), *rest = edge["points"]
        path = f"M{x},{y}"
        for a, b in rest:
            middle = (y + b) / 2
            path += f" L{a},{b}" if a == x else f" C{x},{middle} {a},{middle} {a},{b}"
            x, y = a, b
        lines.append(f'<path class="edge" d="{path}"/><path class="tip" d="M{x},{y} l-4,-7 h8 z"/>')
    for node in graph["nodes"]:
        lines.append(f'<g class="{node["state"]}" transform="translate({node["x"]},{node["y"]})">')
        lines.append(f'<rect class="node" width="{node["w"]}" height="{node["h"]}" rx="6"/>')
        lines.append(f'<text class="op ink" x="10" y="17.5">{escape(node["op"])}</text>')
        for index, (formal, name, _) in enumerate(node["rows"]):
            words = f'<tspan class="soft">{escape(formal[:12])}</tspan> {escape(_cut(name, 24 - len(formal[:12])))}'
            lines.append(f'<text class="ink" x="10" y="{37 + 16 * index}">{words}</text>')
        lines.append("</g>")
    return "\n".join([*lines, "</g>"])


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"…{text[1 - length :]}"


if __name__ == "__main__":
    PICTURE.write_text(picture(), encoding="utf-8")
