"""BERTScore F1 with IDF weights, by bert_score's own matching on a model that is loaded here.

bert_score's loader needs to know a model's name, takes a path that holds "t5" for a T5, and under transformers 5 fails
on tokenizers that name no length and on blank texts, and forgets the space before RoBERTa's first word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm
from transformers import AutoConfig, AutoModel, AutoTokenizer

from sparsepo_dist.engines.decoder.loading import check_complete
from sparsepo_dist.engines.decoder.structure import quiet
from sparsepo_dist.errors import UserError, unreadable
from sparsepo_dist.evaluation.encoders import longest_input
from sparsepo_dist.evaluation.prompts import digest
from sparsepo_dist.evaluation.summary.metrics import Metric, Samples, Task
from sparsepo_dist.evaluation.target import Target

_PAIRS_A_PASS = 256
_SPACED = ("roberta", "gpt2", "xlm-roberta-xl")  # their first word has another token without a space before it


def bertscore(path: str, layers: int | None, corpus: Sequence[str] | None = None) -> Metric:
    """BERTScore F1 against the reference, mean over a prompt's samples; a blank sample scores 0.

    Args:
        path: folder or hub id of the encoder.
        layers: whose outputs are compared, counted from below; bert_score's choice for a model that it knows by its
            name (roberta-large: 17).
        corpus: texts that IDF is counted over, in the paper the training summaries; by default the references.

    Raises:
        UserError: bert_score is not installed, the model or its weights cannot be read, or it has no such layer.
    """
    try:
        from bert_score.utils import model2layers
    except ImportError:
        raise UserError("--bertscore_model needs bert_score: pip install 'sparsepo_dist[eval]'") from None
    model = Path(path).resolve() if Path(path).is_dir() else path
    try:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
    except Exception as error:  # whatever the readers of the file formats raise
        raise UserError(f"--bertscore_model {path}: no model could be read: {unreadable(error)}") from None
    known = model2layers.get(path) or model2layers.get(Path(path).name)
    chosen = known if layers is None else layers
    if chosen is None:
        raise UserError(
            f"--bertscore_model {path}: bert_score knows no layer for a model of this name; say which of its "
            f"{config.num_hidden_layers} with --bertscore_layers N (roberta-large: 17)"
        )
    if not 0 < chosen <= config.num_hidden_layers:
        raise UserError(f"--bertscore_layers {chosen}: {path} has {config.num_hidden_layers} layers")
    if config.is_encoder_decoder:
        raise UserError(f"--bertscore_model {path}: an encoder is wanted, this is a {config.model_type}")
    identity = Target(Path(path).name, str(model)).sha256
    measurement = "-".join(["bertscore", Path(path).name, str(chosen), *([identity[:8]] if identity else [])])
    if corpus is not None:
        measurement += f"-idf-{digest(corpus)}"
    encoder = _Encoder(str(model), chosen, config, corpus)
    if Path(model).is_dir():  # a hub's would be fetched
        encoder.check()
    return Metric("bertscore", measurement, encoder.scores, ("bert-score",))


class _Encoder:
    """Its files are tried at once, and loaded when the first score is wanted."""

    def __init__(self, path: str, layers: int, config: Any, corpus: Sequence[str] | None) -> None:
        self._path, self._layers, self._config, self._corpus = path, layers, config, corpus
        self._loaded: tuple[Any, Any] | None = None
        self._device = "cuda" if torch.cuda.is_available() else "cpu"

    def scores(self, tasks: Sequence[Task], samples: Samples) -> list[float]:
        from bert_score.utils import bert_cos_score_idf, get_idf_dict

        model, tokenizer = self._load()
        corpus = [task.summary for task in tasks] if self._corpus is None else list(self._corpus)
        weights = get_idf_dict(corpus, tokenizer, nthreads=0)
        flat = [
            (prompt, text, task.summary)
            for prompt, (task, texts) in enumerate(zip(tasks, samples, strict=True))
            for text in texts
            if text.strip()
        ]
        sums = np.zeros(len(tasks))
        for start in tqdm(range(0, len(flat), _PAIRS_A_PASS), desc="BERTScore", unit="pass"):
            prompts, texts, references = zip(*flat[start : start + _PAIRS_A_PASS], strict=True)
            found = bert_cos_score_idf(
                model, list(references), list(texts), tokenizer, weights, device=self._device, batch_size=64
            )
            np.add.at(sums, list(prompts), found[:, 2].double().cpu().numpy())
        return [100 * float(total) / len(texts) for total, texts in zip(sums, samples, strict=True)]

    def check(self) -> None:
        """Read what costs nothing, before samples are drawn. Raises UserError where the weights cannot be loaded."""
        with quiet():
            self._read(device_map="meta")

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            model, tokenizer = self._read()
            self._loaded = model.to(self._device).eval(), tokenizer
        return self._loaded

    def _read(self, **where: Any) -> tuple[Any, Any]:
        spaced = {"add_prefix_space": True} if self._config.model_type in _SPACED else {}
        try:
            tokenizer = AutoTokenizer.from_pretrained(self._path, **spaced)
            tokenizer.model_max_length = longest_input(tokenizer, self._config)
            # Of a model that knows itself as shorter only so many layers are read.
            model, found = AutoModel.from_pretrained(
                self._path, num_hidden_layers=self._layers, dtype=torch.float32, output_loading_info=True, **where
            )
        except Exception as error:  # whatever the readers of the file formats raise
            raise UserError(f"--bertscore_model {self._path}: it cannot be loaded: {unreadable(error)}") from None
        missing = [key for key in found["missing_keys"] if not key.startswith("pooler.")]
        check_complete(self._path, {"missing_keys": missing})
        return model, tokenizer
