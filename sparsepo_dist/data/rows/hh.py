"""Dialogues that are text, as Anthropic HH has them: turns behind `Human:` and `Assistant:`, after empty lines."""

from __future__ import annotations

from collections.abc import Sequence

from sparsepo_dist.contracts import Side

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def is_dialogue(text: str) -> bool:
    """Whether a text has turns."""
    return HUMAN in text or ASSISTANT in text


def prompt_end(text: str) -> int:
    """Where the last turn of the assistant in a text begins, behind its marker; 0 where it has none."""
    return text.rfind(ASSISTANT) + len(ASSISTANT) if ASSISTANT in text else 0


def is_whole(text: str) -> bool:
    """Whether a text begins with a turn of the human that an answer follows, as no response does."""
    return text.startswith(HUMAN) or (_begun(text).startswith(HUMAN) and ASSISTANT in text)


def prompt_ends(prompt: str, sides: Sequence[str]) -> list[int]:
    """Where each response begins behind a prompt that it repeats; 0 where it does not.

    A prompt with turns is what they begin with, white space around it aside; where it lacks the `Assistant:` that it is
    answered behind, that goes to it. One without is the first or the last that a human says in what the dialogues begin
    with alike, which is then the prompt. Other text may begin like its prompt by right.
    """
    if is_dialogue(_begun(prompt)):
        return [_repeated(prompt, side) for side in sides]
    end = prompt_end(sides[0][: shared_length(sides)])
    if not end or not all(map(is_whole, sides)):
        return [0] * len(sides)
    told = [turn.partition(ASSISTANT)[0].strip() for turn in _begun(sides[0][:end]).split(HUMAN)[1:]]
    return [end if prompt.strip() in (told[0], told[-1]) else 0] * len(sides)


def shared_length(sides: Sequence[Side]) -> int:
    """How many characters or messages all begin with, found by halving."""
    first, *others = sides
    least, most = 0, min(map(len, sides))
    while least < most:
        middle = (least + most + 1) // 2
        if all(other[:middle] == first[:middle] for other in others):
            least = middle
        else:
            most = middle - 1
    return least


def _repeated(prompt: str, side: str) -> int:
    """Where a response begins behind a prompt that has turns; 0 where it does not repeat it."""
    if side.startswith(prompt) and ASSISTANT in prompt[prompt.rfind(HUMAN) + 1 :]:
        return len(prompt)
    begin, asked = len(side) - len(side.lstrip()), prompt.strip()
    end = begin + len(asked)
    if not side.startswith(asked, begin):
        return 0
    if asked.endswith(ASSISTANT):
        return end
    return end + len(ASSISTANT) if side.startswith(ASSISTANT, end) else 0


def _begun(text: str) -> str:
    """A text with the empty line before its first marker that it may have been stripped of."""
    stripped = text.lstrip()
    return f"\n\n{stripped}" if stripped.startswith((HUMAN.strip(), ASSISTANT.strip())) else text
