"""Problems of MBPP's schema: what a model continues, what of it is a program, and what is run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparsepo_dist.builtin.sets import set_file
from sparsepo_dist.evaluation.code.exercises import COMPLETION, DOCSTRING, FORMS, PromptForm, exercise

TEXT, CODE = "Write a function to add two numbers.", "import math\r\ndef add(a, b=1):\r\n  return a + b"
TESTS = ["assert add(1, 2) == 3", "assert add(4) == 5"]


def test_docstring_is_bigcodes_prompt() -> None:
    found = exercise(TEXT, CODE, TESTS, "", DOCSTRING)
    assert found.prompt == '"""\nWrite a function to add two numbers.\nassert add(1, 2) == 3\n"""\n'
    assert found.tests == "assert add(1, 2) == 3\nassert add(4) == 5"
    body = "def add(a, b=1):\n    return a + b"
    assert found.response(f"{body}\n\nassert add(1, 1) == 2\n") == body
    assert found.response(f"{body}\n\n\nclass Other:\n") == found.response(f'{body}\n"""') == body
    assert (
        found.response("import math\n\ndef f():\n    pass\n\ndef g():")
        == "import math\n\ndef f():\n    pass\n\ndef g():"
    )
    assert found.program(body) == f"{found.prompt}{body}\n"


def test_completion_begins_the_function() -> None:
    found = exercise(TEXT, CODE, TESTS, "", COMPLETION)
    begun = f'def add(a, b=1):\n    """{TEXT}\n\n    >>> add(1, 2)\n    3\n    """\n   '
    assert found.prompt == f"```python\n{begun}"
    assert found.response(" return a + b\n```\nIt adds.") == " return a + b"
    assert found.response(" c = a\n\n    return c + b\n# done") == " c = a\n\n    return c + b"
    assert found.program(" return a + b") == f"{begun} return a + b\n"
    other = exercise("Is it odd?", "def odd(n): return n % 2", ["assert odd(3)"], "", COMPLETION)
    assert "    >>> odd(3)\n    True\n" in other.prompt


@pytest.mark.parametrize("form", FORMS)
def test_the_projects_own_problems_are_solved_by_their_code(form: PromptForm) -> None:
    rows = [json.loads(line) for split in ("train", "validation") for line in
            Path(set_file(f"builtin:problems:{split}")).read_text().splitlines()]  # fmt: skip
    assert len({row["task_id"] for row in rows}) == len({row["text"] for row in rows}) == len(rows) == 36
    for row in rows:
        found = exercise(row["text"], row["code"], row["test_list"], row["test_setup_code"], form)
        head, _, body = row["code"].partition("\n")
        response = body.removeprefix("   ") if form == COMPLETION else row["code"]
        assert found.response(f"{response}\nprint(1)\n") == response and head.endswith(":")
        program = compile(f"{found.program(response)}{found.tests}", "<own>", "exec")
        exec(program, {})


@pytest.mark.parametrize(
    ("code", "tests", "message"),
    [
        ("def sub(a, b): return 0", TESTS, "code has no function that the first test calls"),
        ("print 'old'", TESTS, "code cannot be read as Python"),
        ("def add(a): return a", ["x = add(1)"], "the first test is no assertion"),
    ],
)
def test_what_has_no_beginning(code: str, tests: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exercise(TEXT, code, tests, "", COMPLETION)
    assert exercise(TEXT, code, tests, "", DOCSTRING).prompt.startswith('"""\nWrite')
    with pytest.raises(ValueError, match="there is no test"):
        exercise(TEXT, code, [], "", DOCSTRING)
