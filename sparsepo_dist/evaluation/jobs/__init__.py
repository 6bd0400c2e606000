"""Evaluation jobs: a YAML file of models and suites, run by a local queue or by Slurm, at most once each.

A job is a folder with a lock that its living processes hold, a state and a log. Whoever holds the lock runs the job;
all others look at the state. So nothing has to be told, and whatever is killed leaves nothing behind but its log.
"""
