"""Measure the preferences of models, and of judges between them; what is finished is not done again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from sparsepo_dist.contracts import PreferenceRow, Side, TokenizedPair
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.reading.named import SourceSpec
from sparsepo_dist.data.store.mixed import load_mixture
from sparsepo_dist.engines.adapters.files import tokenizer_source
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.evaluation.divergence import ReferenceComparison
from sparsepo_dist.evaluation.frontier.runs import Training
from sparsepo_dist.evaluation.frontier.scorers import Scorer
from sparsepo_dist.evaluation.models import results_folder
from sparsepo_dist.evaluation.preference import numbers
from sparsepo_dist.evaluation.preference.implicit import implicit_rewards, own_reward
from sparsepo_dist.evaluation.preference.judge import Comparison, Judge
from sparsepo_dist.evaluation.preference.pairs import Question, digest_of, prompt_texts, questions, settings_of
from sparsepo_dist.evaluation.preference.tables import write_preference_tables
from sparsepo_dist.evaluation.results import Results
from sparsepo_dist.evaluation.sampling import Sampling
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.training.batches import MicroBatches

CHOSEN = "chosen"
_PACKAGES = ("vaderSentiment", "peft")


class Named(NamedTuple):
    """A model, and the training that it is of, where that is known."""

    target: Target
    training: Training | None


class Answer(NamedTuple):
    """What a model answers to a prompt, for those who judge it."""

    prompt: Side
    response: str


class Held(NamedTuple):
    """Pairs, and how models are held against them."""

    source: str
    rows: Sequence[tuple[str, PreferenceRow]]
    data: DataConfig
    prompt_count: int | None
    temperature: float
    sampling: Sampling


class Ways(NamedTuple):
    """What is measured."""

    reference: Target | None
    """Of implicit rewards; None: they are not measured."""
    scorer: Scorer | None
    """Of win rates under a reward."""
    judge: Judge | None
    """Of win rates by a judge."""
    beta: float
    """Of implicit rewards."""
    missing: Mapping[str, str]
    """Why something is not measured, by what it is."""


class Preferences:
    """Measurements of models over the same pairs, kept in a folder."""

    def __init__(self, held: Held, against: Target | None, reference: Target | None, output: Path) -> None:
        self._held, self._against, self._reference, self._output = held, against, reference, output
        self._pairs_task = f"implicit-{reference.fingerprint}" if reference else ""  # once: it reads all weights
        self._asked: list[Question] = questions(held.rows, held.prompt_count)
        self._results: dict[Target, Results] = {}
        self._responses: dict[Target, list[str]] = {}
        self._comparison: ReferenceComparison | None = None
        prompts = [repr(question.prompt) for question in self._asked]
        self.settings: dict[str, Any] = {
            "pairs": digest_of(held.rows), "data": settings_of(held.data), **held.sampling.settings(prompts),
            "temperature": held.temperature,
        }  # fmt: skip
        """What decides all numbers besides the models and who judges."""
        self._prompts = [place for place in range(len(self._asked)) for _ in range(held.sampling.samples)]

    def of_pairs(self, one: Named, beta: float) -> numbers.Row:
        """Accuracies and margins by implicit reward, where there is a reference.

        Raises:
            UserError: a model cannot be loaded or compared with the reference, or the folder holds results of other
                settings.
        """
        assert self._reference is not None
        kept = self._kept(one.target)
        found = kept.finished(self._pairs_task)
        if found is None:
            self._comparison = self._comparison or ReferenceComparison(self._reference.model, self._reference.adapter)
            found = self._rewards(one, self._comparison)
            kept.write(self._pairs_task, found)
        row = numbers.of_pairs(found["log_ratios"], found["lengths"], found["own"], found["prompts"], beta)
        return row if found["own"] is not None else {**row, "own_missing": found["own_missing"]}

    def _rewards(self, one: Named, comparison: ReferenceComparison) -> dict[str, Any]:
        pairs = self._pairs(one.target)
        own = "it is of no run" if one.training is None else own_reward(one.training.config, one.target, comparison)
        found = implicit_rewards(comparison, one.target, pairs, None if isinstance(own, str) else own)
        places: dict[tuple[int, ...], int] = {}
        prompts = [places.setdefault(pair.prompt_ids, len(places)) for pair in pairs]
        return {**found._asdict(), "own_missing": own if isinstance(own, str) else None, "prompts": prompts}

    def _pairs(self, target: Target) -> list[TokenizedPair]:
        """The pairs that a run's evaluation looks at, for this model's tokenizer."""
        tokenizer = load_tokenizer(tokenizer_source(target.model, target.adapter), field="--model")
        found = load_mixture((SourceSpec(self._held.source),), tokenizer, self._held.data, progress=True, bar=True)
        evaluated = MicroBatches(found, self._held.data, torch.device("cpu")).evaluated()
        return [found[place] for place in evaluated]

    def of_rewards(self, one: Target, scorer: Scorer) -> numbers.Row:
        """Win rates under a reward. Raises UserError and RunError as `responses`."""
        ours, theirs = self._scored(one, scorer), self._scored_against(one, scorer)
        return numbers.of_rewards(ours, theirs, self.responses(one), self._responses_against(), self._prompts)

    def of_judge(self, one: Target, judge: Judge) -> numbers.Row:
        """Win rates by a judge. Raises UserError and RunError as `responses` and `Judge.of`."""
        ours, theirs = self.responses(one), self._responses_against()
        comparisons = [
            Comparison(self._asked[place].prompt, response, other)
            for place, response, other in zip(self._prompts, ours, theirs, strict=True)
        ]
        kept = self._kept(one)
        file = kept.folder / f"{judge.measurement}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        return numbers.of_judged(judge.of(comparisons, file, f"judging {one.name}"), ours, theirs, self._prompts)

    def responses(self, target: Target) -> list[str]:
        """What a model answers, drawn unless it was before.

        Raises:
            UserError: the model cannot be loaded, or the folder holds results of other settings.
            RunError: vLLM fails.
        """
        if target not in self._responses:
            held = self._held
            tokenizer = load_tokenizer(tokenizer_source(target.model, target.adapter), field="--model")
            prompts = prompt_texts(self._asked, tokenizer, held.data)
            drawn = held.sampling.kept(self._kept(target), target, prompts, held.temperature)
            self._responses[target] = [sample.response for sample in drawn]
        return self._responses[target]

    def _responses_against(self) -> list[str]:
        if self._against is not None:
            return self.responses(self._against)
        return [self._asked[place].chosen for place in self._prompts]

    def _scored(self, target: Target, scorer: Scorer) -> list[float]:
        kept, task = self._kept(target), f"reward-{scorer.measurement}"
        found = kept.finished(task)
        if found is None:
            found = scorer.score(self._answers(self.responses(target)))
            kept.write(task, found)
        return list(found)

    def _scored_against(self, one: Target, scorer: Scorer) -> list[float]:
        if self._against is not None:
            return self._scored(self._against, scorer)
        kept, task = self._kept(one), f"reward-{CHOSEN}-{scorer.measurement}"
        found = kept.finished(task)
        if found is None:
            found = scorer.score([Answer(question.prompt, question.chosen) for question in self._asked])
            kept.write(task, found)
        return [found[place] for place in self._prompts]

    def _answers(self, responses: Sequence[str]) -> list[Answer]:
        return [Answer(self._asked[i].prompt, text) for i, text in zip(self._prompts, responses, strict=True)]

    def _kept(self, target: Target) -> Results:
        if target not in self._results:  # it reads all weights, for their hash
            folder, backend = self._output / "models" / results_folder(target), self._held.sampling.backend
            self._results[target] = Results(folder, target, self.settings, packages=(*_PACKAGES, backend))
        return self._results[target]


def measure(
    models: Sequence[Named], held: Held, against: Target | None, ways: Ways, output: Path
) -> Path:  # fmt: skip
    """preference.json, .csv and .md in `output`; the Markdown file.

    Args:
        against: whose responses a model's are held against; None: the chosen ones.

    Raises:
        UserError: a model cannot be loaded, or `output` holds results of other settings.
        RunError: vLLM fails, or the judge is out of reach.
    """
    preferences = Preferences(held, against, ways.reference, output)
    if ways.scorer is not None or ways.judge is not None:
        for target in (*([against] if against else []), *(one.target for one in models)):
            preferences.responses(target)  # before anything stays on the GPU, of which vLLM takes nearly all
    rows = [_row(one) for one in models]
    for one, row in zip(models, rows, strict=True):
        if ways.reference is not None:
            row |= preferences.of_pairs(one, ways.beta)
    for one, row in zip(models, rows, strict=True):
        if ways.scorer is not None:
            row |= preferences.of_rewards(one.target, ways.scorer)
        if ways.judge is not None:
            row |= preferences.of_judge(one.target, ways.judge)
    reference = ways.reference and (ways.reference.adapter or ways.reference.model)
    said = {
        "against": against.name if against else "the chosen responses", "beta": ways.beta, "reference": reference,
        "scorer": ways.scorer and ways.scorer.description, "judge": ways.judge and ways.judge.said,
    }  # fmt: skip
    return write_preference_tables(rows, {**preferences.settings, **said}, ways.missing, output)


def _row(one: Named) -> numbers.Row:
    target, training = one
    return {
        "model": target.name, "method": training.method if training else None,
        "step": training.step if training else None, "path": target.adapter or target.model,
    }  # fmt: skip
