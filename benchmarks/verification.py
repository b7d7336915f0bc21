"""Does a verification frame show it when the knobs did not arrive?

    python -m benchmarks.verification [--instruments 40]

Each simulated instrument (seven knobs, hidden as in ``benchmarks.closed_loop``) shows one frame at
the state that tunes it, off by the errors that an estimate leaves, and one for each of some larger
errors of one knob. `jaxcal.verification.log_odds_elsewhere` is asked whether the frame shows the
tuned state; above `jaxcal.calibration.DOUBTED` the loop doubts it.

An instrument is kept as soon as it is done; after an interruption the same command goes on. Writes
``benchmarks/results/verification.json`` and the table in ``docs/results.md``; the exit status is 0
where at most 2 % of the tuned frames are doubted.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from benchmarks import closed_loop, kept, provenance
from jaxcal import basins, calibration, observation, verification
from jaxcal import model as models
from jaxcal.microscopes import simulated
from jaxcal.optics import quarter_pi_limits_nm

LEFT_LIMITS = 0.3  # standard deviation of what a tuned state leaves, in pi/4 limits
OFF_NM = (("C10", 30.0), ("C10", 60.0), ("C10", 100.0), ("C10", 200.0), ("C12a", 60.0),
          ("C12a", 100.0), ("C12a", 200.0), ("C21a", 500.0), ("C21a", 1000.0), ("C23a", 500.0),
          ("C23a", 1000.0))  # fmt: skip
LINES = provenance.ROOT / "build" / "verification.jsonl"
RESULT = provenance.RESULTS / "verification.json"


def cases() -> dict[str, np.ndarray]:
    """What is wrong (7,), nm, by name; nothing at "tuned"."""
    wrong = {"tuned": np.zeros(len(simulated.SEVEN))}
    for name, size in OFF_NM:
        off = np.zeros(len(simulated.SEVEN))
        off[simulated.SEVEN.index(name)] = size
        wrong[f"{name} {size:g} nm"] = off
    return wrong


def one(seed: int, model) -> dict:
    """Log odds by case; None where the frame could not be used."""
    microscope = closed_loop.microscope(seed, refined=True)
    optics, settings = microscope.optics, basins.START
    truth = np.array([microscope.truth_nm[name] for name in simulated.SEVEN])
    limits = quarter_pi_limits_nm(optics, simulated.SEVEN)
    left = LEFT_LIMITS * limits * np.random.default_rng([seed, 9]).standard_normal(limits.size)
    odds = {}
    for name, off in cases().items():
        microscope.set(left + off - truth)
        seen = observation.observe(microscope.acquire(), optics)
        odds[name] = None if seen.fault else verification.log_odds_elsewhere(
            seen, np.zeros(limits.size), optics, model, candidates=settings.candidates)
    return {"seed": seed, "log_odds": odds}


def summarise(runs) -> dict:
    """By case: frames that could be used, quantiles of the log odds, share above DOUBTED."""
    summary = {}
    for name in cases():
        odds = [run["log_odds"][name] for run in runs if run["log_odds"][name] is not None]
        summary[name] = {"frames": len(odds)} | ({} if not odds else {
            "log_odds": np.percentile(odds, (10, 50, 90)).tolist(),
            "doubted": float(np.mean(np.array(odds) > calibration.DOUBTED))})
    return summary


def markdown(result) -> str:
    """Table for the documentation."""
    rows = []
    for name, s in result["summary"].items():
        quantiles = (f"{value:.0f}" for value in s["log_odds"]) if s["frames"] else ("", "", "")
        rows.append((name, s["frames"], *quantiles,
                     f"{s['doubted']:.0%}" if s["frames"] else ""))
    head = ("off by", "frames", "log odds: 10 %", "median", "90 %", "doubted")
    sampled = provenance.sampled("instruments", [run["seed"] for run in result["runs"]],
                                 "one frame each for every row")
    return f"{provenance.markdown(head, rows)}\n\n{sampled} {provenance.source(result)}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, default=40, help="seeds 60000, 60001 ...")
    parser.add_argument("--lines", type=Path, default=LINES, help="where results are kept")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.instruments < 1:
        parser.error("--instruments should be at least 1")
    wanted = {"code": provenance.code(__file__), "model": provenance.digest(provenance.MODEL)}
    model, seeds = models.load(), range(60000, 60000 + options.instruments)
    runs = kept.each(options.lines, wanted, seeds, lambda seed: one(seed, model),
                     lambda run: f"{run['seed'] - 59999} of {options.instruments}")
    result = {"benchmark": "verification", "settings": wanted, "doubted": calibration.DOUBTED,
              "provenance": provenance.provenance(), "summary": summarise(runs), "runs": runs}
    provenance.write(options.json, result)
    provenance.put("verification", markdown(result), options.document)
    print(markdown(result))
    return 0 if result["summary"]["tuned"].get("doubted", 1.0) <= 0.02 else 1


if __name__ == "__main__":
    sys.exit(main())
