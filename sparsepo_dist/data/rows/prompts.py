"""Where the prompt of a row ends: its own field, or what all responses begin with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsepo_dist.contracts import Message, Side
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.rows import hh
from sparsepo_dist.data.rows.checks import Response
from sparsepo_dist.data.rows.hh import shared_length
from sparsepo_dist.data.rows.messages import SYSTEM_ROLES, check_text, text_of


def take_off(place: str, name: str, prompt: Side, responses: Sequence[Response]) -> tuple[Side, list[Response], bool]:
    """Prompt and responses, and whether all responses repeated the prompt, which is taken off them.

    They may begin with all messages of the prompt. A prompt that is text stands for the first message of the user in
    dialogues of messages (UltraFeedback), behind a system message or not; the prompt is then all that the dialogues
    share. Of dialogues that are text `hh.prompt_ends` says what is the prompt.

    Raises:
        RowError: some of them do, and others do not; or text responses are dialogues, and do not.
    """
    texts = [side for _, side in responses if isinstance(side, str)]
    if isinstance(prompt, str) and len(texts) == len(responses):
        ends = hh.prompt_ends(prompt, texts)
        whole: Side = texts[0][: ends[0]]
    else:
        whole, ends = _turn_ends(prompt, [side for _, side in responses])
    if all(ends):
        return whole, [(name, side[end:]) for (name, side), end in zip(responses, ends, strict=True)], True
    repeating = [bool(end) for end in ends]
    if any(repeating):
        raise RowError(
            place,
            f"{responses[repeating.index(True)][0]} begins with the whole {name} and "
            f"{responses[repeating.index(False)][0]} does not; make them alike",
        )
    for other, side in responses:
        if isinstance(side, str) and hh.is_whole(side):
            raise RowError(
                place,
                f"{other} is a whole dialogue: it begins with {side[:8]!r}, and not with the {name}; give the response "
                f"alone, or leave {name} out where chosen and rejected begin alike",
            )
    return prompt, list(responses), False


def split(place: str, responses: Sequence[Response], hint: str) -> tuple[Side, list[Response]]:
    """Prompt and responses of dialogues that start alike: text by the last common HH marker, else messages.

    Raises:
        RowError: they share no beginning, or one is the beginning of the other.
    """
    sides = [side for _, side in responses]
    shared = shared_length(sides)
    if isinstance(sides[0], str):
        shared = hh.prompt_end(sides[0][:shared])
        if shared == 0:
            raise RowError(
                place,
                f"there is no prompt field, and chosen and rejected share no {hh.ASSISTANT!r} "
                f"that a prompt could end with; add a prompt field{hint}",
            )
    elif shared == 0:
        raise RowError(place, f"there is no prompt field, and chosen and rejected share no first message{hint}")
    elif shared in map(len, sides):
        raise RowError(place, "there is no prompt field, and one dialogue is the beginning of the other")
    return sides[0][:shared], [(name, side[shared:]) for name, side in responses]


def behind_system(
    place: str, name: str, system: Any, prompt: Side, responses: Sequence[Response]
) -> tuple[Side, list[Response]]:
    """Messages that begin with a system message, where `system` holds one; texts become messages without one too, as
    in the source's other rows.

    Raises:
        RowError: `system` is no text, the prompt is a dialogue in HH's form, or has another system message.
    """
    text = "" if system is None else system
    if not isinstance(text, str):
        raise RowError(place, f"{name} must be text, found {type(text).__name__}")
    check_text(place, name, text)
    if isinstance(prompt, str) and hh.is_dialogue(prompt):
        if text.strip():
            raise RowError(
                place, f"{name} cannot stand before a dialogue that is text; write the dialogue as messages, or drop it"
            )
        return prompt, list(responses)
    if isinstance(prompt, str):
        prompt = ({"role": "user", "content": prompt},)
        responses = [
            (name, ({"role": "assistant", "content": side},) if isinstance(side, str) else side)
            for name, side in responses
        ]
    if not text.strip():
        return prompt, list(responses)
    if prompt and prompt[0]["role"] in SYSTEM_ROLES:
        if text_of(prompt[0]).strip() != text.strip():
            raise RowError(place, f"{name} differs from the system message that the prompt begins with; keep one")
        return prompt, list(responses)
    return ({"role": "system", "content": text}, *prompt), list(responses)


def _turn_ends(prompt: Side, sides: Sequence[Side]) -> tuple[Side, list[int]]:
    """The prompt that responses which are messages repeat, and how many messages of each it is; 0 where it is none."""
    dialogues = [side for side in sides if not isinstance(side, str)]
    turns = _first_turns(prompt, dialogues[0]) if isinstance(prompt, str) and dialogues else None
    whole = prompt if turns is None else turns
    repeating = [_repeats(whole, side) for side in sides]
    if turns is not None and all(repeating):
        whole = dialogues[0][: max(len(turns), _shared_turns(dialogues))]
    return whole, [len(whole) * one for one in repeating]


def _first_turns(prompt: str, dialogue: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The messages up to the first one of the user, where that says what the prompt says."""
    for index, message in enumerate(dialogue):
        if message["role"] == "user":
            return dialogue[: index + 1] if text_of(message).strip() == prompt.strip() else None
    return None


def _repeats(prompt: Side, side: Side) -> bool:
    """Whether a response begins with all messages of the prompt."""
    if isinstance(prompt, str) or isinstance(side, str):
        return False
    told = list(map(_told, prompt))
    return bool(told) and list(map(_told, side[: len(told)])) == told


def _told(message: Message) -> dict[str, Any]:
    return {**message, "content": text_of(message)}


def _shared_turns(dialogues: Sequence[tuple[Message, ...]]) -> int:
    """Likewise, as far as something that a response may begin with follows in each."""
    shared = shared_length(dialogues)
    while any(len(side) == shared or side[shared]["role"] != "assistant" for side in dialogues):
        shared -= 1
        if shared == 0:
            break
    return shared
