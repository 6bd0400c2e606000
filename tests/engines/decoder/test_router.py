"""The router loss that a configuration asks for: transformers' own, on the real tokens of a micro-batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DeepseekV3Config

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.engines.activation_checkpointing import checkpoint_activations
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.policy import PolicyModel
from sparsepo_dist.errors import UserError
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import OpsConfig
from tests.support.mixtures import MIXTURES, save_mixture

COEFFICIENT = 3.0
PAIRS = [
    TokenizedPair((70, 71, 72), (80, 81, 82, 257), (90, 257)),
    TokenizedPair((73,), (83, 257), (93, 94, 95, 96, 97, 257)),
]


def saved(folder: Path, family: str) -> Path:
    name = "aux_loss_coef" if family == "jetmoe" else "router_aux_loss_coef"
    return save_mixture(folder, family, output_router_logits=True, **{name: COEFFICIENT})


def routed(folder: Path, layout: str, checkpointing: bool = False) -> tuple[Tensor, dict[str, Tensor]]:
    """Ours: the loss, and its gradient by parameter."""
    model = load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout=layout, zero3=None)
    checkpoint_activations(model, checkpointing)
    policy = PolicyModel(model, Requirements(False, None, None), None, None, OpsConfig()).train()
    loss = policy(pack(PAIRS, [0.5, 0.5], layout), None, True, 0)[-1]
    loss.backward()
    return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("family", "checkpointing"), [*((name, False) for name in MIXTURES), ("mixtral", True)])
def test_it_is_the_models_own_with_its_gradient(tmp_path: Path, family: str, checkpointing: bool) -> None:
    folder = saved(tmp_path, family)
    loss, gradients = routed(folder, "padded", checkpointing)
    batch = pack(PAIRS, [0.5, 0.5], "padded")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    shape = (batch.rows, -1)
    balance = plain(batch.input_ids.view(shape), (batch.pair_id >= 0).view(shape).long()).aux_loss
    (COEFFICIENT * balance).backward()
    torch.testing.assert_close(loss, COEFFICIENT * balance.detach())
    assert any("router" in name or "gate" in name for name in gradients)
    for name, parameter in plain.named_parameters():
        if parameter.grad is not None and parameter.grad.abs().max() > 0:
            torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["prefix_shared", "packed", "padded"])
def test_every_packed_token_counts_once_and_padding_never(tmp_path: Path, layout: str) -> None:
    """By hand, in float64, from router logits of one sequence at a time."""
    folder = saved(tmp_path, "mixtral")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64, experts_implementation="eager").eval()
    rows = []
    for pair in PAIRS:
        for number, response in enumerate((pair.chosen_ids, pair.rejected_ids)):
            ids = torch.tensor([[*pair.prompt_ids, *response[:-1]]])  # the last token is never an input
            shared = len(pair.prompt_ids) if number and layout == "prefix_shared" else 0
            rows += [torch.cat([logits[shared:] for logits in plain(ids, output_router_logits=True).router_logits])]
    shares = torch.cat(rows).softmax(-1)
    chosen = torch.zeros_like(shares).scatter(1, shares.topk(2).indices, 1.0)
    want = COEFFICIENT * 4 * (chosen.mean(0) * shares.mean(0)).sum()
    torch.testing.assert_close(routed(folder, layout)[0].double(), want, rtol=1e-5, atol=1e-6)


def test_nothing_is_added_unasked(tmp_path: Path) -> None:
    folder = save_mixture(tmp_path, "mixtral")
    model = load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout="packed", zero3=None)
    policy = PolicyModel(model, Requirements(False, None, None), None, None, OpsConfig())
    assert policy(pack(PAIRS, [0.5, 0.5], "packed"), None, True, 0)[-1] is None


def test_a_loss_that_transformers_does_not_have_is_refused() -> None:
    config = DeepseekV3Config(
        vocab_size=16, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
        output_router_logits=True,
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(UserError, match="transformers has none of Mixtral's kind for DeepseekV3ForCausalLM"):
        PolicyModel(model, Requirements(False, None, None), None, None, OpsConfig())
