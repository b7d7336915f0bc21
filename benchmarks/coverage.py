"""Are the stated widths those of the errors, and how near are these to the bound?

    python -m benchmarks.coverage [--instruments 500] [--frames 8] [--drift 0] [--full]

Simulation-based calibration of the refinement: instruments, films, cameras and states are drawn
from the prior, seven knobs are set at random within +-120 nm (C21, C23: +-500 nm), and the setting
that tunes them at the last frame is refined from the spectra. C10 and C12 drift by a normal deviate
times ``--drift`` nm a frame. The climb starts from the truth displaced by what EM usually leaves
(10 nm; 200 nm of C21 and C23), ``--full`` finds its start by EM as `estimate` does. The truth's
rank in the posterior should be uniform, and an interval should cover it as often as it says. The
Cramer-Rao bound is the inverse Fisher information, prior included, at the truth.

An instrument is kept as soon as it is done; after an interruption the same command goes on. Writes
``benchmarks/results/coverage.json``, one part for each form and number of frames, and the table in
``docs/results.md``, where each names its commit.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

import jaxcal
from benchmarks import kept, provenance
from jaxcal import (
    aberrations,
    estimation,
    laplace,
    observation,
    posterior,
    refine,
    unknowns,
)
from jaxcal import model as models
from jaxcal.microscopes.simulated import SEVEN

LINES = provenance.ROOT / "build" / "coverage.jsonl"
RESULT = provenance.RESULTS / "coverage.json"
STEP_NM = np.array([120.0] * 3 + [500.0] * 4)
LEFT_NM = np.array([10.0] * 3 + [200.0] * 4)
LEVELS = (0.5, 0.68, 0.9, 0.95)
BINS = 10  # of the rank histogram


def draw(seed: int) -> np.ndarray:
    """State (25,) nm from the prior."""
    normal = np.random.default_rng([seed, 7]).standard_normal(25)
    return normal * unknowns.state_sd_nm(aberrations.NAMES)


def one(seed: int, frames: int, drift_nm: float = 0.0, model=None) -> dict:
    """Error, stated and bound's standard deviation (7,) of the setting that tunes one instrument at
    the last frame, nm; or why it failed."""
    truth, random = draw(seed), np.random.default_rng([seed, 8])
    drift = drift_nm * np.random.default_rng([seed, 9]).standard_normal(7) * (STEP_NM < 200)
    microscope = jaxcal.SimulatedMicroscope(
        hidden_nm=truth, knob_names=SEVEN, seed=seed, drift_nm=drift)
    knobs = STEP_NM * random.uniform(-1, 1, (frames, len(SEVEN)))
    knobs[0] = 0.0
    shots = []
    try:
        for step in knobs:
            microscope.set(step)
            shots.append(microscope.acquire())
    except ValueError as error:
        return {"seed": seed, "failed": str(error)}
    series = jaxcal.Series(np.stack(shots), knobs, SEVEN, microscope.optics, "simulated")
    seen = [observation.observe(frame, series.optics) for frame in series.frames]
    good = [k for k, observation in enumerate(seen) if observation.fault is None]
    if not good:
        return {"seed": seed, "failed": "no frame could be used"}
    start = time.perf_counter()
    if model is not None:
        answer = estimation.infer(seen, series, model, seed=seed, length=frames)
        found = answer.refinement
    else:
        usable = [seen[k] for k in good]
        radius, _ = observation.camera_of(usable)
        problem = unknowns.problem(
            observation.measured(usable, series, good), SEVEN,
            observation.measured_optics(series.optics, radius), radius)
        displaced = truth[:7] + LEFT_NM * random.standard_normal(7)
        found = refine.solve(problem, [unknowns.start(problem, SEVEN, displaced)])
    seconds, best, problem = time.perf_counter() - start, found.solutions[0], found.problem
    z = best.point.z.copy()
    places = aberrations.indices(problem.free)
    z[: len(places)] = truth[places] / problem.sd.state
    _, bound = laplace.covariances(posterior.evaluate(z, problem), problem)
    tunes = -(truth[:7] + problem.measured.last * drift)
    return {"seed": seed, "error_nm": (best.tuned_knobs_nm - tunes).tolist(),
            "sd_nm": np.sqrt(np.diag(best.tuned_covariance_nm2)).tolist(),
            "bound_nm": np.sqrt(np.diag(bound)).tolist(), "weight": float(found.weights[0]),
            "unfit": len(found.unfit), "actuator": found.with_actuator,
            "drifts": best.drifts, "seconds": seconds}


def summarise(rows) -> dict:
    """Coverage, ranks and errors against the bound, by knob and over all."""
    good = [row for row in rows if "failed" not in row]
    error, sd, bound = (np.array([row[key] for row in good])
                        for key in ("error_nm", "sd_nm", "bound_nm"))
    z = error / sd
    from scipy import stats

    rank = stats.norm.cdf(z)
    inside = {level: np.abs(z) <= stats.norm.ppf(0.5 + level / 2) for level in LEVELS}
    counts = np.histogram(rank, BINS, (0, 1))[0]
    return {
        "instruments": len(good), "failed": len(rows) - len(good),
        "coverage": {str(level): float(hit.mean()) for level, hit in inside.items()},
        "coverage_by_knob": {str(level): hit.mean(0).tolist() for level, hit in inside.items()},
        "ranks": counts.tolist(),
        "ranks_chi2_p": [float(stats.chisquare(np.histogram(r, BINS, (0, 1))[0]).pvalue)
                         for r in rank.T],
        "rms_z": np.sqrt((z**2).mean(0)).tolist(),
        "rms_error_nm": np.sqrt((error**2).mean(0)).tolist(),
        "median_error_nm": np.median(np.abs(error), 0).tolist(),
        "rms_bound_nm": np.sqrt((bound**2).mean(0)).tolist(),
        "error_over_bound": np.sqrt((error**2).mean(0) / (bound**2).mean(0)).tolist(),
        "actuator": int(sum(row["actuator"] for row in good)),
        "drifts": float(np.mean([row["drifts"] for row in good])),
        "unfit": int(sum(row["unfit"] for row in good)),
        "seconds_median": float(np.median([row["seconds"] for row in good])),
    }


def markdown(result) -> str:
    """Tables for the documentation: widths, and errors against the bound."""
    widths, bounds = [], []
    for name, part in result["parts"].items():
        s = part["summary"]
        widths.append((name, s["instruments"], *(
            f"{100 * s['coverage'][str(level)]:.1f}" for level in LEVELS),
            f"{np.sqrt(np.mean(np.square(s['rms_z']))):.2f}",
            f"{min(s['ranks_chi2_p']):.2f} ... {max(s['ranks_chi2_p']):.2f}",
            f"{s['drifts']:.0%}" if "drifts" in s else "",
            provenance.span([row["seed"] for row in part["rows"]]),
            part["provenance"]["commit"][:7]))
        bounds.append((name, *(f"{e:.2g} / {b:.2g} = {r:.2f}" for e, b, r in zip(
            s["rms_error_nm"], s["rms_bound_nm"], s["error_over_bound"], strict=True))))
    head = ("frames", "instruments", *(f"{100 * level:g} % covers" for level in LEVELS),
            "rms error/sd", "p of uniform ranks, by knob", "probability of a drift, mean", "seeds",
            "commit")
    text = [provenance.markdown(head, widths),
            "Root mean square error over that of the bound (nm):",
            provenance.markdown(("frames", *SEVEN), bounds)]
    return "\n\n".join([*text, provenance.source(result)])


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, default=500, help="seeds FIRST + 10000 ...")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--drift", type=float, default=0.0, help="nm a frame, of C10 and C12")
    parser.add_argument("--full", action="store_true", help="start from EM, as estimate does")
    parser.add_argument("--lines", type=Path, default=LINES, help="where results are kept")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.instruments < 2 or options.frames < 1 or not options.drift >= 0:
        parser.error("--instruments should be at least 2, --frames 1, --drift not negative")
    model = models.load() if options.full else None
    wanted = {"frames": options.frames, "full": options.full, "drift_nm": options.drift,
              "code": provenance.code(__file__), "model": provenance.digest(provenance.MODEL)}
    rows = kept.each(options.lines, wanted, range(10_000, 10_000 + options.instruments),
                     lambda seed: one(seed, options.frames, options.drift, model),
                     lambda run: f"{run['seed'] - 9_999} of {options.instruments}")
    name = ", ".join([str(options.frames), *["start by EM"] * options.full,
                      *[f"drift {options.drift:g} nm"] * (options.drift > 0)])
    result = json.loads(options.json.read_text()) if options.json.is_file() else {"parts": {}}
    result["provenance"] = provenance.provenance()
    result["parts"][name] = {"settings": wanted, "provenance": result["provenance"],
                             "summary": summarise(rows), "rows": rows}
    provenance.write(options.json, result)
    provenance.put("coverage", markdown(result), options.document)
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
