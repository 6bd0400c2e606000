"""The command line of evaluation/leaderboard.py; imports nothing that asks whether the hub may be reached."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sparsepo_dist.evaluation.arguments import positive
from sparsepo_dist.evaluation.hub_mirror import OFFLINE
from sparsepo_dist.evaluation.leaderboard.normalisation import GROUPS
from sparsepo_dist.files import argument, path_argument

_EXAMPLES = """
examples:
  python evaluation/leaderboard.py --model runs/RUN --output results/RUN
  python evaluation/leaderboard.py --model runs/RUN --output /tmp/smoke --limit 4 --tasks leaderboard_ifeval
  accelerate launch --num_processes 8 evaluation/leaderboard.py --model DIR_OR_HUB_ID --output results/NAME

Started again with the same --output, it goes on where it was. OUTPUT/leaderboard.md, .csv and .json hold the scores
beside the paper's, OUTPUT/leaderboard/TASK.json each task's raw numbers and how they came about.
"""


@dataclass(frozen=True)
class LeaderboardOptions:
    """What is evaluated, on what, and how."""

    model: str
    """A run's folder, a model's, an adapter's, or a hub id."""
    output: Path
    """Where results are written and, by a later call, found again."""
    base: str | None = None
    """The model that an adapter belongs on, where it is no longer where the adapter says."""
    tasks: Sequence[str] = tuple(GROUPS)
    """lm-eval's names of groups, tags or single tasks; those of the leaderboard have its scores."""
    num_fewshot: Sequence[str] = ()
    """Few-shot examples: a number for all tasks, then TASK=N; without one each task's own, the leaderboard's rule."""
    system_instruction: str | None = None
    """Text that comes first, as the system's message where prompts are chat messages."""
    log_samples: bool = False
    """Keep lm-eval's record of each document."""
    limit: int | None = None
    """Documents per task; such results are marked and never taken for full ones."""
    batch_size: int | Literal["auto"] = "auto"
    """Sequences per forward pass; auto: as many as fit (GPU), 4 (CPU)."""
    backend: Literal["transformers", "vllm"] = "transformers"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of the weights; auto: as the model's configuration says."""
    chat_template: Sequence[str] = ("auto",)
    """Whether prompts are chat messages, few-shot examples as turns of their own: a rule, then TASK=yes or TASK=no;
    auto: if the model has a template."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """What else the template is told, as in training (`data.chat_template_kwargs`)."""
    seed: int = 0
    """Of everything that is drawn: here, the order in which GPQA's choices are shown."""
    hub_mirror: Path | None = None
    """Folder that holds datasets under their hub ids; the hub is then not asked for anything."""
    trust_remote_code: bool = False
    """Run Python code that the model brings along."""


def parse_options(arguments: Sequence[str] | None = None) -> LeaderboardOptions:
    """Options from a command line. With --hub-mirror this process and its children are offline from here on."""
    options = LeaderboardOptions(**vars(parser().parse_args(arguments)))
    if options.hub_mirror is not None:
        os.environ.update(OFFLINE)
    return options


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description="Evaluate a model on the Open LLM Leaderboard v2 (lm-eval's leaderboard tasks), normalised as the "
        "leaderboard does, in a table beside the paper's.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--model", type=argument, required=True, help="a run's folder, a model's, an adapter's, or a hub id"
    )
    parser.add_argument(
        "--base", type=argument, help="the model an adapter belongs on (default: the one that the adapter names)"
    )
    parser.add_argument(
        "--output", required=True, type=path_argument, help="folder of results; finished tasks are not run again"
    )
    parser.add_argument(
        "--tasks", nargs="+", default=tuple(GROUPS), metavar="TASK",
        help="lm-eval's groups, tags or tasks, such as leaderboard_bbh_snarks, gsm8k or truthfulqa_mc2 (default: "
        f"{' '.join(GROUPS)})",
    )  # fmt: skip
    parser.add_argument(
        "--num_fewshot", nargs="+", default=(), metavar="N",
        help="examples in the prompt: N for all tasks, then TASK=N for some (default: each task's own, the "
        "leaderboard's rule); tasks whose own is 0 keep it, as in lm-eval",
    )  # fmt: skip
    parser.add_argument(
        "--system_instruction", metavar="TEXT", help="text before the prompt (default: none, the leaderboard's rule)"
    )
    parser.add_argument(
        "--log_samples", action="store_true",
        help="keep each document's prompt, answer and score, as lm-eval's samples_TASK_DATE.jsonl beside the result",
    )  # fmt: skip
    parser.add_argument("--limit", type=positive, help="only so many documents of each task: a smoke run")
    parser.add_argument(
        "--batch_size", type=_batch_size, default="auto",
        help="sequences at once (default: auto, what fits a GPU, 4 on CPUs)",
    )  # fmt: skip
    parser.add_argument(
        "--backend", choices=("transformers", "vllm"), default="transformers",
        help="what runs the model (default: transformers; vllm has to be installed)",
    )  # fmt: skip
    parser.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto",
        help="of the weights (default: auto, as the model's configuration says)",
    )  # fmt: skip
    parser.add_argument(
        "--chat_template", nargs="+", default=("auto",), metavar="RULE",
        help="prompts as chat messages: auto, yes or no for all tasks, then TASK=yes or TASK=no for some (default: "
        "auto, the leaderboard's rule, if the model has a template; the released one: no leaderboard_ifeval=yes)",
    )  # fmt: skip
    parser.add_argument(
        "--chat_template_kwargs", type=_mapping, default={}, metavar="JSON",
        help="what else the template is told, as in training: '{\"enable_thinking\": false}' (default: nothing)",
    )  # fmt: skip
    parser.add_argument(
        "--seed", type=int, default=0,
        help="of what is drawn, which is the order of GPQA's choices (default: 0, the leaderboard's)",
    )  # fmt: skip
    parser.add_argument(
        "--hub-mirror",
        type=path_argument,
        metavar="DIR",
        help="read datasets from DIR/DATASET_ID and go without a network",
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="run Python code that the model brings along")
    return parser


def _batch_size(text: str) -> int | Literal["auto"]:
    return "auto" if text == "auto" else positive(text)


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f'{text} must be a JSON object, as {{"enable_thinking": false}}')
    return found
