"""Checkpoints for another number of ranks: DeepSpeed's converter from shards to whole parameters."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import pickle
from pathlib import Path

from deepspeed.checkpoint import ds_to_universal

from sparsepo_dist.engines.persistence import TAG, only_tensors
from sparsepo_dist.errors import UserError


def convert(checkpoint: Path, output: Path) -> None:
    """Write checkpoint/engine/ as output/engine/, in a form that any number of ranks loads. One process calls this.

    Raises:
        UserError: DeepSpeed cannot convert it.
    """
    settings = argparse.Namespace(
        input_folder=str(checkpoint / TAG), output_folder=str(output / TAG), keep_temp_folder=False, strict=True,
        inject_missing_state=False, num_extract_workers=1, num_merge_workers=max(1, len(os.sched_getaffinity(0)) // 2),
    )  # fmt: skip
    try:
        with only_tensors(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            ds_to_universal.main(settings)
    except (RuntimeError, KeyError, AssertionError, ValueError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        raise UserError(
            f"resume: {checkpoint} was written by another number of ranks and cannot be converted: {reason}. Resume on "
            "the number of ranks that it was written by"
        ) from None
