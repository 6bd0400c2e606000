"""Preferences: held-out pairs by implicit reward, responses against others' by a reward model or a judge."""
