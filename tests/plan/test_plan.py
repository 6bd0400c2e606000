"""Plans of the paper's models, and how they move with what is changed."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from sparsepo_dist.plan.asked.request import Request
from sparsepo_dist.plan.needs.plan import GIB, make_plan
from sparsepo_dist.plan.needs.states import policy_weights
from tests.plan.conftest import Ask

DIALOGUE = {"recipe": "launch/recipes/dialogue/sparsepo_independent.yaml", "ds_config": "ds_configs/zero3.json"}
TLDR = {"recipe": "launch/recipes/summaries/sparsepo_independent.yaml"}


def test_pythia_in_full_precision_fits_on_8_gpus_of_80_gib(ask: Ask) -> None:
    plan = make_plan(ask("pythia-1.4b", 8, DIALOGUE))
    assert plan.fits(80) and str(plan.setting.dtype) == "torch.float32"
    # 16 bytes a parameter in float32: weight, gradient, moments; DeepSpeed's master copy makes it 20.
    states = plan.memory.peak.parts.optimizer + plan.memory.peak.parts.gradients
    assert states == pytest.approx(plan.census.count(trained=True) * (4 + 12) / 8, rel=1e-3)


def test_gpt_j_with_qlora_is_a_small_model(ask: Ask) -> None:
    plan = make_plan(ask("gpt-j-6b", 1, TLDR))
    assert 3.4 * GIB < policy_weights(plan.setting, plan.census).device < 4 * GIB
    assert plan.census.count("adapter") == plan.census.count(trained=True) - plan.census.count("masks")
    assert plan.fits(24)


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        ("pythia-1.4b", DIALOGUE),
        ("pythia-1.4b", {**DIALOGUE, "ds_config": "ds_configs/zero2.json"}),
        ("pythia-1.4b", {**DIALOGUE, "ds_config": "ds_configs/zero3_offload.json"}),
        ("pythia-1.4b", {**DIALOGUE, "reference.placement": "replicated"}),
        ("pythia-1.4b", {**DIALOGUE, "model.adapter": "lora"}),
        ("gpt-j-6b", TLDR),
    ],
)
def test_more_gpus_never_need_more_each(ask: Ask, model: str, fields: dict[str, Any]) -> None:
    """From two on: on a single one ZeRO-3 has nothing to gather."""
    request = ask(model, 2, fields)
    peaks = [make_plan(dataclasses.replace(request, gpus=gpus)).peak for gpus in (2, 4, 8, 16, 32, 64)]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("model", ["pythia-1.4b", "gpt-j-6b"])
@pytest.mark.parametrize("ds_config", ["zero2", "zero3", "zero3_offload"])
def test_checkpointing_never_needs_more(ask: Ask, model: str, ds_config: str) -> None:
    fields = {"ds_config": f"ds_configs/{ds_config}.json"}
    off = make_plan(ask(model, 4, fields))
    on = make_plan(ask(model, 4, {**fields, "model.activation_checkpointing": "true"}))
    assert on.peak <= off.peak
    assert on.memory.peak.parts.activations < off.memory.peak.parts.activations


def test_each_saving_saves(ask: Ask) -> None:
    plain = make_plan(ask("pythia-1.4b", 8, {**DIALOGUE, "reference.placement": "replicated"}))
    sharded = make_plan(ask("pythia-1.4b", 8, DIALOGUE))
    offloaded = make_plan(ask("pythia-1.4b", 8, {**DIALOGUE, "reference.placement": "offload"}))
    lora = make_plan(ask("pythia-1.4b", 8, {**DIALOGUE, "model.adapter": "lora"}))
    assert plain.peak > sharded.peak > offloaded.peak
    assert offloaded.memory.host > sharded.memory.host == 0
    assert lora.memory.peak.parts.optimizer < sharded.memory.peak.parts.optimizer / 20
    assert lora.memory.peak.parts.reference == 0


def test_head_copy_only_for_a_divergence(ask: Ask) -> None:
    counts = {
        name: make_plan(ask("pythia-1.4b", 2, {"objective.name": name})).census.count("reference head")
        for name in ("sparsepo", "dpo", "sft")
    }
    assert counts == {"sparsepo": 50304 * 2048, "dpo": 0, "sft": 0}


def test_what_masks_read_is_kept_through_backward(ask: Ask) -> None:
    learned = make_plan(ask("pythia-1.4b", 2, {"training.precision": "bf16"}))
    rows = learned.shape.predicted
    assert learned.memory.peak.parts.readings >= 24 * rows * 2048 * 2
    paper = make_plan(ask("pythia-1.4b", 2, {"objective.name": "mapo"}))
    released = make_plan(ask("pythia-1.4b", 2, {"objective.name": "mapo", "masks.sites": "released"}))
    assert paper.census.readings.sites == 3 * 24 < released.census.readings.sites
    assert paper.census.readings.hidden_layers == 0


def _sent(request: Request) -> dict[tuple[str, str], int]:
    return {(item.collective, item.purpose): item.bytes for item in make_plan(request).traffic}


def test_bytes_sent(ask: Ask) -> None:
    assert _sent(ask("pythia-1.4b", 1, DIALOGUE)) == {}
    request = ask("pythia-1.4b", 8, {**DIALOGUE, "ds_config": "ds_configs/zero2.json"})
    plan = make_plan(request)
    trained = plan.census.count(trained=True) * 4
    sent = _sent(request)
    assert sent["all-reduce", "gradients"] == round(2 * trained * plan.micro_batches * 7 / 8)
    assert sent["all-gather", "updated weights"] == round(trained * 7 / 8)
    body = sum(weight.bytes for unit in plan.census.reference for weight in unit.weights)
    scorings = plan.micro_batches // 4  # the reference scores 16,384 tokens at once, in micro-batches of 4,096
    assert sent["all-gather", "reference's weights"] == pytest.approx(body * scorings * 7 / 8, rel=0.01)


def test_a_cached_reference_weighs_nothing_but_its_head(ask: Ask) -> None:
    here, cached = (
        make_plan(ask("pythia-1.4b", 8, {**DIALOGUE, "reference.placement": placement, "reference.cache": "DIR"}))
        for placement in ("replicated", "cached")
    )
    assert here.memory.peak.parts.reference > 0 and cached.memory.peak.parts.reference == 0
    assert cached.census.count("reference head") == here.census.count("reference head") > 0
    assert "reference scoring" not in [phase.name for phase in cached.memory.phases]


def test_shorter_pairs_make_fewer_micro_batches(ask: Ask) -> None:
    request = ask("pythia-1.4b", 8, DIALOGUE)
    assert make_plan(request).micro_batches == 128 // 8  # of the longest pairs, one a micro-batch
    assert make_plan(dataclasses.replace(request, tokens_per_pair=400)).micro_batches == 2


def test_masks_that_read_the_reference_have_it_loaded_whatever_the_objective(ask: Ask) -> None:
    fields = {"objective.name": "simpo", "masks.layers": "last"}
    plans = {
        kind: make_plan(ask("pythia-1.4b", 8, {**fields, "masks.kind": kind}))
        for kind in ("auto", "[decay, tail]", "[learned, decay]")
    }
    parts = {kind: plan.memory.peak.parts for kind, plan in plans.items()}
    assert parts["auto"].reference == parts["[decay, tail]"].reference == 0 < parts["[learned, decay]"].reference
    assert [plan.census.count("masks") for plan in plans.values()] == [0, 0, 2048 + 1]


def test_each_oracle_takes_the_memory_of_its_weights_unless_its_scores_are_cached(ask: Ask) -> None:
    base = ask("pythia-1.4b", 4, {"objective.name": "dpo"})
    path = base.config.model.path

    def resting(fields: dict[str, Any]) -> tuple[int, int]:
        parts = make_plan(ask("pythia-1.4b", 4, fields)).memory.peak.parts
        return parts.reference, parts.oracles

    both = {"oracle.path": path, "oracle_against.path": path}
    reference, none = resting({"objective.name": "dpo"})
    assert none == 0 and resting({"objective.name": "tgdpo", "oracle.path": path}) == (reference, reference)
    tis = {"objective.name": "tis_dpo", "objective.alpha": 0, **both}
    assert resting(tis) == (reference, 2 * reference)
    whole = resting({**tis, "oracle_against.placement": "replicated"})[1]
    assert whole == pytest.approx(5 * reference, rel=2e-3)  # a quarter, and all of it
    assert resting({**tis, "reference.placement": "cached", "reference.cache": "somewhere"}) == (0, 0)
