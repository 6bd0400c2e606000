"""Heads that are calibrated on a batch as a run does it, and hidden states of models to do it on."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_dist.builtin.pairs import sentiment_files
from sparsepo_dist.masks import LearnedMask, MaskConfig, MaskHeads
from sparsepo_dist.masks.calibration import Target, apply_settings, layer_settings, output_settings

Pair = tuple[str, str, str]
"""Prompt, chosen and rejected response."""
LONGEST = 60  # tokens of a response
AT_A_TIME = 32  # sequences
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
    """Hidden states of response tokens, of which some pairs are the batch and the others unseen."""

    states: Tensor
    """[L, N, D]."""
    pair: Tensor
    """[N] int64."""
    batch_pairs: int

    def in_batch(self, seed: int) -> Tensor:
        """[N] bool: tokens of the pairs that this seed's order begins with."""
        order = torch.randperm(int(self.pair.max()) + 1, generator=torch.Generator().manual_seed(seed))
        return torch.isin(self.pair, order[: self.batch_pairs])


@torch.no_grad()
def model_states(folder: Path, pairs: list[Pair], batch_pairs: int) -> Hidden:
    """Of many sequences at a time: what is padded comes after them, where a causal model does not look."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    sequences = []
    for number, (prompt, *responses) in enumerate(pairs):
        before = tokenizer(prompt, add_special_tokens=False).input_ids
        for response in responses:
            ids = torch.tensor(before + tokenizer(response, add_special_tokens=False).input_ids[:LONGEST])
            sequences.append((number, len(before) - 1, ids))
    rows, numbers = [], []
    for first in range(0, len(sequences), AT_A_TIME):
        group = sequences[first : first + AT_A_TIME]
        padded = pad_sequence([ids for _, _, ids in group], batch_first=True)
        hidden = torch.stack(model(padded, output_hidden_states=True).hidden_states[1:])
        for states, (number, start, ids) in zip(hidden.unbind(1), group, strict=True):
            rows.append(states[:, start : len(ids) - 1])
            numbers += [number] * rows[-1].shape[1]
    return Hidden(torch.cat(rows, 1), torch.tensor(numbers), batch_pairs)


def drawn_pairs(count: int, seed: int = 0) -> list[Pair]:
    """Of words."""
    generator = random.Random(seed)

    def words(least: int, most: int) -> str:
        return " ".join(generator.choices(WORDS, k=generator.randint(least, most)))

    return [(words(5, 5), *(f" {words(8, 30)}." for _ in range(2))) for _ in range(count)]


def sentiment_pairs(count: int) -> list[Pair]:
    """Of the project's own experiment."""
    rows = [json.loads(line) for line in sentiment_files().train.read_text(encoding="utf-8").splitlines()]
    return [(row["prompt"], row["chosen"], row["rejected"]) for row in rows[:count]]


def calibrate(head: LearnedMask, hidden: Tensor, target: Target) -> None:
    """As `training.mask_start` does it."""
    with torch.no_grad():
        for settings in (layer_settings, output_settings):
            apply_settings(head, settings(head.layer_scores(hidden), head, target))


def calibrated_heads(hidden: Tensor, config: MaskConfig, seed: int) -> MaskHeads:
    """Heads of a configuration and a seed, calibrated on hidden states [L, N, D] of `config.layers`."""
    torch.manual_seed(seed)
    layers, _, width = hidden.shape
    heads = MaskHeads(layers, width, config).eval()
    for name, head in heads.named_heads().items():
        calibrate(head, hidden, Target(config.shares()[name == "divergence"], config.initial_mean))
    return heads


class Off(NamedTuple):
    """How far a calibrated head is from what was asked for."""

    batch: float
    """In its share, over the batch."""
    unseen: float
    mean: float
    """Over the batch, as a share of what was asked for."""


@torch.no_grad()
def off_target(hidden: Hidden, config: MaskConfig, seeds: range) -> list[Off]:
    """Of the masks of each seed, on a batch of its own, the farthest."""
    states = hidden.states if config.layers == "all" else hidden.states[-1:]
    found = []
    for seed in seeds:
        batch = hidden.in_batch(seed)
        masks = calibrated_heads(states[:, batch], config, seed)(states)
        for mask, share in zip(masks, config.shares(), strict=True):
            zero = (mask == config.floor).double()
            found.append(
                Off(
                    abs(zero[batch].mean().item() - share),
                    abs(zero[~batch].mean().item() - share),
                    abs(mask[batch].mean().item() / config.initial_mean - 1),
                )
            )
    return found
