"""Checkpoints: written aside, complete or not there at all, gone on from bit for bit, exported as a model."""
