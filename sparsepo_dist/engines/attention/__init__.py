"""How a batch's layout reaches the attention of any transformers model: which kernel, and what it is told."""
