"""The command line of evaluation/preference.py."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.arguments import add_sampling, given_sampling, positive, temperature
from sparsepo_dist.evaluation.models import named_targets, split_name
from sparsepo_dist.evaluation.sampling import Sampling
from sparsepo_dist.evaluation.target import target
from sparsepo_dist.files import argument, parse_json

if TYPE_CHECKING:  # they bring torch, which options can do without
    from sparsepo_dist.evaluation.preference.judge import Judge
    from sparsepo_dist.evaluation.preference.run import Ways

_CHOSEN = "chosen"
_DESCRIPTION = """What models prefer, and what is preferred of them: accuracy and margin of implicit rewards over
held-out pairs; win rates of responses against the chosen ones or another model's, under a reward model or by a judge
behind an OpenAI-compatible address, also at equal lengths. One table for all models, as JSON, CSV and Markdown.
Everything is kept below --output: what is finished is not done again."""
_DEFAULTS = Sampling(samples=1, top_p=1.0, max_new_tokens=256, max_prompt_length=1024, seed=0, batch_size=16)
_TEMPERATURE = 1.0
_AT_ONCE = 4


def preference(arguments: Sequence[str] | None = None) -> Path:
    """Run the driver; the Markdown table.

    Raises:
        UserError: what is wrong with an option, a row of the pairs, a model, or the judge's address.
        RunError: vLLM fails, or the judge is out of reach.
    """
    given = parser().parse_args(arguments)
    sampling = given_sampling(given)
    _check_together(given)
    from sparsepo_dist.evaluation.frontier.runs import training_of
    from sparsepo_dist.evaluation.preference.pairs import data_settings, read_rows_of
    from sparsepo_dist.evaluation.preference.run import Held, Named, measure

    targets = named_targets(given.model, base=given.base)
    paths = [split_name(value)[1] for value in given.model]
    models = [Named(one, training_of(path)) for one, path in zip(targets, paths, strict=True)]
    ways = _ways(given)
    against = None if given.against == _CHOSEN else target(given.against, base=given.base)
    data = data_settings({one.target.name: one.training and one.training.config for one in models})
    rows = read_rows_of(given.pairs, data)
    held = Held(given.pairs, rows, data, given.prompt_count, given.temperature, sampling)
    return measure(models, held, against, ways, given.output)


def _check_together(given: argparse.Namespace) -> None:
    if (given.judge_url is None) != (given.judge_model is None):
        raise UserError("--judge_url and --judge_model go together: the address, and the model that is asked there")
    if given.judge_url is None and given.judge_key_env is not None:
        raise UserError("--judge_key_env is for a judge; give --judge_url and --judge_model")
    if given.against != _CHOSEN and given.scorer is None and given.judge_url is None:
        raise UserError("--against needs who compares responses: --scorer, or --judge_url and --judge_model")


def _ways(given: argparse.Namespace) -> Ways:
    from sparsepo_dist.evaluation.frontier.runs import shared_reference
    from sparsepo_dist.evaluation.frontier.scorers import scorer
    from sparsepo_dist.evaluation.preference.run import Ways

    judge = _judge(given)
    reference, missing = None, {}
    try:
        reference = shared_reference(given.model, given.reference, base=given.base)
    except UserError as error:
        if given.reference is not None or (given.scorer is None and judge is None):
            raise
        missing["Implicit rewards"] = str(error)
    return Ways(
        reference, None if given.scorer is None else scorer(given.scorer, given.positive_label), judge, given.beta,
        missing,
    )  # fmt: skip


def _judge(given: argparse.Namespace) -> Judge | None:
    if given.judge_url is None:
        return None
    from sparsepo_dist.evaluation.preference.endpoint import endpoint
    from sparsepo_dist.evaluation.preference.judge import Judge

    found = endpoint(given.judge_url, given.judge_model, given.judge_key_env, given.judge_options)
    return Judge(found, given.judge_at_once)


def _options(text: str) -> Mapping[str, Any]:
    """A JSON object. Raises argparse.ArgumentTypeError for anything else, or for what each request says itself."""
    try:
        value = parse_json(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("a JSON object is wanted")
    own = sorted(value.keys() & {"model", "messages", "stream", "n"})
    if own:
        raise argparse.ArgumentTypeError(f"{own[0]} is not for requests of a judge to be told")
    return value


def _variable(text: str) -> str:
    """A variable's name. Raises argparse.ArgumentTypeError for what may be a key itself, which is not repeated."""
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        raise argparse.ArgumentTypeError("the name of an environment variable is wanted, and not the key itself")
    return text


def _positive_number(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be above 0")
    return value


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="preference.py", description=_DESCRIPTION)
    parser.add_argument(
        "--model", type=argument, action="append", required=True, metavar="[NAME=]PATH",
        help="a run's folder, a model's or adapter's, or a hub id; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--pairs", type=argument, required=True, metavar="SOURCE",
        help="preference pairs, as data.train takes them; read and cut as the models' runs read theirs",
    )  # fmt: skip
    _add_implicit(parser)
    _add_comparison(parser)
    parser.add_argument(
        "--temperature", type=temperature, default=_TEMPERATURE, metavar="T", help="of the responses (%(default)s)"
    )
    add_sampling(parser, None, _DEFAULTS)
    return parser


def _add_implicit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--reference", type=argument, metavar="PATH",
        help="the model that log-ratios are to (default: the one that all the runs were trained from)",
    )  # fmt: skip
    parser.add_argument(
        "--beta", type=_positive_number, default=0.1, metavar="B",
        help="of implicit rewards without masks, one for all models; a run's own reward has its own (%(default)s)",
    )  # fmt: skip


def _add_comparison(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--against", type=argument, default=_CHOSEN, metavar="chosen|PATH",
        help="what responses are held against: the first chosen one of each prompt, or a model's (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--scorer", type=argument, metavar="vader|PATH",
        help="the reward that compares responses, as in frontier.py; without it there is no win rate under a reward",
    )  # fmt: skip
    parser.add_argument(
        "--positive_label", default="POSITIVE", metavar="LABEL",
        help="of a classifier of several labels the one that counts as positive (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--judge_url", metavar="URL", help="OpenAI-compatible address of a judge, up to /v1; it is sent all responses"
    )
    parser.add_argument("--judge_model", metavar="NAME", help="the model that is asked there")
    parser.add_argument(
        "--judge_key_env", type=_variable, metavar="VARIABLE",
        help="environment variable that holds the key; it is sent to --judge_url and written nowhere (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--judge_options", type=_options, default={"temperature": 0}, metavar="JSON",
        help="what else each request says ('{\"temperature\": 0}')",
    )  # fmt: skip
    parser.add_argument(
        "--judge_at_once", type=positive, default=_AT_ONCE, metavar="N", help="requests under way (%(default)s)"
    )
