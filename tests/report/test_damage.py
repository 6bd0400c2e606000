"""A run's files that are damaged: one message that names file and line, or the part that is no number is left out."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.errors import UserError
from sparsepo_dist.report.pages.build import build_report
from sparsepo_dist.report.reading import read_run

DEEP = '{"a":' + "[" * 100_000
STEP = '{"step": 1, "split": "train", "loss": %s}\n'


def put(old: str, new: str) -> Callable[[str], str]:
    return lambda text: text.replace(old, new, 1)


def before(line: str) -> Callable[[str], str]:
    return lambda text: f"{line}\n{text}"


def alone(content: str) -> Callable[[str], str]:
    return lambda _: content


METRICS = [
    (before(DEEP), "line 1: not JSON: maximum recursion"),
    (before("[1]"), "line 1: damaged: it must be an object, found [1]"),
    (before("{}"), "line 1: damaged: step is missing"),
    (before("\0" * 50), "line 1: not JSON"),
    (put('"train"', "3"), "line 2: damaged: split cannot be 3"),
    (put('"step": 1', '"step": true'), "line 2: damaged: step cannot be True"),
    (put('"step": 1', f'"step": 1{"0" * 30}'), "line 2: damaged: step 1e+30 is none"),
    (alone(STEP % '"low"'), "line 1: damaged: loss cannot be 'low'"),
    (alone(STEP % "[1]"), "line 1: damaged: loss cannot be [1]"),
    (alone(STEP % f"1{'0' * 400}"), "line 1: damaged: int too large"),
]
TOKENS = [
    (before(DEEP), "line 1: not JSON"),
    (before("3"), "line 1: damaged: it must be an object, found 3"),
    (put("[-2.0, 0.0, 1.0]", "[1.0]"), "line 1: damaged: reward has 1 values for 3 tokens"),
    (put("[-2.0, 0.0, 1.0]", "{}"), "line 1: damaged: reward must be a list"),
    (put('"pair": 0, ', ""), "line 1: damaged: pair is missing"),
    (put('" fine"', "4"), "line 1: damaged: tokens[2] cannot be 4"),
]
EVALUATION = [
    (alone(DEEP), "damaged: nested too deeply"),
    (alone("{"), "damaged: "),
    (alone("[]"), "damaged: it must be an object, found []"),
    (alone("{}"), "damaged: scorer is missing"),
    (put('"low": 0.2', '"low": null'), "damaged: difference.low cannot be None"),
    (put('"reward": 0.5', '"reward": "x"'), "damaged: reference.examples[0].reward cannot be 'x'"),
    (put('{"reward mask": 0.25}', '{"a": []}'), "damaged: sparsity.a cannot be []"),
]
CONFIG = [
    (alone("a: ["), "not a run's configuration: "),
    (alone("- a"), "not a run's configuration: it must be an object"),
    (alone("model: " + "[" * 5000), "not a run's configuration: "),
    (put("seed", "sed"), "not a run's configuration: training.seed is missing"),
    (put("{path: base/model}", "base"), "not a run's configuration: model must be an object"),
]
DAMAGE = [
    (name, damage, words)
    for name, cases in (
        ("metrics.jsonl", METRICS), ("tokens.jsonl", TOKENS), ("evaluation.json", EVALUATION), ("config.yaml", CONFIG),
    )
    for damage, words in cases
]  # fmt: skip


@pytest.mark.parametrize(("name", "damage", "words"), DAMAGE)
def test_one_message_names_the_file(
    run: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[str], str], words: str
) -> None:
    (run / name).write_text(damage((run / name).read_text()))
    assert guarded(build_report, run) == 2
    said = capsys.readouterr().err
    assert str(run / name) in said and words in said and said.count("error: ") == 1 and "Traceback" not in said


@pytest.mark.parametrize("name", ["metrics.jsonl", "tokens.jsonl", "evaluation.json", "config.yaml"])
def test_files_that_are_no_text_are_named(run: Path, name: str) -> None:
    (run / name).write_bytes(b"\xff\xfe\x00\n" * 3)
    with pytest.raises(UserError, match=re.escape(str(run / name))):
        build_report(run)


def test_a_report_that_cannot_be_written(run: Path) -> None:
    (run / "report").write_text("")
    with pytest.raises(UserError, match="report cannot be written: File exists"):
        build_report(run)


def test_numbers_that_are_none_are_left_out(run: Path) -> None:
    (run / "metrics.jsonl").write_text(STEP % "NaN" + STEP % "Infinity" + STEP % "0.5")
    tokens = (run / "tokens.jsonl").read_text()
    (run / "tokens.jsonl").write_text(tokens.replace("[0.0, 0.5, 0.25]", "[NaN, Infinity, 0.25]"))
    assert read_run(run).series("loss", "train") == ([1], [0.5])
    build_report(run)
