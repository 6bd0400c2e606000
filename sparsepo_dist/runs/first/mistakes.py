"""A run's mistakes that are found at once: torch, transformers and DeepSpeed take seconds to load."""

from __future__ import annotations

from sparsepo_dist.engines.deepspeed.ds_file import read_ds_config
from sparsepo_dist.runs.config import RunConfig
from sparsepo_dist.runs.folder import check_output_dir
from sparsepo_dist.runs.recipes.starts import check_start


def check_at_once(config: RunConfig) -> None:
    """Refuse what the values, the ds_config's file and the run's folder show to be wrong; nothing is made or loaded.

    Raises:
        UserError: anything of it that the user can mend; what takes more to see is found by the run itself.
    """
    config.validate()
    check_start(config)
    read_ds_config(config.ds_config)
    if config.resume is None:  # else a checkpoint's files are read, which the run does
        check_output_dir(config)
