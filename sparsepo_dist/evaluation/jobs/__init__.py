"""Evaluation jobs: a YAML file of models and suites, run by a queue, at most once each."""
