"""Seconds of a whole estimate and of a whole calibration, with and without compilation.

    python -m benchmarks.estimate [--frames 16] [--repeats 3]

A simulated series of three and one of seven knobs is estimated, and a simulated microscope of seven
knobs calibrated, each in a fresh process: the first time with everything compiled, then again with
what was compiled. Each repetition has another instrument, so that nothing but programs is kept. A
calibration takes as many frames as it needs, ten at most and one to verify, and the simulated
frames take their time too. Writes
``benchmarks/results/estimate.json`` and the table in ``docs/results.md``.
"""

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

import jaxcal
from benchmarks import provenance, timing
from benchmarks.baselines.interface import acquire_series
from jaxcal.microscopes import simulated

RESULT = provenance.RESULTS / "estimate.json"
FIRST_SEED = 30_000
CASES = {"estimate, 3 knobs": simulated.FIRST_ORDER, "estimate, 7 knobs": simulated.SEVEN,
         "calibrate, 7 knobs": simulated.SEVEN}


def one(case: str, frames: int, repeats: int) -> dict:
    """Seconds and frames of each repetition in this process, the first with compilation."""
    knobs, seeds = CASES[case], range(FIRST_SEED, FIRST_SEED + repeats + 1)
    seconds, taken = [], []
    for seed in seeds:
        microscope = jaxcal.SimulatedMicroscope(knob_names=knobs, seed=seed, hidden_range_nm=150.0)
        if case.startswith("estimate"):  # steps as of `jaxcal simulate`
            series = acquire_series(microscope, simulated.random_steps(seed, frames, knobs))
            work = partial(jaxcal.estimate, series)
        else:
            work = partial(jaxcal.calibrate, microscope, seed=seed)
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
        taken.append(microscope.frames_taken)
    return {"case": case, "frames": taken, "first": seconds[0], "again": seconds[1:]}


def markdown(result) -> str:
    """Table for the documentation."""
    rows = [(case["case"], f"{case['first']:.0f}", f"{np.median(case['again']):.0f} "
             f"({min(case['again']):.0f} ... {max(case['again']):.0f})",
             ", ".join(map(str, sorted(set(case["frames"]))))) for case in result["cases"]]
    table = provenance.markdown(
        ("what", "first (s)", "again: median, range (s)", "frames"), rows)
    return f"{table}\n\n{provenance.source(result)}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=CASES, help="one case in this process, for the script")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.frames < 2 or options.repeats < 1:
        parser.error("--frames should be at least 2, --repeats at least 1")
    if options.case:
        print(json.dumps(one(options.case, options.frames, options.repeats)))
        return 0
    cases = [timing.apart("benchmarks.estimate", "--case", case, "--frames", options.frames,
                          "--repeats", options.repeats) for case in CASES]
    result = {"benchmark": "estimate", "provenance": provenance.provenance(), "cases": cases}
    provenance.write(options.json, result)
    provenance.put("estimate", markdown(result), options.document)
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
