"""Where a prompt ends and a response begins, and which of its characters are the assistant's, told by the template.

At inference a model is asked with the generation prompt and goes on from there. So a prompt is the generation prompt,
whole, and a response is what the rendering of the whole dialogue has behind it. Some templates render the two
differently: they leave reasoning out of earlier turns, end the generation prompt with `<think>` and the answer's turn
without, or decide by what comes later. The border in the whole rendering is then where it stops to be the generation
prompt, counted from the end of the last message of the prompt, whose content is replaced by a mark to find it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from sparsepo_dist.contracts import Message, Spans
from sparsepo_dist.data.rows.messages import NOT_THE_MODELS, text_of
from sparsepo_dist.data.tokens.marks import MARK, with_content
from sparsepo_dist.data.tokens.template import Template, Tools

_REASONING = ("reasoning_content", "thinking", "reasoning")
NOTHING: Spans = ((0, 0),)
"""Of a response of which nothing is trained on: no spans would be all of it."""
CLOSED, STRIPPED, OPENED = "closed", "stripped", "opened: "
_OPEN, _CLOSE = "<think>", "</think>"


class BorderError(Exception):
    """What a dialogue is rendered as has no border that could be found."""


class Reply(NamedTuple):
    """A response before it is encoded."""

    text: str
    trained: Spans = ()
    """[start, end) of the characters that are trained on; none where all are."""
    notes: tuple[str, ...] = ()
    """`CLOSED` where its reasoning was left out because the prompt ends it; `STRIPPED` where the template leaves out
    that of a turn; `OPENED` and the end of a prompt where the template does not put that end before answers."""


class Borders:
    """The replies of dialogues by one template.

    Args:
        template: it may raise anything.
        reasoning: whether reasoning is trained on.
    """

    def __init__(self, template: Template, *, reasoning: bool) -> None:
        self.template, self.reasoning = template, reasoning

    def reply(self, prompt: str, dialogue: Sequence[Message], first: int, tools: Tools) -> Reply:
        """What comes behind `prompt`, the generation prompt of `dialogue[:first]`.

        Raises:
            BorderError: the whole dialogue has no part that goes on from the prompt.
        """
        notes: tuple[str, ...] = ()
        if prompt.rstrip().endswith(_CLOSE) and any(map(_reasons, dialogue[first:])):
            notes = (CLOSED,)
            dialogue = (*dialogue[:first], *map(_without_reasoning, dialogue[first:]))
        whole = self.template.render(dialogue, tools)
        start, opening = self._start(dialogue, whole, first, tools, prompt)
        restored = self._restored(prompt, dialogue, whole[start:], tools) if first == len(dialogue) - 1 else None
        if restored is not None:
            later = text_of(dialogue[-1]).count(_CLOSE) - _in_content(dialogue[-1], prompt)
            answer = _behind_close(restored, 0, later)
            return Reply(restored, () if self.reasoning else ((answer, len(restored)),))
        if opening.strip():
            notes += (OPENED + opening,)
        if any(self._strips(dialogue, turn, tools) for turn in range(first, len(dialogue))):
            notes += (STRIPPED,)
        return Reply(whole[start:], self._trained(dialogue, whole, start, first, tools, prompt), notes)

    def _start(
        self, dialogue: Sequence[Message], whole: str, turn: int, tools: Tools, asked: str | None = None
    ) -> tuple[int, str]:
        """Where a turn's own text begins in the rendering of the whole, and what the generation prompt, `asked`, has
        there that the whole has not."""
        asked = self.template.render(dialogue[:turn], tools, generation=True) if asked is None else asked
        if whole.startswith(asked):
            return len(asked), ""
        ours = self._behind(dialogue[:turn], turn - 1, tools, asked, generation=True)
        theirs = self._behind(dialogue, turn - 1, tools, whole)
        shared = _shared(ours, theirs)
        closing = self._behind(dialogue[:turn], turn - 1, tools, self.template.render(dialogue[:turn], tools))
        if shared <= _shared(ours, closing) < len(ours):
            raise BorderError("the chat template begins an answer otherwise than it asks for one")
        return len(whole) - len(theirs) + shared, ours[shared:]

    def _end(self, dialogue: Sequence[Message], whole: str, turn: int, tools: Tools) -> int:
        """Where a turn's own text ends: behind the token that ends it."""
        if turn == len(dialogue) - 1:
            return len(whole)
        alone = self.template.render(dialogue[: turn + 1], tools)
        if whole.startswith(alone):
            end = len(alone)
        else:
            ours, theirs = (
                self._behind(messages, turn, tools, text)
                for messages, text in ((dialogue[: turn + 1], alone), (dialogue, whole))
            )
            end = len(whole) - len(theirs) + _shared(ours, theirs)
        stripped = whole[:end].rstrip()
        token = self.template.turn_end
        return len(stripped) if token and stripped.endswith(token) else end

    def _behind(
        self, messages: Sequence[Message], index: int, tools: Tools, text: str, *, generation: bool = False
    ) -> str:
        """The end of a rendering, `text`, behind the content of one message."""
        _, mark, behind = self.template.render(
            with_content(messages, index, MARK), tools, generation=generation
        ).rpartition(MARK)
        if not mark or not text.endswith(behind):
            raise BorderError(
                "the chat template renders the prompt differently once a response follows it, and in a way that shows "
                "no border between the two"
            )
        return behind

    def _restored(self, prompt: str, dialogue: Sequence[Message], reply: str, tools: Tools) -> str | None:
        """The last message with its reasoning in front of its answer, where the template leaves the reasoning out but
        for the `<think>` of the generation prompt; None where it does not, or there is none."""
        content, opened = text_of(dialogue[-1]), prompt.rstrip().endswith(_OPEN)
        later = content.count(_CLOSE)
        if _in_content(dialogue[-1], prompt):
            thought, later = _thought(content), later - 1
        elif opened and _reasons(dialogue[-1]):
            thought = next(str(dialogue[-1][key]) for key in _REASONING if dialogue[-1].get(key)).strip()
            content = f"{_OPEN}\n{thought}\n{_CLOSE}\n\n{content}"
        else:
            return None
        if reply.count(_CLOSE) > later:
            return None
        if not opened and not (thought and self._strips(dialogue, len(dialogue) - 1, tools)):
            return None
        behind = self.template.render(with_content(dialogue, len(dialogue) - 1, MARK), tools).rpartition(MARK)[2]
        if opened:
            content = content.lstrip().removeprefix(_OPEN)
            content = content.removeprefix("\n") if prompt.endswith("\n") else content
        return content + behind

    def _strips(self, dialogue: Sequence[Message], turn: int, tools: Tools) -> bool:
        """Whether a turn has reasoning in its content, of which the template renders nothing."""
        content = text_of(dialogue[turn])
        thought = _thought(content) if _in_content(dialogue[turn]) else ""
        if not thought:
            return False
        return MARK not in self.template.render(with_content(dialogue, turn, content.replace(thought, MARK, 1)), tools)

    def _trained(
        self, dialogue: Sequence[Message], whole: str, start: int, first: int, tools: Tools, prompt: str
    ) -> Spans:
        turns = [i for i in range(first, len(dialogue)) if dialogue[i]["role"] not in NOT_THE_MODELS]
        only_theirs = len(turns) == len(dialogue) - first
        if not turns:
            raise BorderError("the response has no message of the assistant")
        if only_theirs and self.reasoning:
            return ()
        starts = {i: start if i == first else self._start(dialogue, whole, i, tools)[0] for i in turns}
        thinking = [] if self.reasoning else [i for i in turns if text_of(dialogue[i])]
        answers = {i: self._answer(dialogue, whole, starts[i], i, tools, prompt) for i in thinking}
        if only_theirs and all(starts[i] == answer for i, answer in answers.items()):
            return ()
        spans = [(starts[i], self._end(dialogue, whole, i, tools)) for i in turns]
        told = self.template.generated(dialogue, tools)
        if told is not None:
            spans = [(max((s for s in starts.values() if a <= s < b), default=a), b) for a, b in told if b > start]
        for turn, answer in answers.items():
            spans = [(max(a, answer) if a <= starts[turn] < b else a, b) for a, b in spans]
        found = tuple((a - start, b - start) for a, b in spans if start <= a < b) or NOTHING
        return () if found == ((0, len(whole) - start),) else found

    def _answer(self, dialogue: Sequence[Message], whole: str, start: int, turn: int, tools: Tools, prompt: str) -> int:
        """Where a turn's answer begins, behind its reasoning or what stands in its place."""
        if _in_content(dialogue[turn], prompt):
            later = text_of(dialogue[turn]).count(_CLOSE) - 1
            return _behind_close(whole[: self._end(dialogue, whole, turn, tools)], start, later)
        before = self.template.render(with_content(dialogue, turn, MARK), tools).partition(MARK)[0]
        if not whole.startswith(before) or len(before) < start:
            if not _reasons(dialogue[turn], prompt):
                return start
            raise BorderError(
                "the chat template does not show where the reasoning ends, which data.train_on_reasoning: false needs"
            )
        return len(before)


def _shared(left: str, right: str) -> int:
    """Characters that two texts begin with alike; a tag in angle brackets is not cut in two."""
    length = next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
    if length < max(len(left), len(right)):
        opened = left.rfind("<", 0, length)
        if opened > left.rfind(">", 0, length):
            return opened
    return length


def _reasons(message: Message, prompt: str = "") -> bool:
    return _in_content(message, prompt) or any(message.get(key) for key in _REASONING)


def _in_content(message: Message, prompt: str = "") -> bool:
    """Whether content begins with reasoning, which it or the prompt opens: an answer may write about `</think>`."""
    content = text_of(message)
    opened = prompt.rstrip().endswith(_OPEN) and not any(message.get(key) for key in _REASONING)
    return _CLOSE in content and (opened or content.lstrip().startswith(_OPEN))


def _thought(content: str) -> str:
    """The reasoning that content begins with."""
    return content.partition(_CLOSE)[0].strip().removeprefix(_OPEN).strip()


def _without_reasoning(message: Message) -> Message:
    plain = {key: value for key, value in message.items() if key not in _REASONING}
    if not _in_content(message):
        return plain
    return with_content((plain,), 0, text_of(message).partition(_CLOSE)[2].lstrip())[0]


def _behind_close(text: str, start: int, later: int) -> int:
    """Where the text goes on behind the end of reasoning and the blanks behind it; `start` where there is none.

    The end is the last `</think>` but for the `later` ones that the answer has, where the template renders those.
    """
    ends = [found.end() for found in re.finditer(re.escape(_CLOSE), text) if found.start() >= start]
    if not ends:
        return start
    end = ends[-1 - later] if later < len(ends) else ends[-1]
    return len(text) - len(text[end:].lstrip())
