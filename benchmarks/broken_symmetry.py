"""What a fixed even aberration that is no knob does to the answer, modelled and not.

    python -m benchmarks.broken_symmetry [--instruments 4] [--semi-angle 30] [--quick]

Spectra do not change when all even aberrations change sign together: the symmetry that pins x0. A
fixed C30, C34 or C50 breaks it for the knobs alone. Simulated instruments with three and with seven
knobs take eight frames at random settings, as in `benchmarks.coverage`, once for each value of one
of these; the others of the three are zero, all else is drawn from the prior. x0 is found three
times from the same frames: with the coefficient among the unknowns of the refinement, with it
struck out there, and by EM alone, whose map knows it as a nuisance. The climbs start beside the
truth. Bias: how the mean error moves from that at the value zero, instrument by instrument.

A series is kept as soon as it is done; after an interruption the same command goes on. Writes
``benchmarks/results/broken_symmetry.json``, one part for each semi-angle, the table in
``docs/results.md``; ``scripts/figures.py`` draws it. The exit status is 0 where modelling a
coefficient lessens what it moves C10 and C12 by, at its largest value (`ordered`).
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import stats

import jaxcal
from benchmarks import coverage, kept, provenance
from jaxcal import aberrations, em, estimation, observation, refine, unknowns
from jaxcal import model as models
from jaxcal.microscopes.simulated import FIRST_ORDER, SEVEN, simulated_optics

LINES = provenance.ROOT / "build" / "broken_symmetry.jsonl"
RESULT = provenance.RESULTS / "broken_symmetry.json"
VALUES_NM = {"C30": (0.0, 1e3, 2e3, 4e3, 8e3), "C34a": (0.0, 1e3, 2e3), "C50": (0.0, 1e6)}
QUICK_NM = {"C30": (0.0, 4e3)}
STRUCK = {"C30": ("C30",), "C34a": ("C34a", "C34b"), "C50": ("C50",)}
KNOBS = {"three": FIRST_ORDER, "seven": SEVEN}
FORMS = ("modelled", "left out", "EM alone")
FRAMES, FEWEST = 8, 4  # taken, and that can be used
FIRST_SEED = 30_000  # others than those of `benchmarks.coverage`


def without(problem: unknowns.Problem, names) -> unknowns.Problem:
    """The problem with aberrations that are no knobs struck out: taken as zero."""
    keep = np.array([name not in names for name in problem.free])
    everything = np.append(keep, np.ones(problem.active.size - keep.size, bool))
    return replace(
        problem, free=tuple(np.array(problem.free)[keep].tolist()),
        mean=problem.mean._replace(state=problem.mean.state[keep]),
        sd=problem.sd._replace(state=problem.sd.state[keep]), active=problem.active[everything])


def take(seed: int, knob_names, name: str, value_nm: float, optics):
    """Truth (25,) nm and series of one instrument with the coefficient ``name`` at a value."""
    truth, random = coverage.draw(seed), np.random.default_rng([seed, 8])
    truth[aberrations.indices(sum(STRUCK.values(), ()))] = 0.0
    truth[aberrations.indices([name])] = value_nm
    microscope = jaxcal.SimulatedMicroscope(optics, truth, knob_names=knob_names, seed=seed)
    knobs = coverage.STEP_NM * random.uniform(-1, 1, (FRAMES, len(SEVEN)))
    knobs = knobs[:, : len(knob_names)] * (optics.semi_angle_mrad / 20.0) ** -2.0
    knobs[0] = 0.0
    shots = []
    for step in knobs:
        microscope.set(step)
        shots.append(microscope.acquire())
    return truth, jaxcal.Series(np.stack(shots), knobs, knob_names, optics, "simulated")


def one(seed: int, knobs: str, name: str, value_nm: float, optics, model) -> dict:
    """Errors and stated standard deviations (P,) nm of the three forms; or why there are none."""
    try:
        truth, series = take(seed, KNOBS[knobs], name, value_nm, optics)
    except ValueError as error:
        return {"seed": seed, "failed": str(error)}
    seen = [observation.observe(frame, optics) for frame in series.frames]
    good = [k for k, observation in enumerate(seen) if observation.fault is None]
    if len(good) < FEWEST:
        return {"seed": seed, "failed": f"only {len(good)} frames could be used"}
    usable = [seen[k] for k in good]
    radius, _ = observation.camera_of(usable)
    problem = unknowns.problem(observation.measured(usable, series, good), series.knob_names,
                               observation.measured_optics(optics, radius), radius)
    beside = coverage.LEFT_NM * np.random.default_rng([seed, 9]).standard_normal(len(SEVEN))
    answers = {}
    for form, posed in (("modelled", problem), ("left out", without(problem, STRUCK[name]))):
        start = unknowns.start(posed, SEVEN, truth[:7] + beside)
        best = refine.solve(posed, [start]).solutions[0]
        answers[form] = best.x0_nm, best.covariance_nm2
    answer = estimation.infer(seen, series, model, seed=seed, refined=False, length=FRAMES,
                              settings=em.DEFAULT._replace(candidates=1024, iterations=4))
    answers["EM alone"] = answer.x0_nm, answer.covariance_nm2
    right = truth[aberrations.indices(series.knob_names)]
    return {"seed": seed, "free": STRUCK[name][0] in problem.free,
            **{form: {"error_nm": (x0 - right).tolist(),
                      "sd_nm": np.sqrt(np.diag(covariance)).tolist()}
               for form, (x0, covariance) in answers.items()}}


def summarise(rows) -> list[dict]:
    """For each knob set, coefficient, value and form: the bias (P,) with its standard error, the
    root mean square error (P,) nm and that over the stated sd, and how many instruments."""
    good = [row for row in rows if "failed" not in row]
    zero = {(r["knobs"], r["coefficient"], r["seed"]): r for r in good if r["value_nm"] == 0}
    summary = []
    for knobs, name, value in dict.fromkeys(
            (r["knobs"], r["coefficient"], r["value_nm"]) for r in good):
        chosen = [r for r in good if (r["knobs"], r["coefficient"], r["value_nm"])
                  == (knobs, name, value) and (knobs, name, r["seed"]) in zero]
        for form in FORMS if chosen else ():
            error, sd = (np.array([r[form][key] for r in chosen]) for key in ("error_nm", "sd_nm"))
            start = np.array([zero[knobs, name, r["seed"]][form]["error_nm"] for r in chosen])
            moved = error - start
            spread = moved.std(0, ddof=1) if len(chosen) > 1 else np.full(moved.shape[1], np.nan)
            summary.append({
                "knobs": knobs, "coefficient": name, "value_nm": value, "form": form,
                "instruments": len(chosen), "free": bool(chosen[0]["free"]),
                "bias_nm": moved.mean(0).tolist(),
                "bias_error_nm": (spread / np.sqrt(len(chosen))).tolist(),
                "moved_nm": np.sqrt((moved**2).mean(0)).tolist(),
                "rms_error_nm": np.sqrt((error**2).mean(0)).tolist(),
                "rms_z": np.sqrt(((error / sd) ** 2).mean(0)).tolist(),
            })
    return summary


def ordered(summary) -> bool:
    """Whether modelling a coefficient at its largest value, where that is among the unknowns,
    lessens what it moves C10 and C12 by."""
    moved = {(s["knobs"], s["coefficient"], s["value_nm"], s["form"]): _pooled(s["moved_nm"][:3])
             for s in summary if s["free"]}
    largest = largest_values(summary)
    return bool(largest) and all(
        moved[*key, value, "modelled"] < moved[*key, value, "left out"]
        for key, value in largest.items())


def largest_values(summary) -> dict:
    """The largest value, nm, for each knob set and coefficient that is among the unknowns."""
    largest: dict = {}
    for s in summary:
        if s["free"] and s["value_nm"]:
            key = s["knobs"], s["coefficient"]
            largest[key] = max(s["value_nm"], largest.get(key, 0.0))
    return largest


def saved(rows, knobs: str, name: str, value_nm: float) -> np.ndarray:
    """By how much less each instrument's C10 is moved by a coefficient that is modelled than by one
    that is left out, nm."""
    good = {(r["value_nm"], r["seed"]): r for r in rows if "failed" not in r
            and (r["knobs"], r["coefficient"]) == (knobs, name)}

    def moved(form, seed):
        at, zero = (good[v, seed][form]["error_nm"][0] for v in (value_nm, 0.0))
        return abs(at - zero)

    return np.array([moved("left out", seed) - moved("modelled", seed)
                     for value, seed in good if value == value_nm and (0.0, seed) in good])


def _pooled(values) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def markdown(result) -> str:
    """Tables for the documentation, two for each semi-angle: all cases; what modelling saves."""
    text = []
    for angle, part in result["parts"].items():
        lines = []
        for s in part["summary"]:
            if s["value_nm"] == 0 and s["coefficient"] != "C30":
                continue  # the first coefficient's zero stands for all
            if s["form"] == "modelled" and not s["free"]:
                continue  # too small to be among the unknowns: the same as left out
            second = _pooled(s["rms_error_nm"][3:]) if s["knobs"] == "seven" else None
            lines.append((
                f"{s['knobs']}, {s['coefficient']} = {s['value_nm'] / 1e3:g} µm, {s['form']}",
                *(f"{b:+.1f} ± {e:.1f}" for b, e in zip(
                    s["bias_nm"][:3], s["bias_error_nm"][:3], strict=True)),
                f"{_pooled(s['moved_nm'][:3]):.1f}", f"{_pooled(s['rms_error_nm'][:3]):.1f}",
                "" if second is None else f"{second:.0f}", f"{_pooled(s['rms_z'][:3]):.2f}"))
        count = max(s["instruments"] for s in part["summary"])
        text += [f"{angle} mrad, up to {count} instruments:", provenance.markdown(
            ("knobs, coefficient, form", "bias C10 (nm)", "C12a", "C12b", "moved, rms C10, C12",
             "rms error C10, C12", "rms error C21, C23", "rms error/sd C10, C12"), lines)]
        paired = []
        for (knobs, name), value in largest_values(part["summary"]).items():
            less = saved(part["rows"], knobs, name, value)
            paired.append((
                f"{knobs}, {name} = {value / 1e3:g} µm", len(less),
                f"{less.mean():+.2f} ± {stats.sem(less):.2f}",
                f"{less.min():+.2f} to {less.max():+.2f}",
                f"{stats.ttest_1samp(less, 0.0).pvalue:.2f}"))
        text.append(provenance.markdown(
            ("modelled and left out, paired", "instruments", "C10 moved less if modelled (nm)",
             "least to most", "p of no difference (t-test)"), paired))
    return "\n\n".join([*text, provenance.source(result)])


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, default=4)
    parser.add_argument("--semi-angle", type=float, default=30.0, help="mrad")
    parser.add_argument("--quick", action="store_true", help="two instruments, C30 alone")
    parser.add_argument("--lines", type=Path, default=LINES, help="where results are kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--document", type=Path)
    options = parser.parse_args(arguments)
    provenance.fill_in(options, json=RESULT, document=provenance.DOCUMENT)
    if options.instruments < 2:
        parser.error("--instruments should be at least 2")
    values, count = (QUICK_NM, 2) if options.quick else (VALUES_NM, options.instruments)
    optics, model = simulated_optics(semi_angle_mrad=options.semi_angle), models.load()
    made, rows = {"code": provenance.code(__file__),
                  "model": provenance.digest(provenance.MODEL)}, []
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        for knobs in KNOBS:
            for name, value in ((n, v) for n, each in values.items() for v in each):
                case = {"knobs": knobs, "coefficient": name, "value_nm": value}
                wanted = made | case | {"semi_angle_mrad": options.semi_angle}
                done = kept.read(options.lines, wanted)
                if seed not in done:
                    done[seed] = one(seed, knobs, name, value, optics, model)
                    kept.add(options.lines, wanted, done[seed])
                rows.append(case | done[seed])
        print(f"{seed - FIRST_SEED + 1} of {count} instruments", file=sys.stderr, flush=True)
    part = {"settings": made, "summary": summarise(rows), "rows": rows}
    parts = {}
    if options.json is not None and options.json.is_file():
        parts = json.loads(options.json.read_text())["parts"]
    result = {"provenance": provenance.provenance(),
              "parts": parts | {f"{options.semi_angle:g}": part}}
    print(markdown(result))
    provenance.publish(result, "broken_symmetry", markdown(result), options.json, options.document)
    return 0 if ordered(part["summary"]) else 1


if __name__ == "__main__":
    sys.exit(main())
