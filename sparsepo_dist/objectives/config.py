"""What the objectives room is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparsepo_dist.ops.config import DivergenceForm

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
