"""The step benchmark's arithmetic, and one measured process."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from benchmarks import steps
from benchmarks.step_worker import Measured, Work
from sparsepo_dist.plan.speed.flops import necessary_flops
from tests.support.tiny import save_tiny_model, tiny_config, write_pairs

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_necessary_products_are_those_of_the_models(family: str) -> None:
    """Against what torch counts in a forward pass, whose attention takes every pair of tokens, seen or not."""
    config, tokens, layers, width = tiny_config(family), 24, 3, 32
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model.base_model(torch.zeros(1, tokens, dtype=torch.int64))
    body = counted.get_total_flops() - 4 * width * layers * tokens**2
    seen = 4 * width * layers * tokens * (tokens + 1) / 2
    prompt_only = necessary_flops(config, [[tokens, 1, 1]])
    head = 2 * 2 * width * config.vocab_size
    assert prompt_only == pytest.approx(4 * (body + seen + head))
    longer = necessary_flops(config, [[tokens, 4, 1]])
    rest = body / tokens * 3 + 4 * width * layers * (3 * tokens + 6) + 2 * width * config.vocab_size * 3
    assert longer - prompt_only == pytest.approx(4 * rest)


def test_a_measured_process(tmp_path: Path) -> None:
    save_tiny_model(tmp_path / "model", "llama")
    write_pairs(tmp_path / "pairs.jsonl", 6)
    fields = {"objective.name": "sparsepo", "masks.kind": "ones", "reference.placement": "replicated"}
    work = Work(
        "ours", str(tmp_path / "model"), str(tmp_path / "pairs.jsonl"), steps=3, pairs_per_step=2, max_length=100,
        threads=1, fields=fields, sparsity=0.5,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.step_worker", json.dumps(dataclasses.asdict(work))], cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert len(found["seconds"]) == 2 and len(found["losses"]) == 3 and all(s > 0 for s in found["seconds"])
    assert found["losses"][0] == pytest.approx(0.6931, abs=1e-3)
    assert [len(step) for step in found["tokens"]] == [2, 2] and found["peak_bytes"] > 0


def test_the_quick_form_measures_what_is_aimed_at_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model(tmp_path / "model", "llama")
    asked: list[tuple[str, int, int]] = []

    def measure(work: Work, ranks: int) -> Measured:
        asked.append((work.system, work.zero_stage, ranks))
        return Measured([0.5 if work.system == "ours" else 1.0], [0.7], 3, 1, [[[5, 2, 2]]])

    monkeypatch.setattr(steps, "_measure", measure)
    models = dict.fromkeys(("pythia-70m", "smollm2-135m"), model)
    bench = steps.Bench(models, tmp_path, tmp_path, {"fp32": 1e11}, rounds=1, steps=3, quick=True)
    rows = list(steps.trl_rows(bench))
    assert [(row["run"], row["time / TRL"]) for row in rows] == 4 * [("TRL DPO", 1.0), ("SparsePO", 0.5)]
    assert len(list(steps.rank_rows(bench))) == 2 and asked[-2:] == [("ours", 0, 1), ("ours", 3, 2)]
    assert len(asked) == 8 + 2
