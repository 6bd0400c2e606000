"""Hybrid and recurrent families in every layout: what transformers says of each sequence alone, and its gradients."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from sparsepo_dist.contracts import TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import Layout
from sparsepo_dist.engines.activation_checkpointing import checkpoint_activations
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.loading import attention_for
from sparsepo_dist.engines.layouts.families import MIXERS
from sparsepo_dist.engines.layouts.preparation import prepare
from tests.engines.attention.packed_batches import random_pairs
from tests.support.hybrids import CONFIGS, hybrid
from tests.support.plain import plain_logps

LAYOUTS: tuple[Layout, ...] = ("prefix_shared", "packed", "padded")
PAIRS = [TokenizedPair((5, 6, 7, 8), (21, 22, 23, 24, 257), (31, 257)), *random_pairs(0, 3, 12)]


def plain(
    config: PretrainedConfig, pairs: Sequence[TokenizedPair], *, training: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """Log-probabilities [N] and gradients of their weighted sum, by transformers, one sequence at a time."""
    model = hybrid(config, "eager").train(training)
    return of_weighted_sum(model, plain_logps(model, pairs))


def through_layout(
    config: PretrainedConfig, pairs: Sequence[TokenizedPair], layout: Layout, *, training: bool = True
) -> tuple[Tensor, dict[str, Tensor]]:
    """The same by a layout, with activation checkpointing."""
    model = hybrid(config, attention_for(config, layout, torch.float32)).train(training)
    prepare(backbone(model), layout)
    if model.supports_gradient_checkpointing:
        checkpoint_activations(model, True)
    batch = pack(pairs, [1.0] * len(pairs), layout)
    logits = model.get_output_embeddings()(hidden_at(backbone(model), batch))
    return of_weighted_sum(model, logits.log_softmax(-1).gather(-1, batch.labels[:, None]).squeeze(-1))


def of_weighted_sum(model: PreTrainedModel, logps: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    (logps * torch.linspace(-1, 1, len(logps))).sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return logps.detach(), gradients


def assert_near(got: tuple[Tensor, dict[str, Tensor]], want: tuple[Tensor, dict[str, Tensor]]) -> None:
    torch.testing.assert_close(got[0], want[0], rtol=1e-5, atol=1e-5)
    assert got[1].keys() == want[1].keys()
    for name, gradient in want[1].items():
        assert (got[1][name] - gradient).norm() <= 2e-5 * gradient.norm() + 1e-6, name


def test_every_family_with_mixers_is_tried() -> None:
    assert CONFIGS.keys() >= MIXERS.keys()


@pytest.mark.parametrize("family", CONFIGS)
def test_every_layout_gives_what_transformers_gives_each_sequence(family: str) -> None:
    want = plain(CONFIGS[family](), PAIRS)
    for layout in LAYOUTS if family in MIXERS else ("padded",):
        assert_near(through_layout(CONFIGS[family](), PAIRS, layout), want)


def test_a_forward_pass_of_plain_rows_is_as_without_layouts() -> None:
    config = CONFIGS["lfm2"]()
    model = hybrid(config, attention_for(config, "prefix_shared", torch.float32))
    prepare(backbone(model), "prefix_shared")
    hidden_at(backbone(model), pack(PAIRS, [1.0] * len(PAIRS), "prefix_shared"))
    ids = torch.arange(1, 38)[None]
    model.config._attn_implementation = "sdpa"
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, hybrid(CONFIGS["lfm2"](), "sdpa")(ids).logits)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("family", ["lfm2", "jamba"])
def test_a_pairs_numbers_do_not_depend_on_its_company(family: str, layout: Layout) -> None:
    """To the last bit: what another pair says cannot be in a sum at all. Lengths stay, by which kernels are chosen."""
    other = TokenizedPair((45, 46, 47, 48), (1, 2, 3, 4, 5), (6, 7))
    found = []
    for first in (PAIRS[0], other):
        logps, _ = through_layout(CONFIGS[family](), [first, *PAIRS[1:]], layout)
        found.append(logps[len(first.chosen_ids) + len(first.rejected_ids) :])
    assert torch.equal(*found)
