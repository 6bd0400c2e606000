"""A language model as judge: each comparison is asked in both orders, and every answer is kept as it comes."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from tqdm import tqdm

from sparsepo_dist.contracts import Side
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.preference.endpoint import Endpoint

_MARK = re.compile(r"\[\[(A|B|TIE)\]\]", re.IGNORECASE)
_OF_FIRST = {"A": 1.0, "B": 0.0, "TIE": 0.5}
_INSTRUCTIONS = """Two answers to the same request follow. Decide which of them serves the person who asked \
better: which is more correct, more helpful, and does what was asked. Neither the order of the answers nor their \
length counts by itself. End your reply with your verdict alone on a line: [[A]] if answer A is better, [[B]] if \
answer B is better, [[TIE]] if neither is."""


class Comparison(NamedTuple):
    """A model's response to a prompt, and the one it is held against."""

    prompt: Side
    response: str
    other: str


class Judged(NamedTuple):
    """What the judge says of a comparison."""

    preference: float | None
    """1 where the model's response is preferred in both orders, 0 where the other's is, one half where the orders or
    the judge say so, and what is between; None where an answer holds no verdict."""
    swayed: bool
    """Whether it preferred the same place in both orders."""
    invalid: int
    """Answers without a verdict, of the two."""


_TIE = Judged(0.5, swayed=False, invalid=0)


class Judge:
    """A judge whose answers are kept in a file, so that nothing is asked twice.

    Args:
        endpoint: the model.
        at_once: how many requests are under way.
    """

    def __init__(self, endpoint: Endpoint, at_once: int) -> None:
        self._endpoint, self._at_once = endpoint, at_once
        told = [endpoint.url, endpoint.model, dict(endpoint.options), _INSTRUCTIONS]
        self.measurement = f"judge-{hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]}"
        """All that decides the verdicts besides the responses, fit for a file name."""
        self.said = f"{endpoint.model} at {endpoint.url}, each comparison in both orders"

    def of(self, comparisons: Sequence[Comparison], kept: Path, description: str) -> list[Judged]:
        """The verdicts, in order; of equal responses a tie, without asking.

        Args:
            kept: the file of answers.
            description: of the progress.

        Raises:
            UserError: the server refuses what is asked, or the file is damaged.
            RunError: the server is out of reach.
        """
        answers = _Answers(kept)
        asked = [_orders(comparison) for comparison in comparisons]
        self._ask([text for both in asked for text in both], answers, description)
        return [_judged(*(verdict(answers[text]) for text in both)) if both else _TIE for both in asked]

    def _ask(self, questions: Sequence[str], answers: _Answers, description: str) -> None:
        missing = [text for text in dict.fromkeys(questions) if text not in answers]
        pool = ThreadPoolExecutor(self._at_once)
        try:
            waiting = [
                pool.submit(lambda text: answers.add(text, self._endpoint.answer(text)), text) for text in missing
            ]
            for done in tqdm(as_completed(waiting), total=len(missing), desc=description, unit="answer"):
                done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _orders(it: Comparison) -> tuple[str, ...]:
    """Both questions; none where the responses are the same text."""
    if it.response == it.other:
        return ()
    return question(it.prompt, it.response, it.other), question(it.prompt, it.other, it.response)


def question(prompt: Side, first: str, second: str) -> str:
    """What the judge is asked."""
    asked = prompt if isinstance(prompt, str) else "\n\n".join(f"{m['role']}: {_content(m['content'])}" for m in prompt)
    return f"{_INSTRUCTIONS}\n\n# Request\n{asked}\n\n# Answer A\n{first}\n\n# Answer B\n{second}\n"


def _content(content: object) -> str:
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)


def verdict(answer: str) -> float | None:
    """1 for answer A, 0 for B, one half for a tie; None where the answer names none of them, or several."""
    found = {mark.upper() for mark in _MARK.findall(answer)}
    return _OF_FIRST[found.pop()] if len(found) == 1 else None


def _judged(first: float | None, second: float | None) -> Judged:
    if first is None or second is None:
        return Judged(None, swayed=False, invalid=(first is None) + (second is None))
    return Judged((first + 1 - second) / 2, swayed=first == second != 0.5, invalid=0)


class _Answers:
    """Answers by question, a line each, on disk before they are counted."""

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, Lock()
        self._known: dict[str, str] = {}
        if not file.is_file():
            return
        whole, _, torn = file.read_bytes().rpartition(b"\n")
        if torn:  # a process was killed while it wrote
            os.truncate(file, len(whole) + 1 if whole else 0)
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._known[entry["question"]] = str(entry["answer"])
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{file}, line {number}: no answer of a judge ({error!r}); remove the line") from None

    def __contains__(self, text: str) -> bool:
        return _key(text) in self._known

    def __getitem__(self, text: str) -> str:
        return self._known[_key(text)]

    def add(self, text: str, answer: str) -> None:
        """Keep an answer."""
        line = json.dumps({"question": _key(text), "answer": answer}) + "\n"
        with self._lock, self._file.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._known[_key(text)] = answer


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
