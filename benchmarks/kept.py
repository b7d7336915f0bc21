"""Finished runs of long benchmarks, a line of JSON each, so that the same command goes on with the
next after an interruption. A line holds the settings it was made with, and is taken over where
these are the same."""

import json
import os
import sys
from pathlib import Path


def read(path: Path, wanted: dict, result: Path | None = None) -> dict[int, dict]:
    """Runs by seed that an earlier call made with the same settings, from its lines (a torn one is
    left out) and from its result, where that is kept and the lines are not."""
    runs = {}
    if result is not None and result.is_file():
        earlier = json.loads(result.read_text())
        if earlier["settings"] == wanted:
            runs = {run["seed"]: run for run in earlier["runs"]}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        if entry["settings"] == wanted:
            runs[entry["run"]["seed"]] = entry["run"]
    return runs


def add(path: Path, wanted: dict, run: dict) -> None:
    """Append a run as one line, on disk before this returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as lines:
        if lines.tell() and (lines.seek(-1, os.SEEK_END), lines.read(1))[1] != b"\n":
            lines.write(b"\n")  # after a line that a kill cut off
        lines.write(json.dumps({"settings": wanted, "run": run}).encode() + b"\n")
        lines.flush()
        os.fsync(lines.fileno())


def each(lines: Path, wanted: dict, seeds, make, told, result: Path | None = None) -> list[dict]:
    """The runs of seeds: those that are kept, the others by ``make(seed)``, each kept as soon as
    it ends and told of on stderr as ``told(run)`` has it."""
    done = read(lines, wanted, result)
    for seed in seeds:
        if seed not in done:
            done[seed] = make(seed)
            add(lines, wanted, done[seed])
            print(told(done[seed]), file=sys.stderr, flush=True)
    return [done[seed] for seed in seeds]
