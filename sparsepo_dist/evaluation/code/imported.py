"""Programs that were generated elsewhere: read and checked against the benchmark's problems, never run here.

Two forms: BigCode's generations.json, a list of problems, each a list of programs; and the lines of HumanEval and
EvalPlus, {"task_id": "HumanEval/7", "completion": what follows the prompt} or {"task_id": ..., "solution": all of it},
one line a sample.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.code.plus import plus_statements
from sparsepo_dist.evaluation.code.tasks import BENCHMARKS, PLUS, Problem, Statement, title
from sparsepo_dist.evaluation.hub_mirror import reading_from
from sparsepo_dist.files import read_text


def imported(file: Path, task: str, statements: Sequence[Statement], limit: int | None) -> list[Problem]:
    """A file's programs with the benchmark's tests.

    Args:
        statements: the benchmark's problems, in its order.
        limit: the first problems only; a file may have no others, or more.

    Raises:
        UserError: the file cannot be read; a problem lacks programs, is none of the benchmark's, or a program is no
            text. Names problem and sample, or the line.
    """
    wanted = statements[:limit]
    try:
        text = read_text(file, str(file))
    except (OSError, ValueError) as error:
        raise UserError(f"--generations: {error}") from None
    programs = (
        _list(file, task, text, statements) if text.lstrip().startswith("[") else _lines(file, task, text, statements)
    )
    missing = [each.number for each in wanted if not programs.get(each.number)]
    if missing:
        raise UserError(
            f"--generations {file}: {len(missing)} of {len(wanted)} problems of {title(task)} have no program, the "
            f"first of them {missing[0]}; --limit N takes the first N problems alone"
        )
    return [Problem(programs[each.number], each.tests) for each in wanted]


def _list(file: Path, task: str, text: str, statements: Sequence[Statement]) -> dict[str, list[str]]:
    try:
        problems = json.loads(text)
    except ValueError as error:
        raise UserError(f"--generations {file}: no JSON: {error}") from None
    if len(problems) > len(statements):
        raise UserError(f"--generations {file}: {len(problems)} problems, and {title(task)} has {len(statements)}")
    for number, samples in enumerate(problems):
        if not isinstance(samples, list):
            raise UserError(
                f"--generations {file}: problem {number}: a list of programs is wanted, found {_kind(samples)}"
            )
        for sample, program in enumerate(samples):
            if not isinstance(program, str):
                raise UserError(
                    f"--generations {file}: problem {number}, sample {sample}: a program must be text, found "
                    f"{_kind(program)}"
                )
    return {statement.number: samples for statement, samples in zip(statements, problems, strict=False)}


def _lines(file: Path, task: str, text: str, statements: Sequence[Statement]) -> dict[str, list[str]]:
    prompts = {each.number: each.prompt for each in statements}
    found: dict[str, list[str]] = {number: [] for number in prompts}
    for place, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"--generations {file}, line {place}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: no JSON: {error}") from None
        if not isinstance(row, dict) or "task_id" not in row or not {"solution", "completion"} & row.keys():
            raise UserError(f'{where}: {{"task_id": ..., "completion" or "solution": ...}} is wanted')
        number = str(row["task_id"]).rpartition("/")[2]
        if number not in prompts:
            raise UserError(f"{where}: {shortened(str(row['task_id']))} is no problem of {title(task)}")
        field = "solution" if "solution" in row else "completion"
        if not isinstance(row[field], str):
            raise UserError(f"{where}: {field} must be text, found {_kind(row[field])}")
        found[number].append(row[field] if field == "solution" else prompts[number] + row[field])
    return found


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__


def statements(task: str, mirror: Path | None) -> list[Statement]:
    """A benchmark's test problems in its own order, with the tests that BigCode's harness gives them.

    Raises:
        UserError: its data set cannot be had, or EvalPlus is not installed.
    """
    if task in PLUS:
        return plus_statements(task)
    dataset = BENCHMARKS[task].dataset_of_lm_eval(mirror)
    import datasets  # seconds

    with reading_from(mirror):
        try:
            rows = datasets.load_dataset(dataset, split="test")
            return [_FORMS[task](row) for row in rows]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{BENCHMARKS[task].title} reads the dataset {dataset}, which cannot be loaded: "
                f"{shortened(str(error), 300)}"
            ) from None


def _humaneval(row: Mapping[str, Any]) -> Statement:
    number = row["task_id"].rpartition("/")[2]
    return Statement(number, row["prompt"], f"\n{row['test']}\ncheck({row['entry_point']})")


def _mbpp(row: Mapping[str, Any]) -> Statement:
    return Statement(str(row["task_id"]), "", "\n".join(row["test_list"]))


_FORMS: dict[str, Callable[[Mapping[str, Any]], Statement]] = {"humaneval": _humaneval, "mbpp": _mbpp}
