"""Turns of dialogues: which begin the response, and which a shortened prompt leaves out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from sparsepo_dist.contracts import PreferenceRow
from sparsepo_dist.data.rows.messages import NOT_THE_MODELS, SYSTEM_ROLES


def from_first_answer(row: PreferenceRow) -> PreferenceRow:
    """The row with all from the first turn of the assistant on as its responses; as it is where that is so already."""
    if isinstance(row.prompt, str):
        return row
    first = next((i for i, message in enumerate(row.prompt) if message["role"] not in NOT_THE_MODELS), len(row.prompt))
    prompt, more = row.prompt[:first], row.prompt[first:]
    if not prompt or not more:
        return row
    chosen, rejected = (
        tuple((*more, *side) for side in sides if not isinstance(side, str)) for sides in (row.chosen, row.rejected)
    )
    return replace(row, prompt=prompt, chosen=chosen, rejected=rejected)


def shorter_prompts(row: PreferenceRow) -> Iterator[PreferenceRow]:
    """The row without the first turn of its prompt, without the first two, and so on down to the last one.

    A turn begins with a message of the user; the system's messages stay, wherever they stand.
    """
    if isinstance(row.prompt, str):
        return
    begins = [i for i, message in enumerate(row.prompt) if message["role"] == "user"]
    for begin in begins[1:]:
        staying = (message for message in row.prompt[:begin] if message["role"] in SYSTEM_ROLES)
        yield replace(row, prompt=(*staying, *row.prompt[begin:]))
