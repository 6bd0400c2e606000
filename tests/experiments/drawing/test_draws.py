"""Tables and figures out of small experiments, against numbers worked out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

from sparsepo_dist.experiments.contracts import Experiment, KnownFields, TrainedRun
from sparsepo_dist.experiments.drawing import build
from sparsepo_dist.experiments.drawing.curves import MOST_STEPS, stretched
from tests.support.experiment_runs import trained

T_2, T_1 = 4.30265, 12.7062
"""Two-sided 95 % quantiles of Student's t with 2 and 1 degrees of freedom."""


def drawn(root: Path, draw: str, *runs: TrainedRun, selected: Mapping[str, str] = {}) -> Path:
    """The folder of a page with one draw."""
    return build(Experiment("test", runs, {}, selected, (draw,)), root / "page").parent


def rows_of(folder: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / f"{table}.json").read_text())["rows"]
    return found


def test_frontier_points_and_hypervolumes(tmp_path: Path) -> None:
    """DPO: two betas, two seeds. The reference point is a KL of 1.1 x 4 = 4.4 and a reward of 0."""
    kls, rewards = {0.1: 4.0, 0.5: 2.0}, {0.1: {1: 0.5, 2: 0.7}, 0.5: {1: 0.2, 2: 0.4}}
    dpo = [
        trained(tmp_path, "dpo", at, seed, reward=rewards[at][seed], kl=kls[at], objective="dpo")
        for at in kls for seed in (1, 2)
    ]  # fmt: skip
    simpo = [trained(tmp_path, "simpo", at, 1, reward=0.3, kl=kls[at], objective="simpo") for at in kls]
    start = trained(tmp_path, "sft", None, 0, reward=0.0, kl=0.0, objective="sft")
    folder = drawn(tmp_path, "figure2", start, *dpo, *simpo)
    first, second = (row for row in rows_of(folder, "figure2-frontier-hypervolume"))
    by_seed = [2.4 * 0.2 + 0.4 * 0.3, 2.4 * 0.4 + 0.4 * 0.3]
    assert first["method"] == "DPO" and (first["places"], first["seeds"]) == (2, 2)
    assert first["volume"]["mean"] == pytest.approx(np.mean(by_seed))
    half = T_1 * np.std(by_seed, ddof=1) / 2**0.5
    assert first["volume"]["high"] == pytest.approx(np.mean(by_seed) + half, rel=1e-4)
    assert second["method"] == "SimPO" and second["volume"]["mean"] == pytest.approx(2.4 * 0.3)
    assert second["volume"]["over"] == "prompts" and second["volume"]["n"] == 2
    # Of prompts with rewards 0.2 and 0.4 and KL 0.2 below and above the mean: all the first, or all the second.
    assert second["volume"]["low"] == pytest.approx(2.6 * 0.2) and second["volume"]["high"] == pytest.approx(2.2 * 0.4)
    assert "a KL of 4.400 nats" in (folder / "figure2-frontier-hypervolume.md").read_text()
    points = {(row["method"], row["beta"]): row for row in rows_of(folder, "figure2-frontier")}
    assert set(points) == {("DPO", 0.1), ("DPO", 0.5), ("SimPO", 0.1), ("SimPO", 0.5)}
    assert points["DPO", 0.1]["reward"]["mean"] == pytest.approx(0.6) and points["DPO", 0.1]["kl"]["n"] == 2
    assert points["DPO", 0.1]["runs"] == [dpo[0].name, dpo[1].name]
    picture = imread(folder / "figure2-frontier.png")
    assert picture.shape[1] > 900 and picture.std() > 0.01


def test_a_seed_without_all_points_counts_in_no_hypervolume(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, "dpo", at, seed, reward=0.5, kl=2.0, objective="dpo")
        for at in (0.1, 0.5) for seed in (1, 2, 3) if (at, seed) != (0.5, 3)
    ]  # fmt: skip
    [row] = rows_of(drawn(tmp_path, "figure2", *runs), "figure2-frontier-hypervolume")
    assert row["seeds"] == 2 and row["note"] == "seed 3 (1 of 2 points)"
    assert not any("seed3" in name for name in row["runs"])


def test_methods_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """Rewards differ by 0.1 in every seed, and by much more between seeds."""
    runs = [
        trained(tmp_path, method, at, seed, reward=0.3 * seed + more, kl=2.0, objective="dpo")
        for method, more in (("dpo", 0.0), ("tdpo2", 0.1)) for at in (0.1, 0.5) for seed in (1, 2, 3)
    ]  # fmt: skip
    first, second = rows_of(drawn(tmp_path, "figure2", *runs), "figure2-frontier-hypervolume")
    assert first["difference"] is None
    assert second["difference"]["mean"] == pytest.approx(0.2 * 0.1)
    assert second["difference"]["high"] - second["difference"]["low"] == pytest.approx(0, abs=1e-9)


def test_curves_over_steps_are_means_over_seeds_with_bands() -> None:
    steps = np.arange(3)
    line = stretched([(steps, np.array([1.0, 2.0, 3.0])), (steps, np.array([3.0, 2.0, 7.0]))])
    assert line.steps == [0, 1, 2] and [value.mean for value in line.values] == [2.0, 2.0, 5.0]
    assert line.values[2].high == pytest.approx(5 + T_1 * 2, rel=1e-4)


def test_long_curves_are_averaged_in_stretches_that_all_runs_have() -> None:
    long, short = np.arange(10 * MOST_STEPS), np.arange(5 * MOST_STEPS)
    line = stretched([(long, long.astype(float)), (short, short + 2.0)])
    assert len(line.steps) == MOST_STEPS // 2
    assert line.steps[:2] == [4.5, 14.5] and [value.mean for value in line.values[:2]] == [5.5, 15.5]


@pytest.mark.parametrize("draw", ["figure3", "figure6", "figure7"])
def test_sheets_over_steps_show_each_method_that_has_the_metric(draw: str, tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, method, at, seed, reward=0.1, kl=2.0, objective=method.partition("_")[0])
        for method in ("dpo", "sparsepo_common") for at in (0.1, 0.5) for seed in (1, 2)
    ]  # fmt: skip
    ablation = trained(tmp_path, "last_layer", 0.1, 1, reward=0.1, kl=2.0)
    page = (drawn(tmp_path, draw, *runs, ablation) / "index.html").read_text()
    assert imread(tmp_path / "page" / f"{draw}.png").std() > 0.01
    assert "of the held-out pairs" in page and "they stand at one beta: last_layer." in page
    figure = page.split("<figcaption>")[1].split("</figcaption>")[0]
    assert ('href="#run-dpo-' in figure) == (draw == "figure6") and 'href="#run-sparsepo_common-' in figure


def test_where_runs_end_over_beta(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, "sparsepo_common", at, seed, reward=0.1, kl=2.0, sparsity=sparsity + 0.1 * seed)
        for at, sparsity in ((0.1, 0.2), (0.5, 0.4)) for seed in (1, 2, 3)
    ]  # fmt: skip
    first, second = rows_of(drawn(tmp_path, "figure8", *runs), "figure8")
    assert (first["beta"], second["beta"]) == (0.1, 0.5)
    assert first["reward_mask"]["mean"] == pytest.approx(0.4) and first["divergence_mask"]["mean"] == pytest.approx(0.2)
    assert second["reward_mask"]["low"] == pytest.approx(0.6 - T_2 * 0.1 / 3**0.5, rel=1e-4)
    assert first["kl"]["mean"] == pytest.approx(0.1) and first["margin"]["mean"] == 0.5


def test_the_summary_has_variants_and_runs(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, "dpo", 0.1, seed, reward=reward, kl=2.0, objective="dpo")
        for seed, reward in ((1, 0.2), (2, 0.3), (3, 0.7))
    ]  # fmt: skip
    folder = drawn(tmp_path, "summary", *runs, trained(tmp_path, "simpo", 2.5, 1, reward=0.1, kl=1.0, objective="dpo"))
    dpo, simpo = rows_of(folder, "summary")
    assert dpo["frontier/reward"]["mean"] == pytest.approx(0.4) and dpo["frontier/reward"]["n"] == 3
    assert dpo["frontier/reward"]["high"] == pytest.approx(0.4 + T_2 * 0.2645751 / 3**0.5, rel=1e-4)
    assert dpo["accuracy"] == {"mean": 0.75, "low": 0.75, "high": 0.75, "n": 3, "over": "seeds"}
    assert dpo["pairs"] == "8" and "reward_mask" not in dpo
    assert simpo["frontier/reward"]["over"] == "prompts" and simpo["pairs"] == 8
    # Wilson's interval of 6 of 8.
    assert (simpo["accuracy"]["low"], simpo["accuracy"]["high"]) == pytest.approx((0.4093, 0.9285), abs=1e-4)
    assert [row["run"] for row in rows_of(folder, "summary-runs")] == [*(run.name for run in runs), simpo["runs"][0]]


def test_ablations_hold_the_rest_the_same(tmp_path: Path) -> None:
    """Weight decay at one beta, beside a grid of the base at two betas and a run of another divergence."""
    runs = [
        trained(tmp_path, f"decay_{decay}", 0.2, seed, reward=0.3 + 0.1 * seed + more, kl=2.0,
                masks={"weight_decay": decay})
        for decay, more in ((1.0, 0.2), (0.0, -0.1)) for seed in (1, 2)
    ]  # fmt: skip
    base = [
        trained(tmp_path, "sparsepo_common", at, seed, reward=0.3 + 0.1 * seed, kl=2.0)
        for at in (0.2, 0.8) for seed in (1, 2)
    ]  # fmt: skip
    again = trained(tmp_path, "base_again", 0.2, 1, reward=9.0, kl=2.0)
    other = trained(tmp_path, "other", 0.2, 1, reward=9.0, kl=2.0, masks={"weight_decay": 0.1}, divergence="reference")
    folder = drawn(tmp_path, "table4", *runs, *base, again, other)
    rows = rows_of(folder, "table4")
    assert [row["variant"] for row in rows] == ["0, beta 0.2", "0.01, beta 0.2", "1, beta 0.2"]
    assert rows[1]["runs"] == [base[0].name, base[1].name], "each seed once"
    assert rows[2]["frontier/difference"]["mean"] == pytest.approx(0.2) and "frontier/difference" not in rows[1]
    assert "Left out, as something else is not the same: 0.1." in (folder / "table4.md").read_text()
    reported = rows_of(folder, "table4-reported")
    assert {row["source"] for row in reported} == {"reported"} and reported[2]["average"] == 8.14


@pytest.mark.parametrize(
    ("draw", "masks", "labels"),
    [
        ("table3", [{}, {"layers": "last"}, {"layers": "last", "linears": 2}],
         ["all layers, 1 linear", "last layer, 1 linear", "last layer, 2 linears"]),
        ("table5", [{}, {"binary": "straight_through"}, {"kind": "random", "random": "fresh"}],
         ["common", "random", "binary, straight through"]),
    ],
)  # fmt: skip
def test_masks_are_called_as_in_the_paper(draw: str, masks: list[dict], labels: list[str], tmp_path: Path) -> None:
    runs = [trained(tmp_path, f"m{number}", None, 1, reward=0.1, kl=1.0, masks=own) for number, own in enumerate(masks)]
    found = [row["variant"] for row in rows_of(drawn(tmp_path, draw, *runs), draw)]
    assert found == [f"{label}, beta 0.1" for label in labels], "beta is the configuration's own, no grid set it"


def test_starts_are_compared_within_what_is_otherwise_the_same(tmp_path: Path) -> None:
    spread = {"torch": 0.4, "calibrated": 0.01}
    runs = [
        trained(tmp_path, f"common_{init}", 0.2, seed, reward=0.3, kl=2.0, sparsity=0.5 + width * (seed - 3) / 2,
                masks={"init": init, "layer_norm": init == "released"})
        for init, width in spread.items() for seed in range(1, 6)
    ]  # fmt: skip
    lone = trained(tmp_path, "lone", 0.8, 1, reward=0.3, kl=2.0)
    folder = drawn(tmp_path, "starts", *runs, lone)
    torch_row, calibrated = rows_of(folder, "starts")
    assert (torch_row["setting"], torch_row["start"]) == ("common, beta 0.2", "torch")
    assert torch_row["reward_mask/spread"] == f"{0.2 * 2.5**0.5:.3f}; 0.100 to 0.900"
    assert calibrated["seeds"] == 5 and calibrated["reward_mask/spread"].endswith("0.490 to 0.510")
    tests = {row["metric"]: row for row in rows_of(folder, "starts-tests")}
    # Four distances each, 70 ways to deal them; wide before tight and tight before wide are as extreme.
    assert tests["Reward mask: at 0"]["p"] == pytest.approx(2 / 70, abs=0.006)
    page = (folder / "index.html").read_text()
    assert "count in no spread" not in page, "nothing is missing"
    assert tests["Reward"]["p"] is None and tests["Reward"]["starts"] == "torch / calibrated"


def test_a_field_that_is_newer_than_a_run_sets_none_apart(tmp_path: Path) -> None:
    """Runs of before and after an update, which all have what is the default since; and a gamma that counts nothing."""
    runs = [
        trained(tmp_path, f"start_{init}", None, seed, reward=0.3, kl=2.0, masks={"init": init})
        for init in ("torch", "released") for seed in (1, 2)
    ]  # fmt: skip
    given = ((None, None), (0.05, 0.3), (0.05, None), (0.9, None))
    for run, (tau, gamma) in zip(runs, given, strict=True):
        assert run.run is not None
        config = yaml.safe_load((run.run / "config.yaml").read_text())
        config["objective"] |= {"name": "sparsepo", "gamma": gamma} | ({} if tau is None else {"tau": tau})
        (run.run / "config.yaml").write_text(yaml.safe_dump(config))
    known = KnownFields({"objective.tau": 0.05}, {"sparsepo": ("beta", "tau")})
    made = build(Experiment("test", tuple(runs), {}, {}, ("starts",)), tmp_path / "page", known)
    assert [(row["start"], row["seeds"]) for row in rows_of(made.parent, "starts")] == [("torch", 2), ("released", 1)]


def test_starts_of_one_init_are_told_apart(tmp_path: Path) -> None:
    """One method each, at the configuration's own beta; a grid asks for one of them again, under another name."""
    starts = {"torch": {"init": "torch"}} | {
        f"calibrated_{share}": {"init": "calibrated", "initial_sparsity": share} for share in (0.8, 0.2)
    }
    runs = [
        trained(tmp_path, f"start_{name}", None, seed, reward=0.3, kl=2.0, sparsity=0.1 + 0.1 * seed, masks=masks)
        for name, masks in starts.items() for seed in (1, 2, 3)
    ]  # fmt: skip
    again = [trained(tmp_path, "common", beta, 1, reward=9.0, kl=2.0, masks=starts["torch"]) for beta in (0.1, 0.5)]
    rows = rows_of(drawn(tmp_path, "starts", *runs, *again), "starts")
    assert [(row["setting"], row["start"], row["seeds"]) for row in rows] == [
        ("start, beta 0.1", start, 3) for start in ("torch", "calibrated, sparsity 0.2", "calibrated, sparsity 0.8")
    ]
    assert [row["runs"] for row in rows] == [[run.name for run in same] for same in (runs[:3], runs[6:], runs[3:6])]


def test_runs_without_a_grid_are_compared_at_their_own_beta(tmp_path: Path) -> None:
    """The grid has betas 0.1 and 0.5; the other's configuration has 0.1, and 0.2 more of reward."""
    grid = [
        trained(tmp_path, "dpo", beta, seed, reward=0.3 * seed, kl=2.0, objective="dpo")
        for beta in (0.1, 0.5) for seed in (1, 2)
    ]  # fmt: skip
    lone = [trained(tmp_path, "last_layer", None, seed, reward=0.3 * seed + 0.2, kl=2.0) for seed in (1, 2)]
    start = trained(tmp_path, "sft", None, 0, reward=0.0, kl=0.0, objective="sft")
    rows = {row["variant"]: row for row in rows_of(drawn(tmp_path, "ablation", *grid, *lone, start), "ablation")}
    assert list(rows) == ["DPO, beta 0.1", "DPO, beta 0.5", "last_layer, beta 0.1"]
    difference = rows["last_layer, beta 0.1"]["frontier/difference"]
    assert difference["mean"] == pytest.approx(0.2) and difference["n"] == 2


def test_the_day_of_a_run_is_no_difference(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, f"m{linears}", 0.1, 1, reward=0.1, kl=1.0, masks={"layers": "last", "linears": linears})
        for linears in (1, 2)
    ]  # fmt: skip
    config = runs[1].run / "config.yaml"
    config.write_text(config.read_text().replace("data:\n", "data:\n  date: '2026-12-02'\n"))
    assert len(rows_of(drawn(tmp_path, "table3", *runs), "table3")) == 2


def test_one_start_alone_is_said(tmp_path: Path) -> None:
    page = drawn(tmp_path, "starts", trained(tmp_path, "sparsepo_common", 0.2, 1, reward=0.3, kl=2.0)) / "index.html"
    assert "no setting was run with two starts" in page.read_text()


def test_methods_side_by_side_with_their_time(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, method, 0.1, seed, reward=0.2 + 0.1 * seed, kl=2.0, objective="dpo")
        for method in ("dpo", "kto") for seed in (1, 2)
    ]  # fmt: skip
    seconds = {"dpo": {1: (9.0, 2.0, 2.0), 2: (9.0, 4.0, 4.0)}, "kto": {1: (0.0, 6.0, 6.0, 6.0), 2: (0.0, 3.0, 3.0)}}
    for run in runs:
        assert run.run is not None
        rows = [
            {"step": step, "split": "train", "seconds": value}
            for step, value in enumerate(seconds[run.method][run.values["training.seed"]])
        ]
        with (run.run / "metrics.jsonl").open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
    dpo, kto = rows_of(drawn(tmp_path, "rivals", *runs), "rivals")
    assert (dpo["method"], kto["method"]) == ("DPO", "kto")
    assert kto["frontier/reward"]["mean"] == pytest.approx(0.35) and kto["accuracy"]["n"] == 2
    assert dpo["time"]["mean"] == pytest.approx(1.0), "of 2 and 4 seconds, in units of 3"
    assert kto["time"]["mean"] == pytest.approx(1.5), "first steps do not count"
