"""Prefixes are completed by a model, and its completions ranked by their sentiment."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from sparsepo_dist.builtin.sets import set_file
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.options import SAMPLING
from sparsepo_dist.preparation.registry import Plan, Preparation
from sparsepo_dist.preparation.schema import TEXT, Schema
from sparsepo_dist.preparation.sentiment.options import OWN_PROMPTS, add_options
from sparsepo_dist.preparation.sources import source_record
from sparsepo_dist.preparation.work import Work

if TYPE_CHECKING:  # all of these bring torch, which --help can do without
    from sparsepo_dist.builtin.ranking import Scored
    from sparsepo_dist.evaluation.target import Target
    from sparsepo_dist.preparation.sentiment.prefixes import Prefix, Split

_SPLITS = {"train": "training", "heldout": "held-out"}
_OPTIONS = (
    "field", "prompts", "heldout_prompts", "test_prompts", "completions", *SAMPLING, "pairs_per_prompt",
    "least_difference",
)  # fmt: skip


def _plan(given: argparse.Namespace) -> Plan:
    """Raises UserError for a model, scorer or source that cannot be used, before anything is sampled."""
    from sparsepo_dist.evaluation.frontier.scorers import scorer
    from sparsepo_dist.preparation.drawing import Drawing, model_record, named_model
    from sparsepo_dist.preparation.sentiment.completions import drawn, scored
    from sparsepo_dist.sampling.backends import check_backend
    from sparsepo_dist.sampling.responses import Nucleus

    check_backend(given.backend)
    model, judge = named_model(given.model), scorer(given.scorer, given.positive_label)
    nucleus = Nucleus(given.temperature, given.top_p, given.max_new_tokens)
    drawing = Drawing(model, given.backend, given.completions, nucleus, given.batch_size, given.seed)

    def make(work: Work, card: Card) -> None:
        prefixes = _split(given, model, card)
        texts = {name: [prefix.text for prefix in getattr(prefixes, name)] for name in _SPLITS}
        samples = drawn(work, drawing, texts)  # of both, before any is scored: vLLM takes nearly all of the GPU
        for name, said in _SPLITS.items():
            rows = ranked(name, scored(work, name, samples[name], judge), given, card)
            work.write(f"{name}.jsonl", rows, f"{said} preferences, with scores")
        _write_prompts(work, prefixes)

    settings = {name: getattr(given, name) for name in _OPTIONS}
    sources = {
        "--texts": OWN_PROMPTS if given.texts == OWN_PROMPTS else source_record(set_file(given.texts), "--texts"),
        "--model": model_record(given.model, model),
        "--scorer": {"score": judge.description, "measurement": judge.measurement},
    }
    return Plan(settings, sources, make)


def _split(given: argparse.Namespace, model: Target, card: Card) -> Split:
    from sparsepo_dist.engines.adapters.files import tokenizer_source
    from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
    from sparsepo_dist.preparation.sentiment.prefixes import Wanted, cut_texts, own_prompts, split

    wanted = Wanted(given.prompts, given.heldout_prompts, given.test_prompts)
    if given.texts == OWN_PROMPTS:
        found = own_prompts(wanted)
    else:
        schema = Schema("texts (--field names their column)", {given.field: TEXT})
        texts = [row.values[given.field] for row in schema.rows(given.texts, option="--texts")]
        tokenizer = load_tokenizer(tokenizer_source(model.model, model.adapter), field="--model")
        found = split(cut_texts(texts, tokenizer, given.seed, card), wanted)
    for said, part in zip(("to train on", "to tune on", "left alone"), found, strict=True):
        card.count(f"prefixes {said}", len(part))
    return found


def ranked(name: str, samples: Sequence[Scored], given: argparse.Namespace, card: Card) -> list[dict[str, Any]]:
    """Preference rows of which no pair is a tie."""
    from sparsepo_dist.builtin.ranking import best_against_worst

    told = sum(bool(sample.response.strip()) for sample in samples)
    card.step(f"{name}: not blank", len(samples), told, unit="completions")
    card.count(f"{name}: mean score of completions", sum(sample.score for sample in samples) / len(samples))
    pairs = list(best_against_worst(samples, given.pairs_per_prompt))
    # A classifier's score of one text differs in the last digits from batch to batch.
    decided = [
        pair for pair in pairs
        if pair["chosen_score"] > pair["rejected_score"] and pair["chosen"].strip() != pair["rejected"].strip()
    ]  # fmt: skip
    card.step(f"{name}: scores are no tie, nor completions the same", len(pairs), len(decided), unit="pairs")
    kept = [pair for pair in decided if pair["chosen_score"] - pair["rejected_score"] > given.least_difference]
    card.step(f"{name}: scores differ by more than {given.least_difference}", len(decided), len(kept), unit="pairs")
    if not kept:
        raise UserError(
            f"{name}: no two completions of a prompt differ enough in their scores; raise --completions or the number "
            "of prompts, or lower --least_difference"
        )
    return kept


def _write_prompts(work: Work, prefixes: Split) -> None:
    work.write(
        "prompts.jsonl", ({"prompt": one.text} for one in prefixes.untouched), "prefixes left alone, to evaluate on"
    )
    if any(one.rest for one in prefixes.train):
        work.write("sft.jsonl", _supervised(prefixes.train), "texts of the training prefixes, for SFT")
        work.write("sft_heldout.jsonl", _supervised(prefixes.heldout), "texts of the held-out prefixes, for SFT")


def _supervised(prefixes: Sequence[Prefix]) -> Iterator[dict[str, str]]:
    return ({"prompt": one.text, "completion": one.rest} for one in prefixes if one.rest.strip())


PREPARATION = Preparation(
    "Prefixes of 5 to 8 tokens of texts, completed by multinomial sampling from a model; the completion with the "
    "better sentiment score is preferred. A classifier's score is the probability p of its likeliest label where that "
    "is the positive one, else 1 - p; ties are left out and counted.",
    add_options, _plan,
)  # fmt: skip
