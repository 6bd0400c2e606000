"""Messages become text by a chat template, which must not lose what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.utils import chat_template_utils

from sparsepo_dist.contracts import Message, PreferenceRow, Side
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows.messages import text_of
from sparsepo_dist.errors import UserError, shortened

Form = Callable[[Message], Message]
_USED, _LEFT_OUT = "used: ", "left out: "


class Rendered(NamedTuple):
    """The texts of a row, before anything is cut."""

    prompt: str
    """Ends where a response begins: with the generation prompt, where the template has one."""
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]


class Chat:
    """A tokenizer's chat template over the rows of a source.

    A row has all of its messages' keys and its tools handed to `apply_chat_template` as they are. What the template
    then leaves out is found by rendering with and without it:

    - Content is a list of text parts where the template renders lists, and one text where it renders texts; the row's
      own form comes first. Content, tool calls or tools of which the template renders nothing make the row a bad one.
    - Other keys of messages (`name`, `tool_call_id`, `reasoning_content`, `weight`), and content beside tool calls, may
      be left out: `remarks` names and counts those that the template used in no row.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, now: datetime | None = None) -> None:
        """`now` is the moment that templates are told which print a date; this one where it is not given."""
        self.tokenizer = tokenizer
        self.counts: Counter[str] = Counter()
        """Rows by what was done to them; those of several processes are summed, and `remarks` reads the sum."""
        self._now = now
        self._of_shape: dict[str, tuple[int, ...] | None] = {}

    def remarks(self) -> list[str]:
        """For the user: keys of messages of which the template rendered nothing in any row so far."""
        left_out = {name.removeprefix(_LEFT_OUT): n for name, n in self.counts.items() if name.startswith(_LEFT_OUT)}
        unused = {key: rows for key, rows in left_out.items() if not self.counts[_USED + key]}
        if not unused:
            return []
        keys = ", ".join(f"{shortened(key)} ({rows} rows)" for key, rows in sorted(unused.items()))
        return [f"the chat template renders nothing of these keys of messages: {shortened(keys, 400)}"]

    def texts(self, row: PreferenceRow, place: str) -> Rendered:
        """The texts of a row; text is handed back as it is.

        Raises:
            RowError: the template refuses the row, or renders nothing of something that it must not leave out.
            UserError: messages, and no chat template.
        """
        if isinstance(row.prompt, str):
            return Rendered(row.prompt, _texts(row.chosen), _texts(row.rejected))
        if self.tokenizer.chat_template is None:
            raise UserError(
                f"{place}: rows are lists of messages, which a column of system messages makes of texts too, and the "
                f"tokenizer {self.tokenizer.name_or_path} has no chat template. Name a Jinja file with "
                "--data.chat_template FILE, or give prompt, chosen and rejected as text, without a system message"
            )
        row = _mapped(row, self._form(row, place))
        rendered = self._render(row, place)
        self._look_at_keys(row, rendered, place)
        return rendered

    def _render(self, row: PreferenceRow, place: str) -> Rendered:
        assert not isinstance(row.prompt, str)
        try:
            prompt = self._apply(row, row.prompt, generation=True)
            wholes = [self._apply(row, dialogue) for dialogue in _dialogues(row)]
        except Exception as error:  # templates raise whatever their author chose
            raise RowError(place, f"the chat template refuses this row: {error}") from None
        for whole in wholes:
            if not whole.startswith(prompt):
                raise RowError(place, "the chat template renders the prompt differently once a response follows it")
        responses = tuple(whole[len(prompt) :] for whole in wholes)
        return Rendered(prompt, responses[: len(row.chosen)], responses[len(row.chosen) :])

    def _apply(self, row: PreferenceRow, messages: tuple[Message, ...], *, generation: bool = False) -> str:
        with _told(self._now):
            return str(
                self.tokenizer.apply_chat_template(
                    [dict(message) for message in messages],
                    tools=[dict(tool) for tool in row.tools] or None,
                    tokenize=False,
                    add_generation_prompt=generation,
                )
            )

    def _form(self, row: PreferenceRow, place: str) -> Form:
        """The first form of content of which the template renders everything."""
        dialogues = list(_dialogues(row))
        for form in (_as_it_is, _as_text, _as_part):
            missing = [self._missing(row, dialogue, form) for dialogue in dialogues]
            if all(places is not None and not _without_calls(dialogues[i], places) for i, places in enumerate(missing)):
                if any(missing):
                    self.counts[_LEFT_OUT + "content beside tool_calls"] += 1
                return form
        for i, side in enumerate(_names(row)):
            for index in _without_calls(dialogues[i], self._missing(row, dialogues[i], _as_text) or ()):
                role = shortened(repr(dialogues[i][index]["role"]))
                where = f"{_name(row, side, index)}.content, whose role is {role}"
                raise RowError(place, _nothing_of(where, "or give the message another role"))
        return _as_text  # the template refuses even marks; what it says of the row itself is what the user needs

    def _missing(self, row: PreferenceRow, dialogue: tuple[Message, ...], form: Form) -> tuple[int, ...] | None:
        """Places of messages whose content the template leaves out or prints as data; None where it refuses them."""
        messages = tuple(form(_marked(message, index)) for index, message in enumerate(dialogue))
        shape = None
        if not row.tools and all(message.keys() == {"role", "content"} for message in messages):
            shape = repr(messages)
            if shape in self._of_shape:
                return self._of_shape[shape]
        try:
            text = self._apply(row, messages)
        except Exception:  # templates raise whatever their author chose
            missing = None
        else:
            missing = tuple(index for index, message in enumerate(messages) if not _is_told(message, text))
        if shape is not None:
            self._of_shape[shape] = missing
        return missing

    def _look_at_keys(self, row: PreferenceRow, rendered: Rendered, place: str) -> None:
        if row.tools and self._is_same(replace(row, tools=()), rendered):
            raise RowError(place, _nothing_of("tools"))
        found: dict[str, str] = {}
        for name, dialogue in zip(_names(row), _dialogues(row), strict=True):
            for index, message in enumerate(dialogue):
                for key in message:
                    if key not in ("role", "content") and message[key] not in ("", [], {}):
                        found.setdefault(key, f"{_name(row, name, index)}.{key}")
        for key, where in found.items():
            if self.counts[_USED + key] and key != "tool_calls":
                continue
            if not self._is_same(_mapped(row, partial(_without, key=key)), rendered):
                self.counts[_USED + key] += 1
            elif key == "tool_calls":
                raise RowError(place, _nothing_of(where))
            else:
                self.counts[_LEFT_OUT + key] += 1

    def _is_same(self, row: PreferenceRow, rendered: Rendered) -> bool:
        try:
            return self._render(row, "") == rendered
        except RowError:
            return False


@contextmanager
def _told(now: datetime | None) -> Iterator[None]:
    """While open, templates that ask for the date get this one: transformers hands them a clock, and takes no other."""
    clock: Any = chat_template_utils
    own = clock.datetime
    clock.datetime = own if now is None else SimpleNamespace(now=lambda: now)
    try:
        yield
    finally:
        clock.datetime = own


def _nothing_of(where: str, otherwise: str = "or remove the field from the rows") -> str:
    return (
        f"the chat template renders nothing of {where}; name a template that does with --data.chat_template, "
        f"{otherwise}"
    )


def _without_calls(dialogue: tuple[Message, ...], places: tuple[int, ...]) -> list[int]:
    return [index for index in places if not dialogue[index].get("tool_calls")]


def _dialogues(row: PreferenceRow) -> Iterator[tuple[Message, ...]]:
    """Prompt and response, of each response in turn."""
    for side in (*row.chosen, *row.rejected):
        assert not isinstance(row.prompt, str) and not isinstance(side, str)
        yield (*row.prompt, *side)


def _names(row: PreferenceRow) -> list[str]:
    """Of those dialogues' responses, as the row has them."""
    return [
        name if len(sides) == 1 else f"{name}[{i}]"
        for name, sides in (("chosen", row.chosen), ("rejected", row.rejected))
        for i in range(len(sides))
    ]


def _texts(sides: tuple[Side, ...]) -> tuple[str, ...]:
    assert all(isinstance(side, str) for side in sides)
    return sides  # type: ignore[return-value]


def _mapped(row: PreferenceRow, form: Form) -> PreferenceRow:
    def mapped(side: Side) -> Side:
        assert not isinstance(side, str)
        return tuple(map(form, side))

    chosen, rejected = (tuple(map(mapped, sides)) for sides in (row.chosen, row.rejected))
    return replace(row, prompt=mapped(row.prompt), chosen=chosen, rejected=rejected)


def _name(row: PreferenceRow, side: str, index: int) -> str:
    return f"prompt[{index}]" if index < len(row.prompt) else f"{side}[{index - len(row.prompt)}]"


def _without(message: Message, key: str) -> Message:
    return {name: value for name, value in message.items() if name != key}


def _as_it_is(message: Message) -> Message:
    return message


def _as_text(message: Message) -> Message:
    return {**message, "content": text_of(message)} if "content" in message else message


def _as_part(message: Message) -> Message:
    return {**message, "content": [{"type": "text", "text": text_of(message)}]} if "content" in message else message


def _marked(message: Message, index: int) -> Message:
    """The message with a mark in place of each text that is not blank: a letter, so that nothing trims it."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": f"M{index}.0M" if content.strip() else ""}
    if content is None:
        return message
    parts = [{**part, "text": f"M{index}.{i}M" if part["text"].strip() else ""} for i, part in enumerate(content)]
    return {**message, "content": parts}


def _is_told(message: Message, text: str) -> bool:
    content = message.get("content", "")
    if not isinstance(content, str):
        printed = ("'text': '", '"text": "', '"text":"')
        return all(
            part["text"] in text and not any(before + part["text"] in text for before in printed)
            for part in content
            if part["text"]
        )
    return content in text
