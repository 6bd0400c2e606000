"""Rows become checked preference pairs: every row is looked at, and a bad one is named with its reason."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from sparsepo_dist.contracts import Message, PreferencePair
from sparsepo_dist.data.sources import Row, RowError, read_rows
from sparsepo_dist.errors import UserError, did_you_mean, shortened

log = logging.getLogger(__name__)

MOST_CHARACTERS = 2**22
"""Of a text: no context window holds as many, and tokenizers would take minutes."""
HIGHEST_SCORE = 1e38
"""Differences of two such scores are finite in float32, which objectives count in."""
HH_RESPONSE_MARKER = "\n\nAssistant:"
Placed = tuple[str, PreferencePair]
Side = str | tuple[Message, ...]


def load_pairs(source: str, on_bad_row: Literal["stop", "skip"]) -> Iterator[Placed]:
    """(place, pair) of every good row of a source.

    Raises:
        UserError: a bad row and `on_bad_row` is "stop", or a source that cannot be read.
    """
    for row in read_rows(source):
        try:
            if isinstance(row, RowError):
                raise row
            yield row.place, parse_pair(row)
        except RowError as bad:
            refuse_or_skip(bad, on_bad_row)


def refuse_or_skip(bad: RowError, on_bad_row: Literal["stop", "skip"]) -> None:
    """Stop with the row's place and reason, or log it.

    Raises:
        UserError: `on_bad_row` is "stop".
    """
    if on_bad_row == "stop":
        raise UserError(f"{bad}. Mend the row, or drop such rows with --data.on_bad_row skip") from None
    log.debug("dropped %s", bad)


def parse_pair(row: Row) -> PreferencePair:
    """A checked pair; dialogues that repeat the prompt inside both responses (Anthropic HH) are split.

    Raises:
        RowError: what is wrong with which field.
    """
    fields, place = row.fields, row.place
    if not isinstance(fields, Mapping):
        raise RowError(place, f"expected an object with prompt, chosen and rejected, found {type(fields).__name__}")
    for name in ("chosen", "rejected"):
        if fields.get(name) is None:
            raise RowError(place, f"field {name!r} is missing; the row has {_names(fields, name)}")
    chosen = _text_or_messages(place, "chosen", fields["chosen"])
    rejected = _text_or_messages(place, "rejected", fields["rejected"])
    if fields.get("prompt") is None:
        prompt, chosen, rejected = _split_dialogue(place, chosen, rejected, did_you_mean("prompt", map(str, fields)))
    else:
        prompt = _text_or_messages(place, "prompt", fields["prompt"])
    for name, value in (("chosen", chosen), ("rejected", rejected)):
        if isinstance(value, str) != isinstance(prompt, str):
            raise RowError(place, f"prompt and {name} must both be text or both be lists of messages")
        if _is_empty(value):
            raise RowError(place, f"{name} is empty")
    if chosen == rejected:
        raise RowError(place, "chosen and rejected are equal")
    return PreferencePair(
        prompt, chosen, rejected, _score(place, fields, "chosen_score"), _score(place, fields, "rejected_score")
    )


def _text_or_messages(place: str, name: str, value: Any) -> str | tuple[Message, ...]:
    if isinstance(value, str):
        _check_text(place, name, value)
        return value
    if not isinstance(value, Sequence) or isinstance(value, bytes):
        raise RowError(place, f"{name} must be text or a list of messages, found {type(value).__name__}")
    for index, message in enumerate(value):
        if not isinstance(message, Mapping) or not all(isinstance(message.get(k), str) for k in ("role", "content")):
            raise RowError(place, f"{name}[{index}] must be a message with text in role and content")
        for key in ("role", "content"):
            _check_text(place, f"{name}[{index}].{key}", message[key])
    return tuple({"role": message["role"], "content": message["content"]} for message in value)


def _check_text(place: str, name: str, value: str) -> None:
    if len(value) > MOST_CHARACTERS:
        raise RowError(place, f"{name} has {len(value)} characters; at most {MOST_CHARACTERS} are read")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            place, f"{name} holds half a character (\\u{ord(value[error.start]):04x}), which is no text; remove it"
        ) from None


def _names(fields: Mapping[str, Any], wanted: str) -> str:
    names = list(map(str, fields))
    return shortened(", ".join(names)) + did_you_mean(wanted, names) if names else "no fields"


def _is_empty(value: str | tuple[Message, ...]) -> bool:
    return not (value.strip() if isinstance(value, str) else any(message["content"].strip() for message in value))


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


def _score(place: str, fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= HIGHEST_SCORE:
        raise RowError(place, f"{name} must be a finite number up to {HIGHEST_SCORE}, found {shortened(repr(value))}")
    return float(value)
