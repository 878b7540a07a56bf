"""The command group: errors become one line on stderr and an exit status."""

from __future__ import annotations

import contextlib
import errno
import io
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from onnx_cbp.cli.text import one_line
from onnx_cbp.errors import OnnxCbpError

BAD_INPUT = 2
INTERRUPTED = 130


class OneLineErrors(click.Group):
    """A group whose commands may raise errors: users never see a traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command and exit with its status."""
        if not standalone_mode:
            return super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
        # The library logs what the commands print; without a handler Python would print it too.
        logging.getLogger("onnx_cbp").addHandler(logging.NullHandler())
        if isinstance(sys.stdout, io.TextIOWrapper):
            # The terminal's encoding may not be able to show the name of a node.
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            status = super().main(args, prog_name, complete_var, standalone_mode=False, **extra)
            sys.stdout.flush()
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            _fail("interrupted", INTERRUPTED)
        except OnnxCbpError as error:
            _fail(str(error))
        except OSError as error:
            _discard_output()
            if error.errno == errno.EPIPE:  # `onnx-cbp ... | head`: the reader needs no more
                sys.exit(1)
            where = f"'{error.filename}': " if error.filename else ""
            _fail(f"{where}{error.strerror or error}")
        except MemoryError:
            _fail("out of memory")
        except Exception as error:
            if os.environ.get("ONNX_CBP_TRACEBACK"):
                raise
            _fail(f"unexpected {type(error).__name__}: {error} (set ONNX_CBP_TRACEBACK=1 to see where, and report it)")
        sys.exit(status if isinstance(status, int) else 0)


def _fail(message: str, status: int = BAD_INPUT) -> NoReturn:
    click.echo(f"onnx-cbp: {one_line(message)}", err=True)
    sys.exit(status)


def _discard_output() -> None:
    """Discard what stdout could not accept: Python would flush it at exit, and fail again with a message."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
