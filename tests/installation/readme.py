"""Runs README's ten lines with what is installed: `python readme.py`, from a checkout that it needs not be built in."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import onnx

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.made_up.finetuning import network, parameters
from support.programs.documents import ROOT, blocks


def main() -> None:
    """Give the lines a forward model in a folder of its own, and look at what they leave there."""
    block = next(block for block in blocks(ROOT / "README.md") if block.language == "python")
    lines = block.code.strip().splitlines()
    assert 5 < len(lines) <= 15, f"README's lines are {len(lines)}"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        onnx.save(network(parameters(0), ()), "forward.onnx")
        exec(compile(f"{block.given}\n{block.code}", str(block), "exec"), {"__name__": "__main__"})
        deployed = onnx.load("deployed.onnx")
        os.chdir(ROOT)
    onnx.checker.check_model(deployed)
    domains = {node.domain for node in deployed.graph.node}
    assert domains == {""}, f"what is deployed has ops of {domains}"
    print(f"README's {len(lines)} lines ran with {Path(str(sys.modules['onnx_cbp'].__file__)).parent}")


if __name__ == "__main__":
    main()
