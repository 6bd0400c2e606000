"""Command lines: how entry points end, and the console command `sparsepo`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch.distributed as dist

from sparsepo_dist.commands.doctor import diagnose
from sparsepo_dist.engines.deepspeed.distributed import local_rank, rank
from sparsepo_dist.errors import RankError, RunError, StoppedError, UserError
from sparsepo_dist.report.build import build_report
from sparsepo_dist.runs.parsing import parse_arguments, train_parser

# Launchers end all ranks as soon as one is gone: the one that has something to say must not be among the late.
SPEAKER_FIRST_SECONDS = 3


def guarded(action: Callable[..., object], *arguments: object) -> int:
    """Run an entry point: 0, or an error's own code after printing its message, without a stack trace.

    What every rank says is printed once per machine: 2 is a UserError, 1 a RunError, 75 a run that was asked to stop.
    """
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    code = 0
    try:
        action(*arguments)
    except (UserError, RunError, StoppedError) as error:
        if local_rank() == 0 or isinstance(error, RankError):
            progress_bar_ends = "" if isinstance(error, UserError) else "\n"
            kind = "stopped" if isinstance(error, StoppedError) else "error"
            print(f"{progress_bar_ends}{kind}: {error}", file=sys.stderr, flush=True)  # noqa: T201
        elif _among_others():
            time.sleep(SPEAKER_FIRST_SECONDS)
        code = error.exit_code
    except dist.DistError as error:  # before the ranks have found each other; later it is a RankError
        print(f"error: rank {rank()} cannot reach the other ranks: {_why_alone(error)}", file=sys.stderr)  # noqa: T201
        code = RunError.exit_code
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except Exception:
        if not _among_others():
            raise
        traceback.print_exc()
        code = 1
    if code and _among_others():
        # The others may wait in a collective: only the end of this process, without more ado, tells them.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if dist.is_initialized():
        dist.destroy_process_group()
    return code


def _why_alone(error: dist.DistError) -> str:
    said = str(error).splitlines()[0]
    if "EADDRINUSE" not in said:
        return said
    return (
        f"port {os.environ.get('MASTER_PORT')} is taken by another program, perhaps another training; "
        "give the launcher a free one with --master_port"
    )


def _among_others() -> bool:
    return dist.is_initialized() and dist.get_world_size() > 1


def say(message: str) -> None:
    """Print on rank 0."""
    if rank() == 0:
        print(message, flush=True)  # noqa: T201


def main() -> None:
    """The console command `sparsepo`."""
    parser = argparse.ArgumentParser(prog="sparsepo", description="Token-level preference optimisation at scale.")
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="run the whole sentiment experiment and report on it")
    demo.add_argument("--output_dir", type=Path, help="folder of the run (default: runs/demo-DATE-TIME)")
    report = commands.add_parser("report", help="draw the figures and pages of a run again")
    report.add_argument("run", type=Path, help="folder of the run")
    merge = commands.add_parser("merge", help="write an adapter and its model as one full model")
    merge.add_argument("adapter", type=Path, help="folder of the adapter: a run's final/")
    merge.add_argument("output", type=Path, help="folder to write")
    merge.add_argument("--base", help="the model it belongs on (default: the one that the adapter names)")
    commands.add_parser("doctor", help="say what this machine can run, and why")
    commands.add_parser("plan", help="predict memory and traffic of a run before it is launched")
    commands.add_parser("cache", help="write what the reference says of every pair, for --reference.placement cached")
    own_parser = {"plan": _plan, "cache": cache}  # they take every option of a training run
    if sys.argv[1:2] and sys.argv[1] in own_parser:
        sys.exit(own_parser[sys.argv[1]](sys.argv[2:]))
    arguments = parser.parse_args()
    actions = {"demo": _demo, "report": _report, "merge": _merge, "doctor": _doctor}
    sys.exit(guarded(actions[arguments.command], arguments))


def _demo(arguments: argparse.Namespace) -> None:
    from sparsepo_dist.experiments.sentiment.demo import run_demo, summary

    say(summary(run_demo(arguments.output_dir)))


def _report(arguments: argparse.Namespace) -> None:
    for path in build_report(arguments.run):
        say(str(path))


def _merge(arguments: argparse.Namespace) -> None:
    from sparsepo_dist.engines.merging import merge_adapter

    say(f"The merged model is in {merge_adapter(arguments.adapter, arguments.output, arguments.base)}")


def _plan(arguments: Sequence[str]) -> int:
    """0 if the planned run fits, 1 if not, 2 for what the user can mend."""
    from sparsepo_dist.commands.plan import add_arguments, plan

    parser = train_parser()
    add_arguments(parser)
    fits: list[bool] = []
    return guarded(lambda: fits.append(plan(*parse_arguments(parser, arguments)))) or int(not fits[0])


def cache(arguments: Sequence[str]) -> int:
    """One rank's part of `sparsepo cache`; its exit code."""
    from sparsepo_dist.runs.caching import add_arguments, write_cache

    def action() -> None:
        parser = train_parser()
        add_arguments(parser)
        config, parsed = parse_arguments(parser, arguments)
        folder = write_cache(config, say, all_layers=parsed.all_layers)
        say(f"The cache is in {folder}: train with --reference.placement cached --reference.cache {folder}")

    return guarded(action)


def _doctor(_: argparse.Namespace) -> None:
    for name, finding in diagnose().items():
        say(f"{name:<22} {finding}")
