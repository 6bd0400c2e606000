"""The training loop, its schedule, its metrics and what it leaves in the run's folder."""
