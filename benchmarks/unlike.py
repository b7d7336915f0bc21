"""How far are frames from anything the model was trained on?

    python -m benchmarks.unlike [--instruments 24] [--folder ../shared/reality]

The misfit of `Model.look` of frames of simulated microscopes (seven knobs, six settings each, other
seeds than in training), of the same with a fault of the specimen in every frame, and of recorded
series. Above `jaxcal.estimation.UNLIKE` an estimate says so of a frame. Writes
``benchmarks/results/unlike.json`` and the table in ``docs/results.md``; the exit status is 0 where
at most 1 % of the frames without a fault are called unlike.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import jaxcal
from benchmarks import provenance, reality
from jaxcal import estimation, observation
from jaxcal import model as models
from jaxcal.microscopes import FaultyMicroscope, simulated

FIRST_SEED, FRAMES = 70_000, 6
FAULTS = ("crystalline", "contaminated", "half shadowed")
RESULT = provenance.RESULTS / "unlike.json"


def of_frames(frames, optics, model) -> dict:
    """Misfits of the frames that the camera's checks let pass, and how many they do not."""
    seen = [one for one in (observation.observe(frame, optics) for frame in frames)
            if one.fault is None]
    misfit = np.asarray(model.look(observation.log_images(seen))[1]).tolist() if seen else []
    return {"misfit": misfit, "refused": len(frames) - len(seen)}


def of_instrument(seed: int, fault: str | None, model) -> dict:
    """The same of a simulated microscope, a fault in every frame."""
    bench = jaxcal.SimulatedMicroscope(knob_names=simulated.SEVEN, seed=seed, hidden_range_nm=150.0)
    microscope = bench if fault is None else FaultyMicroscope(
        bench, frames=dict.fromkeys(range(FRAMES), fault), seed=seed)
    frames = []
    for step in simulated.random_steps(seed, FRAMES, simulated.SEVEN):
        microscope.set(step)
        frames.append(microscope.acquire())
    return of_frames(frames, bench.optics, model)


def row(parts) -> dict:
    """Counts and quantiles of some results of `of_frames`."""
    misfit = np.array([value for part in parts for value in part["misfit"]])
    quantiles = np.quantile(misfit, (0.5, 0.95, 1.0)).tolist() if misfit.size else None
    return {"frames": int(misfit.size) + sum(part["refused"] for part in parts),
            "refused": sum(part["refused"] for part in parts), "misfit": quantiles,
            "unlike": int(np.sum(misfit > estimation.UNLIKE))}


def markdown(result) -> str:
    """Table for the documentation."""
    rows = [(name, row["frames"], row["refused"],
             *(("", "", "") if row["misfit"] is None else (f"{q:.3f}" for q in row["misfit"])),
             row["unlike"]) for name, row in result["rows"].items()]
    head = ("frames of", "frames", "refused before", "misfit: median", "95 %", "largest",
            f"above {result['unlike']:g}")
    count = result["rows"]["simulated, as they are"]["frames"] // FRAMES
    sampled = provenance.sampled("simulated instruments", range(FIRST_SEED, FIRST_SEED + count),
                                 f"{FRAMES} frames each")
    return f"{provenance.markdown(head, rows)}\n\n{sampled} {provenance.source(result)}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, default=24)
    parser.add_argument("--folder", type=Path, default=reality.FOLDER, help="of recorded series")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.instruments < 1:
        parser.error("--instruments should be at least 1")
    model, rows = models.load(), {}
    seeds = range(FIRST_SEED, FIRST_SEED + options.instruments)
    for fault in (None, *FAULTS):
        print(f"simulated, {fault or 'as they are'}", file=sys.stderr, flush=True)
        rows[f"simulated, {fault or 'as they are'}"] = row(
            [of_instrument(seed, fault, model) for seed in seeds])
    for path in sorted(options.folder.glob("p*.h5")):
        series = jaxcal.read_series(path)
        rows[path.stem] = row([of_frames(series.frames, series.optics, model)])
    result = {"benchmark": "unlike", "unlike": estimation.UNLIKE,
              "provenance": provenance.provenance(), "rows": rows}
    provenance.write(options.json, result)
    provenance.put("unlike", markdown(result), options.document)
    print(markdown(result))
    plain = rows["simulated, as they are"]
    return 0 if plain["unlike"] <= 0.01 * plain["frames"] else 1


if __name__ == "__main__":
    sys.exit(main())
