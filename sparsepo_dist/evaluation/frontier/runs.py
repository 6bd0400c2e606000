"""What a run's own configuration says of its models: the method that trained them, and the reference."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from sparsepo_dist.builtin.smollm2 import smollm2_folder
from sparsepo_dist.engines.saving import TRAINED
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation.models import split_name
from sparsepo_dist.evaluation.target import FINAL, Target, target
from sparsepo_dist.files import read_json
from sparsepo_dist.runs.folder import EXPORTED
from sparsepo_dist.runs.inputs import BUILTIN_MODEL

log = logging.getLogger(__name__)

REFERENCE = "reference"


class Trained(NamedTuple):
    """A model and the method that trained it."""

    method: str
    target: Target
    step: int | None = None
    """Of its training, where it is a checkpoint's."""
    settings: dict[str, Any] | None = None
    """Objective and masks, where its training is known."""


class Training(NamedTuple):
    """What is known of the training that a model is of."""

    config: dict[str, Any]
    """The run's resolved configuration."""
    step: int | None

    @property
    def method(self) -> str:
        """The objective's name, and its masks where they are not its own; SparsePO's with how they are shared, which
        makes methods of their own in the paper."""
        name, masks = str(self.config["objective"]["name"]), self.config.get("masks") or {}
        kind = masks.get("kind", "auto")
        sources = kind if isinstance(kind, list) else [kind]
        own = (["auto"], ["learned"]) if name == "sparsepo" else (["auto"],)
        named = [] if sources in own else sources
        shared = name == "sparsepo" or {"learned", "random"} & set(named)
        return "-".join([name, *named, *([masks["sharing"]] if shared and "sharing" in masks else [])])

    @property
    def settings(self) -> dict[str, Any]:
        return {name: self.config[name] for name in ("objective", "masks") if name in self.config}


def trained_models(values: Sequence[str], *, base: str | None, exported: bool = False) -> list[Trained]:
    """What several `--model [METHOD=]PATH` mean; a run's folder and models in it know their method.

    Args:
        values: as they are given.
        base: the model that an adapter belongs on, where it is no longer where the adapter says.
        exported: before the model that each run ended with, those that it wrote on its way, by step.

    Raises:
        UserError: one is no model, its method is unknown, or a model is named twice.
    """
    found: list[Trained] = []
    with_exported = [word for value in values for word in (*(_exported(value) if exported else ()), value)]
    for value in with_exported:
        method, path = split_name(value)
        one = target(_built(path), base=base)
        training = training_of(path)
        if method is None and training is None:
            raise UserError(
                f"--model: {path} is in no run's folder and no exported checkpoint (there is no config.yaml and no "
                f"{TRAINED}), so that its method is unknown; name it, --model METHOD={path}"
            )
        if one in [other.target for other in found]:
            raise UserError(f"--model: {path} is named twice")
        if training is None:
            found.append(Trained(str(method), one))
        else:
            found.append(Trained(method or training.method, one, training.step, training.settings))
    return found


def _exported(value: str) -> list[str]:
    method, path = split_name(value)
    folder = Path(path)
    run = folder.parent if folder.name == FINAL else folder
    steps = sorted((run / EXPORTED).glob("step-*"))
    if not steps:
        log.warning("%s has no %s/: only the model that it ended with is measured", run, EXPORTED)
    return [f"{method}={step}" if method else str(step) for step in steps]


def shared_reference(values: Sequence[str], given: str | None, *, base: str | None) -> Target:
    """The model that KL is measured from: the one that is given, else the one that all runs were trained from.

    Raises:
        UserError: none is given and the runs do not name one, or not the same one.
    """
    if given is not None:
        return target(_built(given), base=base, name=REFERENCE)
    named = {}
    for value in values:
        path = split_name(value)[1]
        training = training_of(path)
        if training is None:
            raise UserError(f"--model: {path} is in no run's folder, which would name its reference; give --reference")
        named[_reference_of(training.config)] = path
    if len(named) > 1:
        told = ", ".join(f"{path} from {' + '.join(filter(None, of))}" for of, path in named.items())
        raise UserError(f"the runs were trained from different references ({told}); give the one to use, --reference")
    [(model, adapter)] = named
    try:
        return target(adapter or _built(model), base=_built(model) if adapter else None, name=REFERENCE)
    except UserError as error:
        raise UserError(f"the reference that the runs name cannot be used ({error}); give --reference") from None


def _built(path: str) -> str:
    return str(smollm2_folder()) if path == BUILTIN_MODEL else path


def training_of(path: str) -> Training | None:
    """The training of an exported checkpoint, or of the run that a folder is, or is in; None where it is of none.

    Raises:
        UserError: what is written of it cannot be read.
    """
    folder = Path(path).resolve()
    candidates = (folder / TRAINED, *(place / "config.yaml" for place in (folder, *folder.parents[:2])))
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        return None
    try:
        if file.name == TRAINED:
            found = read_json(file)
            training = Training(found["config"], int(found["step"]))
        else:
            training = Training(yaml.safe_load(file.read_text(encoding="utf-8")), None)
        config = training.config
        if not isinstance(config["objective"]["name"], str) or not isinstance(config["model"]["path"], str):
            raise TypeError("objective.name and model.path must be text")
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: not a run's configuration ({error})") from None
    return training


def _reference_of(config: dict[str, Any]) -> tuple[str, str | None]:
    """Model and adapter."""
    reference = config.get("reference") or {}
    return reference.get("path") or config["model"]["path"], reference.get("adapter_path")
