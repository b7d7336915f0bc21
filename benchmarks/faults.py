"""Closed loops with faults drawn at random: does every run end in a stated state?

    python -m benchmarks.faults [--runs 200] [--first 0]

Run k tunes a simulated microscope (three knobs, every fourth seven, budget of eight frames) with
one or two faults: gains off by up to 40 % with cross-talk, a knob that does not move, one that
stops on the way, hysteresis, drift, bad frames (blank, saturated, half in shadow, crystalline,
contaminated, stale, late), a specimen that is crystalline or contaminated in every frame, a camera
turned or mirrored, a wrong nominal energy, semi-angle or pixel, knobs with narrow limits
(all knobs have some), a call that raises, hangs or gives rubbish. What has to hold: nothing is
raised, no knob is sent beyond its limit, the verdict is one of three, the knobs stand where it
says, at zero or at the best setting known, and of the runs that say "tuned" at least 98 % are
inside the limits they state.

A run is kept as soon as it ends, so that the same command goes on after an interruption. Writes
``benchmarks/results/faults.json`` and the table in ``docs/results.md``, prints one closing line;
the exit status is 0 only where all that holds and some run was tuned.
"""

import argparse
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

import jaxcal
from benchmarks import kept, provenance
from jaxcal import calibration
from jaxcal import model as models
from jaxcal.aberrations import indices
from jaxcal.microscopes import FaultyMicroscope, faulty, simulated

LINES = provenance.ROOT / "build" / "faults.jsonl"
RESULT = provenance.RESULTS / "faults.json"
FIRST_SEED = 40_000
FRAMES = 8
TIMEOUT_S = 60.0  # of a call; the first frame on a grid is compiled in it
FAULTS = ("none", "gains", "dead knob", "stuck knob", "hysteresis", "drift", "bad frames",
          "bad specimen", "camera turned", "wrong energy", "wrong semi-angle", "wrong pixel",
          "narrow limits", "failing call")
# What the reason of a run should say of the fault.
NAMED = {"gains": ("the knobs do not act as told", "of what it was told"),
         "dead knob": ("does not move",),
         "stuck knob": ("does not move", "do not come to rest", "a knob may not have arrived"),
         "bad specimen": ("unlike anything the model was trained on", "a better area",
                          "no state explains"),
         "hysteresis": ("hysteresis:",), "drift": ("a drift, ",),
         "camera turned": ("the camera sees the knobs",),
         "wrong energy": ("energy_keV is wrong",),
         "wrong semi-angle": ("the aperture's image has a radius", "check semi_angle_mrad"),
         "wrong pixel": ("the aperture's image has a radius", "check semi_angle_mrad"),
         "narrow limits": ("its limit is",),
         "failing call": ("the microscope failed", "did not answer", "gave ")}
# Of which other faults the same words are true: by whatever it is, the knobs do not act as told.
TRUE_OF = {"gains": {"dead knob", "stuck knob", "hysteresis", "camera turned"},
           "stuck knob": {"hysteresis"}}
STATES = (calibration.TUNED, calibration.NOT_DECIDED, calibration.REFUSED)


def draw(seed: int):
    """The faults of a run, by name with what they are, and the microscope that has them."""
    random = np.random.default_rng([seed, 11])
    names = simulated.SEVEN if seed % 4 == 3 else simulated.FIRST_ORDER
    count, nominal = len(names), simulated.simulated_optics()
    chosen = random.choice(len(FAULTS), int(random.integers(1, 3)), replace=False)
    told, actuator, drift, given = {}, np.eye(count), np.zeros(count), {}
    limits = {name: float(random.uniform(250, 600) if name in simulated.FIRST_ORDER else
                          random.uniform(1500, 3000)) for name in names}
    for fault in (FAULTS[k] for k in chosen):
        told[fault] = ""
        if fault == "gains":
            actuator = actuator @ np.diag(1 + random.uniform(-0.4, 0.4, count))
            actuator[0, 1] += 0.05
            told[fault] = ", ".join(f"{g:.2f}" for g in np.diag(actuator))
        elif fault == "dead knob":
            dead = int(random.integers(count))
            actuator[:, dead] = 0.0
            told[fault] = names[dead]
        elif fault == "stuck knob":
            knob, frame = names[int(random.integers(count))], int(random.integers(1, FRAMES + 1))
            given["stuck"], told[fault] = {knob: frame}, f"{knob} from frame {frame} on"
        elif fault == "bad specimen":
            kind = str(random.choice(["crystalline", "contaminated"]))
            spoilt = dict.fromkeys(range(FRAMES + 1), kind)
            given["frames"], told[fault] = spoilt | given.get("frames", {}), kind
        elif fault == "hysteresis":
            given["hysteresis"] = float(random.uniform(0.03, 0.15))
            told[fault] = f"{given['hysteresis']:.2f}"
        elif fault == "drift":
            drift[:3] = random.uniform(0.3, 1.5) * random.standard_normal(3)
            told[fault] = f"{np.linalg.norm(drift):.1f} nm a frame"
        elif fault == "bad frames":
            numbers = random.choice(FRAMES + 1, int(random.integers(1, 4)), replace=False)
            kinds = random.choice(faulty.FRAMES, len(numbers))
            bad = {int(k): str(kind) for k, kind in zip(numbers, kinds, strict=True)}
            given["frames"] = given.get("frames", {}) | bad
            told[fault] = ", ".join(f"{k}: {kind}" for k, kind in sorted(bad.items()))
        elif fault == "camera turned":
            given |= {"quarter_turns": int(random.integers(4)),
                      "mirrored": bool(random.integers(2))}
            told[fault] = f"{90 * given['quarter_turns']} degrees, mirrored {given['mirrored']}"
        elif fault.startswith("wrong"):
            off = float(random.choice([-1, 1]) * random.uniform(0.05, 0.2))
            optics = given.get("optics", nominal)
            given["optics"] = {
                "wrong energy": lambda o, off: replace(
                    o, energy_keV=min(o.energy_keV * (1 + 3 * off), 300.0)),
                "wrong semi-angle": lambda o, off: replace(
                    o, semi_angle_mrad=o.semi_angle_mrad * (1 + off)),
                "wrong pixel": lambda o, off: replace(o, pixel_mrad=o.pixel_mrad * (1 + off)),
            }[fault](optics, off)
            if fault == "wrong energy":  # the highest is 300 keV
                off = given["optics"].energy_keV / optics.energy_keV - 1
            told[fault] = f"{100 * off:+.0f} %"
        elif fault == "narrow limits":
            narrow = float(random.uniform(40, 250))
            limits |= dict.fromkeys(simulated.FIRST_ORDER, narrow)
            told[fault] = f"{narrow:.0f} nm"
        elif fault == "failing call":
            # set and acquire in turns, the verification and the last correction among them
            number, kind = int(random.integers(2 * FRAMES + 3)), str(random.choice(faulty.CALLS))
            given["calls"] = {number | 1 if kind == "rubbish" else number: kind}  # of acquire
            told[fault] = str(given["calls"])
    bench = simulated.SimulatedMicroscope(
        nominal, knob_names=names, seed=seed, hidden_range_nm=150.0, actuator=actuator,
        drift_nm=drift, limits_nm=limits)
    return told, FaultyMicroscope(bench, seed=seed, **given), bench


def one(seed: int, model) -> dict:
    """One run and what it broke: a list of sentences, empty where all holds."""
    told, microscope, bench = draw(seed)
    run, start, broken = {"seed": seed, "faults": told}, time.perf_counter(), []
    try:
        made = jaxcal.calibrate(microscope, frames=FRAMES, model=model, seed=seed,
                                timeout_s=TIMEOUT_S)
    except ValueError as error:
        if np.any(microscope.largest_nm):  # before anything moved, a call may be refused
            broken.append(f"raised after the knobs moved: {error}")
        return run | {"verdict": calibration.REFUSED, "reason": str(error), "broken": broken,
                      "unmoved": True, "left": None, "seconds": time.perf_counter() - start}
    except Exception as error:  # that nothing is raised is what is tried here
        return run | {"verdict": "raised", "reason": f"{type(error).__name__}: {error}",
                      "broken": ["raised"], "left": None, "seconds": time.perf_counter() - start}
    left = np.abs(bench.state_nm()[indices(bench.knob_names)]) / made.limits_nm
    if np.any(microscope.largest_nm > bench.limits_nm):
        broken.append("a knob was sent beyond its limit")
    if made.verdict not in STATES or not made.reason:
        broken.append(f"no stated verdict: {made.verdict}")
    if made.applied_knobs_nm is None:
        if "could not be brought back" not in made.reason:
            broken.append("it is not said that nobody knows where the knobs stand")
    elif not np.allclose(microscope.asked_nm, made.applied_knobs_nm):
        broken.append("the knobs do not stand where it says")
    elif not any(np.allclose(made.applied_knobs_nm, one) for one in best(made)):
        broken.append("the knobs were left in between")
    return run | {"verdict": made.verdict, "reason": made.reason, "broken": broken,
                  "left": float(left.max()), "seconds": time.perf_counter() - start,
                  "inside": bool(np.all(left <= 1)), "frames": len(made.history)}


def best(made):
    """Where a run may leave the knobs: at zero; where it was not refused, at a setting that tunes
    by one of its estimates."""
    yield np.zeros(len(made.knob_names))
    if made.verdict != calibration.REFUSED:
        yield from (answer.tuned_knobs_nm for answer in (*made.history, made.estimate))


def summarise(runs) -> dict:
    """Counts by fault and verdict, and what was broken."""
    tuned = [run for run in runs if run["verdict"] == calibration.TUNED]
    inside = sum(run["inside"] for run in tuned)
    by_fault = {}
    for run in runs:
        for fault in run["faults"]:
            counts = by_fault.setdefault(fault, Counter())
            counts[run["verdict"]] += 1
            counts["outside"] += run["verdict"] == calibration.TUNED and not run["inside"]
            if fault in NAMED:
                counts["named"] += _named(run, fault)
    for fault in set(NAMED) & set(by_fault):
        alike = {one for one, words in NAMED.items() if set(words) & set(NAMED[fault])}
        alike |= TRUE_OF.get(fault, set())
        by_fault[fault]["wrongly"] = sum(
            _named(run, fault) for run in runs if not alike & set(run["faults"]))
    return {"runs": len(runs), "verdicts": dict(Counter(run["verdict"] for run in runs)),
            "tuned": len(tuned), "tuned_inside": inside,
            "broken": [f"seed {run['seed']}: {one}" for run in runs for one in run["broken"]],
            "by_fault": {fault: dict(by_fault[fault]) for fault in FAULTS if fault in by_fault},
            "holds": bool(tuned and not any(run["broken"] for run in runs)
                          and inside >= 0.98 * len(tuned))}


def _line(run) -> str:
    """A run in one line."""
    left = "" if run["left"] is None else f", {run['left']:.1f} limits left"
    broken = "; BROKEN: " + "; ".join(run["broken"]) if run["broken"] else ""
    return (f"{run['seed']}: {run['faults']}: {run['verdict']}{left}, {run['seconds']:.0f} s"
            f"{broken}")


def _named(run, fault: str) -> bool:
    """Whether the reason of a run speaks of a fault."""
    return any(words in run["reason"] for words in NAMED[fault])


def markdown(result) -> str:
    """Table for the documentation."""
    s = result["summary"]
    rows = [(fault, *(counts.get(state, 0) for state in STATES), counts.get("outside", 0),
             *((counts.get("named", 0), counts.get("wrongly", 0)) if fault in NAMED else ("", "")))
            for fault, counts in s["by_fault"].items()]
    rows.append(("all runs", *(s["verdicts"].get(state, 0) for state in STATES),
                 s["tuned"] - s["tuned_inside"], "", ""))
    head = ("fault", *STATES, "\"tuned\" but outside", "named in the reason",
            "named where it was not")
    outside = [run for run in result["runs"] if run["verdict"] == calibration.TUNED
               and not run["inside"]]
    parts = [provenance.markdown(head, rows)]
    if outside:
        parts.append("\"Tuned\" but outside: " + "; ".join(
            f"seed {run['seed']} ({run['left']:.1f} limits; " + ", ".join(
                f"{fault} {what}".strip() for fault, what in run["faults"].items()) + ")"
            for run in outside) + ".")
    if unmoved := sum(run.get("unmoved", False) for run in result["runs"]):
        parts.append(f"{unmoved} of the refused were refused before anything moved.")
    if s["broken"]:
        parts.append("Broken: " + "; ".join(s["broken"]) + ".")
    return "\n\n".join([*parts, provenance.source(result)])


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200, help="FIRST ... RUNS-1")
    parser.add_argument("--first", type=int, default=0, help="first run of this process")
    parser.add_argument("--lines", type=Path, default=LINES, help="where finished runs are kept")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.runs <= options.first or options.first < 0:
        parser.error("--runs should be larger than --first")
    wanted = {"frames": FRAMES, "code": provenance.code(__file__),
              "model": provenance.digest(provenance.MODEL)}
    model, seeds = models.load(), range(FIRST_SEED + options.first, FIRST_SEED + options.runs)
    runs = kept.each(options.lines, wanted, seeds, lambda seed: one(seed, model), _line,
                     options.json)
    result = {"benchmark": "faults", "settings": wanted, "provenance": provenance.provenance(),
              "summary": summarise(runs), "runs": runs}
    provenance.write(options.json, result)
    provenance.put("faults", markdown(result), options.document)
    s = result["summary"]
    print(f"{s['runs']} runs with faults: {len(s['broken'])} broken, of {s['tuned']} that say "
          f"tuned {s['tuned_inside']} are inside their limits: "
          f"{'holds' if s['holds'] else 'DOES NOT HOLD'}")
    return 0 if s["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
