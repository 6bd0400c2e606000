"""Prompts and responses become token ids."""
