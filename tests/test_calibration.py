"""Estimates from series and the closed loop, with the shipped model on simulated frames."""

import re
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from jaxcal import (
    ReplayMicroscope,
    SimulatedMicroscope,
    answers,
    basins,
    calibration,
    decisions,
    em,
    estimation,
    inconsistency,
    observation,
    refine,
    spectra,
    unknowns,
)
from jaxcal import model as models
from jaxcal.aberrations import indices
from jaxcal.microscopes.faulty import FaultyMicroscope
from jaxcal.microscopes.simulated import simulated_optics
from jaxcal.optics import Optics, edge_waves, quarter_pi_limits_nm
from jaxcal.series import Series, SeriesError

TRUTH = {"C10": 60.0, "C12a": -40.0, "C12b": 25.0}
STEPS = np.array([[0.0, 0.0, 0.0], [40.0, 0.0, 0.0], [0.0, 40.0, 0.0], [-90.0, 30.0, -30.0]])
OPTICS = Optics(200.0, 20.0, 0.2)
BLANK = np.zeros((256, 256), np.float32)
QUICK = em.Settings(candidates=512, iterations=0)  # one compilation for all
LATENTS = em.Settings(candidates=512, iterations=2, climbs=10)  # where there is no refinement


latents_only = partial(calibration.estimate, settings=LATENTS, refined=False)


@pytest.fixture(scope="module")
def model():
    return models.load()


@pytest.fixture(scope="module")
def series():
    """Four frames of a simulated microscope whose state is TRUTH."""
    microscope = SimulatedMicroscope(hidden_nm=TRUTH, seed=3)
    frames = []
    for step in STEPS:
        microscope.set(step)
        frames.append(microscope.acquire())
    return Series(np.stack(frames), STEPS, microscope.knob_names, microscope.optics, "toy.h5")


@pytest.fixture(scope="module")
def answer(series, model):
    return latents_only(series, model)


def with_frames(series, **bad):
    """The series with the frames f0, f1 ... replaced."""
    frames = series.frames.copy()
    for name, frame in bad.items():
        frames[int(name[1:])] = frame
    return Series(frames, series.knobs_nm, series.knob_names, series.optics, series.name)




# Estimates


def test_the_truth_is_found(answer):
    """Within 6 nm, the error promised for such series, and three stated standard deviations."""
    error = answer.x0_nm - list(TRUTH.values())
    sd = np.sqrt(np.diag(answer.covariance_nm2))
    assert np.all(np.abs(error) < 6.0)
    assert np.all(np.abs(error) < 3 * sd + 1.0)
    assert np.all(sd < 10.0)
    assert answer.modes[0].weight > 0.95
    assert answer.knob_names == tuple(TRUTH)


def test_an_estimate_is_consistent_in_itself(answer, series, model):
    assert answer.frames_used == 4 and answer.rejected_frames == ()
    assert answer.frame_numbers == (0, 1, 2, 3)
    assert_allclose(answer.tuned_knobs_nm, -answer.x0_nm)
    assert_array_equal(answer.actuator, np.eye(3))
    assert_allclose(answer.states_nm, answer.x0_nm + STEPS)
    assert_allclose(sum(mode.weight for mode in answer.modes), 1.0)
    assert_allclose(answer.modes[0].x0_nm, answer.x0_nm)
    assert answer.spectra.shape == (4, 128, 64)
    assert_allclose(answer.latents, model.encode(answer.spectra), rtol=1e-4, atol=1e-4)
    assert answer.posterior[0].candidates.positions.dtype == np.float32
    assert answer.seconds > 0 and answer.message
    eigenvalues = np.linalg.eigvalsh(answer.covariance_nm2)
    assert eigenvalues.min() > 0


def test_counts_scale_type_and_offset_do_not_matter(series, model, answer):
    """The log spectra of scaled and offset frames agree to the rounding of the counts."""
    twice = Series((4 * series.frames + 300).astype(np.uint16), series.knobs_nm,
                   series.knob_names, series.optics, series.name)
    again = latents_only(twice, model)
    sd = np.sqrt(np.diag(answer.covariance_nm2))
    assert np.all(np.abs(again.x0_nm - answer.x0_nm) < 1.0 * sd)


def test_the_seed_decides(series, model, answer):
    again = latents_only(series, model)
    assert_array_equal(again.x0_nm, answer.x0_nm)
    other = latents_only(series, model, seed=1)
    assert not np.array_equal(other.x0_nm, answer.x0_nm)
    sd = np.sqrt(np.diag(answer.covariance_nm2))
    assert np.all(np.abs(other.x0_nm - answer.x0_nm) < 0.5 * sd)


def test_progress_is_told(series, model):
    told = []
    latents_only(series, model,
                         progress=lambda message, fraction: told.append((message, fraction)))
    assert told[0][0] == "aperture of frame 1/4"
    fractions = [fraction for _, fraction in told if fraction is not None]
    assert fractions == sorted(fractions) and 0 <= fractions[0] and fractions[-1] <= 1


# Frames that cannot be used


def test_blank_and_saturated_frames_are_set_aside(series, model, answer):
    """The others are used as if the bad ones had never been taken."""
    saturated = np.minimum(series.frames[2], np.quantile(series.frames[2], 0.6))
    found = latents_only(with_frames(series, f1=BLANK, f2=saturated), model)
    assert found.frames_used == 2 and found.frame_numbers == (0, 3)
    assert [number for number, _ in found.rejected_frames] == [1, 2]
    assert "blank frame" in found.rejected_frames[0][1]
    assert "saturated" in found.rejected_frames[1][1]
    without = latents_only(series.select([0, 3]), model)
    assert_array_equal(found.x0_nm, without.x0_nm)
    assert len(found.spectra) == len(found.latents) == len(found.states_nm) == 2


def test_where_no_frame_is_left_the_error_names_file_and_frame(series, model):
    bad = with_frames(series, **{f"f{k}": BLANK for k in range(4)})
    with pytest.raises(SeriesError, match=r"^toy\.h5: frame 0: no frame can be used, the first "
                                          r"because: blank frame.*; take the series again"):
        latents_only(bad, model)


def test_knobs_the_model_does_not_see(series, model):
    wrong = Series(series.frames, series.knobs_nm, ("C10", "C30", "C45a"), series.optics, "w.h5")
    with pytest.raises(SeriesError, match=r"w\.h5: knobs C30, C45a are not covered by the model, "
                                          r"which sees C10, .*; leave them fixed"):
        calibration.estimate(wrong, model, refined=False)


def test_a_disc_too_small_is_refused_before_anything_moves(model):
    bench = SimulatedMicroscope(Optics(200.0, 20.0, 0.4), hidden_nm=TRUTH, seed=3)
    with pytest.raises(ValueError, match="by semi_angle_mrad and pixel_mrad the aperture has a "
                                         "radius of 50.0 pixels, its spectrum needs at least 64"):
        calibration.calibrate(bench, model=model)
    assert bench.frames_taken == 0


def test_a_disc_too_small_for_the_spectrum_is_refused(series, model):
    coarse = spectra.binned(series.frames[0], 2)
    optics = replace(series.optics, pixel_mrad=2 * series.optics.pixel_mrad)
    small = Series(coarse[None], np.zeros((1, 3)), series.knob_names, optics, "small.h5")
    with pytest.raises(ValueError, match="radius of 5.* pixels, its spectrum needs at least 64"):
        calibration.estimate(small, model)


# What the estimate is made of


def test_padding_changes_nothing(answer, model):
    """The likelihood of any candidate is that without padding, to the rounding of float32."""
    _, data = answer.posterior
    longer = basins.experiment(answer.latents, STEPS, answer.knob_names, OPTICS, length=7)
    exact = basins.experiment(answer.latents, STEPS, answer.knob_names, OPTICS)
    assert longer.latents.shape[0] == 7 and exact.latents.shape[0] == 4
    assert_array_equal(longer.frame_noise, [1.0] * 4 + [em.EXCLUDED] * 3)
    parameters = em.initial_parameters(model.map, exact)
    positions = em.draw(jax.random.key(0), exact, 20)
    found, expected = (
        np.asarray(em.score_all(positions, parameters, data, model.map))
        for data in (longer, exact))
    assert_allclose(found, expected, rtol=1e-4, atol=1e-2)


def test_experiment_fills_what_is_no_knob():
    latents, knobs = np.ones((2, 5)), np.array([[0.0, 0.0], [7.0, -3.0]])
    data = basins.experiment(latents, knobs, ("C12b", "C21a"), OPTICS, actuator=True)
    expected = np.zeros((2, 7))
    expected[:, 2], expected[:, 3] = knobs.T
    assert_array_equal(data.knobs, expected)
    places = indices(basins.STATES)
    assert_allclose(data.unit, edge_waves(OPTICS)[places], rtol=1e-6)
    assert_array_equal(data.scale_power, [2, 2, 2, 3, 3, 3, 3])
    assert_array_equal(data.prior_sd, [150.0] * 3 + [400.0] * 4)
    sd = np.zeros((7, 7))
    sd[2, 2] = sd[3, 3] = unknowns.GAIN_SD  # different orders do not mix
    assert_allclose(data.actuator_sd, sd)
    same = basins.experiment(latents, knobs, ("C10", "C12b"), OPTICS, actuator=True)
    assert_allclose(np.asarray(same.actuator_sd)[0, 2], unknowns.CROSSTALK_SD)
    assert not basins.experiment(latents, knobs, ("C10", "C12b"), OPTICS).actuator_sd.any()
    assert {leaf.dtype for leaf in data} == {np.dtype(np.float32)}


def test_the_measured_radius_moves_the_semi_angle_by_its_share():
    optics = observation.measured_optics(OPTICS, 1.02 * OPTICS.radius_pixels)
    expected = 20.0 * 1.02**observation.MEASURED_SHARE
    assert_allclose(optics.semi_angle_mrad, expected)
    assert optics.pixel_mrad == OPTICS.pixel_mrad and optics.energy_keV == OPTICS.energy_keV


def test_one_camera_for_all_frames():
    seen = [SimpleNamespace(disc=spectra.Disc(0.0, 0.0, radius, ellipticity))
            for radius, ellipticity in ((100.0, 0.001), (104.0, 0.002), (101.0, 0.009))]
    assert observation.camera_of(seen) == (101.0, 0.002)


# The closed loop


@pytest.fixture
def quick():
    """The loop over the latents alone, with one compilation."""
    return partial(calibration.calibrate, frames=3, settings=LATENTS, refined=False)


def microscope():
    return SimulatedMicroscope(hidden_nm=TRUTH, seed=3)


def test_a_generous_tolerance_stops_early(quick, model):
    told = []
    bench = microscope()
    run = quick(bench, tolerance_nm=30.0, model=model,
                progress=lambda message, fraction: told.append((message, fraction)))
    assert len(run.series) < 3 or run.estimate.message.startswith("within the tolerance")
    assert run.estimate.message.startswith(f"within the tolerance after {len(run.series)} frames")
    assert run.estimate.converged and "verified with one more frame" in run.estimate.message
    assert len(run.history) == len(run.series)
    assert_array_equal(run.series.knobs_nm[0], 0.0)
    assert_array_equal(run.limits_nm, 30.0)
    assert run.truth_nm == TRUTH
    # the correction is applied, and one more frame taken there
    assert_array_equal(bench.knobs_nm, run.applied_knobs_nm)
    assert_allclose(run.applied_knobs_nm, run.history[-1].tuned_knobs_nm)
    assert bench.frames_taken == len(run.series) + 1
    assert run.estimate.frames_used == len(run.series) + 1
    assert run.verification_frame.shape == (256, 256)
    left = bench.state_nm()[:3]
    assert np.all(np.abs(left) < 30.0)
    fractions = [fraction for _, fraction in told]
    assert fractions == sorted(fractions)
    assert told[0][0] == "frame 1: acquire" and told[-1][0].startswith("verify")


def test_the_budget_ends_what_no_frame_could_reach(quick, model):
    run = quick(microscope(), tolerance_nm=1e-3, model=model)
    assert len(run.series) == 3 and len(run.history) == 3
    assert not run.estimate.converged
    assert run.estimate.message.startswith(
        "frame budget spent before the tolerance was reached, after 3 frames")
    steps = run.series.knobs_nm
    assert len(np.unique(steps, axis=0)) == 3
    assert np.all(np.abs(steps) <= decisions.KNOB_LIMIT_NM[1])
    # each frame narrows the posterior, or at least does not widen it by much
    spread = [np.sqrt(np.trace(one.tuned_covariance_nm2)) for one in run.history]
    assert spread[-1] < 0.5 * spread[0]
    assert np.all(np.abs(run.applied_knobs_nm + list(TRUTH.values())) < 10.0)


def test_a_replay_uses_the_settings_that_were_recorded(quick, series, model):
    run = quick(ReplayMicroscope(series), tolerance_nm=1e-3, model=model)
    recorded = {tuple(step) for step in series.knobs_nm}
    taken = [tuple(step) for step in run.series.knobs_nm]
    assert set(taken) <= recorded and len(set(taken)) == 3
    for frame, step in zip(run.series.frames, taken, strict=True):
        number = [tuple(s) for s in series.knobs_nm].index(step)
        assert_array_equal(frame, series.frames[number])
    assert run.truth_nm is None
    assert np.all(np.abs(run.estimate.x0_nm - list(TRUTH.values())) < 8.0)


class Broken:
    """A microscope that shows a list of frames one by one, whatever is asked for."""

    knob_names = tuple(TRUTH)

    def __init__(self, frames, optics):
        self.frames, self.optics, self.asked = list(frames), optics, []

    def set(self, knobs_nm):
        self.asked.append(np.asarray(knobs_nm))

    def acquire(self):
        return self.frames.pop(0)


def test_a_blank_first_frame_is_taken_again(quick, model):
    bench, asked, shown = microscope(), [], []
    turn, take = bench.set, bench.acquire

    def acquire():  # a blank frame, two good ones, and the first of these once more
        shown.append([BLANK, None, None, *shown[1:2]][len(shown)])
        if shown[-1] is None:
            shown[-1] = take()
        return shown[-1]

    bench.set = lambda knobs_nm: (asked.append(np.asarray(knobs_nm)), turn(knobs_nm))
    bench.acquire = acquire
    run = quick(bench, tolerance_nm=1e-3, model=model)
    assert [number for number, _ in run.estimate.rejected_frames] == [0]
    assert "verification frame cannot be used: stale: the very counts of frame 1" in run.reason
    assert len(run.history) == 2
    assert_array_equal(asked[1], 0.0)


def test_a_blank_verification_does_not_pass(quick, model):
    bench = microscope()

    def progress(message, fraction):
        if message == "verify":
            bench.acquire = lambda: BLANK

    run = quick(bench, tolerance_nm=30.0, model=model, progress=progress)
    assert not run.estimate.converged
    assert run.estimate.message.startswith("within the tolerance")
    assert "the verification frame cannot be used: blank frame" in run.estimate.message
    assert run.estimate.frames_used == len(run.series)


def test_a_verification_that_disagrees_is_told():
    def at(knobs, sd):
        return SimpleNamespace(tuned_knobs_nm=np.asarray(knobs), knob_names=("C10", "C12a"),
                               actuator=np.eye(2), tuned_covariance_nm2=np.diag(np.square(sd)))

    limits = np.array([1.0, 1.0])
    holds, verdict = decisions.verified(
        at([10.0, 0.0], [2.0, 0.2]), at([14.0, 0.5], [1, 1]), None, limits)
    assert holds and verdict == "verified with one more frame"
    holds, verdict = decisions.verified(
        at([10.0, 0.0], [2.0, 0.2]), at([14.0, 1.5], [1, 1]), None, limits)
    assert not holds
    assert re.search("disagrees: with it 1.5 nm of C12a are left there, take more frames", verdict)


def test_only_blank_frames_are_refused(quick, series, model):
    bench = Broken([BLANK] * 4, series.optics)
    run = quick(bench, model=model)
    assert run.verdict == "refused" and run.estimate is None and run.history == ()
    assert re.match("frame 2: no frame can be used, the last because: blank", run.reason)
    assert run.reason.endswith("the knobs are back where they were")
    assert_array_equal(run.applied_knobs_nm, 0.0)
    assert_array_equal(bench.asked[-1], 0.0)


def test_knobs_the_loop_cannot_turn(quick, model):
    bench = SimulatedMicroscope(knob_names=("C10", "C30"), seed=1)
    with pytest.raises(SeriesError, match="knobs C30 are not covered by the model"):
        quick(bench, model=model)


@pytest.mark.parametrize(("options", "match"), [
    ({"frames": 0}, "frames should be at least 2, got 0"),
    ({"frames": 1}, "the same for a state and its mirror image; give a frame budget for a second"),
    ({"tolerance_nm": -1.0}, "tolerance_nm should be positive, got -1.0"),
    ({"tolerance_nm": [1.0, np.nan, 1.0]}, "tolerance_nm should be positive"),
    ({"tolerance_nm": [1.0, 1.0]}, "one number or one for each of C10, C12a, C12b"),
])  # fmt: skip
def test_what_a_calibration_cannot_aim_at(model, options, match):
    with pytest.raises(ValueError, match=match):
        calibration.calibrate(microscope(), model=model, **options)


def test_knobs_that_cannot_be_turned_are_refused_before_any_frame(model, monkeypatch):
    monkeypatch.setattr(calibration, "knob_limit_nm", lambda order: 0.0)
    bench = microscope()
    with pytest.raises(ValueError, match="room for a step, got C10 0 nm, .*allow a step"):
        calibration.calibrate(bench, model=model)
    assert bench.frames_taken == 0


def test_a_knob_that_no_frame_shows_is_told_before_any_frame(model):
    class Enough(Exception):
        pass

    def progress(message, fraction):
        assert re.match("no frame can tell anything of C56a: .*; leave it out of the knobs",
                        message)
        raise Enough

    bench = SimulatedMicroscope(knob_names=("C10", "C56a"), seed=1)
    with pytest.raises(Enough):
        calibration.calibrate(bench, model=model, progress=progress)
    assert bench.frames_taken == 0


def test_one_setting_is_never_decided(series, model):
    """Both forms, one frame and twice the same setting; two settings say nothing of the kind."""
    still = replace(series.select([0, 0]), name="still.h5")
    for one in (series.select([0]), still):
        told = calibration.estimate(one, model, settings=LATENTS, refined=False)
        assert told.message.startswith(
            "not decided: all frames at one knob setting, where a state and its mirror image show "
            "the same; take a frame at another; ")
        assert told.message.count("not decided") == 1 and not told.converged
    two = calibration.estimate(series.select([0, 1]), model, settings=LATENTS, refined=False)
    assert "all frames at one knob setting" not in two.message


def test_the_tolerance_is_the_quarter_pi_limit_unless_told():
    names = ("C10", "C21a")
    assert_allclose(decisions.tolerance(None, OPTICS, names),
                    quarter_pi_limits_nm(OPTICS)[indices(names)])
    assert_array_equal(decisions.tolerance(2.0, OPTICS, names), [2.0, 2.0])
    assert_array_equal(decisions.tolerance([2.0, 30.0], OPTICS, names), [2.0, 30.0])


def test_within_needs_narrow_knobs_and_one_mode():
    def known(sd, weight, settled=True):
        return SimpleNamespace(tuned_covariance_nm2=np.diag(np.square(sd)), converged=settled,
                               actuator=np.eye(2),
                               modes=(SimpleNamespace(weight=weight),), refinement=True,
                               unlike_frames=(), frame_numbers=(), frames_used=6)

    limits = np.array([1.0, 10.0])
    assert decisions.within(known([0.35, 3.5], 0.99), limits)
    assert not decisions.within(known([0.35, 6.0], 0.99), limits)
    assert not decisions.within(known([0.35, 3.5], 0.9), limits)
    assert not decisions.within(known([0.35, 3.5], 0.99, settled=False), limits)


def test_within_is_the_joint_probability():
    """Two independent knobs, each inside with p: both with p^2, CONFIDENCE asked for."""
    def at(sd):
        return SimpleNamespace(tuned_covariance_nm2=sd**2 * np.eye(2), refinement=None,
                               actuator=np.eye(2),
                               modes=(SimpleNamespace(weight=1.0),), unlike_frames=(),
                               frame_numbers=(), frames_used=6)

    edge = 1 / stats.norm.ppf(0.5 + 0.5 * np.sqrt(estimation.CONFIDENCE))
    assert decisions.within(at(0.95 * edge), np.ones(2))
    assert not decisions.within(at(1.05 * edge), np.ones(2))


def test_within_counts_what_is_left_of_the_aberrations():
    """A knob that acts by 1.4 leaves 1.4 times what its setting is off by."""
    def acting(gain):
        return SimpleNamespace(tuned_covariance_nm2=0.4**2 * np.eye(1), refinement=None,
                               actuator=np.full((1, 1), gain), tuned_knobs_nm=np.array([20.0]),
                               modes=(SimpleNamespace(weight=1.0),), unlike_frames=(),
                               frame_numbers=(), frames_used=6)

    assert decisions.within(acting(1.0), np.ones(1))
    assert not decisions.within(acting(1.4), np.ones(1))
    mean, covariance = answers.left(acting(1.4), [20.5])
    assert_allclose((mean[0], covariance[0, 0]), (0.7, 0.56**2))
    assert not decisions.within(acting(0.7), np.ones(1), [21.2])
    assert decisions.within(acting(0.7), np.ones(1), [20.5])


class Sure:
    """A course whose every estimate is certain, of all frames so far."""

    def __init__(self):
        self.microscope = SimpleNamespace(knob_names=("C10",), optics=OPTICS)
        self.frames, self.settings_nm, self.observations, self.history = [], [], [], []

    def look(self, knobs_nm):
        self.frames.append(knobs_nm)
        self.settings_nm.append(np.asarray(knobs_nm, float))
        self.observations.append(SimpleNamespace(fault=None))

    def estimate(self, plan, place, fraction):
        count = len(self.frames)
        return SimpleNamespace(
            tuned_covariance_nm2=np.full((1, 1), 1e-6), actuator=np.eye(1),
            modes=(SimpleNamespace(weight=1.0),),
            refinement=plan.refined, converged=True, unlike_frames=(), frames_used=count,
            frame_numbers=tuple(range(count)))


@pytest.mark.parametrize(("refined", "budget", "taken"), [
    (True, 10, refine.ACTUATED), (True, 3, 3), (False, 10, 2)])  # fmt: skip
def test_a_refined_loop_goes_on_until_wrong_knobs_would_be_found(
        monkeypatch, refined, budget, taken):
    course = Sure()
    monkeypatch.setattr(calibration, "next_step", lambda *_: np.array([10.0 * len(course.frames)]))
    calibration._explore(course, SimpleNamespace(
        frames=budget, limits=np.ones(1), largest=np.ones(1), model=None, seed=0, refined=refined,
        report=lambda *_: None))
    assert len(course.frames) == len(course.history) == taken


# The refinement


@pytest.fixture(scope="module")
def refined(series, model):
    return calibration.estimate(series, model, settings=QUICK)


@pytest.mark.parametrize(("semi_angle", "told"), [(20.0, ""), (33.5, ""), (13.0, "13.0 mrad"),
                                                  (50.0, "50.0 mrad, the model was trained from")])
def test_a_semi_angle_that_was_never_trained_is_told(model, semi_angle, told):
    said = inconsistency.untrained(replace(OPTICS, semi_angle_mrad=semi_angle), model.card)
    assert told in said and bool(said) == bool(told)


def test_the_refined_answer_is_narrower_and_right(refined, answer):
    error = refined.x0_nm - list(TRUTH.values())
    sd, before = (np.sqrt(np.diag(one.covariance_nm2)) for one in (refined, answer))
    assert np.all(np.abs(error) < 4 * sd) and np.all(sd < 0.7 * before)
    assert refined.converged and refined.message.startswith(
        f"refined on the spectra of 4 frames, {estimation.FEW}")
    assert refined.refinement is not None and answer.refinement is None
    assert_array_equal(refined.latents, answer.latents)


@pytest.mark.parametrize(("widen", "told"), [
    (unknowns.with_drift, "a drift, 60% likely, is allowed for: from frame to frame C10 +0.8, "
                          "C12a -0.5, C12b +0.0 nm"),
    (unknowns.with_actuator, "the knobs do not act as told: gains C10 1.15, C12a 0.90, C12b 1.00, "
                             "drift estimated along"),
    (unknowns.with_misses, "the knobs do not come to rest where they are sent, they miss it: "
                           "C10 by 2.5, C12b by 4.0 nm")])  # fmt: skip
def test_what_the_instrument_does_besides_is_told(refined, series, widen, told):
    """And nothing of it where the refinement did not ask for it."""
    found = refined.refinement
    best = found.solutions[0]._replace(
        gain=np.diag([1.15, 0.9, 1.0]), drift_nm=np.array([0.8, -0.5, 0.0]),
        miss_nm=np.array([2.5, 0.0, 4.0]))
    alone = found._replace(solutions=(best,), weights=np.ones(1))
    frames = SimpleNamespace(numbers=refined.frame_numbers, rejected=(), latents=refined.latents,
                             images=refined.spectra)

    def answer(found, asked=False):
        return estimation._refined(frames, found, series, refined.posterior, 0, asked)

    drifting = alone._replace(solutions=(best._replace(drifts=0.6),))
    assert told not in answer(alone).message
    wider = (drifting if widen is unknowns.with_drift else alone)._replace(
        problem=widen(found.problem))
    assert told in answer(wider).message
    seldom = alone._replace(solutions=(best._replace(drifts=0.4),))
    assert "a drift, " not in answer(seldom).message
    asked = answer(wider, asked=True).message  # no finding then
    assert "do not act as told" not in asked and told.split(": ")[-1] in asked


def test_gains_are_told_with_the_largest_crosstalk():
    gain = np.array([[1.0, 0.05, 0.0], [-0.04, 0.9, 0.0], [0.0, 0.0, 1.1]])
    names = ("C10", "C12a", "C12b")
    told = estimation._told_gains(gain, names)
    assert told == "C10 1.00, C12a 0.90, C12b 1.10, +0.05 of C12a arrives in C10"
    assert estimation._told_gains(np.diag(np.diag(gain)), names) == told.partition(", +")[0]


def test_when_it_is_asked_how_the_knobs_really_act():
    """Where they act far from told, or of eight frames three were set aside."""
    for far_off, aside, asked in ((False, 0, False), (True, 0, True), (False, 2, False),
                                  (False, 3, True)):
        answer = SimpleNamespace(refinement=SimpleNamespace(far_off=far_off),
                                 rejected_frames=((1, "does not fit"),) * aside)
        assert estimation.doubted(answer, 8) == asked


def test_frames_unlike_anything_are_told(refined):
    """Of the four frames used; those set aside do not count."""
    one = estimation._compared(refined, {2: 1.25})
    assert one.unlike_frames == (2,) and one.converged == refined.converged
    assert "trained on: 2 (1.2 nats a bin); look whether the area is thin" in one.message
    half = estimation._compared(refined, {0: 0.3, 3: 40.0})
    assert half.unlike_frames == (0, 3) and not half.converged
    assert half.message.startswith("not decided: refined")
    limits = np.full(3, 1e3)
    assert decisions.within(one, limits) and not decisions.within(half, limits)
    again = estimation._compared(half, {0: 0.3, 3: 40.0})
    assert not again.message.startswith("not decided: not decided")
    aside = estimation._compared(replace(refined, frame_numbers=(0, 1, 2), frames_used=3),
                                 {3: 40.0, 4: 9.0})
    assert aside.converged == refined.converged and decisions.within(aside, limits)
    plain = estimation._compared(half, {})
    assert plain.unlike_frames == () and refined.unlike_frames == ()


def test_what_no_state_explains_is_not_decided(refined, series, model):
    """Two of four frames are enough, one is not."""
    found = refined.refinement
    assert found.misfit < 0.2 * refine.MISFIT and len(STEPS) == 4
    best = found.solutions[0]

    def remarked(deviance, good=2, gains=(1.0, 1.0, 1.0)):
        point = best.point._replace(misfit=np.where(np.arange(4) < good, 0.0, deviance))
        left = found._replace(solutions=(best._replace(point=point), *found.solutions[1:]))
        frames = SimpleNamespace(numbers=refined.frame_numbers, radius=100.0,
                                 optics=series.optics, misfit=np.zeros(len(STEPS)))
        return estimation._remarked(
            replace(refined, actuator=np.diag(gains)), frames, series, model, left)

    assert "no state explains" not in remarked(40.0, good=3).message
    fits, does_not = remarked(0.9 * refine.MISFIT), remarked(1.1 * refine.MISFIT)
    assert fits.converged == refined.converged and "no state explains" not in fits.message
    assert not does_not.converged
    assert does_not.message.startswith("not decided: no state explains the spectra, the likeliest "
                                       "leaves a deviance of 0.17 a bin")
    assert refined.message in does_not.message
    far, near = (remarked(0.0, gains=(1.0, gain, 1.2)) for gain in (0.46, 0.54))
    assert not far.converged and near.converged == refined.converged
    assert far.message.startswith("not decided: C12a would act by 0.46 of what it is told")
    assert not decisions.within(replace(does_not, refinement=found), np.full(3, 1e3))


def test_a_crystal_in_every_frame_is_no_answer(series, model):
    bench = FaultyMicroscope(SimulatedMicroscope(hidden_nm=TRUTH, seed=3), seed=1,
                             frames=dict.fromkeys(range(len(STEPS)), "crystalline"))
    frames = []
    for step in STEPS:
        bench.set(step)
        frames.append(bench.acquire())
    found = latents_only(Series(np.stack(frames), STEPS, series.knob_names, series.optics), model)
    assert len(found.unlike_frames) >= 3 and not found.converged
    assert "half and more of the frames unlike anything the model was trained on" in found.message


def test_one_frame_leaves_two_mirror_images(series, model):
    only = calibration.estimate(series.select([0]), model, settings=QUICK)
    assert len(only.modes) >= 2 and not only.converged
    first, second = only.modes[:2]
    assert abs(first.weight - second.weight) < 0.2
    sd = np.sqrt(np.diag(first.covariance_nm2))
    assert np.all(np.abs(first.x0_nm + second.x0_nm) < sd)
    # of a prior 150 nm wide; in this frame's narrow valley the truth is four of Laplace's sd away
    near = min((first, second), key=lambda mode: np.abs(mode.x0_nm - list(TRUTH.values())).max())
    assert np.all(np.abs(near.x0_nm - list(TRUTH.values())) < 30.0)


def test_any_coefficient_may_be_a_knob(model):
    """C30 turned and hidden: the latents know nothing of it, the spectra do."""
    names, hidden = ("C10", "C12a", "C30"), {"C10": 40.0, "C12a": -30.0, "C30": 2500.0}
    bench = SimulatedMicroscope(simulated_optics(200.0, 30.0), hidden, knob_names=names, seed=5)
    steps = np.array([[0, 0, 0], [50, 60, 0], [-80, 60, -3e3], [30, -60, 3e3]])
    frames = []
    for step in steps:
        bench.set(step)
        frames.append(bench.acquire())
    odd = Series(np.stack(frames), steps, names, bench.optics, "odd.h5")
    found = calibration.estimate(odd, model, settings=QUICK)
    sd = np.sqrt(np.diag(found.covariance_nm2))
    assert np.all(np.abs(found.x0_nm - list(hidden.values())) < 4 * sd)
    assert sd[2] < 1000.0 and sd[0] < 2.0
