"""A pretended machine is what it says (tests/support/pretended.py), here and in the hearth's forks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sparsepo_dist.engines.deepspeed.ds_config import has_bf16
from tests.support.pretended import SLURM, VARIABLE, pretend, pretended
from tests.support.warm import hearth, warm

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a test everything is as the session's own pretence has it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", torch.cpu.get_capabilities)
    for variable in ("PATH", "CC", "CXX", "CUDACXX", "CUDA_HOME", "CUDA_PATH", "NVCC_PREPEND_FLAGS"):
        monkeypatch.setenv(variable, os.environ.get(variable, "here"))


def machine_with(folder: Path, *programs: str) -> None:
    """All that is on PATH; each says its name."""
    folder.mkdir()
    for name in programs:
        (folder / name).write_text(f"#!/bin/sh\necho {name}\n")
        (folder / name).chmod(0o755)
    os.environ["PATH"] = str(folder)


@pytest.mark.parametrize("word", ["bf16", "no-bf16"])
def test_the_processor(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": word != "bf16", "l1d_cache_size": 7})
    monkeypatch.setenv(VARIABLE, word)
    pretend()()
    assert has_bf16(CPU) is (word == "bf16")
    assert torch.cpu.get_capabilities()["l1d_cache_size"] == 7


def test_forks_of_the_hearth_believe_it_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    word = "no-bf16" if has_bf16(CPU) else "bf16"  # what is not so without it
    script = tmp_path / "asks.py"
    script.write_text(
        "import torch\nfrom sparsepo_dist.engines.deepspeed.ds_config import has_bf16\n"
        "print(has_bf16(torch.device('cpu')))\n"
    )
    monkeypatch.setenv(VARIABLE, word)
    environment = {**os.environ, **hearth.__wrapped__(), "OMP_NUM_THREADS": "1"}
    said = subprocess.run(warm(str(script)), cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert said.stdout.strip() == str(word == "bf16")


def test_slurms_commands_are_there_and_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "slurm")
    clean = pretend()
    for name in SLURM:
        done = subprocess.run([name, "--asked"], capture_output=True, text=True, check=False)
        assert done.returncode == 99 and f"{name} was called: --asked" in done.stderr
    clean()
    assert not Path(os.environ["PATH"].split(os.pathsep)[0]).exists()


def test_slurm_and_compilers_are_gone_and_all_else_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compilers = ("cc", "c++", "gcc", "g++-12", "x86_64-linux-gnu-gcc-12", "clang", "clang++-19", "nvcc", "c99-gcc")
    others = ("gcc-ar", "c++filt", "ccache", "clangd", "srunner", "sh")
    machine_with(tmp_path / "bin", *SLURM, *compilers, *others)
    machine_with(tmp_path / "own", "python")
    monkeypatch.setenv("PATH", os.pathsep.join(str(tmp_path / name) for name in ("own", "bin", "nowhere", "bin")))
    monkeypatch.setenv(VARIABLE, "no-slurm, no-compiler")
    clean = pretend()
    assert not [name for name in (*SLURM, *compilers) if shutil.which(name)]
    assert "CXX" not in os.environ and "CUDA_HOME" not in os.environ
    assert shutil.which("python") == str(tmp_path / "own" / "python"), "a folder that holds none is left as it is"
    assert subprocess.run(["ccache"], capture_output=True, text=True, check=True).stdout == "ccache\n"
    assert all(shutil.which(name) for name in others) and len(os.environ["PATH"].split(os.pathsep)) == 2
    clean()
    assert not shutil.which("ccache")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("bf61", "unknown bf61; known are bf16, no-bf16, slurm, no-slurm, no-compiler"),
        ("slurm,no-slurm", "both slurm and no-slurm"),
    ],
)
def test_what_cannot_be_pretended_is_refused(monkeypatch: pytest.MonkeyPatch, words: str, message: str) -> None:
    monkeypatch.setenv(VARIABLE, words)
    with pytest.raises(ValueError, match=message):
        pretended()
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR and message in done.stderr and "Traceback" not in done.stderr
