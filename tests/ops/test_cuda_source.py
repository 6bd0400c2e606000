"""The CUDA kernels without a GPU: nvcc compiles them well, and run on a CPU they compute what the formulas say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from torch.utils.cpp_extension import COMMON_NVCC_FLAGS, include_paths

from sparsepo_dist.ops.compiled import CUDA_FLAGS

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "csrc" / "masked_kl_cuda.cu"
SHIM = ROOT / "tests" / "support" / "cuda_on_cpu"
KERNELS = 84  # of three types, plain and mapped: five forward with squares and without, four backward
NVCC = shutil.which("nvcc")
CXX = shutil.which(os.environ.get("CXX") or "g++")
needs_nvcc = pytest.mark.skipif(
    NVCC is None or shutil.which("gcc") is None, reason="needs nvcc, and gcc, which it calls"
)
NVCC_FLAGS = (*CUDA_FLAGS, "-std=c++20", *COMMON_NVCC_FLAGS)
CXX_FLAGS = ("-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")
SANITIZERS = ("-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
RESOURCES = re.compile(
    r"Function properties for (?P<name>\S+)\n"
    r".*?(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads\n"
    r".*?Used (?P<registers>\d+) registers"
)


def execute(*command: str | Path) -> str:
    """What the command prints; it has to succeed."""
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}  # it cannot look for them everywhere
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, timeout=900, env=environment, check=False
    )
    assert done.returncode == 0, f"{command[0]} exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def readable(symbol: str) -> str:
    """A kernel's name, and what of its template arguments tells it from the others."""
    found = re.search(r"((?:for|back)ward)_kernelI(?:\d+(__\w+?)|f)LNS_4FormE(\d)E((?:Lb\dE)+)", symbol)
    assert found is not None, symbol
    direction, element, form, flags = found.groups()
    names = ("mapped",) if direction == "backward" else ("reference", "mapped", "squares")
    told = (f"{'' if flag == '1' else 'no '}{name}" for name, flag in zip(names, re.findall(r"\d", flags), strict=True))
    return f"{direction}<{element or 'float'}, form {form}, {', '.join(told)}>"


@needs_nvcc
@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_nvcc_spills_no_register_and_moves_16_bytes_at_a_time(arch: str, tmp_path: Path) -> None:
    keep = ("-keep", f"-keep-dir={tmp_path}")
    log = execute(str(NVCC), *NVCC_FLAGS, "-c", f"-arch={arch}", "-Xptxas=-v", *keep, SOURCE, "-o", tmp_path / "cu.o")
    kernels = {readable(found["name"]): found for found in RESOURCES.finditer(log)}
    lines = [
        f"{arch} {found['registers']} registers, {found['stores']} + {found['loads']} bytes spilled: {name}"
        for name, found in kernels.items()
    ]
    print(*lines, sep="\n")  # noqa: T201
    assert len(kernels) == KERNELS, log
    spilled = [name for name, found in kernels.items() if found["stores"] != "0" or found["loads"] != "0"]
    assert not spilled, "\n".join(lines)

    entries = (tmp_path / "masked_kl_cuda.ptx").read_text(encoding="utf-8").split(".entry ")[1:]
    assert len(entries) == KERNELS
    for entry in entries:
        name = readable(entry.split("(")[0])
        assert "ld.global.v4" in entry, f"{name} loads element by element"
        assert name.startswith("forward") or "st.global.wb.v4" in entry, f"{name} stores element by element"


@pytest.mark.skipif(CXX is None, reason="needs a C++ compiler")
@pytest.mark.parametrize(
    "flags", [pytest.param(("-O2",), id="plain"), pytest.param(SANITIZERS, id="sanitized", marks=pytest.mark.slow)]
)
def test_kernels_run_on_a_cpu_agree_with_the_formulas(flags: tuple[str, ...], tmp_path: Path) -> None:
    program = tmp_path / "cuda_check"
    includes = (f"-I{SHIM}", f"-I{SOURCE.parent}")
    execute(str(CXX), *CXX_FLAGS, *flags, *includes, "-x", "c++", SOURCE, SHIM / "cuda_check.cpp", "-o", program)
    print(execute(program))  # noqa: T201


def test_kernels_know_nothing_of_torch() -> None:
    for name in ("masked_kl_cuda.cu", "masked_kl_packs.cuh", "masked_kl_cuda.h", "masked_kl.h"):
        text = (SOURCE.parent / name).read_text(encoding="utf-8")
        included = re.findall(r'#include\s+[<"]([^>"]+)', text)
        assert not [header for header in included if re.match(r"(torch|ATen|c10|pybind11)\b", header)], name


@pytest.mark.slow
@needs_nvcc
def test_the_binding_compiles_against_torch_and_cuda_headers(tmp_path: Path) -> None:
    """Checked, not linked: a CPU build of torch ships its CUDA headers, all but one that its build writes."""
    written = tmp_path / "c10" / "cuda" / "impl" / "cuda_cmake_macros.h"
    written.parent.mkdir(parents=True)
    written.touch()
    includes = [f"-I{path}" for path in (*include_paths(), tmp_path)]
    execute(str(NVCC), "-std=c++20", "-Xcompiler=-fsyntax-only", "-c", *includes, SOURCE.parent / "binding_cuda.cpp")
