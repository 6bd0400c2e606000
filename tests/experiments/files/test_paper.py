"""The paper's experiments: each file is read, and becomes the runs and suites that the paper has."""

from __future__ import annotations

import pytest

from sparsepo_dist.experiments.files.graph import stages_of
from sparsepo_dist.experiments.files.runs import CHECKOUT
from sparsepo_dist.experiments.files.spec import read_experiment
from sparsepo_dist.experiments.stages.stage import Stage

METHODS = {"dpo", "simpo", "dpop", "tdpo1", "tdpo2", "mapo", "sparsepo_common", "sparsepo_independent"}
BETAS = {
    "sentiment": [0.01, *(n / 10 for n in range(1, 10)), 1, 2, 3, 4, 5, 10, 20],
    "code": [0.1, 0.2, 0.4, 0.6, 0.8, 1, 5, 10],
}  # fmt: skip


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Stage]]:
    """Stages of all files, by their names."""
    monkeypatch.chdir(CHECKOUT)  # recipes are named from there
    found = {}
    for name in (*BETAS, "dialogue", "summaries", "ablations"):
        file = read_experiment(CHECKOUT / "launch" / "experiments" / f"{name}.yaml", CHECKOUT / "evaluation")
        found[name] = {stage.name: stage for stage in stages_of(file, {})}
    return found


def test_runs_of_the_papers_experiments(read: dict[str, dict[str, Stage]]) -> None:
    trained = {
        name: {stage.name: stage.configuration for stage in stages.values() if stage.kind == "train"}
        for name, stages in read.items()
    }
    for name, betas in BETAS.items():
        for method in METHODS:
            found = [values["objective.beta"] for run, values in trained[name].items() if run.startswith(f"{method}-")]
            gammas = 2 if (name, method) == ("sentiment", "simpo") else 1
            assert found == [beta for beta in betas for _ in range(gammas)]
    assert set(trained["dialogue"]) == {"sft", *METHODS}
    assert set(trained["summaries"]) == METHODS - {"sparsepo_independent"}, "the paper analyses the common mask"
    simpo, sparse = trained["dialogue"]["simpo"], trained["dialogue"]["sparsepo_common"]
    assert (simpo["objective.beta"], simpo["training.learning_rate"]) == (2.5, 1e-6)
    assert sparse["training.learning_rate"] == 5e-7 and sparse["model.path"] == "{sft}/final"
    decays = [
        values["masks.weight_decay"] for run, values in trained["ablations"].items() if run.startswith("sparsepo")
    ]
    assert decays == [0, 0.001, 0.01, 0.1, 1]
    assert set(trained["ablations"]) >= {"sft", "last_layer", "last_layer_two_linears", "binary", "random"}


def test_data_and_suites_of_the_papers_experiments(read: dict[str, dict[str, Stage]]) -> None:
    for name, prepared in (("sentiment", "sentiment"), ("dialogue", "dialogue"), ("summaries", "summaries"),
                           ("code", "code"), ("ablations", "mix")):  # fmt: skip
        command = read[name]["prepare"].command
        assert command[2:4] == ("prepare", prepared)
        assert all(stage.needs[:1] == ("prepare",) for stage in read[name].values() if stage.kind == "train")
    assert "--allow_code_execution" in read["code"]["prepare"].command
    assert read["dialogue"]["sft"].configuration["data.train"] == "{prepare}/train.jsonl", "its chosen responses"
    assert "--bertscore_idf={prepare}/idf.jsonl" in read["summaries"]["dpo/summary"].command
    tune = read["code"]["dpo-beta0.1/tune"].command
    assert {"--n_samples=10", "--problems={prepare}/prompts.jsonl"} <= set(tune)
    assert "dialogue" in read and "sft/leaderboard" in read["dialogue"] and "sft/leaderboard" in read["ablations"]


def test_a_public_start_has_the_suites_of_what_begins_from_it(read: dict[str, dict[str, Stage]]) -> None:
    found = {
        name: {stage.name: stage.command for stage in stages.values() if stage.name.startswith("start")}
        for name, stages in read.items()
    }
    assert {name: set(commands) for name, commands in found.items()} == {
        "sentiment": {"start/frontier"}, "code": {"start/tune", "start/code"}, "summaries": {"start/summary"},
        "dialogue": set(), "ablations": set(),
    }  # fmt: skip
    assert "--reference=insub/gpt2-large-imdb-fine-tuned" in found["sentiment"]["start/frontier"]
    assert "start=CarperAI/openai_summarize_tldr_sft" in found["summaries"]["start/summary"]
    assert "loubnabnl/starcoder-1b" in found["code"]["start/code"]


def test_findings_compare_what_they_have_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method with masks in both forms of the divergence, with the betas and seeds of those without."""
    monkeypatch.chdir(CHECKOUT)
    file = read_experiment(CHECKOUT / "launch" / "experiments" / "findings_laptop.yaml", CHECKOUT / "evaluation")
    trained = {stage.name: stage.configuration for stage in stages_of(file, {}) if stage.kind == "train"}
    grid = {f"beta{beta}-seed{seed}" for beta in (0.1, 0.3, 1) for seed in (1, 2, 3)}
    compared = ["mapo", "sparsepo_common", "sparsepo_independent"]
    for method in ("dpo", "tdpo2", *(f"{name}_{form}" for name in compared for form in ("policy", "reference"))):
        assert {run.removeprefix(f"{method}-") for run in trained if run.startswith(f"{method}-beta")} == grid, method
    for start in ("torch", "released", "calibrated_80", "calibrated_50", "calibrated_20"):
        assert sum(run.startswith(f"start_{start}-seed") for run in trained) == 5
