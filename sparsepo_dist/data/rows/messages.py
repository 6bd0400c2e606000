"""Chat messages and tools of a row: every value is checked, and kept as the row has it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sparsepo_dist.contracts import Message
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows.shapes import SHAREGPT
from sparsepo_dist.errors import shortened
from sparsepo_dist.files import parse_json

MOST_CHARACTERS = 2**22
"""Of a text: no context window holds as many, and tokenizers would take minutes."""
MEDIA = ("image", "images", "audio", "audios", "video", "videos")
"""Fields that hold what is not text; a row where one is not empty cannot be trained on."""
SYSTEM_ROLES = ("system", "developer")
"""Roles of what is said before a dialogue begins."""
NOT_THE_MODELS = frozenset(("user", *SYSTEM_ROLES, "tool", "function", "ipython", "observation"))
"""Roles of messages that a model reads and does not write."""
_DEEPEST = 64


def parse_messages(place: str, name: str, value: Any) -> tuple[Message, ...]:
    """The messages of a field, without keys that are null, which is what tables hold where a key is absent.

    Raises:
        RowError: no list of messages, or a message without role, without content and tool calls, or with what is no
            text: media, parts of another type than `text`, values that JSON does not have.
    """
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError(place, f"{name} must be text or a list of messages, found {type(value).__name__}")
    return tuple(_message(place, f"{name}[{index}]", message) for index, message in enumerate(value))


def parse_tools(place: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    """The tools of a row: a list of objects, or the JSON text of one; none where the value is null.

    Raises:
        RowError: anything else.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = parse_json(value)
        except ValueError as error:
            raise RowError(place, f"tools is text, but not JSON: {error}") from None
    return _objects(place, "tools", value or ())


def check_text(place: str, name: str, value: str) -> None:
    """Raise RowError for a text that is too long or holds half a character."""
    if len(value) > MOST_CHARACTERS:
        raise RowError(place, f"{name} has {len(value)} characters; at most {MOST_CHARACTERS} are read")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(
            place, f"{name} holds half a character (\\u{ord(value[error.start]):04x}), which is no text; remove it"
        ) from None


def refuse_media(place: str, fields: Mapping[str, Any], prefix: str = "") -> None:
    """Raise RowError where a row, a message or a part holds images, audio or video."""
    for name in MEDIA:
        if fields.get(name) not in (None, "", [], {}):
            raise RowError(place, f"{prefix}{name} cannot be trained on: only text can; remove it or the row")


def text_of(message: Message) -> str:
    """The text of a message's content, its parts joined; empty where there is none."""
    content = message.get("content", "")
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def _message(place: str, name: str, value: Any) -> Message:
    if not isinstance(value, Mapping):
        raise RowError(place, f"{name} must be a message with role and content, found {type(value).__name__}")
    refuse_media(place, value, f"{name}.")
    for key in ("role", "content"):
        if value.get(key) is None and (key == "role" or not value.get("tool_calls")):
            found = "is null" if key in value else "is missing"
            how = f": {SHAREGPT}" if "from" in value else ""
            raise RowError(place, f"{name}.{key} {found}; {name} must be a message with role and content{how}")
    message = {key: item for key, item in value.items() if item is not None}
    if not isinstance(message["role"], str):
        raise RowError(place, f"{name}.role must be text, found {type(message['role']).__name__}")
    content = message.get("content", "")
    if isinstance(content, Sequence) and not isinstance(content, str | bytes):
        message["content"] = [_part(place, f"{name}.content[{i}]", part) for i, part in enumerate(content)]
    elif not isinstance(content, str):
        raise RowError(place, f"{name}.content must be text or a list of text parts, found {type(content).__name__}")
    if "tool_calls" in message:
        message["tool_calls"] = list(_objects(place, f"{name}.tool_calls", message["tool_calls"]))
    for key, item in message.items():
        _check_value(place, f"{name}.{shortened(str(key))}", item)
    return message


def _part(place: str, name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise RowError(place, f"{name} must be a part with type and text, found {type(value).__name__}")
    if value.get("type") != "text":
        kind = shortened(repr(value.get("type")))
        raise RowError(place, f"{name} is of type {kind}, which cannot be trained on: only parts of type 'text' can")
    refuse_media(place, value, f"{name}.")
    if not isinstance(value.get("text"), str):
        found = "null" if value.get("text") is None else type(value["text"]).__name__
        raise RowError(place, f"{name}.text must be text, found {found}")
    return {key: item for key, item in value.items() if item is not None}


def _objects(place: str, name: str, value: Any) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(value, Sequence) or isinstance(value, str | bytes):
        raise RowError(place, f"{name} must be a list of objects, found {type(value).__name__}")
    for index, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise RowError(place, f"{name}[{index}] must be an object, found {type(item).__name__}")
        _check_value(place, f"{name}[{index}]", item)
    return tuple(value)


def _check_value(place: str, name: str, value: Any, depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise RowError(place, f"{shortened(name, 40)} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str):
        check_text(place, name, value)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            check_text(place, f"a key of {name}", str(key))
            _check_value(place, f"{name}.{shortened(str(key))}", item, depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            _check_value(place, f"{name}[{index}]", item, depth + 1)
    elif value is not None and not isinstance(value, bool | int | float):
        raise RowError(place, f"{name} is a {type(value).__name__}, which a chat template cannot render")
