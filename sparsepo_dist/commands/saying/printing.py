"""What is printed for this package by others (libraries' loggers, warnings, stack traces) holds no control characters
either: they pass on what files and models hold."""

from __future__ import annotations

import logging
import sys
import traceback
import warnings
from typing import Any

from sparsepo_dist.errors import printable


def keep_printable() -> None:
    """From now on log records and warnings are printable, whoever writes them: libraries have handlers of their own."""
    logging.setLogRecordFactory(_PrintableRecord)
    warnings.formatwarning = _formatted


def print_traceback() -> None:
    """The stack trace of the exception that is being handled, on standard error."""
    print(printable(traceback.format_exc()), end="", file=sys.stderr, flush=True)  # noqa: T201


class _PrintableRecord(logging.LogRecord):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.exc_info and self.exc_info[0] is not None:
            # What a formatter finds here it does not format again.
            self.exc_text = printable("".join(traceback.format_exception(*self.exc_info)).rstrip("\n"))

    def getMessage(self) -> str:  # noqa: N802
        return printable(super().getMessage())


_format = warnings.formatwarning


def _formatted(*args: Any, **kwargs: Any) -> str:
    return printable(_format(*args, **kwargs))
