"""The version that is installed."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("onnx-cbp")
except metadata.PackageNotFoundError:
    __version__ = "unknown (not installed)"
