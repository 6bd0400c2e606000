"""A decoder as transformers has it: its configuration and tokenizer read, its weights loaded, its backbone run."""
