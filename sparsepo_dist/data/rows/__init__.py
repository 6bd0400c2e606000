"""Rows become checked prompts and responses, whatever their columns are named."""
