"""Which problems have programs that pass and programs that fail: rows to train on, and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from sparsepo_dist.evaluation.sandbox.box import Verdict
from sparsepo_dist.evaluation.tables import Column, markdown_table
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.code.problems import Numbered

LEAST_PASSING, LEAST_FAILING = 2, 1
"""Programs of a problem that is trained on, as drawn."""


class Solved(NamedTuple):
    """A problem and what became of its programs, the identical ones counted."""

    problem: Numbered
    passing: Counter[str]
    """How often each response was drawn."""
    failing: Counter[str]

    @property
    def is_kept(self) -> bool:
        """Whether there is something to choose from."""
        passing, failing = _responses(self.passing), _responses(self.failing)
        return passing.total() >= LEAST_PASSING and failing.total() >= LEAST_FAILING

    def row(self) -> dict[str, Any]:
        """All programs, each once: an epoch draws a fresh pair of them."""
        chosen, rejected = list(_responses(self.passing)), list(_responses(self.failing))
        return {"prompt": self.problem.exercise.prompt, "chosen": chosen, "rejected": rejected}


def sorted_out(problems: Sequence[Numbered], verdicts: Iterable[Mapping[str, Any]]) -> list[Solved]:
    """Programs of each problem, by whether they passed."""
    found = {one.task_id: Solved(one, Counter(), Counter()) for one in problems}
    for row in verdicts:
        one = found[row["task_id"]]
        side = one.passing if Verdict(row["outcome"], row["detail"]).passed else one.failing
        side[row["response"]] = row["drawn"]
    return list(found.values())


def count(name: str, solved: Sequence[Solved], verdicts: Sequence[Mapping[str, Any]], card: Card) -> None:
    """Say in the card what was drawn and kept of a split."""
    drawn = sum(row["drawn"] for row in verdicts)
    card.step(f"{name}: distinct, each run once", drawn, len(verdicts), unit="programs")
    card.count(f"{name}: programs drawn that pass", sum(one.passing.total() for one in solved))
    outcomes = Counter(row["outcome"] for row in verdicts)
    for outcome, number in outcomes.most_common():
        card.count(f"{name}: distinct programs, {outcome}", number)
    blank = sum(not row["response"].strip() for row in verdicts)
    card.count(f"{name}: problems with a blank program, which is no response", blank)
    kept = sum(one.is_kept for one in solved)
    said = f"{LEAST_PASSING} programs pass and {LEAST_FAILING} fails, or more"
    card.step(f"{name}: {said}", len(solved), kept, unit="problems")


def summary(split: str, solved: Sequence[Solved]) -> Iterator[dict[str, Any]]:
    """A row for each problem of a split: how many of its programs passed, and whether it is kept."""
    for one in solved:
        passed = one.passing.total()
        yield {
            "split": split, "task_id": one.problem.task_id, "passed": passed,
            "of": passed + one.failing.total(), "kept": one.is_kept, "problem": one.problem.title,
        }  # fmt: skip


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of `summary` in Markdown."""
    return markdown_table([Column(name, name) for name in rows[0]], rows)


def _responses(programs: Counter[str]) -> Counter[str]:
    """Those that can be trained on: blank ones are no responses."""
    return Counter({response: drawn for response, drawn in programs.items() if response.strip()})
