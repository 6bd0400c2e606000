"""`sparsepo plan`: its arguments, and what it does with them."""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from sparsepo_dist.config import RunConfig
from sparsepo_dist.engines.ds_config import load_ds_config
from sparsepo_dist.errors import UserError
from sparsepo_dist.plan.plan import make_plan
from sparsepo_dist.plan.request import Request
from sparsepo_dist.plan.switches import remedies
from sparsepo_dist.plan.table import as_json, as_text


def add_arguments(parser: ArgumentParser) -> None:
    """Beside those of a training run: what it is to be planned for."""
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
    parser.add_argument("--json", type=str, default=None, help="File to write the plan to as well.")


def plan(config: RunConfig, parsed: Any) -> bool:
    """Print the plan of a configuration, for what was parsed besides; whether it fits.

    Raises:
        UserError: anything the user can mend.
    """
    if not parsed.gpu_memory > 0:
        raise UserError(f"gpu_memory: {parsed.gpu_memory} must be greater than 0")
    if parsed.tokens_per_pair is not None and not parsed.tokens_per_pair >= 1:
        raise UserError(f"tokens_per_pair: {parsed.tokens_per_pair} must be at least 1")
    request = Request(
        config, load_ds_config(config.ds_config), parsed.gpus, parsed.tokens_per_pair, device=parsed.device
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("transformers").setLevel(logging.ERROR)
        found = make_plan(request)
        fits = found.fits(parsed.gpu_memory)
        ways = [] if fits else remedies(request, parsed.gpu_memory)
        text, values = as_text(found, parsed.gpu_memory, ways), as_json(found, parsed.gpu_memory, ways)
    print(text)  # noqa: T201
    if parsed.json is not None:
        try:
            Path(parsed.json).write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"json: {parsed.json} cannot be written: {error.strerror}") from None
    return fits
