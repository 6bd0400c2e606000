"""How long a step takes: arithmetic, a machine's terms, the time of both and of what is sent."""
