"""Any objective with token masks: a token's log-ratio weighs m_u, its divergence m_d."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple, cast

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.errors import UserError
from sparsepo_dist.masks import OF_REFERENCE, MaskConfig, MaskSources, resolve_sources
from sparsepo_dist.objectives.base import (
    BatchObjective,
    Objective,
    ObjectiveOutput,
    Requirements,
    Sums,
)
from sparsepo_dist.objectives.config import ObjectiveConfig
from sparsepo_dist.objectives.margins import weighed
from sparsepo_dist.objectives.metrics import of_tokens, token_metrics
from sparsepo_dist.objectives.nll import WithLikelihood
from sparsepo_dist.objectives.registry import build_objective


@dataclasses.dataclass(frozen=True)
class Masked:
    """An objective that is defined without masks, over m_u log pi, m_u log pi_ref and m_d v.

    So rho becomes m_u rho, and the weights of an objective's own count besides. Means are over all tokens of a
    response, whatever they weigh: a mask of mean 1 leaves beta what it is.
    """

    objective: Objective
    reference: bool
    """Whether a mask asks the reference something."""

    @property
    def requirements(self) -> Requirements:
        """Those of the objective, and the reference where a mask asks it."""
        needs = self.objective.requirements
        return needs._replace(reference=needs.reference or self.reference, all_tokens=needs.all_tokens or needs.weighs)

    @torch.no_grad()
    def batch_values(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> Tensor:
        """[P, K]: what the objective needs means of, over masked tokens."""
        assert masks is not None
        return cast(BatchObjective, self.objective).batch_values(weighed(stats, masks), None, responses)

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        assert masks is not None
        if self.objective.requirements.weighs:
            losses, metrics = self.objective(stats, masks, responses)
        else:
            losses, metrics = self.objective(weighed(stats, masks), None, responses)
        own = {name: values for name, values in metrics.items() if not of_tokens(name)}
        return ObjectiveOutput(losses, {**token_metrics(stats, masks, Sums(responses)), **own})


class Composed(NamedTuple):
    """An objective with the masks that it is used with."""

    objective: Objective
    sources: MaskSources
    """What the masks are made from; none where there are none."""
    masks: MaskConfig
    """Their options, as they are used: without a divergence both masks are one."""


def compose(config: ObjectiveConfig, masks: MaskConfig) -> Composed:
    """The objective that a run's configuration asks for.

    Raises:
        UserError: as `build_objective` and `resolve_sources`; or masks would weigh nothing, or have no meaning there.
    """
    objective = build_objective(config)
    needs = objective.requirements
    sources = resolve_sources(needs.masks, masks, objective=config.name, preferences=needs.rejected)
    _check_signs(config.name, sources, masks)
    if {"learned", "random"} & set(sources) and needs.divergence is None:
        if masks.on == "divergence":
            raise UserError(
                f"masks.on: divergence leaves nothing to weigh in objective {config.name}, which has no divergence; "
                "leave it out"
            )
        masks = dataclasses.replace(masks, sharing="common", on="both")
    if sources and needs.masks is None:
        objective = _over(objective, reference=bool(set(OF_REFERENCE) & set(sources)))
    return Composed(objective, sources, masks)


def _check_signs(name: str, sources: MaskSources, masks: MaskConfig) -> None:
    """Raise UserError where negative weights would make odds of what is no logarithm of a probability."""
    signed = masks.normalisation in ("standardise", "layernorm") and not masks.clip
    if name == "orpo" and "activation" in sources and signed:
        raise UserError(
            f"masks.normalisation: {masks.normalisation} has negative weights, and orpo's odds are of probabilities: "
            "say --masks.clip true, or --masks.normalisation rescale"
        )
    if name == "orpo" and "guided" in sources:
        raise UserError(
            "masks.kind: guided has negative weights, and orpo's odds are of probabilities; take another kind, such as "
            "contrast or oracle"
        )


def _over(objective: Objective, *, reference: bool) -> Objective:
    """The masks within; the likelihood beside a preference loss is of all tokens."""
    if isinstance(objective, WithLikelihood):
        return dataclasses.replace(objective, preference=Masked(objective.preference, reference))
    return Masked(objective, reference)
