"""Tune simulated microscopes with a hidden state and see where they end.

    python -m benchmarks.closed_loop [--runs 64] [--frames 10] [--first 0] [--no-refine]

Run k tunes ``SimulatedMicroscope(seed=k)`` with ``jaxcal.calibrate`` and a budget of ten frames
(one more verifies the correction): seven knobs, C10 and C12 hidden within +-150 nm, C21 and C23
within +-1000 nm; with ``--no-refine`` the latents alone, the three of first order, within +-200 nm.
The residual is what the knobs left, hidden state plus applied setting, and the stated deviation
that of the estimate whose setting was applied last. A run is kept as soon as it
ends, so that after an interruption the same command goes on with the next, and two processes can
share the seeds (``--first``); runs made with other code, another model or other options are made
again. Writes ``benchmarks/results/closed_loop.json`` (``closed_loop_latents.json``) and the table
in ``docs/results.md``; the exit status is 0 where 95 % of the runs end with every knob inside its
pi/4 limit (latents alone: 15 of 16 within 5 nm).
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import jaxcal
from benchmarks import kept, provenance
from jaxcal import calibration
from jaxcal import model as models
from jaxcal.microscopes import simulated

NEAR_NM = 5.0  # of the latents alone
LINES = provenance.ROOT / "build" / "closed_loop.jsonl"


def microscope(seed: int, refined: bool) -> jaxcal.SimulatedMicroscope:
    """The microscope of a run."""
    if not refined:
        return jaxcal.SimulatedMicroscope(seed=seed, hidden_range_nm=200.0)
    hidden = simulated.draw_state(seed, simulated.SEVEN, 150.0)
    hidden[3:7] *= 1000.0 / (150.0 * simulated.SECOND_ORDER_FACTOR)
    return jaxcal.SimulatedMicroscope(hidden_nm=hidden, knob_names=simulated.SEVEN, seed=seed)


def tune(seed: int, frames: int, model, refined: bool = True) -> dict:
    """One run. A calibration that is refused is a run that failed, with its reason."""
    instrument = microscope(seed, refined)
    start = time.perf_counter()
    run = {"seed": seed, "truth_nm": dict(instrument.truth_nm)}
    made = jaxcal.calibrate(instrument, frames=frames, model=model, seed=seed, refined=refined)
    if made.verdict == calibration.REFUSED:
        return run | {"failed": made.reason, "seconds": time.perf_counter() - start}
    return run | {"seconds": time.perf_counter() - start, **outcome(made, run["truth_nm"])}


def outcome(made, truth_nm: dict) -> dict:
    """What a `jaxcal.Calibration` of a known hidden state comes to."""
    applied, knobs = made.history[-1], np.asarray(made.applied_knobs_nm)
    again = not np.allclose(knobs, applied.tuned_knobs_nm) and np.allclose(
        knobs, made.estimate.tuned_knobs_nm)
    if again:  # corrected once more, by the verification frame
        applied = made.estimate
    names = applied.knob_names
    truth = np.array([truth_nm[name] for name in names])
    residual = truth + knobs
    sd = np.sqrt(np.diag(applied.tuned_covariance_nm2))
    left = np.abs(residual) / np.asarray(made.limits_nm)
    return {
        "residual_nm": dict(zip(names, residual.tolist(), strict=True)),
        "sd_nm": dict(zip(names, sd.tolist(), strict=True)),
        "largest_nm": float(np.abs(residual).max()),
        "largest_in_limits": float(left.max()),
        "inside_by_frame": [bool(np.all(np.abs(np.asarray(e.x0_nm) - truth) <= made.limits_nm))
                            for e in made.history],
        "norm_nm": float(np.linalg.norm(residual)),
        "error_by_frame_nm": [float(np.abs(np.asarray(e.x0_nm) - truth).max())
                              for e in made.history],
        "frames": len(made.series.frames),
        "corrected_again": bool(again),
        "rejected": len(made.estimate.rejected_frames),
        "converged": bool(made.estimate.converged),
        "message": made.estimate.message,
    }


def summarise(runs) -> dict:
    """Counts and quantiles over the runs; one that failed counts as not within."""
    good = [run for run in runs if "failed" not in run]
    total = {"runs": len(runs), "failed": len(runs) - len(good), "near_nm": NEAR_NM}
    if not good:
        return total | {"inside": 0, "within_each": 0}
    largest = np.array([run["largest_nm"] for run in good])
    residual = np.array([list(run["residual_nm"].values()) for run in good])
    sd = np.array([list(run["sd_nm"].values()) for run in good])
    z = residual / np.maximum(sd, 1e-12)
    names = list(good[0]["residual_nm"])
    frames = np.array([run["frames"] for run in good])
    return total | {
        "within_each": int((largest <= NEAR_NM).sum()),
        "inside": int(sum(run["largest_in_limits"] <= 1 for run in good)),
        "residual_median_nm": {name: float(np.median(np.abs(column)))
                               for name, column in zip(names, residual.T, strict=True)},
        "residual_90_nm": {name: float(np.percentile(np.abs(column), 90))
                           for name, column in zip(names, residual.T, strict=True)},
        "sd_median_nm": {name: float(np.median(column))
                         for name, column in zip(names, sd.T, strict=True)},
        "within_1_sd": float((np.abs(z) <= 1).mean()),
        "within_2_sd": float((np.abs(z) <= 2).mean()),
        "rms_residual_over_sd": float(np.sqrt((z**2).mean())),
        "frames_median": float(np.median(frames)),
        "frames_most": int(frames.max()),
        "corrected_again": int(sum(run["corrected_again"] for run in good)),
        "converged": int(sum(run["converged"] for run in good)),
        "converged_but_outside": int(sum(run["converged"] and run["largest_in_limits"] > 1
                                         for run in good)),
        "seconds_median": float(np.median([run["seconds"] for run in good])),
        "seconds_first": float(runs[0]["seconds"]),
    }


def markdown(result) -> str:
    """The table for the documentation."""
    s = result["summary"]
    rows = [("microscopes that end with all knobs inside the pi/4 limits",
             f"**{s['inside']} of {s['runs']}**")]
    if not result["settings"]["refined"]:
        rows.append((f"... with all knobs within {NEAR_NM:g} nm",
                     f"{s['within_each']} of {s['runs']}"))
    if "frames_median" in s:
        def knobs(values):
            return ", ".join(f"{name} {value:.2g}" for name, value in values.items())

        rows += [
            ("residual, median (nm)", knobs(s["residual_median_nm"])),
            ("residual, 90 % (nm)", knobs(s["residual_90_nm"])),
            ("stated standard deviation, median (nm)", knobs(s["sd_median_nm"])),
            ("residuals within 1 and 2 standard deviations (ideal 68 %, 95 %)",
             f"{100 * s['within_1_sd']:.0f} %, {100 * s['within_2_sd']:.0f} %"),
            ("rms of residual/sd (ideal 1)", f"{s['rms_residual_over_sd']:.2f}"),
            ("frames before the correction: median, most (one more verifies)",
             f"{s['frames_median']:g}, {s['frames_most']}"),
            ("corrected once more with the verification frame", f"{s['corrected_again']}"),
            ("runs that say \"converged\"; of these, outside the limits",
             f"{s['converged']}; {s['converged_but_outside']}"),
            ("seconds a run: median, first (with compilation)",
             f"{s['seconds_median']:.0f}, {s['seconds_first']:.0f}"),
        ]
    missed = [run for run in result["runs"] if run.get("largest_in_limits", np.inf) > 1]
    parts = [provenance.markdown(("closed loop", "value"), rows)]
    if missed and result["settings"]["refined"]:
        parts.append("Missed: " + "; ".join(
            f"seed {run['seed']} ("
            + (run.get("failed") or f"{run['largest_in_limits']:.1f} times a limit") + ")"
            for run in missed) + ".")
    sampled = provenance.sampled("microscopes", result["seeds"], "at most "
                                 f"{result['settings']['frames']} frames each and one to verify")
    return "\n\n".join([*parts, f"{sampled} {provenance.source(result)}"])


def settings(options) -> dict:
    """What must be the same for a run to be taken over."""
    return {"frames": options.frames, "refined": options.refine, "code": provenance.code(__file__),
            "model": provenance.digest(options.model or provenance.MODEL)}


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=64, help="seeds FIRST ... RUNS-1")
    parser.add_argument("--first", type=int, default=0, help="first seed that this process runs")
    parser.add_argument("--no-refine", dest="refine", action="store_false", help="latents alone")
    parser.add_argument("--frames", type=int, default=10, help="budget before the correction")
    parser.add_argument("--model", help="weights (default: the shipped model)")
    parser.add_argument("--lines", type=Path, default=LINES, help="where finished runs are kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.frames < 1:
        parser.error("--runs and --frames should be at least 1")
    try:
        model = models.load(options.model)
    except ValueError as error:
        parser.error(str(error))
    wanted = settings(options)
    name = "closed_loop" if options.refine else "closed_loop_latents"
    place = options.json or provenance.RESULTS / f"{name}.json"
    done = kept.read(options.lines, wanted, place)
    for seed in range(options.first, options.runs):
        done.update(kept.read(options.lines, wanted))
        if seed in done:
            continue
        done[seed] = tune(seed, options.frames, model, options.refine)
        kept.add(options.lines, wanted, done[seed])
        ended = (done[seed].get("failed")
                 or f"{done[seed]['largest_in_limits']:.2f} of a limit at most left, "
                    f"{done[seed]['frames']} frames")
        print(f"{seed + 1}/{options.runs}: {ended}, {done[seed]['seconds']:.0f} s", flush=True)
    runs = [done[seed] for seed in range(options.runs) if seed in done]
    if len(runs) < options.runs:
        return 1  # another process has the first seeds; the same command without --first ends it
    result = {"benchmark": name, "settings": wanted, "seeds": list(range(options.runs)),
              "provenance": provenance.provenance(options.model), "summary": summarise(runs),
              "runs": runs}
    provenance.write(place, result)
    provenance.put(name, markdown(result), options.document)
    print(markdown(result))
    summary = result["summary"]
    share = summary["inside"] / 0.95 if options.refine else summary["within_each"] * 16 / 15
    return 0 if share >= options.runs else 1


if __name__ == "__main__":
    sys.exit(main())
