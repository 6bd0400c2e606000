"""What every objective takes and returns, and the sums that all of them are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from torch import Tensor

from sparsepo_dist.contracts import TokenMasks, TokenStats
from sparsepo_dist.ops import DivergenceForm


@dataclass
class ObjectiveConfig:
    """Which loss is minimised, and its constants. Formulas: docs/objectives.md."""

    name: str = "sparsepo"
    """sparsepo, mapo, tdpo1, tdpo2, dpo or sft."""
    beta: float = 0.1
    """Strength of the pull towards the reference; the paper's beta."""
    divergence: DivergenceForm = "policy"
    """Token divergence of sparsepo and mapo: `policy` is KL(pi || pi_ref) as in the paper's Eq. 6-8,
    `reference` is -KL(pi_ref || pi) as in the released implementation."""
    alpha: float = 0.5
    """Weight of the divergence in tdpo2 (the paper: 0.7 for sentiment, 0.5 elsewhere)."""
    l1_reward: float = 0.0
    """L1 penalty on the learned reward mask, per response token (the paper: 0.001 for dialogue)."""
    l1_divergence: float = 0.0
    """L1 penalty on the learned divergence mask."""


class Requirements(NamedTuple):
    """What an objective needs computed before it is called."""

    reference: bool
    """Whether a reference model is loaded at all."""
    divergence: DivergenceForm | None
    """Which expected log-ratio, if any."""
    masks: str | None
    """"learned", "activation" or None: the kind of token mask the loss is defined with."""
    rejected: bool
    """Whether rejected responses are used."""


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

    def __call__(self, stats: TokenStats, masks: TokenMasks | None, sequence_id: Tensor, pairs: int) -> ObjectiveOutput:
        """Losses of `pairs` pairs from N response tokens; `sequence_id` [N] is 2 * pair + (0 chosen | 1 rejected)."""
        ...


class BranchSums(NamedTuple):
    """Sums over the tokens of each chosen and each rejected response, [P] each."""

    chosen: Tensor
    rejected: Tensor


@dataclass(frozen=True)
class Sums:
    """Sums per response: S_c and S_r of FACTS.md."""

    sequence_id: Tensor
    pairs: int
    lengths: BranchSums = field(init=False)
    """Number of response tokens."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "lengths", self(self.sequence_id.new_ones(len(self.sequence_id))))

    def __call__(self, values: Tensor) -> BranchSums:
        """Sum `values` [N] per response."""
        sums = values.new_zeros(2 * self.pairs).index_add(0, self.sequence_id, values).view(self.pairs, 2)
        return BranchSums(sums[:, 0], sums[:, 1])

    def mean(self, values: Tensor) -> BranchSums:
        """Mean of `values` [N] per response; 0 for an empty response."""
        total = self(values)
        return BranchSums(*(part / length.clamp(min=1) for part, length in zip(total, self.lengths, strict=True)))
