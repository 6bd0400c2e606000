"""Preference pairs of the sentiment experiment: samples of the model itself, ranked by their reward."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_dist.builtin.cache import made_once
from sparsepo_dist.builtin.prompts import heldout_prompts, training_prompts
from sparsepo_dist.builtin.ranking import Scored, best_against_worst
from sparsepo_dist.builtin.rewards import SCORER, rewards
from sparsepo_dist.builtin.smollm2 import smollm2_folder
from sparsepo_dist.disk import cache_folder
from sparsepo_dist.sampling.responses import Nucleus
from sparsepo_dist.sampling.transformers import sample

TRAINING_PROMPTS, HELDOUT_PROMPTS, SAMPLES_PER_PROMPT = 64, 16, 6
PAIRS_PER_PROMPT = 2
LEAST_DIFFERENCE = 0.2
SEED = 0


class SentimentFiles(NamedTuple):
    """What the experiment trains on."""

    model: Path
    train: Path
    heldout: Path


def sentiment_files() -> SentimentFiles:
    """Model and pairs; what is missing is made, with progress bars, while other processes of the machine wait.

    Raises:
        UserError: a package that this takes is not installed.
    """
    model = smollm2_folder()
    fingerprint = _fingerprint(model)
    train = _pairs_file(model, fingerprint, "train", training_prompts(TRAINING_PROMPTS))
    heldout = _pairs_file(model, fingerprint, "heldout", heldout_prompts(HELDOUT_PROMPTS))
    return SentimentFiles(model, train, heldout)


def _pairs_file(model: Path, fingerprint: str, split: str, prompts: Sequence[str]) -> Path:
    settings = [
        list(prompts), SAMPLES_PER_PROMPT, PAIRS_PER_PROMPT, LEAST_DIFFERENCE, SEED, SCORER, fingerprint,
        Nucleus.max_new_tokens, Nucleus.temperature, Nucleus.top_p,
    ]  # fmt: skip
    digest = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]

    def make(path: Path) -> None:
        samples = sample(model, prompts, SAMPLES_PER_PROMPT, seed=SEED, description=f"sampling {split} responses")
        rows = list(rank_pairs([(s.prompt, s.response) for s in samples]))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

    return made_once(cache_folder() / f"sentiment-{split}-{digest}.jsonl", make)


def _fingerprint(model: Path) -> str:
    """SHA-256 of the model's configuration and weights: a folder of the same name may hold another model."""
    digest = hashlib.sha256()
    for path in [model / "config.json", *sorted(model.glob("*.safetensors"))]:
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def rank_pairs(samples: Sequence[tuple[str, str]]) -> Iterator[dict[str, Any]]:
    """Rows of (prompt, response) samples that lie together by prompt: best against worst, then second-best against
    second-worst, where the rewards differ by more than LEAST_DIFFERENCE.

    Raises:
        UserError: vaderSentiment is not installed.
    """
    scores = rewards(response for _, response in samples)
    scored = [Scored(*sample, score) for sample, score in zip(samples, scores, strict=True)]
    for row in best_against_worst(scored, PAIRS_PER_PROMPT):
        if row["chosen_score"] - row["rejected_score"] > LEAST_DIFFERENCE:
            yield row
