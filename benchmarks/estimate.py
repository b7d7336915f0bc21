"""Whole estimates and whole calibrations, with compilation and without.

Part of ``python -m benchmarks``. A simulated series of three and one of seven knobs is estimated,
and a simulated microscope of seven knobs calibrated, each in a fresh process: the first time with
everything compiled, then again with what was compiled. ``cache filled`` are estimates in a process
that found what another one of the same work left in JAX's persistent cache
(``JAX_COMPILATION_CACHE_DIR``). Each repetition has another instrument, so that nothing but
programs is kept; there are `REPEATS` at most. The clock starts after the imports and the simulation
of a series; a calibration takes as many frames as it needs, ten at most and one to verify, and
simulating them counts. What the first takes longer stands as compilation.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial

import jax

import jaxcal
from benchmarks import timing
from benchmarks.baselines.interface import acquire_series
from jaxcal.microscopes import simulated

FIRST_SEED = 30_000
FRAMES, REPEATS = 16, 3
CASES = {"estimate 3": simulated.FIRST_ORDER, "estimate 7": simulated.SEVEN,
         "calibrate 7": simulated.SEVEN}


def one(case: str, frames: int, repeats: int) -> dict:
    """Seconds and frames of each repetition in this process, the first with compilation, and its
    highest memory."""
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
    return {"frames": taken, "first": seconds[0], "again": seconds[1:],
            "peak_mb": timing.peak_memory_mb()}


def timed(told: dict) -> timing.Timing:
    """What `one` told."""
    usual = timing.quartiles(told["again"])[1]
    return timing.Timing(max(told["first"] - usual, 0.0), tuple(told["again"]), None)


def run(repetitions: int = timing.REPETITIONS) -> Iterator[dict]:
    """One entry a case."""
    if jax.config.jax_enable_x64:
        print("estimate: made in single precision, its rows are left out", file=sys.stderr)
        return
    repeats = min(repetitions, REPEATS)
    for case in CASES:
        what, knobs = case.split()
        apart = partial(timing.apart, "benchmarks.estimate", case, "--repeats", repeats)
        told = apart(environment=timing.UNCACHED)
        timings, others = {"jaxcal": timed(told)}, {}
        if what == "estimate":
            with tempfile.TemporaryDirectory() as folder:
                kept = [apart(environment={"JAX_COMPILATION_CACHE_DIR": folder}) for _ in range(2)]
            timings["cache filled"] = timed(kept[-1])
            others["cache filled"] = {"compile_seconds": timings["cache filled"].compile}
        frames = " ... ".join(map(str, sorted({min(told["frames"]), max(told["frames"])})))
        yield timing.entry(what, {"knobs": int(knobs), "frames": frames}, timings, 1, f"{what}s",
                           None, others=others, peak_mb=told["peak_mb"])


def main(arguments=None) -> int:
    """One case in this process, for `run`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.estimate")
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    options = parser.parse_args(arguments)
    print(json.dumps(one(options.case, FRAMES, options.repeats)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
