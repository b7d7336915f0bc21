"""Closed loops in full, frames, estimates and decisions, in a process of its own and in single
precision, as users run them: in double precision a loop takes minutes.

    python fault_session.py "dead knob" energy frames killed check [--folder FOLDER]

Prints one JSON object, {case: what came of it}.
"""

import argparse
import json
import sys

import numpy as np

import jaxcal
from benchmarks import faults
from jaxcal import calibration
from jaxcal.aberrations import indices
from jaxcal.microscopes import FaultyMicroscope, SimulatedMicroscope
from jaxcal.microscopes import check as conformance

LIMITS_NM = {"C10": 300.0, "C12a": 300.0, "C12b": 300.0}
FRAMES = 5  # enough to ask how the knobs act
ENERGY = 40126  # seed of a run that is told 131 keV for 200, and was tuned without a word
SPOILT = {1: "contaminated", 2: "half shadowed", 3: "late", 4: "stale"}


def microscopes(simulated=None, **fault):
    """A microscope with a fault, and the one behind."""
    bench = SimulatedMicroscope(seed=31, limits_nm=LIMITS_NM, hidden_range_nm=120.0,
                                **(simulated or {}))
    return FaultyMicroscope(bench, seed=1, **fault), bench


CASES = {  # the microscopes, and what is asked of the calibration
    "dead knob": lambda: (*microscopes({"actuator": np.diag([1.0, 0.0, 1.0])}), {"frames": FRAMES}),
    "frames": lambda: (*microscopes(frames=SPOILT), {"frames": FRAMES}),
    "energy": lambda: (*faults.draw(ENERGY)[1:], {"frames": faults.FRAMES, "seed": ENERGY}),
}


def loop(name):
    """A calibration with a fault."""
    microscope, bench, asked = CASES[name]()
    made = jaxcal.calibrate(microscope, **asked)
    left = bench.state_nm()[indices(bench.knob_names)]
    return {
        "verdict": made.verdict, "reason": made.reason,
        "beyond": bool(np.any(microscope.largest_nm > bench.limits_nm)),
        "stands": bool(np.allclose(microscope.asked_nm, made.applied_knobs_nm)),
        "best": any(np.allclose(made.applied_knobs_nm, one) for one in faults.best(made)),
        "back": not np.any(made.applied_knobs_nm),
        "left": float(np.max(np.abs(left) / made.limits_nm)),
        "rejected": {number: why for number, why in made.estimate.rejected_frames}}


class Killed(BaseException):
    """As of kill -9: nothing is done afterwards."""


def continued(folder):
    """A run killed in its fifth estimate and gone on with, beside one that was not."""
    def tune(**given):
        return jaxcal.calibrate(microscopes()[0], frames=FRAMES, **given)

    def killer(message, fraction):
        if message.startswith("frame 5: fitting"):
            raise Killed

    whole, usual = tune(), calibration._bring_back
    calibration._bring_back = lambda course: (None, "killed")
    try:
        tune(run=folder, progress=killer)
    except Killed:
        pass
    calibration._bring_back = usual
    again = tune(run=folder, resume=True)
    sd = np.sqrt(np.diag(whole.estimate.tuned_covariance_nm2))
    return {"same": {name: [np.asarray(getattr(run, name)).tolist() for run in (whole, again)]
                     for name in ("verdict", "reason", "applied_knobs_nm")} | {
                         "x0_nm": [run.estimate.x0_nm.tolist() for run in (whole, again)]},
            "largest_nm": float(np.abs(whole.series.knobs_nm).max()),
            "left_sd": float(np.max(np.abs(whole.true_left_nm) / sd)), "sd_nm": float(sd.max())}


def checked():
    """What the check of an adapter says of a microscope that is nearly tuned, its camera turned."""
    bench = SimulatedMicroscope(hidden_nm={"C10": 20.0, "C12a": -10.0}, seed=5,
                                limits_nm=dict.fromkeys(LIMITS_NM, 600.0))
    told = conformance(FaultyMicroscope(bench, seed=1, quarter_turns=1))
    return {"failed": [one.question for one in told.checks if one.passed is False],
            "findings": told.response.findings, "back": not np.any(bench.knobs_nm)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("cases", nargs="+", choices=[*CASES, "killed", "check"])
    parser.add_argument("--folder", help="of the run that is killed")
    options = parser.parse_args()
    others = {"killed": lambda: continued(options.folder), "check": checked}
    json.dump({case: others[case]() if case in others else loop(case) for case in options.cases},
              sys.stdout)


if __name__ == "__main__":
    main()
