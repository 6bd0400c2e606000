"""Marks in place of texts, which a template cannot tell from texts: where one comes out, the text would."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from sparsepo_dist.contracts import Message
from sparsepo_dist.data.rows.messages import text_of

Notation = Callable[[Message], Message]
"""One of the ways to write down the same message."""
MARK = "Mark0Here"


def as_it_is(message: Message) -> Message:
    """Content in the row's own form."""
    return message


def as_text(message: Message) -> Message:
    """Content as one text."""
    return {**message, "content": text_of(message)} if "content" in message else message


def as_part(message: Message) -> Message:
    """Content as a list of one text part."""
    return {**message, "content": [{"type": "text", "text": text_of(message)}]} if "content" in message else message


def with_objects(message: Message) -> Message:
    """Tool calls with their arguments as objects, which is what most templates expect."""

    def read(arguments: Any) -> Any:
        try:
            found = json.loads(arguments) if isinstance(arguments, str) else arguments
        except ValueError:
            return arguments
        return found if isinstance(found, dict) else arguments

    return _with_arguments(message, read)


def with_json(message: Message) -> Message:
    """Tool calls with their arguments as JSON text, which is what some templates expect, and OpenAI's rows have."""
    return _with_arguments(message, lambda arguments: arguments if isinstance(arguments, str) else _json(arguments))


def notations(*, calls: bool) -> Iterator[Notation]:
    """Ways to write the same, in the order in which they are tried; `calls`: tools are called."""
    for content in (as_it_is, as_text, as_part):
        for arguments in (with_objects, with_json) if calls else (as_it_is,):
            yield partial(_both, content, arguments)


def marked(message: Message, index: int) -> Message:
    """The message with a mark in place of each text that is not blank: a letter, so that nothing trims it."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": f"M{index}.0M" if content.strip() else ""}
    if content is None:
        return message
    parts = [{**part, "text": f"M{index}.{i}M" if part["text"].strip() else ""} for i, part in enumerate(content)]
    return {**message, "content": parts}


def is_told(message: Message, text: str) -> bool:
    """Whether all marks of a message came out, and none of them as a printed list of parts."""
    content = message.get("content", "")
    if not isinstance(content, str):
        printed = ("'text': '", '"text": "', '"text":"')
        return all(
            part["text"] in text and not any(before + part["text"] in text for before in printed)
            for part in content
            if part["text"]
        )
    return content in text


def _both(first: Notation, second: Notation, message: Message) -> Message:
    return second(first(message))


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _with_arguments(message: Message, form: Callable[[Any], Any]) -> Message:
    def formed(call: Mapping[str, Any]) -> Mapping[str, Any]:
        function = call.get("function")
        if isinstance(function, Mapping):
            return {**call, "function": formed(function)}
        return {**call, "arguments": form(call["arguments"])} if "arguments" in call else call

    calls = message.get("tool_calls")
    return {**message, "tool_calls": list(map(formed, calls))} if calls else message


def with_content(messages: Sequence[Message], index: int, text: str) -> tuple[Message, ...]:
    """The messages with one text as all content of one of them, in the form that its content has."""
    message = messages[index]
    whole = isinstance(message.get("content", ""), str)
    content = text if whole else [{"type": "text", "text": text}]
    return (*messages[:index], {**message, "content": content}, *messages[index + 1 :])
