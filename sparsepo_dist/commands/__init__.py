"""Command lines: one file a command, and how entry points end."""
