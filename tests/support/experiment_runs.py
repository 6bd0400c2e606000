"""Folders as runs and drivers leave them, with numbers that a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparsepo_dist.experiments.contracts import TrainedRun

SCORER = "a test's reward"
SETTINGS = {"prompts": "0cf6", "prompt_count": 2, "samples": 2, "top_p": 1.0, "seed": 1, "temperature": 1.0}
MASKS: dict[str, Any] = {
    "kind": "auto", "on": "both", "sharing": "common", "layers": "all", "linears": 1, "init": "torch",
    "binary": "none", "weight_decay": 0.01, "random": "fixed",
}  # fmt: skip


def heldout(sparsity: float = 0.5, accuracy: float = 0.75, token_kl: float = 0.1, pairs: int = 8) -> dict[str, Any]:
    """Metrics of an evaluation, as objectives name them; the divergence mask's sparsity is half the reward mask's."""
    sides = {"chosen": 0.1, "rejected": -0.1}
    return {
        "loss": 0.6, "rewards/accuracies": accuracy, "rewards/ties": 0.125, "rewards/margins": 0.5, "pairs": pairs,
        **{f"rewards/{side}": more for side, more in sides.items()},
        **{f"token_kl/{side}": token_kl + more / 10 for side, more in sides.items()},
        **{f"sparsity/reward_mask/{side}": sparsity + more for side, more in sides.items()},
        **{f"sparsity/divergence_mask/{side}": (sparsity + more) / 2 for side, more in sides.items()},
    }  # fmt: skip


def write_run(
    folder: Path, rows: Sequence[Mapping[str, Any]], *, objective: str = "sparsepo", tokens: Sequence[Any] = (),
    masks: Mapping[str, Any] = {}, divergence: str = "policy",
) -> Path:  # fmt: skip
    """A run's folder with these lines of metrics.jsonl."""
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if tokens:
        (folder / "tokens.jsonl").write_text("".join(json.dumps(row) + "\n" for row in tokens))
    training = {"pairs_per_step": 4, "learning_rate": 0.001, "schedule": "cosine", "precision": "bf16", "seed": 0}
    config = {
        "model": {"path": "base/model"}, "data": {"train": "a.jsonl"}, 
        "objective": {"name": objective, "beta": 0.1, "divergence": divergence},
        "training": training, "masks": {**MASKS, **masks},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def write_frontier_results(
    folder: Path,
    rewards: Sequence[float],
    kls: Sequence[float],
    *,
    origin: float = 0.0,
    settings: Mapping[str, Any] = {},
) -> Path:
    """The results of evaluation/frontier.py for one model; rewards and KL of 2 samples of each prompt."""
    path = str(folder / "final")
    for task, values in (("reward-vader", rewards), ("kl-51c8", kls)):
        record = {
            "task": task, "model": {"model": path, "adapter": None, "sha256": "ab12"}, "settings": {}, "result": values,
            "command": f"frontier.py --model {folder}", "date": "2026-12-01T00:00:00+00:00", "device": "2 CPU cores",
        }  # fmt: skip
        file = folder / "models" / "final-1234" / f"{task}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record))
    reward, kl = sum(rewards) / len(rewards), sum(kls) / len(kls)
    row = {"method": "m", "model": "run", "step": None, "path": path, "kl": kl, "reward": reward, "on_frontier": True}
    record = {
        "scorer": SCORER, "settings": {**SETTINGS, **settings}, "rows": [row],
        "reference": {"method": "reference", "path": "/start", "kl": 0.0, "reward": origin},
    }  # fmt: skip
    (folder / "frontier.json").write_text(json.dumps(record))
    return folder


def trained(
    root: Path, method: str, beta: float | None, seed: int, *, reward: float, kl: float, sparsity: float = 0.5,
    masks: Mapping[str, Any] = {}, values: Mapping[str, Any] = {}, objective: str = "sparsepo",
    suite: str = "frontier", tokens: Sequence[Any] = (), divergence: str = "policy",
) -> TrainedRun:  # fmt: skip
    """A run with six evaluations, the last of which has this sparsity, and a frontier result of these means."""
    name = f"{method}-beta{beta}-seed{seed}" + "".join(f"-{key}{value}" for key, value in values.items())
    rows = []
    for step in range(6):
        part = 1 - step / 5
        row = heldout(sparsity + 0.2 * part * (1 - sparsity), token_kl=kl / 20 * (1 - part))
        rows.append({"step": 10 * step, "split": "eval", **row})
    if objective == "dpo":
        rows = [{k: v for k, v in row.items() if not k.startswith(("sparsity", "token_kl"))} for row in rows]
    run = write_run(root / "runs" / name, rows, objective=objective, masks=masks, tokens=tokens, divergence=divergence)
    results = write_frontier_results(
        root / "results" / name, [reward - 0.2, reward, reward, reward + 0.2], [kl - 0.4, kl, kl, kl + 0.4]
    )
    grid = {"training.seed": seed, **({} if beta is None else {"objective.beta": beta}), **values}
    return TrainedRun(
        name, method, grid, run, f"hash-of-{name}", f"train --seed {seed}", {suite: results}, {suite: "frontier"}
    )
