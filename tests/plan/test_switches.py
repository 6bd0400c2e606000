"""What is suggested does what it says."""

from __future__ import annotations

from typing import Any

import pytest

from sparsepo_dist.plan.needs.plan import make_plan
from sparsepo_dist.plan.switches import describe, remedies
from sparsepo_dist.plan.table import as_text
from tests.plan.conftest import Ask

CASES = [
    ("pythia-1.4b", 1, 30, {"reference.placement": "replicated"}),
    ("pythia-1.4b", 1, 16, {}),
    ("pythia-1.4b", 2, 24, {"ds_config": "ds_configs/zero2.json"}),
    ("pythia-1.4b", 8, 12, {"data.tokens_per_micro_batch": 16384}),
    pytest.param("gpt-j-6b", 4, 40, {"reference.placement": "replicated"}, marks=pytest.mark.slow),
    pytest.param("gpt-j-6b", 1, 12, {}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model", "gpus", "memory", "fields"), CASES)
def test_suggestions_fit_when_applied(ask: Ask, model: str, gpus: int, memory: float, fields: dict[str, Any]) -> None:
    request = ask(model, gpus, fields)
    assert not make_plan(request).fits(memory)
    found = remedies(request, memory)
    assert found
    for remedy in found:
        changed: Any = request
        for switch in remedy.switches:
            changed = switch.apply(changed)
        again = make_plan(changed)
        assert again.fits(memory) and again.peak == remedy.plan.peak
        assert all(describe(switch, remedy.plan) for switch in remedy.switches)


def test_every_switch_of_a_combination_is_needed(ask: Ask) -> None:
    request, memory = ask("pythia-1.4b", 1), 14
    several = [remedy for remedy in remedies(request, memory) if len(remedy.switches) > 1]
    assert several
    for remedy in several:
        for left_out in remedy.switches:
            changed: Any = request
            for switch in remedy.switches:
                changed = switch.apply(changed) if switch is not left_out else changed
            assert not make_plan(changed).fits(memory)


def test_least_number_of_gpus(ask: Ask) -> None:
    request = ask("gpt-j-6b", 1, {"model.activation_checkpointing": "true", "reference.placement": "sharded"})
    more = next(r for r in remedies(request, 60) if describe(r.switches[0], r.plan).startswith("--gpus"))
    gpus = more.plan.setting.ranks
    assert more.plan.fits(60)
    fewer = ask("gpt-j-6b", gpus - 1, {"model.activation_checkpointing": "true", "reference.placement": "sharded"})
    assert not make_plan(fewer).fits(60)


def test_nothing_helps_where_nothing_can(ask: Ask) -> None:
    request = ask("pythia-1.4b", 1)
    assert remedies(request, 1.6) == []
    assert "None of the switches" in as_text(make_plan(request), 1.6, [])
