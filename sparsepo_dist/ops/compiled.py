"""The compiled kernels: found where the installation built them, else built at first use, else a reason why not."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import sys
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import cpp_extension

from sparsepo_dist.ops.kernels import Divergence, Tile, Upstream, form_of

log = logging.getLogger(__name__)

_FOLDERS = (Path(__file__).resolve().parents[2] / "csrc", Path(sys.prefix) / "share" / "sparsepo_dist" / "csrc")
SOURCES = next((folder for folder in _FOLDERS if folder.is_dir()), _FOLDERS[0])
"""In a checkout; in any other installation, where setup.py puts them."""
CPU_SOURCES = ("masked_kl_cpu.cpp", "binding_cpu.cpp")
CUDA_SOURCES = ("masked_kl_cuda.cu", "binding_cuda.cpp")
# Without OpenMP at::parallel_for is one thread, silently. GCC 12 warns inside its own AVX-512 header.
CPU_FLAGS = ("-O3", "-fopenmp", "-Wno-uninitialized", "-Wno-maybe-uninitialized")
CUDA_FLAGS = ("-O3", "-ftz=true")  # denormals would cost four instructions an exponential


class Loaded(NamedTuple):
    """Whether a compiled backend can be used here, and why (not)."""

    usable: bool
    reason: str


class CompiledKernels:
    """TileKernels of csrc/, called through torch's dispatcher: the logits' device decides which."""

    def __init__(self, name: str) -> None:
        self.name = name

    def forward(self, tile: Tile, divergence: Divergence | None, state: Tensor, *, squares: bool = False) -> None:
        torch.ops.sparsepo_kernels.tile_forward(*tile, *form_of(divergence), squares, state)

    def backward(
        self, tile: Tile, divergence: Divergence | None, state: Tensor, upstream: Upstream, out: Tensor
    ) -> None:
        torch.ops.sparsepo_kernels.tile_backward(*tile, *form_of(divergence), state, *upstream, out)


@cache
def load_cpp() -> Loaded:
    """Make the CPU kernels callable, once per process; what fails is told in the answer, not raised."""
    missing = "not built at installation"
    built = _built_library("_kernels_cpu", CPU_SOURCES)
    if built is not None:
        try:
            torch.ops.load_library(str(built))
            return Loaded(True, f"built at installation, {_capabilities()}")
        except OSError as error:  # of another torch, or half a file
            missing = f"{built.name} of the installation does not load ({error})"
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(shlex.split(compiler)[0]) is None:
        return Loaded(False, f"{missing}, and there is no compiler ({compiler}) here")
    try:
        _build("sparsepo_kernels_cpu", CPU_SOURCES, extra_cflags=list(CPU_FLAGS), extra_ldflags=["-fopenmp"])
    except (RuntimeError, OSError) as error:
        return Loaded(False, f"{missing}, and the build failed: {error}")
    return Loaded(True, f"built at first use, {_capabilities()}")


@cache
def load_cuda() -> Loaded:
    """Make the CUDA kernels callable, once per process; what fails is told in the answer, not raised."""
    if not torch.cuda.is_available():
        return Loaded(False, "torch sees no CUDA device")
    if cpp_extension.CUDA_HOME is None:
        return Loaded(False, "no CUDA toolkit (nvcc) to build the kernels with")
    cpp = load_cpp()  # declares the operators
    if not cpp.usable:
        return cpp
    try:
        _build("sparsepo_kernels_cuda", CUDA_SOURCES, extra_cuda_cflags=list(CUDA_FLAGS))
    except (RuntimeError, OSError) as error:
        return Loaded(False, f"the build failed: {error}")
    return Loaded(True, "built at first use")


def _build(name: str, sources: tuple[str, ...], **flags: Any) -> None:
    if not SOURCES.is_dir():
        raise OSError(f"there are no sources in {SOURCES}")
    log.warning("building %s, once; this takes half a minute", name)
    cpp_extension.load(name, [str(SOURCES / source) for source in sources], is_python_module=False, **flags)


def _built_library(name: str, sources: tuple[str, ...]) -> Path | None:
    """The installation's library for this Python, unless a source is newer than it."""
    library = Path(__file__).with_name(name + str(sysconfig.get_config_var("EXT_SUFFIX")))
    if not library.is_file():
        return None
    parts = [SOURCES / source for source in sources] + [p for p in SOURCES.glob("*") if p.suffix in (".h", ".inc")]
    changed = [part.stat().st_mtime for part in parts if part.is_file()]
    return library if library.stat().st_mtime >= max(changed, default=0.0) else None


def _capabilities() -> str:
    kernels = torch.ops.sparsepo_kernels
    return f"{kernels.instruction_set()}, {kernels.threads()} threads"
