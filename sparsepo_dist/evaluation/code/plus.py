"""HumanEval+ and MBPP+: EvalPlus's problems as tests for our sandbox.

EvalPlus gives inputs, a right solution and rules of comparison, and runs programs itself, in processes that it does not
confine. Here the right solution and the rules are part of the tests, and inputs are asked of both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.evaluation.code.tasks import PLUS, Statement
from sparsepo_dist.evaluation.sandbox.limits import Limits

PLUS_LIMITS = Limits(cpu_seconds=60, wall_seconds=120.0)
"""EvalPlus's own limit of a program's tests is 60 s; of single tests it has others besides."""
_OVERRIDE = {"humaneval+": "HUMANEVAL_OVERRIDE_PATH", "mbpp+": "MBPP_OVERRIDE_PATH"}
# Its comparison (evalplus/eval/__init__.py: unsafe_execute, version 0.3.1), without numpy.
_TESTS = """
import copy
inf, nan = float('inf'), float('nan')
_right, _special = {{}}, {{}}
exec({solution!r}, _right)
exec({special!r}, _special)

def _all_floats(value):
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(each, float) for each in value)
    return isinstance(value, float)

def _close(found, wanted, atol):
    if isinstance(wanted, (list, tuple)):
        return len(found) == len(wanted) and all(_close(*pair, atol) for pair in zip(found, wanted))
    return found == wanted or abs(found - wanted) <= atol + 1e-7 * abs(wanted)

def _passes(found, wanted, inputs, atol):
    if {entry!r} == 'find_zero' and not {mbpp!r}:
        return abs(_special['_poly'](*inputs, found)) <= atol
    same = found == wanted
    if {mbpp!r}:
        if {entry!r} == 'are_equivalent':
            same = True
        elif {entry!r} == 'sum_div':
            same = same or found == 0
        elif {entry!r} == 'surface_Area':
            same = same or abs(found - _special['_surface_Area'](*inputs)) <= atol
        elif {entry!r} == 'digit_distance_nums':
            same = same or found == _special['_digit_distance_nums'](*inputs)
        elif {entry!r} in _special['MBPP_OUTPUT_SET_EQ_TASKS']:
            same = set(found) == set(wanted)
        elif {entry!r} in _special['MBPP_OUTPUT_NOT_NONE_TASKS']:
            same = (found if isinstance(found, bool) else found is not None) == (wanted is not None)
    if atol == 0 and _all_floats(wanted):
        atol = 1e-6
    if same or atol == 0:
        return same
    return type(found) is type(wanted) and _close(found, wanted, atol)

for _inputs in {inputs!r}:
    _wanted = _right[{entry!r}](*copy.deepcopy(_inputs))
    assert _passes({entry}(*copy.deepcopy(_inputs)), _wanted, _inputs, {atol!r})
"""


def plus_statements(task: str) -> list[Statement]:
    """Problems of `humaneval+` or `mbpp+`, whose tests are the original inputs and EvalPlus's.

    Raises:
        UserError: EvalPlus is not installed, or its data cannot be had.
    """
    try:
        import evalplus  # type: ignore[import-not-found]
        from evalplus.data import get_human_eval_plus, get_mbpp_plus  # type: ignore[import-not-found]
    except ImportError as error:
        raise UserError(
            f"{PLUS[task]} needs EvalPlus ({error}): pip install evalplus; its data comes from GitHub at first use, or "
            f"from the .jsonl file that {_OVERRIDE[task]} names"
        ) from None
    try:
        problems = get_human_eval_plus() if task == "humaneval+" else get_mbpp_plus()
    except (OSError, ValueError, AssertionError) as error:
        raise UserError(
            f"EvalPlus cannot give {PLUS[task]}: {shortened(str(error), 300)}; without a network let {_OVERRIDE[task]} "
            "name the .jsonl file of its release"
        ) from None
    special = (Path(evalplus.__file__).parent / "eval" / "_special_oracle.py").read_text(encoding="utf-8")
    made = [_statement(row, special, mbpp=task == "mbpp+") for row in problems.values()]
    return sorted(made, key=lambda statement: int(statement.number))


def _statement(row: Mapping[str, Any], special: str, *, mbpp: bool) -> Statement:
    tests = _TESTS.format(
        solution=row["prompt"] + row["canonical_solution"], special=special, entry=row["entry_point"], mbpp=mbpp,
        inputs=[*row["base_input"], *row["plus_input"]], atol=row["atol"],
    )  # fmt: skip
    return Statement(row["task_id"].rpartition("/")[2], row["prompt"], tests)
