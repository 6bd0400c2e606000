"""Implicit rewards of pairs: the log-ratio of every response token to the reference, summed over a response."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenizedPair, TokenMasks
from sparsepo_dist.engines.saving import MASKS
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.divergence import Compared, ReferenceComparison
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.masks import MaskConfig, ReferenceReadings, TokenMasker, oracles_of
from sparsepo_dist.objectives import Objective, ObjectiveConfig, Requirements, compose
from sparsepo_dist.objectives.base import Sums
from sparsepo_dist.objectives.margins import log_ratios

Both = tuple[float, float]
"""Of the chosen and of the rejected response."""


class Rewards(NamedTuple):
    """What a model says of pairs, in their order."""

    log_ratios: list[Both]
    """Sums over a response's tokens, in nats."""
    lengths: list[Both]
    """Response tokens that are trained on."""
    own: list[Both] | None
    """Rewards as the run's own objective and masks have them; None where they cannot be had."""


class OwnReward(NamedTuple):
    """How the objective that a model was trained by rewards responses."""

    of: Callable[[Compared], tuple[Tensor, Tensor]]
    """[P] of chosen and of rejected responses."""
    needs: Requirements
    """What of the statistics it is made of."""
    readings: ReferenceReadings | None
    """What its masks are made of."""


@torch.inference_mode()
def implicit_rewards(
    comparison: ReferenceComparison, one: Target, pairs: Sequence[TokenizedPair], own: OwnReward | None
) -> Rewards:
    """Rewards of pairs by a model.

    Raises:
        UserError: the model cannot be loaded, has another vocabulary than the reference, or gives a reward that is no
            finite number.
    """
    found = Rewards([], [], None if own is None else [])
    for compared in comparison.of(
        one.model, pairs, adapter=one.adapter, description=f"rewards by {one.name}",
        divergence=None if own is None else own.needs.divergence, squares=own is not None and own.needs.squares,
        readings=None if own is None else own.readings,
    ):  # fmt: skip
        sums = Sums(compared.batch.responses)
        found.log_ratios.extend(_both(sums(log_ratios(compared.stats).double())))
        found.lengths.extend(_both(sums.lengths))
        if own is not None and found.own is not None:
            found.own.extend(_both(own.of(compared)))
    for number, values in enumerate(zip(found.log_ratios, found.own or found.log_ratios, strict=True), start=1):
        if not all(math.isfinite(value) for both in values for value in both):
            raise UserError(f"--model: {one.name}: pair {number} of {len(pairs)} has a reward that is no finite number")
    return found


def _both(sides: tuple[Tensor, Tensor]) -> list[Both]:
    return list(zip(*(side.tolist() for side in sides), strict=True))


def own_reward(
    config: Mapping[str, Any], one: Target, comparison: ReferenceComparison
) -> OwnReward | str:  # fmt: skip
    """The reward as the run that a model is of defines it, or why it cannot be had.

    Args:
        config: the run's resolved configuration.

    Raises:
        UserError: the configuration is of another version, or the masks' file cannot be read.
    """
    try:
        settings = ObjectiveConfig(**config["objective"])
        masks = MaskConfig(**(config.get("masks") or {}))
    except TypeError as error:
        raise UserError(f"--model: {one.name}: its run's configuration is of another version ({error})") from None
    objective, sources, masks = compose(settings, masks)
    needs = objective.requirements
    if not needs.rejected:
        return f"{settings.name} rewards no responses"
    if oracles_of(sources):
        return "its masks are an oracle's, which is not loaded here"
    if not sources:
        return OwnReward(_rewarding(objective, None), needs, None)
    file = Path(one.adapter or one.model) / MASKS
    if "learned" in sources and not file.is_file():
        return f"its learned masks are not beside it ({MASKS}); a run's final/ has them"
    readings = comparison.readings(sources, masks)
    masker = TokenMasker(sources, masks, readings, (config.get("training") or {}).get("seed", 0))
    if masker.heads is not None:
        _load_heads(masker.heads, file)
    return OwnReward(_rewarding(objective, masker.to(comparison.device).eval()), needs, readings)


def _load_heads(heads: torch.nn.Module, file: Path) -> None:
    try:
        heads.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"--model: {file}: the masks do not fit the run's configuration: {error}") from None


def _rewarding(objective: Objective, masker: TokenMasker | None) -> Callable[[Compared], tuple[Tensor, Tensor]]:
    def rewards(compared: Compared) -> tuple[Tensor, Tensor]:
        batch, stats, reference = compared
        masks = None
        if masker is not None:
            # By the optimizer steps done fresh random masks are drawn, and there are none here.
            reward, divergence = masker(reference, batch, 0)
            masks = TokenMasks(reward, divergence, common=masker.common, floor=masker.floor)
        metrics = objective(stats, masks, _informed(objective, compared, masks)).metrics
        return metrics["rewards/chosen"], metrics["rewards/rejected"]

    return rewards


def _informed(objective: Any, compared: Compared, masks: TokenMasks | None) -> Responses:
    """With what losses depend on, and rewards do not: means over the global batch, and scores of the data."""
    responses, needs = compared.batch.responses, objective.requirements
    if needs.scores and responses.scores is None:
        apart = torch.tensor([1.0, 0.0], device=responses.sequence_id.device).expand(responses.pairs, 2)
        responses = dataclasses.replace(responses, scores=apart)
    if needs.global_means:
        means = objective.batch_values(compared.stats, masks, responses).mean(0)
        responses = dataclasses.replace(responses, global_means=means)
    return responses
