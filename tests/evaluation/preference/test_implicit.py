"""Held-out pairs by implicit reward: against plain transformers in float64, and against a run's own held-out metric."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.preference import run
from sparsepo_dist.evaluation.preference.command import preference
from sparsepo_dist.report.interval import wilson
from tests.support.runs import ZERO, metrics, train_all
from tests.support.tiny import save_tiny_model, tiny_tokenizer, write_pairs

BETA = 0.3


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("implicit")
    save_tiny_model(folder / "reference", seed=0)
    save_tiny_model(folder / "one", seed=1)
    save_tiny_model(folder / "two", seed=2)
    write_pairs(folder / "pairs.jsonl", 7)
    return folder


def row_of(table: Path) -> dict[str, Any]:
    (row,) = json.loads(table.with_suffix(".json").read_text())["rows"]
    return dict(row)


@torch.no_grad()
def plain_rewards(folder: Path, reference: Path, pairs: Path) -> list[list[tuple[float, int]]]:
    """Of each pair, of both responses: the summed log-ratio and the tokens, one sequence at a time in float64."""
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval() for path in (folder, reference)]
    tokenizer, found = tiny_tokenizer(), []
    for row in map(json.loads, pairs.read_text().splitlines()):
        prompt, both = tokenizer(row["prompt"])["input_ids"], []
        for side in ("chosen", "rejected"):
            response = [*tokenizer(row[side])["input_ids"], tokenizer.eos_token_id]
            ids = torch.tensor([prompt + response])
            logps = [model(ids).logits[0, :-1].log_softmax(-1) for model in models]
            ratios = (logps[0] - logps[1]).gather(-1, ids[0, 1:, None])[-len(response) :]
            both.append((float(ratios.sum()), len(response)))
        found.append(both)
    return found


def test_accuracies_and_margins_are_those_of_plain_transformers(base: Path, tmp_path: Path) -> None:
    command = ["--pairs", str(base / "pairs.jsonl"), "--reference", str(base / "reference"), "--beta", str(BETA)]
    models = ["--model", str(base / "one"), "--model", f"second={base / 'two'}"]
    table = preference([*command, *models, "--output", str(tmp_path)])
    rows = json.loads(table.with_suffix(".json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["one", "second"]
    for name, row in zip(("one", "two"), rows, strict=True):
        wanted = plain_rewards(base / name, base / "reference", base / "pairs.jsonl")
        for prefix, values in (
            ("", [[BETA * total for total, _ in both] for both in wanted]),
            ("length_normalised_", [[BETA * total / tokens for total, tokens in both] for both in wanted]),
        ):
            right = sum(chosen > rejected for chosen, rejected in values)
            assert row[f"{prefix}accuracy"] == right / 7 and row[f"{prefix}ties"] == 0
            assert (row[f"{prefix}accuracy_low"], row[f"{prefix}accuracy_high"]) == wilson(right, 7)
            assert row[f"{prefix}margin"] == pytest.approx(np.mean([c - r for c, r in values]), rel=1e-4)
            assert row[f"{prefix}margin_low"] < row[f"{prefix}margin"] < row[f"{prefix}margin_high"]
        assert (row["pairs"], row["own_missing"]) == (7, "it is of no run") and "own_accuracy" not in row
    text = table.read_text()
    assert "second has no own reward: it is of no run." in text and "Win rate" not in text


def test_a_model_that_is_the_reference_ties_everywhere_and_is_right_nowhere(base: Path, tmp_path: Path) -> None:
    same = str(base / "reference")
    row = row_of(
        preference([
            "--model", same, "--reference", same, "--pairs", str(base / "pairs.jsonl"), "--output", str(tmp_path)
        ])
    )  # fmt: skip
    assert (row["accuracy"], row["ties"], row["margin"]) == (0, 7, 0)


def test_pairs_of_one_prompt_count_as_one_in_intervals(base: Path, tmp_path: Path) -> None:
    first, *others = map(json.loads, (base / "pairs.jsonl").read_text().splitlines())
    pairs = tmp_path / "pairs.jsonl"
    same = [{**other, "prompt": first["prompt"]} for other in others]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in [first, *same]))
    command = ["--model", str(base / "one"), "--reference", str(base / "reference"), "--output", str(tmp_path / "out")]
    row = row_of(preference([*command, "--pairs", str(pairs)]))
    assert (row["pairs"], row["prompts"]) == (7, 1)
    assert row["margin_low"] == pytest.approx(row["margin"]) == pytest.approx(row["margin_high"])
    assert row["accuracy_low"] == pytest.approx(row["accuracy"]) == pytest.approx(row["accuracy_high"])


def test_what_is_finished_is_not_measured_again_and_other_settings_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--model", str(base / "one"), "--reference", str(base / "reference"), "--output", str(tmp_path)]
    before = row_of(preference([*command, "--pairs", str(base / "pairs.jsonl")]))
    monkeypatch.setattr(run, "ReferenceComparison", None)
    again = row_of(preference([*command, "--pairs", str(base / "pairs.jsonl"), "--beta", "0.2"]))
    assert again["margin"] == pytest.approx(2 * before["margin"]) and again["accuracy"] == before["accuracy"]
    with pytest.raises(UserError, match=r"was measured with another pairs, .*; name another --output"):
        preference([*command, "--pairs", str(write_pairs(tmp_path / "others.jsonl", 3, seed=5))])


def test_runs_say_how_pairs_are_read_and_must_agree(base: Path, tmp_path: Path) -> None:
    for name, length in (("a", 100), ("b", 90)):
        save_tiny_model(tmp_path / name / "final", seed=1)
        config = {
            "objective": {"name": "simpo", "beta": 2.0}, "model": {"path": str(base / "reference")},
            "data": {"max_length": length, "max_prompt_length": 9},
        }  # fmt: skip
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    command = ["--pairs", str(base / "pairs.jsonl"), "--output", str(tmp_path / "out"), "--model", str(tmp_path / "a")]
    with pytest.raises(UserError, match=r"the runs of a and b read pairs differently \(data.max_length\)"):
        preference([*command, "--model", str(tmp_path / "b")])
    row = row_of(preference(command))
    assert row["method"] == "simpo" and row["own_margin"] != pytest.approx(row["margin"])


def test_what_the_driver_refuses(base: Path, tmp_path: Path) -> None:
    command = ["--model", str(base / "one"), "--pairs", str(base / "pairs.jsonl"), "--output", str(tmp_path)]
    with pytest.raises(UserError, match="one is in no run's folder, which would name its reference; give --reference"):
        preference(command)
    with pytest.raises(UserError, match="--against needs who compares responses"):
        preference([*command, "--against", str(base / "two")])
    with pytest.raises(UserError, match="--judge_url and --judge_model go together"):
        preference([*command, "--judge_url", "http://127.0.0.1:1/v1"])
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "One", "chosen": " a", "rejected": " b"}\n{"prompt": "Two", "chosen": null}\n')
    with pytest.raises(UserError, match=r"bad.jsonl, row 2: .*rejected"):
        preference([*command[:2], "--pairs", str(bad), *command[4:], "--reference", str(base / "reference")])
    with pytest.raises(UserError, match="--prompt_count 9: --pairs has 7 different prompts; lower it"):
        preference([*command, "--reference", str(base / "reference"), "--prompt_count", "9"])


def test_rewards_that_are_no_numbers_are_refused(base: Path, tmp_path: Path) -> None:
    broken = AutoModelForCausalLM.from_pretrained(base / "one")
    broken.model.norm.weight.data.fill_(1e38)  # finite, unlike the logits
    broken.save_pretrained(tmp_path / "broken")
    tiny_tokenizer().save_pretrained(tmp_path / "broken")
    command = ["--pairs", str(base / "pairs.jsonl"), "--reference", str(base / "reference")]
    with pytest.raises(UserError, match="broken: pair 1 of 7 has a reward that is no finite number"):
        preference([*command, "--model", str(tmp_path / "broken"), "--output", str(tmp_path / "out")])


RUNS: dict[str, dict[str, Any]] = {
    "dpo": {"objective.name": "dpo"},
    "sparsepo": {"objective.name": "sparsepo", "masks.init": "calibrated", "masks.layers": "last"},
    "mapo": {"objective.name": "mapo", "objective.divergence": "alpha"},
    "wpo": {"objective.name": "wpo"},
    "orpo": {"objective.name": "orpo"},
    "simpo": {
        "objective.name": "simpo", "masks.kind": "[learned, decay]", "masks.init": "calibrated", "masks.layers": "last",
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(base: Path) -> dict[str, Path]:
    common = {
        "model.path": base / "reference", "data.train": base / "pairs.jsonl", "data.heldout": base / "pairs.jsonl",
        "data.max_length": 100, "training.pairs_per_step": 7, "training.max_steps": 2, "training.epochs": 2,
        "training.learning_rate": 1e-2, "training.precision": "fp32", "training.evaluate_every": 2,
        "objective.beta": 0.1, "ds_config": ZERO[0],
    }  # fmt: skip
    return train_all(base / "runs", {name: {**common, **special} for name, special in RUNS.items()})


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_own_rewards_are_the_trainers_held_out_metric_and_plain_ones_are_dpos(
    name: str, runs: dict[str, Path], base: Path, tmp_path: Path
) -> None:
    row = row_of(
        preference(["--model", str(runs[name]), "--pairs", str(base / "pairs.jsonl"), "--output", str(tmp_path)])
    )
    held = [line for line in metrics(runs[name]) if line["split"] == "eval"][-1]
    assert row["own_accuracy"] == pytest.approx(held["rewards/accuracies"], abs=1e-6)
    assert row["own_margin"] == pytest.approx(held["rewards/margins"], rel=1e-3, abs=1e-5)
    assert row["own_ties"] == round(7 * held["rewards/ties"])
    if name in ("dpo", "wpo"):
        assert row["accuracy"] == row["own_accuracy"] and row["margin"] == pytest.approx(row["own_margin"], rel=1e-4)
    else:
        assert row["margin"] != pytest.approx(row["own_margin"], rel=1e-3)


@pytest.mark.slow
def test_learned_masks_that_are_not_there_are_named(runs: dict[str, Path], base: Path, tmp_path: Path) -> None:
    (runs["sparsepo"] / "final" / "masks.safetensors").rename(tmp_path / "masks.safetensors")
    table = preference([
        "--model", str(runs["sparsepo"]), "--pairs", str(base / "pairs.jsonl"), "--output", str(tmp_path / "out")
    ])  # fmt: skip
    assert row_of(table)["own_missing"].startswith("its learned masks are not beside it (masks.safetensors)")
