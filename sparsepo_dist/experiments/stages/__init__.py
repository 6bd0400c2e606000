"""Stages of an experiment: commands whose results are found by what they depend on, and run at most once each."""
