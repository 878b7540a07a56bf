"""The command line: `onnx-cbp`."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import click

from onnx_cbp.cli.commands.artifacts import artifacts
from onnx_cbp.cli.commands.bench import bench
from onnx_cbp.cli.commands.check import check
from onnx_cbp.cli.commands.finalize import finalize
from onnx_cbp.cli.commands.inspect import inspect
from onnx_cbp.cli.commands.rewrite import rewrite
from onnx_cbp.cli.commands.update_bn import update_bn
from onnx_cbp.cli.group import OneLineErrors
from onnx_cbp.cli.version import version_option

__all__ = ["cli", "main"]


@click.group(cls=OneLineErrors, context_settings={"help_option_names": ["-h", "--help"]})
@version_option
def cli() -> None:
    """Batch-norm training on ONNX Runtime: right and fast.

    Exit status: 0 success, 1 a check that failed, 2 bad input, 130 interrupted.
    """


cli.add_command(inspect)
cli.add_command(rewrite)
cli.add_command(check)
cli.add_command(finalize)
cli.add_command(artifacts)
cli.add_command(bench)
cli.add_command(update_bn)


def main() -> None:
    """Entry point of the `onnx-cbp` command."""
    # As an exception, so that a half-written file is removed on the way out.
    signal.signal(signal.SIGTERM, _terminated)
    cli(prog_name="onnx-cbp")


def _terminated(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    sys.exit(128 + signum)
