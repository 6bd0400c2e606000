"""The laptop experiments at the size of a test: their own files, with a model, rows and counts that take seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparsepo_dist.builtin.sets import set_file
from sparsepo_dist.evaluation.code.exercises import COMPLETION, exercise
from sparsepo_dist.experiments.files.runs import CHECKOUT
from sparsepo_dist.experiments.stages.stage import placeholders
from tests.support.classifiers import save_tiny_classifier
from tests.support.tiny import save_tiny_model

NAMES = ("sentiment", "dialogue", "summaries", "code", "ablations", "iterated")
_FILES = CHECKOUT / "launch" / "experiments"
_PROGRAMS = (" return 1", " return  1", " return 2", " return  2")
_SMALL: Mapping[str, Any] = {
    "prompts": 4, "heldout_prompts": 2, "test_prompts": 2, "least_difference": 0.0, "train_pairs": 4,
    "heldout_pairs": 2, "posts": 2, "prompt_count": 2, "max_new_tokens": 12, "max_length_generation": 12,
    "temperatures": [0.5, 1.0], "training.pairs_per_step": 2, "training.evaluate_every": 1,
    "training.epochs": 1,
}  # fmt: skip
"""What is given in place of a file's own value, where it has one of that type, in any of its sections."""
_OF_ONE: Mapping[str, Mapping[str, Any]] = {
    "sentiment": {"objective.beta": [0.1]}, "ablations": {"masks.weight_decay": [0.01]}, "iterated": {"seeds": [1]},
}  # fmt: skip
"""Likewise, of one experiment: grids that take longest."""


def laptop_file(name: str) -> dict[str, Any]:
    """What an experiment's laptop file says."""
    said: dict[str, Any] = yaml.safe_load((_FILES / f"{name}_laptop.yaml").read_text(encoding="utf-8"))
    return said


def smoke_file(name: str, models: Path, folder: Path) -> Path:
    """An experiment's laptop file with other values, and nothing added but folders and models on the way.

    Args:
        models: where `save_models` wrote.
        folder: of the file, its data, stages and output.
    """
    values = {
        **_SMALL, **_OF_ONE.get(name, {}), "model": str(models / "model"), "model.path": str(models / "model"),
        "scorer": str(models / "classifier"), "train": _first_rows(name, folder),
    }  # fmt: skip
    given = _with(laptop_file(name), values)
    if name == "sentiment":  # as the file of the paper's scale has it
        given["base"]["options"]["checkpoints.export_every_steps"] = 1
        given["suites"]["frontier"]["exported"] = True
    given |= {"stages": str(folder / "stages"), "output": str(folder / "out")}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(given, sort_keys=False))
    return file


def _with(section: Any, values: Mapping[str, Any]) -> Any:
    if not isinstance(section, dict):
        return section
    known = section.keys() & values.keys()
    known -= {key for key in known if placeholders(section[key])}  # what another stage gives
    changed = {key: values[key] for key in known if type(section[key]) is type(values[key])}
    return {key: _with(inner, values) for key, inner in section.items()} | changed


def _first_rows(name: str, folder: Path) -> str:
    """A folder with the first rows of the project's dialogues, or of problems that `save_models`' model can solve."""
    source = folder / "rows"
    source.mkdir()
    if name == "code":
        parts = {"train": _problems(0), "validation": _problems(4)[:2]}
    else:
        parts = {
            part: Path(set_file(f"builtin:dialogues:{part}")).read_text().splitlines()[:4] for part in ("train", "test")
        }
    for part, rows in parts.items():
        (source / f"{part}.jsonl").write_text("\n".join(rows) + "\n")
    return str(source)


def _problems(first: int) -> list[str]:
    return [json.dumps({**_problem(number), "challenge_test_list": []}) for number in range(first, first + 4)]


def _problem(number: int) -> dict[str, Any]:
    return {
        "task_id": number, "text": "Return one.", "code": f"def one{number}():\n    return 1",
        "test_list": [f"assert one{number}() == 1"], "test_setup_code": "",
    }  # fmt: skip


def save_models(folder: Path) -> Path:
    """`model`, which answers any prompt with one of _PROGRAMS, and `classifier`, with random weights; the folder."""
    save_tiny_model(folder / "model", positions=2048)
    _teach(folder / "model")
    save_tiny_classifier(folder / "classifier", id2label={0: "NEGATIVE", 1: "POSITIVE"})
    return folder


def _teach(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    prompts = [_prompt(**_problem(number)) for number in (0, 3, 4)]
    texts = [f"{prompt}{program}{tokenizer.eos_token}" for prompt in prompts for program in _PROGRAMS]
    batch = tokenizer(texts, return_tensors="pt", padding=True)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[:, : len(tokenizer(prompts[0])["input_ids"])] = -100
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.save_pretrained(folder)


def _prompt(text: str, code: str, test_list: list[str], **_: Any) -> str:
    return exercise(text, code, test_list, "", COMPLETION).prompt
