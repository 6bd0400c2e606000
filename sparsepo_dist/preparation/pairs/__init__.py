"""A policy's own responses to prompts, ranked by a reward."""
