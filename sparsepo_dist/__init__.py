"""Token-level preference optimisation at scale: sparse masks over rewards and divergence, on DeepSpeed ZeRO-3."""

__version__ = "0.1.0"
