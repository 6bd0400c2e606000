"""What `python -m benchmarks.soak` does to a run: its ranks, the nodes that they are on, kills and cuts."""
