"""The stages that evaluate a run; what a frontier is measured from is measured once for all runs that share it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sparsepo_dist.evaluation.jobs.spec import Suite
from sparsepo_dist.experiments.files.runs import CHECKOUT, PREPARE, SFT, Run, as_text, digest
from sparsepo_dist.experiments.files.spec import ExperimentFile
from sparsepo_dist.experiments.stages.stage import Stage, filled, placeholders

_NAMED_MODELS = ("frontier", "summary")  # their --model takes NAME=PATH


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
    for suite in suites:
        options = options_for(suite, run)
        shared = _shared_start(experiment, suite, run, options, reference)
        if shared is not None and shared.name != f"{run.name}/{suite.name}":
            yield shared
            options = (*options, f"--reference_results={{{shared.name}}}")
            yield _evaluation(experiment, suite, run.name, _model(suite, run), options, (run.name, shared.name))
        else:
            yield shared or _evaluation(experiment, suite, run.name, _model(suite, run), options, (run.name,))


def options_for(suite: Suite, run: Run) -> tuple[str, ...]:
    """A suite's options with the run's own values in place of the names of fields in braces."""
    names = {name for name in placeholders(list(suite.options)) if name not in (PREPARE, SFT)}
    return tuple(filled(list(suite.options), {name: as_text(run.field(name)) for name in names}))


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
    name, method = (SFT, SFT) if own else (f"start-{digest([reference, options])}", "start")
    words = (*options, f"--reference={reference}")
    return _evaluation(experiment, suite, name, f"{method}={reference}", words, ())


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
    named = _ours(suite) and suite.driver.stem in _NAMED_MODELS
    return f"{run.method}={{{run.name}}}" if named else f"{{{run.name}}}"


def _ours(suite: Suite) -> bool:
    return suite.driver.parent == CHECKOUT / "evaluation"
