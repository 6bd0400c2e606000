"""`sparsepo merge`: an adapter and its model as one full model."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from sparsepo_dist.files import argument, path_argument


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="sparsepo merge", description="Write an adapter and its model as one model.")
    parser.add_argument("adapter", type=path_argument, help="folder of the adapter: a run's final/")
    parser.add_argument("output", type=path_argument, help="folder to write")
    parser.add_argument(
        "--base", type=argument, help="the model it belongs on (default: the one that the adapter names)"
    )
    given = parser.parse_args(arguments)

    from sparsepo_dist.commands.entry import guarded, say
    from sparsepo_dist.engines.merging import merge_adapter

    return guarded(lambda: say(f"The merged model is in {merge_adapter(given.adapter, given.output, given.base)}"))
