"""Pairs that are longer than a run takes: cut, left out or refused, and counted."""

from __future__ import annotations

from collections import Counter

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import RowError
from sparsepo_dist.data.tokens.encode import Encoded, clipped
from sparsepo_dist.data.tokens.limits import Limits
from sparsepo_dist.errors import UserError


class Cuts:
    """The configured lengths over the pairs of a source."""

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.counts: Counter[str] = Counter()
        """Rows and responses, and how many were cut or left out; those of several processes are summed."""

    def remarks(self) -> list[str]:
        """For the user: how much was cut or left out."""
        limits = f"data.max_prompt_length {self.config.max_prompt_length}, data.max_length {self.config.max_length}"
        n, lines = self.counts, []
        if n["dropped"]:
            return [f"{n['dropped']} of {n['rows']} rows were longer than {limits} and left out"]
        if n["turns cut"]:
            lines.append(
                f"{n['turns cut']} of {n['rows']} prompts lost {n['turns']} turns at their beginning ({limits}; "
                "data.cut_prompts)"
            )
        if n["texts without turns"]:
            lines.append(
                f"data.cut_prompts: turns does nothing for prompts of text: {n['texts without turns']} of {n['rows']} "
                "were too long"
            )
        if n["prompts cut"] or n["responses cut"]:
            lines.append(
                f"{n['prompts cut']} of {n['rows']} prompts lost their beginning and {n['responses cut']} of "
                f"{n['responses']} responses their end ({limits}; data.on_long)"
            )
        return lines

    def by_turns(self, prompt: list[int]) -> bool:
        """Whether a prompt is to be shortened by whole turns before it is cut."""
        config, limits = self.config, Limits.of(self.config)
        most = min(limits.prompt, limits.whole - 1)  # which leaves room for a response
        return config.on_long == "cut" and config.cut_prompts == "turns" and len(prompt) > most

    def cut(
        self, prompt: list[int], responses: list[Encoded], bos: int | None, place: str
    ) -> tuple[list[int], list[Encoded]] | None:
        """Prompt and responses within the limits; None where such pairs are left out.

        Raises:
            RowError: a prompt that leaves no room for a response.
            UserError: the pair is too long, and that ends the run.
        """
        self.counts["rows"] += 1
        limits, long = Limits.of(self.config), max(len(response.ids) for response in responses)
        fits = limits.fit(len(prompt), long)
        if not fits and self.config.on_long == "stop":
            raise UserError(
                f"{place}: the pair has {len(prompt)} tokens of prompt and up to {long} of response, more than "
                f"data.max_prompt_length {limits.prompt} or data.max_length {limits.whole}; raise them, or say "
                "--data.on_long cut or drop"
            )
        if not fits and self.config.on_long == "drop":
            self.counts["dropped"] += 1
            return None
        room = int(limits.room(len(prompt)))
        if room < 1:
            raise RowError(place, f"the prompt's {limits.kept(len(prompt))} tokens fill data.max_length {limits.whole}")
        if len(prompt) > limits.prompt:
            self.counts["prompts cut"] += 1
            prompt = end_of(prompt, limits.prompt, bos)
        self.counts["responses"] += len(responses)
        self.counts["responses cut"] += sum(len(response.ids) > room for response in responses)
        return prompt, [Encoded(ids[:room], clipped(trained, room)) for ids, trained in responses]


def end_of(prompt: list[int], most: int, bos: int | None) -> list[int]:
    """The last tokens of a prompt behind its BOS, which it keeps: what a model was trained to begin every text with."""
    if len(prompt) <= most:
        return prompt
    kept = prompt[len(prompt) - most :]
    return [prompt[0], *kept[1:]] if prompt[0] == bos else kept
