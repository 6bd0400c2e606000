"""The one exception that is written for the user."""


class UserError(Exception):
    """A mistake the user can mend: its message says what was wrong, where, and what to do.

    Entry points print it without a stack trace and exit with code 2.
    """
