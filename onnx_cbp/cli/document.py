"""`--json`: the results of a command as a JSON document, printed or in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])
#: Stands for standard output in place of a file.
STDOUT = "-"


class JsonIsOptional(click.Command):
    """`--json` before MODEL, which click would take for the file."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give an option without a file standard output."""
        return super().parse_args(ctx, [f"--json={STDOUT}" if word == "--json" else word for word in args])


def json_option(command: _Command) -> _Command:
    """Add `--json[=FILE]` to a command of `JsonIsOptional`."""
    return click.option(
        "--json",
        "json_file",
        type=click.Path(readable=False),
        metavar="[=FILE]",
        help="Print a JSON document instead of a table, or write it to FILE beside the table; names are whole in it.",
    )(command)


def write_document(file: str, document: Mapping[str, Any]) -> None:
    """Print the document, or write it to a file, whole or not at all."""
    text = json.dumps(document, indent=2)
    if file == STDOUT:
        click.echo(text)
        return
    from onnx_cbp.model_files.files import Replacement

    replacement = Replacement(Path(file))
    with replacement.scratch() as scratch:
        done = scratch / replacement.file.name
        done.write_text(text + "\n", encoding="utf-8")
        replacement.put(done)
