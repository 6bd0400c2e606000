"""PART=build: the packages, the card, and the extension built for it."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import time

from benchmarks.gpu_day.checks import Check, Day, Facts, FailedError, LeftOutError

NEEDED = {
    "torch": "torch", "transformers": "transformers", "peft": "peft", "deepspeed": "deepspeed", "datasets": "datasets",
    "jsonargparse": "jsonargparse", "pydantic": "pydantic", "safetensors": "safetensors", "accelerate": "accelerate",
    "yaml": "pyyaml", "pytest": "pytest", "tensorboard": "tensorboard", "matplotlib": "matplotlib",
}  # fmt: skip
"""Module to the distribution that brings it."""
OPTIONAL = ("triton", "bitsandbytes", "trl", "flash_attn")


def install(day: Day) -> list[str]:
    """Install each carried wheel whose distribution is missing; those that were.

    A wheel of what is there already is passed over: the machine's torch is built for its card.

    Raises:
        FailedError: pip refused.
    """
    wheels = sorted(day.wheels.glob("*.whl")) if day.wheels is not None else []
    missing = [wheel for wheel in wheels if not _is_installed(wheel.name.split("-")[0])]
    if missing:
        day.python("-m", "pip", "install", "--quiet", "--no-index", "--no-deps", *missing)
        importlib.invalidate_caches()
    return [wheel.name for wheel in missing]


def packages(day: Day) -> Facts:
    """Every package that training needs, carried wheels installed where one was missing."""
    facts: Facts = {"installed now": install(day)}
    for name in (*NEEDED, *OPTIONAL):
        there = importlib.util.find_spec(name) is not None
        facts[name] = _version(NEEDED.get(name, name)) if there else "missing"
    missing = [NEEDED[name] for name in NEEDED if facts[name] == "missing"]
    if missing:
        raise FailedError(f"missing, and no wheel was carried: {', '.join(missing)} (make gpu-wheels)", facts)
    return facts


def card(day: Day) -> Facts:
    """The GPU as torch sees it, and the compiler for it."""
    if day.rehearsed:
        raise LeftOutError("a rehearsal has no card")
    import torch

    if not torch.cuda.is_available():
        raise FailedError(f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU")
    about = torch.cuda.get_device_properties(0)
    nvcc = shutil.which("nvcc")
    return {
        "name": about.name, "capability": f"{about.major}.{about.minor}", "GiB": about.total_memory / 2**30,
        "multiprocessors": about.multi_processor_count, "count": torch.cuda.device_count(),
        "nvcc": "not found" if nvcc is None else day.run(nvcc, "--version").strip().splitlines()[-1],
        "driver": day.run("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").strip(),
    }  # fmt: skip


def extension(day: Day) -> Facts:
    """The kernels, built at first use."""
    load = "load_cpp" if day.rehearsed else "load_cuda"
    began = time.monotonic()
    said = day.python(
        "-c", f"from sparsepo_dist.ops.compiled import {load}; loaded = {load}(); print(loaded.usable, loaded.reason)"
    )
    usable, _, reason = said.strip().splitlines()[-1].partition(" ")
    facts = {"seconds": time.monotonic() - began, "reason": reason}
    if usable != "True":
        raise FailedError(reason, facts)
    return facts


def doctor(day: Day) -> Facts:
    """`sparsepo doctor` names the compiled kernels."""
    said = day.python("-m", "sparsepo_dist.commands.main", "doctor")
    facts = dict(re.findall(r"^(\S+(?: \S+)?) {2,}(.+)$", said, re.MULTILINE))
    wanted = "cpp" if day.rehearsed else "cuda"
    wrong = [name for name, found in facts.items() if name.startswith("token_stats") and not found.startswith(wanted)]
    if wrong or "token_stats float32" not in facts:
        raise FailedError(f"not {wanted}: {', '.join(wrong) or said[-500:]}", facts)
    return facts


def _is_installed(distribution: str) -> bool:
    return _version(distribution) != "missing"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


PACKAGES = Check("packages", packages)
CHECKS = (
    PACKAGES, Check("the card", card), Check("the extension", extension), Check("doctor", doctor),
)  # fmt: skip
