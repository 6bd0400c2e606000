"""Names that a room exports are loaded when they are first asked for: to read a configuration takes no torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping


def on_demand(package: str, exports: Mapping[str, str]) -> Callable[[str], object]:
    """A package's `__getattr__` (PEP 562).

    Args:
        package: its `__name__`.
        exports: module of the package to the names that are found there, with spaces between them.
    """
    places = {name: module for module, names in exports.items() for name in names.split()}

    def find(name: str) -> object:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{package}.{places[name]}"), name)

    return find
