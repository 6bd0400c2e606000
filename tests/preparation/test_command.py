"""What all preparations do alike: killed and gone on with, left as it is, refused."""

from __future__ import annotations

import argparse
import json
import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.reading.folders import PREPARATIONS
from sparsepo_dist.errors import RunError, UserError
from sparsepo_dist.preparation import command
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.registry import NAMES, Plan, Preparation
from sparsepo_dist.preparation.work import Portion, Work
from sparsepo_dist.queueing.locks import lock


class Killed(BaseException):
    """In place of a signal."""


class Squares:
    """A preparation of five numbers, two at a time, that dies where it is told to."""

    def __init__(self) -> None:
        self.made: list[int] = []
        self.dies_at: int | None = None

    def preparation(self) -> Preparation:
        def add_options(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--power", type=int, default=2)

        def plan(given: argparse.Namespace) -> Plan:
            def make(work: Work, card: Card) -> None:
                rows = list(work.in_portions("powers", range(5), 2, lambda part: self._powers(part, given.power)))
                card.step("even", len(rows), 3)
                work.write("train.jsonl", rows, "powers")
                if self.dies_at == 5:
                    raise Killed

            return Plan({"power": given.power}, {"--texts": "none"}, make)

        return Preparation("Powers.", add_options, plan)

    def _powers(self, portion: Portion[int], power: int) -> Iterator[dict[str, Any]]:
        for number in portion.items:
            if number == self.dies_at:
                raise Killed
            self.made.append(number)
            yield {"number": number, "power": number**power}


@pytest.fixture
def squares(monkeypatch: pytest.MonkeyPatch) -> Squares:
    found = Squares()
    monkeypatch.setattr(command, "preparation", lambda name: found.preparation())
    return found


def arguments(output: Path, *more: str) -> Sequence[str]:
    return ["mix", "--output", str(output), *more]


@pytest.mark.parametrize(("dies_at", "remade"), [(3, [2, 3, 4]), (5, [])])
def test_a_killed_one_goes_on_where_it_was(squares: Squares, tmp_path: Path, dies_at: int, remade: list[int]) -> None:
    output = tmp_path / "data"
    squares.dies_at = dies_at
    with pytest.raises(Killed):
        command.prepare(arguments(output))
    assert not output.exists(), "nothing is there before all is"
    squares.dies_at, squares.made = None, []
    assert command.prepare(arguments(output)) == (output, False)
    assert squares.made == remade
    rows = [json.loads(line) for line in (output / "train.jsonl").read_text().splitlines()]
    assert rows == [{"number": n, "power": n**2} for n in range(5)]
    assert {path.name for path in tmp_path.iterdir()} == {"data"}
    assert {path.name for path in output.iterdir()} == {"train.jsonl", "card.json", "card.md"}


def test_what_is_finished_is_left_as_it_is(squares: Squares, tmp_path: Path) -> None:
    output = tmp_path / "data"
    command.prepare(arguments(output))
    card, squares.made = (output / "card.json").read_bytes(), []
    assert command.prepare(arguments(output)) == (output, True)
    assert squares.made == [] and (output / "card.json").read_bytes() == card


@pytest.mark.parametrize(("more", "named"), [(["--power", "3"], "power"), (["--seed", "1"], "seed")])
def test_other_settings_are_refused(squares: Squares, tmp_path: Path, more: list[str], named: str) -> None:
    command.prepare(arguments(tmp_path / "data"))
    with pytest.raises(UserError, match=rf"data was prepared with another {named}; name another folder, or remove it"):
        command.prepare(arguments(tmp_path / "data", *more))
    squares.dies_at = 3
    with pytest.raises(Killed):
        command.prepare(arguments(tmp_path / "begun"))
    with pytest.raises(UserError, match=rf"\.preparing-begun was begun with another {named}; name another folder"):
        command.prepare(arguments(tmp_path / "begun", *more))


def test_other_things_are_not_overwritten(squares: Squares, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other things than prepared data; name another folder"):
        command.prepare(arguments(tmp_path))
    assert squares.made == []


def test_what_kept_nothing_is_begun_anew(squares: Squares, tmp_path: Path) -> None:
    """A start that ended with an error of its options does not hold their correction up."""
    squares.dies_at = 1
    with pytest.raises(Killed):
        command.prepare(arguments(tmp_path / "data"))
    squares.dies_at = None
    command.prepare(arguments(tmp_path / "data", "--power", "3"))
    assert json.loads((tmp_path / "data" / "train.jsonl").read_text().splitlines()[2]) == {"number": 2, "power": 8}


def test_another_preparations_folder(squares: Squares, tmp_path: Path) -> None:
    command.prepare(arguments(tmp_path / "data"))
    with pytest.raises(UserError, match=r"data was prepared as mix, not code; name another folder"):
        command.prepare(["code", *arguments(tmp_path / "data")[1:]])


def test_a_symbolic_link_is_followed_and_stays(squares: Squares, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "data").symlink_to(tmp_path / "disk" / "big")
    assert command.prepare(arguments(tmp_path / "data")) == (tmp_path / "data", False)
    assert (tmp_path / "data").is_symlink() and (tmp_path / "disk" / "big" / "train.jsonl").is_file()
    assert command.prepare(arguments(tmp_path / "data")) == (tmp_path / "data", True)


def test_the_current_folder(squares: Squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command.prepare(arguments(Path()))
    assert (tmp_path / "here" / "train.jsonl").is_file()


@pytest.mark.parametrize("name", ["/", "a\0b", "x" * 250], ids=["root", "zero", "long"])
def test_names_that_no_folder_can_have(squares: Squares, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"^--output: .*; name another folder"):
        command.prepare(arguments(tmp_path / name))
    assert squares.made == []


@pytest.mark.parametrize("most", [60, 150], ids=["begun", "files"])
def test_a_full_disk(squares: Squares, tmp_path: Path, most: int) -> None:
    """A limit on the size of files, which the system does not let anyone pass."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        with pytest.raises(RunError, match=r"what is prepared cannot be written: .*File too large.*: make room; a sec"):
            command.prepare(arguments(tmp_path / "data"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    command.prepare(arguments(tmp_path / "data"))
    assert len((tmp_path / "data" / "train.jsonl").read_text().splitlines()) == 5


def test_two_processes_do_not_prepare_one_folder(squares: Squares, tmp_path: Path) -> None:
    with (
        lock(tmp_path / ".preparing-data" / ".lock") or pytest.fail("held"),
        pytest.raises(RunError, match="another pr"),
    ):
        command.prepare(arguments(tmp_path / "data"))


def test_recipes_may_have_every_name_of_the_papers() -> None:
    assert tuple(NAMES) == (*PREPARATIONS, "pairs")
