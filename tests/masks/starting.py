"""Heads that are calibrated on a batch as a run does it, and hidden states of models to do it on."""

from __future__ import annotations

import random
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_dist.masks import LearnedMask, MaskConfig, MaskHeads
from sparsepo_dist.masks.calibration import Target, apply_settings, layer_settings, output_settings

LONGEST = 60  # tokens of a response
PROMPT_WORDS = 5
WORDS = [
    "a", "and", "as", "at", "but", "by", "every", "for", "from", "had", "her", "his", "in", "is", "it", "no", "not",
    "of", "on", "one", "or", "some", "that", "the", "their", "to", "was", "which", "with", "answer", "autumn",
    "boat", "bread", "bridge", "colour", "corner", "door", "evening", "field", "friend", "garden", "glass",
    "harbour", "house", "letter", "light", "market", "morning", "mountain", "music", "night", "number", "paper",
    "question", "rain", "river", "road", "room", "salt", "ship", "song", "station", "stone", "story", "street",
    "summer", "table", "town", "train", "tree", "voice", "water", "weather", "wind", "window", "winter", "word",
    "work", "year", "bright", "careful", "cold", "early", "empty", "green", "heavy", "late", "long", "narrow",
    "new", "old", "quiet", "short", "slow", "small", "strange", "strong", "warm", "began", "came", "carried",
    "closed", "found", "gave", "heard", "kept", "knew", "left", "lost", "made", "opened", "read", "said", "saw",
    "spoke", "stood", "thought", "took",
]  # fmt: skip


class Hidden(NamedTuple):
    """Hidden states [L, N, D] of response tokens, which are those of the batch first, then those of unseen pairs."""

    states: Tensor
    batch: int
    """Tokens of the batch."""

    @property
    def parts(self) -> tuple[Tensor, Tensor]:
        return self.states[:, : self.batch], self.states[:, self.batch :]


@torch.no_grad()
def hidden_states(folder: Path, texts: list[str], batch: int) -> Hidden:
    """Of the words of each text after the first few, one sequence at a time; the first `batch` texts are the batch."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    rows = []
    for text in texts:
        words = text.split(" ")
        prompt, response = " ".join(words[:PROMPT_WORDS]), " " + " ".join(words[PROMPT_WORDS:])
        before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in (prompt, response))
        ids = torch.tensor([before + after[:LONGEST]])
        hidden = model(ids, output_hidden_states=True).hidden_states[1:]
        rows.append(torch.stack([layer[0, len(before) - 1 : -1] for layer in hidden]))
    return Hidden(torch.cat(rows, 1), sum(row.shape[1] for row in rows[:batch]))


def sentences(count: int, seed: int = 0) -> list[str]:
    """Drawn, each long enough to be a prompt and a response."""
    generator = random.Random(seed)
    return [
        " ".join(generator.choices(WORDS, k=generator.randint(PROMPT_WORDS + 10, PROMPT_WORDS + 50))) + "."
        for _ in range(count)
    ]


def calibrate(head: LearnedMask, hidden: Tensor, target: Target) -> None:
    """As `training.mask_start` does it."""
    with torch.no_grad():
        for settings in (layer_settings, output_settings):
            apply_settings(head, settings(head.layer_scores(hidden), head, target))


def calibrated_heads(hidden: Hidden, config: MaskConfig, seed: int) -> MaskHeads:
    """Heads of a configuration and a seed, calibrated on the batch."""
    torch.manual_seed(seed)
    layers, _, width = hidden.states.shape
    heads = MaskHeads(layers, width, config).eval()
    states = hidden.parts[0] if config.layers == "all" else hidden.parts[0][-1:]
    for name, head in heads.named_heads().items():
        calibrate(head, states, Target(config.shares()[name == "divergence"], config.initial_mean))
    return heads
