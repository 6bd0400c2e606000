"""What watches over a run: requests to stop, lost ranks, hangs, lost listeners."""
