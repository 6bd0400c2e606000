"""What `builtin:` names stand for: a small real model, prompts, a reward, and preference pairs made of them."""
