"""What is to be planned: a run's request, and the shape of its micro-batches."""
