"""What a response is worth."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification

from sparsepo_dist.builtin.rewards import SCORER, rewards
from sparsepo_dist.engines.decoder.loading import check_complete
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.encoders import longest_input
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.sampling.responses import Sample

VADER = "vader"
_BATCH = 32


class Scorer(NamedTuple):
    """A reward."""

    description: str
    measurement: str
    """All that decides its numbers, fit for a file name."""
    score: Callable[[Sequence[Sample]], list[float]]


def scorer(named: str, positive: str) -> Scorer:
    """`vader`, or the folder or hub id of a transformers text-classification model.

    Args:
        positive: the label that counts as positive, in any case.

    Raises:
        UserError: vaderSentiment is not installed, the classifier cannot be loaded, or has no such label.
    """
    if named == VADER:
        rewards(())  # says now, and not after hours of sampling, that the package is missing
        return Scorer(SCORER, VADER, lambda samples: rewards(sample.response for sample in samples))
    return _classifier(named, positive)


def _classifier(path: str, positive: str) -> Scorer:
    try:
        model, found = AutoModelForSequenceClassification.from_pretrained(
            path, dtype=torch.float32, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(f"--scorer {path}: no classifier could be loaded: {shortened(str(error), 200)}") from None
    check_complete(path, found)  # a language model's folder lacks the head, which would be drawn at random
    tokenizer = load_tokenizer(path, field="--scorer")
    labels = {int(index): str(label) for index, label in model.config.id2label.items()}
    wanted = [index for index, label in labels.items() if label.lower() == positive.lower()]
    if not wanted:
        raise UserError(
            f"--positive_label {positive}: {path} has the labels {', '.join(labels.values())}; name the positive one"
        )
    if tokenizer.pad_token is None:
        raise UserError(f"--scorer {path}: its tokenizer has no padding token")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = model.to(device).eval()
    tokenizer.truncation_side = "left"  # the response is what is judged
    limit = longest_input(tokenizer, model.config)

    def score(samples: Sequence[Sample]) -> list[float]:
        texts = [sample.prompt + sample.response for sample in samples]
        return [
            value
            for start in tqdm(range(0, len(texts), _BATCH), desc="scoring", unit="batch")
            for value in _scores(model, tokenizer, texts[start : start + _BATCH], wanted[0], limit)
        ]

    identity = Target(path, path).sha256 or hashlib.sha256(path.encode()).hexdigest()
    return Scorer(
        f"{path}: probability of {labels[wanted[0]]}, of prompt + response",
        f"classifier-{identity[:16]}-{wanted[0]}",
        score,
    )


@torch.inference_mode()
def _scores(model: Any, tokenizer: Any, texts: Sequence[str], positive: int, limit: int) -> list[float]:
    """The probability p of the likeliest label where that is the positive one, else 1 - p (the paper's reward)."""
    inputs = tokenizer(list(texts), return_tensors="pt", padding=True, truncation=True, max_length=limit)
    best, label = model(**inputs.to(model.device)).logits.softmax(-1).max(-1)
    return torch.where(label == positive, best, 1 - best).tolist()
