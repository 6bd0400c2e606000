"""Problems of MBPP's schema as a model is asked them, where its program ends, and what is run."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

PromptForm = Literal["docstring", "completion"]
DOCSTRING: PromptForm = "docstring"
COMPLETION: PromptForm = "completion"
FORMS: tuple[PromptForm, ...] = (DOCSTRING, COMPLETION)
_FENCE = "```python\n"
# Of BigCode's MBPP task (bigcode_eval/tasks/mbpp.py).
_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
_OUTDENTED = re.compile(r"\n(?=\S)")


@dataclass(frozen=True)
class Exercise:
    """A problem, put as one of the forms.

    `docstring` is BigCode's: text and first test as a docstring, behind which a base model writes the whole program.
    `completion` begins the function for it, which small models need: its first line, a docstring with the first test as
    an example, and the indentation of its first statement, in a Markdown block.
    """

    form: PromptForm
    prompt: str
    setup: str
    """Code in front of the program: what it and its tests take for granted."""
    tests: str

    def response(self, continuation: str) -> str:
        """What of a continuation belongs to the program."""
        if self.form == COMPLETION:
            end = _OUTDENTED.search(continuation)
            return (continuation if end is None else continuation[: end.start()]).rstrip()
        ends = [place for stop in _STOPS if (place := continuation.find(stop)) >= 0]
        return continuation[: min(ends, default=None)].rstrip()

    def program(self, response: str) -> str:
        """What is run in front of the tests."""
        return f"{self.setup}{self.prompt.removeprefix(_FENCE)}{response}\n"


def exercise(text: str, code: str, tests: Sequence[str], setup: str, form: PromptForm) -> Exercise:
    """A problem in a form.

    Args:
        text: what is asked for.
        code: a solution; of it `completion` takes the first line of the function that the first test calls.
        tests: `assert` statements.

    Raises:
        ValueError: there is no test; for `completion`, `code` has no such function, or the first test is no assertion.
    """
    if not tests:
        raise ValueError("there is no test")
    if form == DOCSTRING:
        prompt = f'"""\n{text}\n{tests[0]}\n"""\n'
    else:
        prompt = f'{_FENCE}{_head(code, tests[0])}\n    """{text}\n\n{_example(tests[0])}    """\n   '
    return Exercise(form, prompt, f"{setup}\n" if setup.strip() else "", "\n".join(tests))


def _head(code: str, test: str) -> str:
    """The line that the function of a solution begins with."""
    called = {node.id for node in ast.walk(_parsed(test, "the first test")) if isinstance(node, ast.Name)}
    for node in _parsed(code, "code").body:
        if isinstance(node, ast.FunctionDef) and node.name in called:
            return f"def {node.name}({ast.unparse(node.args)}):"
    raise ValueError("code has no function that the first test calls")


def _example(test: str) -> str:
    """The first test as an example of a docstring."""
    statements = _parsed(test, "the first test").body
    if not statements or not isinstance(statements[0], ast.Assert):
        raise ValueError("the first test is no assertion")
    asked = statements[0].test
    if isinstance(asked, ast.Compare) and len(asked.ops) == 1 and isinstance(asked.ops[0], ast.Eq):
        return f"    >>> {ast.unparse(asked.left)}\n    {ast.unparse(asked.comparators[0])}\n"
    return f"    >>> {ast.unparse(asked)}\n    True\n"


def _parsed(text: str, name: str) -> ast.Module:
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{name} cannot be read as Python: {error}") from None
