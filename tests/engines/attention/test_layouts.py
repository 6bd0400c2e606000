"""The same log-probabilities from every layout, for each family of models, and from the model itself."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, MptConfig, Phi3Config

from sparsepo_dist.contracts import PackedBatch, TokenizedPair
from sparsepo_dist.data.batching.pack import pack
from sparsepo_dist.data.config import DataConfig
from sparsepo_dist.data.store.load import load_tokenized
from sparsepo_dist.engines.attention.inputs import model_inputs
from sparsepo_dist.engines.attention.segments import SEGMENTS
from sparsepo_dist.engines.decoder.backbone import backbone, hidden_at
from sparsepo_dist.engines.decoder.configuration import check_window, load_config
from sparsepo_dist.engines.decoder.loading import load_model
from sparsepo_dist.engines.decoder.logits import own_head
from sparsepo_dist.engines.decoder.tokenizer import load_tokenizer
from sparsepo_dist.errors import UserError
from sparsepo_dist.ops import token_stats
from tests.support.plain import plain_logps
from tests.support.tiny import CONFIGS, save_tiny_model, tiny_tokenizer, write_pairs

LAYOUTS = ("prefix_shared", "packed", "padded")


@pytest.fixture(scope="module", params=sorted(CONFIGS))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("model"), request.param)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[TokenizedPair]:
    source = write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", 5)
    return load_tokenized(str(source), tiny_tokenizer(), DataConfig())


def logps(folder: Path, batch: PackedBatch, layout: str) -> torch.Tensor:
    model = load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout=layout, zero3=None).eval()
    with torch.no_grad():
        return token_stats(hidden_at(backbone(model), batch), own_head(model), batch.labels).policy_logp


@torch.no_grad()
def of_transformers(folder: Path, pairs: list[TokenizedPair]) -> torch.Tensor:
    return plain_logps(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), pairs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_log_probabilities_equal_transformers(folder: Path, pairs: list[TokenizedPair], layout: str) -> None:
    got = logps(folder, pack(pairs, [1.0] * len(pairs), layout), layout)
    torch.testing.assert_close(got, of_transformers(folder, pairs), rtol=1e-5, atol=1e-5)


def test_families_with_an_attention_interface_use_blocks(folder: Path) -> None:
    config = load_config(str(folder))
    model = load_model(str(folder), config, dtype=torch.float32, layout="prefix_shared", zero3=None)
    assert model.config._attn_implementation == ("eager" if config.model_type == "gptj" else SEGMENTS)


def test_dropout_is_off_in_the_modules_and_kept_in_the_configuration(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path, "gpt2")
    model = load_model(str(folder), load_config(str(folder)), dtype=torch.float32, layout="packed", zero3=None).train()
    batch = pack([TokenizedPair((1,), (2,) * 8, ())], [1], "packed")
    inputs = model_inputs(batch, model.config, torch.float32)
    first, second = (model.base_model(**inputs).last_hidden_state for _ in range(2))
    assert torch.equal(first, second)
    assert model.config.resid_pdrop == 0.1


def test_what_is_no_decoder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text('{"model_type": "t5"}')
    with pytest.raises(UserError, match="not a causal language model"):
        load_config(str(tmp_path / "t5"))
    with pytest.raises(UserError, match="holds no model"):
        (tmp_path / "nothing").mkdir()
        load_config(str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="no tokenizer"):
        load_tokenizer(str(tmp_path / "nothing"))


def test_lengths_beyond_the_position_table_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="exceeds the model's position range of 256"):
        check_window(load_config(str(folder)), 257)


def test_lengths_beyond_a_window_of_attention_are_not_refused() -> None:
    """Phi-3-mini-4k's: shorter than data.max_length is by default."""
    phi = Phi3Config(sliding_window=2047, max_position_embeddings=4096)
    check_window(phi, DataConfig().max_length)
    with pytest.raises(UserError, match="exceeds the model's position range of 4096"):
        check_window(phi, 4097)
    with pytest.raises(UserError, match="exceeds the model's position range of 64"):
        check_window(MptConfig(max_seq_len=64), 65)
