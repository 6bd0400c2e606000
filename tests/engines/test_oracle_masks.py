"""An oracle's choice of tokens for a loss with or without a divergence, wherever the reference and its head are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sparsepo_dist.contracts import PackedBatch, ReferenceOutputs, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.engines.adapters.lora import add_adapters
from sparsepo_dist.engines.config import LoraSettings
from sparsepo_dist.engines.decoder.backbone import backbone
from sparsepo_dist.engines.decoder.configuration import load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.policy import OwnReference, PolicyModel
from sparsepo_dist.engines.reference.engine import ReferenceEngine
from sparsepo_dist.masks import MaskConfig, ReferenceReadings, TokenMasker
from sparsepo_dist.objectives import Requirements
from sparsepo_dist.ops import PLAIN, DivergenceForm, OpsConfig
from tests.support.tiny import save_tiny_model

MASKS = MaskConfig(selected_share=0.4)
PAIRS = [TokenizedPair((1, 2, 3), (4, 5, 6, 7, 8), (7, 8)), TokenizedPair((1,), (2, 9, 4), (3, 4, 5, 6, 11))]
RESPONSES = [(pair.prompt_ids, ids) for pair in PAIRS for ids in (pair.chosen_ids, pair.rejected_ids)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("policy", "reference", "oracle")):
        save_tiny_model(base / name, "llama", seed=seed)
    return base


@torch.no_grad()
def by_itself(folder: Path) -> list[Tensor]:
    """Of each response: log-probabilities over the vocabulary, [tokens, V], one sequence at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    return [
        model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
        for prompt, ids in RESPONSES
    ]


def of_labels(logps: list[Tensor]) -> list[Tensor]:
    return [rows.gather(1, torch.tensor(ids)[:, None])[:, 0] for rows, (_, ids) in zip(logps, RESPONSES, strict=True)]


def chosen_by_oracle(base: Path) -> list[float]:
    """1 for the tokens of highest reward in a chosen response, of lowest in a rejected one."""
    mask: list[float] = []
    pairs = zip(*(of_labels(by_itself(base / name)) for name in ("oracle", "reference")), strict=True)
    for number, (oracle, reference) in enumerate(pairs):
        rewards = (oracle - reference).tolist()
        order = sorted(range(len(rewards)), key=lambda t: rewards[t] if number % 2 else -rewards[t])
        selected = order[: max(1, round(0.4 * len(rewards)))]
        mask += [float(token in selected) for token in range(len(rewards))]
    return mask


def loaded(folder: Path) -> Any:
    return load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout="padded", zero3=None)


def separate(base: Path, needs: Requirements, batch: PackedBatch) -> tuple[PolicyModel, ReferenceOutputs]:
    engine = ReferenceEngine(
        loaded(base / "reference"), "replicated", None, sources=("oracle",), masks=MASKS,
        head_leaves=needs.divergence is not None, ops=OpsConfig(), device=torch.device("cpu"),
    )  # fmt: skip
    masker = TokenMasker(("oracle",), MASKS, engine.readings, 0)
    return PolicyModel(loaded(base / "policy"), needs, masker, engine.take_head(), OpsConfig()), engine.score(batch)


def inside(base: Path, needs: Requirements, _: PackedBatch) -> tuple[PolicyModel, ReferenceOutputs]:
    model = loaded(base / "reference")
    add_adapters(model, LoraSettings(), torch.float32, base=str(base / "reference"), start=None, reference=None)
    readings = ReferenceReadings(backbone(model), model.get_output_embeddings(), PLAIN, ("oracle",), MASKS)
    masker = TokenMasker(("oracle",), MASKS, readings, 0)
    return PolicyModel(model, needs, masker, OwnReference(None, readings), OpsConfig()), ReferenceOutputs()


@pytest.mark.parametrize("divergence", [None, "reference"])
@pytest.mark.parametrize("place", [separate, inside])
def test_tokens_are_chosen_and_their_statistics_are_there(
    base: Path, place: Any, divergence: DivergenceForm | None
) -> None:
    batch = pack(PAIRS, [0.5, 0.5], "padded")
    module, reference = place(base, Requirements(True, divergence, None), batch)
    oracle = torch.cat(of_labels(by_itself(base / "oracle"))).float()
    outputs = ReferenceOutputs(reference.final_hidden, reference.logps, oracle_logps=oracle)
    logp, reference_logp, v, _, mask, same, _ = module.eval()(batch, outputs, False, 0)
    want = chosen_by_oracle(base)
    assert mask.tolist() == same.tolist() == want and 0 < sum(want) < len(want)
    on, theirs = mask.bool(), by_itself(base / "reference")
    ours = by_itself(base / "policy") if place is separate else theirs  # a new adapter changes nothing
    for got, logps in ((logp, ours), (reference_logp, theirs)):
        torch.testing.assert_close(got[on], torch.cat(of_labels(logps)).float()[on], rtol=1e-4, atol=1e-5)
    assert (v is None) == (divergence is None)
    if v is not None:
        kl = torch.cat([(q.exp() * (q - p)).sum(-1) for p, q in zip(ours, theirs, strict=True)]).float()
        torch.testing.assert_close(v[on], -kl[on], rtol=1e-4, atol=1e-5)
