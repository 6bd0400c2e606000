"""Drawing of experiments."""
