"""What samples texts: transformers, or vLLM where it is installed."""

from __future__ import annotations

from typing import Any

from sparsepo_dist.evaluation.arguments import TRANSFORMERS, VLLM
from sparsepo_dist.evaluation.target import Target
from sparsepo_dist.evaluation.vllm_models import check_vllm
from sparsepo_dist.evaluation.vllm_sampler import VllmSampler
from sparsepo_dist.sentiment.sampling import Sampler


def check_backend(backend: str) -> None:
    """Refuse a backend that is not installed, before anything is loaded.

    Raises:
        UserError: says how to get it.
    """
    if backend == VLLM:
        check_vllm()


def load_sampler(backend: str, one: Target) -> Sampler | VllmSampler:
    """A loaded model that continues texts.

    Raises:
        UserError: the backend is not installed, or the model cannot be loaded.
    """
    return (VllmSampler if backend == VLLM else Sampler)(one.model, one.adapter)


def backend_settings(backend: str, batch_size: int) -> dict[str, Any]:
    """What of these decides samples: vLLM batches by itself. Files without a backend are older, and transformers'."""
    return {"batch_size": batch_size} if backend == TRANSFORMERS else {"backend": backend}
