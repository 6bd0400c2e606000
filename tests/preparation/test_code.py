"""`sparsepo prepare code` on rows of MBPP's schema, with what a model says written down here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.sources import Row, read_rows
from sparsepo_dist.data.rows.pairs import open_rows, parse_row
from sparsepo_dist.data.rows.remarks import Remarks
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.sandbox import self_test
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.evaluation.sandbox.self_test import check_machine
from sparsepo_dist.preparation import drawing
from sparsepo_dist.preparation.command import prepare
from sparsepo_dist.sampling.responses import Sample

CARD = """---
configs:
- config_name: full
  data_files:
  - {split: train, path: full/train.jsonl}
  - {split: validation, path: full/validation.jsonl}
---
"""


@pytest.fixture(scope="module")
def confining_machine() -> None:
    try:
        check_machine(Limits())
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def _looked_at_once(confining_machine: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second."""
    monkeypatch.setattr(self_test, "check_machine", lambda limits: None)


def problem(number: int, name: str, value: int, **changed: Any) -> dict[str, Any]:
    return {
        "task_id": number, "text": f"Write a function {name}.", "code": f"def {name}():\r\n\treturn {value}",
        "test_list": [f"assert {name}() == {value}", f"assert {name}() > 0"], "test_setup_code": "",
        "challenge_test_list": [], **changed,
    }  # fmt: skip


def returning(value: int, more: str = "") -> str:
    return f"def {{}}():\n    return {value}{more}"


SAID = {
    "one": [returning(1), returning(1, "\n\nprint(one())"), returning(1, " + 0"), returning(2), returning(2)],
    "two": [returning(1), returning(2), "", "def", returning(3)],
    "three": [returning(3)] * 5,
    "four": [returning(4), returning(4, "\nassert four()"), "", returning(4), returning(4)],
    "five": [returning(5, "\n\n"), returning(5), returning(-5), "import", "x = 5"],
}
"""By problem: what is said of it, of which `five` is held out."""


class Said:
    """Stands for a model; notes what it was asked for."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.asked: list[list[str]] = []
        self._dies_at = dies_at

    def sample(self, prompts: list[str], per_prompt: int, **_: Any) -> Iterator[Sample]:
        if len(self.asked) == self._dies_at:
            raise KeyboardInterrupt
        names = [prompt.split("assert ")[1].split("(")[0] for prompt in prompts]
        self.asked.append(names)
        return (
            Sample(prompt, said.replace("{}", name), (), ())
            for prompt, name in zip(prompts, names, strict=True)
            for said in SAID[name][:per_prompt]
        )


@pytest.fixture
def mbpp(tmp_path: Path) -> Path:
    """A clone of the set, of which a README says which files are which split."""
    (tmp_path / "mbpp" / "full").mkdir(parents=True)
    (tmp_path / "mbpp" / "README.md").write_text(CARD)
    train = [problem(601 + n, name, n + 1) for n, name in enumerate(("one", "two", "three", "four"))]
    for name, rows in (("train", train), ("validation", [problem(511, "five", 5)])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / "mbpp" / "full" / f"{name}.jsonl").write_text(text)
    return tmp_path / "mbpp"


def prepared(source: str, output: Path, *options: str) -> Path:
    given = [
        "--train",
        source,
        "--output",
        str(output),
        "--model",
        "some/model",
        "--samples",
        "5",
        "--batch_size",
        "10",
    ]
    return prepare(["code", *given, "--allow_code_execution", "--workers", "2", *options])[0]


def fields(source: str) -> list[Any]:
    return [row.fields for row in read_rows(source) if isinstance(row, Row)]


def pairs(folder: Path) -> list[tuple[int, int]]:
    """How many responses a run reads in each row."""
    form, rows = open_rows(str(folder), DataConfig(), Remarks(), needs_rejected=True)
    found = [parse_row(row, form, Remarks()) for row in rows if isinstance(row, Row)]
    return [(len(row.chosen), len(row.rejected)) for row in found]


def test_programs_are_run_and_told_apart(
    mbpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sparsepo_dist")
    said = Said(dies_at=1)
    monkeypatch.setattr(drawing, "load_sampler", lambda *_: said)
    with pytest.raises(KeyboardInterrupt):
        prepared(f"{mbpp}:full", tmp_path / "out")
    said = Said()
    folder = prepared(f"{mbpp}:full", tmp_path / "out")
    assert said.asked == [["three", "four"], ["five"]]  # the first two were done before
    one = {"prompt": '"""\nWrite a function one.\nassert one() == 1\n"""\n',
           "chosen": ["def one():\n    return 1", "def one():\n    return 1 + 0"],
           "rejected": ["def one():\n    return 2"]}  # fmt: skip
    assert fields(str(folder)) == [one] and pairs(folder) == [(2, 1)]  # of which an epoch draws one
    (five,) = fields(f"{folder}:heldout")
    assert five["chosen"] == ["def five():\n    return 5"] and len(five["rejected"]) == 3
    (asked,) = fields(f"{folder}:prompts")
    assert asked["task_id"] == 511 and asked["tests"] == "assert five() == 5\nassert five() > 0"
    rows = {row["task_id"]: row for row in fields(f"{folder}:problems")}
    assert [(row["passed"], row["of"], row["kept"]) for row in rows.values()] == [
        (3, 5, True), (1, 5, False), (5, 5, False), (4, 5, False), (2, 5, True)
    ]  # fmt: skip
    samples = fields(f"{folder}:samples")
    assert {row["outcome"] for row in samples} == {"passed", "failed"}
    assert sum(row["drawn"] for row in samples) == 25 and len(samples) == 3 + 5 + 1 + 2 + 4
    assert "5 of 5 problems were solved by some program, 2 are kept:\n| split | task_id | passed | of |" in caplog.text
    card = json.loads((folder / "card.json").read_text())
    assert {step["said"]: (step["before"], step["after"]) for step in card["steps"]} == {
        "train: distinct, each run once": (20, 11), "train: 2 programs pass and 1 fails, or more": (4, 1),
        "heldout: distinct, each run once": (5, 4), "heldout: 2 programs pass and 1 fails, or more": (1, 1),
    }  # fmt: skip
    assert card["counts"]["train: problems with a blank program, which is no response"] == 2


def test_nothing_is_run_without_leave(mbpp: Path, tmp_path: Path) -> None:
    message = (
        r"would run 100 programs for each problem, written by builtin:smollm2-135m-instruct, on this machine: in a "
        r"sandbox .*Add --allow_code_execution to allow it"
    )
    with pytest.raises(UserError, match=message):
        prepare(["code", "--train", f"{mbpp}:full", "--output", str(tmp_path / "out"), "--model",
                 "builtin:smollm2-135m-instruct"])  # fmt: skip
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"prompt": "Hi", "tests": "assert f()"},
            r"field 'task_id' is missing \(there is prompt, tests\); expected ro",
        ),
        (problem(1, "one", 1, test_list="assert one()"), "field 'test_list' must be a list of texts, found str"),
        (problem(1, "one", 1, test_list=[]), "there is no test"),
        (problem(601, "one", 1), "the task_id 601 stands there twice"),
    ],
)
def test_rows_of_another_schema(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(drawing, "load_sampler", lambda *_: pytest.fail("a model was loaded"))
    file = tmp_path / "problems.jsonl"
    file.write_text(f"{json.dumps(problem(601, 'one', 1))}\n{json.dumps(bad)}\n")
    with pytest.raises(UserError, match=rf"--train .*problems\.jsonl, row 2: {message}"):
        prepared(str(file), tmp_path / "out", "--heldout", str(file))


def test_a_model_that_solves_nothing(mbpp: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "load_sampler", lambda *_: Said())
    with pytest.raises(
        UserError, match="--train: no problem has two programs that pass and one that fails among 2; ra"
    ):
        prepared(f"{mbpp}:full", tmp_path / "out", "--samples", "2")
