"""The state followed after a calibration: what time takes and what a frame gives back."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

import jaxcal
from jaxcal import SimulatedMicroscope, posterior, tiles, tracking, unknowns
from jaxcal.aberrations import indices
from jaxcal.microscopes.simulated import FIRST_ORDER, SEVEN, random_steps
from jaxcal.optics import Optics, edge_waves, quarter_pi_limits_nm
from jaxcal.series import SeriesError

OPTICS = Optics(200.0, 20.0, 0.19)
LIMITS = quarter_pi_limits_nm(OPTICS)[:3]
TRUTH = np.array([60.0, -40.0, 25.0])


KNOWN_NM = 0.05  # standard deviation of the climb's end, which the answer's widths exceed


@cache
def refinement(names=FIRST_ORDER):
    """The end of a climb, as of a calibration of one frame."""
    power = tuple(np.ones((len(part.centres), len(part.bins))) for part in tiles.LAYOUTS)
    count = len(names)
    measured = unknowns.Measured((power,), np.zeros((1, count)), np.zeros(1), 0.0)
    problem = unknowns.problem(measured, names, OPTICS, OPTICS.radius_pixels)
    z = np.zeros(problem.active.size)
    fisher = np.eye(z.size)
    for name in names:
        row = problem.free.index(name)
        fisher[row, row] = (problem.sd.state[row] / KNOWN_NM) ** 2
    point = posterior.Point(z, 0.0, z, fisher, np.zeros(1), np.ones(1))
    return SimpleNamespace(problem=problem, explains=True, solutions=(
        SimpleNamespace(point=point, miss_nm=np.zeros(count)),))


def answer(sd=0.6, gain=None, names=FIRST_ORDER):
    gain = np.eye(len(names)) if gain is None else gain
    x0 = np.pad(TRUTH, (0, len(names) - 3))
    return SimpleNamespace(
        knob_names=names, actuator=gain, tuned_knobs_nm=-np.linalg.solve(gain, x0),
        tuned_covariance_nm2=sd**2 * np.linalg.inv(gain) @ np.linalg.inv(gain).T,
        refinement=refinement(names), modes=(SimpleNamespace(weight=1.0),), frames_used=6,
        frame_numbers=tuple(range(6)), unlike_frames=(), message="as it was")


def moved(state, by_nm):
    """The state with the knobs' aberrations otherwise, by (P,) nm."""
    mean = state.mean.copy()
    mean[state.rows] += by_nm
    return replace(state, mean=mean)


def test_the_state_at_the_end_of_a_calibration():
    gain = np.array([[1.1, 0.05, 0.0], [0.0, 0.9, 0.0], [0.0, 0.02, 1.0]])
    state = tracking.start(answer(gain=gain), OPTICS, 2.0)
    assert_allclose(state.x0_nm, TRUTH)
    assert_allclose(state.covariance_nm2, 0.36 * np.eye(3), atol=1e-12)
    assert_allclose(state.state_nm(answer(gain=gain).tuned_knobs_nm), 0.0, atol=1e-12)


def test_one_drift_is_the_same_phase_for_all_knobs():
    """Also for aberrations that are none."""
    state = tracking.start(answer(names=SEVEN), OPTICS, 2.0)
    waves = edge_waves(OPTICS)[indices(state.free)]
    assert set(state.free) > set(SEVEN)
    assert_allclose(state.walk_nm * waves, 2.0 * waves[0])
    state = tracking.start(answer(), OPTICS, [1.0, 2.0, 3.0])
    assert_allclose(state.walk_nm[state.rows], [1.0, 2.0, 3.0])
    assert_allclose(state.walk_nm[state.free.index("C21a")] * edge_waves(OPTICS)[
        indices(["C21a"])[0]], 2.0 * waves[0])


def test_no_state_is_better_known_than_the_theory():
    """However many frames: its error is the same in all."""
    state = tracking.start(answer(sd=0.1), OPTICS, 1.0)
    theory = np.diag(state.theory_nm2)
    assert np.all(theory > 0.1**2)
    assert_allclose(np.diag(state.covariance_nm2), theory + KNOWN_NM**2)


def test_what_the_calibration_knew_goes_along():
    """Film and camera with their widths and what ties them to the state."""
    one = answer()
    problem, best = one.refinement.problem, one.refinement.solutions[0]
    part = unknowns.slices(problem)
    z, fisher = best.point.z.copy(), best.point.fisher.copy()
    film, thick = part["film"].start, part["thickness"].start
    z[film], z[thick] = 0.5, -1.0
    fisher[thick, thick], fisher[thick, 0] = 100.0, 50.0
    fisher[0, thick] = 50.0
    best = SimpleNamespace(point=best.point._replace(z=z, fisher=fisher), miss_nm=np.ones(3))
    one.refinement = SimpleNamespace(problem=problem, solutions=(best,), explains=True)
    state = tracking.start(one, OPTICS, 1.0)
    assert_allclose(state.mean[film], 0.5)
    assert_allclose(state.mean[thick], problem.mean.thickness - problem.sd.thickness)
    assert_allclose(np.sqrt(state.covariance[thick, thick]), 0.1 * problem.sd.thickness, rtol=1e-3)
    assert state.covariance[0, thick] < 0
    assert_allclose(state.missed_nm2, np.eye(3))


@pytest.mark.parametrize("walk", [0.0, -1.0, np.nan, [1.0, 2.0]])
def test_a_drift_that_is_none(walk):
    with pytest.raises(ValueError, match="walk_nm should be positive, one number or one for each"):
        tracking.start(answer(), OPTICS, walk)


def test_time_widens_and_does_not_move():
    state = tracking.start(answer(), OPTICS, [1.0, 2.0, 3.0])
    later = tracking.wait(tracking.wait(state, 900.0), 2700.0)
    assert_allclose(np.diag(later.covariance_nm2), 0.36 + np.square([1.0, 2.0, 3.0]))
    assert_allclose(later.x0_nm, state.x0_nm)
    with pytest.raises(ValueError, match="seconds should be 0 or more, got -1"):
        tracking.wait(state, -1.0)


def test_one_limit_is_that_of_all_knobs():
    state = tracking.start(answer(), OPTICS, 1.0)
    one, each = (tracking.judge(state, np.zeros(3), limits) for limits in (5.0, [5.0] * 3))
    assert one.inside == each.inside and one.message == each.message


def test_when_a_correction_is_proposed():
    tuned = answer().tuned_knobs_nm
    state = tracking.start(answer(sd=0.2), OPTICS, 1.0)
    told = tracking.judge(state, tuned)
    assert told.inside > 0.99 and not told.correct
    assert told.message.startswith("within the limits with")
    away = tracking.judge(state, tuned + [2.0 * LIMITS[0], 0, 0])
    assert away.inside < 0.01 and away.correct
    assert "; correct the knobs, then with 100 %" in away.message
    assert_allclose(away.knobs_nm, tuned)
    later = tracking.judge(tracking.wait(state, 4 * 3600.0), tuned)
    assert not later.correct and "take a frame away from focus" in later.message
    strange = tracking.judge(replace(state, surprise=40.0), tuned)
    assert "off what was expected by more than the drift explains" in strange.message
    strange = tracking.judge(replace(state, surprise=40.0), tuned + [2.0 * LIMITS[0], 0, 0])
    assert not strange.correct  # it is not known where to
    with pytest.raises(ValueError, match="no estimate to start from"):
        tracking.start(None, OPTICS, 1.0)
    unrefined = answer()
    unrefined.refinement = None
    with pytest.raises(ValueError, match="of the latents alone.*make another"):
        tracking.start(unrefined, OPTICS, 1.0)
    for changed in ({"unlike_frames": (0, 1, 2)}, {"modes": (SimpleNamespace(weight=0.9),)}):
        open_ = answer()
        vars(open_).update(changed)
        with pytest.raises(ValueError, match="does not say in which state .* as it was"):
            tracking.start(open_, OPTICS, 1.0)


def test_a_correction_that_would_not_help_is_not_proposed():
    """Tuned as far as is known, but not known well: a frame helps, turning knobs does not."""
    tuned = answer().tuned_knobs_nm
    state = tracking.start(answer(sd=0.45 * LIMITS[0]), OPTICS, 1.0)
    told = tracking.judge(state, tuned)
    assert told.inside < 0.95 and not told.correct
    assert "take a frame away from focus" in told.message
    assert tracking.judge(state, tuned + [LIMITS[0], 0, 0]).correct
    vague = tracking.start(answer(sd=0.8 * LIMITS[0]), OPTICS, 1.0)  # to be sure takes more frames
    told = tracking.judge(vague, tuned + [5 * LIMITS[0], 0, 0])
    assert told.correct and told.inside < 0.01 and "%" in told.message.rpartition("then with")[2]
    lost = tracking.start(answer(sd=5 * LIMITS[0]), OPTICS, 1.0)
    assert not tracking.judge(lost, tuned + [20 * LIMITS[0], 0, 0]).correct


def test_neither_probe_nor_correction_goes_beyond_the_limits():
    tuned = answer().tuned_knobs_nm  # C10 at -60 nm
    state = tracking.start(answer(sd=0.2), OPTICS, 1.0, limits_nm={"C10": 100.0})
    assert_allclose(tracking.probe_nm(state), tracking.probe_nm(replace(
        state, largest_nm=np.full(3, np.inf))))
    assert_allclose(tracking.probe_nm(state, -1), tracking.probe_nm(state))  # -150 nm otherwise
    near = replace(state, largest_nm=np.array([62.0, 50.0, 50.0]))
    with pytest.raises(ValueError, match="limits leave no room for a frame away from focus"):
        tracking.probe_nm(near)
    assert tracking.judge(near, [-50.0, 40.0, -25.0]).correct
    beyond = tracking.judge(moved(near, [5.0, 0, 0]), tuned)
    assert not beyond.correct
    assert "C10 would have to be turned to -65 nm, its limit is 62 nm" in beyond.message
    with pytest.raises(ValueError, match="limits_nm should"):
        tracking.start(answer(), OPTICS, 1.0, limits_nm=[1.0, 2.0])


def test_a_probe_is_out_of_focus_and_far_from_a_line_focus():
    """At a line focus, C12 = C10, a frame does not tell on which side of it the state is."""
    state = tracking.start(answer(), OPTICS, 1.0)
    away = (tracking.probe_nm(state) - answer().tuned_knobs_nm) * edge_waves(OPTICS)[:3]
    assert_allclose(np.hypot(*away[1:]), tracking.ASTIGMATIC * away[0])
    assert_allclose(away[0], tracking.NEAR)
    assert tracking.ASTIGMATIC < 0.7
    other = (tracking.probe_nm(state, -1) - answer().tuned_knobs_nm) * edge_waves(OPTICS)[:3]
    assert_allclose(other, -away)


def test_a_probe_is_the_same_state_also_where_knobs_act_otherwise_than_told():
    gain = np.diag([0.6, 1.0, 1.2])
    state = tracking.start(answer(gain=gain), OPTICS, 1.0)
    away = state.state_nm(tracking.probe_nm(state)) * edge_waves(OPTICS)[:3]
    assert_allclose(away[0], tracking.NEAR)
    assert_allclose(np.hypot(*away[1:]), tracking.ASTIGMATIC * away[0])


def test_a_probe_does_not_depend_on_the_order_of_the_knobs():
    turned = ("C12a", "C12b", "C10")
    state = tracking.start(answer(names=turned), OPTICS, 1.0)
    away = (tracking.probe_nm(state) - answer(names=turned).tuned_knobs_nm) * edge_waves(OPTICS)[
        indices(turned)]
    assert_allclose(np.hypot(*away[:2]), tracking.ASTIGMATIC * away[2])


def test_without_a_knob_of_focus_there_is_no_probe():
    state = replace(tracking.start(answer(), OPTICS, 1.0), knob_names=("C21a", "C21b", "C23a"))
    with pytest.raises(ValueError, match="follow with C10 or C12 among the knobs"):
        tracking.probe_nm(state)


def test_a_prediction_and_a_frame_together_are_the_normal_posterior():
    """In closed form: knobs that go together are moved together, also one that is not seen."""
    mean = np.array([1.0, -2.0, 0.5])
    covariance = np.array([[4.0, 1.8, 0.0], [1.8, 1.0, 0.1], [0.0, 0.1, 2.0]])
    noise, theory = np.array([[0.5, 0.1, 0.0], [0.1, 0.3, 0.0], [0.0, 0.0, 0.2]]), 0.04 * np.eye(3)
    measured = np.array([3.0, -1.0, 0.0])

    def together(covariance, noise, information=None):
        told = np.linalg.inv(noise) if information is None else information
        width = np.linalg.inv(np.linalg.inv(covariance) + told)
        return mean + width @ told @ (measured - mean), width

    alone = together(covariance, noise)
    expected = together(covariance, noise + theory)
    *found, surprise = tracking.combined(mean, covariance, *alone, theory)
    for one, right in zip(found, expected, strict=True):
        assert_allclose(one, right, rtol=1e-10)
    off = measured - mean
    whole = off @ np.linalg.solve(covariance + noise + theory, off)
    assert whole / 3 < surprise < whole  # its largest of three parts
    first = np.diag([4.0, 0.0, 0.0])  # a frame that sees the first knob alone
    alone = together(covariance, None, first)
    state, *_ = tracking.combined(mean, covariance, *alone, 0 * theory)
    assert_allclose(state, together(covariance, None, first)[0], rtol=1e-8)
    assert abs(state[1] - mean[1]) > 0.5


def test_a_jump_surprises_though_the_state_moves_little():
    """C10 known to 0.3 nm, a frame that says 5 nm to 0.65: it moves the state by 0.9 nm only."""
    known, frame = 0.3**2, 0.65**2
    width = 1 / (1 / known + 1 / frame)
    covariance = np.diag([known, 4.0])
    after, _, surprise = tracking.combined(
        np.zeros(2), covariance, np.array([5.0 * width / frame, 0.0]), np.diag([width, 4.0]),
        np.zeros((2, 2)))
    assert after[0] < 1.0
    assert_allclose(surprise, 25.0 / (known + frame))
    assert surprise > tracking.SURPRISE


def test_a_frame_that_cannot_be_used_teaches_nothing():
    state = tracking.start(answer(), OPTICS, 1.0)
    with pytest.raises(SeriesError, match="the frame cannot be used: blank"):
        tracking.look(state, np.zeros((256, 256)), np.zeros(3))


def test_the_same_frame_twice_teaches_nothing():
    frame = SimulatedMicroscope(OPTICS, seed=3).acquire()
    state = replace(tracking.start(answer(), OPTICS, 1.0), last=frame)
    with pytest.raises(SeriesError, match="the frame cannot be used: stale"):
        tracking.look(state, frame.copy(), np.zeros(3))


def test_a_frame_at_focus_is_not_taken_for_a_proof():
    """There no window can be trusted: it must neither count as "as expected" nor end an alarm."""
    microscope = SimulatedMicroscope(
        OPTICS, dict(zip(FIRST_ORDER, TRUTH + [50.0, 0, 0], strict=True)), seed=3)
    tuned = answer().tuned_knobs_nm
    microscope.set(tuned)
    frame = microscope.acquire()
    state = replace(tracking.start(answer(), OPTICS, 1.0), surprise=40.0)
    with pytest.raises(SeriesError, match="too near focus.*tracking.probe_nm"):
        tracking.look(state, frame, tuned)


@pytest.mark.slow
def test_frames_bring_a_drifting_state_back():
    """C10 and C12 drift by some 3 nm after six frames told the state: four frames, on the two sides
    of focus in turns, bring it back to half of that, and to three of the stated deviations."""
    seed, drift = 11, np.array([-3.0, 3.5, 4.0])
    steps = random_steps(seed, 6)
    microscope = SimulatedMicroscope(
        hidden_nm=dict(zip(FIRST_ORDER, TRUTH, strict=True)), seed=seed)
    frames = []
    for knobs in steps:
        microscope.set(knobs)
        frames.append(microscope.acquire())
    found = jaxcal.estimate(jaxcal.Series(np.stack(frames), steps, FIRST_ORDER, microscope.optics))
    state = tracking.wait(tracking.start(found, microscope.optics, 3.0), 3600.0)
    place = unknowns.slices(found.refinement.problem)["log_scale"].start
    scale = state.mean[place]
    assert abs(scale) < 0.03
    assert np.sqrt(state.covariance[place, place]) < unknowns.SCALE_SD
    for side in (1, -1, 1, -1):
        before = np.sqrt(np.diag(state.covariance_nm2))
        knobs = tracking.probe_nm(state, side)
        microscope.set(knobs + drift)
        state = tracking.look(state, microscope.acquire(), knobs)
        off, sd = state.x0_nm - TRUTH - drift, np.sqrt(np.diag(state.covariance_nm2))
        assert np.all(np.abs(off) < 3 * sd) and np.all(sd < before)
        assert state.surprise < tracking.SURPRISE
    assert np.linalg.norm(off) < 0.5 * np.linalg.norm(drift)
    for side in (1, -1):  # more frames come nearer, but not below the theory's own error
        knobs = tracking.probe_nm(state, side)
        microscope.set(knobs + drift)
        state = tracking.look(state, microscope.acquire(), knobs)
    assert_allclose(state.mean[place], scale)  # what is no knob stays as the calibration found it
    floor = np.sqrt(np.diag(state.theory_nm2))
    assert np.all(np.sqrt(np.diag(state.covariance_nm2)) > floor)
    knobs = tracking.probe_nm(state)
    microscope.set(knobs + drift + [0.0, 12.0, 0.0])  # a jump
    frame = microscope.acquire()
    assert tracking.look(state, frame, knobs).surprise > tracking.SURPRISE
    microscope.set(knobs + drift + [0.0, 40.0, 0.0])  # one that no state nearby explains
    with pytest.raises(SeriesError, match="the frame does not fit"):
        tracking.look(state, microscope.acquire(), knobs)
    with pytest.raises(SeriesError, match="the frame does not fit"):  # worse than others did
        tracking.look(replace(state, misfit=-1.0), frame, knobs)
