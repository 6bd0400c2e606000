"""The stages that an experiment's file becomes, each after those that it needs, what uses a run right behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.jobs.spec import Suite
from sparsepo_dist.experiments.files.spec import ExperimentFile, Options, Training
from sparsepo_dist.experiments.stages.stage import OUTPUT, Stage, placeholders
from sparsepo_dist.files import leaves
from sparsepo_dist.runs.recipes.files import read_recipe

PREPARE, SFT, RUN = "prepare", "sft", "run"
CHECKOUT = Path(__file__).resolve().parents[3]
_DS_CONFIG = "ds_configs/zero3.json"  # the default of runs, which has to be found from any folder
_SPARSEPO = ("-m", "sparsepo_dist.commands.main")
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")
_OF_CACHES = ("data.", "model.", "masks.", "reference.")
_NAMED_MODELS = ("frontier", "summary")  # their --model takes NAME=PATH


@dataclass(frozen=True)
class Run:
    """A training of an experiment."""

    name: str
    method: str
    values: Mapping[str, Any]
    training: Training


def runs_of(experiment: ExperimentFile) -> list[Run]:
    """All of them, the start first.

    Raises:
        UserError: two have one name.
    """
    found = [] if experiment.sft is None else [Run(SFT, SFT, {}, experiment.sft)]
    for method, training in experiment.methods.items():
        for point in training.points():
            parts = [f"{_short(field, training.grid)}{_text(value)}" for field, value in point.items()]
            found.append(Run("-".join([method, *parts]), method, point, training))
    names = [run.name for run in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(
            f"{experiment.file}: two runs are called {twice}; rename a method, or remove a value that stands twice"
        )
    return found


def _short(field: str, grid: Mapping[str, Any]) -> str:
    last = field.rpartition(".")[2]
    return last if [name.rpartition(".")[2] for name in grid].count(last) == 1 else field


def stages_of(experiment: ExperimentFile) -> list[Stage]:
    """The stages. Raises UserError as `runs_of`, and where a placeholder stands for nothing."""
    stages: dict[str, Stage] = {}
    for stage in _stages(experiment):
        known = {*stages, OUTPUT}
        unknown = placeholders(stage.configuration) - known if stage.kind != "evaluate" else set()
        odd = next((name for name in sorted(unknown) if name in (PREPARE, SFT)), None)
        if odd is not None:
            raise UserError(f"{experiment.file}: {stage.name} names {{{odd}}}, and the file has no section {odd}")
        stages.setdefault(stage.name, stage)
    return list(stages.values())


def _stages(experiment: ExperimentFile) -> Iterator[Stage]:
    if experiment.prepare is not None:
        name, options = experiment.prepare.name, experiment.prepare.options
        yield Stage(
            PREPARE, "prepare", (*_SPARSEPO, "prepare", name, "--output={output}", *_arguments(options)),
            {"name": name, **options}, ("preparation",),
        )  # fmt: skip
    for run in runs_of(experiment):
        yield from _of_run(experiment, run)


def _of_run(experiment: ExperimentFile, run: Run) -> Iterator[Stage]:
    recipe = str(run.training.recipe)
    of_recipe = _recipe_values(recipe)
    ours = {name: value for name, value in _sources(experiment, run).items() if name not in of_recipe or "{" in value}
    options = {**ours, **run.training.options, **run.values}
    configuration = {**of_recipe, **options}
    needs = _needs(experiment, configuration)
    if run.training.cache:
        cached = {
            name: value
            for name, value in configuration.items()
            if name == "objective.name" or name.startswith(_OF_CACHES)
        }
        cache = f"cache-{_digest(cached)}"
        words = (*_SPARSEPO, "cache", f"--recipe={recipe}", *_arguments(options), "--reference.cache={output}/cache")
        yield Stage(cache, "cache", words, cached, ("runs.caching", "runs.parsing"), needs, ("cache",))
        options = {**options, "reference.placement": "cached", "reference.cache": f"{{{cache}}}/cache"}
        configuration, needs = {**configuration, **options}, (*needs, cache)
    launcher = () if experiment.ranks == 1 else (*_TORCHRUN, str(experiment.ranks))
    words = (
        *launcher, str(CHECKOUT / "launch" / "train.py"), f"--recipe={recipe}", *_arguments(options),
        "--output_dir={output}", "--resume=auto",
    )  # fmt: skip
    temporary = () if experiment.keep_weights else ("final", "checkpoints")
    yield Stage(run.name, "train", words, configuration, ("runs.run", "runs.parsing"), needs, temporary)
    for suite in experiment.suites:
        yield _evaluation(experiment, run, suite)


def _sources(experiment: ExperimentFile, run: Run) -> Options:
    """What a run reads and starts from where the file says nothing else."""
    options: dict[str, Any] = {"ds_config": str(CHECKOUT / _DS_CONFIG)}
    if experiment.prepare is not None:
        train = "sft.jsonl" if run.name == SFT else "train.jsonl"
        options |= {"data.train": f"{{{PREPARE}}}/{train}", "data.heldout": f"{{{PREPARE}}}/heldout.jsonl"}
    if experiment.sft is not None and run.name != SFT:
        options["model.path"] = f"{{{SFT}}}/final"
    return options


def _evaluation(experiment: ExperimentFile, run: Run, suite: Suite) -> Stage:
    driver = suite.driver.stem
    ours = suite.driver.parent == CHECKOUT / "evaluation"
    model = f"{run.method}={{{run.name}}}" if ours and driver in _NAMED_MODELS else f"{{{run.name}}}"
    own = {"driver": suite.driver.name if ours else str(suite.driver), "options": list(suite.options), "model": model}
    needs = tuple(dict.fromkeys([run.name, *_needs(experiment, own), *([] if experiment.sft is None else [SFT])]))
    words = (str(suite.driver), "--model", model, "--output={output}", *suite.options)
    code = (f"evaluation.{driver}",) if ours else ()
    return Stage(f"{run.name}/{suite.name}", "evaluate", words, own, code, needs)


def _needs(experiment: ExperimentFile, value: Any) -> tuple[str, ...]:
    named = placeholders(value)
    sections = ((PREPARE, experiment.prepare), (SFT, experiment.sft))
    return tuple(name for name, section in sections if section is not None and name in named)


def _arguments(options: Options) -> list[str]:
    return [f"--{name}={_text(value)}" for name, value in options.items()]


def _text(value: Any) -> str:
    """As a command line has it."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return json.dumps(value)


def _recipe_values(recipe: str) -> dict[str, Any]:
    """Fields of a recipe and of those below it."""
    values: dict[str, Any] = {}
    for file in read_recipe(recipe):
        constructed = yaml.constructor.SafeConstructor().construct_document(file.fields)
        values |= dict(leaves(constructed))
    return values


def _digest(value: Any) -> str:
    import hashlib

    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
