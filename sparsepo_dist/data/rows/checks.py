"""Values of a row: prompts, responses and scores, each checked and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sparsepo_dist.contracts import Side
from sparsepo_dist.data.reading.row import NumberText
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows.messages import NOT_THE_MODELS, check_text, parse_messages, text_of
from sparsepo_dist.data.rows.shapes import MISSING
from sparsepo_dist.errors import shortened

HIGHEST_SCORE = 1e38
"""Differences of two such scores are finite in float32, which objectives count in."""
MOST_RESPONSES = 1024
"""Of one kind in a row."""
Response = tuple[str, Side]
"""A response and what the row calls it."""


def parse_side(place: str, name: str, value: Any) -> Side:
    """Text or messages. Raises RowError for anything else."""
    if isinstance(value, str):
        check_text(place, name, value)
        return value
    return parse_messages(place, name, value)


def parse_responses(place: str, name: str, value: Any) -> list[Response]:
    """The responses of a field: one, or a list of texts or of lists of messages. A list of messages is one response.

    Raises:
        RowError: anything else, no response, or more than MOST_RESPONSES.
    """
    if not _is_list(value) or not any(isinstance(item, str) or _is_list(item) for item in value):
        return [(name, parse_side(place, name, value))]
    if len(value) > MOST_RESPONSES:
        raise RowError(place, f"{name} has {len(value)} responses; at most {MOST_RESPONSES} are read")
    for index, item in enumerate(value):
        if isinstance(item, Mapping):
            raise RowError(
                place,
                f"{name}[{index}] is an object beside texts or lists; several responses are a list of texts, or a list "
                "of lists of messages",
            )
    return [(f"{name}[{index}]", parse_side(place, f"{name}[{index}]", item)) for index, item in enumerate(value)]


def check_response(place: str, response: Response, prompt: Side, prompt_name: str) -> None:
    """Raise RowError for a response that is empty, of another kind than the prompt, or whose messages are not the
    assistant's, with what it reads between its turns."""
    name, value = response
    if isinstance(value, str) != isinstance(prompt, str):
        raise RowError(place, f"{prompt_name} and {name} must both be text or both be lists of messages")
    if isinstance(value, str):
        empty = not value.strip()
    else:
        empty = not any(text_of(message).strip() or message.get("tool_calls") for message in value)
    if empty:
        raise RowError(place, f"{name} is empty")
    if not isinstance(value, str):
        _check_roles(place, name, [message["role"] for message in value])


def holds_system(value: Any) -> bool:
    """Whether a value of a column of system messages is one, or should be: texts of blanks are none."""
    return bool(value.strip()) if isinstance(value, str) else value not in (None, MISSING)


def check_different(place: str, chosen: Sequence[Response], rejected: Sequence[Response]) -> None:
    """Raise RowError where a response is both chosen and rejected."""
    for name, good in chosen:
        for other, bad in rejected:
            if good == bad:
                raise RowError(place, f"{name} and {other} are equal")


def parse_scores(place: str, name: str, value: Any, responses: int) -> tuple[float, ...]:
    """Rewards of a field's responses: a number, or a list of one for each; none where it is null.

    Raises:
        RowError: what is no finite number, or another count of them.
    """
    if value is None:
        return ()
    if not _is_list(value):
        value = [value]
    elif any(item is None for item in value):
        raise RowError(place, f"{name} holds null; give a number for each response, or leave the field out")
    value = [float(score) if isinstance(score, NumberText | Decimal) else score for score in value]
    for score in value:
        if isinstance(score, bool) or not isinstance(score, int | float) or not abs(score) <= HIGHEST_SCORE:
            found = f"{shortened(repr(score))}{_unquoted(score)}"
            raise RowError(place, f"{name} must be a finite number up to {HIGHEST_SCORE}, found {found}")
    if len(value) != responses:
        raise RowError(place, f"{name} has {len(value)} numbers for {responses} responses; give one for each")
    return tuple(map(float, value))


def _check_roles(place: str, name: str, roles: Sequence[str]) -> None:
    for role in roles:
        if role != "assistant" and role not in NOT_THE_MODELS:
            raise RowError(
                place,
                f"{name} has a message of the role {shortened(repr(role))}; the model's own are of the role "
                f"'assistant', others of {', '.join(sorted(NOT_THE_MODELS))}",
            )
    for role, does in ((roles[0], "begins"), (roles[-1], "ends")):
        if role != "assistant":
            raise RowError(
                place,
                f"{name} {does} with a message of the role {role}; a response begins after the prompt, with the "
                "assistant's, and ends with it",
            )


def _unquoted(score: Any) -> str:
    if not isinstance(score, str):
        return ""
    try:
        float(score)
    except ValueError:
        return ""
    return ", which is text: write it without quotes"


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
