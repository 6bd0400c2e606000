"""The operation this project exists for: both log-probabilities and the divergence from hidden rows, tile by tile."""

from typing import TYPE_CHECKING

from sparsepo_dist.exports import on_demand

if TYPE_CHECKING:
    from sparsepo_dist.ops.config import DivergenceForm, OpsConfig
    from sparsepo_dist.ops.kernels import PLAIN, AlphaDivergence, Divergence, LogitMap
    from sparsepo_dist.ops.statistics import Head, token_stats
else:
    __getattr__ = on_demand(
        __name__,
        {
            "config": "DivergenceForm OpsConfig",
            "kernels": "PLAIN AlphaDivergence Divergence LogitMap",
            "statistics": "Head token_stats",
        },
    )

__all__ = ["PLAIN", "AlphaDivergence", "Divergence", "DivergenceForm", "Head", "LogitMap", "OpsConfig", "token_stats"]
