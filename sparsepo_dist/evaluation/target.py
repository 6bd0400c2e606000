"""What is evaluated: a model folder, an adapter's, a run's, or a hub id."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import NamedTuple

from sparsepo_dist.disk import sha256
from sparsepo_dist.errors import UserError
from sparsepo_dist.files import read_json

log = logging.getLogger(__name__)

FINAL = "final"
_ADAPTER = "adapter_config.json"
_WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "config.json", _ADAPTER)


class Target(NamedTuple):
    """A model as evaluation drivers load it."""

    name: str
    """How tables call it."""
    model: str
    """Absolute model folder, or a hub id."""
    adapter: str | None = None
    """Absolute folder of a peft adapter on it."""

    @property
    def sha256(self) -> str | None:
        """Of the configuration and weights of model and adapter, by file name; None for a hub id."""
        if not Path(self.model).is_dir():
            return None
        digest = hashlib.sha256()
        for folder in filter(None, (self.model, self.adapter)):
            files = {path for pattern in _WEIGHTS for path in Path(folder).glob(pattern)}
            for path in sorted(files):
                digest.update(f"{path.name} {sha256(path)}\n".encode())
        return digest.hexdigest()

    @property
    def fingerprint(self) -> str:
        """Fit for names of files: of the weights, for a hub id of its name. It reads all weights."""
        return hashlib.sha256((self.sha256 or self.model).encode()).hexdigest()[:16]


def target(path: str, *, base: str | None = None, name: str | None = None) -> Target:
    """What a person names with --model: a run's folder means the model it ended with.

    Args:
        base: the model that an adapter belongs on, where it is no longer where the adapter says.
        name: how tables call it; by default its folder's name, the run's for a run.

    Raises:
        UserError: the folder holds no finished model, or an adapter whose model is unknown.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists() or path.startswith((".", "/", "~")):
            raise UserError(f"--model: there is no folder {path}")
        return Target(name or path, path)
    folder = folder.resolve()
    shown = name or (folder.parent.name if folder.name == FINAL else folder.name)
    if (folder / "metrics.jsonl").is_file() or (folder / FINAL).is_dir():
        folder = folder / FINAL
    if (folder / _ADAPTER).is_file():
        return Target(shown, _base_of(folder, base), str(folder))
    if (folder / "config.json").is_file():
        return Target(shown, str(folder))
    if folder.name == FINAL and (folder.parent / "metrics.jsonl").is_file():
        raise UserError(
            f"--model: the run {folder.parent} has not ended: there is no model in {FINAL}/ yet; `evaluation/jobs.py "
            "watch` evaluates its checkpoints"
        )
    raise UserError(f"--model: {path} holds neither a model (config.json) nor an adapter ({_ADAPTER})")


def _base_of(adapter: Path, given: str | None) -> str:
    try:
        named = read_json(adapter / _ADAPTER).get("base_model_name_or_path")
        if not isinstance(named, str | None):
            raise TypeError(f"base_model_name_or_path is {named!r}")
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(f"--model: {adapter / _ADAPTER} cannot be read: {error}") from None
    base = given or named
    if given:
        _warn_of_another_base(adapter, named, given)
    if not base:
        raise UserError(f"--model: {adapter} does not say which model it belongs on; name it with --base")
    if Path(base).is_dir():
        return str(Path(base).resolve())
    if str(base).startswith((".", "/", "~")):
        raise UserError(f"--model: the adapter {adapter} belongs on {base}, which is not there; name it with --base")
    return str(base)


def _warn_of_another_base(adapter: Path, named: str | None, given: str) -> None:
    # Imported where they are needed: both bring torch, which a driver may not have asked for yet.
    from sparsepo_dist.engines.adapters.files import other_base
    from sparsepo_dist.engines.deepspeed.ranks import rank

    sentence = other_base(str(adapter), named, given, "--model")
    if sentence is not None and rank() == 0:
        log.warning("%s", sentence)
