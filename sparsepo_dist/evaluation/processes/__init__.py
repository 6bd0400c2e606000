"""Processes of evaluation: locks that living ones hold, and ends that come with another's."""
