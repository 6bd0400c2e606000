"""Plans of runs whose ranks share micro-batches: activations a part, and what is exchanged around attention."""

from __future__ import annotations

from typing import Any

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.needs.plan import Plan, make_plan
from tests.plan.conftest import Ask

FIELDS = {"ds_config": "ds_configs/zero3.json", "objective.name": "dpo", "training.pairs_per_step": 4,
          "data.tokens_per_micro_batch": 1, "reference.placement": "replicated"}  # fmt: skip


def planned(ask: Ask, gpus: int, **more: Any) -> Plan:
    return make_plan(
        ask("pythia-1.4b", gpus, {**FIELDS, **{f"training.{name}": value for name, value in more.items()}})
    )


@pytest.mark.slow
def test_four_ranks_to_a_micro_batch_hold_a_quarter_of_its_activations(ask: Ask) -> None:
    alone, four = planned(ask, 1), planned(ask, 4, sequence_parallel=4)
    assert four.shape == alone.shape and four.micro_batches == alone.micro_batches == 4
    whole, part = (max(phase.parts.activations for phase in plan.memory.phases) for plan in (alone, four))
    assert part == pytest.approx(whole / 4, rel=1e-3)


def test_bytes_exchanged_are_queries_keys_values_and_result_each_way(ask: Ask) -> None:
    plan = planned(ask, 8, sequence_parallel=4)
    assert plan.micro_batches == 2
    found = {item.purpose: item for item in plan.traffic if item.collective == "all-to-all"}
    # Two micro-batches of one pair, a quarter of it here, 4 x 2,048 numbers a token in each of 24 layers.
    once = 24 * -(-plan.shape.tokens * 2 // 4) * 4 * 2048 * plan.setting.element_size * 3 // 4
    assert found["policy's attention"][2:] == (2 * once, 2 * 2 * 24 * 4, 4)
    assert found["reference's attention"][2:] == (once, 2 * 24 * 4, 4)


def test_what_a_run_would_refuse_a_plan_refuses(ask: Ask) -> None:
    with pytest.raises(UserError, match="3 does not divide the run's 4 ranks"):
        planned(ask, 4, sequence_parallel=3)
    with pytest.raises(UserError, match="32 does not divide the 16 attention heads"):
        planned(ask, 32, sequence_parallel=32)
