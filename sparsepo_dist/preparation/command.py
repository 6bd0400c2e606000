"""The command line of `sparsepo prepare`, and what all preparations do alike: refused, gone on with, put in place."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sparsepo_dist.disk import put_in_place, remove, unwritable, unwritten, write_whole
from sparsepo_dist.errors import RunError, UserError, shortened
from sparsepo_dist.evaluation.results import origin
from sparsepo_dist.files import path_argument, read_json
from sparsepo_dist.preparation.card import CARD, MARKDOWN, Card
from sparsepo_dist.preparation.registry import NAMES, Preparation, preparation
from sparsepo_dist.preparation.work import Work
from sparsepo_dist.queueing.locks import lock

_MOST_SEED = 2**32


def prepare(arguments: Sequence[str]) -> tuple[Path, bool]:
    """Prepare what the command line says; the finished folder, and whether it was there already.

    Raises:
        UserError: an option, a source or a row is wrong, or the folder holds something else.
        RunError: another process prepares the same folder, or it cannot be written.
    """
    parser = argparse.ArgumentParser(prog="sparsepo prepare", description="Make the data of an experiment ready.")
    names = parser.add_subparsers(dest="name", required=True)
    for name, sentence in NAMES.items():
        names.add_parser(name, help=sentence, add_help=False)
    name = parser.parse_args(arguments[:1]).name
    chosen = preparation(name)
    given = name_parser(name, chosen).parse_args(arguments[1:])
    plan = chosen.plan(given)
    settings = {**plan.settings, "seed": given.seed}
    card = Card(name, json.loads(json.dumps(settings)), json.loads(json.dumps(dict(plan.sources))), origin())
    output: Path = given.output
    aside = output.with_name(f".preparing-{output.name}")
    if _is_finished(output, card):
        remove(aside)
        return output, True
    with _claimed(aside, card):
        plan.make(work := Work(aside, card), card)
        _finish(work, card, output)
        remove(aside)
    return output, False


def name_parser(name: str, chosen: Preparation) -> argparse.ArgumentParser:
    """The options of one preparation."""
    parser = argparse.ArgumentParser(prog=f"sparsepo prepare {name}", description=chosen.description)
    parser.add_argument(
        "--output", type=path_argument, required=True, metavar="DIR",
        help="folder to write; one that was killed goes on where it was",
    )  # fmt: skip
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="the same seed gives the same rows (0)")
    chosen.add_options(parser)
    return parser


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= _MOST_SEED:
        raise argparse.ArgumentTypeError(f"{text} is not a whole number in [0, 2**32)")
    return int(text)


def _is_finished(output: Path, card: Card) -> bool:
    reason = unwritable(output)
    if reason is not None:
        raise UserError(f"--output: {output} cannot be written: {reason}; name another folder")
    if not output.is_dir() or not any(output.iterdir()):
        return False
    if not (output / CARD).is_file():
        raise UserError(f"--output: {output} holds other things than prepared data; name another folder")
    _refuse_others(output / CARD, card, "was prepared")
    return True


def _claimed(aside: Path, card: Card) -> IO[bytes]:
    """The lock of an unfinished folder, which is begun or gone on with."""
    held = lock(aside / ".lock")
    if held is None:
        raise RunError(f"{aside}: another process is preparing this; wait for it, or name another --output")
    begun = aside / "begun.json"
    if begun.is_file():
        _refuse_others(begun, card, "was begun")
    else:
        write_whole(begun, json.dumps(card.identity()))
    return held


def _refuse_others(record: Path, card: Card, verb: str) -> None:
    try:
        there = read_json(record)
        if not isinstance(there, Mapping):
            raise TypeError("it holds no object")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{record} cannot be read: {shortened(str(error))}; remove its folder") from None
    wanted = card.identity()
    changed = sorted(_changed({name: there.get(name) for name in wanted}, wanted))
    if changed:
        raise UserError(
            f"--output: {record.parent} {verb} with another {', '.join(changed)}; name another folder, or remove it"
        )


def _changed(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> set[str]:
    """Names of what differs: of settings and sources one by one."""
    found = set()
    for name in there.keys() | wanted.keys():
        one, other = there.get(name), wanted.get(name)
        if one != other and name in ("settings", "sources") and isinstance(one, Mapping):
            found |= {key for key in one.keys() | wanted[name].keys() if one.get(key) != wanted[name].get(key)}
        elif one != other:
            found.add(name)
    return found


def _finish(work: Work, card: Card, output: Path) -> None:
    try:
        (work.files / CARD).write_text(card.as_json(), encoding="utf-8")
        (work.files / MARKDOWN).write_text(card.as_markdown(), encoding="utf-8")
        put_in_place(work.files, output)
    except OSError as error:
        raise RunError(f"what was prepared cannot be put in place: {unwritten(error, output.parent)}") from None
