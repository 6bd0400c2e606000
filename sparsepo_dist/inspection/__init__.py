"""What a run's data is like: pairs as its model reads them, and numbers of all. No model is loaded."""
