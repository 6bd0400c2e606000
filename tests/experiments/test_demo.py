"""`make demo`: small, every time; whole, as a user runs it, among the long proofs. And the recipe that it trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.builtin import pairs
from sparsepo_dist.builtin.pairs import SentimentFiles, sentiment_files
from sparsepo_dist.builtin.prompts import Drawn
from sparsepo_dist.commands import demo
from sparsepo_dist.evaluation.frontier import command as frontier
from sparsepo_dist.experiments.sentiment import evaluation
from tests.support.documents import DEFAULT_RECIPE, ROOT
from tests.support.runs import assert_same_curve, train_all

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentimentFiles]:
    """The experiment from an empty cache, with an eighth of its prompts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPARSEPO_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(pairs, "TRAINING_PROMPTS", 8)
        patch.setattr(pairs, "HELDOUT_PROMPTS", 2)
        patch.setattr(evaluation, "UNSEEN", Drawn(prompts=4, samples=2, seed=1))
        yield sentiment_files()


def rows_of(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_finished(run: Path) -> dict[str, Any]:
    """A demo's folder has all that it shows; what was found."""
    for name in (
        "config.yaml", "final/model.safetensors", "final/masks.safetensors", "final/README.md", "report/loss.png",
        "report/sparsity.png", "report/index.html",
    ):  # fmt: skip
        assert (run / name).is_file(), name
    assert list((run / "monitor").rglob("events.out.tfevents*"))
    first = rows_of(run)[0]
    assert first["kl/chosen"] == 0 and 0.69314 < first["loss"] < 0.69316
    result: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    assert 0 < result["response_kl"] < 50
    return result


def test_a_small_demo_comes_to_its_end(
    small: SentimentFiles, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The command, the deepspeed launcher and two ranks, the evaluation, the report; then the frontier of its run."""
    run = tmp_path / "run"
    assert demo.main(["--output_dir", str(run)]) == 0
    said = capfd.readouterr().out.splitlines()
    assert str(run) in said[-1] and "on 4 unseen prompts x 2 samples" in said[-3]
    difference = assert_finished(run)["difference"]
    assert difference["low"] <= difference["mean"] <= difference["high"]
    before, *_, after = (row for row in rows_of(run) if row["split"] == "eval")
    assert before["rewards/margins"] == 0 != after["rewards/margins"]
    given = ["--model", str(run), "--output", str(tmp_path / "frontier"), "--prompt_count", "4", "--samples", "1"]
    record = json.loads(frontier.frontier(given).with_suffix(".json").read_text())
    (row,) = record["rows"]
    assert (row["method"], row["on_frontier"], record["reference"]["kl"]) == ("sparsepo-independent", True, 0)
    assert 0 < row["kl"] < 50 and (tmp_path / "frontier" / "frontier.png").is_file()


def test_the_default_recipe_trains_alike_on_compiled_kernels_and_in_plain_pytorch(
    small: SentimentFiles, tmp_path: Path
) -> None:
    """Two steps of four of its pairs, the rest of it as it is."""
    heldout = tmp_path / "heldout.jsonl"
    heldout.write_text("".join(small.heldout.read_text().splitlines(keepends=True)[:2]))
    fields = {
        "recipe": DEFAULT_RECIPE,
        "ds_config": ROOT / "ds_configs" / "zero3.json",
        "data.train": small.train,
        "data.heldout": heldout,
        "training.pairs_per_step": 4,
        "training.max_steps": 2,
        "training.precision": "fp32",
    }
    runs = {name: {**fields, "ops.backend": name} for name in ("cpp", "eager")}
    trained = train_all(tmp_path, runs, timeout=3000)
    # Adam divides a gradient by its size: where it is all rounding, its sign alone moves a weight by the rate, 1e-4.
    assert_same_curve(trained["cpp"], trained["eager"], tolerance=1e-4)


@pytest.mark.long
def test_the_demo_raises_the_reward(tmp_path: Path) -> None:
    """After installation, from an empty cache."""
    run = tmp_path / "run"
    done = subprocess.run(
        [Path(sys.executable).with_name("sparsepo"), "demo", "--output_dir", str(run)],
        env={**os.environ, "SPARSEPO_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert str(run) in done.stdout.splitlines()[-1]
    difference = assert_finished(run)["difference"]
    assert difference["low"] > 0, difference
