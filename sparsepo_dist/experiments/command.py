"""The command line of `sparsepo experiment`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from sparsepo_dist.experiments.collected import collect
from sparsepo_dist.experiments.files.runs import CHECKOUT
from sparsepo_dist.experiments.files.spec import ExperimentFile, read_experiment
from sparsepo_dist.experiments.settled import Settled, settle
from sparsepo_dist.experiments.stages.run import run_stages
from sparsepo_dist.experiments.stages.standing import raise_failures, standing
from sparsepo_dist.files import path_argument
from sparsepo_dist.queueing.queue import queue_on

_COMMANDS = {
    "run": "run what is missing of it, here or on Slurm; goes on where it was",
    "status": "show how its stages stand",
    "collect": "gather what its runs gave in runs.json",
    "report": "draw its tables and figures, on one page",
}


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="sparsepo experiment", description="Every stage of an experiment, from its data to its figures."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, sentence in _COMMANDS.items():
        command = commands.add_parser(name, help=sentence)
        command.add_argument("file", type=path_argument, help="YAML file of the experiment (docs/experiments.md)")
    return parser


def experiment(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Do what a command line asks for.

    Raises:
        UserError: the file says what cannot be.
        RunError: some stages failed.
        StoppedError: a signal asked to stop.
    """
    file = read_experiment(arguments.file, CHECKOUT / "evaluation")
    {"run": _run, "status": _status, "collect": _collect, "report": _report}[arguments.command](file, settle(file), say)


def _run(file: ExperimentFile, settled: Settled, say: Callable[[str], None]) -> None:
    before, states = None, {}
    while before != settled.selected:  # what is selected by results has further stages
        states = run_stages(settled.work, queue_on(file.resources, file.slurm, file.stages, file.name))
        before, settled = settled.selected, settle(file)
    collect(file, settled)
    raise_failures(settled.work, states)
    say(f"All {len(states)} stages are done; `sparsepo experiment report {file.file}` draws what they gave")


def _status(file: ExperimentFile, settled: Settled, say: Callable[[str], None]) -> None:
    selected = "".join(f"\nselected of {method}: {name}" for method, name in settled.selected.items())
    say(standing(settled.work) + selected)


def _collect(file: ExperimentFile, settled: Settled, say: Callable[[str], None]) -> None:
    collected = collect(file, settled)
    missing = "".join(f"\nnot there: {name}: {why}" for name, why in collected.missing.items())
    say(f"{len(collected.runs)} runs are in {file.output / 'runs.json'}{missing}")


def _report(file: ExperimentFile, settled: Settled, say: Callable[[str], None]) -> None:
    drawing = importlib.import_module("sparsepo_dist.experiments.drawing")  # matplotlib, which nothing else here needs
    say(f"{drawing.build(collect(file, settled), file.output)} shows what came out")
