"""A run that ends as its best evaluation: its model is that of a run which ended there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from sparsepo_dist.disk import remove
from sparsepo_dist.errors import UserError
from sparsepo_dist.report.pages.build import build_report
from sparsepo_dist.runs.inputs import load_inputs
from sparsepo_dist.runs.parsing import parse_train
from tests.support.runs import ZERO, metrics
from tests.support.scenarios import outcome, play, scenario, weights

# Of pairs that are learned by heart the loss falls with every step: its highest value is the first evaluation's.
BEST = {"checkpoints.keep_best": "loss", "checkpoints.best_is": "highest", "checkpoints.final": "best"}
COMMON = {
    "data.tokens_per_micro_batch": 70, "training.pairs_per_step": 4, "training.epochs": 2,
    "training.learning_rate": 1e-3, "training.schedule": "constant", "training.warmup_ratio": 0,
    "training.precision": "fp32", "training.evaluate_every": 2, "checkpoints.keep_last": 1,
}  # fmt: skip
RUNS: dict[str, dict[str, Any]] = {
    "replicated": {"ds_config": ZERO[0]},
    "adapter": {"ds_config": ZERO[2], "model.adapter": "lora"},
    "sharded": {"ds_config": ZERO[3]},
}
STOP = {"kind": "SIGTERM", "step": 5, "during": "optimizer step", "rank": 0}


@pytest.fixture(scope="module")
def data(model_and_pairs: dict[str, Any]) -> dict[str, Any]:
    return {**COMMON, **model_and_pairs, "data.heldout": model_and_pairs["data.train"]}


@pytest.mark.slow
def test_the_model_is_that_of_the_best_step(data: dict[str, Any], tmp_path: Path) -> None:
    """Of 6 steps, with evaluations after 2, 4 and 6, the one after 2 is best; one run is stopped and goes on."""
    plan = []
    for name, special in RUNS.items():
        fields = {**data, **special}
        plan.append(scenario(f"{name} short", tmp_path, {**fields, "training.max_steps": 2}))
        fields |= {**BEST, "resume": "auto"}
        plan.append(scenario(name, tmp_path, fields, STOP if name == "sharded" else None))
        if name == "sharded":
            plan.append(scenario(f"{name} again", tmp_path, fields, run=name))
    done = play(tmp_path, plan, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    assert outcome(tmp_path, "sharded")["error"] == "StoppedError"
    for name in RUNS:
        short, run = tmp_path / f"{name} short", tmp_path / name
        wanted, found = weights(short), weights(run)
        assert wanted.keys() == found.keys() and any("masks" in key for key in wanted)
        assert all(torch.equal(wanted[key], found[key]) for key in wanted), name
        rows = metrics(run)
        (then,) = (row for row in rows if row["split"] == "eval" and row["step"] == 2)
        assert rows[-1] == {**then, "split": "final"}, name
        assert (run / "tokens.jsonl").read_text() == (short / "tokens.jsonl").read_text(), name
    build_report(tmp_path / "sharded")
    card = (tmp_path / "sharded" / "final" / "README.md").read_text()
    assert "6 of 4 pairs; the model is that after step 2, the best by its held-out pairs" in card


@pytest.mark.slow
def test_the_best_checkpoint_is_of_more_ranks(data: dict[str, Any], tmp_path: Path) -> None:
    """Gone on with on one rank, a run ends as what two wrote."""
    fields = {**data, "ds_config": ZERO[3], "training.max_steps": 5}
    short = scenario("short", tmp_path, {**fields, "training.max_steps": 2})
    fields |= {**BEST, "resume": "auto"}
    assert play(tmp_path, [short, scenario("stopped", tmp_path, fields, {**STOP, "step": 3})], ranks=2).returncode == 0
    assert outcome(tmp_path, "stopped")["error"] == "StoppedError"
    assert play(tmp_path, [scenario("again", tmp_path, fields, run="stopped")]).returncode == 0
    assert outcome(tmp_path, "again")["error"] is None, outcome(tmp_path, "again")["message"]
    wanted, found = weights(tmp_path / "short"), weights(tmp_path / "stopped")
    assert all(torch.equal(wanted[key], found[key]) for key in wanted)


@pytest.mark.slow
def test_a_best_checkpoint_that_is_gone_is_asked_for(data: dict[str, Any], tmp_path: Path) -> None:
    fields = {**data, "ds_config": ZERO[0], **BEST, "resume": "auto"}
    assert play(tmp_path, [scenario("stopped", tmp_path, fields, {**STOP, "step": 3})]).returncode == 0
    assert outcome(tmp_path, "stopped")["error"] == "StoppedError"
    shutil.copytree(tmp_path / "stopped", tmp_path / "other")
    checkpoints = tmp_path / "stopped" / "checkpoints"
    remove(checkpoints / "step-00000002")
    last = {**fields, "checkpoints.final": "last"}
    plan = [scenario("gone", tmp_path, fields, run="stopped"), scenario("last", tmp_path, last, run="stopped")]
    plan.append(scenario("other", tmp_path, {**fields, "checkpoints.best_is": "lowest"}))
    assert play(tmp_path, plan).returncode == 0
    refused = outcome(tmp_path, "gone")
    assert refused["error"] == "UserError"
    assert f"step 2, but of that checkpoint, in {checkpoints}, it is no longer there" in refused["message"]
    assert outcome(tmp_path, "last")["error"] is None
    assert outcome(tmp_path, "other")["error"] is None
    assert metrics(tmp_path / "other")[-1]["step"] > 2, "what was best by another measure is forgotten"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"checkpoints.final": "best"}, r"final: best needs to know what is best: .* checkpoints\.keep_best"),
        ({**BEST, "training.evaluate_every": 0}, r"checkpoints\.final: best needs evaluations on the way"),
        ({**BEST, "data.heldout": None}, r"checkpoints\.keep_best needs held-out pairs"),
        ({"checkpoints.final": "least"}, r"checkpoints\.final: one of last, best is wanted, found least"),
    ],
)
def test_what_best_needs(data: dict[str, Any], fields: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "ds.json").write_text(json.dumps(ZERO[2]))
    given = {**data, "ds_config": tmp_path / "ds.json", **fields}
    with pytest.raises(UserError, match=told):
        load_inputs(parse_train([f"--{name}={value}" for name, value in given.items() if value is not None]))
