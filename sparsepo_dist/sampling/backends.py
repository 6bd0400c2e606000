"""What samples texts: transformers, or vLLM where it is installed. Neither is imported before it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparsepo_dist.sampling.sampler import Sampler

TRANSFORMERS, VLLM = "transformers", "vllm"


def check_backend(backend: str) -> None:
    """Refuse a backend that is not installed, before anything is loaded.

    Raises:
        UserError: says how to get it.
    """
    if backend == VLLM:
        from sparsepo_dist.sampling.vllm import check_vllm

        check_vllm()


def load_sampler(backend: str, model: str, adapter: str | None = None) -> Sampler:
    """A loaded model that continues texts.

    Args:
        backend: TRANSFORMERS or VLLM.
        model: folder or hub id.
        adapter: folder of an adapter on it.

    Raises:
        UserError: the backend is not installed, or the model cannot be loaded.
        RunError: vLLM fails to load it.
    """
    if backend == VLLM:
        from sparsepo_dist.sampling.vllm import VllmSampler

        return VllmSampler(model, adapter)
    from sparsepo_dist.sampling.transformers import TransformersSampler

    return TransformersSampler(model, adapter)


def backend_settings(backend: str, batch_size: int) -> dict[str, Any]:
    """What of these decides samples: vLLM batches by itself. Files without a backend are older, and transformers'."""
    return {"batch_size": batch_size} if backend == TRANSFORMERS else {"backend": backend}
