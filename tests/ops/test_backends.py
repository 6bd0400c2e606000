"""How backends are found, built, chosen and reported; the C++ kernels under sanitizers."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from sparsepo_dist.commands import doctor
from sparsepo_dist.errors import UserError
from sparsepo_dist.ops import OpsConfig, backend, compiled, token_stats
from tests.support.head import backend_config, has_instruction_set, inputs

ROOT = Path(__file__).resolve().parents[2]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """As in a process that has not looked for kernels yet, on a machine that has none built."""
    monkeypatch.setattr(compiled, "_built_library", lambda *_: None)
    cached = (backend.choose_backend, backend._warn, compiled.load_cpp)
    for function in cached:
        function.cache_clear()
    yield monkeypatch
    for function in cached:
        function.cache_clear()


def test_without_a_compiler_auto_warns_once_and_runs_eagerly(
    fresh_choice: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fresh_choice.setenv("CXX", "no-such-compiler")
    with caplog.at_level(logging.WARNING):
        for dtype in (torch.float32, torch.bfloat16, torch.float32):
            stats = token_stats(**inputs(dtype), divergence="policy")
    assert stats.divergence.isfinite().all()
    assert [r.message for r in caplog.records if "plain PyTorch" in r.message] == [caplog.records[0].message]
    assert "no-such-compiler" in caplog.records[0].message


def test_a_library_that_does_not_load_is_replaced_or_named(fresh_choice: pytest.MonkeyPatch, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.so"
    damaged.write_bytes(b"half a file")
    fresh_choice.setattr(compiled, "_built_library", lambda *_: damaged)
    fresh_choice.setenv("CXX", "no-such-compiler -m64")
    with pytest.raises(UserError, match=r"damaged\.so of the installation does not load .*no-such-compiler"):
        token_stats(**inputs(torch.float32), divergence="policy", config=OpsConfig("cpp"))


@pytest.mark.slow
def test_any_installation_brings_the_sources_for_a_build_at_first_use(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-build-isolation", "--no-deps", "--wheel-dir", tmp_path]
    subprocess.run(
        [*map(str, command)], cwd=ROOT, env={**os.environ, "CXX": "no-such-compiler"}, check=True, capture_output=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    held = {Path(name).name for name in zipfile.ZipFile(wheel).namelist() if "share/sparsepo_dist/csrc/" in name}
    assert held == {path.name for path in (ROOT / "csrc").iterdir()}


def test_installation_and_first_use_compile_alike() -> None:
    setup = (ROOT / "setup.py").read_text()
    for flag in compiled.CPU_FLAGS:
        assert f'"{flag}"' in setup, flag
    for source in compiled.CPU_SOURCES:
        assert f'"csrc/{source}"' in setup, source


def test_without_a_compiler_a_named_backend_is_refused_with_the_reason(fresh_choice: pytest.MonkeyPatch) -> None:
    fresh_choice.setenv("CXX", "no-such-compiler")
    with pytest.raises(UserError, match=r"ops\.backend cpp: .*no-such-compiler"):
        token_stats(**inputs(torch.float32), divergence="policy", config=OpsConfig("cpp"))


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [("cuda", torch.float32, "on cuda, not torch.float32 on cpu"), ("cpp", torch.float64, "not torch.float64")],
)
def test_a_backend_that_cannot_take_the_input_is_refused(name: str, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(UserError, match=message):
        token_stats(**inputs(dtype), divergence="policy", config=OpsConfig(name))


def test_a_processor_without_an_instruction_set_is_told_so() -> None:
    backend_config("portable")
    with pytest.raises(RuntimeError, match="has no sse1 kernels"):
        torch.ops.sparsepo_kernels.use_instruction_set("sse1")


@pytest.mark.skipif(not has_instruction_set("avx2"), reason="no AVX2 here")
def test_the_fastest_instruction_set_is_taken_by_itself() -> None:
    torch.ops.sparsepo_kernels.use_instruction_set("")
    assert torch.ops.sparsepo_kernels.instruction_set() in ("avx2", "avx512")


def test_kernels_run_on_as_many_threads_as_torch() -> None:
    backend_config("portable")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert torch.ops.sparsepo_kernels.threads() == 2
    finally:
        torch.set_num_threads(before)


def test_doctor_names_backend_instruction_set_and_reason() -> None:
    for dtype in ("float32", "bfloat16"):
        finding = dict(doctor.diagnose())[f"token_stats {dtype}"]
        assert finding.startswith("cpp (built at ") and "threads" in finding, finding


def test_doctor_says_why_the_compiled_kernels_are_not_used(fresh_choice: pytest.MonkeyPatch) -> None:
    fresh_choice.setenv("CXX", "no-such-compiler")
    assert dict(doctor.diagnose())["token_stats float32"].startswith(
        "eager (not built at installation, and there is no compiler"
    )


def test_doctor_reports_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PACKAGES", ("torch", "no-such-package"))
    assert dict(doctor.diagnose())["no-such-package"] == "not installed"


@needs_compiler
@pytest.mark.slow
def test_kernels_are_built_at_first_use(tmp_path: Path) -> None:
    """As after an installation that saw no compiler, in a process of its own."""
    script = tmp_path / "first_use.py"
    script.write_text(
        "from sparsepo_dist.ops import compiled\n"
        "compiled._built_library = lambda *_: None\n"
        "from tests.support.head import inputs\n"
        "import torch\n"
        "from sparsepo_dist.ops import OpsConfig, token_stats\n"
        "x = inputs(torch.float32)\n"
        "found = [token_stats(**x, divergence='policy', config=OpsConfig(b)).divergence for b in ('cpp', 'eager')]\n"
        "torch.testing.assert_close(*found)\n"
        "print(compiled.load_cpp().reason)\n"
    )
    binaries = str(Path(sys.executable).parent)  # ninja is there
    done = subprocess.run(
        [sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"),
             "PATH": os.pathsep.join((binaries, os.environ["PATH"]))},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("built at first use"), done.stdout


@needs_compiler
@pytest.mark.slow
def test_kernels_are_clean_under_address_and_undefined_behaviour_sanitizers(tmp_path: Path) -> None:
    program = tmp_path / "masked_kl_test"
    sources = [str(ROOT / "csrc" / name) for name in ("masked_kl_cpu.cpp", "masked_kl_test.cpp")]
    flags = ["-std=c++17", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(["g++", *flags, *sources, "-o", str(program)], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable, bfloat16: largest error" in done.stdout
