"""`sparsepo doctor`: which parts of the system work on this machine, and why the others do not."""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Sequence

import torch

from sparsepo_dist.commands.entry import guarded, say
from sparsepo_dist.ops.backend import choose_backend

PACKAGES = ("torch", "deepspeed", "transformers", "peft", "bitsandbytes")
OPTIONAL = ("flash_attn", "vaderSentiment", "lm_eval", "wandb", "trl")


def diagnose() -> dict[str, str]:
    """Name of a part to what was found of it."""
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"CPU, {len(os.sched_getaffinity(0))} cores"
    findings = {name: _version(name) for name in PACKAGES}
    findings["device"] = device
    for dtype in (torch.float32, torch.bfloat16):
        kernels, reason = choose_backend("auto", "cuda" if cuda else "cpu", dtype)
        findings[f"token_stats {str(dtype).removeprefix('torch.')}"] = f"{kernels.name} ({reason})"
    for tool in ("g++", "nvcc", "ninja"):
        findings[tool] = shutil.which(tool) or "not found"
    for name in OPTIONAL:
        findings[name] = "installed" if importlib.util.find_spec(name) else "not installed (optional)"
    return findings


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    argparse.ArgumentParser(prog="sparsepo doctor", description="Say what this machine can run, and why.").parse_args(
        arguments
    )
    return guarded(lambda: say("\n".join(f"{name:<22} {finding}" for name, finding in diagnose().items())))
