"""A machine that is not this one, as far as tests can tell: `PRETEND=bf16,slurm pytest ...`.

- bf16, no-bf16: whether the processor multiplies bfloat16, in pytest's process and in every fork of the hearth;
- slurm, no-slurm: Slurm's commands are on PATH, and fail when they are called; or they are not on PATH;
- no-compiler: no C, C++ or CUDA compiler is on PATH, and no variable names one.

What Python starts anew, as the console command, hears of PATH and not of the processor.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

VARIABLE = "PRETEND"
WORDS = ("bf16", "no-bf16", "slurm", "no-slurm", "no-compiler")
SLURM = ("srun", "sbatch", "sacct", "scancel", "squeue", "scontrol", "sinfo")
_SLURM = re.compile("|".join(SLURM))
# With a target before it and a version behind it, as in x86_64-linux-gnu-g++-12; gcc-ar and its like compile nothing.
_COMPILERS = re.compile(r"(?:.+-)?(?:cc|gcc|clang|c\+\+|g\+\+|clang\+\+|nvcc)(?:-[\d.]+)?|c[89]9(?:-gcc)?|icp?x")
_COMPILER_VARIABLES = ("CC", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "NVCC_PREPEND_FLAGS")


def pretend() -> Callable[[], None]:
    """Make this process and what it starts believe what the variable says; the function that removes its files.

    Raises:
        ValueError: an unknown word, or a word and its opposite.
    """
    words = pretended()
    # Removed by hand: a TemporaryDirectory would also go when a fork of this process ends.
    folder = Path(tempfile.mkdtemp(prefix="pretended-"))
    hidden = [names for word, names in (("no-slurm", _SLURM), ("no-compiler", _COMPILERS)) if word in words]
    if hidden:
        os.environ["PATH"] = _path_without(hidden, folder)
    if "no-compiler" in words:
        for variable in _COMPILER_VARIABLES:
            os.environ.pop(variable, None)
    if "slurm" in words:
        os.environ["PATH"] = os.pathsep.join((_stand_ins(folder / "slurm"), os.environ["PATH"]))
    pretend_processor()
    return partial(shutil.rmtree, folder)


def pretended() -> set[str]:
    """The words of the variable."""
    words = {word.strip() for word in os.environ.get(VARIABLE, "").split(",")} - {""}
    unknown = sorted(words.difference(WORDS))
    if unknown:
        raise ValueError(f"{VARIABLE}: unknown {', '.join(unknown)}; known are {', '.join(WORDS)}")
    both = sorted(word for word in words if f"no-{word}" in words)
    if both:
        raise ValueError(f"{VARIABLE}: both {both[0]} and no-{both[0]}")
    return words


def pretend_processor() -> None:
    """The part that a process does not hand to those it starts: what torch says of the processor."""
    wanted = pretended() & {"bf16", "no-bf16"}
    if not wanted:
        return
    import torch

    capabilities = _capabilities(torch.cpu.get_capabilities(), "bf16" in wanted)
    torch.cpu.get_capabilities = lambda: capabilities  # type: ignore[assignment]


def _capabilities(found: Mapping[str, Any], bf16: bool) -> Mapping[str, Any]:
    """Another architecture's name for it says that it is there: torch's own compiler believes this architecture's."""
    if bf16:
        return MappingProxyType({**found, "avx512_bf16" if platform.machine() == "aarch64" else "bf16": True})
    return MappingProxyType({name: False if "bf16" in name else value for name, value in found.items()})


def _path_without(hidden: list[re.Pattern[str]], folder: Path) -> str:
    """PATH, with a folder of links to all other programs in the place of each that holds a hidden one."""
    places: dict[Path, str] = {}
    for place in os.environ["PATH"].split(os.pathsep):
        real = Path(place).resolve()
        if not place or not real.is_dir() or real in places:
            continue
        programs = {program.name: program for program in real.iterdir()}
        kept = {name: program for name, program in programs.items() if not any(h.fullmatch(name) for h in hidden)}
        # A folder that holds none stays what it is: a Python looks beside itself for its environment.
        places[real] = place
        if len(kept) < len(programs):
            places[real] = str(folder / f"path-{len(places)}")
            Path(places[real]).mkdir()
            for name, program in kept.items():
                Path(places[real], name).symlink_to(program)
    return os.pathsep.join(places.values())


def _stand_ins(folder: Path) -> str:
    """Commands that nobody may call: tests of Slurm bring a cluster of their own (tests/support/fake_slurm.py)."""
    folder.mkdir()
    for name in SLURM:
        (folder / name).write_text(f'#!/bin/sh\necho "{VARIABLE}=slurm: {name} was called: $*" >&2\nexit 99\n')
        (folder / name).chmod(0o755)
    return str(folder)
