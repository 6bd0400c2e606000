"""The process of a program: loads it, and does with its functions what the tests' process asks for.

Whatever the program does to this process, all that leaves it are answers: the tests, their expectations and the
channel of the verdict are not here. Standard library only.
"""

from __future__ import annotations

import builtins
import operator
import os
import sys
import types
from collections.abc import Callable
from typing import Any

from sparsepo_dist.evaluation.sandbox.wire import Channel, LostError, decode, encode

_MUTABLE = (list, dict, set, bytearray)
_ASKED: dict[str, Callable[..., Any]] = {
    "call": lambda function, *arguments, **named: function(*arguments, **named),
    "eq": operator.eq, "getitem": operator.getitem, "setitem": operator.setitem, "delitem": operator.delitem,
    "getattr": getattr, "setattr": setattr, "isinstance": isinstance, "iter": iter, "next": next, "len": len,
    "bool": bool, "str": str, "repr": repr,
}  # fmt: skip


class Host:
    """A program, and those of its objects that its tests know by number."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._module = types.ModuleType("solution")
        self._kept: list[Any] = []
        self._numbers: dict[int, int] = {}

    def serve(self, program: str) -> None:
        """Load it, then answer until nobody asks any more."""
        answer = self._answer(lambda: self._load(program))
        while True:
            try:
                self._channel.send(answer)
                asked = self._channel.receive()
            except LostError:
                return
            answer = self._answer(lambda asked=asked: self._do(asked))  # type: ignore[misc]

    def _load(self, program: str) -> dict[str, Any]:
        sys.modules["solution"] = self._module
        exec(compile(program, "<program>", "exec", dont_inherit=True), self._module.__dict__)
        return {"value": None}

    def _do(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked["do"] == "names":
            there = {name: vars(self._module)[name] for name in asked["names"] if name in vars(self._module)}
            return {"value": encode(there, self._keep)}
        arguments = decode(asked["arguments"], self._kept.__getitem__)
        given = {place: each for place, each in enumerate(arguments) if isinstance(each, _MUTABLE)}
        before = {place: encode(each, self._keep) for place, each in given.items()}
        value = _ASKED[asked["do"]](*arguments, **decode(asked["named"], self._kept.__getitem__))
        after = {place: encode(each, self._keep) for place, each in given.items()}
        changed = [[place, each] for place, each in after.items() if each != before[place]]
        return {"value": encode(value, self._keep), "changed": changed}

    def _keep(self, value: Any) -> int:
        # The same object has the same number: tests may ask whether it is the same, and `before` and `after` compare.
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._kept)
            self._kept.append(value)
        return self._numbers[id(value)]

    def _answer(self, action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return action()
        except BaseException as error:
            return {"raised": [kind.__name__ for kind in type(error).__mro__], "said": _said(error)}


def _said(error: BaseException) -> str:
    try:
        return builtins.str(error)[:1000]
    except Exception:
        return ""


def run_program(channel: Channel, program: str) -> None:
    """The process's whole life, once it is confined; ends it."""
    leave = os._exit
    Host(channel).serve(program)
    leave(0)
