"""jaxcal beside what people tune with today, on the same simulated instruments and frames.

    python -m benchmarks.comparison [--instruments 64] [--cases 3,7,wide] [--methods jaxcal,...]
                                    [--gain-error 0.1] [--drift 0.5] [--quick]

Instrument k is ``SimulatedMicroscope(seed=15000 + k)``: its film, coherence, dose, camera and
residuals are drawn, its aperture and pixel are off nominal; ``--gain-error`` and ``--drift`` make
the knobs act not as told. Three knobs: C10, C12 hidden within +-200 nm; seven: within +-150 nm, C21
and C23 within +-1000 nm. Methods that take a series all get the same one (`random_steps`) and are
asked after some of its frames; Bayesian optimisation chooses its own. "wide" is three knobs turned
by more, `STEPS_NM`, so that a series reaches both sides of the tuned state, for the methods that
take one. The error is what the answer leaves of the knobs' aberrations when it is applied, gains
and drift included: root mean square over C10, C12a and C12b in nm, and over all knobs in pi/4
limits. The series of ``shared/reality`` are given to the methods that take series.

Every run is kept as soon as it ends, so that an interrupted call goes on. Writes
``benchmarks/results/comparison.json``, ``docs/comparison.svg`` and the tables in
``docs/results.md``; the exit status is 0 only where the promised orderings hold. ``--quick``: three
knobs, the methods that need no training, and wider promises (`comparison_summary.QUICK`), as few
instruments and frames tell which error is smaller, hardly by how much.
"""

import argparse
import sys
import time
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

import jaxcal
from benchmarks import comparison_summary as summary
from benchmarks import kept, provenance, reality
from benchmarks.baselines import (
    bayesopt,
    bayesopt_package,
    network,
    particle_filter,
    published,
    regression,
    scalar_em,
)
from benchmarks.baselines.interface import Answer, Seen, acquire_series, errors, residual_nm
from jaxcal import em
from jaxcal import model as models
from jaxcal.microscopes import simulated

FIRST_SEED = 15_000  # no method was tuned on these; tuning has the seeds from 20000 on
LINES = provenance.ROOT / "build" / "comparison.jsonl"
RESULT = provenance.RESULTS / "comparison.json"
FIGURE = provenance.ROOT / "docs" / "comparison.svg"
KNOBS = {"3": simulated.FIRST_ORDER, "7": simulated.SEVEN, "wide": simulated.FIRST_ORDER}
STEPS_NM = {"3": 120.0, "7": 120.0, "wide": 300.0}
COUNTS = (3, 5, 10, 15)
ASKED = (5, 10, 15, 20, 30, 50, 75, 100, 150)  # frames at which the optimisation's answer is kept
BUDGET = 150
SERIES = ("jaxcal", "jaxcal_em", "published", "particle_filter", "regression",
          "scalar_em_variance", "scalar_em_emittance")
CHOOSING = ("bayesopt_variance", "bayesopt_emittance", "package_variance", "package_emittance",
            "jaxcal_loop")
METHODS = (*SERIES, *CHOOSING)
LEFT_OUT = ("jaxcal_loop", "package_variance")  # unless asked for: slow, and the worse quality
QUICK = {"instruments": 4, "counts": (3, 5), "budget": 30, "cases": ["3"], "reality": False,
         "methods": ["jaxcal", "published", "particle_filter", "bayesopt_variance"]}  # untrained
QUICK_EM = em.Settings(candidates=256, iterations=1)


def instrument(seed: int, case: str, gain_error: float = 0.0, drift_nm: float = 0.0):
    """The microscope of a run; ``gain_error`` relative, ``drift_nm`` per frame of C10 and C12."""
    names = KNOBS[case]
    hidden = simulated.draw_state(seed, names, 150.0 if case == "7" else 200.0)
    if case == "7":
        hidden[3:7] *= 1000.0 / (150.0 * simulated.SECOND_ORDER_FACTOR)
    random = np.random.default_rng([seed, 9])
    count = len(names)
    actuator = np.eye(count) + gain_error * np.diag(random.standard_normal(count))
    drift = drift_nm * random.standard_normal(count)
    drift[3:] *= simulated.SECOND_ORDER_FACTOR
    return jaxcal.SimulatedMicroscope(hidden_nm=hidden, knob_names=names, seed=seed,
                                      actuator=actuator, drift_nm=drift)


@lru_cache(maxsize=1)
def series(seed: int, case: str, frames: int, gain_error: float, drift_nm: float):
    """Series of an instrument, as all methods see it, and the instrument."""
    microscope = instrument(seed, case, gain_error, drift_nm)
    steps = simulated.random_steps(seed, frames, KNOBS[case], step_nm=STEPS_NM[case])
    return Seen(acquire_series(microscope, steps)), microscope


@cache
def trained():
    """The network and the scalar maps, made in ``build/`` where they are not there yet."""
    def report(message, fraction=None):
        print(message, file=sys.stderr, flush=True)

    made, _ = network.load(report=report)
    return made, cache(lambda: scalar_em.load(made))


def ask(method: str, seen: Seen, counts, seed: int, settings=None):
    """Answers {count: `Answer`} of a method that takes a series."""
    length = max(len(seen.series), max(counts))
    if method in published.OPTIONS:
        return {n: published.estimate(seen, n, seed, models.load(), method, length, settings)
                for n in counts}
    if method == "particle_filter":
        return particle_filter.filter_(seen, counts, seed, models.load(), length)
    if method == "regression":
        return {n: regression.estimate(seen, n, seed, trained()[0], length) for n in counts}
    scalar = method.removeprefix("scalar_em_")
    values = [scalar_em.measure(frame, seen.series.optics, trained()[0])[scalar]
              for frame in seen.series.frames]
    return {n: scalar_em.estimate(seen, n, seed, trained()[1]()[scalar], values, length,
                                  settings or em.DEFAULT) for n in counts}


def chosen(method: str, microscope, frames: int, seed: int):
    """Answers after each frame of a method that chooses its frames."""
    if method == "jaxcal_loop":
        run = jaxcal.calibrate(microscope, frames=min(frames, max(COUNTS)), seed=seed)
        for made in run.history:
            yield published.Answer(made.tuned_knobs_nm,
                                   np.sqrt(np.diag(made.tuned_covariance_nm2)), made.seconds)
        return
    kind, quality = method.split("_")
    module = bayesopt if kind == "bayesopt" else bayesopt_package
    network_ = trained()[0] if quality == "emittance" else None
    yield from module.tune(microscope, frames, seed, quality, network_)


def judged(answers, microscope) -> dict:
    """Rows of a run: error and seconds after so many frames, and error/sd where one is stated.

    The residual of an answer from n frames is that at the time of frame n.
    """
    run = {"frames": [], "error_nm": [], "in_limits": [], "seconds": [], "z": []}
    for count, answer in answers:
        left = residual_nm(microscope, answer.knobs_nm, count)
        nm, limits = errors(left, microscope.knob_names, microscope.optics)
        run["frames"].append(count)
        run["error_nm"].append(nm)
        run["in_limits"].append(limits)
        run["seconds"].append(answer.seconds)
        run["z"].append(None if answer.sd_nm is None else
                        float(np.sqrt(np.mean((left / np.maximum(answer.sd_nm, 1e-9)) ** 2))))
    return run


def one(method: str, seed: int, case: str, options) -> dict:
    """A run of a method on an instrument. One that raises is a failed run with its reason, which
    leaves the instrument as it is."""
    begin = time.perf_counter()
    asked = sorted({*ASKED, *options.counts, options.budget} if method in CHOOSING
                   else options.counts)
    try:
        if method in SERIES:
            seen, microscope = series(seed, case, max(options.counts), options.gain_error,
                                      options.drift)
            quick = options.quick and method.startswith("jaxcal")  # goes on to the refinement
            settings = QUICK_EM if quick else None
            answers = ask(method, seen, options.counts, seed, settings).items()
        else:
            microscope = instrument(seed, case, options.gain_error, options.drift)
            answers = [(n, a) for n, a in enumerate(
                chosen(method, microscope, options.budget, seed), 1)
                if n in asked or method == "jaxcal_loop"]
        return {"seed": seed, "wall": time.perf_counter() - begin, **judged(answers, microscope)}
    except ValueError as error:
        microscope = instrument(seed, case, options.gain_error, options.drift)
        untouched = Answer(np.zeros(len(microscope.knob_names)), None, 0.0)
        return {"seed": seed, "failed": str(error), "wall": time.perf_counter() - begin,
                **judged([(n, untouched) for n in asked], microscope)}


def on_reality(method: str, file: str, truth: dict, folder: Path, counts) -> dict:
    """Errors of a method that takes a series on one of another simulator."""
    seen = _read(folder / file)
    run = {"seed": file, "tier": truth["tier"], "frames": [], "error_nm": [], "seconds": []}
    for count, answer in ask(method, seen, counts, 0).items():
        right = reality.wanted(truth, count)
        sign = 1.0 if truth["tier"] == "D" else -1.0
        off = [answer.knobs_nm[k] - sign * right[name]
               for k, name in enumerate(seen.series.knob_names) if name in reality.FIRST]
        run["frames"].append(count)
        run["error_nm"].append(float(np.sqrt(np.mean(np.square(off)))))
        run["seconds"].append(answer.seconds)
    return run


@lru_cache(maxsize=1)
def _read(path):
    return Seen(jaxcal.read_series(path))


def settings(options, method: str, case: str) -> dict:
    """What must be the same for a run to be taken over."""
    here = Path(__file__).parent / "baselines"
    wanted = {"method": method, "case": case, "counts": list(options.counts),
              "quick": options.quick, "code": provenance.code(__file__),
              "model": provenance.digest(provenance.MODEL)}
    if case != "reality":
        wanted |= {"gain_error": options.gain_error, "drift_nm": options.drift}
    if method in CHOOSING:
        wanted["budget"] = options.budget
    if not method.startswith("jaxcal") and method != "published":
        wanted["baselines"] = provenance.digest(*sorted(here.glob("*.py")))
    return wanted


def available(methods) -> list[str]:
    """The methods that can run here; says which cannot."""
    if bayesopt_package.installed():
        return list(methods)
    if any(method.startswith("package") for method in methods):
        print(bayesopt_package.MISSING + "; left out", file=sys.stderr)
    return [method for method in methods if not method.startswith("package")]


def collect(options) -> dict:
    """All runs {case: {method: [run]}}, from the lines as far as they were made before."""
    found = {}
    for case in options.cases:
        seeds = range(FIRST_SEED + options.first, FIRST_SEED + options.instruments)
        for seed in seeds:
            for method in (m for m in options.methods if case != "wide" or m in SERIES):
                run = _kept(options, method, case, seed,
                            lambda m=method, s=seed, c=case: one(m, s, c, options))
                found.setdefault(case, {}).setdefault(method, []).append(run)
    if options.reality and options.folder.is_dir():
        for file, truth in reality.scored(options.folder).items():
            for method in (m for m in options.methods if m in SERIES):
                run = _kept(options, method, "reality", file,
                            lambda m=method, f=file, t=truth: on_reality(
                                m, f, t, options.folder, options.counts))
                found.setdefault("reality", {}).setdefault(method, []).append(run)
    return found


def _kept(options, method, case, seed, make):
    wanted = settings(options, method, case)
    done = kept.read(options.lines, wanted)
    if seed not in done:
        done[seed] = make()
        kept.add(options.lines, wanted, done[seed])
        told = done[seed].get("failed") or ", ".join(
            f"{n}: {e:.1f}" for n, e in zip(
                done[seed]["frames"], done[seed]["error_nm"], strict=True))
        print(f"{case} {seed} {method}: {told}", file=sys.stderr, flush=True)
    return done[seed]


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, default=64, help="FIRST ... INSTRUMENTS-1")
    parser.add_argument("--first", type=int, default=0, help="first instrument of this process")
    parser.add_argument("--cases", default=",".join(KNOBS))
    parser.add_argument("--methods", default=",".join(m for m in METHODS if m not in LEFT_OUT))
    parser.add_argument("--counts", default=",".join(map(str, COUNTS)), help="frames of a series")
    parser.add_argument("--budget", type=int, default=BUDGET, help="frames of an optimisation")
    parser.add_argument("--gain-error", type=float, default=0.0, help="relative, of each knob")
    parser.add_argument("--drift", type=float, default=0.0, help="nm per frame of C10 and C12")
    parser.add_argument("--quick", action="store_true", help="few instruments, small budgets")
    parser.add_argument("--folder", type=Path, default=reality.FOLDER)
    parser.add_argument("--no-reality", dest="reality", action="store_false")
    parser.add_argument("--lines", type=Path, default=LINES, help="where finished runs are kept")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--document", type=Path)
    options = parser.parse_args(arguments)
    provenance.fill_in(options, json=RESULT, figure=FIGURE, document=provenance.DOCUMENT)
    try:
        options.counts = tuple(sorted({int(n) for n in options.counts.split(",")}))
    except ValueError:
        parser.error(f"--counts should be whole numbers with commas, got {options.counts}")
    options.cases, options.methods = options.cases.split(","), options.methods.split(",")
    if options.quick:
        for name, value in QUICK.items():
            setattr(options, name, value)
    unknown = {*options.methods} - {*METHODS} or {*options.cases} - {*KNOBS}
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are the methods "
                     f"{', '.join(METHODS)} and the cases {', '.join(KNOBS)}")
    if options.instruments <= options.first or min(options.counts) < 1:
        parser.error("--instruments should be larger than --first, --counts at least 1")
    options.methods = available(options.methods)
    if set(options.cases) == {"wide"} and not set(options.methods) & set(SERIES):
        parser.error(f"the case wide is for methods that take a series: {', '.join(SERIES)}")
    return options


def main(arguments=None) -> int:
    options = parse(arguments)
    runs = collect(options)
    made = {"benchmark": "comparison", "provenance": provenance.provenance(),
            "instruments": options.instruments - options.first,
            "seeds": [FIRST_SEED + options.first, FIRST_SEED + options.instruments - 1],
            "counts": list(options.counts), "budget": options.budget,
            "gain_error": options.gain_error, "drift_nm": options.drift, "quick": options.quick,
            "summary": {case: summary.summarise(part) for case, part in runs.items()},
            "runs": runs}
    text = summary.markdown(made)
    provenance.publish(made, "comparison", text, options.json, options.document)
    if options.figure is not None:
        summary.draw(made["summary"], options.figure)
    print(text)
    return 0 if all(entry["kept"] for entry in summary.promised(made)) else 1


if __name__ == "__main__":
    sys.exit(main())
