"""A small run's folder, as training and evaluation leave it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest


def metrics_row(step: int, split: str) -> dict:
    values = {"loss": 0.69 - step / 100, "rewards/chosen": step / 10, "rewards/rejected": -step / 10, "kl/chosen": 0.1}
    return {"step": step, "split": split, **values, "sparsity/reward_mask/chosen": 0.4, "token_kl/chosen": 0.01}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run-1"
    (folder / "final").mkdir(parents=True)
    rows = [metrics_row(0, "eval"), *(metrics_row(s, "train") for s in range(1, 5)), metrics_row(4, "eval")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    response = {
        "pair": 0, "branch": "chosen", "prompt": "Say <b>", "tokens": ["<script>", "\n", " fine"],
        "reward": [-2.0, 0.0, 1.0], "kl": [0.0, 0.5, 0.25], "reward_mask": [1.0, 0.0, 0.5],
        "divergence_mask": [0.0, 0.0, 0.0],
    }  # fmt: skip
    rejected = {**response, "branch": "rejected", "reward": [4.0, 0.0, 1.0]}
    (folder / "tokens.jsonl").write_text(json.dumps(response) + "\n" + json.dumps(rejected) + "\n")
    example = {"prompt": "p", "response": "r <i>", "reward": 0.5}
    (folder / "evaluation.json").write_text(
        json.dumps(
            {
                "scorer": "test", "prompts": 2, "samples_per_prompt": 1, "response_kl": 1.5,
                "reference": {"mean_reward": 0.1, "examples": [example]},
                "trained": {"mean_reward": 0.4, "examples": [example]},
                "difference": {"mean": 0.3, "low": 0.2, "high": 0.4}, "sparsity": {"reward mask": 0.25},
            }
        )
    )  # fmt: skip
    (folder / "config.yaml").write_text(
        "model: {path: base/model}\ndata: {train: a.jsonl}\nobjective: {name: sparsepo, beta: 0.1}\n"
        "training: {pairs_per_step: 4, learning_rate: 0.001, schedule: cosine, precision: bf16, seed: 0}\n"
    )
    return folder
