"""Messages become text by a chat template, which must not lose what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from sparsepo_dist.contracts import Message, PreferenceRow, Side
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.tokens.border import CLOSED, OPENED, STRIPPED, BorderError, Borders, Reply
from sparsepo_dist.data.tokens.marks import Notation, as_text, is_told, marked, notations
from sparsepo_dist.data.tokens.template import Template
from sparsepo_dist.errors import UserError, shortened

_USED, _LEFT_OUT, _RENDERED = "used: ", "left out: ", "rendered"


class Rendered(NamedTuple):
    """The texts of a row, before anything is cut."""

    prompt: str
    """Ends where a response begins: with the generation prompt, where the template has one."""
    chosen: tuple[Reply, ...]
    rejected: tuple[Reply, ...]


class Chat:
    """A tokenizer's chat template over the rows of a source.

    A row has all of its messages' keys and its tools handed to `apply_chat_template` as they are. What the template
    then leaves out is found by rendering with and without it:

    - Content is a list of text parts where the template renders lists, and one text where it renders texts; the row's
      own form comes first. Arguments of tool calls are objects, or JSON text where the template refuses objects.
      Content, tool calls or tools of which the template renders nothing make the row a bad one.
    - Other keys of messages (`name`, `tool_call_id`, `reasoning_content`, `weight`), and content beside tool calls, may
      be left out: `remarks` names and counts those that the template used in no row.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: DataConfig) -> None:
        self.tokenizer = tokenizer
        self.template = Template(tokenizer, config.moment(), config.chat_template_kwargs)
        self.counts: Counter[str] = Counter()
        """Rows by what was done to them; those of several processes are summed, and `remarks` reads the sum."""
        self._whole = config.train_on == "all_assistant"
        self._borders = Borders(self.template, reasoning=config.train_on_reasoning)
        self._of_shape: dict[str, tuple[int, ...] | None] = {}

    def remarks(self) -> list[str]:
        """For the user: keys of messages of which the template rendered nothing in any row so far, and responses that
        do not follow the generation prompt as the template renders them."""
        left_out = {name.removeprefix(_LEFT_OUT): n for name, n in self.counts.items() if name.startswith(_LEFT_OUT)}
        unused = {key: rows for key, rows in left_out.items() if not self.counts[_USED + key]}
        lines = [*self._idle_arguments(), *self._idle_options()]
        if self.counts[_RENDERED] and self.template.end_refused is not None:
            lines.append(
                "which token ends an answer is not known, because the chat template refuses a user's message with an "
                f"answer ({shortened(self.template.end_refused)}): EOS is appended, unless a special token ends it"
            )
        if unused:
            keys = ", ".join(f"{shortened(key)} ({rows} rows)" for key, rows in sorted(unused.items()))
            lines.append(f"the chat template renders nothing of these keys of messages: {shortened(keys, 400)}")
        if self.counts[CLOSED]:
            lines.append(
                f"the reasoning of {self.counts[CLOSED]} responses is left out, because the chat template's generation "
                "prompt says that there is none (data.chat_template_kwargs)"
            )
        if self.counts[STRIPPED]:
            lines.append(
                f"the chat template leaves out the reasoning of turns in {self.counts[STRIPPED]} responses, which is "
                "not trained on"
            )
        for name, responses in sorted(self.counts.items()):
            if name.startswith(OPENED):
                lines.append(
                    f"the chat template's generation prompt ends with {name.removeprefix(OPENED)!r}, which it does not "
                    f"write in front of {responses} responses: they are trained on behind it, as at inference"
                )
        return lines

    def _idle_arguments(self) -> list[str]:
        names = ", ".join(self.template.arguments)
        if not names:
            return []
        if not self.counts[_RENDERED]:
            return [f"no row is made of messages, so that no chat template reads data.chat_template_kwargs ({names})"]
        unread = self.template.unread_arguments()
        return [
            f"data.chat_template_kwargs: the chat template never reads {name}{near}" for name, near in unread.items()
        ]

    def _idle_options(self) -> list[str]:
        if self.counts[_RENDERED]:
            return []
        set_ones = ["data.train_on: all_assistant"] * self._whole
        set_ones += ["data.train_on_reasoning: false"] * (not self._borders.reasoning)
        return [f"ignored: {option}: no row is made of messages" for option in set_ones]

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
        row = _mapped(row, self._notation(row, place))
        rendered = self._render(row, place)
        self.counts[_RENDERED] += 1
        self._look_at_keys(row, rendered, place)
        self.counts.update(note for reply in (*rendered.chosen, *rendered.rejected) for note in reply.notes)
        return rendered

    def _render(self, row: PreferenceRow, place: str) -> Rendered:
        assert not isinstance(row.prompt, str)
        try:
            prompt = self.template.render(row.prompt, row.tools, generation=True)
            replies = tuple(self._borders.reply(prompt, whole, len(row.prompt), row.tools) for whole in _dialogues(row))
        except BorderError as error:
            raise RowError(place, str(error)) from None
        except Exception as error:  # templates raise whatever their author chose
            raise RowError(place, f"the chat template refuses this row: {error}") from None
        if self._whole and any(len(side) > 1 for side in row.chosen):
            prompt, replies = _as_history(prompt, replies)
        return Rendered(prompt, replies[: len(row.chosen)], replies[len(row.chosen) :])

    def _notation(self, row: PreferenceRow, place: str) -> Notation:
        """The first notation of which the template renders everything."""
        dialogues = list(_dialogues(row))
        calls = any(message.get("tool_calls") for dialogue in dialogues for message in dialogue)
        for notation in notations(calls=calls):
            missing = [self._missing(row, dialogue, notation) for dialogue in dialogues]
            if all(places is not None and not _without_calls(dialogues[i], places) for i, places in enumerate(missing)):
                if any(missing):
                    self.counts[_LEFT_OUT + "content beside tool_calls"] += 1
                return notation
        for i, side in enumerate(_names(row)):
            for index in _without_calls(dialogues[i], self._missing(row, dialogues[i], as_text) or ()):
                role = shortened(repr(dialogues[i][index]["role"]))
                where = f"{_name(row, side, index)}.content, whose role is {role}"
                raise RowError(place, _nothing_of(where, "or give the message another role"))
        return as_text  # the template refuses even marks; what it says of the row itself is what the user needs

    def _missing(self, row: PreferenceRow, dialogue: tuple[Message, ...], notation: Notation) -> tuple[int, ...] | None:
        """Places of messages whose content the template leaves out or prints as data; None where it refuses them."""
        messages = tuple(notation(marked(message, index)) for index, message in enumerate(dialogue))
        shape = None
        if not row.tools and all(message.keys() == {"role", "content"} for message in messages):
            shape = repr(messages)
            if shape in self._of_shape:
                return self._of_shape[shape]
        try:
            text = self.template.render(messages, row.tools)
        except Exception:  # templates raise whatever their author chose
            missing = None
        else:
            missing = tuple(index for index, message in enumerate(messages) if not is_told(message, text))
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


def _as_history(prompt: str, replies: tuple[Reply, ...]) -> tuple[str, tuple[Reply, ...]]:
    """The prompt as it stands in the rendering of the whole dialogue, whose later turns are asked for in the same way:
    without what only the generation prompt has."""
    openings = {note for reply in replies for note in reply.notes if note.startswith(OPENED)}
    if len(openings) != 1:
        return prompt, replies
    (opening,) = openings
    plain = (reply._replace(notes=tuple(note for note in reply.notes if note != opening)) for reply in replies)
    return prompt.removesuffix(opening.removeprefix(OPENED)), tuple(plain)


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


def _texts(sides: tuple[Side, ...]) -> tuple[Reply, ...]:
    return tuple(Reply(side) for side in sides if isinstance(side, str))


def _mapped(row: PreferenceRow, notation: Notation) -> PreferenceRow:
    def mapped(side: Side) -> Side:
        assert not isinstance(side, str)
        return tuple(map(notation, side))

    chosen, rejected = (tuple(map(mapped, sides)) for sides in (row.chosen, row.rejected))
    return replace(row, prompt=mapped(row.prompt), chosen=chosen, rejected=rejected)


def _name(row: PreferenceRow, side: str, index: int) -> str:
    return f"prompt[{index}]" if index < len(row.prompt) else f"{side}[{index - len(row.prompt)}]"


def _without(message: Message, key: str) -> Message:
    return {name: value for name, value in message.items() if name != key}
