"""launch/train.py whose ranks are told different things: `python -m tests.support.apart FILE`.

The file holds, for each rank, `arguments` of the command line, and `versions` that packages seem to have.
"""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from unittest.mock import patch

from sparsepo_dist.commands.entry import guarded
from sparsepo_dist.engines.deepspeed.distributed import rank
from sparsepo_dist.runs.parsing import parse_train
from sparsepo_dist.runs.run import run


def main() -> None:
    """One rank's part."""
    told = json.loads(Path(sys.argv[1]).read_text())[rank()]
    version = importlib.metadata.version
    with patch.object(importlib.metadata, "version", lambda name: told["versions"].get(name) or version(name)):
        run(parse_train(told["arguments"]))


if __name__ == "__main__":
    sys.exit(guarded(main))
