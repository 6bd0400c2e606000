"""Rows for supervised fine-tuning: a prompt and its completion, a dialogue, or a whole text."""

from __future__ import annotations

from typing import Any

from sparsepo_dist.contracts import Side
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows.checks import Response
from sparsepo_dist.data.rows.messages import check_text, parse_messages


def dialogue(place: str, name: str, value: Any) -> tuple[Side, list[Response]]:
    """Prompt and response of a list of messages: the last one, which must be the assistant's, and what is before it.

    Raises:
        RowError: no such message, or nothing before it.
    """
    messages = parse_messages(place, name, value)
    if not messages:
        raise RowError(place, f"{name} is empty")
    if messages[-1]["role"] != "assistant":
        raise RowError(
            place, f"{name} ends with a message of the role {messages[-1]['role']}; the assistant's answer must end it"
        )
    if len(messages) == 1:
        raise RowError(place, f"{name} holds the assistant's answer alone; give the messages that it answers")
    return messages[:-1], [(f"{name}[{len(messages) - 1}]", messages[-1:])]


def whole_text(place: str, name: str, value: Any) -> tuple[Side, list[Response]]:
    """A text that is trained on from its beginning: its prompt is empty. Raises RowError for what is no text."""
    if not isinstance(value, str):
        raise RowError(place, f"{name} must be text, found {type(value).__name__}")
    check_text(place, name, value)
    return "", [(name, value)]
