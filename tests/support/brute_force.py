"""Formulas of docs/objectives.md in float64 over full logits, pair by pair and token by token: slow and plain.

Nothing here imports the package: a mistake there cannot hide here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

Constants = dict[str, Any]
"""beta, alpha, gamma, penalty, smoothing, desirable, undesirable, nll, tau, l1_u, l1_d, history, moments."""


@dataclass
class Response:
    """One response: policy and reference logits [n, V] at the positions that predict it, its tokens, its masks [n]."""

    policy_logits: Tensor
    reference_logits: Tensor
    tokens: list[int]
    m_u: Tensor
    m_d: Tensor
    score: float = 0.0
    drawn: Tensor | None = None
    """Which tokens SamPO drew, [n] of 0 and 1."""


@dataclass
class Pair:
    """Per-token numbers of both responses, each [n]: log pi, rho, R, F, and masks; and their scores."""

    logp_c: Tensor
    logp_r: Tensor
    rho_c: Tensor
    rho_r: Tensor
    reverse_c: Tensor
    reverse_r: Tensor
    forward_c: Tensor
    forward_r: Tensor
    u_c: Tensor
    u_r: Tensor
    d_c: Tensor
    d_r: Tensor
    scores: tuple[float, float]
    drawn: tuple[Tensor | None, Tensor | None]
    plain_c: Tensor
    plain_r: Tensor
    """log pi of each token, whatever it weighs."""
    squares_c: Tensor
    squares_r: Tensor
    """Sum of pi^2 over the vocabulary."""
    hellinger_c: Tensor
    hellinger_r: Tensor
    """(1 - sum of pi^a ref^(1 - a)) / (a (1 - a)) over the vocabulary, a = 1/2."""

    @property
    def margin(self) -> Tensor:
        return self.rho_c.sum() - self.rho_r.sum()


def token_numbers(response: Response) -> tuple[Tensor, ...]:
    """By token: log pi, log ref, R = KL(pi || ref), F = KL(ref || pi), sum of pi^2, alpha-divergence of order 1/2."""
    rows = []
    for t, token in enumerate(response.tokens):
        pi = torch.softmax(response.policy_logits[t].double(), -1)
        ref = torch.softmax(response.reference_logits[t].double(), -1)
        rows.append(
            torch.stack(
                [
                    pi[token].log(),
                    ref[token].log(),
                    (pi * (pi / ref).log()).sum(),
                    (ref * (ref / pi).log()).sum(),
                    (pi**2).sum(),
                    (1 - (pi**0.5 * ref**0.5).sum()) / 0.25,
                ]
            )
        )
    return torch.stack(rows).unbind(-1)


def batch_losses(name: str, pairs: list[tuple[Response, Response]], c: Constants, *, masked: bool = False) -> Tensor:
    """[P]: the loss of each pair, where the pairs given are the whole global batch; `masked`: of an objective that is
    defined without masks, each token weighing m_u and its divergence m_d."""
    numbers = [_numbers(chosen, rejected) for chosen, rejected in pairs]
    if masked:
        numbers = [_weighed(pair) for pair in numbers]
    if name in _BATCH:
        return torch.stack(_BATCH[name](numbers, c))
    return torch.stack([_PAIR[name](pair, c) for pair in numbers])


def _numbers(chosen: Response, rejected: Response) -> Pair:
    logp_c, ref_c, reverse_c, forward_c, squares_c, hellinger_c = token_numbers(chosen)
    logp_r, ref_r, reverse_r, forward_r, squares_r, hellinger_r = token_numbers(rejected)
    return Pair(
        logp_c, logp_r, logp_c - ref_c, logp_r - ref_r, reverse_c, reverse_r, forward_c, forward_r,
        chosen.m_u, rejected.m_u, chosen.m_d, rejected.m_d, (chosen.score, rejected.score),
        (chosen.drawn, rejected.drawn), logp_c, logp_r, squares_c, squares_r, hellinger_c, hellinger_r,
    )  # fmt: skip


def _weighed(p: Pair) -> Pair:
    return replace(
        p, logp_c=p.u_c * p.logp_c, logp_r=p.u_r * p.logp_r, rho_c=p.u_c * p.rho_c, rho_r=p.u_r * p.rho_r,
        reverse_c=p.d_c * p.reverse_c, reverse_r=p.d_r * p.reverse_r,
        forward_c=p.d_c * p.forward_c, forward_r=p.d_r * p.forward_r,
        hellinger_c=p.d_c * p.hellinger_c, hellinger_r=p.d_r * p.hellinger_r,
    )  # fmt: skip


def _log_sigmoid(x: Tensor) -> Tensor:
    return -torch.log1p(torch.exp(-x))


def _sft(p: Pair, c: Constants) -> Tensor:
    return -p.logp_c.mean()


def _dpo(p: Pair, c: Constants) -> Tensor:
    return -_log_sigmoid(c["beta"] * p.margin)


def _on_policy_weight(p: Pair) -> Tensor:
    aligned = [(logp - squares.log()).mean() for logp, squares in ((p.plain_c, p.squares_c), (p.plain_r, p.squares_r))]
    return (aligned[0] + aligned[1]).exp().detach()


def _wpo(p: Pair, c: Constants) -> Tensor:
    return _on_policy_weight(p) * _dpo(p, c)


def _wpo_ipo(p: Pair, c: Constants) -> Tensor:
    return _on_policy_weight(p) * _ipo(p, c)


def _smoothed(p: Pair, c: Constants) -> Tensor:
    e = c["smoothing"]
    return -(1 - e) * _log_sigmoid(c["beta"] * p.margin) - e * _log_sigmoid(-c["beta"] * p.margin)


def _robust(p: Pair, c: Constants) -> Tensor:
    e = c["smoothing"]
    right, wrong = -_log_sigmoid(c["beta"] * p.margin), -_log_sigmoid(-c["beta"] * p.margin)
    return ((1 - e) * right - e * wrong) / (1 - 2 * e)


def _hinge(p: Pair, c: Constants) -> Tensor:
    return torch.maximum(torch.zeros(()).double(), 1 - c["beta"] * p.margin)


def _ipo(p: Pair, c: Constants) -> Tensor:
    return (p.rho_c.mean() - p.rho_r.mean() - 1 / (2 * c["beta"])) ** 2


def _ipo_sum(p: Pair, c: Constants) -> Tensor:
    return (p.margin - 1 / (2 * c["beta"])) ** 2


def _norm(p: Pair, c: Constants) -> Tensor:
    return -_log_sigmoid(c["beta"] * (p.rho_c.mean() - p.rho_r.mean()))


def _dpop(p: Pair, c: Constants) -> Tensor:
    loss_of_likelihood = torch.maximum(torch.zeros(()).double(), -p.rho_c.sum())
    return -_log_sigmoid(c["beta"] * (p.margin - c["penalty"] * loss_of_likelihood))


def _odpo(p: Pair, c: Constants) -> Tensor:
    offset = c["alpha"] * torch.tensor(p.scores[0] - p.scores[1]).double().log()
    return -_log_sigmoid(c["beta"] * p.margin - offset)


def _rewards(p: Pair, c: Constants) -> tuple[Tensor, Tensor]:
    return c["beta"] * p.rho_c.sum(), c["beta"] * p.rho_r.sum()


def _exo(p: Pair, c: Constants) -> Tensor:
    """KL of the policy's distribution over the two responses from the smoothed labels."""
    q = torch.softmax(torch.stack(_rewards(p, c)), 0)
    labels = torch.tensor([1 - c["smoothing"], c["smoothing"]], dtype=torch.float64)
    return (q * (q / labels).log()).sum()


def _nca(p: Pair, c: Constants) -> Tensor:
    chosen, rejected = _rewards(p, c)
    return -_log_sigmoid(chosen) - 0.5 * _log_sigmoid(-chosen) - 0.5 * _log_sigmoid(-rejected)


def _bco_pair(p: Pair, c: Constants) -> Tensor:
    chosen, rejected = _rewards(p, c)
    return -_log_sigmoid(chosen) - _log_sigmoid(-rejected)


def _sppo(p: Pair, c: Constants) -> Tensor:
    return (p.rho_c.sum() - 0.5 / c["beta"]) ** 2 + (p.rho_r.sum() + 0.5 / c["beta"]) ** 2


def _apo_zero(p: Pair, c: Constants) -> Tensor:
    chosen, rejected = _rewards(p, c)
    return 1 - torch.sigmoid(chosen) + torch.sigmoid(rejected)


def _apo_down(p: Pair, c: Constants) -> Tensor:
    chosen, rejected = _rewards(p, c)
    return torch.sigmoid(chosen) + 1 - torch.sigmoid(chosen - rejected)


def _discopop(p: Pair, c: Constants) -> Tensor:
    margin = c["beta"] * p.margin
    share = torch.sigmoid(margin / c["tau"])
    return -(1 - share) * _log_sigmoid(margin) + share * torch.exp(-margin)


def _nll(p: Pair, c: Constants) -> Tensor:
    return _dpo(p, c) - c["nll"] * p.plain_c.mean()


def _ld_dpo(p: Pair, c: Constants) -> Tensor:
    shared = min(len(p.rho_c), len(p.rho_r))
    rewards = [rho[:shared].sum() + c["alpha"] * rho[shared:].sum() for rho in (p.rho_c, p.rho_r)]
    return -_log_sigmoid(c["beta"] * (rewards[0] - rewards[1]))


def _sampo(p: Pair, c: Constants) -> Tensor:
    assert p.drawn[0] is not None and p.drawn[1] is not None
    return -_log_sigmoid(c["beta"] * ((p.drawn[0] * p.rho_c).sum() - (p.drawn[1] * p.rho_r).sum()))


def _d2po(p: Pair, c: Constants) -> Tensor:
    rewards = [sum(c["gamma"] ** t * rho for t, rho in enumerate(side)) for side in (p.rho_c, p.rho_r)]
    return -_log_sigmoid(c["beta"] * (rewards[0] - rewards[1]))


def _tdpo1(p: Pair, c: Constants) -> Tensor:
    return -_log_sigmoid(c["beta"] * (p.margin - (p.forward_r.sum() - p.forward_c.sum())))


def _tdpo2(p: Pair, c: Constants) -> Tensor:
    kl = p.forward_r.sum() - p.forward_c.sum().detach()
    return -_log_sigmoid(c["beta"] * (p.margin - c["alpha"] * kl))


def _masked(p: Pair, c: Constants, v_c: Tensor, v_r: Tensor) -> Tensor:
    u = (p.u_c * p.rho_c).sum() - (p.u_r * p.rho_r).sum()
    delta = (p.d_c * v_c).sum() - (p.d_r * v_r).sum()
    return -_log_sigmoid(c["beta"] * (u - delta))


def _l1(p: Pair, c: Constants) -> Tensor:
    return c["l1_u"] * (p.u_c.abs().sum() + p.u_r.abs().sum()) + c["l1_d"] * (p.d_c.abs().sum() + p.d_r.abs().sum())


def _sparsepo(p: Pair, c: Constants) -> Tensor:
    return _masked(p, c, p.reverse_c, p.reverse_r) + _l1(p, c)


def _sparsepo_released(p: Pair, c: Constants) -> Tensor:
    return _masked(p, c, -p.forward_c, -p.forward_r) + _l1(p, c)


def _sparsepo_alpha(p: Pair, c: Constants) -> Tensor:
    return _masked(p, c, p.hellinger_c, p.hellinger_r) + _l1(p, c)


def _mapo(p: Pair, c: Constants) -> Tensor:
    return _masked(p, c, p.reverse_c, p.reverse_r)


def _sepo(p: Pair, c: Constants) -> Tensor:
    return -_log_sigmoid(c["beta"] * ((p.u_c * p.rho_c).sum() - (p.u_r * p.rho_r).sum()))


def _simpo(p: Pair, c: Constants) -> Tensor:
    return -_log_sigmoid(c["beta"] * p.logp_c.mean() - c["beta"] * p.logp_r.mean() - c["gamma"])


def _f_dpo_alpha(p: Pair, c: Constants) -> Tensor:
    """f'(t) = (1 - t^-alpha) / alpha of the responses' ratios t."""
    chosen, rejected = ((1 - rho.sum().exp() ** -c["alpha"]) / c["alpha"] for rho in (p.rho_c, p.rho_r))
    return -_log_sigmoid(c["beta"] * (chosen - rejected))


def _f_dpo_js(p: Pair, c: Constants) -> Tensor:
    ratios = [rho.sum().exp() for rho in (p.rho_c, p.rho_r)]
    chosen, rejected = ((2 * t / (1 + t)).log() for t in ratios)
    return -_log_sigmoid(c["beta"] * (chosen - rejected))


def _alphapo(p: Pair, c: Constants) -> Tensor:
    chosen, rejected = ((1 - logp.mean().exp() ** -c["alpha"]) / c["alpha"] for logp in (p.logp_c, p.logp_r))
    return -_log_sigmoid(c["beta"] * (chosen - rejected) - c["gamma"])


def _confpo(p: Pair, c: Constants) -> Tensor:
    rewards = []
    for logp, plain in ((p.logp_c, p.plain_c), (p.logp_r, p.plain_r)):
        mean = sum(plain.exp().tolist()) / len(logp)
        unsure = [value for value, own in zip(logp, plain, strict=True) if own.exp().item() < mean]
        if not unsure:
            return 0 * logp.sum()
        rewards.append(c["beta"] * torch.stack(unsure).mean())
    return -_log_sigmoid(rewards[0] - rewards[1] - c["gamma"])


def _orpo(p: Pair, c: Constants) -> Tensor:
    odds = [mean.exp() / (1 - mean.exp()) for mean in (p.logp_c.mean(), p.logp_r.mean())]
    return -p.plain_c.mean() - c["beta"] * _log_sigmoid((odds[0] / odds[1]).log())


def _kto(pairs: list[Pair], c: Constants) -> list[Tensor]:
    kl_of_rejected = max(0.0, sum(p.rho_r.sum().item() for p in pairs) / len(pairs))
    kl_of_chosen = max(0.0, sum(p.rho_c.sum().item() for p in pairs) / len(pairs))
    losses = []
    for p in pairs:
        chosen = 1 - torch.sigmoid(c["beta"] * (p.rho_c.sum() - kl_of_rejected))
        rejected = 1 - torch.sigmoid(c["beta"] * (kl_of_chosen - p.rho_r.sum()))
        losses.append((c["desirable"] * chosen + c["undesirable"] * rejected) / 2)
    return losses


def _beta_dpo(pairs: list[Pair], c: Constants) -> list[Tensor]:
    beta = c["beta"]
    if c["history"] is not None:
        mean = sum(beta * p.margin.item() for p in pairs) / len(pairs)
        beta = max(0.001, beta * (1 + c["alpha"] * (mean - c["history"])))
    return [-_log_sigmoid(beta * p.margin) for p in pairs]


def _tis_dpo(p: Pair, c: Constants) -> Tensor:
    u = (p.u_c * p.rho_c).sum() - (p.u_r * p.rho_r).sum()
    kl = (p.d_c * p.reverse_c).sum() - (p.d_r * p.reverse_r).sum()
    return -_log_sigmoid(c["beta"] * (u - c["alpha"] * kl))


def _bco(pairs: list[Pair], c: Constants) -> list[Tensor]:
    rewards = [_rewards(p, c) for p in pairs]
    shift = sum(reward.item() for both in rewards for reward in both) / (2 * len(pairs))
    if c["history"] is not None:
        shift = 0.9 * c["history"] + 0.1 * shift
    return [-_log_sigmoid(chosen - shift) - _log_sigmoid(-(rejected - shift)) for chosen, rejected in rewards]


def _alpha_dpo(pairs: list[Pair], c: Constants) -> list[Tensor]:
    leads = [(p.rho_c.mean() - p.rho_r.mean()).item() for p in pairs]
    mean, square = sum(leads) / len(leads), sum(lead * lead for lead in leads) / len(leads)
    if c["moments"] is not None:
        mean, square = 0.9 * c["moments"][0] + 0.1 * mean, 0.9 * c["moments"][1] + 0.1 * square
    deviation = max(1e-6, square - mean * mean) ** 0.5
    return [
        -_log_sigmoid(
            c["beta"] * (p.logp_c.mean() - p.logp_r.mean() - c["alpha"] * (lead - mean) / deviation) - c["gamma"]
        )
        for p, lead in zip(pairs, leads, strict=True)
    ]


_PAIR: dict[str, Callable[[Pair, Constants], Tensor]] = {
    "sft": _sft, "dpo": _dpo, "dpo_smoothed": _smoothed, "dpo_robust": _robust, "dpo_hinge": _hinge, "dpo_ipo": _ipo,
    "dpo_exo": _exo, "dpo_nca": _nca, "dpo_bco_pair": _bco_pair, "dpo_sppo": _sppo, "dpo_apo_zero": _apo_zero,
    "dpo_apo_down": _apo_down, "dpo_discopop": _discopop, "f_dpo_alpha": _f_dpo_alpha,
    "f_dpo_js": _f_dpo_js, "alphapo": _alphapo, "confpo": _confpo, "dpo_nll": _nll,
    "ld_dpo": _ld_dpo, "sampo": _sampo, "d2po": _d2po, "dpo_ipo_sum": _ipo_sum, "dpo_norm": _norm,
    "dpop": _dpop, "odpo": _odpo, "tdpo1": _tdpo1, "tdpo2": _tdpo2, "sparsepo": _sparsepo,
    "sparsepo_released": _sparsepo_released, "mapo": _mapo, "sepo": _sepo, "simpo": _simpo, "orpo": _orpo,
    "wpo": _wpo, "wpo_ipo": _wpo_ipo, "sparsepo_alpha": _sparsepo_alpha,
    "tgdpo": _sepo, "tis_dpo": _tis_dpo, "tis_dpo_released": _sepo,
}  # fmt: skip
_BATCH: dict[str, Callable[[list[Pair], Constants], list[Tensor]]] = {
    "kto": _kto, "beta_dpo": _beta_dpo, "bco": _bco, "alpha_dpo": _alpha_dpo,
}  # fmt: skip
NAMES = [*_PAIR, *_BATCH]
