"""The stages that an experiment's file becomes, each after those that it needs, what uses a run right behind it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from sparsepo_dist.errors import UserError
from sparsepo_dist.experiments.files.caches import cached_content
from sparsepo_dist.experiments.files.chains import others_of, own_stage
from sparsepo_dist.experiments.files.runs import (
    CHECKOUT,
    PREPARE,
    SFT,
    Run,
    arguments_of,
    digest,
    flagged,
    recipe_values,
)
from sparsepo_dist.experiments.files.selection import Planned, Point
from sparsepo_dist.experiments.files.spec import ExperimentFile
from sparsepo_dist.experiments.files.suites import evaluations, evaluations_of_start, starts
from sparsepo_dist.experiments.files.training import ALL_LAYERS, Preparation
from sparsepo_dist.experiments.stages.stage import OUTPUT, Stage, placeholders

_DS_CONFIG = "ds_configs/zero3.json"  # the default of runs, which has to be found from any folder
_SPARSEPO = ("-m", "sparsepo_dist.commands.main")
_TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node")


def stages_of(experiment: ExperimentFile, chosen: Mapping[str, Point] | None = None) -> list[Stage]:
    """The stages.

    Args:
        experiment: the file.
        chosen: by method the point that was selected, as far as it was; by default nothing was.

    Raises:
        UserError: a placeholder stands for nothing, or a cache cannot be.
    """
    stages: dict[str, Stage] = {}
    for stage in _stages(experiment, chosen or {}):
        known = {*stages, OUTPUT}
        unknown = placeholders(stage.configuration) - known if stage.kind != "evaluate" else set()
        odd = next((name for name in sorted(unknown) if name in (PREPARE, SFT)), None)
        if odd is not None:
            raise UserError(f"{experiment.file}: {stage.name} names {{{odd}}}, and the file has no section {odd}")
        stages.setdefault(stage.name, stage)
    return list(stages.values())


def _stages(experiment: ExperimentFile, chosen: Mapping[str, Point]) -> Iterator[Stage]:
    if experiment.prepare is not None:
        yield _preparation(experiment, PREPARE, experiment.prepare)
    kept = experiment.undecided(chosen)
    planned = experiment.planned(chosen)
    for one in planned:
        for stage in _of_run(experiment, one):
            yield dataclasses.replace(stage, temporary=()) if kept else stage
    for start in starts(experiment, planned):  # what a run is measured from stands before it already
        yield from evaluations_of_start(experiment, start)


def _preparation(experiment: ExperimentFile, stage: str, given: Preparation) -> Stage:
    name, options = given.name, given.options
    words = (*_SPARSEPO, "prepare", name, "--output={output}", *flagged(options))
    code = ("preparation.command", f"preparation.{name}")
    return Stage(stage, "prepare", words, {"name": name, **options}, code, _needs(experiment, options))


def _of_run(experiment: ExperimentFile, one: Planned) -> Iterator[Stage]:
    run = one.run
    if run.training.prepare is not None:
        yield _preparation(experiment, own_stage(run), run.training.prepare)
    options = _options(experiment, run)
    configuration = {**recipe_values(str(run.training.recipe)), **options}
    needs = _needs(experiment, configuration)
    cache = _cache(experiment, run, options, configuration, needs)
    reference = None
    if configuration.get("reference.adapter_path") is None:
        reference = _begun_from(experiment, run)
    if cache is not None:
        yield cache
        cached = {"reference.placement": "cached", "reference.cache": f"{{{cache.name}}}/cache"}
        options, configuration, needs = {**options, **cached}, {**configuration, **cached}, (*needs, cache.name)
    script = str(CHECKOUT / "launch" / "train.py")
    words = (
        *_launcher(experiment), script, f"--recipe={run.training.recipe}", *arguments_of(options),
        "--output_dir={output}", "--resume=auto",
    )  # fmt: skip
    temporary = () if experiment.keep_weights else ("final", "checkpoints", "exported")
    nodes = experiment.slurm.nodes if experiment.resources.backend == "slurm" else 1
    yield Stage(run.name, "train", words, configuration, ("runs.run", "runs.parsing"), needs, temporary, nodes)
    yield from evaluations(experiment, run, one.suites, reference)


def _begun_from(experiment: ExperimentFile, run: Run) -> str:
    """The model that a run's KL is measured from: its reference, or what a run that it starts from began from."""
    configuration = {**recipe_values(str(run.training.recipe)), **_options(experiment, run)}
    path = configuration.get("reference.path") or configuration.get("model.path") or run.field("model.path")
    before = {f"{{{other.name}}}/final": other for other in experiment.runs if other.name != SFT}
    return _begun_from(experiment, before[path]) if path in before else str(path)


def _launcher(experiment: ExperimentFile) -> tuple[str, ...]:
    if experiment.ranks == 1:
        return ()
    if experiment.resources.backend == "slurm":
        return ("-m", "sparsepo_dist.queueing.ranks", str(experiment.ranks // experiment.slurm.nodes))
    return (*_TORCHRUN, str(experiment.ranks))


def _options(experiment: ExperimentFile, run: Run) -> dict[str, Any]:
    """What is said over the recipe: the file's, and where it says nothing what the run reads and starts from."""
    in_recipe = recipe_values(str(run.training.recipe))
    ours: dict[str, Any] = {} if "ds_config" in in_recipe else {"ds_config": str(CHECKOUT / _DS_CONFIG)}
    if experiment.prepare is not None:
        train, heldout = ("sft", "sft_heldout") if run.name == SFT else ("train", "heldout")
        ours |= {"data.train": f"{{{PREPARE}}}/{train}.jsonl", "data.heldout": f"{{{PREPARE}}}/{heldout}.jsonl"}
    if experiment.sft is not None and run.name != SFT:
        ours["model.path"] = f"{{{SFT}}}/final"
    return {**ours, **run.options}


def _cache(
    experiment: ExperimentFile, run: Run, options: Mapping[str, Any], configuration: Mapping[str, Any],
    needs: tuple[str, ...],
) -> Stage | None:  # fmt: skip
    """The stage that writes a run's reference cache; None where the run has none."""
    if not run.training.cache:
        return None
    try:
        content = cached_content(run, configuration, run.training.cache)
    except UserError as error:
        raise UserError(f"{experiment.file}: line {run.training.line}: methods.{run.method}: {error}") from None
    if content is None:
        return None
    words = (
        *_SPARSEPO, "cache", f"--recipe={run.training.recipe}", *arguments_of(options),
        "--reference.cache={output}/cache", *(["--all_layers=true"] if run.training.cache == ALL_LAYERS else []),
    )  # fmt: skip
    code = ("runs.caching", "runs.parsing")
    return Stage(f"cache-{digest(content)}", "cache", words, content, code, needs, ("cache",))


def _needs(experiment: ExperimentFile, value: Any) -> tuple[str, ...]:
    named = placeholders(value)
    sections = ((PREPARE, experiment.prepare), (SFT, experiment.sft))
    found = [name for name, section in sections if section is not None and name in named]
    return (*found, *others_of(value, experiment.runs))
