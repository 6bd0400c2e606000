"""The folder of a driver's script, which Python puts first where it looks for modules."""

from __future__ import annotations

import sys
from pathlib import Path


def leave_script_folder(script: str) -> None:
    """Take a script's folder off the import path: its code.py would stand in for the standard library's module, which
    pdb, and so torch, imports."""
    folder = Path(script).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != folder]
