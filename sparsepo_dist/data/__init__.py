"""From files of preference pairs to packed micro-batches, balanced over ranks."""
