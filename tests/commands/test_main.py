"""The console command `sparsepo` before any of its commands is at work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo_dist.commands.main import COMMANDS, command
from sparsepo_dist.experiments.files.spec import read_experiment
from sparsepo_dist.experiments.settled import settle
from sparsepo_dist.queueing.job import DONE, State

SPARSEPO = Path(sys.executable).with_name("sparsepo")
ROOT = Path(__file__).resolve().parents[2]
EXPERIMENT = """name: small
output: {folder}/out
stages: {folder}/stages
base: {{recipe: {recipe}}}
methods: {{dpo: {{options: {{objective.name: dpo}}}}}}
cache: true
grid: {{objective.beta: [1, 2]}}
suites: {{frontier: {{seed: "{{training.seed}}", prompt_count: 2}}}}
"""
HEAVY = ("torch", "transformers", "deepspeed", "datasets", "jsonargparse", "matplotlib")


def loaded(*arguments: str) -> tuple[str, set[str]]:
    """What the command prints, and the packages that it imports meanwhile."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", SPARSEPO, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, {name.split(".")[0] for name in re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE)}


def test_help_names_every_command_and_loads_none() -> None:
    said, packages = loaded("--help")
    for name, sentence in COMMANDS.items():
        assert name in said and sentence.split(",")[0] in " ".join(said.split())
    assert packages.isdisjoint(HEAVY), packages & set(HEAVY)


@pytest.mark.parametrize("command", ["demo", "report", "push", "merge"])
def test_help_of_a_command_loads_nothing_that_computes(command: str) -> None:
    said, packages = loaded(command, "--help")
    assert f"usage: sparsepo {command}" in said
    assert packages.isdisjoint(HEAVY), packages & set(HEAVY)


@pytest.mark.parametrize("question", ["status", "plan"])
def test_an_experiment_whose_trainings_were_looked_at_loads_nothing_that_computes(
    tmp_path: Path, question: str
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(EXPERIMENT.format(folder=tmp_path, recipe=ROOT / "launch" / "recipes" / "sentiment.yaml"))
    settled = settle(read_experiment(file, ROOT / "evaluation"))
    for job in settled.work.jobs.values():
        job.write(State(DONE))
    said, packages = loaded("experiment", question, str(file))
    assert "dpo-beta1/frontier" in said and "done" in said
    assert packages.isdisjoint(HEAVY), packages & set(HEAVY)


def test_every_command_has_an_entry() -> None:
    for name in COMMANDS:
        assert callable(command(name))


def test_an_unknown_command_is_named_beside_the_known_ones() -> None:
    done = subprocess.run([SPARSEPO, "trian"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "'trian'" in done.stderr and "demo" in done.stderr
