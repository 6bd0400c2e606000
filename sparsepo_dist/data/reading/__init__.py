"""Rows from files, folders and hubs, each with the place it came from."""
