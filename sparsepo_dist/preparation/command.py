"""The command line of `sparsepo prepare`, and what all preparations do alike: refused, gone on with, put in place."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from sparsepo_dist.data.reading.folders import PREPARED
from sparsepo_dist.disk import put_in_place, remove, unwritable, write_whole
from sparsepo_dist.errors import RunError, UserError, shortened
from sparsepo_dist.evaluation.results import origin
from sparsepo_dist.files import path_argument, read_json
from sparsepo_dist.preparation.card import CARD, MARKDOWN, Card
from sparsepo_dist.preparation.registry import NAMES, Preparation, preparation
from sparsepo_dist.preparation.work import Work, has_parts, writing
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
    place, aside = _places(given.output)
    if _is_finished(place, card) and not aside.exists():
        return given.output, True
    with _claimed(aside, card):
        was_there = _is_finished(place, card)  # another process may have finished it before this one had the lock
        if not was_there:
            plan.make(work := Work(aside, card), card)
            _finish(work, card, place)
        remove(aside)
    return given.output, was_there


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


def _places(output: Path) -> tuple[Path, Path]:
    """Where the finished folder and the unfinished one are; a symbolic link is followed, and stays."""
    try:
        place = output.resolve()
        aside = place.with_name(f".preparing-{place.name}")
        aside.exists()
        reason = "something is mounted there" if place.is_mount() else None
    except (OSError, ValueError, RuntimeError) as error:
        reason = shortened(str(error))
    if reason is not None:
        raise UserError(f"--output: {shortened(str(output))} cannot be written: {reason}; name another folder")
    return place, aside


def _is_finished(output: Path, card: Card) -> bool:
    if not output.is_dir() or not any(output.iterdir()):
        reason = unwritable(output) or unwritable(output.parent)
        if reason is not None:
            raise UserError(f"--output: {output} cannot be written: {reason}; name another folder")
        return False
    if not (output / CARD).is_file():
        raise UserError(f"--output: {output} holds other things than prepared data; name another folder")
    _refuse_others(output / CARD, card, "was prepared")
    return True


def _claimed(aside: Path, card: Card) -> IO[bytes]:
    """The lock of an unfinished folder, which is begun or gone on with."""
    with writing(aside.parent):
        held = lock(aside / ".lock")
    if held is None:
        raise RunError(f"{aside}: another process is preparing this; wait for it, or name another --output")
    begun = aside / "begun.json"
    if begun.is_file() and has_parts(aside):
        _refuse_others(begun, card, "was begun")
    else:
        with writing(aside):
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
    if there.get(PREPARED) != card.name:
        raise UserError(
            f"--output: {record.parent} {verb} as {there.get(PREPARED)}, not {card.name}; name another folder"
        )
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
    with writing(output.parent):
        (work.files / CARD).write_text(card.as_json(), encoding="utf-8")
        (work.files / MARKDOWN).write_text(card.as_markdown(), encoding="utf-8")
        put_in_place(work.files, output)
