"""The exceptions that are written for the user: entry points print them without a stack trace."""

from __future__ import annotations


class UserError(Exception):
    """A mistake the user can mend: its message says what was wrong, where, and what to do."""

    exit_code = 2


class RunError(Exception):
    """A run that cannot go on, through no mistake in its input: its message says what happened and what is left."""

    exit_code = 1


class RankError(RunError):
    """What happened to this rank alone; the others only see it go."""


class StoppedError(Exception):
    """A run that was asked to stop and did, after a checkpoint; a scheduler may start it again."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h
