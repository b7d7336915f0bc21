"""What a user waits for before there is an answer: imports, and a first estimate by the command.

Part of ``python -m benchmarks``. Each repetition is a process of its own, timed from its start to
its end. ``python`` does nothing but start; ``jaxcal estimate`` is the command on a simulated series
of 16 frames, with nothing compiled before, or (``cache filled``) with what a run before it left in
JAX's persistent cache. It is repeated `ESTIMATES` times at most; the memory is the highest of these
processes.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

import jaxcal
from benchmarks import provenance, timing
from benchmarks.baselines.interface import acquire_series
from jaxcal.microscopes import simulated

SEED, FRAMES, ESTIMATES = 30_100, 16, 5
KNOBS = {3: simulated.FIRST_ORDER, 7: simulated.SEVEN}
IMPORTS = {"jaxcal": "import jaxcal", "jaxcal.estimate": "from jaxcal import estimate",
           "jax": "import jax.numpy", "python": "pass"}


def process(*arguments, cache: str | None = None) -> None:
    """Run Python with these arguments; ``cache``: folder of the persistent cache, none where None.

    Raises:
        RuntimeError: it failed; the message has the end of what it said.
    """
    environment = {name: value for name, value in os.environ.items()
                   if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_COMPILATION_CACHE_DIR": cache} if cache else {}
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=provenance.ROOT,
                          capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: {done.stderr.strip()[-300:]}")


def estimates(series: Path, repetitions: int) -> dict[str, timing.Timing]:
    """Of the command on a series, with nothing compiled and with the cache filled, in turn."""
    command = ("-m", "jaxcal.cli", "estimate", str(series))
    with tempfile.TemporaryDirectory() as cache:
        process(*command, cache=cache)  # fills it
        seconds = {"jaxcal": [], "cache filled": []}
        for _ in range(repetitions):
            for name, where in (("jaxcal", None), ("cache filled", cache)):
                start = time.perf_counter()
                process(*command, cache=where)
                seconds[name].append(time.perf_counter() - start)
    return {name: timing.Timing(0.0, tuple(spent), None) for name, spent in seconds.items()}


def run(repetitions: int = timing.REPETITIONS) -> Iterator[dict]:
    """One entry of the imports, and one a number of knobs."""
    if jax.config.jax_enable_x64:
        print("startup: made in single precision, its rows are left out", file=sys.stderr)
        return
    forms = {name: timing.Form(process, ("-c", code)) for name, code in IMPORTS.items()}
    yield timing.entry("import", {}, timing.in_turn(forms, repetitions), 1, "starts", None)
    for count, names in KNOBS.items():
        bench = jaxcal.SimulatedMicroscope(knob_names=names, seed=SEED, hidden_range_nm=150.0)
        series = acquire_series(bench, simulated.random_steps(SEED, FRAMES, names))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "series.h5"
            jaxcal.write_series(path, series)
            taken = estimates(path, min(repetitions, ESTIMATES))
        yield timing.entry("jaxcal estimate", {"knobs": count, "frames": FRAMES}, taken, 1,
                           "estimates", None, peak_mb=timing.peak_of_processes_mb())
