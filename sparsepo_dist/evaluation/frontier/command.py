"""The command line of evaluation/frontier.py."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sparsepo_dist.builtin.prompts import UNSEEN, unseen_prompts
from sparsepo_dist.builtin.rewards import VADER
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.arguments import add_sampling, given_sampling, temperature
from sparsepo_dist.evaluation.frontier.pareto import MARGIN, Point
from sparsepo_dist.evaluation.prompts import read_texts
from sparsepo_dist.evaluation.sampling import Sampling
from sparsepo_dist.files import argument, path_argument
from sparsepo_dist.sampling.responses import Nucleus

_DESCRIPTION = """Reward against response-level KL of many models: a table (JSON, CSV, Markdown) with the Pareto
frontier and hypervolumes, and a figure. Samples, rewards and KL are kept below --output: what is finished is not done
again, and another --scorer uses the samples that are there."""
# The paper's: one response, drawn from the model's own distribution, of each test prompt.
_TEMPERATURE = 1.0
_DEFAULTS = Sampling(
    samples=1, top_p=1.0, max_new_tokens=Nucleus.max_new_tokens,
    max_prompt_length=Nucleus.max_prompt_length, seed=UNSEEN.seed, batch_size=96,
)  # fmt: skip


def frontier(arguments: Sequence[str] | None = None) -> Path:
    """Run the driver; the Markdown table.

    Raises:
        UserError: what is wrong with an option, a row of the prompts, or a model.
    """
    given = parser().parse_args(arguments)
    # torch, which options can do without
    from sparsepo_dist.evaluation.frontier.run import Drawing, write_frontier
    from sparsepo_dist.evaluation.frontier.runs import shared_reference, trained_models
    from sparsepo_dist.evaluation.frontier.scorers import scorer

    sampling = given_sampling(given)
    drawing = Drawing(_prompts(given), given.temperature, sampling)
    models = trained_models(given.model, base=given.base, exported=given.exported)
    reference = shared_reference(given.model, given.reference, base=given.base)
    return write_frontier(
        models, reference, scorer(given.scorer, given.positive_label), drawing, given.output, given.reference_point,
        given.reference_results,
    )  # fmt: skip


def _prompts(given: argparse.Namespace) -> tuple[str, ...]:
    if given.prompts is not None:
        return tuple(text for (text,) in read_texts(given.prompts, ("prompt",), given.prompt_count))
    built_in = tuple(unseen_prompts(None))
    if given.prompt_count is not None and given.prompt_count > len(built_in):
        raise UserError(f"--prompt_count {given.prompt_count}: there are {len(built_in)} built-in prompts; lower it")
    return built_in[: given.prompt_count]


def kl_and_reward(text: str) -> Point:
    """Two numbers with a comma between them: KL in nats, reward. Raises ValueError for anything else."""
    kl, reward = map(float, text.split(","))
    return kl, reward


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(prog="frontier.py", description=_DESCRIPTION)
    parser.add_argument(
        "--model", type=argument, action="append", required=True, metavar="[METHOD=]PATH",
        help="a run's folder or a model's or adapter's in it, whose method its config.yaml names; or any other, "
        "with METHOD=; may be given several times, also for one method",
    )  # fmt: skip
    parser.add_argument(
        "--exported", action="store_true",
        help="measure too what each run wrote to exported/ on its way (checkpoints.export_every_steps), at its steps",
    )  # fmt: skip
    parser.add_argument(
        "--reference", type=argument, metavar="PATH",
        help="the model that KL is measured from (default: the one that all the runs were trained from)",
    )  # fmt: skip
    parser.add_argument(
        "--reference_results", type=path_argument, metavar="DIR",
        help="the --output of a call that measured the reference with the same settings: it is not sampled again",
    )  # fmt: skip
    parser.add_argument(
        "--scorer", type=argument, default=VADER, metavar="vader|PATH",
        help="the reward: vader (VADER's compound of the response), or a sequence classifier of transformers, folder "
        "or hub id; one of a single label is a reward model, whose logit is taken, of the conversation in its chat "
        "template, else of prompt and response as a pair (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--positive_label", default="POSITIVE", metavar="LABEL",
        help="of several labels the one that counts as positive: the reward is its probability p where it is the "
        "likeliest, else 1 - p of the likeliest (%(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--prompts", type=argument, metavar="FILE",
        help='.jsonl or .json rows {"prompt": text}; also .parquet, a datasets folder or a hub id (default: the '
        "sentiment experiment's prompts about unseen subjects)",
    )  # fmt: skip
    parser.add_argument(
        "--temperature", type=temperature, default=_TEMPERATURE, metavar="T", help="of the samples (%(default)s)"
    )
    parser.add_argument(
        "--reference_point", type=kl_and_reward, metavar="KL,REWARD",
        help=f"where hypervolumes are measured from (default: {MARGIN:g} times the largest KL, the reference's reward)",
    )  # fmt: skip
    add_sampling(parser, None, _DEFAULTS)
    return parser
