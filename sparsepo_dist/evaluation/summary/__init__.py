"""TL;DR summaries: sampled at several temperatures, measured against references and against each other."""
