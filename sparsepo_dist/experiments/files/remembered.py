"""What code says of an experiment's file, remembered as long as that code is the same: asking it anew takes torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from typing import Any

from sparsepo_dist.disk import cache_folder, write_whole
from sparsepo_dist.experiments.stages.code import code_hash
from sparsepo_dist.files import read_json


def remembered(modules: tuple[str, ...], question: Any, ask: Callable[[], Any]) -> Any:
    """The answer to a question, as JSON has it; asked again where it is not known, or cannot be read or kept.

    Args:
        modules: of the package, without its name, at which the code that answers begins.
        question: whatever else decides the answer.
        ask: answers it.

    Raises:
        UserError: as `ask`.
    """
    key = hashlib.sha256(json.dumps([code_hash(modules), question], sort_keys=True).encode()).hexdigest()
    file = cache_folder() / "experiments" / f"{key}.json"
    try:
        return read_json(file)["answer"]
    except (OSError, ValueError, KeyError, TypeError):
        text = json.dumps({"answer": ask()})
    with contextlib.suppress(OSError):  # a home that cannot be written, or is full, costs seconds
        write_whole(file, text + "\n")
    return json.loads(text)["answer"]
