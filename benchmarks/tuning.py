"""By what the priors of the compared methods were chosen, on instruments of their own.

    python -m benchmarks.tuning [--instruments 8] [--methods published,...]

The published form and EM of one scalar are told how far, how smoothly and how noisily their map may
vary: medians of the amplitude, length and noise of `jaxcal.latent_map.Prior`, of which those of
`OPTIONS` are tried with three knobs, the published form with narrow and wide steps.
The instruments are of `benchmarks.comparison`, with other seeds than it takes. Best is the least
geometric mean of the error from `FRAMES` frames over instruments and steps; that of the prior which
the comparison uses has to be within a tenth of it, or the exit status is 1.

Writes ``benchmarks/results/tuning.json`` and the table in ``docs/results.md``.
"""

import argparse
import math
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks import comparison, kept, provenance
from benchmarks.baselines import interface, published, scalar_em
from jaxcal import em, latent_map
from jaxcal import model as models

LINES = provenance.ROOT / "build" / "tuning.jsonl"
RESULT = provenance.RESULTS / "tuning.json"
FIRST_SEED = 20_100
FRAMES = 15
ALIKE = 1.1  # times the least error: with so few instruments nothing nearer can be told apart
NAMES = ("amplitude", "length", "noise")
SCALAR = ((0.5, 1.0, 1.0), (0.5, 1.0, 0.5), (0.5, 1.0, 0.25), (2.0, 1.0, 0.5), (0.25, 1.0, 0.5))
OPTIONS = {
    "published": ((1.0, 0.5, 0.3), (1.0, 0.5, 0.1), (1.0, 1.0, 0.1), (2.0, 1.0, 0.1),
                  (2.0, 2.0, 0.1), (4.0, 2.0, 0.1)),
    "scalar_em_variance": SCALAR, "scalar_em_emittance": SCALAR,
}
CASES = {"published": ("3", "wide"), "scalar_em_variance": ("3",), "scalar_em_emittance": ("3",)}


def used(method: str) -> tuple[float, ...]:
    """Medians of the prior that the comparison gives a method: amplitude, length, noise."""
    prior = (latent_map.FLAT_PRIOR if method == "published"
             else scalar_em.PRIORS[method.removeprefix("scalar_em_")])
    return tuple(round(math.exp(value), 6) for value in prior.mean)


def with_medians(map_: em.Map, medians) -> em.Map:
    """A map whose prior has other medians, and spreads as before."""
    mean = latent_map.Hyperparameters(*(math.log(value) for value in medians))
    return replace(map_, prior=map_.prior._replace(mean=mean))


def errors(method: str, medians, options) -> list[float]:
    """Errors of C10 and C12 (nm), instruments and cases in turn."""
    answer, found = _answers(method, medians), []
    for seed in range(FIRST_SEED, FIRST_SEED + options.instruments):
        for case in CASES[method]:
            seen, microscope = comparison.series(seed, case, FRAMES, 0.0, 0.0)
            made = answer(seen, seed)
            left = comparison.residual_nm(microscope, made.knobs_nm, FRAMES)
            found.append(interface.errors(left, microscope.knob_names, microscope.optics)[0])
    return found


def _answers(method: str, medians):
    """Function (seen, seed) -> `interface.Answer` of a method with such a prior."""
    if method == "published":
        model = models.load()
        tried = with_medians(model.flat_map, medians)

        def by_latents(seen, seed):
            with patch.object(models.Model, "flat_map", tried):
                return published.estimate(seen, FRAMES, seed, model)

        return by_latents
    network, maps = comparison.trained()
    scalar = method.removeprefix("scalar_em_")
    fitted, *units = maps()[scalar]
    fitted = with_medians(fitted, medians)

    def answer(seen, seed):
        values = [scalar_em.measure(frame, seen.series.optics, network)[scalar]
                  for frame in seen.series.frames]
        return scalar_em.estimate(seen, FRAMES, seed, (fitted, *units), values)

    return answer


def summarise(runs) -> dict:
    """{method: {"best": medians, "in_use": medians, "holds": whether these are about as good}}."""
    found = {}
    for method in dict.fromkeys(run["method"] for run in runs):
        part = [run for run in runs if run["method"] == method]
        best = min(part, key=lambda run: run["geometric_mean_nm"])
        found[method] = {"best": best["medians"], "in_use": list(used(method)), "holds": any(
            run["geometric_mean_nm"] <= ALIKE * best["geometric_mean_nm"]
            for run in part if np.allclose(run["medians"], used(method)))}
    return found


def markdown(made) -> str:
    """Table for the documentation."""
    rows = []
    for run in made["runs"]:
        told = [f"{value:g}" for value in run["medians"]]
        if np.allclose(run["medians"], used(run["method"])):
            told = [f"**{value}**" for value in told]
        by_case = np.median(np.reshape(run["errors_nm"], (-1, len(CASES[run["method"]]))), axis=0)
        rows.append((comparison.summary.LABELS[run["method"]], *told,
                     f"{run['geometric_mean_nm']:.1f}",
                     ", ".join(f"{value:.1f}" for value in by_case)))
    head = ("method", *NAMES, "geometric mean (nm)", "median (nm), narrow and wide steps")
    return "\n\n".join([
        "In bold the prior that is in use. " + f"{made['instruments']} instruments, "
        f"seeds {FIRST_SEED} to {FIRST_SEED + made['instruments'] - 1}, {FRAMES} frames each.",
        provenance.markdown(head, rows), provenance.source(made)])


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, default=8)
    parser.add_argument("--methods", default=",".join(OPTIONS))
    parser.add_argument("--lines", type=Path, default=LINES, help="where finished runs are kept")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    methods = options.methods.split(",")
    if unknown := set(methods) - set(OPTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(OPTIONS)}")
    here = Path(__file__).parent
    wanted = {"instruments": options.instruments, "code": provenance.code(
                  __file__, here / "comparison.py", *sorted((here / "baselines").glob("*.py"))),
              "model": provenance.digest(provenance.MODEL)}
    runs = []
    for method in methods:
        for medians in OPTIONS[method]:
            tried = {"method": method, "medians": list(medians)}
            runs += kept.each(options.lines, wanted | tried, [FIRST_SEED],
                              lambda _, tried=tried: _run(**tried, options=options), _line)
    made = {"benchmark": "tuning", "provenance": provenance.provenance(),
            "instruments": options.instruments, "summary": summarise(runs), "runs": runs}
    provenance.publish(made, "tuning", markdown(made), options.json, options.document)
    print(markdown(made))
    return 0 if all(entry["holds"] for entry in made["summary"].values()) else 1


def _run(method: str, medians, options) -> dict:
    """What a method is off by with a prior, on all instruments; the first names the run."""
    found = errors(method, medians, options)
    return {"seed": FIRST_SEED, "method": method, "medians": medians, "errors_nm": found,
            "geometric_mean_nm": float(np.exp(np.mean(np.log(found))))}


def _line(run) -> str:
    return f"{run['method']} {run['medians']}: {run['geometric_mean_nm']:.1f} nm"


if __name__ == "__main__":
    sys.exit(main())
