"""The console command `sparsepo` before any of its commands is at work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from sparsepo_dist.commands import doctor
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
COMPUTING = ("torch", "numpy", "transformers", "peft", "deepspeed", "datasets", "scipy", "matplotlib")
HEAVY = (*COMPUTING, "jsonargparse")


def loaded(*arguments: str, script: Path = SPARSEPO, code: int = 0) -> tuple[str, set[str]]:
    """What a command prints, mistakes included, and the packages that it imports meanwhile."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", script, *arguments], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == code, done.stderr[-3000:]
    said = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.startswith("import time:"))
    return done.stdout + said, {name.split(".")[0] for name in re.findall(r"\| +([\w.]+)$", done.stderr, re.MULTILINE)}


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


@pytest.mark.parametrize("command", ["plan", "doctor", "inspect", "cache", "prepare", "experiment"])
def test_help_with_many_options_loads_nothing_that_computes(command: str) -> None:
    said, packages = loaded(command, "--help")
    assert f"usage: sparsepo {command}" in said
    assert packages.isdisjoint(COMPUTING), packages & set(COMPUTING)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--objectiv.beta", "1"), "did you mean --objective.beta?"),
        (("--training.epochs", "-1"), "training.epochs: -1.0 is out of range"),
        (("--ds_config", "nowhere.json"), "ds_config: no such file nowhere.json"),
        (("--recipe", "launch/recipes/dialogue/dpo.yaml"), "model.path: this recipe starts from the model that"),
        (("--output_dir", "README.md"), "output_dir: "),
    ],
)
def test_a_mistake_in_a_configuration_is_told_before_anything_that_computes_is_loaded(
    arguments: tuple[str, ...], words: str
) -> None:
    said, packages = loaded(*arguments, script=ROOT / "launch" / "train.py", code=2)
    assert "error: " in said and words in said
    assert packages.isdisjoint(COMPUTING), packages & set(COMPUTING)


def test_a_mistake_in_what_is_to_be_planned_is_told_before_models_can_be_built() -> None:
    said, packages = loaded("plan", "--gpus", "2", "--machine", "abacus", code=2)
    assert "machine: abacus is neither" in said
    assert packages.isdisjoint(COMPUTING), packages & set(COMPUTING)


def test_the_doctor_speaks_before_torch_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it fails
    said = []
    with pytest.raises(ImportError):
        for name, _ in doctor.diagnose():
            said.append(name)
    assert {*doctor.PACKAGES, *doctor.OPTIONAL, "g++"} <= set(said)


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
