"""`sparsepo plan`: what a run will need, before it is launched.

What builds models is loaded once the question is clear: mistakes in it are answered at once.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from sparsepo_dist.commands.entry import answered
from sparsepo_dist.errors import UserError, printable
from sparsepo_dist.plan.speed.machine import KNOWN, Machine, changed, find_machine
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.parsing import parse_arguments, train_parser

_TERMS: dict[str, tuple[type, str]] = {
    "matrix_tflops": (float, "Rate of matrix products in the run's dtype, 10^12 operations a second."),
    "matrix_share": (float, "Share of that rate that training reaches, from 0 to 1."),
    "bandwidth": (float, "GB/s that a GPU sends to others of its node."),
    "network": (float, "GB/s between nodes, for each GPU of a node."),
    "gpus_per_node": (int, "GPUs of a node."),
    "overlap": (float, "Share of communication that runs beside arithmetic, from 0 to 1."),
}


def parser() -> ArgumentParser:
    """Every option of a training run, and what it is to be planned for."""
    parser = train_parser()
    parser.prog = "sparsepo plan"
    parser.description = (
        "Predict the memory of each GPU and the bytes it sends, before anything is launched. Takes every option of "
        "launch/train.py, and the number and memory of the GPUs."
    )
    parser.add_argument("--gpus", type=int, required=True, help="Number of ranks, one a GPU.")
    parser.add_argument("--gpu_memory", type=float, default=80.0, help="Memory of a GPU in GiB.")
    parser.add_argument(
        "--tokens_per_pair", type=float, default=None,
        help="Mean packed tokens of a pair: decides how many micro-batches a step has. The longest pair's that the "
        "recipe allows where not given.",
    )  # fmt: skip
    parser.add_argument(
        "--device", choices=("cuda", "cpu"), default="cuda", help="Kind of device; `cpu` counts one machine's memory."
    )
    parser.add_argument(
        "--machine", type=str, default=None,
        help=f"Predict the time of a step as well: on {' or '.join(KNOWN)}, or by a file of measured terms "
        "(docs/scaling.md). The following change its terms.",
    )  # fmt: skip
    for name, (kind, help_) in _TERMS.items():
        parser.add_argument(f"--{name}", type=kind, default=None, help=help_)
    parser.add_argument("--json", type=str, default=None, help="File to write the plan to as well.")
    return parser


def main(arguments: Sequence[str]) -> int:
    """The exit code: 0 if the planned run fits, 1 if not, 2 for what the user can mend."""
    return answered(lambda: plan(*parse_arguments(parser(), arguments)))


def plan(config: RunConfig, parsed: Any) -> bool:
    """Print the plan of a configuration, for what was parsed besides; whether it fits.

    Raises:
        UserError: anything the user can mend.
    """
    if not parsed.gpu_memory > 0:
        raise UserError(f"gpu_memory: {parsed.gpu_memory} must be greater than 0")
    if parsed.tokens_per_pair is not None and not parsed.tokens_per_pair >= 1:
        raise UserError(f"tokens_per_pair: {parsed.tokens_per_pair} must be at least 1")
    machine = _machine(parsed)
    told = f"planning {config.objective.name} of {config.model.path} by its configuration; no weights are read"
    print(printable(told), file=sys.stderr, flush=True)  # noqa: T201
    from sparsepo_dist.engines.deepspeed.ds_config import load_ds_config
    from sparsepo_dist.plan.asked.request import Request
    from sparsepo_dist.plan.needs.plan import make_plan
    from sparsepo_dist.plan.speed.time import step_time
    from sparsepo_dist.plan.switches import remedies
    from sparsepo_dist.plan.table import as_json, as_text

    request = Request(
        config, load_ds_config(config.ds_config), parsed.gpus, parsed.tokens_per_pair, device=parsed.device
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("transformers").setLevel(logging.ERROR)
        found = make_plan(request)
        fits = found.fits(parsed.gpu_memory)
        seconds = None
        if machine is not None:
            seconds = step_time(found, changed(machine, found.setting.dtype, **_terms(parsed)))
        ways = [] if fits else remedies(request, parsed.gpu_memory)
        text = as_text(found, parsed.gpu_memory, ways, seconds)
        values = as_json(found, parsed.gpu_memory, ways, seconds)
    print(printable(text))  # noqa: T201
    if parsed.json is not None:
        try:
            Path(parsed.json).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"json: {parsed.json} cannot be written: {error.strerror}") from None
    return fits


def _machine(parsed: Any) -> Machine | None:
    if parsed.machine is not None:
        return find_machine(parsed.machine)
    for name, value in _terms(parsed).items():
        if value is not None:
            raise UserError(f"{name}: it is a term of a machine; name one with --machine")
    return None


def _terms(parsed: Any) -> dict[str, Any]:
    return {name: getattr(parsed, name) for name in _TERMS}
