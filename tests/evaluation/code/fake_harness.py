"""A checkout of BigCode's harness as far as its command line goes: main.py takes its options and writes its files."""

from __future__ import annotations

import json
from pathlib import Path

# main.py's options and the names of its files, as of commit 8fc5bae6 of the harness.
MAIN = """
import argparse, json, os, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
for name in ("model", "peft_model", "tasks", "precision", "save_generations_path", "do_sample"):
    parser.add_argument("--" + name)
for name in ("n_samples", "batch_size", "max_length_generation", "seed", "save_every_k_tasks", "limit"):
    parser.add_argument("--" + name, type=int)
for name in ("temperature", "top_p"):
    parser.add_argument("--" + name, type=float)
for name in ("generation_only", "save_generations", "save_references", "allow_code_execution"):
    parser.add_argument("--" + name, action="store_true")
parser.add_argument("--load_generations_intermediate_paths", nargs="*")
given = parser.parse_args()
log = Path(__file__).parent / "calls.jsonl"
earlier = []
if given.load_generations_intermediate_paths:
    earlier = json.loads(Path(given.load_generations_intermediate_paths[0]).read_text())
with log.open("a") as file:
    seen = {"earlier": earlier, "folder": sorted(os.listdir()), "offline": os.environ.get("HF_HUB_OFFLINE")}
    file.write(json.dumps({**vars(given), **seen}) + "\\n")
if (Path(__file__).parent / "waits").exists():
    (Path(__file__).parent / "pid").write_text(str(os.getpid()))
    time.sleep(600)
total = given.limit or 3
programs = earlier + [["x = %d" % n] * given.n_samples for n in range(len(earlier), total)]
beginning = os.path.splitext(given.save_generations_path)[0] + "_" + given.tasks
if (Path(__file__).parent / "dies").exists():
    part = programs[:2] + [programs[2][:1]]
    Path(beginning + "_intermediate.json").write_text(json.dumps(part))
    sys.exit(7)
if (Path(__file__).parent / "short").exists():
    programs = [samples[:1] for samples in programs]
Path(beginning + ".json").write_text(json.dumps(programs))
Path("references_%s.json" % given.tasks).write_text(json.dumps(["assert x < 2"] * total))
"""


class FakeHarness:
    """The checkout, and what was asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bigcode_eval").mkdir(parents=True)
        (folder / "main.py").write_text(MAIN)

    @property
    def calls(self) -> list[dict[str, object]]:
        """Options of each start, what it was given of an earlier one, and what it saw."""
        log = self.folder / "calls.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
