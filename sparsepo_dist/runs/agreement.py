"""Ranks join, and compare what they must agree on before any of them builds an engine: another file or option on one
machine would train on in silence, or never end."""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sparsepo_dist.data.tokens.keys import tokenizer_fingerprint
from sparsepo_dist.engines.decoder.identity import model_fingerprint
from sparsepo_dist.engines.deepspeed import distributed
from sparsepo_dist.errors import UserError, shortened
from sparsepo_dist.files import leaves
from sparsepo_dist.runs.inputs import FROZEN, Inputs
from sparsepo_dist.training.supervision.endings import Endings
from sparsepo_dist.training.supervision.failures import failures_explained
from sparsepo_dist.training.supervision.progress import Progress
from sparsepo_dist.training.supervision.watchdog import Watchdog

# Compared by what they hold: each machine may keep its own copy.
_BY_CONTENT = (
    "ds_config", "output_dir", "data.train", "data.heldout", "data.date", "data.cache", "data.workers",
    "model.path", "model.adapter_path",
    "reference.path", "reference.adapter_path", "reference.cache", "oracle.path",
    "oracle_against.path",
)  # fmt: skip
_PACKAGES = ("torch", "deepspeed", "transformers", "peft", "tokenizers", "accelerate", "bitsandbytes")
_PACKAGE = Path(__file__).resolve().parents[1]
_MOST_NAMED = 8
_runs = itertools.count()  # of this process, which may train several in turn among the same ranks


@contextmanager
def joined(inputs: Inputs, described: Mapping[str, Any], progress: Progress) -> Iterator[Watchdog]:
    """Join the other ranks and hold this one's run against theirs; open, a watchdog sees to it that the work moves.

    Every rank must call this.

    Args:
        described: the run's identity, as a checkpoint would have it.
        progress: what the watchdog looks at.

    Raises:
        UserError: ranks disagree.
        RankError: another rank is lost, or a file cannot be read or written, while this is open.
        HandedOnError: another rank ended first, and said why.
    """
    minutes = inputs.config.training.hang_minutes
    with Watchdog(progress, 60 * minutes) as watchdog:
        progress.at("joining the other ranks")
        distributed.initialise(hang_minutes=minutes)
        endings = Endings(
            distributed.own_store(), f"sparsepo/run-{next(_runs)}", distributed.rank(), distributed.world_size(),
            holds_store=distributed.holds_store(),
        )  # fmt: skip
        watchdog.joined(endings)
        with failures_explained(progress, endings):
            progress.at("comparing what ranks must agree on")
            distributed.learn_hosts()
            check_agreement(inputs, described)
            yield watchdog


def check_agreement(inputs: Inputs, described: Mapping[str, Any]) -> None:
    """Hold this rank's run against the others'. Every rank must call this, first of all after it has joined.

    Args:
        described: the run's identity, as a checkpoint would have it.

    Raises:
        UserError: on every rank: each field that differs, with its values, ranks and hosts.
    """
    told = distributed.of_all_ranks(facts(inputs, described))
    names = list(dict.fromkeys(name for one in told for name in one))
    differing = [text for name in names if (text := _difference(name, [one.get(name) for one in told])) is not None]
    if differing:
        more = f"; and {len(differing) - _MOST_NAMED} more" if len(differing) > _MOST_NAMED else ""
        raise UserError(
            f"ranks disagree: {'; '.join(differing[:_MOST_NAMED])}{more}. Start all ranks with the same command, files "
            "and environment"
        )


def facts(inputs: Inputs, described: Mapping[str, Any]) -> dict[str, str]:
    """Everything that must be the same on all ranks: name to value, or to a digest of what is long."""
    config = {name: str(value) for name, value in leaves(described["config"]) if name not in _BY_CONTENT}
    ds_config = {f"ds_config {name}": str(value) for name, value in leaves(inputs.ds_config)}
    data = {
        f"data.{part}": f"{len(getattr(inputs, part))} pairs ({digest[:12]})"
        for part, digest in described["data"].items()
    }
    return {
        "number of ranks": str(distributed.world_size()), **config, **ds_config, **data,
        **{f"{name} (contents)": value for name, value in _models(inputs).items()},
        "tokenizer": tokenizer_fingerprint(inputs.tokenizer)[:12],
        "device": inputs.device.type, "dtype": str(inputs.dtype), **_software(),
    }  # fmt: skip


def _models(inputs: Inputs) -> dict[str, str]:
    config, found = inputs.config, {}
    for role in ("model", *FROZEN):
        path = getattr(config, role).path
        if path is not None:
            found[f"{role}.path"] = model_fingerprint(path, inputs.frozen_configs.get(role, inputs.model_config))[:12]
    for role in ("model", "reference"):
        adapter = getattr(config, role).adapter_path
        if adapter is not None:
            found[f"{role}.adapter_path"] = model_fingerprint(adapter, inputs.model_config)[:12]
    if inputs.cache is not None:
        found["reference.cache"] = hashlib.sha256(repr(inputs.cache.key).encode()).hexdigest()[:12]
    return found


def _software() -> dict[str, str]:
    """Versions of packages, and of this one's own files: a checkout has one version for many states."""
    digest = hashlib.sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        digest.update(file.read_bytes())
    return {
        "version of sparsepo_dist": f"{importlib.metadata.version('sparsepo_dist')} ({digest.hexdigest()[:12]})",
        **{f"version of {name}": importlib.metadata.version(name) for name in _PACKAGES},
    }


def _difference(name: str, values: list[str | None]) -> str | None:
    """Which ranks have which value; None where all have one."""
    groups: dict[str | None, list[int]] = {}
    for number, value in enumerate(values):
        groups.setdefault(value, []).append(number)
    if len(groups) == 1:
        return None
    shown = [
        f"{'not there' if value is None else shortened(value)} on {distributed.named(numbers)}"
        for value, numbers in groups.items()
    ]
    return f"{name} is {', '.join(shown)}"
