"""Did it work? Rewards of both models on unseen prompts, and how far the trained one went: its response-level KL."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsepo_dist.builtin.prompts import UNSEEN, unseen_prompts
from sparsepo_dist.builtin.rewards import SCORER, rewards
from sparsepo_dist.evaluation.divergence import ReferenceKL
from sparsepo_dist.sampling.responses import Sample
from sparsepo_dist.sampling.transformers import sample

RESAMPLES = 10_000
SHOWN = 5


def evaluate(reference: Path, trained: Path, sparsity: dict[str, float]) -> dict[str, Any]:
    """The content of evaluation.json: mean rewards, their difference with its 95 % interval, response-level KL.

    `sparsity` (of the masks on held-out pairs, from the training's metrics) is passed through. Rewards are VADER's, in
    [-1, 1]; the KL is in nats.

    Raises:
        UserError: a model cannot be loaded, or vaderSentiment is not installed.
    """
    prompts = unseen_prompts(UNSEEN.prompts)
    samples = {
        name: sample(path, prompts, UNSEEN.samples, seed=UNSEEN.seed, description=f"sampling the {name} model")
        for name, path in (("reference", reference), ("trained", trained))
    }
    scores = {name: rewards(s.response for s in part) for name, part in samples.items()}
    before, after = (np.reshape(scores[name], (len(prompts), -1)) for name in ("reference", "trained"))
    mean, low, high = bootstrap_difference(before, after)
    return {
        "scorer": SCORER,
        "prompts": len(prompts),
        "samples_per_prompt": UNSEEN.samples,
        **{
            name: {"mean_reward": float(np.mean(scores[name])), "examples": _examples(samples[name], scores[name])}
            for name in samples
        },
        "response_kl": response_kl(reference, trained, samples["trained"]),
        "difference": {"mean": mean, "low": low, "high": high},
        "sparsity": sparsity,
    }


def bootstrap_difference(before: np.ndarray, after: np.ndarray, seed: int = 0) -> tuple[float, float, float]:
    """Mean difference of rewards [prompts, samples] and its 95 % interval, resampling whole prompts.

    Samples of one prompt resemble each other, so a prompt is the unit that is drawn.
    """
    differences = after.mean(1) - before.mean(1)
    draws = np.random.default_rng(seed).integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(differences[draws].mean(1), [0.025, 0.975])
    return float(differences.mean()), float(low), float(high)


def response_kl(reference: Path, trained: Path, samples: Sequence[Sample]) -> float:
    """Mean over responses of the summed token KL(pi || pi_ref), in nats, on responses the trained model sampled.

    Raises:
        UserError: a model cannot be loaded, or their vocabularies differ.
    """
    return float(np.mean(ReferenceKL(reference).per_response(trained, samples)))


def _examples(samples: Sequence[Sample], scores: Sequence[float]) -> list[dict[str, Any]]:
    """The first sample of the first few prompts: not chosen by their reward."""
    step = UNSEEN.samples
    return [
        {"prompt": s.prompt, "response": s.response, "reward": score}
        for s, score in list(zip(samples, scores, strict=True))[: SHOWN * step : step]
    ]


def write_evaluation(result: dict[str, Any], run: Path) -> None:
    """evaluation.json in the run's folder."""
    (run / "evaluation.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
