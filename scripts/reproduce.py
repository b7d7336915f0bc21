"""Measure every table and draw every figure of the documentation.

    python scripts/reproduce.py [--out DIR] [--only NAME ...] [--again]
    python scripts/reproduce.py --quick [--out DIR]

Everything goes into DIR, ``build/reproduced`` where nothing else is said: ``results.md`` with the
tables, the figures, ``results/`` with the numbers as JSON. Those of the repository, which are of
more instruments, stay as they are. Steps that ended with this very code are left alone (``--again``
measures them anew), and those of many runs keep each run as soon as it ends, so that after an
interruption the same command goes on. A step that fails does not stop the others; one whose series
(``--folder``) are not there is skipped, and says so. ``--quick`` takes minutes: small forms of what
needs no training, with wider promises. ``reproduce.json`` in DIR tells how each step ended and how
many minutes it took. The exit status is 0 only where every step that ran ended with what it
promises. The steps, with the minutes they are expected to take on two cores, are sized to end
within two hours and three quarters; each script's ``--help`` says how to measure more instruments,
and a table in ``docs/results.md`` how many are documented and how many are measured here:
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks import provenance  # noqa: E402

MADE = ROOT / "build" / "multislice"  # series made by scripts/multislice_series.py
OUT, QUICK_OUT = ROOT / "build" / "reproduced", ROOT / "build" / "quick"


class Step(NamedTuple):
    """One call of a script.

    script: what follows ``python``; arguments; minutes: about, on two cores; writes: kinds of
    `place`, with the names; quick: arguments of its small form, None where there is none; series:
    option that takes the folder of series; alone: whether it can do without them.
    """

    script: tuple[str, ...]
    arguments: tuple[str, ...]
    minutes: float
    writes: dict[str, str]
    quick: tuple[str, ...] | None = None
    series: str | None = None
    alone: bool = True
    measures: tuple[str, ...] = ()


def _benchmark(name, *arguments, minutes, lines=False, json_name=None, quick=None, series=None,
               alone=True, measures=(), **pictures) -> Step:
    writes = {"json": json_name or name, "document": "results.md", **pictures}
    return Step(("-m", f"benchmarks.{name}"), arguments, minutes,
                writes | ({"lines": name} if lines else {}), quick, series, alone, measures)


def _coverage(frames: int, instruments: int, minutes: float, *more: str) -> Step:
    return _benchmark("coverage", "--frames", str(frames), "--instruments", str(instruments), *more,
                      minutes=minutes, lines=True)


STEPS = {
    "speed": Step(("-m", "benchmarks"), (), 16, {"json": "speed", "document": "results.md"}),
    "speed_float64": Step(("-m", "benchmarks"), ("--float64", "--repetitions", "5"), 2,
                          {"json": "speed_float64", "document": "results.md"}),
    "scaling": _benchmark("scaling", "--repeats", "1", "--scored", "500224", minutes=9),
    "identifiability": _benchmark("identifiability", minutes=3, quick=("--quick",),
                                  picture="identifiability.png"),
    "nuts": _benchmark("nuts", minutes=6),
    "reality": _benchmark("reality", "--frames", "4,8,12", "--published", minutes=12,
                          series="--folder", alone=False),
    "multislice_series": Step(("scripts/multislice_series.py",), (str(MADE), "--series", "4"), 3,
                              {}),
    "multislice": Step(("-m", "benchmarks.reality"),
                       ("--folder", str(MADE), "--name", "multislice"), 3,
                       {"json": "multislice", "document": "results.md"}),
    "coverage": _coverage(8, 60, 3),
    "coverage_drift": _coverage(8, 40, 2, "--drift", "0.5"),
    "coverage_5": _coverage(5, 40, 2),
    "coverage_10": _coverage(10, 40, 3),
    "coverage_20": _coverage(20, 10, 1.7),
    "closed_loop": _benchmark("closed_loop", "--runs", "8", minutes=10, lines=True),
    "closed_loop_latents": _benchmark("closed_loop", "--no-refine", "--runs", "10", minutes=5,
                                      lines=True, json_name="closed_loop_latents"),
    "faults": _benchmark("faults", "--runs", "4", minutes=7, lines=True),
    "verification": _benchmark("verification", minutes=2, lines=True),
    "unlike": _benchmark("unlike", minutes=1, series="--folder"),
    "tracking": _benchmark("tracking", "--instruments", "1", minutes=1, lines=True,
                           measures=("tracking",)),
    "unexplained": _benchmark("unexplained", "--instruments", "1", minutes=4, lines=True,
                              series="--folder"),
    "steps": _benchmark("steps", "--runs", "2", minutes=3.4, lines=True),
    "bound": _benchmark("bound", "--cases", "4", minutes=3.3),
    "broken_symmetry": _benchmark("broken_symmetry", "--instruments", "3", minutes=11, lines=True),
    "tuning": _benchmark("tuning", "--instruments", "2", minutes=3.5, lines=True),
    "comparison": _benchmark("comparison", "--instruments", "2", "--counts", "5,15", minutes=43,
                             lines=True, quick=("--quick",), series="--folder",
                             figure="comparison.svg"),
    "telescope": Step(("scripts/telescope.py",), (), 1,
                      {"json": "telescope", "document": "results.md"},
                      quick=("--instruments", "3", "--samples", "3000")),
    "figures": Step(("scripts/figures.py",), (), 3, {"out": "", "results": ""},
                    quick=("--only", "reconstruction", "windows"), series="--reality"),
}
# Of what a step may take fewer than are documented: what, where the documented ones are (a number
# or the runs, in a result), and the argument that says how many the step takes.
SIZES = {
    "scaling": ("candidates of the E-step", "scaling/memory/candidates", "--scored"),
    "multislice_series": ("series", "multislice/command/series", "--series"),
    "coverage": ("instruments", "coverage/parts/8/rows", "--instruments"),
    "coverage_drift": ("instruments", "coverage/parts/8, drift 0.5 nm/rows", "--instruments"),
    "coverage_5": ("instruments", "coverage/parts/5/rows", "--instruments"),
    "coverage_10": ("instruments", "coverage/parts/10/rows", "--instruments"),
    "coverage_20": ("instruments", "coverage/parts/20/rows", "--instruments"),
    "closed_loop": ("instruments", "closed_loop/runs", "--runs"),
    "closed_loop_latents": ("instruments", "closed_loop_latents/runs", "--runs"),
    "faults": ("loops", "faults/runs", "--runs"),
    "tracking": ("instruments", "tracking/runs", "--instruments"),
    "unexplained": ("instruments of each kind", "unexplained/runs/as they are", "--instruments"),
    "steps": ("instruments", "steps/runs", "--runs"),
    "bound": ("instruments", "bound/cases", "--cases"),
    "broken_symmetry": ("instruments", "broken_symmetry/parts/30/rows", "--instruments"),
    "tuning": ("instruments", "tuning/instruments", "--instruments"),
    "comparison": ("instruments", "comparison/instruments", "--instruments"),
}
__doc__ += "\n" + "\n".join(
    f"    {name:20s} {' '.join((*step.script, *step.arguments)):62s} {step.minutes:3.0f}"
    for name, step in STEPS.items()) + "\n"


def documented(where: str) -> int:
    """How many a kept result has at ``where`` of `SIZES`; runs of one seed or file are one."""
    name, *keys = where.split("/")
    found = json.loads((provenance.RESULTS / f"{name}.json").read_text())
    for key in keys:
        found = found[key]
    return (found if isinstance(found, int)
            else len({run.get("seed", run.get("file")) for run in found}))


def taken(name: str) -> int:
    """How many a step of `SIZES` takes here."""
    arguments = STEPS[name].arguments
    return int(arguments[arguments.index(SIZES[name][-1]) + 1])


def sizes() -> str:
    """Table of how many are documented and how many the steps take here."""
    return provenance.markdown(
        ("step", "of what", "documented", "by this command", "minutes"),
        [(name, what, f"{documented(where):,}", f"{taken(name):,}", f"{STEPS[name].minutes:g}")
         for name, (what, where, _) in SIZES.items()])


def place(kind: str, name: str, out: Path) -> Path:
    """Where an output of a step goes under ``out``."""
    if kind == "json":
        return out / "results" / f"{name}.json"
    if kind == "results":
        return out / "results"
    if kind == "lines":
        return out / "runs" / f"{name}.jsonl"
    return out / name  # the document, pictures, the folder of the figures


def command(step: Step, out: Path, quick: bool = False, folder: Path | None = None):
    """Arguments after ``python``."""
    chosen = step.quick if quick else step.arguments
    outputs = [part for kind, name in step.writes.items()
               for part in (f"--{kind}", str(place(kind, name, out)))]
    series = [step.series, str(folder.resolve())] if step.series and folder else []
    return (*step.script, *chosen, *outputs, *series)


def without_tables(text: str) -> str:
    """A document whose measured tables are empty, so that no old one is taken for a new one."""
    return re.sub(r"(<!-- (?!end |by_one_command )(\w+) -->\n).*?(<!-- end \2 -->)", r"\1\3", text,
                  flags=re.S)


def made_from(arguments, measures=()) -> str:
    """Digest of what a step's numbers come from: the package, all scripts, the model, the call;
    ``measures`` as of `Step`."""
    scripts = [*(ROOT / "benchmarks").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]
    modules = [ROOT / "jaxcal" / f"{name}.py" for name in measures]
    return "-".join((provenance.code(*modules), provenance.digest(
        *sorted(scripts), provenance.MODEL), " ".join(arguments)))


def read_ledger(path: Path) -> dict:
    """{name: {"made_from", "status", "minutes"}} of steps that ended; empty where unreadable."""
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError):
        return {}


def run(arguments) -> int:
    """Exit status of ``python ARGUMENTS`` in the checkout, its output on this terminal."""
    environment = {"OPENBLAS_NUM_THREADS": "1"} | os.environ
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment,
                          check=False).returncode


def told(status: int) -> str:
    return {0: "as promised", 1: "a promise is NOT KEPT"}.get(status, f"FAILED, status {status}")


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path,
                        help="folder for everything (default: build/reproduced)")
    parser.add_argument("--only", nargs="+", choices=STEPS, default=list(STEPS), metavar="NAME")
    parser.add_argument("--again", action="store_true", help="also what was measured already")
    parser.add_argument("--quick", action="store_true", help="the small forms")
    parser.add_argument("--folder", type=Path, default=provenance.SERIES,
                        help="series of another simulator")
    options = parser.parse_args(arguments)
    out = (options.out or (QUICK_OUT if options.quick else OUT)).resolve()
    (out / "results").mkdir(parents=True, exist_ok=True)
    if not (out / "results.md").exists():
        (out / "results.md").write_text(without_tables(provenance.DOCUMENT.read_text()))
    names = [name for name in options.only if STEPS[name].quick or not options.quick]
    record = out / "reproduce.json"
    ledger, summary, start = read_ledger(record), {}, time.perf_counter()
    for number, name in enumerate(names, 1):
        step, begin = STEPS[name], time.perf_counter()
        print(f"\n[{number}/{len(names)}] {name}"
              + ("" if options.quick else f", about {step.minutes:g} min"), flush=True)
        if not step.alone and not options.folder.is_dir():
            summary[name] = f"skipped: {options.folder} is not there"
            continue
        call = command(step, out, options.quick, options.folder)
        source, before = made_from(call, step.measures), ledger.get(name, {})
        if before.get("made_from") == source and not options.again:
            summary[name] = f"up to date, {told(before['status'])}"
            continue
        if options.again and "lines" in step.writes:
            place("lines", step.writes["lines"], out).unlink(missing_ok=True)
        status = run(call)
        minutes = (time.perf_counter() - begin) / 60
        summary[name] = f"{told(status)}, {minutes:.1f} min"
        if status in (0, 1):
            ledger[name] = {"made_from": source, "status": status, "minutes": minutes}
            provenance.write(record, ledger)
    print(f"\n{(time.perf_counter() - start) / 60:.1f} min")
    print("\n".join(f"{name:20s} {text}" for name, text in summary.items()))
    return int(any("NOT KEPT" in text or "FAILED" in text for text in summary.values()))


if __name__ == "__main__":
    sys.exit(main())
