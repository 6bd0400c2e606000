"""The operation this project exists for: both log-probabilities and the divergence from hidden rows, tile by tile."""

from sparsepo_dist.ops.config import OpsConfig
from sparsepo_dist.ops.kernels import PLAIN, AlphaDivergence, Divergence, DivergenceForm, LogitMap
from sparsepo_dist.ops.token_stats import Head, token_stats

__all__ = ["PLAIN", "AlphaDivergence", "Divergence", "DivergenceForm", "Head", "LogitMap", "OpsConfig", "token_stats"]
