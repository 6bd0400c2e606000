"""`sparsepo inspect`: what a run's data is like, before anything is loaded but the tokenizer."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from sparsepo_dist.commands.entry import answered, say
from sparsepo_dist.errors import UserError
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.parsing import parse_arguments, train_parser


def parser() -> ArgumentParser:
    """Every option of a training run, and where to write what is found."""
    parser = train_parser()
    parser.prog = "sparsepo inspect"
    parser.description = (
        "Show the first pairs of a run as its model reads them (--data.show), and count all: bad rows, lengths, cuts, "
        "duplicates, score gaps. Takes every option of launch/train.py; of the model the tokenizer alone is loaded."
    )
    parser.add_argument("--output", type=str, default=None, help="Folder for inspect.json, table.md and figure.png.")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0, 1 where a run with these options would refuse the data, 2 for what the user can mend."""
    return answered(lambda: _inspect(*_parsed(arguments)))


def _parsed(arguments: Sequence[str]) -> tuple[RunConfig, Path | None]:
    config, parsed = parse_arguments(parser(), arguments)
    if parsed.output == "":
        raise UserError("output: it is empty; name a folder, or leave it out")
    return config, None if parsed.output is None else Path(parsed.output)


def _inspect(config: RunConfig, output: Path | None) -> bool:
    from sparsepo_dist.data.tokens.showing import has_colours, write
    from sparsepo_dist.inspection.files import write_inspection
    from sparsepo_dist.inspection.run import inspect_data
    from sparsepo_dist.inspection.table import as_text

    logging.getLogger("transformers").setLevel(logging.ERROR)
    found = inspect_data(config, colours=has_colours(sys.stdout))
    for pair in found.shown:
        write(f"{pair}\n", sys.stdout)
    say(as_text(found.summary))
    if output is not None:
        for path in write_inspection(found, output):
            say(str(path))
    return not found.summary["stops"]
