"""What may be wrong with the pairs of a data set, in numbers: repetitions, leaks, responses that differ in length."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from sparsepo_dist.inspection.measures import Measures, Whole

PERCENTS = (0, 5, 25, 50, 75, 95, 99, 100)


def spread(values: npt.NDArray[Any]) -> dict[str, float] | None:
    """Percentiles, by linear interpolation, and mean; None of no values."""
    if not len(values):
        return None
    names = [f"p{percent}" for percent in PERCENTS]
    return {**dict(zip(names, np.percentile(values, PERCENTS).tolist(), strict=True)), "mean": float(values.mean())}


def lengths(measures: Measures) -> dict[str, Any]:
    """Tokens, before anything is cut."""
    return {
        "prompt": spread(measures.prompt),
        "chosen": spread(measures.chosen),
        "rejected": spread(measures.rejected[measures.two]),
        "prompt_and_longer_response": spread(measures.prompt + measures.response),
    }


def repetitions(measures: Measures) -> dict[str, int]:
    """How often the same stands there again."""
    first = np.diff(measures.row, prepend=-1) > 0
    prompts = measures.prompt_key[first]
    chosen, rejected = _behind_prompt(measures)
    two = measures.two
    return {
        "pairs_again": len(measures) - len(np.unique(measures.pair_key)),
        "rows": int(first.sum()),
        "prompts_again": len(prompts) - len(np.unique(prompts)),
        "contradicted_pairs": int((np.isin(chosen, rejected[two]) | (np.isin(rejected, chosen) & two)).sum()),
        "responses_on_both_sides": len(np.intersect1d(measures.chosen_key, measures.rejected_key[two])),
    }


def leakage(train: Measures, heldout: Measures) -> dict[str, int]:
    """How many held-out pairs are not new to a model that was trained on others."""
    return {
        "pairs": len(heldout),
        "prompts_in_train": int(np.isin(heldout.prompt_key, train.prompt_key).sum()),
        "pairs_in_train": int(np.isin(heldout.pair_key, train.pair_key).sum()),
    }


def sides(measures: Measures) -> dict[str, Any] | None:
    """How chosen responses differ from rejected ones before they are read; None where there are no rejected ones."""
    of = measures.of(measures.two)
    if not len(of):
        return None
    longer = of.chosen - of.rejected
    return {
        "pairs": len(of),
        "shared_first_tokens": {"pairs": int((of.shared > 0).sum()), "mean": float(of.shared.mean())},
        "chosen_longer": int((longer > 0).sum()),
        "equally_long": int((longer == 0).sum()),
        "mean_difference": float(longer.mean()),
    }


def score_gaps(measures: Measures) -> dict[str, Any] | None:
    """Chosen score minus rejected score; None where there are none."""
    gap = measures.gap[~np.isnan(measures.gap)]
    if not len(gap):
        return None
    return {"pairs": len(gap), "ties": int((gap == 0).sum()), "negative": int((gap < 0).sum()), "gap": spread(gap)}


def _behind_prompt(measures: Measures) -> tuple[Whole, Whole]:
    """Keys of both responses, each with its prompt's."""
    prompt = measures.prompt_key * np.int64(0x1E3779B97F4A7C15)  # odd, so that no two prompts fall together; it wraps
    return prompt + measures.chosen_key, prompt + measures.rejected_key
