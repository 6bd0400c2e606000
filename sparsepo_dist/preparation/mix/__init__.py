"""argilla/dpo-mix-7k, for the ablations."""
