"""A checkpoint that somebody made to run code: it is refused on the same number of ranks and on another."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.runs import ZERO
from tests.support.scenarios import Scenario, outcome, play, scenario
from tests.support.tampering import trapped
from tests.support.tiny import save_tiny_model, write_pairs

pytestmark = pytest.mark.slow

STAGES = (0, 2, 3)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    fields = {
        "model.path": save_tiny_model(tmp_path / "llama"), "data.train": write_pairs(tmp_path / "train.jsonl", 12),
        "data.max_length": 100, "training.pairs_per_step": 6, "training.max_steps": 2, "training.precision": "fp32",
        "checkpoints.every_steps": 1,
    }  # fmt: skip
    written = [scenario(f"stage {stage}", tmp_path, {**fields, "ds_config": ZERO[stage]}) for stage in STAGES]
    done = play(tmp_path, written, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    for ranks in (1, 2):
        folder = tmp_path / f"on {ranks}"
        folder.mkdir()
        plan: list[Scenario] = []
        for stage in STAGES:
            whole = tmp_path / f"stage {stage}" / "checkpoints" / "step-00000001"
            for file in sorted((whole / "engine").glob("*.pt")):
                name = f"{stage} {file.stem}"
                copy = folder / name / "checkpoints" / whole.name
                shutil.copytree(whole, copy)
                trapped(copy, copy / "engine" / file.name, tmp_path / "sprung")
                if ranks == 1 or file.name.startswith("mp_rank"):  # the others are read by one rank each
                    named = {**fields, "ds_config": ZERO[stage], "resume": copy}
                    plan.append(scenario(name, folder, named))
        play(folder, plan, ranks=ranks)
        for entry in plan:
            result = outcome(folder, entry["name"])
            assert result["error"] == "UserError", (entry["name"], result)
            assert "may be code: it was not unpickled" in result["message"] and "torch" not in result["message"]
    assert not (tmp_path / "sprung").exists()
