"""Rows become checked preference pairs: every row is looked at, and a bad one is named with its reason."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sparsepo_dist.contracts import Message, PreferenceRow, Side
from sparsepo_dist.data.reading.sources import Row, RowError, read_rows
from sparsepo_dist.data.rows.messages import MEDIA, check_text, parse_messages, parse_tools, refuse_media, text_of
from sparsepo_dist.errors import UserError, did_you_mean, shortened

HIGHEST_SCORE = 1e38
"""Differences of two such scores are finite in float32, which objectives count in."""
HH_RESPONSE_MARKER = "\n\nAssistant:"
HH_MARKERS = ("\n\nHuman:", HH_RESPONSE_MARKER)
COLUMNS = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score", *MEDIA)
"""Read, or refused where they are not empty; `tools` besides, where rows are messages."""
_MOST_COLUMNS = 100
_MOST_REASONS = 3
Placed = tuple[str, PreferenceRow]


@dataclass
class Remarks:
    """What a user must know of the rows of a source besides the pairs that they become."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Bad rows by reason; rows whose reasons differ in numbers alone count as one."""
    first: dict[str, RowError] = field(default_factory=dict)
    """The first row of each reason."""
    repeating: int = 0
    """Rows whose responses both began with the prompt."""
    unused: dict[str, None] = field(default_factory=dict)
    """Columns that hold something and are not read, in the order in which they were met."""

    def lines(self) -> list[str]:
        """One line for each thing that happened."""
        lines = [self._dropped()] if self.dropped else []
        if self.repeating:
            lines.append(
                f"the responses of {self.repeating} rows repeat the prompt at their beginning, which was taken off"
            )
        if self.unused:
            lines.append(f"columns that are not used: {shortened(', '.join(self.unused), 400)}")
        return lines

    def drop(self, bad: RowError) -> None:
        """Count a row that is left out."""
        reason = re.sub(r"\d+", "N", bad.reason)
        self.dropped[reason] += 1
        self.first.setdefault(reason, bad)

    def _dropped(self) -> str:
        named = [f"{count} like {self.first[reason]}" for reason, count in self.dropped.most_common(_MOST_REASONS)]
        others = len(self.dropped) - len(named)
        more = f"; and for {others} more reasons" if others else ""
        return f"{self.dropped.total()} bad rows were dropped: {'; '.join(named)}{more}"


def load_pairs(source: str, on_bad_row: Literal["stop", "skip"], remarks: Remarks | None = None) -> Iterator[Placed]:
    """(place, pair) of every good row of a source; `remarks` is filled on the way.

    Raises:
        UserError: a bad row and `on_bad_row` is "stop", or a source that cannot be read.
    """
    remarks = Remarks() if remarks is None else remarks
    for row in read_rows(source):
        try:
            if isinstance(row, RowError):
                raise row
            yield row.place, parse_pair(row, remarks)
        except RowError as bad:
            refuse_or_skip(bad, on_bad_row, remarks)


def refuse_or_skip(bad: RowError, on_bad_row: Literal["stop", "skip"], remarks: Remarks) -> None:
    """Stop with the row's place and reason, or count it.

    Raises:
        UserError: `on_bad_row` is "stop".
    """
    if on_bad_row == "stop":
        raise UserError(f"{bad}. Mend the row, or drop such rows with --data.on_bad_row skip") from None
    remarks.drop(bad)


def parse_pair(row: Row, remarks: Remarks) -> PreferenceRow:
    """A checked row; a prompt that both responses repeat is taken off them.

    Without a prompt field, dialogues that start alike (Anthropic HH) are split. With one, both responses may be whole
    dialogues that begin with all messages of the prompt, or with the prompt's text in HH's form; a prompt that is text
    stands for the user message that dialogues of messages begin with (UltraFeedback), after a system message or not.

    Raises:
        RowError: what is wrong with which field.
    """
    fields, place = row.fields, row.place
    if not isinstance(fields, Mapping):
        raise RowError(place, f"expected an object with prompt, chosen and rejected, found {type(fields).__name__}")
    for name in ("chosen", "rejected"):
        if name not in fields:
            raise RowError(place, f"field {name!r} is missing; the row has {_names(fields, name)}")
    for name in ("prompt", "chosen", "rejected"):
        if name in fields and fields[name] is None:
            raise RowError(place, f"{name} is null{_NULL_PROMPT if name == 'prompt' else ''}")
    refuse_media(place, fields)
    chosen = _text_or_messages(place, "chosen", fields["chosen"])
    rejected = _text_or_messages(place, "rejected", fields["rejected"])
    repeats = False
    if "prompt" not in fields:
        prompt, chosen, rejected = _split_dialogue(place, chosen, rejected, did_you_mean("prompt", map(str, fields)))
    else:
        prompt = _text_or_messages(place, "prompt", fields["prompt"])
        if isinstance(prompt, str):
            prompt = _first_turns(prompt, chosen) or prompt
        repeats = _repeats(place, prompt, chosen, rejected)
        if repeats:
            chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        _check_response(place, name, value, prompt)
    if chosen == rejected:
        raise RowError(place, "chosen and rejected are equal")
    scores = _scores(place, fields, "chosen_score"), _scores(place, fields, "rejected_score")
    tools = () if isinstance(prompt, str) else parse_tools(place, fields.get("tools"))
    known = COLUMNS if isinstance(prompt, str) else (*COLUMNS, "tools")
    for column, value in fields.items():
        if column not in known and value is not None and len(remarks.unused) < _MOST_COLUMNS:
            remarks.unused[str(column)] = None
    remarks.repeating += repeats
    return PreferenceRow(prompt, (chosen,), (rejected,), *scores, tools)


_NULL_PROMPT = "; give one, or leave the field out where chosen and rejected are whole dialogues that begin alike"


def _text_or_messages(place: str, name: str, value: Any) -> Side:
    if isinstance(value, str):
        check_text(place, name, value)
        return value
    return parse_messages(place, name, value)


def _first_turns(prompt: str, dialogue: Side) -> tuple[Message, ...] | None:
    """The messages up to the first one of the user, where a dialogue's says what the prompt says."""
    for index, message in enumerate(() if isinstance(dialogue, str) else dialogue):
        if message["role"] == "user":
            return tuple(dialogue[: index + 1]) if text_of(message).strip() == prompt.strip() else None  # type: ignore[arg-type]
    return None


def _repeats(place: str, prompt: Side, chosen: Side, rejected: Side) -> bool:
    """Whether both responses begin with the prompt; text must be a dialogue, as other text may repeat it by right."""
    if isinstance(prompt, str):
        dialogue = any(marker in prompt for marker in HH_MARKERS)
        found = [dialogue and isinstance(side, str) and side.startswith(prompt) for side in (chosen, rejected)]
    else:
        told = list(map(_told, prompt))
        found = [
            bool(told) and not isinstance(side, str) and list(map(_told, side[: len(told)])) == told
            for side in (chosen, rejected)
        ]
    if any(found) and not all(found):
        names = ("chosen", "rejected") if found[0] else ("rejected", "chosen")
        raise RowError(place, f"{names[0]} begins with the whole prompt and {names[1]} does not; make both alike")
    return all(found)


def _told(message: Message) -> dict[str, Any]:
    return {**message, "content": text_of(message)}


def _check_response(place: str, name: str, value: Side, prompt: Side) -> None:
    if isinstance(value, str) != isinstance(prompt, str):
        raise RowError(place, f"prompt and {name} must both be text or both be lists of messages")
    if isinstance(value, str):
        empty = not value.strip()
    else:
        empty = not any(text_of(message).strip() or message.get("tool_calls") for message in value)
    if empty:
        raise RowError(place, f"{name} is empty")
    if not isinstance(value, str) and value[0]["role"] in ("user", "system", "developer"):
        raise RowError(
            place,
            f"{name} begins with a message of the role {value[0]['role']}; a response begins after the prompt, "
            "with the assistant's",
        )


def _names(fields: Mapping[str, Any], wanted: str) -> str:
    names = list(map(str, fields))
    return shortened(", ".join(names)) + did_you_mean(wanted, names) if names else "no fields"


def _split_dialogue(place: str, chosen: Side, rejected: Side, hint: str) -> tuple[Side, Side, Side]:
    """Prompt and both responses of dialogues that start alike: text by the last common HH marker, else messages."""
    shared = 0
    for left, right in zip(chosen, rejected, strict=False):
        if left != right:
            break
        shared += 1
    if isinstance(chosen, str):
        found = chosen.rfind(HH_RESPONSE_MARKER, 0, shared)
        if found < 0:
            raise RowError(
                place,
                f"there is no prompt field, and chosen and rejected share no {HH_RESPONSE_MARKER!r} "
                f"that a prompt could end with; add a prompt field{hint}",
            )
        shared = found + len(HH_RESPONSE_MARKER)
    elif shared == 0:
        raise RowError(place, f"there is no prompt field, and chosen and rejected share no first message{hint}")
    elif shared in (len(chosen), len(rejected)):
        raise RowError(place, "there is no prompt field, and one dialogue is the beginning of the other")
    return chosen[:shared], chosen[shared:], rejected[shared:]


def _scores(place: str, fields: Mapping[str, Any], name: str) -> tuple[float, ...]:
    value = fields.get(name)
    if value is None:
        return ()
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= HIGHEST_SCORE:
        raise RowError(place, f"{name} must be a finite number up to {HIGHEST_SCORE}, found {shortened(repr(value))}")
    return (float(value),)
