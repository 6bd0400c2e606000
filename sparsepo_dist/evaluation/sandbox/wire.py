"""Values between a program's process and its tests': plain data goes by value, all else stays and is named by a number.

Nothing but data is read here, so that what a program sends can be wrong, but cannot run. Standard library only.
"""

from __future__ import annotations

import importlib
import json
import os
import types
from collections.abc import Callable
from typing import Any

LONGEST_MESSAGE = 64 << 20
_SIZE_BYTES = 8
_KIND, _VALUE = "kind", "value"
# Immutable types of the library that tell what they are made of: `__reduce__` names the arguments.
_MADE = {
    ("datetime", "date"), ("datetime", "datetime"), ("datetime", "time"), ("datetime", "timedelta"),
    ("decimal", "Decimal"), ("fractions", "Fraction"),
}  # fmt: skip
_SCALARS: tuple[type, ...] = (int, float, str)
_SEQUENCES: dict[str, type[tuple[Any, ...]] | type[set[Any]] | type[frozenset[Any]]] = {
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
}

Keep = Callable[[Any], int]
"""Keeps an object of this side; its number. Raises TypeError where it must not be handed over."""
Find = Callable[[int], Any]
"""What a number of the other side's stands for here."""


class LostError(Exception):
    """The other side closed its end."""


def encode(value: Any, keep: Keep) -> Any:
    """A value as JSON has it. Subclasses of Python's own types go as these; numpy's scalars as numbers.

    Raises:
        TypeError: `keep` refuses what is no data.
    """
    if value is None or isinstance(value, bool):
        return value
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return scalar(value)
    if isinstance(value, list):
        return [encode(each, keep) for each in value]
    if isinstance(value, dict):
        return _named("dict", [[encode(key, keep), encode(each, keep)] for key, each in value.items()])
    for kind, several in _SEQUENCES.items():
        if isinstance(value, several):
            return _named(kind, [encode(each, keep) for each in value])
    if isinstance(value, bytes | bytearray):
        return _named(type(value).__name__, value.decode("latin-1"))
    if isinstance(value, complex):
        return _named("complex", [value.real, value.imag])
    if isinstance(value, range | slice):
        return _named(type(value).__name__, [value.start, value.stop, value.step])
    if isinstance(value, types.ModuleType):
        return _named("module", value.__name__)
    made = type(value).__module__, type(value).__name__
    if made in _MADE:
        return _named("made", [*made, encode(list(value.__reduce__()[1]), keep)])
    if made[0] == "numpy" and getattr(value, "shape", None) == () and hasattr(value, "item"):
        return encode(value.item(), keep)
    return _named("kept", keep(value))


def _named(kind: str, value: Any) -> dict[str, Any]:
    return {_KIND: kind, _VALUE: value}


def decode(data: Any, find: Find) -> Any:
    """What `encode` had. Raises ValueError, TypeError, KeyError, ImportError or RecursionError for anything else."""
    if isinstance(data, list):
        return [decode(each, find) for each in data]
    if not isinstance(data, dict):
        return data
    kind, value = data[_KIND], data[_VALUE]
    if kind == "kept":
        return find(int(value))
    if kind == "dict":
        return {decode(key, find): decode(each, find) for key, each in value}
    if kind in _SEQUENCES:
        return _SEQUENCES[kind](decode(each, find) for each in value)
    if kind in ("bytes", "bytearray"):
        return (bytes if kind == "bytes" else bytearray)(value, "latin-1")
    if kind in ("range", "slice"):
        return (range if kind == "range" else slice)(*value)
    if kind == "complex":
        return complex(*value)
    if kind == "module":
        return importlib.import_module(value)
    if kind == "made" and tuple(value[:2]) in _MADE:
        return getattr(importlib.import_module(value[0]), value[1])(*decode(value[2], find))
    raise ValueError(f"no value of the kind {kind!r}")


class Channel:
    """Messages over a socket's number. Its functions are bound once: a program may replace them in their modules."""

    def __init__(self, number: int) -> None:
        self._number, self._read, self._write = number, os.read, os.write
        self._dumps, self._loads = json.JSONEncoder().encode, json.JSONDecoder().decode

    def send(self, message: Any) -> None:
        """Raises LostError, and ValueError where the message is too long."""
        body = self._dumps(message).encode()
        if len(body) > LONGEST_MESSAGE:
            raise ValueError(f"a message of more than {LONGEST_MESSAGE} bytes")
        data = memoryview(len(body).to_bytes(_SIZE_BYTES, "big") + body)
        try:
            while data:
                data = data[self._write(self._number, data) :]
        except OSError as error:
            raise LostError from error

    def receive(self) -> Any:
        """The next message. Raises LostError, and ValueError for what is none."""
        size = int.from_bytes(self._exactly(_SIZE_BYTES), "big")
        if size > LONGEST_MESSAGE:
            raise ValueError(f"a message of more than {LONGEST_MESSAGE} bytes")
        return self._loads(self._exactly(size).decode())

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            try:
                part = self._read(self._number, min(count - len(parts), 1 << 20))
            except OSError as error:
                raise LostError from error
            if not part:
                raise LostError
            parts += part
        return bytes(parts)
