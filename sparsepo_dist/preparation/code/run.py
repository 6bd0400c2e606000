"""MBPP: programs of a model that pass a problem's unit tests are preferred to those that fail."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from sparsepo_dist.builtin.sets import set_file
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.code.options import add_options
from sparsepo_dist.preparation.code.problems import Numbered, read_problems
from sparsepo_dist.preparation.options import SAMPLING
from sparsepo_dist.preparation.registry import Plan, Preparation
from sparsepo_dist.preparation.sources import source_record
from sparsepo_dist.preparation.work import Work

if TYPE_CHECKING:  # they bring torch, which --help can do without
    from sparsepo_dist.preparation.code.programs import Trial

log = logging.getLogger(__name__)
_SPLITS = {"train": "training", "heldout": "held-out"}
_SETTINGS = ("form", "samples", *SAMPLING)
_MOST_PRINTED = 100


def _plan(given: argparse.Namespace) -> Plan:
    """Raises UserError for what cannot be used or is not allowed, before anything is sampled."""
    from sparsepo_dist.preparation.code.programs import LIMITS, Trial
    from sparsepo_dist.preparation.drawing import Drawing, model_record, named_model
    from sparsepo_dist.sampling.backends import check_backend
    from sparsepo_dist.sampling.responses import Nucleus

    if not given.allow_code_execution:
        raise UserError(
            f"this would run {given.samples} programs for each problem, written by {given.model}, on this machine: "
            f"{LIMITS.said()}. Add --allow_code_execution to allow it"
        )
    check_backend(given.backend)
    model = named_model(given.model)
    nucleus = Nucleus(given.temperature, given.top_p, given.max_new_tokens)
    drawing = Drawing(model, given.backend, given.samples, nucleus, given.batch_size, given.seed)
    trial = Trial(drawing, given.workers)
    named = {"train": given.train, "heldout": given.heldout or f"{given.train}:validation"}
    read = {name: set_file(source) for name, source in named.items()}

    def make(work: Work, card: Card) -> None:
        problems = {name: read_problems(f"--{name}", source, given.form) for name, source in read.items()}
        _make(work, card, trial, problems)

    settings = {name: getattr(given, name) for name in _SETTINGS}
    sources = {
        f"--{name}": {**source_record(read[name], f"--{name}"), "source": source} for name, source in named.items()
    }
    return Plan(
        {**settings, "limits": LIMITS._asdict()}, {**sources, "--model": model_record(given.model, model)}, make
    )


def _make(work: Work, card: Card, trial: Trial, problems: Mapping[str, Sequence[Numbered]]) -> None:
    from sparsepo_dist.evaluation.sandbox.self_test import check_machine
    from sparsepo_dist.preparation.code.programs import LIMITS
    from sparsepo_dist.preparation.code.solved import count, sorted_out, summary

    check_machine(LIMITS)
    verdicts, solved = {}, {}
    for name, some in problems.items():
        card.count(f"{name}: problems", len(some))
        verdicts[name] = list(trial.judged(work, name, some))
        solved[name] = sorted_out(some, verdicts[name])
        count(name, solved[name], verdicts[name], card)
    told = [row for name, some in solved.items() for row in summary(name, some)]
    _say(told)
    for name, said in _SPLITS.items():
        rows = [one.row() for one in solved[name] if one.is_kept]
        if not rows:
            raise UserError(
                f"--{name}: no problem has two programs that pass and one that fails among {trial.drawing.count}; "
                "raise --samples, take easier problems or a better model"
            )
        work.write(f"{name}.jsonl", rows, f"{said} problems with all their programs: those that pass, those that fail")
    work.write("samples.jsonl", _samples(verdicts), "every program, how often it was drawn, and what came of its tests")
    work.write("problems.jsonl", told, "every problem: how many of its programs passed, and whether it is kept")
    work.write("prompts.jsonl", _prompts(problems["heldout"]), "held-out problems (evaluation/code.py --problems)")


def _say(rows: Sequence[Mapping[str, Any]]) -> None:
    from sparsepo_dist.preparation.code.solved import table

    solved, kept = (sum(bool(row[name]) for row in rows) for name in ("passed", "kept"))
    more = f":\n{table(rows)}" if len(rows) <= _MOST_PRINTED else "; problems.jsonl tells of each"
    log.info("%d of %d problems were solved by some program, %d are kept%s", solved, len(rows), kept, more)


def _samples(verdicts: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[dict[str, Any]]:
    return ({"split": name, **row} for name, rows in verdicts.items() for row in rows)


def _prompts(problems: Sequence[Numbered]) -> Iterator[dict[str, Any]]:
    return ({"task_id": one.task_id, **asdict(one.exercise)} for one in problems)


PREPARATION = Preparation(
    "Programs sampled for the problems of MBPP and run against their unit tests in a sandbox. Problems of which two "
    "programs pass and one fails, or more, become rows that hold all of them; every epoch draws a fresh pair of each.",
    add_options, _plan,
)  # fmt: skip
