"""The whole way with real generation: lm-eval's tasks on a tiny model, and BigCode's harness where there is one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import ModuleType

import pytest

from sparsepo_dist.evaluation.code import command
from sparsepo_dist.evaluation.code.generation import Generation
from sparsepo_dist.evaluation.code.lm_eval_backend import LmEval
from sparsepo_dist.evaluation.target import target
from tests.evaluation.code.humaneval import MIRROR, needs_humaneval, problems
from tests.support.tiny import save_tiny_model

HARNESS = os.environ.get("SPARSEPO_BIGCODE_HARNESS")
MBPP_README = """---
configs:
- config_name: full
  data_files:
  - {split: train, path: full/train.parquet}
  - {split: test, path: full/test.parquet}
---
"""
MBPP_ROW = {
    "task_id": 11,
    "text": "Write a function to double a number.",
    "code": "def double(x):\n    return 2 * x",
    "test_list": ["assert double(1) == 2", "assert double(2) == 4", "assert double(0) == 0"],
    "test_setup_code": "",
    "challenge_test_list": [],
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("code") / "model", positions=2048)


def smoke(model: Path, output: Path, backend: str) -> list[str]:
    return ["--model", str(model), "--output", str(output), "--backend", backend, "--tasks", "humaneval",
            "--n_samples", "2", "--batch_size", "2", "--limit", "2", "--dtype", "float32",
            "--hub-mirror", str(MIRROR)]  # fmt: skip


@needs_humaneval
@pytest.mark.slow
def test_humaneval_by_lm_eval(model: Path, tmp_path: Path) -> None:
    options = [*smoke(model, tmp_path, "lm-eval"), "--max_length_generation", "8"]
    command.main([*options, "--allow_code_execution"], lambda _: None)
    record = json.loads((tmp_path / "generations" / "humaneval.json").read_text())
    assert record["versions"]["lm_eval"]
    for problem, row in zip(record["result"]["problems"], problems()[:2], strict=True):
        first, second = problem["programs"]
        assert first.startswith(row["prompt"]) and second.startswith(row["prompt"]) and first != second
        assert problem["tests"] == f"{row['test']}\ncheck({row['entry_point']})"
    result = json.loads((tmp_path / "humaneval.json").read_text())["result"]
    assert (result["problems"], sum(result["outcomes"].values()), result["pass@1"]) == (2, 4, 0.0)
    assert "| model | measured | 0.00 |" in (tmp_path / "code.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["lm-eval", "vllm"])
def test_mbpp_by_lm_eval(model: Path, tmp_path: Path, fake_vllm: ModuleType, backend: str) -> None:
    from datasets import Dataset

    folder = tmp_path / "google-research-datasets" / "mbpp"
    (folder / "full").mkdir(parents=True)
    (folder / "README.md").write_text(MBPP_README)
    for split in ("train", "test"):
        Dataset.from_list([MBPP_ROW] * 3).to_parquet(str(folder / "full" / f"{split}.parquet"))
    generation = Generation(backend, 3, 0.6, 0.95, 4, 1, 0, "float32")
    evaluator = LmEval(target(str(model)), generation, 3, tmp_path)
    (problem,) = evaluator.generate("mbpp")
    assert len(problem.programs) == 3 and problem.tests.splitlines() == MBPP_ROW["test_list"]
    assert not any("expert" in program for program in problem.programs)
    assert len(set(problem.programs)) > 1
    evaluator.generate("mbpp")
    assert len(fake_vllm.BUILT) == (backend == "vllm"), "vLLM takes nearly all of a GPU: it is loaded once"


@needs_humaneval
@pytest.mark.slow
@pytest.mark.skipif(HARNESS is None, reason="SPARSEPO_BIGCODE_HARNESS names no checkout of BigCode's harness")
def test_humaneval_by_the_harness(model: Path, tmp_path: Path) -> None:
    options = [*smoke(model, tmp_path, "harness"), "--harness", str(HARNESS), "--max_length_generation", "560"]
    command.main([*options, "--allow_code_execution"], lambda _: None)
    record = json.loads((tmp_path / "generations" / "humaneval.json").read_text())["result"]
    for problem, row in zip(record["problems"], problems()[:2], strict=True):
        assert len(problem["programs"]) == 2
        assert all(program.startswith(row["prompt"].strip()) for program in problem["programs"])
        assert problem["tests"] == f"\n{row['test']}\ncheck({row['entry_point']})"
    assert json.loads((tmp_path / "humaneval.json").read_text())["result"]["pass@1"] == 0.0
