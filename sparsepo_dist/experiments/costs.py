"""What the trainings of an experiment will need, as `sparsepo plan` tells of each: no model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.files.runs import SFT
from sparsepo_dist.experiments.files.spec import ExperimentFile
from sparsepo_dist.experiments.settled import Settled
from sparsepo_dist.experiments.stages.stage import OUTPUT, Stage, filled
from sparsepo_dist.plan.asked.request import Request
from sparsepo_dist.plan.needs.plan import GIB, make_plan
from sparsepo_dist.plan.speed.machine import find_machine
from sparsepo_dist.plan.speed.time import step_time
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.parsing import parse_arguments, train_parser

_MODEL = "model.path"


class Asked(NamedTuple):
    """What the trainings are planned for."""

    gpus: int
    gpu_memory: float
    """GiB of one."""
    machine: str | None
    """As `sparsepo plan --machine`; None leaves times out."""


def costs(file: ExperimentFile, settled: Settled, open_stages: set[str], asked: Asked) -> Iterator[str]:
    """A line for the runs of each method: how many are to be run, memory, and time where it is asked for."""
    by_method: dict[str, list[Stage]] = {}
    for one in settled.planned:
        if one.run.name in open_stages:
            by_method.setdefault(one.run.method, []).append(settled.work.stages[one.run.name])
    for method, stages in by_method.items():
        runs = f"{method}: {len(stages)} run{'s' * (len(stages) > 1)}"
        try:
            yield f"{runs}, each {_cost(_config(file, settled, stages[0]), asked)}"
        except UserError as error:
            yield f"{runs}, which cannot be planned: {error}"


def _config(file: ExperimentFile, settled: Settled, stage: Stage) -> RunConfig:
    """A training's configuration; what is not trained yet has the shape of the model it is trained from."""
    entry = next(place for place, word in enumerate(stage.command) if word.endswith("train.py"))
    words = [word for word in stage.command[entry + 1 :] if not word.startswith("--resume=")]
    for run in reversed(file.runs):  # each starts from one before it, if from any
        from_sft = file.sft is not None and run.name != SFT and _MODEL not in run.options
        start = f"{{{SFT}}}/final" if from_sft else str(run.field(_MODEL))
        words = [word.replace(f"{{{run.name}}}/final", start) for word in words]
    folders = {name: str(settled.work.output(name)) for name in stage.needs}
    return parse_arguments(train_parser(), filled(words, {OUTPUT: "output", **folders}))[0]


def _cost(config: RunConfig, asked: Asked) -> str:
    plan = make_plan(Request(config, load_ds_config(config.ds_config), asked.gpus))
    verb = "fits" if plan.fits(asked.gpu_memory) else "does not fit"
    told = f"{plan.peak / GIB:.1f} GiB of a GPU, which {verb}"
    if asked.machine is None:
        return told
    seconds = step_time(plan, find_machine(asked.machine)).total
    steps = _steps(config, plan.setting.pairs_per_step)
    if steps is None:
        return f"{told}; {seconds:.3g} s a step, of which there are as many as the data has, which is not there yet"
    return f"{told}; {steps} steps of {seconds:.3g} s: {steps * seconds / 3600:.1f} hours of {asked.gpus} GPUs"


def _steps(config: RunConfig, pairs_per_step: int) -> int | None:
    """Optimizer steps of a run, by the lines of its file; None where that is not there, or no file of lines."""
    if config.training.max_steps is not None:
        return config.training.max_steps
    train = config.data.train
    if not isinstance(train, str) or Path(train).suffix != ".jsonl" or not Path(train).is_file():
        return None
    with Path(train).open("rb") as file:
        rows = sum(1 for _ in file)
    return round(-(-rows // pairs_per_step) * config.training.epochs)
