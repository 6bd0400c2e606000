"""The time model's parts against numbers worked out by hand, and how its sum moves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.needs.plan import make_plan
from sparsepo_dist.plan.speed.machine import KNOWN, Machine, changed, find_machine
from sparsepo_dist.plan.speed.time import StepTime, memory_bytes, ring_latency, step_time
from tests.plan.conftest import Ask

ROUND = Machine(
    "round numbers", {"float32": 2.0, "bfloat16": 20.0}, bandwidth=100, network=10, memory_bandwidth=1000,
    matrix_share=0.5, gpus_per_node=4, call_us=10, step_us=1, network_step_us=5,
)  # fmt: skip
BF16 = {"training.precision": "bf16", "data.max_length": 1024, "data.max_prompt_length": 512}


@pytest.mark.parametrize(
    ("collective", "ranks", "microseconds"),
    [
        ("all-gather", 2, 10 + 1),
        ("all-gather", 4, 10 + 3),
        ("reduce-scatter", 8, 10 + 6 + 5),  # 7 steps around two nodes, one of them between the nodes
        ("all-reduce", 4, 10 + 6),
        ("all-reduce", 8, 10 + 12 + 2 * 5),
        ("all-gather", 1024, 10 + (1023 - 255) + 255 * 5),
    ],
)
def test_latency_of_a_ring(collective: Any, ranks: int, microseconds: float) -> None:
    assert ring_latency(collective, ranks, ROUND) == pytest.approx(microseconds * 1e-6)


def test_a_node_shares_its_way_out() -> None:
    assert ROUND.link(4) == 100e9
    assert ROUND.link(5) == ROUND.link(1024) == 40e9  # four adapters of 10 GB/s
    assert dataclasses.replace(ROUND, network=30).link(8) == 100e9  # no faster than inside


def timed(ask: Ask, gpus: int, fields: dict[str, Any], machine: Machine = ROUND) -> StepTime:
    return step_time(make_plan(ask("pythia-1.4b", gpus, {**BF16, **fields})), machine)


def test_a_step_is_the_sum_of_its_parts(ask: Ask) -> None:
    plan = make_plan(ask("pythia-1.4b", 8, BF16))
    found = step_time(plan, ROUND)
    assert found.arithmetic == pytest.approx(found.flops.total / 10e12)  # half of 20 TFLOP/s
    assert found.transfer == pytest.approx(sum(item.bytes for item in plan.traffic) / 40e9)
    gathers = sum(item.calls for item in plan.traffic)
    assert found.latency == pytest.approx(gathers * 21e-6)  # ZeRO-3 has all-gathers and reduce-scatters only
    assert found.hidden == 0
    assert found.total == pytest.approx(found.arithmetic + found.transfer + found.latency + found.memory)
    # 512 prompt tokens and twice 511 of responses; 8 pairs a step unless the recipe says more.
    assert found.tokens == (512 + 2 * 511) * plan.setting.pairs_per_step
    hidden = step_time(plan, dataclasses.replace(ROUND, overlap=0.5))
    assert hidden.hidden == pytest.approx(min(found.transfer + found.latency, found.arithmetic) / 2)
    assert hidden.total == pytest.approx(found.total - hidden.hidden)


def test_products_follow_the_well_known_estimate(ask: Ask) -> None:
    """2 x parameters a token forward, twice that backward, and the reference's forward: 8 x for each token."""
    plan = make_plan(ask("pythia-1.4b", 1, {**BF16, "training.pairs_per_step": 8}))
    found = step_time(plan, ROUND)
    matrices = 24 * 12 * 2048**2
    bodies = found.flops.total - found.flops.heads
    assert bodies == pytest.approx(8 * matrices * found.tokens, rel=0.25)  # attention comes on top
    assert bodies > 8 * matrices * found.tokens
    assert found.necessary < found.flops.total < 1.3 * found.necessary


def test_checkpointing_computes_blocks_again_and_adapters_save_gradients(ask: Ask) -> None:
    plain = timed(ask, 8, {})
    again = timed(ask, 8, {"model.activation_checkpointing": "true"})
    lora = timed(ask, 8, {"model.adapter": "lora"})
    # GPT-NeoX adds attention and feed-forward at the end of a block, so that all of it is computed again.
    assert again.flops.policy_backward - plain.flops.policy_backward == pytest.approx(plain.flops.policy_forward)
    assert lora.flops.policy_backward < 0.75 * plain.flops.policy_backward
    assert lora.memory < plain.memory / 20


def test_a_fixed_global_batch_stops_scaling_where_ranks_have_no_pair(ask: Ask) -> None:
    given = {"training.pairs_per_step": 32}
    few, all_, more = (timed(ask, gpus, given) for gpus in (8, 32, 64))
    assert few.arithmetic == pytest.approx(4 * all_.arithmetic, rel=0.05)
    assert more.arithmetic == all_.arithmetic and more.tokens_per_second < all_.tokens_per_second
    assert more.share_of_rate < all_.share_of_rate < few.share_of_rate < 0.5


def test_optimizer_traffic_is_shared_out(ask: Ask) -> None:
    plan = make_plan(ask("pythia-1.4b", 8, BF16))
    trained = plan.census.count(trained=True)
    assert memory_bytes(plan.setting, plan.census, plan.micro_batches) == pytest.approx(trained / 8 * (24 + 6))


def test_a_mean_length_decides_the_time(ask: Ask) -> None:
    request = ask("pythia-1.4b", 8, {**BF16, "training.pairs_per_step": 64})
    longest = step_time(make_plan(request), ROUND)
    half = step_time(make_plan(dataclasses.replace(request, tokens_per_pair=(512 + 2 * 511) / 2)), ROUND)
    assert half.tokens == pytest.approx(longest.tokens / 2, rel=0.01)
    assert half.arithmetic == pytest.approx(longest.arithmetic / 2, rel=0.1)


def test_terms_come_from_a_file_and_are_changed_by_hand(tmp_path: Path) -> None:
    file = tmp_path / "terms.json"
    terms = {name: value for name, value in dataclasses.asdict(ROUND).items() if name != "measured"}
    file.write_text(json.dumps({"machine": terms, "traffic": []}))
    found = find_machine(str(file))
    assert found == dataclasses.replace(ROUND, measured=True)
    file.write_text("\ufeff" + json.dumps({"machine": terms}))
    assert find_machine(str(file)) == found, "with a byte order mark"
    file.write_text(json.dumps({"machine": {**terms, "matrix_tflops": 4.0}}))
    with pytest.raises(UserError, match="matrix_tflops must be an object, a rate for each dtype"):
        find_machine(str(file))
    faster = changed(found, torch.bfloat16, matrix_tflops=40.0, overlap=None)
    assert faster.rate(torch.bfloat16) == 40e12 and faster.rate(torch.float32) == 2e12
    with pytest.raises(UserError, match="float16"):
        found.rate(torch.float16)


@pytest.mark.parametrize("text", ["{}", "[]", "no JSON", '{"machine": {"name": "x"}}', '{"machine": 3}', "[" * 100_000])
def test_a_file_without_terms_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "terms.json").write_text(text)
    with pytest.raises(UserError, match=r"machine: .*terms\.json"):
        find_machine(str(tmp_path / "terms.json"))


@pytest.mark.parametrize(
    ("field", "value"), [("matrix_share", 0.0), ("matrix_share", 1.1), ("overlap", -1.0), ("bandwidth", 0.0)]
)
def test_terms_that_cannot_be_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=field):
        changed(KNOWN["h100"], torch.bfloat16, **{field: value})


def test_what_runs_on_the_host_is_not_timed(ask: Ask) -> None:
    with pytest.raises(UserError, match="offloaded"):
        timed(ask, 8, {"ds_config": "ds_configs/zero3_offload.json"})
