"""Which pairs make a step, how they are dealt out to ranks, and how they lie in a micro-batch."""
