"""A policy answers prompts several times, and its answers are ranked by a reward: on-policy preferences."""

from __future__ import annotations

import argparse

from sparsepo_dist.files import argument
from sparsepo_dist.preparation.card import Card
from sparsepo_dist.preparation.options import SAMPLING, add_sampling
from sparsepo_dist.preparation.registry import Plan, Preparation
from sparsepo_dist.preparation.sentiment.options import add_ranking, several
from sparsepo_dist.preparation.sentiment.run import ranked
from sparsepo_dist.preparation.sources import source_record
from sparsepo_dist.preparation.work import Work
from sparsepo_dist.sampling.responses import Nucleus

_NAME = "train"
_OPTIONS = ("field", "completions", *SAMPLING, "pairs_per_prompt", "least_difference")


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts", type=argument, required=True, metavar="SOURCE",
        help="rows with a prompt, text or messages: a file, folder or hub id, with a slice or split where wanted",
    )  # fmt: skip
    parser.add_argument("--field", default="prompt", metavar="NAME", help="the column of prompts (%(default)s)")
    sampling = parser.add_argument_group("responses", "by default from the policy's own distribution")
    sampling.add_argument("--completions", type=several, default=4, metavar="N", help="of each prompt (%(default)s)")
    add_sampling(sampling, "builtin:smollm2-135m-instruct", Nucleus(1.0, 1.0, 256))
    scoring = parser.add_argument_group("scores and pairs")
    scoring.add_argument(
        "--scorer", type=argument, required=True, metavar="vader|PATH",
        help="the reward: vader, of the response alone, or a sequence classifier or reward model, folder or hub id",
    )  # fmt: skip
    add_ranking(scoring)


def _plan(given: argparse.Namespace) -> Plan:
    """Raises UserError for a policy, scorer or prompts that cannot be used, before anything is sampled."""
    from sparsepo_dist.builtin.ranking import Scored
    from sparsepo_dist.engines.adapters.files import tokenizer_source
    from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
    from sparsepo_dist.evaluation.frontier.scorers import scorer
    from sparsepo_dist.preparation.drawing import Drawing, model_record, named_model
    from sparsepo_dist.preparation.pairs.prompts import Answer, as_row, read_prompts
    from sparsepo_dist.preparation.sentiment.completions import drawn, scores
    from sparsepo_dist.sampling.backends import check_backend

    check_backend(given.backend)
    model, judge = named_model(given.model), scorer(given.scorer, given.positive_label)
    tokenizer = load_tokenizer(tokenizer_source(model.model, model.adapter), field="--model")
    prompts, read = read_prompts(given.prompts, given.field, tokenizer)
    nucleus = Nucleus(given.temperature, given.top_p, given.max_new_tokens)
    drawing = Drawing(model, given.backend, given.completions, nucleus, given.batch_size, given.seed)

    def make(work: Work, card: Card) -> None:
        card.step("prompts that stood there before", read, len(prompts), unit="prompts")
        samples = drawn(work, drawing, {_NAME: list(prompts)})[_NAME]
        answers = [Answer(prompts[sample.prompt], sample.response) for sample in samples]
        found = scores(work, _NAME, answers, judge)
        worth = [Scored(s.prompt, s.response, score) for s, score in zip(samples, found, strict=True)]
        rows = [as_row(pair, prompts[pair["prompt"]]) for pair in ranked(_NAME, worth, given, card)]
        work.write(f"{_NAME}.jsonl", rows, "preferences between the policy's own responses, with scores")

    sources = {
        "--prompts": source_record(given.prompts, "--prompts"),
        "--model": model_record(given.model, model),
        "--scorer": {"score": judge.description, "measurement": judge.measurement},
    }
    return Plan({name: getattr(given, name) for name in _OPTIONS}, sources, make)


PREPARATION = Preparation(
    "A policy's own responses to prompts, ranked by a reward: the best against the worst. Scores are kept, ties are "
    "left out and counted; the folder is what a run of the next round trains on.",
    _add_options, _plan,
)  # fmt: skip
