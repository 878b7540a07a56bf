"""Imports the modules of a package when they are first used."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any


def on_first_use(
    package: str, namespace: dict[str, Any], *, modules: Collection[str] = (), names: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make a package's `__getattr__` and `__dir__`.

    Args:
        package: the package's name.
        namespace: its globals; with `__all__`, which says what else `dir` shows.
        modules: its modules, which become attributes of the package, as after an import of each.
        names: names by the module that defines each.
    """
    homes = names or {}

    def __getattr__(name: str) -> Any:  # noqa: N807 - it becomes the package's
        if name in homes:
            found = namespace[name] = getattr(import_module(homes[name]), name)
            return found
        if name in modules:
            module: ModuleType = import_module(f"{package}.{name}")
            return module
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    def __dir__() -> list[str]:  # noqa: N807
        special = {name for name in namespace if name.startswith("__") and name.endswith("__")}
        return sorted({*namespace["__all__"], *modules, *special})

    return __getattr__, __dir__
