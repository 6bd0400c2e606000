"""What every objective takes and returns, and the sums that all of them are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.ops import Divergence, DivergenceForm

PreferenceForm = Literal[
    "sigmoid", "hinge", "ipo", "robust", "ipo_sum", "norm", "exo", "nca", "bco_pair", "sppo", "apo_zero", "apo_down",
    "discopop",
]  # fmt: skip

FDivergence = Literal["alpha", "js"]


@dataclass
class ObjectiveConfig:
    """Which loss is minimised, and its constants. Formulas, and which field is for which loss: docs/objectives.md."""

    name: str = "sparsepo"
    """sparsepo, mapo, tdpo1, tdpo2, sepo, tgdpo, tis_dpo, dpo, wpo, dpop, odpo, beta_dpo, kto, bco, ld_dpo, sampo,
    d2po, f_dpo, simpo, alpha_dpo, alphapo, confpo, orpo or sft."""
    beta: float | None = None
    """Strength of the pull towards the reference, the papers' beta; the scale of the reward in simpo, the weight of the
    odds ratio in orpo. Where not given, 2.5 in simpo and its kin and 0.1 elsewhere."""
    divergence: DivergenceForm | Literal["alpha"] = "policy"
    """Token divergence of sparsepo and mapo: `policy` is KL(pi || pi_ref) as in the paper's Eq. 6-8,
    `reference` is -KL(pi_ref || pi) as in the released implementation, `alpha` an alpha-divergence between them."""
    form: PreferenceForm = "sigmoid"
    """Loss of dpo and wpo as a function of the log-ratios: `sigmoid` is DPO itself, `hinge` as in SLiC, `ipo` squared
    and averaged over tokens, `ipo_sum` summed, `robust` unbiased under flipped labels, `norm` averaged over tokens;
    exo, nca, bco_pair, sppo, apo_zero, apo_down and discopop as in their papers."""
    label_smoothing: float = 0.0
    """Share of labels taken to be wrong, in dpo and wpo with form sigmoid (conservative DPO), robust or exo; below
    0.5."""
    tau: float = 0.05
    """How soon form discopop passes from its logistic to its exponential part, in units of the margin; at most 1."""
    alpha: float | None = None
    """Weight of the divergence in tdpo2 (0.5 where not given; the paper: 0.7 for sentiment, 0.5 elsewhere), of the
    offset in odpo (1.0), of the batch's margin in beta_dpo (0.6), of the longer response's surplus tokens in ld_dpo
    (0.5); which divergence is meant in f_dpo (0.5: between reverse KL, 0, and forward KL, 1); the shape of the reward
    in alphapo (0.25); how far the margin follows the reference in alpha_dpo (0.05); weight of the divergence in tis_dpo
    (1.0); the order of sparsepo's and mapo's divergence alpha, between 0 and 1 (0.5)."""
    f_divergence: FDivergence = "alpha"
    """What holds the policy near the reference in f_dpo: an `alpha` divergence, or `js`, Jensen-Shannon's."""
    gamma: float | None = None
    """Margin that simpo, alpha_dpo, alphapo and confpo ask for between the rewards (0.3 where not given; the paper for
    simpo: 0.3 for dialogue, 0.3 and 1 for sentiment); what a token weighs of the one before it in d2po (0.98)."""
    seed: int = 0
    """Which tokens sampo draws."""
    nll_weight: float = 0.0
    """Weight of the chosen response's mean -log pi beside a preference loss, as in iterative RPO; not in orpo and
    sft, which have it already."""
    penalty: float = 50.0
    """Weight of dpop's penalty on a chosen response that loses likelihood; its paper's lambda."""
    desirable_weight: float = 1.0
    """Weight of the chosen responses in kto."""
    undesirable_weight: float = 1.0
    """Weight of the rejected responses in kto."""
    l1_reward: float = 0.0
    """L1 penalty on sparsepo's learned reward mask, per response token (the paper: 0.001 for dialogue)."""
    l1_divergence: float = 0.0
    """L1 penalty on sparsepo's learned divergence mask."""


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


def moving_means(responses: Responses, momentum: float) -> Tensor:
    """[K]: the moving average of global means with this step's taken in; these alone where there is no history."""
    assert responses.global_means is not None
    now, before = responses.global_means.detach(), responses.history
    return now if before is None else momentum * before + (1 - momentum) * now


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
