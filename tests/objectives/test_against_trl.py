"""Losses and gradients against the loss code of TRL's own trainers, which run here without a model or a data set."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from sparsepo_dist.contracts import Responses, TokenStats
from sparsepo_dist.objectives import ObjectiveConfig, ObjectiveOutput, build_objective
from tests.objectives.cases import Batch, apply, sequence_ids

trl = pytest.importorskip("trl")

LENGTHS = [(3, 5), (1, 1), (4, 2), (6, 2)]
BETA = 0.3
PADDING = -100
ACCELERATOR = SimpleNamespace(device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x)


def trainer(kind: type, **fields: Any) -> Any:
    """A trainer of TRL's with nothing in it but what its loss reads."""
    bare = object.__new__(kind)
    shared = {
        "accelerator": ACCELERATOR, "aux_loss_enabled": False, "beta": BETA, "label_smoothing": 0.0,
        "is_encoder_decoder": False, "model": SimpleNamespace(training=True),
        "args": SimpleNamespace(max_length=None, discopop_tau=0.05),
        "_metrics": {"train": defaultdict(list)}, "_total_train_tokens": 0, "_tp_size": 1,
    }  # fmt: skip
    for name, value in {**shared, **fields}.items():
        setattr(bare, name, value)
    return bare


def ours(batch: Batch, **settings: Any) -> ObjectiveOutput:
    objective = build_objective(ObjectiveConfig(beta=BETA, **settings))
    return apply(objective, batch.stats(objective), None, batch.responses)


def assert_same(batch: Batch, losses: Tensor, theirs: Tensor, rtol: float = 1e-12) -> None:
    """The same mean loss and the same gradient for every token's log-probability."""
    torch.testing.assert_close(losses.mean(), theirs.squeeze(), rtol=rtol, atol=1e-12)
    gradients = (torch.autograd.grad(loss, batch.policy)[0] for loss in (losses.mean(), theirs.squeeze()))
    torch.testing.assert_close(*gradients, rtol=rtol, atol=rtol / 100)


def padded(values: Tensor, sequence_id: Tensor, order: Sequence[int]) -> Tensor:
    """[N] per token to [len(order), longest], zeros after each response."""
    rows = [values[sequence_id == sequence] for sequence in order]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


class TokenModel:
    """Answers like TRL's patched models, with given log-probabilities of one prompt token's continuation."""

    is_gradient_checkpointing = False

    def __init__(self, log_probs: Tensor, log_squares: Tensor) -> None:
        self.log_probs, self.log_squares = log_probs, log_squares

    def __call__(self, **_: Any) -> SimpleNamespace:
        other = torch.zeros_like(self.log_probs)
        return SimpleNamespace(
            log_probs=self.log_probs, entropy=other, mean_logits=other, is_top1=other > 0,
            log_sum_sq_probs=self.log_squares,
        )  # fmt: skip


def trl_inputs(batch: Batch, order: Sequence[int]) -> dict[str, Tensor]:
    """One prompt token, then the responses in the order given."""
    ids = batch.responses.sequence_id
    tokens = padded(torch.ones_like(ids), ids, order)
    prompt = torch.ones(len(order), 1, dtype=torch.int64)
    mask = torch.cat([prompt, tokens], 1)
    return {"input_ids": mask, "attention_mask": mask, "completion_mask": torch.cat([0 * prompt, tokens], 1)}


def trl_dpo(batch: Batch, **fields: Any) -> tuple[Tensor, Any]:
    """DPOTrainer's loss of a batch and the trainer."""
    ids, pairs = batch.responses.sequence_id, batch.responses.pairs
    order = [*range(0, 2 * pairs, 2), *range(1, 2 * pairs, 2)]
    reference = padded(batch.reference, ids, order).sum(1)
    plain = {"use_weighting": False, "loss_weights": [1.0], "ld_alpha": None, "f_divergence_type": "reverse_kl"}
    theirs = trainer(trl.DPOTrainer, precompute_ref_logps=True, **{**plain, **fields})
    inputs = {
        **trl_inputs(batch, order), "ref_chosen_logps": reference[:pairs], "ref_rejected_logps": reference[pairs:],
    }  # fmt: skip
    model = TokenModel(padded(batch.policy, ids, order), padded(batch.log_squares, ids, order))
    return theirs.compute_loss(model, inputs), theirs


@pytest.mark.parametrize(
    ("loss_type", "form", "smoothing"),
    [("sigmoid", "sigmoid", 0.0), ("hinge", "hinge", 0.0), ("ipo", "ipo", 0.0), ("robust", "robust", 0.0),
     ("robust", "robust", 0.2), ("sigmoid_norm", "norm", 0.0), ("exo_pair", "exo", 0.2), ("nca_pair", "nca", 0.0),
     ("bco_pair", "bco_pair", 0.0), ("sppo_hard", "sppo", 0.0), ("apo_zero", "apo_zero", 0.0),
     ("apo_down", "apo_down", 0.0), ("discopop", "discopop", 0.0)],
)  # fmt: skip
def test_dpo(loss_type: str, form: str, smoothing: float) -> None:
    batch = Batch(LENGTHS)
    loss, theirs = trl_dpo(batch, loss_types=[loss_type], label_smoothing=smoothing)
    losses, metrics = ours(batch, name="dpo", form=form, label_smoothing=smoothing)
    # The labels' logarithms are float32 there.
    assert_same(batch, losses, loss, rtol=1e-6 if form == "exo" else 1e-12)
    for name in ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins", "logps/chosen"):
        assert metrics[name].mean().item() == pytest.approx(theirs._metrics["train"][name][0]), name


@pytest.mark.parametrize(("loss_type", "form"), [("sigmoid", "sigmoid"), ("ipo", "ipo")])
def test_wpo(loss_type: str, form: str) -> None:
    batch = Batch(LENGTHS)
    loss, _ = trl_dpo(batch, loss_types=[loss_type], label_smoothing=0.0, use_weighting=True)
    assert_same(batch, ours(batch, name="wpo", form=form).losses, loss)


def test_ld_dpo() -> None:
    """Of a reference whose log-probabilities are 0: TRL is given sums of them, which do not know the weights."""
    batch = Batch(LENGTHS)
    batch.reference.zero_()
    loss, _ = trl_dpo(batch, loss_types=["sigmoid"], ld_alpha=0.4)
    assert_same(batch, ours(batch, name="ld_dpo", alpha=0.4).losses, loss)


@pytest.mark.parametrize(
    ("theirs", "coefficient", "settings"),
    [("js_divergence", 0.5, {"f_divergence": "js"}), ("alpha_divergence", 0.3, {"alpha": 0.7}),
     ("forward_kl", 0.5, {"alpha": 1.0}), ("reverse_kl", 0.5, {"alpha": 0.0})],
)  # fmt: skip
def test_f_dpo(theirs: str, coefficient: float, settings: dict[str, Any]) -> None:
    """In float32, as TRL's alpha divergence has no other."""
    batch = Batch(LENGTHS, dtype=torch.float32)
    loss, _ = trl_dpo(batch, loss_types=["sigmoid"], f_divergence_type=theirs, f_alpha_divergence_coef=coefficient)
    losses = ours(batch, name="f_dpo", **settings).losses
    torch.testing.assert_close(losses.mean(), loss.squeeze())
    torch.testing.assert_close(*(torch.autograd.grad(x, batch.policy)[0] for x in (losses.mean(), loss.squeeze())))


@pytest.mark.parametrize("lengths", LENGTHS)
def test_likelihood_of_the_chosen_response(lengths: tuple[int, int]) -> None:
    """Pair by pair, as TRL's term is a mean over all chosen tokens of a batch."""
    batch = Batch([lengths])
    loss, _ = trl_dpo(batch, loss_types=["sigmoid", "sft"], loss_weights=[1.0, 0.3])
    assert_same(batch, ours(batch, name="dpo", nll_weight=0.3).losses, loss)


def cpo(**fields: Any) -> Any:
    from trl.experimental.cpo import CPOTrainer

    return trainer(CPOTrainer, **{"alpha": 0.0, "cpo_alpha": 0.0, "pad_token_id": 0, **fields})


def test_conservative_dpo() -> None:
    """DPOTrainer's sigmoid has no label smoothing any more; CPOTrainer's has, of whatever takes log pi's place."""
    batch = Batch(LENGTHS)
    sums = torch.zeros(8).double().index_add(0, batch.responses.sequence_id, batch.policy - batch.reference).view(4, 2)
    theirs, _, _ = cpo(loss_type="sigmoid", label_smoothing=0.2).cpo_loss(sums[:, 0], sums[:, 1])
    assert_same(batch, ours(batch, name="dpo", label_smoothing=0.2).losses, theirs.mean())


class LogitsBatch:
    """Logits of P pairs with a one-token prompt, as TRL's trainers want them and as per-token statistics."""

    def __init__(self, lengths: Sequence[tuple[int, int]], seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        flat = [*(chosen for chosen, _ in lengths), *(rejected for _, rejected in lengths)]
        self.logits = torch.randn(len(flat), 1 + max(flat), 7, generator=g, dtype=torch.float64, requires_grad=True)
        self.ids = torch.randint(1, 7, self.logits.shape[:2], generator=g)
        self.present = torch.arange(self.ids.shape[1]) <= torch.tensor(flat)[:, None]
        self.pairs, self.lengths = len(lengths), lengths

    def __call__(self, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits)

    def inputs(self) -> dict[str, Tensor]:
        ids = self.ids.masked_fill(~self.present, 0)
        labels = self.ids.masked_fill(~self.present, PADDING)
        labels[:, 0] = PADDING
        halves = {"chosen": slice(0, self.pairs), "rejected": slice(self.pairs, None)}
        parts = {"input_ids": ids, "attention_mask": self.present.long(), "labels": labels}
        return {f"{half}_{name}": part[rows] for half, rows in halves.items() for name, part in parts.items()}

    def ours(self, **settings: Any) -> ObjectiveOutput:
        logp = self.logits[:, :-1].log_softmax(-1).gather(-1, self.ids[:, 1:, None]).squeeze(-1)
        order = [pair + half * self.pairs for pair in range(self.pairs) for half in range(2)]
        tokens = torch.cat([logp[row][self.present[row, 1:]] for row in order])
        objective = build_objective(ObjectiveConfig(beta=BETA, **settings))
        return objective(TokenStats(tokens), None, Responses(sequence_ids(self.lengths), self.pairs))


REFERENCE_FREE = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins")


@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_simpo_and_alphapo(alpha: float) -> None:
    batch = LogitsBatch(LENGTHS)
    loss, theirs = cpo(loss_type="simpo", simpo_gamma=0.4, alpha=alpha).get_batch_loss_metrics(batch, batch.inputs())
    losses, metrics = batch.ours(**({"name": "alphapo", "alpha": alpha} if alpha else {"name": "simpo"}), gamma=0.4)
    torch.testing.assert_close(losses.mean(), loss, rtol=1e-12, atol=1e-12)
    gradients = (torch.autograd.grad(x, batch.logits, retain_graph=True)[0] for x in (losses.mean(), loss))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)
    for name in REFERENCE_FREE:
        assert metrics[name].mean().item() == pytest.approx(theirs[name]), name


@pytest.mark.parametrize("lengths", LENGTHS)
def test_orpo(lengths: tuple[int, int]) -> None:
    """Pair by pair, as TRL's first term is a mean over all tokens of a batch, prompts included: one token here."""
    from trl.experimental.orpo import ORPOTrainer

    batch = LogitsBatch([lengths])
    loss, theirs = trainer(ORPOTrainer, padding_value=0).get_batch_loss_metrics(batch, batch.inputs())
    losses, metrics = batch.ours(name="orpo")
    # The odds ratio is float32 there.
    torch.testing.assert_close(losses.mean(), loss, rtol=1e-6, atol=1e-7, check_dtype=False)
    gradients = (torch.autograd.grad(x, batch.logits, retain_graph=True)[0] for x in (losses.mean(), loss))
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-7)
    for name in (*REFERENCE_FREE, "nll_loss", "log_odds_ratio", "log_odds_chosen"):
        assert metrics[name].mean().item() == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("seed", range(3))
def test_kto(seed: int) -> None:
    """TRL's loss takes one estimate of the KL, ours one for each half: the halves go to it one by one."""
    batch = Batch(LENGTHS, seed)
    ids = batch.responses.sequence_id
    weights = {"desirable_weight": 1.3, "undesirable_weight": 0.6}
    halves, rewards = [], {}
    for label, order, other in ((1, [0, 2, 4, 6], [1, 3, 5, 7]), (0, [1, 3, 5, 7], [0, 2, 4, 6])):
        policy, reference = padded(batch.policy, ids, order), padded(batch.reference, ids, order).sum(1)
        theirs = trainer(
            trl.KTOTrainer, loss_type="kto", calculate_KL=True, precompute_ref_logps=True, **weights,
            _compute_kl_logps=lambda *_, rows=tuple(other): padded(batch.policy, ids, rows).sum(1).detach(),
        )  # fmt: skip
        inputs = {
            **trl_inputs(batch, order), "label": torch.full((4,), label), "ref_logps": reference,
            "ref_KL_logps": padded(batch.reference, ids, other).sum(1),
        }  # fmt: skip
        halves.append(theirs.compute_loss(TokenModel(policy, policy), inputs))
        side = "chosen" if label else "rejected"
        logged = theirs._metrics["train"]
        rewards.update({f"rewards/{side}": logged[f"rewards/{side}"][0], f"kl_estimate/{side}": logged["kl"][0]})
    losses, metrics = ours(batch, name="kto", **weights)
    assert_same(batch, losses, (halves[0] + halves[1]) / 2)
    for name, value in rewards.items():
        assert metrics[name].mean().item() == pytest.approx(value), name
