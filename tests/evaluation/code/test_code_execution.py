"""HumanEval's own solutions pass, broken ones do not; counts and table."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.code import execution
from sparsepo_dist.evaluation.code.execution import execute, scored, summarise
from sparsepo_dist.evaluation.code.table import write_table
from sparsepo_dist.evaluation.code.tasks import Problem
from sparsepo_dist.evaluation.sandbox.box import Verdict
from sparsepo_dist.evaluation.sandbox.limits import Limits
from sparsepo_dist.evaluation.sandbox.self_test import check_machine
from tests.evaluation.code.humaneval import needs_humaneval, problems

LIMITS = Limits(cpu_seconds=10, wall_seconds=120.0)


@pytest.fixture(scope="module")
def confining_machine() -> None:
    try:
        check_machine(Limits())
    except UserError as error:
        pytest.skip(str(error))


def with_solutions(rows: list[dict[str, str]]) -> list[Problem]:
    """Of each problem: its own solution, one that returns nothing, and none."""
    return [
        Problem(
            [row["prompt"] + row["canonical_solution"], row["prompt"] + "    return None\n", row["prompt"]],
            f"{row['test']}\ncheck({row['entry_point']})",
        )
        for row in rows
    ]


@needs_humaneval
def test_right_solutions_pass_and_broken_ones_do_not(confining_machine: None) -> None:
    found = execute(with_solutions(problems()[:8]), LIMITS, workers=2, title="humaneval")
    assert [[verdict.passed for verdict in samples] for samples in found] == [[True, False, False]] * 8


@needs_humaneval
@pytest.mark.slow
def test_every_solution_of_humaneval_passes(confining_machine: None) -> None:
    rows = with_solutions(problems())
    found = execute([Problem(row.programs[:1], row.tests) for row in rows], LIMITS, workers=2, title="humaneval")
    assert len(found) == 164 and all(verdict.passed for (verdict,) in found)


def test_verdicts_stay_with_their_samples_whatever_ends_first(confining_machine: None) -> None:
    right, wrong = "x = 1", "x = 2"
    slow = "import time\ntime.sleep(0.5)\nx = 1"
    found = execute([Problem([slow, wrong, right], "assert x == 1"), Problem([wrong], "assert x == 2")], LIMITS,
                    workers=3, title="")  # fmt: skip
    assert [[verdict.passed for verdict in samples] for samples in found] == [[True, False, True], [True]]


def test_one_refusal_ends_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Verdict:
        raise UserError("cannot be confined")

    monkeypatch.setattr(execution, "run", refuse)
    with pytest.raises(UserError, match="cannot be confined"):
        execute([Problem(["x = 1"] * 50, "")], LIMITS, workers=2, title="")


def test_summary_and_table(tmp_path: Path) -> None:
    passed, failed = Verdict("passed"), Verdict("failed", "NameError")
    result = scored(summarise([[passed] * 5 + [failed] * 5, [failed] * 10]), (1, 10, 100))
    assert result["pass@1"] == pytest.approx(0.25) and result["pass@10"] == pytest.approx(0.5)
    assert result["left_out"] == ["pass@100"] and result["passed_per_problem"] == [5, 0]
    assert result["outcomes"] == {"failed NameError": 15, "passed": 5}
    earlier = {name: value for name, value in result.items() if name != "samples"} | {"samples_per_problem": 10}
    assert scored(earlier, (5,))["pass@5"] == scored(result, (5,))["pass@5"] > result["pass@1"]
    text = write_table(tmp_path, "ours", {"humaneval": result}, "Measured so.")
    assert text == (tmp_path / "code.md").read_text()
    assert "| ours | measured | 25.00 | 50.00 |  |  |  |  |" in text
    # FACTS.md, StarCoder 1B
    row = "| 14.39 | 28.29 | 44.51 | 19.81 | 43.71 | 62.00 |"
    assert f"| SparsePO independent | reported in arXiv 2410.05102 {row}" in text
    assert "pass@100 left out, there being 10 samples a problem" in text
    rows = json.loads((tmp_path / "code.json").read_text())["rows"]
    assert rows[0]["HumanEval pass@1"] == pytest.approx(25) and rows[0]["MBPP pass@1"] is None
    assert {row["source"] for row in rows[1:]} == {"reported in arXiv 2410.05102"}


def test_no_folder_is_left(confining_machine: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    execute([Problem(["open('file', 'w').write('x')"] * 3, "")], LIMITS, workers=2, title="")
    assert list(tmp_path.iterdir()) == []
