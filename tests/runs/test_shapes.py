"""Every form of rows, from its file to the first loss: held against transformers over texts written by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sparsepo_dist.contracts import TokenizedPair
from tests.support.plain import plain_logps
from tests.support.runs import ZERO, metrics, train_all
from tests.support.shapes import KNOWN, TEMPLATE, Known
from tests.support.tiny import save_tiny_model, tiny_tokenizer


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("shapes")
    save_tiny_model(folder / "model")
    (folder / "template.jinja").write_text(TEMPLATE)
    asked: dict[str, dict[str, Any]] = {}
    for known in KNOWN:
        source = folder / f"{known.name}.jsonl"
        source.write_text("".join(json.dumps(row) + "\n" for row in known.rows))
        asked[known.name] = {
            "model.path": folder / "model", "data.train": source, "data.columns": known.columns,
            "data.chat_template": folder / "template.jinja", "objective.name": "sft" if known.supervised else "dpo",
            "data.max_length": 200, "data.max_prompt_length": 160, "training.pairs_per_step": len(known.texts),
            "training.max_steps": 1, "training.precision": "fp32", "model.check": known.supervised,
            "ds_config": ZERO[0],
        }  # fmt: skip
    return train_all(folder / "runs", asked)


@pytest.mark.slow
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_the_first_loss(runs: dict[str, Path], known: Known) -> None:
    tokenizer = tiny_tokenizer()

    def ids(text: str | None) -> tuple[int, ...]:
        return () if text is None else (*tokenizer(text)["input_ids"], tokenizer.eos_token_id)

    pairs = [TokenizedPair(ids(prompt)[:-1], ids(good), ids(bad)) for prompt, good, bad in known.texts]
    model = AutoModelForCausalLM.from_pretrained(runs[known.name].parents[1] / "model", dtype=torch.float32).eval()
    sums: list[dict[str, float]] = []
    for pair in pairs:
        logps = plain_logps(model, [pair]).double().detach()
        sums.append(
            {
                "logps/chosen": float(logps[: len(pair.chosen_ids)].sum()),
                "logps/rejected": float(logps[len(pair.chosen_ids) :].sum()),
                "loss": -float(logps.mean()) if known.supervised else math.log(2),
            }
        )
    first = metrics(runs[known.name])[0]
    names = sums[0].keys() & first.keys()
    means = [{name: sum(of[name] for of in sums) / len(sums) for name in names}]
    wanted = sums if len(known.texts) > len(known.rows) else means  # of a row's pairs one is drawn
    assert any({name: first[name] for name in names} == pytest.approx(of, rel=1e-5) for of in wanted), (first, wanted)
    assert {"loss", "logps/chosen"} <= first.keys()
