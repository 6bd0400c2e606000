"""A driver of evaluation jobs that costs nothing: it notes that it ran, then does what `--do` says.

ok; user: a mistake of the user; die; once: die, but not again; wait: for a file OPEN beside the notes, with a
child that waits too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

WAITER = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.02)"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--do", default="ok")
    parser.add_argument("--tasks", nargs="+", default=["one"])
    parser.add_argument("--needs", help="a file that must be in the model's folder")
    given = parser.parse_args()
    name = f"{given.output.parent.parent.name}/{given.output.parent.name}"
    child = None
    if given.do == "wait":
        child = subprocess.Popen([sys.executable, "-c", WAITER, str(given.notes.parent / "OPEN")])
    note = {"job": name, "pid": os.getpid(), "child": child and child.pid, "threads": os.environ.get("OMP_NUM_THREADS")}
    before = given.notes.read_text().count(f'"{name}"') if given.notes.exists() else 0
    with given.notes.open("a") as notes:
        notes.write(json.dumps(note) + "\n")
    sys.stderr.write(f"evaluating {given.model}\n")
    model = Path(given.model)
    if given.needs and not any((folder / given.needs).is_file() for folder in (model, model / "final")):
        sys.stderr.write(f"{given.needs} is not in {given.model}\n")
        return 1
    if given.do == "user":
        sys.stderr.write("error: --tasks: there is no such task\n")
        return 2
    if given.do == "die" or (given.do == "once" and not before):
        raise RuntimeError("out of something")
    while child is not None and child.poll() is None:
        time.sleep(0.02)
    given.output.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(given.tasks):
        record = {"task": task, "settings": {"limit": 5}, "result": {"acc": 0.25 + number, "n": {"all": 4}, "ok": True}}
        (given.output / f"{task}.json").write_text(json.dumps(record))
    (given.output / "summary.json").write_text(json.dumps({"average": 3}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
