"""The plain C functions, as custom_ops/native/ops/table.h has them: its macros are read here without a compiler."""

from __future__ import annotations

import re
from pathlib import Path

NATIVE = Path(__file__).parents[2] / "custom_ops" / "native"
_TEXT = (NATIVE / "ops" / "table.h").read_text().replace("\\\n", " ")
#: What the macro of each name stands for.
_MACROS = {name: body for name, _, body in re.findall(r"^#define (\w+)(\([^)]*\))?(.*)$", _TEXT, re.MULTILINE)}


def _ops(macro: str) -> dict[str, tuple[str, str]]:
    """The C name of each op in a list, with its name in ONNX and what its sizes are called."""
    found = {name: (op, sizes) for op, name, sizes in re.findall(r"\bOP\((\w+), (\w+), (\w+)\)", _MACROS[macro])}
    for inner in re.findall(r"\b(ONNX_CBP_\w+)\(OP\)", _MACROS[macro]):
        found |= _ops(inner)
    return found


def _parameters(name: str, sizes: str) -> list[tuple[str, str]]:
    """Types and names, in order."""
    texts = re.sub(r"\s+", " ", _MACROS[f"ONNX_CBP_SIZES_{sizes}"]).strip().split(", ")
    for what, arguments in re.findall(r"\b(ATTRIBUTE|IN|OUT)\(([^)]*)\)", _MACROS[f"ONNX_CBP_OF_{name}"]):
        if what == "ATTRIBUTE":
            texts.append(arguments.replace(", ", " "))
        else:
            parameter, _, kind = arguments.split(", ")
            element = _MACROS[f"ONNX_CBP_ELEMENT_{kind}"].strip()
            texts.append(f"{'const ' * (what == 'IN')}{element} *{parameter}")
    return [tuple(text.replace(" *", "* ").rsplit(" ", 1)) for text in texts]


#: The functions of c_api.h that are ops, with their parameters.
FUNCTIONS = {f"onnx_cbp_{name}": _parameters(name, sizes) for name, (_, sizes) in _ops("ONNX_CBP_OPS").items()}
#: The names of those of cuda/c_api.h, which take a queue first.
CUDA_FUNCTIONS = {f"onnx_cbp_cuda_{name}" for name in _ops("ONNX_CBP_OPS_WITH_CUDA")}
#: Each op's formals and attributes: what the table says, name by name.
OPS = {
    op: [
        (what, *arguments.split(", "))
        for what, arguments in re.findall(r"\b(ATTRIBUTE|IN|OUT)\(([^)]*)\)", _MACROS[f"ONNX_CBP_OF_{name}"])
    ]
    for name, (op, _) in _ops("ONNX_CBP_OPS").items()
}


def declared(header: str) -> set[str]:
    """The names of the functions that a header declares without the table."""
    text = (NATIVE / header).read_text().replace("\\\n", " ")
    text = re.sub(r"/\*.*?\*/|^#define.*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    return set(re.findall(r"\b(onnx_cbp_\w+)\(", text))
