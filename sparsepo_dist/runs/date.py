"""The day that a run's chat templates are told, where they print a date: another day must not change the data."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timezone

from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.folder import CHECKPOINTS, run_folder
from sparsepo_dist.training.checkpoints.store import CheckpointStore


def dated(config: RunConfig) -> RunConfig:
    """With `data.date`: as given, or of the run that is gone on with, or today's: UTC, so that machines agree."""
    if config.data.date is not None:
        return config
    date = _of_run(config) or datetime.now(timezone.utc).date().isoformat()
    return dataclasses.replace(config, data=dataclasses.replace(config.data, date=date))


def _of_run(config: RunConfig) -> str | None:
    if config.resume is None:
        return None
    for checkpoint in CheckpointStore(run_folder(config) / CHECKPOINTS).complete():
        try:
            found = checkpoint.state()["config"]["data"].get("date")
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue  # damaged: looked at, and said, when all ranks look for the one to go on from
        if isinstance(found, str):
            return found
    return None
