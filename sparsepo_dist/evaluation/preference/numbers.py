"""What rewards and preferences come to: rows of the table, all shares in [0, 1]."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparsepo_dist.evaluation.preference.judge import Judged
from sparsepo_dist.evaluation.preference.length_control import length_controlled
from sparsepo_dist.evaluation.preference.resampling import mean_interval
from sparsepo_dist.report.interval import wilson

Row = dict[str, Any]


def of_pairs(
    log_ratios: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[float]],
    own: Sequence[Sequence[float]] | None,
    prompts: Sequence[int],
    beta: float,
) -> Row:
    """Accuracies and margins of P pairs.

    Args:
        log_ratios: [P, 2]: of the chosen and of the rejected response, in nats, summed.
        lengths: [P, 2]: their tokens.
        own: [P, 2]: their rewards by the run's own objective, where it has any.
        prompts: [P]: the prompt of each, counted from 0.
        beta: what log-ratios are multiplied with.
    """
    plain = [(beta * chosen, beta * rejected) for chosen, rejected in log_ratios]
    per_token = [
        tuple(reward / max(count, 1) for reward, count in zip(both, counts, strict=True))
        for both, counts in zip(plain, lengths, strict=True)
    ]
    found = {"pairs": len(plain), "prompts": len(set(prompts)), **_of_rewards("", plain, prompts)}
    found |= _of_rewards("length_normalised_", per_token, prompts)
    return found if own is None else found | _of_rewards("own_", own, prompts)


def _of_rewards(prefix: str, rewards: Sequence[Sequence[float]], prompts: Sequence[int]) -> Row:
    right = [float(chosen > rejected) for chosen, rejected in rewards]
    margins = [chosen - rejected for chosen, rejected in rewards]
    one_each = len(set(prompts)) == len(prompts)
    low, high = wilson(sum(right), len(right)) if one_each else mean_interval(right, prompts)
    margin_low, margin_high = mean_interval(margins, prompts)
    return {
        f"{prefix}accuracy": sum(right) / len(right), f"{prefix}accuracy_low": low, f"{prefix}accuracy_high": high,
        f"{prefix}ties": sum(margin == 0 for margin in margins),
        f"{prefix}margin": sum(margins) / len(margins), f"{prefix}margin_low": margin_low,
        f"{prefix}margin_high": margin_high,
    }  # fmt: skip


def of_rewards(
    rewards: Sequence[float], others: Sequence[float], responses: Sequence[str], against: Sequence[str],
    prompts: Sequence[int],
) -> Row:  # fmt: skip
    """Win rates of responses whose reward is higher than the other's; a tie is half a win."""
    preferences = [0.5 if one == other else float(one > other) for one, other in zip(rewards, others, strict=True)]
    return _of_preferences("", preferences, responses, against, prompts)


def of_judged(
    judged: Sequence[Judged], responses: Sequence[str], against: Sequence[str], prompts: Sequence[int]
) -> Row:  # fmt: skip
    """Win rates by a judge; comparisons with an answer that holds no verdict are left out and counted."""
    counts = {
        "judge_invalid": sum(one.invalid for one in judged),
        "judge_swayed": sum(one.swayed for one in judged),
    }
    kept = [place for place, one in enumerate(judged) if one.preference is not None]
    if not kept:
        return {**counts, "judge_comparisons": 0}
    renumbered = {prompt: place for place, prompt in enumerate(dict.fromkeys(prompts[i] for i in kept))}
    preferences = [judged[i].preference or 0.0 for i in kept]
    rates = _of_preferences(
        "judge_", preferences, [responses[i] for i in kept], [against[i] for i in kept],
        [renumbered[prompts[i]] for i in kept],
    )  # fmt: skip
    return {**rates, **counts}


def _of_preferences(
    prefix: str, preferences: Sequence[float], responses: Sequence[str], against: Sequence[str], prompts: Sequence[int]
) -> Row:
    ours, theirs = list(map(len, responses)), list(map(len, against))
    low, high = mean_interval(preferences, prompts)
    found: Row = {
        f"{prefix}comparisons": len(preferences), f"{prefix}win_rate": sum(preferences) / len(preferences),
        f"{prefix}win_rate_low": low, f"{prefix}win_rate_high": high,
        f"{prefix}win_ties": sum(value == 0.5 for value in preferences),
        f"{prefix}characters": sum(ours) / len(ours), f"{prefix}characters_against": sum(theirs) / len(theirs),
    }  # fmt: skip
    controlled = length_controlled(preferences, ours, theirs, prompts)
    if isinstance(controlled, str):
        return {**found, f"{prefix}lc_missing": controlled}
    return found | {
        f"{prefix}lc_win_rate": controlled.rate, f"{prefix}lc_win_rate_low": controlled.low,
        f"{prefix}lc_win_rate_high": controlled.high,
    }  # fmt: skip
