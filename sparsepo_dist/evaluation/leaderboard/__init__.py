"""Open LLM Leaderboard v2: lm-eval's tasks, one after the other, and scores as the leaderboard normalises them."""
