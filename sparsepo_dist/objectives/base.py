"""What every objective takes and returns, and the sums that all of them are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.ops import Divergence


class Requirements(NamedTuple):
    """What an objective needs computed before it is called."""

    reference: bool
    """Whether a reference model is loaded at all."""
    divergence: Divergence | None
    """Which divergence of each token, if any."""
    masks: str | None
    """"learned", "activation", "oracle", "guided", "contrast" or None: the kind of token mask the loss is defined
    with."""
    weighs: bool = False
    """Whether a loss that is defined without masks takes them and weighs part of itself by them, the rest being of
    every token; others are given statistics that are weighed."""
    rejected: bool = True
    """Whether rejected responses are used."""
    scores: bool = False
    """Whether every pair must have a chosen_score above its rejected_score."""
    global_means: bool = False
    """Whether the loss needs means over the global batch: the objective is then a BatchObjective."""
    squares: bool = False
    """Whether the sums of squared probabilities are needed."""
    all_tokens: bool = False
    """Whether tokens that both masks rule out are computed all the same, in every step."""
    momentum: float = 0.0
    """Of the moving average of those means over training steps: history <- momentum history + (1 - momentum) means."""


MOMENTUM = 0.9
MOVING_MEANS = Requirements(reference=True, divergence=None, masks=None, global_means=True, momentum=MOMENTUM)
"""Of a loss against the reference whose constants follow moving averages over training steps."""


class ObjectiveOutput(NamedTuple):
    """Per-pair results; a batch's loss is the mean over the pairs of the global batch."""

    losses: Tensor
    """[P], differentiable."""
    metrics: dict[str, Tensor]
    """Name to [P] values, detached."""


class Objective(Protocol):
    """A pure function of statistics to per-pair losses: no model, no device, no distributed call."""

    @property
    def requirements(self) -> Requirements:
        """What must be in the statistics."""
        ...

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> ObjectiveOutput:
        """Losses of P pairs from N response tokens."""
        ...


class BatchObjective(Objective, Protocol):
    """An objective whose loss of one pair depends on means over the whole global batch."""

    def batch_values(self, stats: TokenStats, masks: TokenMasks | None, responses: Responses) -> Tensor:
        """[P, K] values, without gradient, whose means over the global batch come back as responses.global_means."""
        ...


def moving_means(responses: Responses) -> Tensor:
    """[K]: the moving average of global means with this step's taken in; these alone where there is no history."""
    assert responses.global_means is not None
    now, before = responses.global_means.detach(), responses.history
    return now if before is None else MOMENTUM * before + (1 - MOMENTUM) * now


class BranchSums(NamedTuple):
    """Sums over the tokens of each chosen and each rejected response, [P] each."""

    chosen: Tensor
    rejected: Tensor

    @property
    def margin(self) -> Tensor:
        """[P]: chosen minus rejected."""
        return self.chosen - self.rejected


@dataclass(frozen=True)
class Sums:
    """Sums per response: S_c and S_r of docs/objectives.md."""

    responses: Responses
    lengths: BranchSums = field(init=False)
    """Number of response tokens."""

    def __post_init__(self) -> None:
        ids = self.responses.sequence_id
        object.__setattr__(self, "lengths", self(ids.new_ones(len(ids))))

    def __call__(self, values: Tensor) -> BranchSums:
        """Sum `values` [N] per response."""
        pairs = self.responses.pairs
        sums = values.new_zeros(2 * pairs).index_add(0, self.responses.sequence_id, values).view(pairs, 2)
        return BranchSums(sums[:, 0], sums[:, 1])

    def mean(self, values: Tensor) -> BranchSums:
        """Mean of `values` [N] per response; 0 for an empty response."""
        total = self(values)
        return BranchSums(*(part / length.clamp(min=1) for part, length in zip(total, self.lengths, strict=True)))
