"""Score ``jaxcal estimate`` on series that another simulator made.

    python -m benchmarks.reality [--folder ../shared/reality] [--published] [--frames 4,6,8,12,16]
    python -m benchmarks.reality --folder FOLDER --name multislice  # scripts/multislice_series.py

The folder holds series (HDF5) and ``truth.json``. Each series is given to a fresh ``jaxcal
estimate``; the wall time is that of the whole process, compilation included. ``--published`` adds
the form without the simulated mean, ``--frames`` the estimates from the first so many frames of
each series; these two run in this process, from the Python API, and share compiled code.

x0 is judged where the knobs act as told; where gains are off and the state drifts (tier D), the
setting that tunes the instrument at the time of the last frame is. The series test: nothing is
trained or chosen with them. Writes ``benchmarks/results/NAME.json`` and the tables NAME_command,
NAME_published and NAME_frames in ``docs/results.md``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

import jaxcal
from benchmarks import provenance
from jaxcal import estimation, observation, results
from jaxcal import model as models

FOLDER = provenance.SERIES
FIRST = ("C10", "C12a", "C12b")
GROUPS = {"A and B": "AB", "A": "A", "B": "B", "C": "C", "D": "D"}


def scored(path: Path) -> dict:
    """Truth {file: entry} of the series that count, tiers A to D, in the order of their names.

    Raises:
        ValueError: the folder has no truth.json.
    """
    file = path / "truth.json"
    if not file.is_file():
        raise ValueError(f"{file}: no such file; give the folder of the series with --folder")
    truth = json.loads(file.read_text())
    return {name: truth[name] for name in sorted(truth) if truth[name]["tier"] in "ABCD"}


def wanted(truth: dict, frames: int | None = None) -> dict:
    """{knob: nm} that the answer should be, from the first ``frames`` frames (all where None)."""
    names = truth["knob_names"]
    x0 = np.array([truth["x0_nm"][name] for name in names])
    if truth["tier"] == "D":
        drift = np.array(truth["drift_nm"])[-1 if frames is None else frames - 1]
        x0 = -np.linalg.solve(np.array(truth["G"]), x0 + drift)
    return dict(zip(names, x0.tolist(), strict=True))


def row(file: str, truth: dict, answer: dict | None, first: int | None = None, **more) -> dict:
    """Errors and stated standard deviations of one answer (an entry of the result JSON).

    ``first``: how many frames it was made from, all where None; ``more`` is kept along.
    """
    start = {"file": file, "tier": truth["tier"], **more}
    if answer is None:
        return start | {"missing": True}
    value, sd = ("tuned_knobs_nm", "tuned_sd_nm") if truth["tier"] == "D" else ("x0_nm", "sd_nm")
    right = wanted(truth, first)
    return start | {
        "missing": False,
        "error_nm": {name: answer[value][name] - right[name] for name in right},
        "sd_nm": {name: answer[sd][name] for name in right},
        **{key: answer[key] for key in
           ("frames_used", "rejected_frames", "converged", "message", "seconds")},
    }


def summarise(rows) -> dict:
    """By tier, of C10 and C12 and of C21 and C23: median, quartiles and largest |error|, rms
    error/sd."""
    summary = {}
    for label, tiers in GROUPS.items():
        chosen = [r for r in rows if r["tier"] in tiers]
        if not chosen:
            continue
        summary[label] = {"series": len(chosen), "missing": sum(r["missing"] for r in chosen)}
        for order, first in (("first", True), ("second", False)):
            pairs = np.array([(r["error_nm"][k], r["sd_nm"][k]) for r in chosen
                              if not r["missing"] for k in r["error_nm"] if (k in FIRST) == first])
            if len(pairs):
                error, sd = pairs.T
                summary[label][order] = {
                    "n": len(error), "median_nm": float(np.median(np.abs(error))),
                    "quartiles_nm": np.quantile(np.abs(error), (0.25, 0.75)).tolist(),
                    "largest_nm": float(np.abs(error).max()),
                    "rms_error_over_sd": float(np.sqrt(np.mean((error / sd) ** 2))),
                    "within_2_sd": float(np.mean(np.abs(error) <= 2 * sd)),
                }
    return summary


def ask(series: Path, out: Path, model=None, seed: int = 0) -> tuple[float, str]:
    """A fresh ``jaxcal estimate`` of one series into ``out``: wall seconds, last line on stderr."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    command = [sys.executable, "-m", "jaxcal.cli", "estimate", str(series), "--json", str(out),
               "--seed", str(seed), *(["--model", str(model)] if model else [])]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=provenance.ROOT, env=environment, capture_output=True,
                          text=True)
    return time.perf_counter() - start, (done.stderr.strip().splitlines() or [""])[-1]


def by_command(folder: Path, truth: dict, model=None, seed: int = 0) -> list[dict]:
    """Rows of the command's answers, with wall seconds."""
    rows = []
    for file, entry in truth.items():
        with tempfile.TemporaryDirectory() as scratch:
            out = Path(scratch) / "out.json"
            wall, fault = ask(folder / file, out, model, seed)
            answer = json.loads(out.read_text()).get(file) if out.is_file() else None
        more = {} if answer else {"fault": fault}
        rows.append(row(file, entry, answer, wall_seconds=wall, **more))
        print(f"{file}: {wall:.0f} s", file=sys.stderr, flush=True)
    return rows


def from_api(folder: Path, truth: dict, counts, model, *, published=False, seed: int = 0):
    """Rows of estimates from the first so many frames (None: all), with compiled code shared."""
    loaded = {file: jaxcal.read_series(folder / file) for file in truth}
    length = max(len(series.frames) for series in loaded.values())
    rows = []
    for file, entry in truth.items():
        series = loaded[file]
        seen = [observation.observe(frame, series.optics) for frame in series.frames]
        for count in counts:
            if count is not None and count > len(seen):
                continue
            part = replace(series, frames=series.frames[:count], knobs_nm=series.knobs_nm[:count])
            answer = estimation.infer(
                seen[:count], part, model, seed=seed, published=published, length=length)
            rows.append(row(file, entry, results.entry(answer), count, frames=count))
            print(f"{file}, {count or 'all'} frames: {answer.seconds:.0f} s", file=sys.stderr,
                  flush=True)
    return rows


def series_table(rows) -> str:
    """Errors of the first-order knobs, series by series."""
    lines = []
    for r in rows:
        if r["missing"]:
            lines.append((r["file"], r["tier"], "no answer", *[""] * 4))
            continue
        errors = [f"{r['error_nm'][k]:+.1f} ± {r['sd_nm'][k]:.1f}" for k in FIRST]
        time_ = r.get("wall_seconds", r["seconds"])
        lines.append((r["file"], r["tier"], *errors, r["frames_used"], f"{time_:.0f}"))
    return provenance.markdown(
        ("series", "tier", *(f"{name} error ± sd (nm)" for name in FIRST), "frames", "seconds"),
        lines)


def tier_table(rows) -> str:
    """Medians, quartiles, largest errors and the calibration of the widths, tier by tier."""
    lines = []
    for label, entry in summarise(rows).items():
        for order, name in (("first", "C10, C12"), ("second", "C21, C23")):
            if order in entry:
                e = entry[order]
                low, high = e["quartiles_nm"]
                lines.append((f"{label}, {name}", entry["series"], f"{e['median_nm']:.1f}",
                              f"{low:.1f} ... {high:.1f}", f"{e['largest_nm']:.1f}",
                              f"{e['rms_error_over_sd']:.2f}",
                              f"{100 * e['within_2_sd']:.0f} %"))
    return provenance.markdown(
        ("tier", "series", "median abs. error (nm)", "quartiles (nm)", "largest (nm)",
         "rms error/sd", "within 2 sd"), lines)


def frames_table(rows) -> str:
    """Median and largest error of C10 and C12 against the number of frames."""
    counts = sorted({r["frames"] for r in rows})
    groups = [label for label in ("A and B", "C", "D")
              if any(r["tier"] in GROUPS[label] for r in rows)]
    lines = []
    for count in counts:
        summary = summarise([r for r in rows if r["frames"] == count])
        cells = [f"{e['median_nm']:.1f}, {e['largest_nm']:.1f} ({e['rms_error_over_sd']:.1f})"
                 if (e := summary.get(label, {}).get("first")) else "" for label in groups]
        lines.append((count, *cells))
    return provenance.markdown(("first frames", *(f"tier {label}" for label in groups)), lines)


def tables(result, name: str) -> dict[str, str]:
    """Tables for the documentation, by name, of the parts that a result has."""
    found = {}
    for kind, ending in (("command", "command"), ("published", "published"),
                         ("by_frames", "frames")):
        if kind not in result:
            continue
        rows = result[kind]["series"]
        used = [r["frames_used"] for r in rows if not r["missing"]] or [0]
        sampled = (f"{len({r['file'] for r in rows})} series, {min(used)} to {max(used)} frames "
                   "used.")
        shown = [frames_table(rows)] if kind == "by_frames" else [tier_table(rows),
                                                                  series_table(rows)]
        found[f"{name}_{ending}"] = "\n\n".join(
            [*shown, f"{sampled} {provenance.source(result[kind])}"])
    return found


def part(rows, made) -> dict:
    return {"provenance": made, "summary": summarise(rows), "series": rows}


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--published", action="store_true", help="also without simulated mean")
    parser.add_argument("--frames", help="also from the first 4,6,... frames")
    parser.add_argument("--no-command", action="store_true", help="leave the command out")
    parser.add_argument("--model", help="weights (default: the shipped model)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--name", default="reality", help="of the tables and of the result")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    try:
        counts = [int(k) for k in options.frames.split(",")] if options.frames else []
        folder, truth = options.folder.resolve(), scored(options.folder)
        model = models.load(options.model)
    except ValueError as error:
        parser.error(str(error))
    made = provenance.provenance(options.model)
    place = options.json or provenance.RESULTS / f"{options.name}.json"
    result = json.loads(place.read_text()) if place.is_file() else {}
    if not options.no_command:
        weights = Path(options.model).resolve() if options.model else None
        result["command"] = part(by_command(folder, truth, weights, options.seed), made)
    if options.published:
        result["published"] = part(from_api(
            folder, truth, [None], model, published=True, seed=options.seed), made)
    if counts:
        rows = from_api(folder, truth, counts, model, seed=options.seed)
        result["by_frames"] = {"provenance": made, "series": rows}
    provenance.write(place, result)
    for name, text in tables(result, options.name).items():
        provenance.put(name, text, options.document)
        print(f"{name}\n\n{text}\n")
    return int(any(r["missing"] for r in result.get("command", {}).get("series", ())))


if __name__ == "__main__":
    sys.exit(main())
