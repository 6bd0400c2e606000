"""Every objective with its settings, and random batches to try them on. N response tokens, P pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenMasks, TokenStats
from sparsepo_dist.masks.positions import sampled
from sparsepo_dist.objectives import Objective, ObjectiveConfig, ObjectiveOutput, build_objective
from sparsepo_dist.ops import Head, token_stats
from tests.support.brute_force import Response

VOCABULARY, WIDTH = 9, 4
LENGTHS = [(3, 5), (1, 1), (4, 2)]
# With it, some chosen responses have lost likelihood and others not, and KTO's estimates of the KL are above 0.
SEED = 134
HISTORY = -0.4
MOMENTS = (-0.4, 0.7)
"""The same of AlphaDPO's M and M^2."""
DRAW = 5
CONSTANTS: dict[str, Any] = {
    "beta": 0.7, "alpha": 0.5, "gamma": 0.3, "penalty": 2.0, "smoothing": 0.1, "desirable": 1.3, "undesirable": 0.6,
    "l1_u": 0.03, "l1_d": 0.05, "history": HISTORY, "moments": MOMENTS, "nll": 0.4, "tau": 0.3,
}  # fmt: skip
_L1 = {"l1_reward": CONSTANTS["l1_u"], "l1_divergence": CONSTANTS["l1_d"]}
_SMOOTHING = {"label_smoothing": CONSTANTS["smoothing"]}
CASES: dict[str, dict[str, Any]] = {
    "sft": {"name": "sft"},
    "dpo": {"name": "dpo"},
    "dpo_smoothed": {"name": "dpo", **_SMOOTHING},
    "dpo_robust": {"name": "dpo", "form": "robust", **_SMOOTHING},
    "dpo_hinge": {"name": "dpo", "form": "hinge"},
    "dpo_ipo": {"name": "dpo", "form": "ipo"},
    "dpo_ipo_sum": {"name": "dpo", "form": "ipo_sum"},
    "dpo_norm": {"name": "dpo", "form": "norm"},
    "dpo_exo": {"name": "dpo", "form": "exo", **_SMOOTHING},
    "dpo_nca": {"name": "dpo", "form": "nca"},
    "dpo_bco_pair": {"name": "dpo", "form": "bco_pair"},
    "dpo_sppo": {"name": "dpo", "form": "sppo"},
    "dpo_apo_zero": {"name": "dpo", "form": "apo_zero"},
    "dpo_apo_down": {"name": "dpo", "form": "apo_down"},
    "dpo_discopop": {"name": "dpo", "form": "discopop", "tau": CONSTANTS["tau"]},
    "wpo": {"name": "wpo"},
    "wpo_ipo": {"name": "wpo", "form": "ipo"},
    "dpop": {"name": "dpop", "penalty": CONSTANTS["penalty"]},
    "odpo": {"name": "odpo", "alpha": CONSTANTS["alpha"]},
    "beta_dpo": {"name": "beta_dpo", "alpha": CONSTANTS["alpha"]},
    "dpo_nll": {"name": "dpo", "nll_weight": CONSTANTS["nll"]},
    "ld_dpo": {"name": "ld_dpo", "alpha": CONSTANTS["alpha"]},
    "sampo": {"name": "sampo", "seed": DRAW},
    "d2po": {"name": "d2po", "gamma": CONSTANTS["gamma"]},
    "kto": {"name": "kto", "desirable_weight": CONSTANTS["desirable"], "undesirable_weight": CONSTANTS["undesirable"]},
    "f_dpo_alpha": {"name": "f_dpo", "alpha": CONSTANTS["alpha"]},
    "f_dpo_js": {"name": "f_dpo", "f_divergence": "js"},
    "alphapo": {"name": "alphapo", "gamma": CONSTANTS["gamma"], "alpha": CONSTANTS["alpha"]},
    "confpo": {"name": "confpo", "gamma": CONSTANTS["gamma"]},
    "simpo": {"name": "simpo", "gamma": CONSTANTS["gamma"]},
    "orpo": {"name": "orpo"},
    "tdpo1": {"name": "tdpo1"},
    "tdpo2": {"name": "tdpo2", "alpha": CONSTANTS["alpha"]},
    "sepo": {"name": "sepo"},
    "sparsepo": {"name": "sparsepo", "divergence": "policy", **_L1},
    "sparsepo_released": {"name": "sparsepo", "divergence": "reference", **_L1},
    "sparsepo_alpha": {"name": "sparsepo", "divergence": "alpha", "alpha": 0.5, **_L1},
    "mapo": {"name": "mapo", "divergence": "policy"},
    "tgdpo": {"name": "tgdpo"},
    "tis_dpo": {"name": "tis_dpo", "alpha": CONSTANTS["alpha"]},
    "tis_dpo_released": {"name": "tis_dpo", "alpha": 0.0},
    "bco": {"name": "bco"},
    "alpha_dpo": {"name": "alpha_dpo", "gamma": CONSTANTS["gamma"], "alpha": CONSTANTS["alpha"]},
}


def objective_of(case: str, **changes: Any) -> Objective:
    """The objective of one of the cases, with beta as in CONSTANTS."""
    settings = {**({} if case == "sft" else {"beta": CONSTANTS["beta"]}), **CASES[case], **changes}
    return build_objective(ObjectiveConfig(**settings))


def apply(
    objective: Any, stats: TokenStats, masks: TokenMasks | None, responses: Responses, history: float | None = HISTORY,
    *, masked: bool = False,
) -> ObjectiveOutput:  # fmt: skip
    """Losses where `responses` are the whole global batch, each pair weighing the same."""
    masks = masks if masked or objective.requirements.masks else None
    if objective.requirements.global_means:
        responses = informed(responses, objective.batch_values(stats, masks, responses).mean(0), history)
    return objective(stats, masks, responses)


def informed(responses: Responses, means: Tensor, history: float | None = HISTORY) -> Responses:
    """With means over the global batch, and a moving average of earlier steps'."""
    before = None if history is None else torch.full_like(means, history)
    if history == HISTORY and len(means) == len(MOMENTS):
        before = torch.tensor(MOMENTS, dtype=means.dtype)
    return dataclasses.replace(responses, global_means=means, history=before)


def sequence_ids(lengths: Sequence[tuple[int, int]]) -> Tensor:
    """[N] from (chosen, rejected) lengths."""
    flat = torch.tensor([length for pair in lengths for length in pair])
    return torch.arange(len(flat)).repeat_interleave(flat)


class Batch:
    """Statistics as leaves: what an objective is a function of, without a model."""

    def __init__(
        self, lengths: Sequence[tuple[int, int]] = LENGTHS, seed: int = SEED, dtype: torch.dtype = torch.float64
    ) -> None:
        g = torch.Generator().manual_seed(seed)
        ids = sequence_ids(lengths)
        draw = [torch.randn(len(ids), generator=g, dtype=torch.float64).to(dtype) for _ in range(5)]
        self.policy = (-draw[0].abs() - 0.1).requires_grad_()
        self.reference = -draw[1].abs() - 0.1
        self.divergence = draw[2].abs().requires_grad_()
        self.m_u, self.m_d = (mask.relu().requires_grad_() for mask in draw[3:])
        self.log_squares = -0.5 - 0.1 * draw[3].abs()
        scores = torch.rand(len(lengths), 2, generator=g).sort(dim=1, descending=True).values
        self.responses = Responses(ids, len(lengths), scores, keys=17 * torch.arange(len(lengths)))

    def leaves(self) -> list[Tensor]:
        return [self.policy, self.divergence, self.m_u, self.m_d]

    def stats(self, objective: Objective) -> TokenStats:
        needs = objective.requirements
        v = {None: None, "reference": -self.divergence}.get(needs.divergence, self.divergence)
        reference = self.reference if needs.reference else None
        return TokenStats(self.policy, reference, v, log_squares=self.log_squares if needs.squares else None)

    def apply(self, objective: Objective, **kwargs: Any) -> ObjectiveOutput:
        return apply(objective, self.stats(objective), TokenMasks(self.m_u, self.m_d), self.responses, **kwargs)

    def part(self, pairs: Sequence[int]) -> Batch:
        """Some of the pairs, sharing their leaves' values."""
        ids = self.responses.sequence_id
        rows = torch.cat([torch.nonzero(ids // 2 == pair).squeeze(-1) for pair in pairs])
        part = Batch([(0, 0)] * len(pairs))
        for name in ("policy", "reference", "divergence", "m_u", "m_d", "log_squares"):
            setattr(part, name, getattr(self, name)[rows])
        place = {pair: i for i, pair in enumerate(pairs)}
        new_ids = torch.tensor([2 * place[i // 2] + i % 2 for i in ids[rows].tolist()], dtype=torch.int64)
        assert self.responses.scores is not None and self.responses.keys is not None
        some = list(pairs)
        part.responses = Responses(new_ids, len(pairs), self.responses.scores[some], keys=self.responses.keys[some])
        return part


class ModelBatch:
    """Random hidden rows, a head and masks of three pairs of uneven length."""

    def __init__(self, seed: int = 3) -> None:
        g = torch.Generator().manual_seed(seed)
        self.sequence_id = sequence_ids(LENGTHS)
        tokens = len(self.sequence_id)
        self.hidden = torch.randn(tokens, WIDTH, generator=g, dtype=torch.float64, requires_grad=True)
        self.weight = torch.randn(VOCABULARY, WIDTH, generator=g, dtype=torch.float64, requires_grad=True)
        self.ref_hidden = torch.randn(tokens, WIDTH, generator=g, dtype=torch.float64)
        self.labels = torch.randint(VOCABULARY, (tokens,), generator=g)
        masks = torch.randn(2, tokens, generator=g, dtype=torch.float64).relu()
        self.m_u, self.m_d = (m.clone().requires_grad_() for m in masks)
        self.scores = torch.tensor([[1.5, 0.25], [0.5, -2.0], [3.0, 2.75]])
        self.responses = Responses(self.sequence_id, len(LENGTHS), self.scores, keys=torch.tensor([seed, 3, 8]))

    def apply(
        self, objective: Objective, common: bool = False, history: float | None = HISTORY, *, masked: bool = False
    ) -> ObjectiveOutput:
        needs = objective.requirements
        reference = (self.ref_hidden, Head(self.weight.detach())) if needs.reference else (None, None)
        stats = token_stats(
            self.hidden, Head(self.weight), self.labels, *reference, divergence=needs.divergence, squares=needs.squares
        )
        masks = TokenMasks(self.m_u, self.m_u if common else self.m_d, common)
        return apply(objective, stats, masks, self.responses, history, masked=masked)

    def pairs(self, common: bool = False) -> list[tuple[Response, Response]]:
        """The same for the brute force."""
        sides, drawn = [], sampled(self.responses, DRAW, torch.float64)
        for sequence in range(2 * len(LENGTHS)):
            rows = (self.sequence_id == sequence).nonzero().squeeze(-1)
            sides.append(
                Response(
                    self.hidden[rows] @ self.weight.T, self.ref_hidden[rows] @ self.weight.detach().T,
                    self.labels[rows].tolist(), self.m_u[rows], (self.m_u if common else self.m_d)[rows],
                    self.scores.flatten()[sequence].item(), drawn[rows],
                )
            )  # fmt: skip
        return list(zip(sides[::2], sides[1::2], strict=True))

    def leaves(self) -> list[Tensor]:
        return [self.hidden, self.weight, self.m_u, self.m_d]
