"""Products that a plan counts, against torch's counter over real models on real batches."""

from __future__ import annotations

import pytest

from sparsepo_dist.engines.adapters import add_adapters
from sparsepo_dist.engines.backbone import backbone, hidden_at
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.plan.activations import Decoder
from sparsepo_dist.plan.flops import BodyFlops, body_flops, counter
from tests.plan.test_activations import decoder, real_batch, real_model
from tests.support.tiny import CONFIGS


def count_for_real(planned: Decoder) -> BodyFlops:
    model, batch = real_model(planned), real_batch()
    if planned.adapter is not None:
        add_adapters(model, planned.adapter, planned.dtype, base="", start=None, reference=None)
    with counter() as counted:
        hidden = hidden_at(backbone(model), batch)
        forward = counted.get_total_flops()
        hidden.sum().backward()
    return BodyFlops(forward, counted.get_total_flops() - forward)


@pytest.mark.parametrize(
    ("family", "checkpointing"), [*((family, False) for family in CONFIGS), ("llama", True), ("gptj", True)]
)
def test_products_of_a_body_are_those_that_torch_counts(family: str, checkpointing: bool) -> None:
    planned = decoder(family, layers=5, checkpointing=checkpointing)
    assert body_flops(planned) == count_for_real(planned)


def test_a_frozen_body_with_an_adapter_needs_little_more_than_gradients_of_inputs() -> None:
    plain = decoder("llama", layers=8, checkpointing=False)
    adapted = plain._replace(adapter=LoraSettings(rank=1))
    found, whole = body_flops(adapted), body_flops(plain)
    assert found == count_for_real(adapted)
    assert whole.forward < found.forward and found.backward < 0.75 * whole.backward
