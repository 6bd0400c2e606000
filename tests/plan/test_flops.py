"""Products that a plan counts, against torch's counter over real models on real batches."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sparsepo_dist.engines.adapters.lora import add_adapters
from sparsepo_dist.engines.config import Checkpointing, LoraSettings
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.ops import PLAIN
from sparsepo_dist.ops.operator import token_stats_backward_op, token_stats_op
from sparsepo_dist.plan.model.decoder import Decoder
from sparsepo_dist.plan.speed.flops import BodyFlops, body_flops, counter, done_flops
from tests.plan.measuring import predict
from tests.plan.test_activations import UNLIKE, decoder, of, real_batch, real_model
from tests.support.tiny import VOCABULARY, save_tiny_model

FAMILIES = ("llama", "gpt_neox", "gptj", "gpt2", "gemma")


def count_for_real(planned: Decoder) -> BodyFlops:
    model, batch = real_model(planned), real_batch(planned.shape.layout)
    if planned.adapter is not None:
        add_adapters(model, planned.adapter, planned.dtype, base="", start=None, reference=None)
    with counter() as counted:
        hidden = hidden_at(backbone(model), batch)
        forward = counted.get_total_flops()
        hidden.sum().backward()
    return BodyFlops(forward, counted.get_total_flops() - forward)


@pytest.mark.parametrize(
    ("family", "checkpointing"),
    [*((family, False) for family in FAMILIES), ("llama", True), ("gptj", True), ("llama", "selective")],
)
def test_products_of_a_body_are_those_that_torch_counts(family: str, checkpointing: Checkpointing) -> None:
    planned = decoder(family, layers=5, checkpointing=checkpointing)
    assert body_flops(planned) == count_for_real(planned)


@pytest.mark.parametrize("name", UNLIKE)
def test_products_are_counted_where_blocks_or_parts_differ(name: str) -> None:
    planned = of(*UNLIKE[name])
    assert body_flops(planned) == count_for_real(planned)


def test_a_frozen_body_with_an_adapter_needs_little_more_than_gradients_of_inputs() -> None:
    plain = decoder("llama", layers=8, checkpointing=False)
    adapted = plain._replace(adapter=LoraSettings(rank=1))
    found, whole = body_flops(adapted), body_flops(plain)
    assert found == count_for_real(adapted)
    assert whole.forward < found.forward and found.backward < 0.75 * whole.backward


@pytest.mark.parametrize("keep_bytes", [0, 2**30])
@pytest.mark.parametrize(("objective", "models"), [("sparsepo", 2), ("dpo", 1)])
def test_products_of_the_heads_are_those_that_the_operation_does(
    tmp_path: Path, objective: str, models: int, keep_bytes: int
) -> None:
    fields = {"objective.name": objective, "ops.keep_bytes": keep_bytes, "ops.tile_bytes": 4096, "data.max_length": 64}
    plan = predict({"model.path": save_tiny_model(tmp_path), **fields}, ranks=1)
    shape = plan.shape._replace(predicted=24)
    heads = done_flops(plan.setting, plan.census, shape, first_pass=False).heads
    hidden, weight, labels = torch.randn(24, 32), torch.randn(VOCABULARY, 32), torch.arange(24)
    frozen = (hidden, weight) if models == 2 else (None, None)
    form, ones = (1, torch.ones(24)) if models == 2 else (0, None)
    options = (form, 0.0, [*PLAIN, *PLAIN], "eager", 4096, keep_bytes)
    # torch's counter does not know products that are added in place: the gradient of hidden rows.
    in_place = {torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1]}
    with FlopCounterMode(display=False, custom_mapping=in_place) as counted:
        given = (hidden, weight, None, labels, *frozen, None)
        *_, state, kept, ref_kept = token_stats_op._init_fn(*given, *options, False)
        token_stats_backward_op._init_fn(
            *given, state, kept, ref_kept, torch.ones(24), ones, *options, [True] * 2 + [False]
        )
    # Without a divergence the reference's engine has its own head, and runs it forward.
    assert heads == counted.get_total_flops() + (2 - models) * 2 * 24 * 32 * VOCABULARY
