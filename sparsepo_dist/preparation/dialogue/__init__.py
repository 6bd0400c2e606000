"""Anthropic HH, as text or as messages."""
