"""Seconds of a whole estimate, with and without compilation.

    python -m benchmarks.estimate [--frames 16] [--repeats 3]

A simulated series of three and one of seven knobs is estimated in a fresh process: the first time
with everything compiled, then again with what was compiled. Each repetition has another series, of
another instrument, so that nothing but programs is kept. Writes
``benchmarks/results/estimate.json`` and the table in ``docs/results.md``.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

import jaxcal
from benchmarks import provenance, timing
from benchmarks.baselines.interface import acquire_series
from jaxcal.microscopes import simulated

RESULT = provenance.RESULTS / "estimate.json"
FIRST_SEED = 30_000
KNOBS = {"3": simulated.FIRST_ORDER, "7": simulated.SEVEN}


def series(seed: int, knobs: str, frames: int):
    """A series of a simulated microscope, steps as of `jaxcal simulate`."""
    microscope = jaxcal.SimulatedMicroscope(knob_names=KNOBS[knobs], seed=seed,
                                            hidden_range_nm=150.0)
    return acquire_series(microscope, simulated.random_steps(seed, frames, KNOBS[knobs]))


def one(knobs: str, frames: int, repeats: int) -> dict:
    """Seconds of each repetition in this process, the first with compilation."""
    made = [series(FIRST_SEED + k, knobs, frames) for k in range(repeats + 1)]
    seconds = []
    for each in made:
        start = time.perf_counter()
        jaxcal.estimate(each)
        seconds.append(time.perf_counter() - start)
    return {"knobs": knobs, "frames": frames, "first": seconds[0], "again": seconds[1:]}


def markdown(result) -> str:
    """Table for the documentation."""
    rows = [(f"{case['knobs']} knobs, {case['frames']} frames", f"{case['first']:.0f}",
             f"{np.median(case['again']):.0f} ({min(case['again']):.0f} ... "
             f"{max(case['again']):.0f})") for case in result["cases"]]
    table = provenance.markdown(("estimate", "first (s)", "again: median, range (s)"), rows)
    return f"{table}\n\n{provenance.source(result)}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--case", choices=KNOBS, help="one case in this process, for the script")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.frames < 2 or options.repeats < 1:
        parser.error("--frames should be at least 2, --repeats at least 1")
    if options.case:
        print(json.dumps(one(options.case, options.frames, options.repeats)))
        return 0
    cases = [timing.apart("benchmarks.estimate", "--case", knobs, "--frames", options.frames,
                          "--repeats", options.repeats) for knobs in KNOBS]
    result = {"benchmark": "estimate", "provenance": provenance.provenance(), "cases": cases}
    provenance.write(options.json, result)
    provenance.put("estimate", markdown(result), options.document)
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
