#!/usr/bin/env python3
"""HumanEval and MBPP with pass@k: `generate`, then `execute` in a sandbox."""

import importlib
import sys

from sparsepo_dist.evaluation.script_folder import leave_script_folder

leave_script_folder(__file__)
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
