"""Makes the page's text: puts style, script and data into its template.

Names in a model are data. They go into the page as JSON without any character that has a meaning in HTML, and the
script inserts them as text. A content security policy allows only that script, and no network access.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from importlib.resources import files
from string import Template
from typing import Any

#: Characters that HTML or JavaScript could interpret.
_SPECIAL = {ord(character): f"\\u{ord(character):04x}" for character in "<>&'\u2028\u2029"}


def page(document: dict[str, Any]) -> str:
    """One self-contained HTML page for a document of `collect`."""
    style, script = _part("page.css"), _part("page.js")
    return Template(_part("page.html")).substitute(
        title=html.escape(document["model"]),
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        document=json.dumps(document, allow_nan=False, separators=(",", ":")).translate(_SPECIAL),
    )


def _part(name: str) -> str:
    return (files("onnx_cbp.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """A source expression of a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
