"""Datasets without a network: a folder that holds mirrors of hub datasets under their ids.

`datasets`, and so lm-eval and the bigcode harness, read an id as a local folder where the working directory holds one
of that name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from sparsepo_dist.errors import UserError, shortened

OFFLINE = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}


def is_offline() -> bool:
    """Whether this process was told to leave the hub alone."""
    return os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")


def mirror_environment(mirror: Path | None) -> dict[str, str]:
    """Environment of a child process that reads datasets from a mirror.

    huggingface_hub looks at it once, when it is imported: a parent that has imported it cannot go offline by it.
    """
    return {**os.environ, **(OFFLINE if mirror is not None else {})}


@contextmanager
def reading_from(mirror: Path | None) -> Iterator[None]:
    """Run with the mirror as working directory; without one, where we are.

    Raises:
        UserError: there is no such folder.
    """
    if mirror is None:
        yield
        return
    check_mirror(mirror)
    here = Path.cwd()
    os.chdir(mirror)
    try:
        yield
    finally:
        os.chdir(here)


def check_mirror(mirror: Path) -> None:
    """Raise UserError if there is no such folder."""
    if not mirror.is_dir():
        raise UserError(f"--hub-mirror: there is no folder {mirror}")


def check_dataset(dataset: str, mirror: Path | None, *, needed_by: str) -> None:
    """Refuse a dataset that neither the mirror nor, offline, the hub can give.

    Raises:
        UserError: names the dataset, the task that needs it, and the folder that should hold it.
    """
    if mirror is not None:
        check_mirror(mirror)
        if not (mirror / dataset).is_dir():
            raise UserError(
                f"{needed_by} reads the dataset {dataset}, which the mirror lacks: it should be in {mirror / dataset} "
                "(the files of the hub's repository; parquet files will do)"
            )
    elif is_offline() and not Path(dataset).is_dir():
        raise UserError(
            f"{needed_by} reads the dataset {dataset}, and HF_HUB_OFFLINE is set: give a folder that mirrors it with "
            f"--hub-mirror DIR, as DIR/{dataset}"
        )


def configuration_fault(dataset: str, configuration: str, mirror: Path) -> str | None:
    """What is wrong with how a mirrored dataset describes a configuration of it; None where it describes it.

    `datasets` knows a folder's configurations by the `configs:` at the head of its README.md, as the hub does.
    """
    readme = mirror / dataset / "README.md"
    remedy = "copy the README.md of the hub's repository, whose `configs:` says which files are whose"
    if not readme.is_file():
        return f"{readme} is missing: {remedy}"
    head = readme.read_text(encoding="utf-8", errors="replace").split("---")
    try:
        found = yaml.safe_load(head[1]) if len(head) > 2 and not head[0].strip() else None
        names = [str(each["config_name"]) for each in (found or {}).get("configs", [])]
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        return f"the head of {readme} cannot be read ({shortened(str(error), 200)}): {remedy}"
    if configuration in names:
        return None
    there = f"has only {shortened(', '.join(names))}" if names else "is missing"
    return f"`configs:` of {readme} {there}, not {configuration}: {remedy}"
