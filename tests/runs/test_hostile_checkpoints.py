"""A checkpoint that somebody made to run code: it is refused on the same number of ranks and on another."""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.support.runs import ZERO
from tests.support.scenarios import Scenario, outcome, play, scenario
from tests.support.tampering import trapped

pytestmark = pytest.mark.slow

STAGES = (0, 2, 3)


@pytest.fixture(scope="module")
def fields(model_and_pairs: dict[str, Any]) -> dict[str, Any]:
    return {
        **model_and_pairs, "training.pairs_per_step": 6, "training.max_steps": 2, "training.precision": "fp32",
        "checkpoints.every_steps": 1,
    }  # fmt: skip


@pytest.fixture(scope="module")
def written(fields: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on two ranks, one for each stage, with checkpoints."""
    folder = tmp_path_factory.mktemp("written")
    plan = [scenario(f"stage {stage}", folder, {**fields, "ds_config": ZERO[stage]}) for stage in STAGES]
    done = play(folder, plan, ranks=2)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def test_code_that_one_rank_alone_finds_is_named_by_all(fields: dict[str, Any], written: Path, tmp_path: Path) -> None:
    """Rank 0 has read its own part, and would only see the other go."""
    whole = written / "stage 3" / "checkpoints" / "step-00000001"
    (shard,) = (whole / "engine").glob("zero_pp_rank_1_*optim_states.pt")
    copy = tmp_path / "run" / "checkpoints" / whole.name
    shutil.copytree(whole, copy)
    trapped(copy, copy / "engine" / shard.name, tmp_path / "sprung")
    done = play(tmp_path, [scenario("run", tmp_path, {**fields, "ds_config": ZERO[3], "resume": copy})], ranks=2)
    (message,) = (line for line in done.stderr.splitlines() if line.startswith("error: another rank ended"))
    assert message.startswith(f"error: another rank ended: rank 1 on {socket.gethostname()}: ")
    assert "may be code: it was not unpickled" in message and "exitcode  : 2" in done.stderr
    assert not (tmp_path / "sprung").exists()


def test_code_in_a_checkpoint_is_not_run(fields: dict[str, Any], written: Path, tmp_path: Path) -> None:
    for ranks in (1, 2):
        folder = tmp_path / f"on {ranks}"
        folder.mkdir()
        plan: list[Scenario] = []
        for stage in STAGES:
            whole = written / f"stage {stage}" / "checkpoints" / "step-00000001"
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
