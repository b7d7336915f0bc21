"""A frame that shows the expected state is told from one that shows another."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxcal
from jaxcal import calibration, model, observation, unknowns, verification
from jaxcal.microscopes.simulated import FIRST_ORDER

TRUTH = {"C10": 80.0, "C12a": -60.0, "C12b": 40.0, "C21a": 30.0}


@pytest.fixture(scope="module")
def shipped():
    return model.load()


def log_odds(off_nm, seed, shipped):
    """Of a frame that was to be in focus, by the knobs (3,), nm, that did not arrive."""
    microscope = jaxcal.SimulatedMicroscope(hidden_nm=TRUTH, seed=seed)
    microscope.set(np.array(off_nm) - list(TRUTH.values())[:3])
    seen = observation.observe(microscope.acquire(), microscope.optics)
    expected = np.zeros(7)
    expected[3] = TRUTH["C21a"]
    return verification.log_odds_elsewhere(seen, expected, microscope.optics, shipped,
                                           candidates=1024)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_frame_in_focus_passes_and_one_where_a_knob_did_not_arrive_does_not(seed, shipped):
    assert log_odds([0.5, -0.4, 0.3], seed, shipped) < 0.5 * calibration.DOUBTED
    assert log_odds([150.0, 0.0, 0.0], seed, shipped) > calibration.DOUBTED
    assert log_odds([0.0, -150.0, 0.0], seed, shipped) > calibration.DOUBTED


def test_the_state_at_the_setting_that_tunes(monkeypatch):
    """Nothing is left of the knobs, elsewhere what they lead to; what is no knob stays."""
    free = ("C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30")
    state = np.array([10.0, 20, 30, 400, 500, 600, 700, 8000])
    monkeypatch.setattr(unknowns, "decode", lambda z, problem: SimpleNamespace(state=state))
    solution = SimpleNamespace(point=SimpleNamespace(z=None))
    answer = SimpleNamespace(
        knob_names=(*FIRST_ORDER, "C30"), tuned_knobs_nm=np.array([5.0, 0, 0, 0]),
        actuator=np.diag([1.1, 1.0, 1.0, 1.0]), tuned_covariance_nm2=np.eye(4),
        refinement=SimpleNamespace(problem=SimpleNamespace(free=free), solutions=(solution,)))
    others = [400, 500, 600, 700]
    assert_allclose(verification.state_nm(answer, [5.0, 0, 0, 0]), [0, 0, 0, *others])
    assert_allclose(verification.state_nm(answer, [15.0, 0, -2.0, 9]), [11, 0, -2, *others])
