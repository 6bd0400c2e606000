"""The command line of evaluation/summary.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sparsepo_dist.evaluation.arguments import add_sampling, given_sampling, positive, temperature
from sparsepo_dist.evaluation.models import named_targets
from sparsepo_dist.evaluation.prompts import read_texts
from sparsepo_dist.evaluation.sampling import Sampling
from sparsepo_dist.files import argument

if TYPE_CHECKING:  # they bring torch, which options can do without
    from sparsepo_dist.evaluation.summary.metrics import Metric

_DESCRIPTION = """Sample summaries of Reddit TL;DR posts and measure them: ROUGE-1, ROUGE-2 and ROUGE-L F1 (stemmed),
BERTScore F1 (IDF), self-BLEU, EDNA by an entailment model, and lengths in words and tokens. One table for all models,
as JSON, CSV and Markdown. Samples and scores are kept below --output: what is finished is not done again, and metrics
can be added later."""
# The paper's where it has them.
_DEFAULTS = Sampling(samples=5, top_p=0.95, max_new_tokens=128, max_prompt_length=1024, seed=0, batch_size=16)
_ONE_SAMPLE = "it needs two samples of a prompt or more (--samples)"


def summary(arguments: Sequence[str] | None = None) -> Path:
    """Run the driver; the Markdown table.

    Raises:
        UserError: what is wrong with an option, a row of the prompts, or a model.
    """
    given = parser().parse_args(arguments)
    from sparsepo_dist.evaluation.summary.metrics import Task
    from sparsepo_dist.evaluation.summary.run import summarise

    sampling = given_sampling(given)
    tasks = [Task(*texts) for texts in read_texts(given.prompts, ("prompt", "summary"), given.prompt_count)]
    targets = named_targets(given.model, base=given.base)
    metrics, missing = _metrics(given)
    return summarise(targets, tasks, given.temperatures, sampling, metrics, missing, given.output, _notes(given))


def _metrics(given: argparse.Namespace) -> tuple[list[Metric], dict[str, str]]:
    from sparsepo_dist.evaluation.summary.bertscore import bertscore
    from sparsepo_dist.evaluation.summary.edna import edna
    from sparsepo_dist.evaluation.summary.lengths import words
    from sparsepo_dist.evaluation.summary.metrics import rouge, self_bleu

    corpus = None
    if given.bertscore_idf is not None:
        corpus = [text for (text,) in read_texts(given.bertscore_idf, ("summary",), None, option="--bertscore_idf")]
    wanted: dict[str, Metric | str] = {
        **{name: rouge(name) for name in ("rouge_1", "rouge_2", "rouge_l")},
        "bertscore": bertscore(given.bertscore_model, given.bertscore_layers, corpus)
        if given.bertscore_model
        else "no model was given (--bertscore_model)",
        "self_bleu": self_bleu() if given.samples > 1 else _ONE_SAMPLE,
        "edna": _ONE_SAMPLE
        if given.samples < 2
        else edna(given.edna_model, given.edna_label)
        if given.edna_model
        else "no entailment model was given (--edna_model)",
        "words": words(),
    }
    return (
        [metric for metric in wanted.values() if not isinstance(metric, str)],
        {name: metric for name, metric in wanted.items() if isinstance(metric, str)},
    )


def _notes(given: argparse.Namespace) -> list[str]:
    """What decides the columns besides the samples, in words."""
    notes = []
    if given.bertscore_model:
        of = given.bertscore_idf or "the references (the paper: of the training summaries, --bertscore_idf)"
        notes.append(f"BERTScore: {given.bertscore_model}, IDF of {of}.")
    if given.edna_model and given.samples > 1:
        notes.append(f"EDNA: by SummaC's zero-shot variant with {given.edna_model}; not the trained one, SummaC-Conv.")
    return notes


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="summary.py", description=_DESCRIPTION)
    parser.add_argument(
        "--model", type=argument, action="append", required=True, metavar="[NAME=]PATH",
        help="a run's folder, a model's or adapter's, or a hub id; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=argument, required=True, metavar="FILE",
        help='.jsonl or .json rows {"prompt": the post as the model reads it, "summary": a person\'s summary}; also '
        ".parquet, a datasets folder or a hub id",
    )  # fmt: skip
    parser.add_argument(
        "--temperatures", type=temperature, nargs="+", default=[0.25, 0.5, 0.75, 1.0], metavar="T",
        help="the paper's: 0.25 0.5 0.75 1.0 (the default)",
    )  # fmt: skip
    parser.add_argument(
        "--bertscore_model", type=argument, metavar="PATH",
        help="encoder for BERTScore, a folder or hub id (the paper: roberta-large); without it there is no BERTScore",
    )  # fmt: skip
    parser.add_argument(
        "--bertscore_layers", type=positive, metavar="N",
        help="the layer whose outputs are compared (default: bert_score's choice for a model of that name)",
    )  # fmt: skip
    parser.add_argument(
        "--bertscore_idf", type=argument, metavar="FILE",
        help='rows {"summary": text} that BERTScore\'s IDF is counted over; in the paper the training summaries '
        "(default: the references)",
    )  # fmt: skip
    parser.add_argument(
        "--edna_model", type=argument, metavar="PATH",
        help="entailment model for EDNA, a sequence classifier of transformers, folder or hub id; without it there is "
        "no EDNA",
    )  # fmt: skip
    parser.add_argument(
        "--edna_label", default="entailment", metavar="LABEL", help="its label of entailment (%(default)s)"
    )
    add_sampling(parser, 120, _DEFAULTS)
    return parser
