#!/usr/bin/env python3
"""HumanEval and MBPP with pass@k: `generate`, then `execute` in a sandbox."""

import importlib
import sys
from pathlib import Path

# This file's name is that of a module of the standard library, which pdb, and so torch, imports.
sys.path[:] = [path for path in sys.path if path != str(Path(__file__).resolve().parent)]
if __name__ == "code":  # the library's was meant, by a script beside this one
    del sys.modules["code"]
    importlib.import_module("code")


def main() -> int:
    """The exit code."""
    from sparsepo_dist.commands.entry import guarded, say
    from sparsepo_dist.evaluation.code.command import main as evaluate

    return guarded(evaluate, sys.argv[1:], say)


if __name__ == "__main__":
    sys.exit(main())
