"""The stages that evaluate a run; what a frontier is measured from is measured once for all runs that share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sparsepo_dist.evaluation.jobs.spec import Suite
from sparsepo_dist.experiments.contracts import START
from sparsepo_dist.experiments.files.chains import others_of
from sparsepo_dist.experiments.files.runs import CHECKOUT, PREPARE, SFT, Run, digest, fields_in, with_fields
from sparsepo_dist.experiments.files.selection import Planned
from sparsepo_dist.experiments.files.spec import ExperimentFile
from sparsepo_dist.experiments.stages.stage import Stage, placeholders

_NAMED_MODELS = ("frontier", "summary")  # their --model takes NAME=PATH
_MODEL = "model.path"


def evaluations(
    experiment: ExperimentFile, run: Run, suites: Sequence[Suite], reference: str | None
) -> Iterator[Stage]:
    """A run's suites, each behind the measurement of its reference where it needs one.

    Args:
        experiment: the file.
        run: of it.
        suites: the run's.
        reference: folder or name of the model that the run's KL is measured from; None where it is none alone.
    """
    needs = (run.name, *others_of(run.options, experiment.runs))
    for suite in suites:
        options = options_for(suite, run)
        shared = _shared_start(experiment, suite, run, options, reference)
        if shared is not None and shared.name != f"{run.name}/{suite.name}":
            yield shared
            options = (*options, *_said_reference(experiment, run, reference), f"--reference_results={{{shared.name}}}")
            yield _evaluation(experiment, suite, run.name, _model(suite, run), options, (*needs, shared.name))
        else:
            yield shared or _evaluation(experiment, suite, run.name, _model(suite, run), options, needs)


def _said_reference(experiment: ExperimentFile, run: Run, reference: str | None) -> list[str]:
    """Of a run whose own reference is another run, what it is measured from instead."""
    own = run.field("reference.path") or run.field(_MODEL)
    return [f"--reference={reference}"] if others_of(str(own), experiment.runs) else []


def starts(experiment: ExperimentFile, planned: Sequence[Planned]) -> list[Planned]:
    """What the runs start from where the experiment does not train it, with all suites, as runs of the method START;
    one for each value of the fields that a suite names, such as a seed."""
    found: dict[str, tuple[Run, dict[str, Suite]]] = {}
    for one in planned:
        for suite in (*experiment.suites, *experiment.selected_suites):
            start = _start(experiment, suite, one.run)
            if start is not None:
                found.setdefault(start.name, (start, {}))[1][suite.name] = suite
    return [Planned(start, tuple(suites.values())) for start, suites in found.values()]


def evaluations_of_start(experiment: ExperimentFile, start: Planned) -> Iterator[Stage]:
    """The suites of one of `starts`."""
    path = str(start.run.field(_MODEL))
    for suite in start.suites:
        options = options_for(suite, start.run)
        model = f"{START}={path}" if _names_models(suite) else path
        shared = _shared_start(experiment, suite, start.run, options, path)
        yield shared or _evaluation(experiment, suite, start.run.name, model, options, ())


def _start(experiment: ExperimentFile, suite: Suite, run: Run) -> Run | None:
    path, adapters = run.field(_MODEL), [run.field(f"{part}.adapter_path") for part in ("model", "reference")]
    if experiment.sft is not None or any(adapters) or placeholders(path):
        return None
    paths = {str(other.field(_MODEL)) for other in experiment.runs}
    several = len([path for path in paths if not placeholders(path)]) > 1
    named = {name: run.field(name) for name in sorted(fields_in(list(suite.options)))}
    return Run(START, START, {}, run.training).at({**named, **({_MODEL: path} if several else {})})


def options_for(suite: Suite, run: Run) -> tuple[str, ...]:
    """A suite's options with the run's own values in place of the names of fields in braces."""
    return tuple(with_fields(list(suite.options), run, {}))


def _shared_start(
    experiment: ExperimentFile, suite: Suite, run: Run, options: tuple[str, ...], reference: str | None
) -> Stage | None:
    """The stage that measures the reference of a frontier; None for other suites, and where the file names one."""
    given = any(option.partition("=")[0] in ("--reference", "--reference_results") for option in options)
    if reference is None or given or not (_ours(suite) and suite.driver.stem == "frontier"):
        return None
    start = f"{{{SFT}}}/final"
    reference = start if run.name == SFT else reference  # what the others are measured from
    sft = experiment.sft and Run(SFT, SFT, {}, experiment.sft)
    own = sft and reference == start and options_for(suite, sft) == options
    begun = _start(experiment, suite, run)
    if own:
        name = SFT
    elif begun is not None and reference == run.field(_MODEL):
        name = begun.name
    else:
        name = f"{START}-{digest([reference, options])}"
    method = SFT if own else START
    words = (*options, f"--reference={reference}")
    return _evaluation(
        experiment, suite, name, f"{method}={reference}", words, tuple(others_of(reference, experiment.runs))
    )


def _evaluation(
    experiment: ExperimentFile, suite: Suite, name: str, model: str, options: tuple[str, ...], needs: tuple[str, ...]
) -> Stage:
    own: dict[str, Any] = {
        "driver": suite.driver.name if _ours(suite) else str(suite.driver), "options": list(options), "model": model,
    }  # fmt: skip
    sections = {PREPARE: experiment.prepare, SFT: experiment.sft}
    named = [part for part, section in sections.items() if section is not None and part in placeholders(own)]
    # what the run was trained from, the reference of a divergence, has to be there still
    started = [SFT] if experiment.sft is not None else []
    words = (str(suite.driver), "--model", model, "--output={output}", *options)
    code = (f"evaluation.{suite.driver.stem}",) if _ours(suite) else ()
    return Stage(f"{name}/{suite.name}", "evaluate", words, own, code, tuple(dict.fromkeys([*needs, *named, *started])))


def _model(suite: Suite, run: Run) -> str:
    return f"{run.method}={{{run.name}}}" if _names_models(suite) else f"{{{run.name}}}"


def _names_models(suite: Suite) -> bool:
    return _ours(suite) and suite.driver.stem in _NAMED_MODELS


def _ours(suite: Suite) -> bool:
    return suite.driver.parent == CHECKOUT / "evaluation"
