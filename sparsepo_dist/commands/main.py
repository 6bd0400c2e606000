"""The console command `sparsepo`: commands are files beside this one, each loaded when it is asked for."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence

COMMANDS = {
    "prepare": "make the data of an experiment ready: sentiment, dialogue, summaries, code, mix, pairs",
    "sample-pairs": "sample a policy's responses to prompts, and make pairs of them by a reward",
    "demo": "run the whole sentiment experiment and report on it",
    "report": "draw runs and results beside each other on one page",
    "push": "put a finished run's model, card and report on a hub",
    "merge": "write an adapter and its model as one full model",
    "doctor": "say what this machine can run, and why",
    "inspect": "show and count what a run's data is like, without loading a model",
    "plan": "predict memory and traffic of a run before it is launched",
    "cache": "write what the reference says of every pair, for --reference.placement cached",
    "experiment": "run an experiment from its data to its figures: plan, run, status, collect, report, clean",
}

_ALIASES = {"sample-pairs": ("prepare", "pairs")}  # a step of iterated preference optimisation


def main() -> None:
    """Hand the rest of the command line to the command that its first word names; ends with that command's code."""
    parser = argparse.ArgumentParser(prog="sparsepo", description="Token-level preference optimisation at scale.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, sentence in COMMANDS.items():
        commands.add_parser(name, help=sentence, add_help=False)
    name = parser.parse_args(sys.argv[1:2]).command
    sys.exit(command(name)(sys.argv[2:]))


def command(name: str) -> Callable[[Sequence[str]], int]:
    """What a name in COMMANDS does with its arguments; returns the exit code."""
    file, *first = _ALIASES.get(name, (name,))
    entry = importlib.import_module(f"sparsepo_dist.commands.{file}").main
    return lambda arguments: entry([*first, *arguments])


if __name__ == "__main__":
    main()
