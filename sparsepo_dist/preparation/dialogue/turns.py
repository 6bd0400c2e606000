"""Pairs of dialogues that are text, and the same as messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from sparsepo_dist.contracts import PreferenceRow
from sparsepo_dist.data.reading.sources import Row, RowError
from sparsepo_dist.data.rows.form import Form
from sparsepo_dist.data.rows.hh import is_dialogue, is_whole
from sparsepo_dist.data.rows.pairs import parse_row
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.data.rows.shapes import NAMED

_FORM = Form(NAMED["hh"], {"chosen": "chosen", "rejected": "rejected"})
_MARKER = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
Told = str | list[dict[str, str]]


class Pair(NamedTuple):
    """A prompt and its two responses, all text or all messages."""

    prompt: Told
    chosen: Told
    rejected: Told
    goes_on: bool
    """Whether a response holds further turns of both."""

    def preference(self) -> dict[str, Any]:
        """A row of preferences."""
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected}

    def supervised(self) -> dict[str, Any]:
        """A row for SFT."""
        return {"prompt": self.prompt, "completion": self.chosen}


def read_pair(row: Row, remarks: Remarks, *, as_messages: bool) -> Pair:
    """The pair of a row of HH: its prompt is what both dialogues begin with alike, up to an `Assistant:`.

    Raises:
        RowError: they share no prompt, are equal, or a response is empty or begins with an empty turn; as messages
            also other turns that are empty, do not alternate or do not end with the assistant's.
    """
    found = parse_row(row, _FORM, remarks)
    assert isinstance(found.prompt, str)
    chosen, rejected = _only(found)
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if is_whole(side):
            raise RowError(row.place, f"{name} begins with an empty turn")
    goes_on = is_dialogue(chosen) or is_dialogue(rejected)
    if not as_messages:
        return Pair(found.prompt, chosen, rejected, goes_on)
    told = [
        _messages(row.place, name, found.prompt + side)
        for name, side in zip(_FORM.columns, (chosen, rejected), strict=True)
    ]
    asked = len(_MARKER.findall(found.prompt)) - 1  # the last is the marker that is answered behind
    return Pair(told[0][:asked], told[0][asked:], told[1][asked:], goes_on)


def _only(row: PreferenceRow) -> tuple[str, str]:
    (chosen,), (rejected,) = row.chosen, row.rejected
    assert isinstance(chosen, str) and isinstance(rejected, str)
    return chosen, rejected


def _messages(place: str, name: str, text: str) -> list[dict[str, str]]:
    before, *rest = _MARKER.split(text)
    messages = [
        {"role": _ROLES[marker], "content": content.strip()}
        for marker, content in zip(rest[::2], rest[1::2], strict=True)
    ]
    if before.strip():
        raise RowError(place, f"{name} begins with no turn")
    if not all(message["content"] for message in messages):
        raise RowError(place, f"{name} has an empty turn")
    if not _alternate([message["role"] for message in messages]):
        raise RowError(place, f"{name} does not go to and fro between human and assistant, the assistant last")
    return messages


def _alternate(roles: Sequence[str]) -> bool:
    wanted = ["user", "assistant"] * (len(roles) // 2)
    return list(roles) == wanted
