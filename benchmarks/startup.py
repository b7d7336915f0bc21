"""What a user waits for before there is an answer: imports, and a first estimate by the command.

Part of ``python -m benchmarks``. Each repetition is a process of its own, timed from its start to
its end. ``python`` does nothing but start; ``jaxcal estimate`` is the command on a simulated series
of 16 frames, with nothing compiled before, or (``cache filled``) with what a run before it left in
JAX's persistent cache. It is repeated `ESTIMATES` times at most; the memory is the highest of such
a process with nothing compiled.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import jax

import jaxcal
from benchmarks import timing
from benchmarks.baselines.interface import acquire_series
from jaxcal.microscopes import simulated

SEED, FRAMES, ESTIMATES = 30_100, 16, 3
KNOBS = {3: simulated.FIRST_ORDER, 7: simulated.SEVEN}
IMPORTS = {"jaxcal": "import jaxcal", "jaxcal.estimate": "from jaxcal import estimate",
           "jax": "import jax.numpy", "python": "pass"}


def command(series: Path, out: Path, environment: dict) -> float:
    """Seconds of the command on a series; what it took of memory goes to ``out``, MB."""
    program = (f"from jaxcal.cli import main; status = main(['estimate', {str(series)!r}]); "
               f"from pathlib import Path; from benchmarks import timing; "
               f"Path({str(out)!r}).write_text(str(timing.peak_memory_mb())); exit(status)")
    start = time.perf_counter()
    timing.process("-c", program, environment=environment)
    return time.perf_counter() - start


def estimates(folder: Path, series: Path, repetitions: int):
    """Timings of the command with nothing compiled and with the cache filled, in turn, and the
    highest memory of one with nothing compiled, MB."""
    out, filled = folder / "memory", {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
    command(series, out, filled)  # fills it
    seconds, memory = {"jaxcal": [], "cache filled": []}, []
    for _ in range(repetitions):
        seconds["jaxcal"].append(command(series, out, timing.UNCACHED))
        memory.append(float(out.read_text()))
        seconds["cache filled"].append(command(series, out, filled))
    return ({name: timing.Timing(0.0, tuple(spent), None) for name, spent in seconds.items()},
            max(memory))


def run(repetitions: int = timing.REPETITIONS) -> Iterator[dict]:
    """One entry of the imports, and one a number of knobs."""
    if jax.config.jax_enable_x64:
        print("startup: made in single precision, its rows are left out", file=sys.stderr)
        return
    forms = {name: timing.Form(timing.process, ("-c", code)) for name, code in IMPORTS.items()}
    yield timing.entry("import", {}, timing.in_turn(forms, repetitions), 1, "starts", None)
    for count, names in KNOBS.items():
        bench = jaxcal.SimulatedMicroscope(knob_names=names, seed=SEED, hidden_range_nm=150.0)
        series = acquire_series(bench, simulated.random_steps(SEED, FRAMES, names))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "series.h5"
            jaxcal.write_series(path, series)
            taken, memory = estimates(Path(folder), path, min(repetitions, ESTIMATES))
        yield timing.entry("jaxcal estimate", {"knobs": count, "frames": FRAMES}, taken, 1,
                           "estimates", None, peak_mb=memory)
