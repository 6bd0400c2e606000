"""FACTS.md's formulas in float64 over full logits, pair by pair and token by token: slow, plain and independent.

Nothing here imports the package: a mistake there cannot hide here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Response:
    """One response: policy and reference logits [n, V] at the positions that predict it, its tokens, its masks [n]."""

    policy_logits: Tensor
    reference_logits: Tensor
    tokens: list[int]
    m_u: Tensor
    m_d: Tensor


def _log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def token_numbers(response: Response) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """log pi, log pi_ref, R = KL(pi || ref), F = KL(ref || pi) per token."""
    rows = []
    for t, token in enumerate(response.tokens):
        pi = torch.softmax(response.policy_logits[t].double(), -1)
        ref = torch.softmax(response.reference_logits[t].double(), -1)
        rows.append(
            torch.stack(
                [pi[token].log(), ref[token].log(), (pi * (pi / ref).log()).sum(), (ref * (ref / pi).log()).sum()]
            )
        )
    return torch.stack(rows).unbind(-1)


def pair_loss(name: str, chosen: Response, rejected: Response, c: dict[str, float]) -> Tensor:
    """The loss of one pair by FACTS.md's table; `c` holds beta, alpha, l1_u, l1_d."""
    logp_c, ref_c, kl_r_c, kl_f_c = token_numbers(chosen)
    logp_r, ref_r, kl_r_r, kl_f_r = token_numbers(rejected)
    rho_c, rho_r = logp_c - ref_c, logp_r - ref_r
    beta = c["beta"]
    if name == "sft":
        return -logp_c.mean()
    if name == "dpo":
        return -_log_sigmoid(beta * (rho_c.sum() - rho_r.sum()))
    if name == "tdpo1":
        return -_log_sigmoid(beta * (rho_c.sum() - rho_r.sum() - (kl_f_r.sum() - kl_f_c.sum())))
    if name == "tdpo2":
        kl = kl_f_r.sum() - kl_f_c.sum().detach()
        return -_log_sigmoid(beta * (rho_c.sum() - rho_r.sum() - c["alpha"] * kl))
    u = (chosen.m_u * rho_c).sum() - (rejected.m_u * rho_r).sum()
    if name == "sparsepo_paper":
        delta = (chosen.m_d * kl_r_c).sum() - (rejected.m_d * kl_r_r).sum()
        logits = u - delta
    else:
        assert name == "sparsepo_released"
        logits = u + (chosen.m_d * kl_f_c).sum() - (rejected.m_d * kl_f_r).sum()
    penalty = c["l1_u"] * (chosen.m_u.abs().sum() + rejected.m_u.abs().sum()) + c["l1_d"] * (
        chosen.m_d.abs().sum() + rejected.m_d.abs().sum()
    )
    return -_log_sigmoid(beta * logits) + penalty
