"""A whole experiment on a tiny model, killed while it trains and gone on."""

from __future__ import annotations

import json
import multiprocessing
from argparse import Namespace
from pathlib import Path

import pytest
import yaml

from sparsepo_dist.experiments.command import experiment
from sparsepo_dist.experiments.files.runs import CHECKOUT
from sparsepo_dist.experiments.files.spec import read_experiment
from sparsepo_dist.experiments.settled import settle
from sparsepo_dist.queueing.job import DONE, RUNNING
from tests.support.evaluation_jobs import until
from tests.support.tiny import save_tiny_model, write_pairs


def write_file(folder: Path) -> Path:
    recipe = {
        "model": {"path": str(save_tiny_model(folder / "model"))},
        "data": {
            "train": str(write_pairs(folder / "pairs.jsonl", 8)), "heldout": str(write_pairs(folder / "held.jsonl", 3)),
            "max_length": 96, "tokens_per_micro_batch": 400,
        },
        "objective": {"name": "dpo"},
        "training": {"pairs_per_step": 4, "learning_rate": 0.01, "precision": "fp32"},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    given = {
        "name": "tiny", "output": str(folder / "out"), "stages": str(folder / "stages"),
        "base": {"recipe": str(folder / "recipe.yaml")}, "methods": {"dpo": {}}, "cache": True, "seeds": [3],
        "suites": {"frontier": {"prompt_count": 2, "max_new_tokens": 4, "seed": "{training.seed}"}},
        "resources": {"gpus_per_job": 0, "threads_per_job": 1}, "draws": ["summary"],
    }  # fmt: skip
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    return file


def do(command: str, file: Path, **options: bool) -> str:
    said: list[str] = []
    experiment(Namespace(command=command, file=file, **options), said.append)
    return "\n".join(said)


@pytest.mark.slow
def test_from_a_file_to_results_with_a_kill_on_the_way(tmp_path: Path) -> None:
    file = write_file(tmp_path)
    work = settle(read_experiment(file, CHECKOUT / "evaluation")).work
    (cache,) = (name for name in work.jobs if name.startswith("cache-"))
    (start,) = (name for name in work.jobs if name.startswith("start-"))
    assert list(work.jobs) == [cache, "dpo-seed3", start, "dpo-seed3/frontier"]
    killed = multiprocessing.get_context("fork").Process(target=do, args=("run", file), daemon=True)
    killed.start()
    until(lambda: work.jobs["dpo-seed3"].now().state == RUNNING)
    killed.kill()
    killed.join()
    until(lambda: not work.jobs["dpo-seed3"].held())

    assert "All 4 stages are done" in do("run", file)
    assert "=== attempt 2" not in work.jobs[cache].log.read_text(), "what is done is not done again"
    begun, run = json.loads((tmp_path / "out" / "runs.json").read_text())["runs"]
    assert (begun["name"], begun["method"], begun["run"]) == ("start-seed3", "start", None)
    assert begun["results"] == {"frontier": str(work.output(start))}
    assert (run["name"], run["method"], run["values"]) == ("dpo-seed3", "dpo", {"training.seed": 3})
    assert "--training.seed=3" in run["command"] and (Path(run["run"]) / "metrics.jsonl").is_file()
    record = json.loads((Path(run["results"]["frontier"]) / "frontier.json").read_text())
    assert record["settings"]["seed"] == 3 and record["rows"][0]["method"] == "dpo"
    alone = json.loads((work.output(start) / "frontier.json").read_text())
    assert record["reference"] == alone["reference"]
    assert not (work.output("dpo-seed3") / "final").exists() and not (work.output(cache) / "cache").exists()

    assert do("plan", file, gpus=None).endswith("0 of 4 stages are to be run")
    assert "Results of 4 stages are removed" in do("clean", file, results=True)
    assert "4 of 4 stages are to be run" in do("plan", file, gpus=None)
    assert all(job.now().state != DONE for job in work.jobs.values())
