"""Programs made elsewhere, pass@k of any k, verdicts kept, and EvalPlus's tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.code import command
from sparsepo_dist.evaluation.code.execution import execute
from sparsepo_dist.evaluation.code.imported import imported
from sparsepo_dist.evaluation.code.plus import PLUS_LIMITS, plus_statements
from sparsepo_dist.evaluation.code.tasks import Problem, Statement
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.evaluation.sandbox.self_test import check_machine

FAKE = Path(__file__).resolve().parents[2] / "support" / "fake_evalplus"
LIMITS = Limits(cpu_seconds=10, wall_seconds=120.0)
STATEMENTS = [
    Statement(str(number), f"def add{number}(x):\n", f"assert add{number}(1) == {1 + number}") for number in range(3)
]
RIGHT = [f"{each.prompt}    return x + {each.number}\n" for each in STATEMENTS]
WRONG = [f"{each.prompt}    return None\n" for each in STATEMENTS]


@pytest.fixture(scope="module")
def confining_machine() -> None:
    try:
        check_machine(Limits())
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    """HumanEval of three problems."""
    monkeypatch.setattr(command, "statements", lambda *_: STATEMENTS)


def bigcode(path: Path, programs: list[Any]) -> Path:
    path.write_text(json.dumps(programs))
    return path


def options(tmp_path: Path, file: Path, *more: str) -> list[str]:
    base = ["--model", "org/theirs", "--output", str(tmp_path / "out"), "--tasks", "humaneval"]
    return [*base, "--generations", str(file), *more]


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    lists = bigcode(tmp_path / "lists.json", [[RIGHT[n], WRONG[n]] for n in range(3)])
    rows = [{"task_id": f"HumanEval/{n}", "completion": f"    return x + {n}\n"} for n in (2, 0, 1)]
    rows += [{"task_id": f"HumanEval/{n}", "solution": WRONG[n]} for n in range(3)]
    lines = tmp_path / "lines.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected = [Problem([RIGHT[n], WRONG[n]], STATEMENTS[n].tests) for n in range(3)]
    assert imported(lists, "humaneval", STATEMENTS, None) == expected
    assert imported(lines, "humaneval", STATEMENTS, None) == expected
    assert imported(lines, "humaneval", STATEMENTS, 2) == expected[:2]
    numbered = [Statement("11", "", "t"), Statement("12", "", "t")]
    lines.write_text('{"task_id": 12, "solution": "b"}\n{"task_id": "Mbpp/11", "solution": "a"}\n')
    assert [each.programs for each in imported(lines, "mbpp", numbered, None)] == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[["a"], ["b"]]', "1 of 3 problems of HumanEval have no program, the first of them 2; --limit"),
        ('[["a"], ["b"], []]', "1 of 3 problems of HumanEval have no program, the first of them 2"),
        ('[["a"], ["b"], ["c"], ["d"]]', "4 problems, and HumanEval has 3"),
        ('[["a"], "b", ["c"]]', "problem 1: a list of programs is wanted, found str"),
        ('[["a"], ["b", null], ["c"]]', "problem 1, sample 1: a program must be text, found null"),
        ('[["a"]', "no JSON"),
        ('{"task_id": "HumanEval/0", "solution": "a"}\n{', "line 2: no JSON"),
        ('{"task_id": "HumanEval/9", "solution": "a"}', "line 1: HumanEval/9 is no problem of HumanEval"),
        ('{"task_id": "HumanEval/1", "solution": 3}', "line 1: solution must be text, found int"),
        ('{"task_id": "HumanEval/1"}', 'line 1: {"task_id": ..., "completion" or "solution": ...} is wanted'),
        ("", "3 of 3 problems of HumanEval have no program"),
    ],
)
def test_files_that_cannot_be_taken(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(text)
    with pytest.raises(UserError) as error:
        imported(file, "humaneval", STATEMENTS, None)
    assert str(file) in str(error.value) and message in str(error.value)


@pytest.mark.usefixtures("benchmark")
def test_imported_programs_are_scored_and_their_verdicts_kept(confining_machine: None, tmp_path: Path) -> None:
    file = bigcode(tmp_path / "g.json", [[RIGHT[0], RIGHT[0]], [WRONG[1], RIGHT[1]], [WRONG[2], WRONG[2]]])
    said: list[str] = []
    with pytest.raises(
        UserError, match=r"would run .*g.json's programs for each problem of humaneval, written by org/"
    ):
        command.main(options(tmp_path, file), said.append)
    allowed = options(tmp_path, file, "--allow_code_execution", "--k", "1", "2", "5")
    command.main(allowed, said.append)
    text = (tmp_path / "out" / "code.md").read_text()
    assert "| org/theirs | measured | 50.00 | 66.67 |  |" in text
    assert f"Programs of {file}, generated elsewhere (SHA-256 " in text and "pass@5 left out, there being 2" in text
    assert "| DPO | reported in arXiv 2410.05102 | 14.61 |  |  | 21.36 |  |  |" in text
    assert not (tmp_path / "out" / "samples_humaneval.jsonl").exists()

    command.main([*allowed, "--log_samples"], said.append)
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples_humaneval.jsonl").read_text().splitlines()]
    assert [row["passed"] for row in rows] == [True, True, False, True, False, False]
    assert rows[2] == {
        "problem": 1, "sample": 0, "passed": False, "outcome": "failed", "detail": "AssertionError", "program": WRONG[1]
    }  # fmt: skip


@pytest.mark.usefixtures("benchmark")
def test_another_k_runs_nothing_again(confining_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = bigcode(tmp_path / "g.json", [[RIGHT[0], WRONG[0]]])
    allowed = options(tmp_path, file, "--allow_code_execution", "--limit", "1")
    command.main(allowed, lambda _: None)
    monkeypatch.setattr(command, "execute", lambda *_, **__: pytest.fail("executed again"))
    command.main([*allowed, "--k", "2", "2"], lambda _: None)
    assert "| org/theirs | measured | 100.00 |  |\n" in (tmp_path / "out" / "code.md").read_text()
    bigcode(file, [[RIGHT[0], RIGHT[0]]])
    with pytest.raises(UserError, match="was measured with another imported; name another --output"):
        command.main(allowed, lambda _: None)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--temperature", "0.2"], "--temperature says how programs are sampled"),
        (["--harness", "/somewhere"], "--harness says how programs are sampled"),
        (["--tasks", "humaneval", "mbpp"], "say which with --tasks TASK"),
        (["--generations", "/proc/no"], "--generations: there is no file /proc/no"),
    ],
)
def test_options_that_do_not_go_together(more: list[str], message: str, tmp_path: Path) -> None:
    file = bigcode(tmp_path / "g.json", [])
    with pytest.raises(UserError, match=message):
        command.main(["generate", *options(tmp_path, file), *more], lambda _: None)
    if more[0] == "--tasks":
        with pytest.raises(UserError, match="have `evalplus.codegen` make the programs"):
            command.main(["generate", "--model", "m", "--output", str(tmp_path), "--tasks", "mbpp+"], lambda _: None)


def plus_row(task_id: str, entry: str, solution: str, inputs: list[Any], atol: float = 0) -> dict[str, Any]:
    prompt = f"def {entry}(*args):\n"
    return {
        "task_id": task_id, "prompt": prompt, "canonical_solution": solution, "entry_point": entry, "contract": "",
        "base_input": inputs[:1], "plus_input": inputs[1:], "atol": atol,
    }  # fmt: skip


def of_plus(monkeypatch: pytest.MonkeyPatch, file: Path, task: str, *rows: dict[str, Any]) -> list[Statement]:
    monkeypatch.syspath_prepend(str(FAKE))
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("HUMANEVAL_OVERRIDE_PATH" if task == "humaneval+" else "MBPP_OVERRIDE_PATH", str(file))
    return plus_statements(task)


def passed(statement: Statement, *programs: str) -> list[bool]:
    (verdicts,) = execute([Problem(list(programs), statement.tests)], PLUS_LIMITS, workers=2, title="")
    return [verdict.passed for verdict in verdicts]


def test_the_further_inputs_decide(confining_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    last = plus_row("HumanEval/10", "last", "    return args[0][-1:]\n", [[[1, 2]], [[]], [[3]]])
    half = plus_row("HumanEval/2", "half", "    return args[0] / 2\n", [[1.0], [3.0]])
    root = plus_row("HumanEval/32", "find_zero", "    return -args[0][0] / args[0][1]\n", [[[1, 2]]], atol=1e-4)
    first, second, third = of_plus(monkeypatch, tmp_path / "h.jsonl", "humaneval+", last, half, root)
    assert (first.number, second.number, third.number) == ("2", "10", "32"), "by number, as HumanEval has them"
    head = "def last(items):\n    return "
    assert passed(second, head + "items[-1:]", head + "[items[-1]]", head + "None") == [True, False, False]
    mutating = "def last(items):\n    found = items[-1:]\n    items.clear()\n    return found"
    assert passed(second, mutating) == [True]
    head = "def half(x):\n    return "
    assert passed(first, head + "x / 2 + 1e-9", head + "x / 2 + 1e-4", head + "[x / 2]") == [True, False, False]
    head = "def find_zero(xs):\n    return "
    assert passed(third, head + "-0.50001", head + "-0.6") == [True, False]


def test_rules_of_single_problems_of_mbpp(
    confining_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    same = plus_row("Mbpp/2", "similar_elements", "    return [1, 2]\n", [[1]])
    there = plus_row("Mbpp/3", "check_str", "    return {1}\n", [[1]])
    order, some = of_plus(monkeypatch, tmp_path / "m.jsonl", "mbpp+", same, there)
    head = "def similar_elements(x):\n    return "
    assert passed(order, head + "(2, 1, 1)", head + "[1]") == [True, False]
    head = "def check_str(x):\n    return "
    assert passed(some, head + "'match'", head + "None", head + "True", head + "False") == [True, False, True, False]


@pytest.mark.usefixtures("benchmark")
def test_humaneval_plus_of_imported_programs(
    confining_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = plus_row("HumanEval/0", "same", "    return args[0]\n", [[1], [2]])
    monkeypatch.setattr(command, "statements", lambda *_: of_plus(monkeypatch, tmp_path / "h.jsonl", "humaneval+", row))
    lines = tmp_path / "samples.jsonl"
    lines.write_text('{"task_id": "HumanEval/0", "completion": "    return 1"}\n')
    given = ["--tasks", "humaneval+", "--allow_code_execution", "--k", "1"]
    command.main([*options(tmp_path, lines), *given], lambda _: None)
    assert "| org/theirs | measured |  |  | 0.00 |" in (tmp_path / "out" / "code.md").read_text()
    rows = json.loads((tmp_path / "out" / "code.json").read_text())["rows"]
    assert rows[0]["HumanEval+ pass@1"] == 0 and rows[1]["HumanEval+ pass@1"] is None


def test_without_evalplus_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "evalplus", None)
    with pytest.raises(UserError, match=r"HumanEval\+ needs EvalPlus .*: pip install evalplus"):
        plus_statements("humaneval+")
    monkeypatch.undo()
    monkeypatch.syspath_prepend(str(FAKE))
    with pytest.raises(UserError, match=r"EvalPlus cannot give MBPP\+: .*let MBPP_OVERRIDE_PATH name the .jsonl"):
        plus_statements("mbpp+")
