"""The page: whole in one file, with what is missing and where every number comes from."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparsepo_dist.experiments.contracts import DRAWS, Experiment, TrainedRun
from sparsepo_dist.experiments.drawing import build
from sparsepo_dist.experiments.drawing.samples import to_unit
from tests.support.experiment_runs import trained

TOKENS = ["<b>", " film", " was", " good"]


def response(branch: str, tokens: list[str], reward: list[float], **more: Any) -> dict[str, Any]:
    return {"pair": 0, "branch": branch, "prompt": "Honestly", "tokens": tokens, "reward": reward, **more}


@pytest.fixture
def runs(tmp_path: Path) -> list[TrainedRun]:
    sparse = [
        response(
            "chosen", TOKENS, [0.0, -1.0, 1.0, 3.0], kl=[1.0, 2.0, 4.0, 0.0], divergence_mask=[0.0, 1.0, 0.5, 1.0]
        ),
        response("rejected", ["bad"], [1.0], kl=[1.0], divergence_mask=[1.0]),
    ]  # fmt: skip
    dpo = [response("chosen", TOKENS, [2.0, 2.0, 2.0, 2.0]), response("rejected", ["another"], [1.0])]
    return [
        trained(tmp_path, "dpo", 0.1, 1, reward=0.2, kl=1.0, objective="dpo", tokens=dpo),
        trained(tmp_path, "sparsepo_common", 0.1, 1, reward=0.3, kl=2.0, tokens=sparse),
    ]


def test_every_draw_makes_a_page_that_fetches_nothing(runs: list[TrainedRun], tmp_path: Path) -> None:
    page = build(Experiment("a <b>", tuple(runs), {}, {}, tuple(DRAWS)), tmp_path / "page").read_text()
    assert "<script" not in page and "http" not in page and "a &lt;b&gt;" in page
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert all(f'id="{name}"' in page for name in DRAWS)
    targets = set(re.findall(r'href="#([^"]+)"', page))
    assert {target for target in targets if f'id="{target}"' not in page} == set()


def test_behind_every_number_are_its_runs_commands_and_hashes(runs: list[TrainedRun], tmp_path: Path) -> None:
    page = build(Experiment("test", tuple(runs), {}, {}, ("summary",)), tmp_path / "page").read_text()
    for run in runs:
        table, place = page.split('<h2 id="runs">')
        assert f'<a href="#run-{run.name}">' in table
        said = place.split(f'id="run-{run.name}"')[1].split("</div>")[0]
        assert run.identity in said and run.command in said and str(run.run) in said
        assert f"frontier.py --model {run.results['frontier']}" in said and "SHA-256 ab12" in said


def test_what_is_missing_is_said(runs: list[TrainedRun], tmp_path: Path) -> None:
    gone = replace(runs[0], name="gone", run=tmp_path / "nowhere", results={"frontier": tmp_path / "nothing"})
    missing = {"dpo-beta9": "failed: out of <memory>", "dpo-beta10": "not run yet"}
    page = build(Experiment("test", (*runs, gone), missing, {}, ("summary",)), tmp_path / "page").read_text()
    said = page.split("What is missing")[1].split("<h2")[0]
    assert "Not there: 2" in said and "failed: out of &lt;memory&gt;" in said and "not run yet" in said
    assert "nowhere is not a run&#x27;s folder" in said and "frontier.json cannot be read" in said


def test_an_experiment_without_runs_has_a_page_that_says_so(tmp_path: Path) -> None:
    page = build(Experiment("test", (), {"dpo": "not run yet"}, {}, tuple(DRAWS)), tmp_path / "page").read_text()
    assert "0 runs done, 1 missing" in page and page.count("Nothing to") == len(DRAWS) - 1


def test_the_same_responses_stand_under_each_run(runs: list[TrainedRun], tmp_path: Path) -> None:
    page = build(Experiment("test", tuple(runs), {}, {}, ("samples",)), tmp_path / "page").read_text()
    shown = page.split('<div class="tokens-of-runs">')[1].split('<h2 id="runs">')[0]
    assert shown.count("&lt;b&gt;") == 3, "two rewards and one KL: DPO has no divergence"
    assert "none: the objective has no divergence" in shown
    assert "another" not in shown and "bad" not in shown, "only what all runs have"
    titles = re.findall(r'title="([^"]+)"', shown)
    assert titles == ["2"] * 4 + ["0", "-1", "1", "3"] + ["0", "2", "2", "0"], "after the mask, before scaling"
    assert shown.count('class="zero"') == 3


def test_scaling_is_from_least_to_largest() -> None:
    assert to_unit([-1.0, 0.0, 1.0, 3.0]) == [0.0, 0.25, 0.5, 1.0]
    assert to_unit([2.0, 2.0]) == [0.0, 0.0] and to_unit([]) == []
    scaled = to_unit([float("nan"), 1.0, 3.0])
    assert scaled[1:] == [0.0, 1.0] and scaled[0] != scaled[0]


def test_drawing_loads_no_framework(runs: list[TrainedRun], tmp_path: Path) -> None:
    """All modules that it imports, also while it draws."""
    run = runs[0]
    script = (
        "import sys; from pathlib import Path; from sparsepo_dist.experiments.contracts import *\n"
        "from sparsepo_dist.experiments.drawing import build\n"
        f"results = {{'f': Path({str(run.results['frontier'])!r})}}\n"
        f"run = TrainedRun('a', 'dpo', {{}}, Path({str(run.run)!r}), '', '', results, {{'f': 'frontier'}})\n"
        f"build(Experiment('test', (run,), {{}}, {{}}, {tuple(DRAWS)!r}), Path({str(tmp_path / 'page')!r}))\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'deepspeed', 'lm_eval') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr[-2000:]
