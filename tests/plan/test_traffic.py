"""Bytes that two real ranks move in a step against what a plan says they do, and against the theory."""

from __future__ import annotations

import dataclasses

import pytest

from benchmarks.step_worker import Work
from benchmarks.traffic import NOTHING_KEPT, launch, planned, predict, sent
from benchmarks.traffic_worker import UNCOUNTED
from sparsepo_dist.plan.needs.plan import Plan
from tests.plan.measuring import PROMPT, RESPONSE, write_full_pairs
from tests.support.tiny import save_tiny_model

PAIRS = 8  # a step; a micro-batch holds one, so that each of two ranks has four
ONE = PROMPT + 2 * (RESPONSE - 1)
Sent = dict[tuple[str, str], tuple[float, int]]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Sent, Plan]]:
    folder = tmp_path_factory.mktemp("traffic")
    fields = {"data.max_prompt_length": PROMPT, "data.tokens_per_micro_batch": ONE, "objective.name": "sparsepo"}
    steps = UNCOUNTED + 1
    model = save_tiny_model(folder / "model")
    pairs = write_full_pairs(folder / "pairs.jsonl", steps * PAIRS)
    base = Work("ours", str(model), str(pairs), steps=steps, pairs_per_step=PAIRS, max_length=PROMPT + RESPONSE)
    zero_3 = dataclasses.replace(base, zero_stage=3, zero=NOTHING_KEPT)
    works = {
        "stage 2": dataclasses.replace(base, zero_stage=2, fields={**fields, "reference.placement": "replicated"}),
        "one by one": dataclasses.replace(zero_3, fields={**fields, "reference.tokens_per_pass": ONE}),
        "four at once": dataclasses.replace(zero_3, fields={**fields, "reference.tokens_per_pass": 4 * ONE}),
    }
    found = launch(works, ranks=2).works
    return {name: (sent(f, 2), predict(w, 2)) for (name, w), f in zip(works.items(), found, strict=True)}


@pytest.mark.parametrize("name", ["stage 2", "one by one", "four at once"])
def test_measured_bytes_are_the_planned_ones(runs: dict[str, tuple[Sent, Plan]], name: str) -> None:
    measured, plan = runs[name]
    for key, (size, calls) in planned(plan).items():
        assert measured[key][0] == pytest.approx(size, rel=0.01), key
        assert measured[key][1] == pytest.approx(calls, rel=0.05), key


def test_zero_3_moves_three_times_its_parameters(runs: dict[str, tuple[Sent, Plan]]) -> None:
    """In each micro-batch: weights gathered forward and backward, gradients scattered; a rank sends half of it."""
    measured, plan = runs["one by one"]
    of_micro_batch = plan.census.count() * 4 / 2
    assert measured["all-gather", "weights"][0] == pytest.approx(4 * 2 * of_micro_batch, rel=0.01)
    trained = plan.census.count(trained=True) * 4 / 2
    assert measured["reduce-scatter", "gradients"][0] == pytest.approx(4 * trained, rel=0.01)


def test_the_reference_is_gathered_once_a_group(runs: dict[str, tuple[Sent, Plan]]) -> None:
    alone, together = (runs[name][0]["all-gather", "reference's weights"] for name in ("one by one", "four at once"))
    assert alone[0] == 4 * together[0] and alone[1] == 4 * together[1]
