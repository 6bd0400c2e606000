"""Preparations: of an experiment, of one method's runs, and of rounds in which a policy makes its own pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from sparsepo_dist.evaluation.arguments import refusal
from sparsepo_dist.experiments.files.runs import flagged, recipe_values
from sparsepo_dist.experiments.files.training import Preparation, Training, mapping, options_of, read_preparation
from sparsepo_dist.experiments.stages.stage import filled
from sparsepo_dist.fields import known_entries, scalar
from sparsepo_dist.files import Entry
from sparsepo_dist.preparation.command import name_parser
from sparsepo_dist.preparation.registry import preparation

PREVIOUS, ROUND = "previous", "round"
_MODEL, _ADAPTER = "model.path", "model.adapter"


def check_preparation(given: Preparation) -> None:
    """Raise ValueError where its command would not take its options."""
    said = refusal(name_parser(given.name, preparation(given.name)), ["--output=OUTPUT", *flagged(given.options)])
    if said is not None:
        raise ValueError(
            f"line {given.line}: {given.field}.options: `sparsepo prepare {given.name}` does not take them: {said}"
        )


@dataclass(frozen=True)
class Rounds:
    """How often a method's policy makes pairs of its own responses, and is trained on them."""

    count: int
    """The first one's pairs are the file's."""
    prepare: Preparation
    """Of each further round; {previous} is the folder of the run before, {round} the round's number."""
    options: Mapping[str, object]
    """Of each further round, over the method's."""

    def of(self, method: str, training: Training) -> dict[str, Training]:
        """Further rounds of a method as methods: METHOD_round2 starts from METHOD's policy, and so on.

        Raises:
            ValueError: the method's runs leave adapters, from which no policy and reference start.
        """
        given = {**recipe_values(str(training.recipe)), **training.options}
        if given.get(_ADAPTER) not in (None, "none"):
            raise ValueError(
                f"line {training.line}: methods.{method}: rounds start from whole models, and its runs leave adapters "
                f"({_ADAPTER}: {given[_ADAPTER]}); leave rounds out, or say {_ADAPTER}: none"
            )
        found, before = {}, method
        for number in range(2, self.count + 1):
            known = {PREVIOUS: f"{{{before}}}", ROUND: str(number)}
            prepare = self.prepare._replace(options=filled(self.prepare.options, known))
            options = {**training.options, **filled(self.options, known), _MODEL: f"{{{before}}}/final"}
            before = f"{method}_round{number}"
            found[before] = dataclasses.replace(training, options=options).on_pairs_of(prepare)
        return found


def read_rounds(section: Entry) -> Rounds:
    """The section `rounds`. Raises ValueError."""
    known = ("count", "prepare", "options")
    given = {entry.name: entry for entry in known_entries(mapping(section, "rounds"), known, "rounds.")}
    for name in ("count", "prepare"):
        if name not in given:
            raise ValueError(f"line {section.line}: rounds.{name} is missing")
    count = scalar(given["count"], "rounds.count", "int")
    if count < 2:
        raise ValueError(
            f"line {given['count'].line}: rounds.count: {count} must be at least 2, the first one included"
        )
    options = options_of(given["options"], "rounds.options") if "options" in given else {}
    return Rounds(count, read_preparation(given["prepare"], "rounds.prepare"), options)
