"""One page of several runs and results: everything is in it, and nothing is fetched."""
