"""Evaluation of trained models: leaderboard, code, summaries, reward against KL, and jobs that run them."""
