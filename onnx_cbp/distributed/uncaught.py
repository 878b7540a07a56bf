"""Tells the other replicas when this one ends with an error, so that they do not wait for it."""

from __future__ import annotations

import functools
import sys
import threading
from types import TracebackType
from typing import NoReturn

from onnx_cbp.distributed import membership


@functools.cache
def listen() -> None:
    """Notice exceptions that leave the program or one of its threads; their printed messages do not change.

    `sys.exit` with a status is noticed too. A SystemExit that is raised directly is not: Python calls no hook for it.
    """
    of_program, of_thread = sys.excepthook, threading.excepthook

    def program(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            of_program(kind, error, trace)
        finally:
            if not _goes_on_after_errors():
                _abort(error, threading.current_thread(), ends=True)

    def thread(arguments: threading.ExceptHookArgs) -> None:
        try:
            of_thread(arguments)
        finally:
            if arguments.exc_value is not None and not issubclass(arguments.exc_type, SystemExit):
                _abort(arguments.exc_value, arguments.thread, ends=False)

    sys.excepthook, threading.excepthook, sys.exit = program, thread, _exit


class _Exit(SystemExit):
    """A SystemExit that knows whether it ends the program: when it is destroyed, nobody can catch it any more."""

    def __del__(self) -> None:
        ends = sys._getframe().f_back is None and threading.current_thread() is threading.main_thread()
        if ends and not _goes_on_after_errors() and self.code is not None and self.code != 0:
            _abort(SystemExit(self.code), threading.main_thread(), ends=True)


def _exit(status: object = None, /) -> NoReturn:
    """Exit the program, like Python's `sys.exit`; replicas are told about a status other than 0."""
    raise _Exit(status)


def _goes_on_after_errors() -> bool:
    """Whether this is an interactive interpreter."""
    return hasattr(sys, "ps1") or bool(sys.flags.interactive)


def _abort(error: BaseException, thread: threading.Thread | None, *, ends: bool) -> None:
    replica = membership.of(thread)
    if replica is not None:
        replica.world.abort(f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": "), ends=ends)
