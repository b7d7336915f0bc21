"""How the cost of an estimate grows, and what a long E-step takes of memory.

    python -m benchmarks.scaling [--repeats 3] [--only frames candidates knobs pixels memory]

Whole estimates of a simulated series (16 frames of 256 x 256 pixels, seven knobs, 1024 candidates),
one of these varied at a time, each in a process of its own: what was compiled is not counted, the
median of the repetitions is. A power law is laid through the times of a curve by least squares; its
exponent should not exceed the one stated, which is that of the part that grows fastest: linear in
frames and candidates, knobs are parts of one state of fixed size, and the frames' pixels are read
once.

``memory`` is the peak memory of a process that scores ten million candidates of eight frames
(`jaxcal.em.score_all`), by the blocks in which it does so, and what it had before.

Writes ``benchmarks/results/scaling.json`` and the table in ``docs/results.md``; the exit status is
0 only where no exponent exceeds the stated one by more than 0.05 and the memory stays below one
gigabyte.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxcal
from benchmarks import provenance, scoring, timing
from benchmarks.baselines.interface import acquire_series
from jaxcal import basins, em
from jaxcal import model as models
from jaxcal.microscopes import simulated

RESULT = provenance.RESULTS / "scaling.json"
SEED = 31_000
USUAL = {"frames": 16, "candidates": 1024, "knobs": 7, "pixels": 256}
CURVES = {"frames": (8, 16, 32, 64), "candidates": (1024, 2048, 4096, 8192),
          "knobs": (3, 5, 7), "pixels": (256, 512, 1024)}
STATED = {"frames": 1.0, "candidates": 1.0, "knobs": 1.0, "pixels": 2.0}
SCORED, SCORED_FRAMES, LARGEST_MB = 10_000_384, 8, 1000.0  # candidates: whole blocks


def series(frames: int, knobs: int, pixels: int, seed: int) -> jaxcal.Series:
    """A series of a simulated microscope, its pixels divided where there are to be more."""
    names = simulated.SEVEN[:knobs]
    microscope = jaxcal.SimulatedMicroscope(knob_names=names, seed=seed, hidden_range_nm=150.0)
    made = acquire_series(microscope, simulated.random_steps(seed, frames, names))
    times = pixels // made.frames.shape[1]
    optics = jaxcal.Optics(made.optics.energy_keV, made.optics.semi_angle_mrad,
                           made.optics.pixel_mrad / times)
    finer = made.frames.repeat(times, 1).repeat(times, 2)
    return jaxcal.Series(finer, made.knobs_nm, names, optics, made.name)


def one(case: dict, repeats: int) -> list[float]:
    """Seconds of ``repeats`` estimates of the case in this process, after one that compiled."""
    settings = basins.START._replace(candidates=case["candidates"])
    model, seconds = models.load(), []
    for number in range(repeats + 1):
        made = series(case["frames"], case["knobs"], case["pixels"], SEED + number)
        start = time.perf_counter()
        jaxcal.estimate(made, model, settings=settings)
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def memory(count: int) -> dict:
    """Peak memory of this process, MB, before and after ``count`` candidates are scored."""
    data, few = scoring.problem(SCORED_FRAMES, 1024)
    map_ = models.load().map
    parameters = em.initial_parameters(map_, data)
    jax.block_until_ready(em.score_all(few, parameters, data, map_))
    before = timing.peak_memory_mb()
    positions = jnp.tile(few, (-(-count // 1024), 1))[:count]
    start = time.perf_counter()
    score = np.asarray(em.score_all(positions, parameters, data, map_))
    return {"candidates": count, "frames": SCORED_FRAMES, "before_mb": before,
            "peak_mb": timing.peak_memory_mb(), "seconds": time.perf_counter() - start,
            "failed": int(np.sum(~np.isfinite(score)))}


def exponent(sizes, seconds) -> float:
    """Of the power law through the times, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def markdown(result) -> str:
    """Table for the documentation."""
    rows = []
    for name, curve in result["curves"].items():
        times = ", ".join(f"{size}: {seconds:.1f}" for size, seconds in zip(
            curve["sizes"], curve["seconds"], strict=True))
        rows.append((name, times, f"{curve['exponent']:.2f}", f"{STATED[name]:g}"))
    parts = [provenance.markdown(("varied", "seconds", "exponent", "at most"), rows)]
    if taken := result["memory"]:
        parts.append(
            f"An E-step over {taken['candidates']:,} candidates of {taken['frames']} frames takes "
            f"{taken['seconds']:.0f} s and at most {taken['peak_mb']:.0f} MB, of which the process "
            f"had {taken['before_mb']:.0f} MB before; {taken['failed']} factorisations failed.")
    return "\n\n".join([*parts, provenance.source(result)])


def holds(result) -> bool:
    """Whether no curve exceeds its stated exponent, by more than 0.05, and the memory its bound."""
    steep = [name for name, curve in result["curves"].items()
             if curve["exponent"] > STATED[name] + 0.05]
    return not steep and (not result["memory"] or result["memory"]["peak_mb"] < LARGEST_MB)


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=(*CURVES, "memory"))
    parser.add_argument("--scored", type=int, default=SCORED, help="candidates of the E-step")
    parser.add_argument("--case", help="one case in this process, JSON, for the script")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.repeats < 1 or options.scored < 1:
        parser.error("--repeats and --scored should be at least 1")
    if options.case:
        case = json.loads(options.case)
        print(json.dumps(one(case, options.repeats) if case else memory(options.scored)))
        return 0
    wanted, curves, usual = options.only or [*CURVES, "memory"], {}, None
    for name in (name for name in CURVES if name in wanted):
        medians = []
        for size in CURVES[name]:
            if size != USUAL[name] or usual is None:
                case = USUAL | {name: size}
                seconds = float(np.median(timing.apart(
                    "benchmarks.scaling", "--case", json.dumps(case),
                    "--repeats", options.repeats)))
                print(f"{case}: {seconds:.1f} s", file=sys.stderr, flush=True)
                usual = seconds if case == USUAL else usual
            else:
                seconds = usual
            medians.append(seconds)
        curves[name] = {"sizes": list(CURVES[name]), "seconds": medians,
                        "exponent": exponent(CURVES[name], medians)}
    taken = timing.apart("benchmarks.scaling", "--case", "{}", "--scored",
                         options.scored) if "memory" in wanted else None
    result = {"benchmark": "scaling", "usual": USUAL, "repeats": options.repeats,
              "provenance": provenance.provenance(), "curves": curves, "memory": taken}
    if not options.only:
        provenance.write(options.json, result)
        provenance.put("scaling", markdown(result), options.document)
    print(markdown(result))
    return 0 if holds(result) else 1


if __name__ == "__main__":
    sys.exit(main())
