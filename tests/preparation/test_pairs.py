"""`sparsepo sample-pairs`: a policy's own responses, their scores and pairs, and two rounds of it."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from sparsepo_dist.commands import main
from sparsepo_dist.errors import UserError
from sparsepo_dist.preparation import drawing
from sparsepo_dist.preparation.command import prepare
from sparsepo_dist.preparation.sentiment import completions
from tests.support.classifiers import save_tiny_classifier
from tests.support.runs import ZERO, train_all
from tests.support.tiny import save_tiny_model, tiny_tokenizer

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PROMPTS = [f"Prompt {number}" for number in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy, a reward model with a chat template, and prompts, of which one stands twice."""
    folder = tmp_path_factory.mktemp("pairs")
    save_tiny_model(folder / "policy", seed=1)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "policy")
    save_tiny_classifier(folder / "reward", TEMPLATE, num_labels=1)
    (folder / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": text}) + "\n" for text in [*PROMPTS, PROMPTS[0]])
    )
    return folder


def given(folder: Path, output: Path, *more: str) -> list[str]:
    return [
        "pairs", "--output", str(output), "--prompts", str(folder / "prompts.jsonl"), "--model", str(folder / "policy"),
        "--scorer", str(folder / "reward"), "--max_new_tokens", "6", *more,
    ]  # fmt: skip


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_best_of_each_prompts_responses_is_preferred_to_the_worst(folder: Path, tmp_path: Path) -> None:
    output, _ = prepare(given(folder, tmp_path / "out"))
    pairs = rows(output / "train.jsonl")
    assert [row["prompt"] for row in pairs] == PROMPTS
    reward, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder / "reward").eval(), tiny_tokenizer()
    for row in pairs:
        assert row["chosen_score"] > row["rejected_score"]
        for side in ("chosen", "rejected"):
            ids = tokenizer(f"<user>{row['prompt']}<assistant>{row[side]}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logit = float(reward(torch.tensor([ids])).logits[0, 0])
            assert row[f"{side}_score"] == pytest.approx(logit, abs=1e-4)
    card = json.loads((output / "card.json").read_text())
    steps = {step["said"]: (step["before"], step["after"]) for step in card["steps"]}
    assert steps["prompts that stood there before"] == (7, 6) and steps["train: not blank"][0] == 24
    assert prepare(given(folder, tmp_path / "out")) == (output, True)
    with pytest.raises(UserError, match="was prepared with another completions; name another folder"):
        prepare(given(folder, tmp_path / "out", "--completions", "3"))


def test_messages_stay_messages_and_go_through_the_templates(folder: Path, tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    (tmp_path / "asked.jsonl").write_text(json.dumps({"asked": messages}) + "\n")
    command = given(folder, tmp_path / "out", "--prompts", str(tmp_path / "asked.jsonl"), "--field", "asked")
    (row,) = rows(prepare(command)[0] / "train.jsonl")
    assert row["prompt"] == messages
    assert [row["chosen"][0]["role"], row["rejected"][0]["role"]] == ["assistant", "assistant"]
    plain = save_tiny_model(tmp_path / "plain")
    with pytest.raises(UserError, match="asked.jsonl, row 1: messages, and --model has no chat template"):
        prepare([*command, "--model", str(plain), "--output", str(tmp_path / "other")])


def test_ties_are_left_out_and_a_killed_one_goes_on_with_the_same_pairs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completions, "_PROMPTS", 2)
    command = given(folder, tmp_path / "out", "--scorer", "vader")
    load, draws = drawing.load_sampler, Counter[str]()

    class Dying:
        def __init__(self, *told: Any) -> None:
            self._sampler = load(*told)

        def sample(self, *told: Any, **named: Any) -> Any:
            draws["portions"] += 1
            if draws["portions"] == 3:
                raise KeyboardInterrupt
            return self._sampler.sample(*told, **named)

    monkeypatch.setattr(drawing, "load_sampler", Dying)
    with pytest.raises(KeyboardInterrupt):
        prepare(command)
    with pytest.raises(UserError, match="train: no two completions of a prompt differ enough in their scores"):
        prepare(command)
    assert draws["portions"] == 4, "random letters are neither good nor bad; what was drawn before is not drawn again"


def test_the_command_is_the_preparation(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Round two samples what round one trained, here the same model: another seed gives other pairs."""
    for seed in ("0", "1"):
        monkeypatch.setattr(
            "sys.argv", ["sparsepo", "sample-pairs", *given(folder, tmp_path / seed, "--seed", seed)[1:]]
        )
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code == 0
    first, second = (rows(tmp_path / seed / "train.jsonl") for seed in ("0", "1"))
    assert [row["prompt"] for row in first] == [row["prompt"] for row in second] and first != second


@pytest.mark.slow
def test_two_rounds_of_sampling_and_training(folder: Path, tmp_path: Path) -> None:
    """The second round samples the model of the first, whose run's folder it names, and starts from it."""
    policy, trained = folder / "policy", []
    for number in range(2):
        pairs, _ = prepare(given(folder, tmp_path / f"pairs{number}", "--model", str(policy), "--seed", str(number)))
        fields = {
            "objective.name": "dpo", "model.path": policy if number == 0 else policy / "final", "data.train": pairs,
            "data.max_length": 200,
            "training.pairs_per_step": 3, "training.learning_rate": 1e-2, "training.precision": "fp32",
            "ds_config": ZERO[0],
        }  # fmt: skip
        policy = train_all(tmp_path / f"round{number}", {"run": fields})["run"]
        trained.append((policy / "final" / "model.safetensors").read_bytes())
    assert rows(tmp_path / "pairs0" / "train.jsonl") != rows(tmp_path / "pairs1" / "train.jsonl")
    assert trained[0] != trained[1]
    card = json.loads((tmp_path / "pairs1" / "card.json").read_text())
    assert card["sources"]["--model"]["model"] == str(tmp_path / "round0" / "run")
