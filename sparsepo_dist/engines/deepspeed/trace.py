"""ZeRO-3's record of the modules that a pass runs through, by which it gathers the next ones in advance."""

from __future__ import annotations

from typing import Any


def forget_trace(engine: Any) -> None:
    """Have a DeepSpeed engine of ZeRO-3 record anew, as if it had not run: modules were run by themselves meanwhile,
    which it has taken for parts of its last pass. Engines of other stages have no such record."""
    optimizer = engine.optimizer
    # An engine without an optimizer has the offloader itself in that place.
    offload = getattr(optimizer, "parameter_offload", optimizer)
    if hasattr(offload, "get_param_coordinator"):
        coordinator = offload.get_param_coordinator()
        if not coordinator.is_invalid_trace():
            coordinator._invalidate_trace()
