"""Does choosing the next knob step pay? Three rules on the same instruments.

    python -m benchmarks.steps [--runs 12] [--frames 7]

Each simulated instrument (seven knobs, hidden as in ``benchmarks.closed_loop``) shows three frames,
at zero and at two random settings, the same for all rules. The frames after these are taken at
random settings within +-120 nm (C21, C23: +-500 nm), at the setting that tunes the instrument by
the estimate so far ("best guess"), or where `jaxcal.calibrate` would step ("chosen"). After each
frame the error and the stated standard deviation of the setting that tunes are kept, in units of
the pi/4 limits: the root mean square over the seven knobs.

A run is kept as soon as it is done; after an interruption the same command goes on. Writes
``benchmarks/results/steps.json`` and the table in ``docs/results.md``; the exit status is 0 where
"chosen" has the smallest stated deviation and the smallest error, in the median over the runs.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np

import jaxcal
from benchmarks import closed_loop, kept, provenance
from jaxcal import decisions, estimation, observation
from jaxcal import model as models
from jaxcal.microscopes import simulated
from jaxcal.optics import quarter_pi_limits_nm

COMMON = 3
RULES = ("random", "best guess", "chosen")
LINES = provenance.ROOT / "build" / "steps.jsonl"
RESULT = provenance.RESULTS / "steps.json"


def one(seed: int, frames: int, model) -> dict:
    """Errors and stated deviations, in limits, by rule and frame from the third on."""
    steps = simulated.random_steps(seed, frames, simulated.SEVEN, step_nm=120.0)
    run = {"seed": seed}
    for rule in RULES:
        microscope = closed_loop.microscope(seed, refined=True)
        names = tuple(microscope.knob_names)
        limits = quarter_pi_limits_nm(microscope.optics, names)
        truth = np.array([microscope.truth_nm[name] for name in names])
        shots, settings, seen, answer = [], [], [], None
        errors, deviations = [], []
        for number in range(frames):
            if number < COMMON or rule == "random":
                knobs = steps[number]
            elif rule == "best guess":
                knobs = answer.tuned_knobs_nm
            else:
                key = jax.random.fold_in(jax.random.key(seed), number)
                knobs = decisions.next_step(key, answer, limits, model)
            microscope.set(knobs)
            shots.append(np.asarray(microscope.acquire()))
            settings.append(knobs)
            seen.append(observation.observe(shots[-1], microscope.optics))
            if number + 1 < COMMON:
                continue
            series = jaxcal.Series(np.stack(shots), np.stack(settings), names, microscope.optics,
                                   "simulated")
            answer = estimation.infer(seen, series, model, seed=seed, length=frames + 1)
            left = (answer.tuned_knobs_nm + truth) / limits
            errors.append(float(np.sqrt(np.mean(left**2))))
            deviations.append(float(np.sqrt(np.mean(
                np.diag(answer.tuned_covariance_nm2) / limits**2))))
        run[rule] = {"error": errors, "sd": deviations}
    return run


def summarise(runs) -> dict:
    """Medians over the runs, by rule and frame."""
    return {rule: {what: np.median([run[rule][what] for run in runs], axis=0).tolist()
                   for what in ("error", "sd")} for rule in RULES}


def markdown(result) -> str:
    """Table for the documentation: medians, with the least and the largest."""
    runs = result["runs"]

    def spread(rule, what):
        return [f"{np.median(v):.2f} ({v.min():.2f} ... {v.max():.2f})"
                for v in np.array([run[rule][what] for run in runs]).T]

    rows = [(rule, *map(" / ".join, zip(spread(rule, "error"), spread(rule, "sd"), strict=True)))
            for rule in RULES]
    last = COMMON + len(rows[0]) - 2
    head = ("next step", *(f"{count} frames" for count in range(COMMON, last + 1)))
    sampled = provenance.sampled("instruments", [run["seed"] for run in runs],
                                 f"{last} frames each by every rule, the first {COMMON} the same")
    return f"{provenance.markdown(head, rows)}\n\n{sampled} {provenance.source(result)}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=12, help="seeds 100, 101 ...")
    parser.add_argument("--frames", type=int, default=7)
    parser.add_argument("--lines", type=Path, default=LINES, help="where results are kept")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.runs < 1 or options.frames <= COMMON:
        parser.error(f"--runs should be at least 1, --frames more than {COMMON}")
    wanted = {"frames": options.frames, "code": provenance.code(__file__),
              "model": provenance.digest(provenance.MODEL)}
    model, seeds = models.load(), range(100, 100 + options.runs)
    runs = kept.each(options.lines, wanted, seeds,
                     lambda seed: one(seed, options.frames, model),
                     lambda run: f"{run['seed'] - 99} of {options.runs}")
    result = {"benchmark": "steps", "settings": wanted, "provenance": provenance.provenance(),
              "summary": summarise(runs), "runs": runs}
    provenance.write(options.json, result)
    provenance.put("steps", markdown(result), options.document)
    print(markdown(result))
    last = {rule: [result["summary"][rule][what][-1] for what in ("sd", "error")] for rule in RULES}
    best = all(last["chosen"][k] <= min(last[rule][k] for rule in RULES) for k in (0, 1))
    return 0 if best else 1


if __name__ == "__main__":
    sys.exit(main())
