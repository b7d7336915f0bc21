"""The result of an estimate as JSON, for programs.

    {"<name>": {"x0_nm": {"C10": ...}, "sd_nm": {...}, "tuned_knobs_nm": {...},
                "tuned_sd_nm": {...}, "frames_used": n, "rejected_frames": [k, ...],
                "converged": true, "message": "...", "seconds": s}}

``x0_nm`` is the state with the knobs at zero at the first frame; ``tuned_knobs_nm`` is the knob
setting that tunes the instrument at the time of the last frame.  A number that is not finite is
written as null.
"""

import json
import math

import numpy as np

from jaxcal.files import write_text


def entry(estimate, truth_nm=None):
    """What is written of one series.

    Args:
        estimate: `jaxcal.Estimate`.
        truth_nm: mapping {name: nm} of the hidden state of a simulated microscope, or None; only
            the knobs are written.

    Returns:
        A dictionary of plain Python values, as at the head of this module.
    """
    names = estimate.knob_names
    result = {
        "x0_nm": _named(names, estimate.x0_nm),
        "sd_nm": _named(names, standard_deviation(estimate.covariance_nm2)),
        "tuned_knobs_nm": _named(names, estimate.tuned_knobs_nm),
        "tuned_sd_nm": _named(names, standard_deviation(estimate.tuned_covariance_nm2)),
        "frames_used": int(estimate.frames_used),
        "rejected_frames": [int(number) for number, _ in estimate.rejected_frames],
        "converged": bool(estimate.converged),
        "message": str(estimate.message),
        "seconds": _number(estimate.seconds),
    }
    if truth_nm is not None:
        result["truth_nm"] = _known(names, truth_nm)
    return result


def calibration_entry(run):
    """What is written of a `jaxcal.Calibration`: as of `entry`, with "verdict" and "reason",
    "applied_knobs_nm", where the knobs were left (null where that is not known), "limits_nm", the
    tolerance, "actuator", {aberration: {knob: share}}, how the knobs act, "misfit", the deviance
    per bin beyond chance that the likeliest state leaves, and "unlike_frames", the numbers of those
    unlike anything the model was trained on.

    Where there is no estimate the numbers are null.
    """
    names, last = run.knob_names, run.estimate
    if last is None:
        nothing = _named(names, [math.nan] * len(names))
        numbers = dict.fromkeys(("x0_nm", "sd_nm", "tuned_knobs_nm", "tuned_sd_nm"), nothing)
        taken = 0 if run.series is None else len(run.series)
        result = numbers | {
            "frames_used": 0, "rejected_frames": list(range(taken)), "converged": False,
            "message": f"{run.verdict}: {run.reason}", "seconds": _number(run.seconds)}
        if run.truth_nm is not None:
            result["truth_nm"] = _known(names, run.truth_nm)
    else:
        result = entry(last, run.truth_nm)
    applied = run.applied_knobs_nm
    return result | {
        "applied_knobs_nm": None if applied is None else _named(names, applied),
        "limits_nm": _named(names, run.limits_nm), "verdict": run.verdict, "reason": run.reason,
        "actuator": last and actuator(last),
        "misfit": last and last.refinement and _number(last.refinement.misfit),
        "unlike_frames": [int(number) for number in last.unlike_frames] if last else []}


def actuator(estimate) -> dict:
    """By how much of a nm each knob moves each aberration, {aberration: {knob: share}}."""
    return {name: _named(estimate.knob_names, row)
            for name, row in zip(estimate.knob_names, estimate.actuator, strict=True)}


def standard_deviation(covariance):
    """Square roots of the diagonal of a covariance (P, P), in its unit; (P,)."""
    return np.sqrt(np.clip(np.diag(np.asarray(covariance, float)), 0.0, None))


def limit_name(limits_nm, quarter_pi_nm) -> str:
    """What limits (P,), nm, are called: the pi/4 limits (P,), nm, or a tolerance of one's own."""
    return "π/4 limit" if np.allclose(limits_nm, quarter_pi_nm) else "tolerance"


def write(path, results):
    """Write results {name: entry} as JSON, whole or not at all."""
    write_text(path, json.dumps(results, indent=1, allow_nan=False) + "\n")


def _named(names, values):
    return {name: _number(value) for name, value in zip(names, np.asarray(values), strict=True)}


def _known(names, truth_nm):
    return {name: _number(truth_nm[name]) for name in names if name in truth_nm}


def _number(value):
    value = float(value)
    return value if math.isfinite(value) else None
