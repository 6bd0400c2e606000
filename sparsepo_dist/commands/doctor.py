"""`sparsepo doctor`: which parts of the system work on this machine, and why the others do not; which layouts compute a
model rightly."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Iterator, Sequence

from sparsepo_dist.commands.entry import answered, guarded, say
from sparsepo_dist.files import argument

PACKAGES = ("torch", "deepspeed", "transformers", "peft", "bitsandbytes")
OPTIONAL = ("flash_attn", "vaderSentiment", "lm_eval", "wandb", "trl")


def diagnose() -> Iterator[tuple[str, str]]:
    """Name of a part and what was found of it, as it is found: what torch has to be loaded for comes last."""
    for name in PACKAGES:
        yield name, _version(name)
    for tool in ("g++", "nvcc", "ninja"):
        yield tool, shutil.which(tool) or "not found"
    for name in OPTIONAL:
        yield name, "installed" if importlib.util.find_spec(name) else "not installed (optional)"
    import torch

    from sparsepo_dist.ops.backend import choose_backend

    cuda = torch.cuda.is_available()
    yield "device", torch.cuda.get_device_name() if cuda else f"CPU, {len(os.sched_getaffinity(0))} cores"
    for dtype in (torch.float32, torch.bfloat16):
        kernels, reason = choose_backend("auto", "cuda" if cuda else "cpu", dtype)
        yield f"token_stats {str(dtype).removeprefix('torch.')}", f"{kernels.name} ({reason})"


def _say_findings() -> None:
    for name, finding in diagnose():
        say(f"{name:<22} {finding}")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def examined(path: str, *, trust_remote_code: bool) -> tuple[str, bool]:
    """What a miniature of a model gives in each layout, as a table; whether it is right in the one that is the default.

    Raises:
        UserError: there is no configuration of a decoder.
    """
    from sparsepo_dist.data.config import DataConfig
    from sparsepo_dist.engines.decoder.configuration import load_config
    from sparsepo_dist.engines.layouts.choice import ModelKind, layout_of
    from sparsepo_dist.engines.reference.trial import try_layouts

    config = load_config(path, trust_remote_code=trust_remote_code)
    default = layout_of("auto", {"model.path": ModelKind.of(config)}, DataConfig().max_length).layout
    trials = try_layouts(config, trust_remote_code=trust_remote_code)
    lines = [f"{config.model_type}, a few narrow layers with random weights, fp32 on the CPU, beside itself run alone:"]
    for trial in trials:
        word = "right" if trial.right else "WRONG"
        found = trial.refusal if trial.difference is None else f"{word}, {trial.difference:.2g} nats a token from it"
        lines.append(f"{trial.layout:<15} {found}{' (the default)' if trial.layout == default else ''}")
    return "\n".join(lines), any(trial.right for trial in trials if trial.layout == default)


def _examine(path: str, *, trust_remote_code: bool) -> bool:
    text, right = examined(path, trust_remote_code=trust_remote_code)
    say(text)
    return right


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 where a model was named and the default layout computes it wrongly, or not at all."""
    parser = argparse.ArgumentParser(
        prog="sparsepo doctor", description="Say what this machine can run, and why; or which layouts are right."
    )
    parser.add_argument(
        "--model.path", dest="path", type=argument,
        help="folder or hub id of a model: try each layout on a miniature of it; of its files only config.json is read",
    )  # fmt: skip
    parser.add_argument(
        "--model.trust_remote_code", dest="trust", choices=("true", "false"), default="false",
        help="let it run its own Python code",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if given.path is None:
        return guarded(_say_findings)
    return answered(lambda: _examine(given.path, trust_remote_code=given.trust == "true"))
