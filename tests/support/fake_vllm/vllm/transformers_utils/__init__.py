"""What vLLM loads by transformers."""
