"""Token ids of all pairs on disk: made once per machine, mapped into memory by all its ranks."""
