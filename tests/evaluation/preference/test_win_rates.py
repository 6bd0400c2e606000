"""Win rates: by hand and by brute force; at equal lengths by another optimiser and by simulation; the driver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from transformers import AutoModelForSequenceClassification

from sparsepo_dist.errors import UserError
from sparsepo_dist.evaluation import sampling
from sparsepo_dist.evaluation.frontier.classifiers import judge
from sparsepo_dist.evaluation.preference import numbers
from sparsepo_dist.evaluation.preference.command import preference
from sparsepo_dist.evaluation.preference.judge import Judged
from sparsepo_dist.evaluation.preference.length_control import LengthControlled, fitted, length_controlled
from sparsepo_dist.evaluation.preference.resampling import mean_interval
from sparsepo_dist.evaluation.preference.run import Answer
from tests.support.classifiers import save_tiny_classifier
from tests.support.tiny import save_tiny_model, tiny_tokenizer, write_pairs


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def test_the_fit_is_the_maximum_that_another_optimiser_finds() -> None:
    generator = np.random.default_rng(0)
    for wins in (generator.choice([0, 0.25, 0.5, 1], 40), np.ones(40)):
        ours, theirs = generator.integers(10, 300, 40), generator.integers(10, 300, 40)
        apart = (ours - theirs) / np.std(ours - theirs, ddof=1)

        def loss(both: Any, apart: Any = apart, wins: Any = wins) -> float:
            logits = both[0] + both[1] * np.tanh(apart)
            prior = (both[0] / 10) ** 2 / 2 + (both[1] / 2.5) ** 2 / 2
            return float((np.logaddexp(0, logits) - wins * logits).sum() + prior)

        best = minimize(
            loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 9999}
        )
        found = length_controlled(list(wins), list(ours), list(theirs), range(40))
        assert isinstance(found, LengthControlled) and found.low <= found.rate <= found.high
        assert found.rate == pytest.approx(sigmoid(best.x[0]), abs=1e-6)


def test_weights_count_items_as_often() -> None:
    features, wins = np.array([-0.5, 0.1, 0.9]), np.array([0.0, 1.0, 0.5])
    repeated = fitted(np.repeat(features, [2, 0, 3]), np.repeat(wins, [2, 0, 3]), np.ones((1, 5)))
    assert fitted(features, wins, np.array([[2.0, 0.0, 3.0]])) == pytest.approx(repeated)


def simulated(seed: int, *, always: bool, better: float = 0.0) -> tuple[float, float]:
    """Win rate and length-controlled win rate of many longer responses under a judge that likes length."""
    generator, many = np.random.default_rng(seed), 4000
    ours, theirs = generator.normal(300, 100, many), generator.normal(200, 80, many)
    chance = 1 / (1 + np.exp(-(ours - theirs) / 50 - better))
    wins = ((ours > theirs) if always else generator.random(many) < chance).astype(float)
    apart = np.tanh((ours - theirs) / (ours - theirs).std(ddof=1))
    return float(wins.mean()), sigmoid(float(fitted(apart, wins, np.ones((1, many)))[0, 0]))


def test_a_judge_that_only_prefers_length_gives_half_at_equal_lengths_and_quality_remains() -> None:
    for always in (False, True):
        rates = np.mean([simulated(seed, always=always) for seed in range(4)], axis=0)
        assert rates[0] > 0.7 and rates[1] == pytest.approx(0.5, abs=0.05)
    assert np.mean([simulated(seed, always=False, better=1.0)[1] for seed in range(4)]) == pytest.approx(
        sigmoid(1.0), abs=0.05
    )


def test_swapped_models_have_swapped_rates_and_lengths_that_never_differ_otherwise_are_said() -> None:
    wins, ours, theirs = [1.0, 0.0, 1.0, 0.5], [5.0, 9.0, 2.0, 7.0], [3.0, 2.0, 8.0, 7.0]
    one = length_controlled(wins, ours, theirs, range(4))
    other = length_controlled([1 - win for win in wins], theirs, ours, range(4))
    assert isinstance(one, LengthControlled) and isinstance(other, LengthControlled)
    assert one.rate == pytest.approx(1 - other.rate)
    assert "differ by the same everywhere" in str(length_controlled(wins, ours, [n - 1 for n in ours], range(4)))


def test_intervals_draw_whole_prompts() -> None:
    values, prompts = [1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1]
    assert mean_interval(values, prompts) == (0, 1)
    assert mean_interval(values, range(4)) == (0, 1) and mean_interval([1.0] * 4, prompts) == (1, 1)
    generator = np.random.default_rng(3)
    many = generator.normal(size=400)
    low, high = mean_interval(many, range(400))
    assert (low, high) == pytest.approx(many.mean() + np.array([-1.96, 1.96]) * many.std() / 20, abs=0.02)


def test_ties_are_half_a_win_and_comparisons_without_a_verdict_are_left_out() -> None:
    row = numbers.of_rewards([1, 2, 3], [0, 2, 4], ["a", "bb", "ccc"], ["aa", "b", "c"], [0, 1, 2])
    assert (row["win_rate"], row["win_ties"], row["characters"]) == (0.5, 1, 2)
    judged = [Judged(1.0, False, 0), Judged(None, False, 2), Judged(0.5, True, 0), Judged(0.75, False, 0)]
    row = numbers.of_judged(judged, ["a"] * 4, ["b", "bb", "b", "bbb"], [0, 1, 2, 2])
    assert (row["judge_comparisons"], row["judge_win_rate"]) == (3, 0.75)
    assert (row["judge_invalid"], row["judge_swayed"]) == (2, 1)
    nothing = numbers.of_judged([Judged(None, False, 1)], ["a"], ["b"], [0])
    assert nothing == {"judge_comparisons": 0, "judge_invalid": 1, "judge_swayed": 0}


SMALL = ["--max_new_tokens", "8", "--samples", "2"]


def rows_of(table: Path) -> list[dict[str, Any]]:
    return list(json.loads(table.with_suffix(".json").read_text())["rows"])


def test_win_rates_of_the_driver_are_those_of_its_samples_under_the_reward_models_logit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = write_pairs(tmp_path / "pairs.jsonl", 4)
    rows = [json.loads(line) for line in pairs.read_text().splitlines()]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**rows[0], "chosen": " another"}]))
    reward = save_tiny_classifier(tmp_path / "reward", num_labels=1)
    models = [save_tiny_model(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"), 1)]
    command = ["--pairs", str(pairs), "--scorer", str(reward), "--output", str(tmp_path / "out"), *SMALL]
    command += [argument for model in models for argument in ("--model", str(model))]
    classifier, tokenizer = AutoModelForSequenceClassification.from_pretrained(reward).eval(), tiny_tokenizer()

    def logit(prompt: str, response: str) -> float:
        with torch.no_grad():
            return float(classifier(torch.tensor([tokenizer(prompt, response)["input_ids"]])).logits[0, 0])

    def samples(name: str) -> list[dict[str, Any]]:
        (file,) = (tmp_path / "out" / "models").glob(f"{name}-*/samples.json")
        return list(json.loads(file.read_text())["result"])

    table = preference(command)
    for row in rows_of(table):
        won = [
            logit(s["prompt"], s["response"]) > logit(s["prompt"], rows[place // 2]["chosen"])
            for place, s in enumerate(samples(row["model"]))
        ]
        assert (row["comparisons"], row["win_rate"]) == (8, sum(won) / 8), "a prompt that stands twice is asked once"
        assert row["characters_against"] == np.mean([len(other["chosen"]) for other in rows])
    assert "Win rate against the chosen responses" in table.read_text()
    monkeypatch.setattr(sampling, "load_sampler", None)
    first, second = rows_of(preference([*command, "--against", str(models[1])]))
    won = [
        logit(ours["prompt"], ours["response"]) > logit(theirs["prompt"], theirs["response"])
        for ours, theirs in zip(samples("one"), samples("two"), strict=True)
    ]
    assert first["win_rate"] == sum(won) / 8
    assert (second["win_rate"], second["win_ties"]) == (0.5, 8), "against itself all is a tie"
    with pytest.raises(UserError, match="was measured with another temperature; name another --output"):
        preference([*command, "--temperature", "0.5"])


TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def test_dialogues_are_asked_and_scored_in_the_templates_of_each(tmp_path: Path) -> None:
    model, reward = save_tiny_model(tmp_path / "model"), save_tiny_classifier(tmp_path / "rm", TEMPLATE, num_labels=1)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(model)
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    row = {
        "prompt": prompt, "chosen": [{"role": "assistant", "content": "So."}],
        "rejected": [{"role": "assistant", "content": "No."}],
    }  # fmt: skip
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(json.dumps(row) + "\n")
    command = ["--model", str(model), "--pairs", str(pairs), "--scorer", str(reward), *SMALL]
    table = preference([*command, "--output", str(tmp_path / "out")])
    (file,) = (tmp_path / "out" / "models").glob("*/samples.json")
    asked = json.loads(file.read_text())["result"][0]["prompt"]
    assert asked == "<system>Be brief.<user>Why?<assistant>"
    classifier = AutoModelForSequenceClassification.from_pretrained(reward).eval()
    ids = tokenizer(f"{asked}So.", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        wanted = float(classifier(torch.tensor([ids])).logits[0, 0])
    assert judge(str(reward), "").score([Answer(tuple(prompt), "So.")]) == pytest.approx([wanted], abs=1e-4)
    assert rows_of(table)[0]["comparisons"] == 2
    plain = save_tiny_classifier(tmp_path / "plain", num_labels=1)
    with pytest.raises(UserError, match="--scorer: prompts are dialogues of several messages"):
        preference([*command[:4], "--scorer", str(plain), *SMALL, "--output", str(tmp_path / "other")])
