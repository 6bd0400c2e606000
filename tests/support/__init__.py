"""What tests build instead of downloading: tiny models, a tokenizer, pairs, and launches of real ranks."""
