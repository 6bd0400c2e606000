"""The command line of evaluation/jobs.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from sparsepo_dist.evaluation.jobs.spec import Plan, read_plan
from sparsepo_dist.evaluation.jobs.submission import submit
from sparsepo_dist.evaluation.jobs.table import collect, status
from sparsepo_dist.files import path_argument

_FILE = "YAML file of models, suites and resources (docs/evaluation.md)"


def main(arguments: Sequence[str], scripts: Path, say: Callable[[str], None]) -> None:
    """Do what a command line asks for; `scripts` is the folder of the drivers."""
    given = parser().parse_args(arguments)
    if given.command == "export":
        from sparsepo_dist.training.checkpoints.export import export_checkpoint

        folder = export_checkpoint(
            given.checkpoint, given.output, fp32=given.fp32, trust_remote_code=given.trust_remote_code
        )
        say(f"The model is in {folder}")
        return
    plan = read_plan(given.file, scripts)
    if given.command == "watch":
        from sparsepo_dist.evaluation.jobs.watch import watch

        say(watch(given.run, plan))
    else:
        say({"submit": submit, "status": status, "collect": _collect}[given.command](plan))


def _collect(plan: Plan) -> str:
    table, paths = collect(plan)
    return f"{table.as_markdown()}\nAlso in {', '.join(map(str, paths))}"


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description="Evaluation jobs: suites of drivers on models, run unattended.")
    commands = parser.add_subparsers(dest="command", required=True)
    submit_parser = commands.add_parser("submit", help="run what is missing of a file's jobs, here or on Slurm")
    watch_parser = commands.add_parser("watch", help="evaluate every checkpoint of a training run as it appears")
    watch_parser.add_argument("run", type=path_argument, help="folder of the run")
    status_parser = commands.add_parser("status", help="show how a file's jobs stand")
    collect_parser = commands.add_parser("collect", help="gather all numbers in one table: JSON, CSV, Markdown")
    for command in (submit_parser, watch_parser, status_parser, collect_parser):
        command.add_argument("file", type=path_argument, help=_FILE)
    export = commands.add_parser("export", help="write a checkpoint's model (or adapter) as a folder to load")
    export.add_argument("checkpoint", type=path_argument, help="RUN/checkpoints/step-N")
    export.add_argument("output", type=path_argument, help="folder to write")
    export.add_argument(
        "--fp32", action="store_true", help="keep ZeRO's float32 masters; by default the dtype that the run computes in"
    )
    export.add_argument("--trust_remote_code", action="store_true", help="let the model run its own Python code")
    return parser
