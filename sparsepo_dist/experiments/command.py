"""The command line of `sparsepo experiment`."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

from sparsepo_dist.errors import RunError
from sparsepo_dist.evaluation.arguments import positive
from sparsepo_dist.experiments.collected import collect
from sparsepo_dist.experiments.files.runs import CHECKOUT, known_fields
from sparsepo_dist.experiments.files.spec import ExperimentFile, read_experiment
from sparsepo_dist.experiments.settled import Settled, settle
from sparsepo_dist.experiments.stages.clean import clean
from sparsepo_dist.experiments.stages.reasons import reasons
from sparsepo_dist.experiments.stages.run import run_stages
from sparsepo_dist.experiments.stages.standing import raise_failures, standing
from sparsepo_dist.files import argument, path_argument
from sparsepo_dist.queueing.queue import queue_on

_COMMANDS = {
    "plan": "show which stages are to be run and why, and what trainings will need",
    "run": "run what is missing of it, here or on Slurm; goes on where it was",
    "status": "show how its stages stand",
    "collect": "gather what its runs gave in runs.json",
    "report": "draw its tables and figures, on one page",
    "clean": "remove weights and caches that its stages left, with --results all that they gave",
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
        if name == "plan":
            _add_planned_for(command)
        if name == "clean":
            command.add_argument("--results", action="store_true", help="remove results too: all is run again")
    return parser


def _add_planned_for(command: argparse.ArgumentParser) -> None:
    command.add_argument("--gpus", type=positive, metavar="N", help="tell what trainings need on so many GPUs each")
    command.add_argument("--gpu_memory", type=float, default=80.0, metavar="GIB", help="of a GPU (%(default)s)")
    command.add_argument("--machine", type=argument, metavar="NAME", help="and how long: h100, a100 or a file of terms")


def experiment(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Do what a command line asks for.

    Raises:
        UserError: the file says what cannot be.
        RunError: some stages failed, or the disk cannot be written.
        StoppedError: a signal asked to stop.
    """
    file = read_experiment(arguments.file, CHECKOUT / "evaluation")
    try:
        settled = settle(file)
        if arguments.command == "plan":
            _plan(file, settled, arguments, say)
        elif arguments.command == "clean":
            say(clean(settled.work, results=arguments.results))
        else:
            commands = {"run": _run, "status": _status, "collect": _collect, "report": _report}
            commands[arguments.command](file, settled, say)
    except OSError as error:  # a full disk, or folders that are not ours
        raise RunError(
            f"{error.filename or file.stages}: {error.strerror or error}; see to it and do it again"
        ) from None


def _checked(file: ExperimentFile, settled: Settled) -> dict[str, str]:
    """Stages that are to be run -> why; where there are any, options of trainings are looked at. Raises UserError."""
    why = reasons(settled.work)
    if why:
        from sparsepo_dist.experiments.files.checks import check_runs  # torch, which takes seconds

        check_runs(file.file, file.runs)
    return why


def _plan(file: ExperimentFile, settled: Settled, arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    why = _checked(file, settled)
    width = max(map(len, settled.work.jobs))
    lines = [f"{name:<{width}}  {f'to run: {why[name]}' if name in why else 'done'}" for name in settled.work.jobs]
    lines.append(f"{len(why)} of {len(lines)} stages are to be run")
    if file.undecided({name: {} for name in settled.selected}):
        lines.append("and those of the runs that will be selected")
    if arguments.gpus is not None:
        from sparsepo_dist.experiments.costs import Asked, costs  # DeepSpeed, which nothing else here needs

        asked = Asked(arguments.gpus, arguments.gpu_memory, arguments.machine)
        lines += ["", *costs(file, settled, set(why), asked)]
    say("\n".join(lines))


def _run(file: ExperimentFile, settled: Settled, say: Callable[[str], None]) -> None:
    _checked(file, settled)
    before, states = None, {}
    queue = queue_on(file.resources, file.slurm, file.stages, file.name)  # one, as it counts what was retried
    while before != settled.selected:  # what is selected by results has further stages
        states = run_stages(settled.work, queue, again=before is None)
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
    say(f"{drawing.build(collect(file, settled), file.output, known_fields())} shows what came out")
