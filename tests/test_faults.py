"""Closed loops with faults in full: the simulated frames, the estimate, the decisions.

What `python -m benchmarks.faults` does for two hundred drawn at random, here for a few chosen ones.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxcal
from benchmarks import faults
from jaxcal import calibration
from jaxcal.aberrations import indices
from jaxcal.microscopes import FaultyMicroscope, SimulatedMicroscope

LIMITS = {"C10": 300.0, "C12a": 300.0, "C12b": 300.0}
GAINS = np.array([[0.7, 0.05, 0.0], [0.0, 1.3, 0.0], [0.0, 0.0, 1.15]])


def run(simulated=None, **fault):
    """A calibration of a microscope with a fault; what holds whatever the fault."""
    bench = SimulatedMicroscope(seed=31, limits_nm=LIMITS, hidden_range_nm=120.0,
                                **(simulated or {}))
    microscope = FaultyMicroscope(bench, seed=1, **fault)
    made = jaxcal.calibrate(microscope, frames=7)
    assert made.verdict in faults.STATES and made.reason
    assert np.all(microscope.largest_nm <= bench.limits_nm)
    assert_allclose(microscope.asked_nm, made.applied_knobs_nm)
    left = np.abs(bench.state_nm()[indices(bench.knob_names)])
    assert_allclose(np.abs(made.true_left_nm), left)
    if made.verdict == calibration.TUNED:
        assert np.all(left <= made.limits_nm)
    return made, left / made.limits_nm


@pytest.mark.slow
def test_gains_and_crosstalk_are_estimated_along_and_told():
    made, left = run({"actuator": GAINS})
    assert "the knobs do not act as told: gains C10 0." in made.reason
    assert_allclose(made.estimate.actuator, GAINS, atol=0.1)
    assert np.all(left < 5)  # the untuned state is some forty limits off


@pytest.mark.slow
def test_a_camera_that_is_turned_and_mirrored_is_told():
    made, _ = run(quarter_turns=1, mirrored=True)
    assert made.verdict == calibration.NOT_DECIDED
    assert "the camera sees the knobs" in made.reason
    assert_allclose(made.applied_knobs_nm, 0.0)


@pytest.mark.slow
def test_frames_of_all_that_can_be_wrong_with_an_area_are_set_aside_or_named():
    made, left = run(frames={0: "crystalline", 2: "contaminated", 3: "half shadowed", 5: "stale"})
    aside = {number for number, _ in made.estimate.rejected_frames}
    assert {3, 5} <= aside
    assert 0 in aside | set(made.estimate.unlike_frames)
    assert np.all(left < 3)
