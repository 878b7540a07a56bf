"""The documentation as a site: `make docs`. Warnings are errors there, a link to nowhere among them."""

import re
from importlib import metadata

project = "onnx-cbp"
author = "the onnx-cbp authors"
copyright = "the onnx-cbp authors; MIT licence"
try:
    release = metadata.version("onnx-cbp")
except metadata.PackageNotFoundError:  # from a checkout that is not installed
    release = ""

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "tools"]
html_theme = "furo"
html_title = f"onnx-cbp {release}".strip()
html_copy_source = False
html_show_sphinx = False

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]

# Docstrings write code between single backquotes, as Markdown does.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "undoc-members": False}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
suppress_warnings = ["myst.header"]

#: Files beside this folder that are pages here, too.
_PAGES = {
    "models/README": "project/sample_models",
    "benchmarks/README": "project/recorded_benchmarks",
    "CHANGELOG": "project/changelog",
    "SECURITY": "project/security",
}
_BESIDE = re.compile(rf"\]\((?:\.\./)+({'|'.join(_PAGES)})\.md")


def _links(app, name, source):  # noqa: ARG001 - what Sphinx calls
    up = "../" * name.count("/")
    source[0] = _BESIDE.sub(lambda found: f"]({up}{_PAGES[found[1]]}.md", source[0])


def _links_back(app, relative_path, parent_docname, content):  # noqa: ARG001 - what Sphinx calls
    page = _PAGES[relative_path.relative_to("..").with_suffix("").as_posix()]
    up = "../" * page.count("/")
    content[0] = re.sub(r"\]\((?:\.\./)?docs/", f"]({up}", content[0])


def _as_restructured_text(app, what, name, obj, options, lines):  # noqa: ARG001 - what Sphinx calls
    """Read a docstring as Markdown, as far as docstrings use it: what is indented is code, and * and | are themselves.

    The sections of Google's style are left to napoleon, which comes next.
    """
    result, indented, sections = [], False, False
    for line in lines:
        sections = sections or re.fullmatch(r"(Args|Attributes|Returns|Raises|Yields):", line) is not None
        code = not sections and line.startswith("    ")
        if code and not indented:
            result += ["::", ""]
        if indented and line.strip() and not code:
            result.append("")
        if line.strip():
            indented = code
        parts = line.split("`")
        parts[::2] = [part if code else re.sub(r"([*|])", r"\\\1", part) for part in parts[::2]]
        result.append("`".join(parts))
    lines[:] = result


def setup(app):
    """Read docstrings as Markdown; let links to files in the repository lead to their pages."""
    app.connect("autodoc-process-docstring", _as_restructured_text, priority=400)
    app.connect("source-read", _links)
    app.connect("include-read", _links_back)
