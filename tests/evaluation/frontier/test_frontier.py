"""Reward against KL: geometry against brute force, the scorer's formula, runs that know their method, the driver."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from sparsepo_dist.builtin.rewards import rewards
from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation import sampling
from sparsepo_dist.evaluation.frontier import run
from sparsepo_dist.evaluation.frontier.command import frontier
from sparsepo_dist.evaluation.frontier.figure import draw_frontier
from sparsepo_dist.evaluation.frontier.pareto import hypervolume, pareto
from sparsepo_dist.evaluation.frontier.runs import Training
from sparsepo_dist.evaluation.frontier.scorers import scorer
from sparsepo_dist.sampling.responses import Sample
from tests.support.classifiers import save_tiny_classifier
from tests.support.tiny import VOCABULARY, save_tiny_model, tiny_tokenizer

SIDE = 8
POINTS = st.lists(st.tuples(st.integers(0, SIDE), st.integers(0, SIDE)), max_size=12)


@given(POINTS)
def test_pareto_points_are_those_that_nothing_beats(points: list[tuple[int, int]]) -> None:
    def beaten(kl: int, reward: int) -> bool:
        return any(k <= kl and r >= reward and (k, r) != (kl, reward) for k, r in points)

    found = pareto(points)
    assert sorted(found) == [place for place, point in enumerate(points) if not beaten(*point)]
    assert [points[place] for place in found] == sorted(points[place] for place in found)


@given(POINTS, st.tuples(st.integers(1, SIDE), st.integers(0, SIDE)))
def test_hypervolume_is_the_number_of_unit_squares_covered(
    points: list[tuple[int, int]], worst: tuple[int, int]
) -> None:
    covered = sum(
        any(kl <= x and reward >= y + 1 for kl, reward in points)
        for x in range(worst[0])
        for y in range(worst[1], SIDE)
    )
    assert hypervolume(points, worst) == pytest.approx(covered)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    labels = {0: "negative", 1: "neutral", 2: "positive"}
    return save_tiny_classifier(
        tmp_path_factory.mktemp("classifier") / "tiny", id2label=labels, max_position_embeddings=64
    )


def sample(prompt: str, response: str) -> Sample:
    return Sample(prompt, response, (1,), (1,))


def test_the_reward_is_p_of_the_likeliest_label_or_one_minus_it(classifier: Path) -> None:
    samples = [sample(f"{word} film", " was " * length) for word in "abcdefgh" for length in (1, 3, 40)]
    found = scorer(str(classifier), "POSITIVE").score(samples)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(classifier).eval(), tiny_tokenizer()
    liked = set()
    for one, value in zip(samples, found, strict=True):
        ids = torch.tensor([tokenizer(one.prompt + one.response)["input_ids"][-62:]])
        with torch.no_grad():
            probabilities = model(ids).logits[0].softmax(-1)
        likeliest = int(probabilities.argmax())
        liked.add(likeliest == 2)
        p = float(probabilities[likeliest])
        assert value == pytest.approx(p if likeliest == 2 else 1 - p, abs=1e-5)
    assert liked == {True, False}


def reward_model(folder: Path, template: str | None) -> tuple[Path, Any, Any]:
    """A classifier of one label; itself and its tokenizer."""
    save_tiny_classifier(folder, template, num_labels=1)
    return (
        folder, AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    )  # fmt: skip


@pytest.mark.parametrize("template", [None, "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"])
def test_a_reward_models_reward_is_its_logit_of_its_own_template_or_pair(template: str | None, tmp_path: Path) -> None:
    folder, model, tokenizer = reward_model(tmp_path / "rm", template)
    samples = [sample("A question", " and its answer"), sample("Another", " of the same length"), sample("B", "")]
    found = scorer(str(folder), "POSITIVE")
    values = found.score(samples)
    for one, value in zip(samples, values, strict=True):
        if template:
            ids = tokenizer(f"<user>{one.prompt}<assistant>{one.response}", add_special_tokens=False)["input_ids"]
        else:
            ids = tokenizer(one.prompt, one.response)["input_ids"]
        with torch.no_grad():
            assert value == pytest.approx(float(model(torch.tensor([ids])).logits[0, 0]), abs=1e-4)
    assert len({round(value, 3) for value in values}) == 3, "a softmax over one logit says 1 of everything"
    form = "the conversation in its chat template" if template else "prompt and response as a pair"
    assert found.description == f"{folder}: the reward model's logit, which has no bounds, of {form}"


def test_a_decoder_without_a_padding_token_is_a_reward_model_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64,
        num_labels=1, initializer_range=0.5,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path / "rm")
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path / "rm")
    samples = [sample("One", " two"), sample("A longer one", " and a longer two")]
    for one, value in zip(samples, scorer(str(tmp_path / "rm"), "POSITIVE").score(samples), strict=True):
        ids = torch.tensor([tokenizer(one.prompt, one.response)["input_ids"]])
        with torch.no_grad():
            assert value == pytest.approx(float(model(ids).logits[0, 0]), abs=1e-4)


def test_rewards_that_cannot_be_had_are_said(tmp_path: Path) -> None:
    folder, *_ = reward_model(tmp_path / "rm", "{{ raise_exception('no such role') }}")
    with pytest.raises(UserError, match="--scorer: its chat template refuses a conversation: no such role"):
        scorer(str(folder), "POSITIVE").score([sample("A", "b")])
    folder, model, _ = reward_model(tmp_path / "broken", None)
    model.classifier.bias.data[:] = torch.nan
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="its reward of 2 of 2 responses is no finite number"):
        scorer(str(folder), "POSITIVE").score([sample("A", "b"), sample("A", "c")])


def test_labels_that_do_not_exclude_each_other_have_a_probability_each(classifier: Path, tmp_path: Path) -> None:
    several = shutil.copytree(classifier, tmp_path / "several")
    config = json.loads((several / "config.json").read_text())
    (several / "config.json").write_text(json.dumps({**config, "problem_type": "multi_label_classification"}))
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(classifier).eval(), tiny_tokenizer()
    ids = torch.tensor([tokenizer("A film was good")["input_ids"]])
    with torch.no_grad():
        expected = float(model(ids).logits[0, 2].sigmoid())
    found = scorer(str(several), "positive")
    assert found.score([sample("A film", " was good")]) == pytest.approx([expected], abs=1e-5)
    assert found.description.endswith("probability of positive, of prompt + response")


def test_scorers_that_are_none(classifier: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="--positive_label good: .* the labels negative, neutral, positive; name one of them"
    ):
        scorer(str(classifier), "good")
    with pytest.raises(UserError, match="is incomplete: 1 tensors are missing"):
        scorer(str(save_tiny_model(tmp_path / "model")), "LABEL_1")
    with pytest.raises(UserError, match="no classifier could be loaded"):
        scorer(str(tmp_path / "nowhere"), "POSITIVE")
    samples = [sample("An awful", " but wonderful day")]
    assert scorer("vader", "POSITIVE").score(samples) == rewards([" but wonderful day"])


def test_the_reference_has_its_error_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, *_, **__: drawn.append(self))
    row = {"method": "dpo", "kl": 1.0, "kl_stderr": 0.25, "reward": 0.75, "reward_stderr": 0.125}
    origin = {**row, "method": "reference", "kl": 0.0, "kl_stderr": 0.0, "reward": 0.5, "reward_stderr": 0.0625}
    draw_frontier([row], origin, "a scorer", tmp_path / "f.png")
    bars = [segment.tolist() for bar in drawn[0].axes[0].collections for segment in bar.get_segments()]
    assert [[0.0, 0.4375], [0.0, 0.5625]] in bars and [[1.0, 0.625], [1.0, 0.875]] in bars


def write_run(folder: Path, method: str, reference: Path, seed: int) -> Path:
    save_tiny_model(folder / "final", seed=seed)
    config = {"objective": {"name": method}, "model": {"path": str(reference)}, "reference": {"path": None}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


SMALL = ["--prompt_count", "3", "--samples", "2", "--max_new_tokens", "6"]


def test_from_runs_to_a_table_and_a_figure_and_nothing_is_sampled_twice(
    classifier: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = save_tiny_model(tmp_path / "start", seed=0)
    runs = [write_run(tmp_path / f"{name}-run", name, reference, seed) for seed, name in enumerate(("dpo", "mapo"), 1)]
    later = save_tiny_model(runs[0] / "step-9", seed=3)
    command = ["--output", str(tmp_path / "out"), *SMALL]
    for model in (runs[0], later, runs[1], f"copied={reference}"):
        command += ["--model", str(model)]
    with pytest.raises(UserError, match="start is in no run's folder, which would name its reference"):
        frontier(command)
    command += ["--reference", str(reference)]
    table = frontier(command)
    record = json.loads((tmp_path / "out" / "frontier.json").read_text())
    rows = record["rows"]
    assert [(row["method"], row["model"]) for row in rows] == [
        ("dpo", "dpo-run"), ("dpo", "step-9"), ("mapo", "mapo-run"), ("copied", "start"),
    ]  # fmt: skip
    assert all(row["kl"] > 0.01 for row in rows[:3])
    assert rows[3]["kl"] == record["reference"]["kl"] == 0 and rows[3]["reward"] == record["reference"]["reward"]
    at = record["hypervolume"]["reference_point"]
    assert at == {"kl": pytest.approx(1.1 * max(row["kl"] for row in rows)), "reward": record["reference"]["reward"]}
    assert set(record["hypervolume"]["by_method"]) == {"dpo", "mapo", "copied"}
    assert "Only hypervolumes from one such point" in table.read_text()
    assert (tmp_path / "out" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "out" / "frontier.csv").read_text().count("\n") == 6

    monkeypatch.setattr(sampling, "load_sampler", None)
    monkeypatch.setattr(run, "ReferenceKL", None)
    frontier([*command, "--scorer", str(classifier), "--reference_point", "100,0"])
    other = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert [row["kl"] for row in other["rows"]] == [row["kl"] for row in rows]
    assert "probability p of the likeliest label where that is positive" in table.read_text()
    assert all(0 <= row["reward"] <= 1 for row in other["rows"]) and other["rows"][0]["reward"] != rows[0]["reward"]
    assert other["hypervolume"]["reference_point"] == {"kl": 100, "reward": 0}


def test_an_exported_checkpoint_knows_its_method_and_step_and_common_masks_are_a_method_of_their_own(
    tmp_path: Path,
) -> None:
    reference = save_tiny_model(tmp_path / "start", seed=0)
    command = ["--output", str(tmp_path / "out"), *SMALL]
    for number, sharing in enumerate(("common", "independent"), 1):
        export = save_tiny_model(tmp_path / f"run-step-{number}", seed=number)
        config = {
            "objective": {"name": "sparsepo", "beta": 0.5}, "masks": {"kind": "auto", "sharing": sharing},
            "model": {"path": str(reference)}, "reference": {"path": None},
        }  # fmt: skip
        (export / "trained.json").write_text(json.dumps({"run": "run", "step": 100 * number, "config": config}))
        command += ["--model", str(export)]
    table = frontier(command)
    record = json.loads(table.with_suffix(".json").read_text())
    assert [(row["method"], row["step"], row["settings"]["objective"]["beta"]) for row in record["rows"]] == [
        ("sparsepo-common", 100, 0.5), ("sparsepo-independent", 200, 0.5),
    ]  # fmt: skip
    assert record["reference"]["path"] == str(reference)
    assert set(record["hypervolume"]["by_method"]) == {"sparsepo-common", "sparsepo-independent"}


def test_what_a_run_exported_on_its_way_is_measured_at_its_steps(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = save_tiny_model(tmp_path / "start", seed=0)
    run, bare = (write_run(tmp_path / name, "dpo", reference, seed) for seed, name in enumerate(("run", "bare"), 1))
    config = yaml.safe_load((run / "config.yaml").read_text())
    for step in (200, 100):
        folder = save_tiny_model(run / "exported" / f"step-{step:08d}", seed=step)
        (folder / "trained.json").write_text(json.dumps({"run": "run", "step": step, "config": config}))
    command = ["--exported", "--output", str(tmp_path / "out"), *SMALL, "--model", f"ours={run}", "--model", str(bare)]
    rows = json.loads(frontier(command).with_suffix(".json").read_text())["rows"]
    assert [(row["method"], row["step"]) for row in rows] == [
        ("ours", 100), ("ours", 200), ("ours", None), ("dpo", None),
    ]  # fmt: skip
    assert len({row["kl"] for row in rows}) == 4
    assert f"{bare} has no exported/: only the model that it ended with is measured" in caplog.text


def test_the_default_is_one_sample_of_the_models_own_distribution_of_every_prompt(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"Prompt {n}"}) + "\n" for n in range(37)))
    command = ["--model", f"a={model}", "--reference", str(model), "--prompts", str(prompts), "--max_new_tokens", "2"]
    settings = json.loads(frontier([*command, "--output", str(tmp_path / "out")]).with_suffix(".json").read_text())[
        "settings"
    ]
    assert settings["prompt_count"] == 37
    assert (settings["samples"], settings["temperature"], settings["top_p"]) == (1, 1, 1)


def test_runs_name_their_reference_and_must_share_it(tmp_path: Path) -> None:
    starts = [save_tiny_model(tmp_path / f"start{seed}", seed=seed) for seed in (0, 1)]
    runs = [write_run(tmp_path / f"run{place}", "dpo", start, 2) for place, start in enumerate(starts)]
    frontier(["--model", str(runs[0]), "--output", str(tmp_path / "out"), *SMALL])
    record = json.loads((tmp_path / "out" / "frontier.json").read_text())
    assert record["reference"]["path"] == str(starts[0])
    with pytest.raises(UserError, match="trained from different references .*start0.*start1.*--reference"):
        frontier(["--model", str(runs[0]), "--model", str(runs[1]), "--output", str(tmp_path / "out"), *SMALL])
    starts[1].rename(tmp_path / "gone")
    with pytest.raises(UserError, match="the reference that the runs name cannot be used .*give --reference"):
        frontier(["--model", str(runs[1]), "--output", str(tmp_path / "out"), *SMALL])


def test_a_reference_that_another_call_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, model = (save_tiny_model(tmp_path / f"model{seed}", seed=seed) for seed in (0, 1))
    first, second, both = (tmp_path / name for name in ("first", "second", "both"))
    frontier(["--model", f"start={start}", "--reference", str(start), "--output", str(first), *SMALL])
    command = ["--model", f"dpo={model}", "--reference", str(start), *SMALL]
    frontier([*command, "--output", str(both)])
    command += ["--output", str(second), "--reference_results", str(first)]
    with pytest.raises(UserError, match="was measured with another settings; leave it out to measure the reference"):
        frontier([*command, "--seed", "5"])
    drawn = []
    load = sampling.load_sampler
    monkeypatch.setattr(sampling, "load_sampler", lambda *given: drawn.append(given[1]) or load(*given))
    frontier(command)
    assert drawn == [str(model)]
    shared, alone = (json.loads((folder / "frontier.json").read_text()) for folder in (second, both))
    assert shared == alone
    save_tiny_model(start, seed=2)
    with pytest.raises(UserError, match="first/frontier.json was measured with another weights of the reference"):
        frontier(command)
    with pytest.raises(UserError, match="nowhere/frontier.json: no frontier.json"):
        frontier([*command[:-1], str(tmp_path / "nowhere")])


def test_what_the_driver_refuses(tmp_path: Path) -> None:
    model = save_tiny_model(tmp_path / "model")
    command = ["--output", str(tmp_path / "out"), "--reference", str(model)]
    with pytest.raises(UserError, match="its method is unknown; name it, --model METHOD="):
        frontier([*command, "--model", str(model), *SMALL])
    with pytest.raises(UserError, match="is named twice"):
        frontier([*command, "--model", f"a={model}", "--model", f"b={model}", *SMALL])
    with pytest.raises(UserError, match="there are 56 built-in prompts; lower it"):
        frontier([*command, "--model", f"a={model}", "--prompt_count", "57"])
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "One"}\n{"text": "two"}\n')
    with pytest.raises(UserError, match=r"prompts.jsonl, row 2: field 'prompt' is missing; the row has text"):
        frontier([*command, "--model", f"a={model}", "--prompts", str(prompts), "--prompt_count", "2"])
    (tmp_path / "config.yaml").write_text("objective: dpo")
    with pytest.raises(UserError, match="not a run's configuration"):
        frontier([*command, "--model", str(model), *SMALL])


@pytest.mark.parametrize(
    ("name", "kind", "method"),
    [
        ("sparsepo", "auto", "sparsepo-common"), ("sparsepo", ["learned"], "sparsepo-common"),
        ("sparsepo", "random", "sparsepo-random-common"), ("dpo", "auto", "dpo"), ("dpo", "decay", "dpo-decay"),
        ("sparsepo", ["learned", "decay"], "sparsepo-learned-decay-common"),
        ("tdpo1", ["learned", "tail"], "tdpo1-learned-tail-common"),
    ],
)  # fmt: skip
def test_masks_that_are_not_an_objectives_own_are_in_its_methods_name(name: str, kind: Any, method: str) -> None:
    config = {"objective": {"name": name}, "masks": {"kind": kind, "sharing": "common"}}
    assert Training(config, None).method == method
