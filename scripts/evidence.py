"""Measure every table and draw every figure of the documentation, one after the other.

    python scripts/evidence.py [--only NAME ...] [--again] [--folder ../shared/reality]
    python scripts/evidence.py --quick

What was measured with this very code is left alone (``--again`` measures it in any case), and every
benchmark keeps its finished runs, so that after an interruption the same command goes on. A step
that fails does not stop the others. ``--quick`` checks on a few instruments that what is claimed
comes out in the claimed order; it takes minutes and writes nothing. The exit status is 0 where
every step ended with what it promises. The steps, with minutes on two cores:
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import provenance  # noqa: E402

LEDGER = ROOT / "build" / "evidence.json"
REALITY = ROOT.parent / "shared" / "reality"


class Step(NamedTuple):
    """One call of a script. command: arguments after ``python``; minutes: about, on two cores;
    quick: arguments of its small form, None where it has none; reality: needs the series of
    another simulator."""

    command: tuple[str, ...]
    minutes: float
    quick: tuple[str, ...] | None = None
    reality: bool = False


def _module(name: str, *arguments: str) -> tuple[str, ...]:
    return ("-m", f"benchmarks.{name}", *arguments)


_COVERAGE = [Step(_module("coverage", "--frames", n, "--instruments", "40"), minutes)
             for n, minutes in (("5", 2), ("10", 3), ("20", 6))]
STEPS = {
    "speed": Step(("-m", "benchmarks", "--json", "benchmarks/results/speed.json", "--document",
                   "docs/results.md"), 1),
    "identifiability": Step(_module("identifiability"), 3, _module("identifiability", "--quick")),
    "nuts": Step(_module("nuts"), 2),
    "reality": Step(_module("reality", "--frames", "4,8,12", "--published"), 12, None, True),
    "coverage": Step(_module("coverage"), 20),
    "coverage_5": _COVERAGE[0], "coverage_10": _COVERAGE[1], "coverage_20": _COVERAGE[2],
    "closed_loop": Step(_module("closed_loop"), 50),
    "closed_loop_latents": Step(_module("closed_loop", "--no-refine", "--runs", "16"), 8),
    "steps": Step(_module("steps"), 15),
    "bound": Step(_module("bound", "--cases", "20"), 15),
    "broken_symmetry": Step(_module("broken_symmetry"), 15, _module("broken_symmetry", "--quick")),
    "comparison": Step(_module("comparison", "--instruments", "16"), 45,
                       _module("comparison", "--quick")),
    "telescope": Step(("scripts/telescope.py",), 1,
                      ("scripts/telescope.py", "--instruments", "3", "--samples", "3000")),
    "figures": Step(("scripts/figures.py",), 3),
}
__doc__ += "\n" + "\n".join(f"    {name:16s} {' '.join(step.command):60s} {step.minutes:3.0f} min"
                            for name, step in STEPS.items()) + "\n"


def made_from(step: Step) -> str:
    """Digest of what a step's numbers come from: the package, all scripts, the model, the call."""
    scripts = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    return "-".join((provenance.code(), provenance.digest(*sorted(scripts), provenance.MODEL),
                     " ".join(step.command)))


def read_ledger(path: Path) -> dict:
    """{name: {"made_from", "status", "minutes"}} of steps that ended; empty where unreadable."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def run(command, folder: Path | None) -> int:
    """Exit status of ``python COMMAND`` from the checkout, its output on this terminal."""
    more = () if folder is None else ("--folder", str(folder))
    environment = {"OPENBLAS_NUM_THREADS": "1"} | os.environ
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return subprocess.run([sys.executable, *command, *more], cwd=ROOT, env=environment,
                          check=False).returncode


def told(status: int) -> str:
    return {0: "as promised", 1: "a promise is NOT KEPT"}.get(status, f"FAILED, status {status}")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="NAME")
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--quick", action="store_true", help="the small forms, nothing is written")
    parser.add_argument("--folder", type=Path, default=REALITY, help="series of another simulator")
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="what was measured already")
    options = parser.parse_args(arguments)
    names = [name for name in options.only if STEPS[name].quick or not options.quick]
    ledger, summary, start = read_ledger(options.ledger), {}, time.perf_counter()
    for number, name in enumerate(names, 1):
        step, begin = STEPS[name], time.perf_counter()
        print(f"\n[{number}/{len(names)}] {name}, about {step.minutes:g} min in full", flush=True)
        before = ledger.get(name, {})
        if step.reality and not options.folder.is_dir():
            summary[name] = f"skipped: {options.folder} is not there"
            continue
        if not (options.quick or options.again) and before.get("made_from") == made_from(step):
            summary[name] = f"up to date, {told(before['status'])}"
            continue
        source = made_from(step)
        status = run(step.quick if options.quick else step.command,
                     options.folder.resolve() if step.reality else None)
        minutes = (time.perf_counter() - begin) / 60
        summary[name] = f"{told(status)}, {minutes:.1f} min"
        if status in (0, 1) and not options.quick:
            ledger[name] = {"made_from": source, "status": status, "minutes": minutes}
            provenance.write(options.ledger, ledger)
    print(f"\n{(time.perf_counter() - start) / 60:.0f} min")
    print("\n".join(f"{name:16s} {text}" for name, text in summary.items()))
    return int(any("NOT KEPT" in text or "FAILED" in text for text in summary.values()))


if __name__ == "__main__":
    sys.exit(main())
