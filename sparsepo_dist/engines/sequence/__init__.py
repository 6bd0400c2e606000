"""Sequence parallelism: the packed tokens of a micro-batch shared out over the ranks of a group."""
