"""`--version`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])


def version_option(command: _Command) -> _Command:
    """Add `--version`; the number is looked up only when it is needed."""
    return click.option(
        "--version",
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_print_version,
        help="Print the version and exit.",
    )(command)


def _print_version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:  # noqa: ARG001
    if not asked or context.resilient_parsing:
        return
    from onnx_cbp import __version__

    click.echo(f"onnx-cbp {__version__}")
    context.exit()
