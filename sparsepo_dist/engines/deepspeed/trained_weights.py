"""What a checkpoint's DeepSpeed files hold of the trained model, put together from all ranks' shards on one CPU."""

from __future__ import annotations

import contextlib
import io
import pickle
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from torch import Tensor

from sparsepo_dist.engines.deepspeed.persistence import TAG, only_tensors
from sparsepo_dist.errors import UserError, unreadable

_POLICY = "model."  # of PolicyModel: beside it are masks and the reference's head


def trained_weights(checkpoint: Path, names: Iterable[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Tensors of the policy's model by their names in it, in their whole shapes, on the CPU. No code in files is run.

    ZeRO 1 to 3 keep float32 masters: rounded to the run's dtype they are, bit for bit, what the run computes with. Of
    ZeRO 0, whose masters have no names in the files, there is only what the run computes with.

    Args:
        checkpoint: its folder, from any number of ranks and any ZeRO stage.
        names: the wanted tensors.
        dtype: of floating-point tensors.

    Raises:
        UserError: the files cannot be read, or lack one of them.
    """
    try:
        with only_tensors(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            stored = _sharded(checkpoint) if any((checkpoint / TAG).glob("*_optim_states.pt")) else _whole(checkpoint)
            found = {name: stored[_POLICY + name] for name in names}
            return {name: _tensor(value, dtype) for name, value in found.items()}
    except KeyError as error:
        raise UserError(f"the checkpoint {checkpoint} lacks {error}: it is of another model, or incomplete") from None
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise UserError(f"the weights in the checkpoint {checkpoint} cannot be read: {unreadable(error)}") from None


def _sharded(checkpoint: Path) -> dict[str, Any]:
    """ZeRO 1 to 3. Lazy: a tensor is put together when it is asked for, from files that are mapped, not read."""
    state: dict[str, Any] = get_fp32_state_dict_from_zero_checkpoint(str(checkpoint), tag=TAG, lazy_mode=True)
    return state


def _whole(checkpoint: Path) -> dict[str, Any]:
    """ZeRO 0: every rank holds all of it, in its own dtype."""
    files = sorted((checkpoint / TAG).glob("*_model_states.pt"))
    if not files:
        raise FileNotFoundError(f"no *_model_states.pt in {checkpoint / TAG}")
    state: dict[str, Any] = torch.load(files[0], map_location="cpu", mmap=True, weights_only=True)["module"]
    return state


def _tensor(value: Any, dtype: torch.dtype) -> Tensor:
    whole: Callable[[], Tensor] = value.contiguous  # of a tensor, and of what DeepSpeed puts in place of a sharded one
    tensor = whole()
    return tensor.to(dtype, copy=True) if tensor.is_floating_point() else tensor.clone()
