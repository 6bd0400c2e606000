"""evaluation/code.py --problems: programs by the project's own sampler for the problems of a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.code import command, own_problems
from sparsepo_dist.evaluation.code.exercises import COMPLETION, exercise
from sparsepo_dist.evaluation.sandbox.box import Verdict
from sparsepo_dist.sampling.responses import Sample

SAID = {"one": [" return 1", " return 2\nprint(one())"], "two": [" return 2", " return 1 + 1\n```\n"]}


class Said:
    """Stands for a model."""

    def sample(self, prompts: list[str], per_prompt: int, **given: Any) -> Iterator[Sample]:
        assert given["settings"].max_new_tokens == 256
        return (Sample(prompt, said, (), ()) for prompt in prompts for said in SAID[prompt.split(" ")[1][:3]])


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    rows = [
        {
            "task_id": n,
            **asdict(exercise("A number.", f"def {name}(): pass", [f"assert {name}() == {n}"], "", COMPLETION)),
        }
        for n, name in enumerate(("one", "two"), start=1)
    ]
    file = tmp_path / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def options(problems: Path, output: Path, *more: str) -> list[str]:
    return ["--model", "some/model", "--problems", str(problems), "--output", str(output), "--n_samples", "2", *more]


def test_programs_are_drawn_run_and_counted(problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_problems, "load_sampler", lambda *_: Said())
    monkeypatch.setattr(command, "check_machine", lambda limits: None)

    def run(program: str, tests: str, limits: Any) -> Verdict:
        """In this process: these programs are known."""
        try:
            exec(program + tests, {})
        except AssertionError:
            return Verdict("failed", "AssertionError")
        return Verdict("passed")

    monkeypatch.setattr("sparsepo_dist.evaluation.code.execution.run", run)
    said: list[str] = []
    command.main(options(problems, tmp_path / "out", "--allow_code_execution"), said.append)
    table = json.loads((tmp_path / "out" / "code.json").read_text())
    (row,) = table["rows"]
    assert row == {"model": "some/model", "source": "measured", "problems pass@1": 75.0, "problems pass@10": None,
                   "problems pass@100": None}  # fmt: skip
    assert json.loads((tmp_path / "out" / "problems.json").read_text())["result"]["passed_per_problem"] == [1, 2]
    monkeypatch.setattr(own_problems, "load_sampler", lambda *_: pytest.fail("drawn again"))
    command.main(options(problems, tmp_path / "out", "--allow_code_execution"), said.append)
    problems.write_text(problems.read_text().splitlines()[0])
    with pytest.raises(UserError, match="was measured with another problems"):
        command.main(options(problems, tmp_path / "out", "--allow_code_execution"), said.append)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--tasks", "mbpp"], "--tasks and --problems are both given, and do not go together"),
        (["--dtype", "float32"], "--dtype and --problems are both given"),
        (["--backend", "lm-eval"], "--backend lm-eval has problems of its own; --problems take transformers or vllm"),
        (["--temperature", "0"], "--temperature 0: programs for --problems are drawn; it must be above 0"),
    ],
)
def test_wrong_options(problems: Path, tmp_path: Path, more: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        command.main(options(problems, tmp_path / "out", *more), print)


def test_rows_of_another_kind(problems: Path, tmp_path: Path) -> None:
    problems.write_text(problems.read_text() + '{"prompt": "Hi", "form": "completion", "setup": ""}\n')
    message = r"--problems .*prompts\.jsonl, row 3: tests must be text, found NoneType; `sparsepo prepare code` writes"
    with pytest.raises(UserError, match=message):
        command.main(options(problems, tmp_path / "out"), print)
    with pytest.raises(UserError, match="--backend transformers is for --problems"):
        command.main(["--model", "some/model", "--output", str(tmp_path / "out"), "--backend", "transformers"], print)
