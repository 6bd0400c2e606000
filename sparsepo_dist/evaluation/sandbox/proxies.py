"""What tests see of a program: plain values as they are, everything else as a stand-in that asks the other process.

A stand-in equals no plain value, and does not calculate: an object that claims to be any number, or to be near it,
passes no test. Only two objects of the program are compared by its own word. Standard library only.
"""

from __future__ import annotations

import builtins
from typing import Any

from sparsepo_dist.evaluation.sandbox.wire import Channel, decode, encode

_NONE: dict[str, Any] = {}


class ProgramError(Exception):
    """The program raised something that is no exception of Python's own, or answered with no answer."""

    def __init__(self, name: str, said: str = "") -> None:
        super().__init__(said)
        self.name = name


class Remote:
    """A program in its process."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._stand_ins: dict[int, StandIn] = {}

    def loaded(self) -> None:
        """Wait until it has run to its end. Raises what it raised; LostError where its process is gone."""
        self._answer()

    def names(self, names: list[str]) -> dict[str, Any]:
        """Those of the names that it defines. Raises as `ask`."""
        self._channel.send({"do": "names", "names": names})
        found = decode(self._answer()["value"], self._stand_in)
        if not isinstance(found, dict):
            raise ProgramError("ValueError")
        return found

    def ask(self, do: str, *arguments: Any, named: dict[str, Any] = _NONE) -> Any:
        """Have something done with its objects; lists and other containers change here as they were changed there.

        Raises:
            Exception: what the program raised.
            TypeError: an argument is no data and not the program's own.
            LostError: its process is gone.
        """
        self._channel.send(
            {"do": do, "arguments": encode(list(arguments), _number), "named": encode(named, _number)}
        )  # fmt: skip
        answer = self._answer()
        for place, value in answer.get("changed", ()):
            _change(arguments[place], decode(value, self._stand_in))
        return decode(answer["value"], self._stand_in)

    def _answer(self) -> dict[str, Any]:
        answer = self._channel.receive()
        if not isinstance(answer, dict) or not answer.keys() & {"value", "raised"}:
            raise ProgramError("ValueError")
        if "raised" not in answer:
            return answer
        first, *others = map(str, answer["raised"])
        said = str(answer.get("said", ""))
        for name in (first, *others):
            kind = getattr(builtins, name, None)
            if isinstance(kind, type) and issubclass(kind, Exception) and kind is not Exception:
                try:
                    error = kind(said)
                except TypeError:  # it wants other arguments
                    break
                raise error
        raise ProgramError(first, said)

    def _stand_in(self, number: int) -> StandIn:
        return self._stand_ins.setdefault(number, StandIn(self, number))


def _number(value: Any) -> int:
    if isinstance(value, StandIn):
        return value._sandbox_number
    raise TypeError(f"the tests hand the program a {type(value).__name__}, which is neither data nor its own")


def _change(there: Any, now: Any) -> None:
    if isinstance(there, list | bytearray):
        there[:] = now
    elif isinstance(there, dict | set):
        there.clear()
        there.update(now)


class StandIn:
    """An object of the program's."""

    __slots__ = ("_sandbox_number", "_sandbox_remote")
    _sandbox_number: int
    _sandbox_remote: Remote

    def __init__(self, remote: Remote, number: int) -> None:
        object.__setattr__(self, "_sandbox_remote", remote)
        object.__setattr__(self, "_sandbox_number", number)

    def _sandbox_ask(self, do: str, *arguments: Any, named: dict[str, Any] = _NONE) -> Any:
        return self._sandbox_remote.ask(do, self, *arguments, named=named)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._sandbox_ask("call", *arguments, named=named)

    def __getattr__(self, name: str) -> Any:  # not what every object has: __class__ would tell tests any type
        return self._sandbox_ask("getattr", name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._sandbox_ask("setattr", name, value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StandIn) and self._sandbox_ask("eq", other) is True

    def __hash__(self) -> int:
        return _number(self)

    def __iter__(self) -> Any:
        iterator = self._sandbox_ask("iter")
        return iterator if isinstance(iterator, StandIn) else iter(iterator)

    def __next__(self) -> Any:
        return self._sandbox_ask("next")

    def __getitem__(self, key: Any) -> Any:
        return self._sandbox_ask("getitem", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._sandbox_ask("setitem", key, value)

    def __delitem__(self, key: Any) -> None:
        self._sandbox_ask("delitem", key)

    def __len__(self) -> int:
        return int(self._sandbox_ask("len"))

    def __bool__(self) -> bool:
        return self._sandbox_ask("bool") is True

    def __str__(self) -> str:
        return str(self._sandbox_ask("str"))

    def __repr__(self) -> str:
        return str(self._sandbox_ask("repr"))

    def __instancecheck__(self, instance: Any) -> bool:
        return type(instance) is StandIn and instance._sandbox_ask("isinstance", self) is True
