"""The refinement on series made by the theory itself: the truth is known and the model is right."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import (
    aberrations,
    acquisition,
    hologram,
    inconsistency,
    laplace,
    observation,
    posterior,
    refine,
    tiles,
    unknowns,
)
from jaxcal.optics import Optics, edge_waves, wavelength_nm

OPTICS = Optics(200.0, 20.0, 0.19)
KNOBS = ("C10", "C12a", "C12b")
TRUTH = {"C10": 60.0, "C12a": -45.0, "C12b": 30.0, "C21a": 80.0, "C23b": -60.0}
STEPS = np.array([[0, 0, 0], [60, 40, -50], [-130, 20, -20], [30, -60, 90], [-20, 110, 40],
                  [90, 60, 70], [-60, -70, -10], [40, -20, -110.0]])


def blank(steps=STEPS, knobs=KNOBS):
    power = tuple(np.full((len(layout.centres), len(layout.bins)), 3e-6, np.float32)
                  for layout in tiles.LAYOUTS)
    measured = unknowns.Measured(
        (power,) * len(steps), steps, np.arange(float(len(steps))), float(len(steps) - 1))
    return unknowns.problem(measured, knobs, OPTICS, 108.0)


def test_what_may_drift_and_of_how_many_frames():
    """Those set aside do not count, and coma does not drift."""
    problem = blank(STEPS[:6])
    assert refine.enough(problem) and refine.may_drift(problem)
    less = replace(problem, weights=np.array([1.0, 1.0, 0.0, 1.0, 1.0, 1.0]))
    assert not refine.enough(less) and not refine.may_drift(less)
    assert not refine.may_drift(unknowns.with_actuator(problem))
    coma = blank(STEPS[:6], ("C21a", "C21b", "C23a"))
    assert refine.enough(coma) and not refine.may_drift(coma)


@partial(jax.jit, static_argnames=("places", "layout"))
def windows(phases, physics, places, layout):
    """Expected spectra (K, B) of the windows of one frame."""
    def one(window):
        points = hologram.lay_out(phases, places, physics, *window, layout)
        return hologram.spectrum(phases, physics, points, layout)

    return jax.lax.map(one, tuple(jnp.asarray(m, phases.dtype) for m in layout.moments))


def expected(z, problem):
    """Expected spectra of every frame."""
    phases, physics, _ = unknowns.frames_of(z, problem)
    places = tuple(aberrations.indices(problem.free).tolist())
    return [tuple(np.asarray(windows(np.float32(p), made, places, layout))
                  for layout in tiles.LAYOUTS) for p, made in zip(phases, physics, strict=True)]


def made(truth=None, steps=STEPS, seed=0, gain=None, drift=None, miss=None, scale=0.0):
    """A problem whose spectra the theory made, and the z that made them. Neighbouring bins are
    independent here, so that the likelihood sees about three times the information it counts on.
    """
    problem = blank(steps)
    state = TRUTH if truth is None else truth
    z = unknowns.start(problem, tuple(state), list(state.values()))
    z[unknowns.slices(problem)["log_scale"]] = scale / unknowns.SCALE_SD
    if gain is not None:
        z[unknowns.slices(problem)["gain"]] = np.ravel((gain - np.eye(3)) / problem.sd.gain)
    if drift is not None:
        z[unknowns.slices(problem)["drift"]] = drift / problem.sd.drift
    if miss is not None:
        z[unknowns.slices(problem)["miss"]] = np.ravel(miss / problem.sd.miss)
    random = np.random.default_rng(seed)
    power = tuple(tuple((p * random.exponential(size=p.shape)).astype(np.float32) for p in frame)
                  for frame in expected(z, unknowns.with_actuator(problem)))
    return replace(problem, measured=problem.measured._replace(power=power)), z


@pytest.fixture(scope="module")
def series():
    return made(steps=STEPS[:5])


@pytest.fixture(scope="module")
def found(series):
    problem, z = series
    start = z.copy()
    start[:7] += np.array([8, -8, 6, 100, -80, 60, 90.0]) / problem.sd.state[:7]
    return refine.solve(problem, [start])


def test_the_truth_is_found_within_the_width(series, found):
    best = found.solutions[0]
    error = best.x0_nm - [TRUTH[name] for name in KNOBS]
    sd = np.sqrt(np.diag(best.covariance_nm2))
    assert np.all(np.abs(error) < 3 * sd) and np.all(sd < 2.0) and np.all(sd > 0.1)
    assert best.settled and found.weights[0] > 0.99
    assert found.unfit == () and not found.with_actuator
    assert_array_equal(best.tuned_knobs_nm, -best.x0_nm)
    assert_array_equal(best.tuned_covariance_nm2, best.covariance_nm2)


def test_what_is_prepared_is_what_the_climb_evaluates(series):
    problem, z = series
    posterior.prepare(problem.free, several=True)()
    compiled = posterior.frame_terms._cache_size()
    posterior.evaluate(z, problem)
    posterior.evaluate(z, unknowns.glimpse(problem))
    assert posterior.frame_terms._cache_size() == compiled


def test_a_start_without_a_finite_likelihood_is_given_up(found):
    good = found.solutions[0].point
    bad = good._replace(value=np.nan, gradient=np.full_like(good.gradient, np.nan))
    assert refine._front([bad, good, bad], found.problem) == [good]
    with pytest.raises(ValueError, match="no state explains the spectra"):
        refine._front([bad], found.problem)


def test_what_could_not_be_prepared_is_tried_again(series, monkeypatch):
    calls = []

    def fails_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise MemoryError
        return jnp.zeros(())

    monkeypatch.setattr(posterior, "frame_terms", fails_once)
    posterior._compiled.cache_clear()
    for expected in (1, 2, 2):  # the third time there is nothing left to do
        posterior.prepare(series[0].free, several=False)()
        assert len(calls) == expected
    posterior._compiled.cache_clear()


def test_the_end_is_a_top(found):
    """Newton's step from there is a small part of the width."""
    point, active = found.solutions[0].point, np.flatnonzero(found.problem.active)
    fisher = point.fisher[np.ix_(active, active)]
    step = np.linalg.solve(fisher, point.gradient[active])
    assert step @ fisher @ step < 2 * refine.SETTLED + refine.NOISE_OF_GRIDS


def test_the_gradient_is_that_of_the_value(series):
    """Along random directions of all but the state, by differences. The state also moves the trust
    in the windows, which is a weight and not part of the likelihood: it has no gradient.
    """
    problem, z = series
    random, shape = np.random.default_rng(2), unknowns.slices(problem)["film"].start
    for _ in range(3):
        way = np.where(problem.active, random.standard_normal(z.size), 0.0)
        way[:shape] = 0.0
        way *= 0.1 / np.linalg.norm(way)
        ahead, behind = (posterior.evaluate(z + sign * way, problem) for sign in (1, -1))
        slope = 0.5 * (ahead.gradient + behind.gradient) @ way
        scale = np.sqrt(way @ ahead.fisher @ way)
        assert abs(0.5 * (ahead.value - behind.value) - slope) < 0.03 * scale + 0.02


def test_frames_that_are_weighed_otherwise_are_not_computed_again(series, monkeypatch):
    problem, z = series
    point = posterior.evaluate(z, problem)
    lighter = replace(problem, weights=np.array([0.5, 0.5, 0.0, 0.5, 0.5]))
    expected = posterior.evaluate(z, lighter)
    monkeypatch.delattr(posterior, "frame_terms")
    found = posterior.reweighed(point, lighter)
    assert found.value != point.value
    for name in ("z", "value", "gradient", "fisher", "misfit", "trusted"):
        assert_array_equal(getattr(found, name), getattr(expected, name))


def test_one_frame_leaves_the_mirror_image():
    """Frame 0 alone: x and -x explain it equally well, except for what C30 breaks."""
    problem, z = made(steps=STEPS[:1])
    other = z.copy()
    other[: len(problem.free)] *= -1
    found = refine.solve(problem, [z, other])
    assert len(found.solutions) == 2
    assert_allclose(found.weights, 0.5, atol=0.3)
    first, second = (s.x0_nm for s in found.solutions)
    assert_allclose(first, -second, atol=5.0)


def test_a_second_frame_decides():
    problem, z = made(steps=STEPS[:2])
    other = z.copy()
    other[: len(problem.free)] *= -1
    found = refine.solve(problem, [other, z])
    assert found.weights[0] > 0.99
    assert np.all(np.abs(found.solutions[0].x0_nm - [60, -45, 30]) < 15)


@pytest.mark.slow
def test_a_stale_frame_is_set_aside_and_named():
    """Frame 3 shows the state of frame 2."""
    problem, z = made(steps=STEPS[:6])
    power = list(problem.measured.power)
    power[3] = made(steps=STEPS[[2, 2]], seed=5)[0].measured.power[0]
    stale = replace(problem, measured=problem.measured._replace(power=tuple(power)))
    found = refine.solve(stale, [z])
    assert found.unfit == (3,) and not found.with_actuator  # it is not the knobs' fault
    assert found.problem.weights[3] == 0 and np.all(found.problem.weights[:3] > 0)
    error = found.solutions[0].x0_nm - [60, -45, 30]
    assert np.all(np.abs(error) < 4 * np.sqrt(np.diag(found.solutions[0].covariance_nm2)))


@pytest.mark.slow
def test_knobs_that_act_otherwise_are_found_out():
    """C10 moves 15 % too far, C12a 10 % short. With exact knobs nothing is asked for."""
    gain = np.diag([1.15, 0.9, 1.0])
    problem, z = made(gain=gain)
    start = np.where(problem.active, z, 0.0)
    found = refine.solve(problem, [start])
    assert found.with_actuator
    best = found.solutions[0]
    assert_allclose(np.diag(best.gain), [1.15, 0.9, 1.0], atol=0.04)
    assert np.all(np.abs(best.gain - gain) < 4 * best.gain_sd) and np.all(best.gain_sd < 0.05)
    wanted = -np.linalg.solve(gain, [60, -45, 30.0])
    error = best.tuned_knobs_nm - wanted
    assert np.all(np.abs(error) < 4 * np.sqrt(np.diag(best.tuned_covariance_nm2)))
    exact, z = made()
    found = refine.solve(exact, [z])
    assert not found.with_actuator and not found.with_misses
    assert found.solutions[0].drifts < refine.LIKELY
    assert not found.with_scale and not np.any(found.solutions[0].gain_sd)


@pytest.mark.slow
def test_a_scale_that_is_told_wrong_is_found():
    """As of 200 keV where 300 are told: nothing else is asked for, and it stays with more frames.
    Roughly: the film's thickness and the windows that are trusted move with the scale."""
    truth = 0.5 * np.log(wavelength_nm(300.0) / wavelength_nm(200.0))
    problem, z = made(scale=truth)
    start = z.copy()
    start[unknowns.slices(problem)["log_scale"]] = 0.0
    found = refine.solve(problem, [start])
    assert found.with_scale and not found.with_actuator and not found.with_misses
    best = found.solutions[0]
    assert unknowns.decode(best.point.z, found.problem).log_scale == pytest.approx(truth, abs=0.035)
    error = best.x0_nm - [60, -45, 30]
    assert np.all(np.abs(error) < 4 * np.sqrt(np.diag(best.covariance_nm2)))
    later, starts = refine.resume(problem, found)
    assert later.sd.log_scale == unknowns.WRONG_SCALE_SD
    scale = unknowns.slices(problem)["log_scale"]
    assert_array_equal(starts[0][scale], best.point.z[scale])


def ends(problem, z, gain=1.0):
    """A refinement that ended at z, as far as `likelier` and `far_off` look at it."""
    point = posterior.evaluate(z, problem)
    best = laplace.solution(point, problem, True, 0.0)._replace(gain=np.diag([gain, 1.0, 1.0]))
    return refine.Refinement((best,), np.ones(1), problem, ())


def test_the_likelier_of_two_ends_is_judged_on_the_frames_that_both_took(series):
    problem, z = series
    away = z.copy()
    away[0] += 0.05
    right, wrong = ends(problem, z), ends(problem, away)
    assert refine.likelier(wrong, right) is right and refine.likelier(right, wrong) is right
    # whatever one has lowered its weights to, and whichever frame it has set aside
    low = ends(replace(problem, weights=np.array([0.1, 0.1, 0.1, 0.1, 0.0])), away)
    assert refine.likelier(low, right) is right and refine.likelier(right, low) is right


def test_what_is_far_off(series):
    problem, z = series
    assert not ends(problem, z).far_off and not ends(problem, z, 1.19).far_off
    assert ends(problem, z, 0.79).far_off
    assert ends(unknowns.with_misses(problem), z).far_off


def test_an_actuator_matrix_once_found_stays_open(series):
    problem, z = series
    wider = unknowns.with_actuator(problem)
    part = unknowns.slices(problem)["gain"]
    z = np.where(np.arange(z.size) == part.start, 1.3, z)
    again, starts = refine.resume(problem, ends(wider, z))
    assert_array_equal(again.active, wider.active)
    assert starts[0][part.start] == 1.3
    again, starts = refine.resume(problem, ends(problem, z))
    assert again is problem and starts[0][part.start] == 0.0


def test_what_is_told_wrong_is_said(series):
    """Of the optics, by the aperture's image and by the scale that the knobs' steps ask for."""
    problem = series[0]
    told = problem.optics.semi_angle_mrad / problem.optics.pixel_mrad

    def said(scale, wrong=1.0, widen=unknowns.with_scale, frames=refine.ACTUATED):
        asked = replace(widen(problem), weights=np.ones(frames))
        z = np.zeros(problem.active.size)
        z[unknowns.slices(problem)["log_scale"]] = scale / asked.sd.log_scale
        top = laplace.Solution(posterior.Point(z, *[0.0] * 5), *[None] * 10, True)
        return inconsistency.findings(
            OPTICS, told * wrong, refine.Refinement((top,), np.ones(1), asked, ()))

    truth = 0.5 * np.log(OPTICS.wavelength_nm / wavelength_nm(80.0))
    assert "energy_keV is wrong (80 instead of 200 explains it)" in said(truth)
    assert "pixel_mrad both (-5 %)" in said(np.log(0.95))
    assert "energy_keV is wrong, or" in said(np.log(1.4))  # there is no such energy
    # knobs that do not act as told, or miss their settings, say nothing of the energy
    for also in (unknowns.with_actuator, unknowns.with_misses):
        assert said(truth, widen=lambda same, also=also: also(unknowns.with_scale(same))) == ""
    narrow = {"widen": lambda same: same}
    assert "3.0 standard deviations off: look at energy_keV" in said(-0.03, **narrow)
    assert said(0.02, **narrow) == said(-0.03, frames=5, **narrow) == ""
    assert said(0.0, 1.03, **narrow) == ""
    # ten percent: of the pixel where the steps want the semi-angle as told, of that where not
    share = observation.MEASURED_SHARE * np.log(1.1)
    pixel, angle = said(-share, 1.1), said(np.log(1.1) - share, 1.1)
    assert "they are 20.0 (told 20) and 0.173 (told 0.19)" in pixel
    assert "they are 22.0 (told 20) and 0.190 (told 0.19)" in angle
    assert "both of them" not in pixel + angle
    both = said(-0.1 - share, 1.1)  # a pixel wrong, and an energy, say
    assert both.endswith("; that would be both of them: look at energy_keV and the knobs' unit too")
    few = inconsistency.findings(OPTICS, 1.1 * told, None)
    assert few.endswith("one of them is wrong") and few in pixel and few in angle


@pytest.mark.slow
def test_knobs_that_miss_their_settings_are_found_out():
    """By 5 nm, anew at each frame: x0 is still found within its width, and the setting that tunes
    is known no better than the knobs come back to it."""
    miss = 5 * np.random.default_rng(3).standard_normal((6, 3))
    problem, z = made(miss=miss, steps=STEPS[:6])
    found = refine.solve(problem, [np.where(problem.active, z, 0.0)])
    best = found.solutions[0]
    assert found.with_misses and found.unfit == ()
    sd = np.sqrt(np.diag(best.covariance_nm2))
    assert np.all(np.abs(best.x0_nm - [60, -45, 30]) < 3 * sd) and np.all(sd < 6)
    assert np.all(best.miss_nm > 1.5) and np.all(best.miss_nm < 10)
    assert np.all(np.sqrt(np.diag(best.tuned_covariance_nm2)) > best.miss_nm)


@pytest.mark.slow
def test_a_drift_is_found_and_told_from_the_knobs():
    """By eight frames; six leave it open. What counts is the setting that tunes at the last."""
    drift = np.array([0.8, -0.5, 0.3])
    for frames, least, most in ((6, 0.1, 0.9), (8, 0.9, 1.0)):
        problem, z = made(drift=drift, steps=STEPS[:frames])
        found = refine.solve(problem, [np.where(problem.active, z, 0.0)])
        best = found.solutions[0]
        assert least < best.drifts < most
        assert not found.with_actuator and not found.with_misses
        sd = np.sqrt(np.diag(best.tuned_covariance_nm2))
        wanted = -(np.array([60, -45, 30.0]) + problem.measured.last * drift)
        assert np.all(np.abs(best.tuned_knobs_nm - wanted) < 2.5 * sd)
    assert found.solutions[0].drifts > refine.LIKELY


def test_widths_of_the_tuning_setting_are_propagated(found):
    """u = -G^-1 (x0 + t d): the covariance is J C J^T with J by differences in z, and what the
    theory errs by in x0 adds to it."""
    wide = unknowns.with_actuator(found.problem)
    point = posterior.evaluate(found.solutions[0].point.z, wide)
    made_ = laplace.solution(point, wide, True)
    part, active = unknowns.slices(wide), np.flatnonzero(wide.active)

    def tuned(z):
        values = unknowns.decode(z, wide)
        rows = [wide.free.index(name) for name in KNOBS]
        return -np.linalg.solve(np.eye(3) + values.gain,
                                values.state[rows] + wide.measured.last * values.drift)

    columns = []
    for k in active:
        step = np.zeros(point.z.size)
        step[k] = 1e-4
        columns.append((tuned(point.z + step) - tuned(point.z - step)) / 2e-4)
    jacobian = np.array(columns).T
    covariance = np.linalg.inv(point.fisher[np.ix_(active, active)])
    of_state, of_tuned = laplace.covariances(point, wide)
    assert_allclose(of_tuned, jacobian @ covariance @ jacobian.T, rtol=1e-5)
    edge = edge_waves(wide.optics)[aberrations.indices(KNOBS)]
    own = np.diag((laplace.THEORY_WAVES[0] / edge) ** 2)
    assert_allclose(laplace.theory_nm2(wide), own)
    both = laplace.theory_nm2(replace(wide, knob_names=("C10", "C23b")))
    edge = edge_waves(wide.optics)[aberrations.indices(("C10", "C23b"))]
    assert_allclose(np.sqrt(np.diag(both)), laplace.THEORY_WAVES / edge)
    assert_allclose(made_.covariance_nm2, of_state + own)
    inverse = np.linalg.inv(made_.gain)
    assert_allclose(made_.tuned_covariance_nm2, of_tuned + inverse @ own @ inverse.T)
    assert np.all(np.diag(made_.tuned_covariance_nm2) > np.diag(made_.covariance_nm2))
    assert part["drift"].stop == point.z.size


@pytest.mark.parametrize(
    "widen", [lambda problem: problem, unknowns.with_drift, unknowns.with_misses])
def test_the_gain_of_a_step_is_that_of_the_larger_problem(series, found, widen):
    """One more frame there, its strength unknown too: log(1 + variance) of both, of what tunes at
    that frame's time."""
    problem = widen(found.problem)
    point = posterior.evaluate(found.solutions[0].point.z, problem)
    steps, tolerance = np.array([[100.0, 30.0, 60.0], [-70, -90, 0.0]]), np.array([1.5, 1.5, 3.0])
    gains = acquisition.step_gain(steps, tolerance, problem, point)
    part, measured = unknowns.slices(problem), problem.measured
    own = [part["strength"].stop, *[part["miss"].stop] * 3]  # of the new frame alone
    later = measured._replace(last=measured.last + 1)

    def left(point, problem):
        return np.log1p(np.diag(laplace.covariances(point, problem)[1]) / tolerance**2).sum()

    for step, gain in zip(steps, gains, strict=True):
        longer = widen(unknowns.problem(later._replace(
            power=(*measured.power, measured.power[0]), knobs=np.vstack([measured.knobs, step]),
            number=np.append(measured.number, later.last)), KNOBS, OPTICS, 108.0))
        longer = replace(longer, mean=longer.mean._replace(noise=problem.mean.noise),
                         weights=np.append(problem.weights, problem.weights.max()))
        there = posterior.evaluate(np.insert(point.z, own, 0.0), longer)
        before = left(point, replace(problem, measured=later))
        assert_allclose(gain, before - left(there, longer), rtol=1e-3)


def test_going_on_takes_over_all_but_the_strength_of_new_frames(series, found):
    longer, _ = made()
    same, starts = refine.resume(longer, found)
    assert same is longer and len(starts) == len(found.solutions)
    old, new = unknowns.slices(found.problem), unknowns.slices(longer)
    z = found.solutions[0].point.z
    assert_array_equal(starts[0][new["state"]], z[old["state"]])
    assert_array_equal(starts[0][new["film"]], z[old["film"]])
    assert_array_equal(starts[0][new["strength"]], 0.0)
    # at a larger angle more coefficients matter
    wider = unknowns.problem(longer.measured, KNOBS, Optics(200.0, 30.0, 0.28), 108.0)
    assert len(wider.free) > len(found.problem.free)
    start = refine.resume(wider, found)[1][0]
    for name in found.problem.free:
        assert start[wider.free.index(name)] == z[found.problem.free.index(name)]
    assert start.size == wider.active.size
    assert start[wider.free.index("C34a")] == 0.0


def test_what_asks_for_a_drift_allows_for_the_error_of_the_theory():
    """As if each frame's misses had the theory's error for their prior, written out."""
    problem, z = made(steps=STEPS[:6])
    point = posterior.evaluate(z, problem)
    wider, part = unknowns.with_drift(problem), unknowns.slices(problem)
    own = np.sqrt(np.diag(laplace.theory_nm2(problem)))
    allowing = replace(problem, sd=problem.sd._replace(miss=np.tile(own, (6, 1))))
    there = posterior.evaluate(z, allowing)

    def top(active):
        active = active.copy()
        active[part["miss"]] = True
        some = np.flatnonzero(active)
        fisher, slope = there.fisher[np.ix_(some, some)], there.gradient[some]
        return 0.5 * slope @ np.linalg.solve(fisher, slope) - 0.5 * np.linalg.slogdet(fisher)[1]

    assert refine.rise(wider, point, problem) == pytest.approx(
        top(wider.active) - top(problem.active), abs=1e-6)
    assert refine.rise(problem, point, problem) == -np.inf


def test_a_drift_is_averaged_over():
    """Mean and covariance are those of draws: the climbs' normal distributions with and without a
    drift, in the share of their evidences and of the prior; the share from either top."""
    problem, z = made(steps=STEPS[:6], drift=np.array([0.3, 0.0, -0.2]))
    start = np.where(problem.active, z, 0.0)
    wider = unknowns.with_drift(problem)
    narrow, _ = refine.climb(problem, posterior.evaluate(start, problem), 15)
    wide, _ = refine.climb(wider, narrow, 15)
    odds = (laplace.evidence_nearby(wider, wide) - laplace.evidence_nearby(problem, narrow)
            + np.log(laplace.DRIFTS / (1 - laplace.DRIFTS)))
    for point, own in ((narrow, problem), (wide, wider)):
        drifts = laplace.drift_probability(point, own)
        assert np.log(drifts / (1 - drifts)) == pytest.approx(odds, abs=1.0)
        made_ = laplace.solution(point, own, True, drifts)
        assert made_.drifts == drifts
        alone = [laplace.solution(point, which, True, share) for which, share in
                 ((own, 1.0), (own, 0.0))]
        assert_allclose(alone[1].drift_nm, 0.0, atol=1e-12)
        random = np.random.default_rng(0)
        count = int(round(drifts * 200_000))
        draws = np.concatenate([
            random.multivariate_normal(one.tuned_knobs_nm, one.tuned_covariance_nm2, size)
            for one, size in zip(alone, (count, 200_000 - count), strict=True)])
        sd = np.sqrt(np.diag(made_.tuned_covariance_nm2))
        assert_allclose(made_.tuned_knobs_nm, draws.mean(0), atol=0.02 * sd.min())
        assert_allclose(made_.tuned_covariance_nm2 / np.outer(sd, sd),
                        np.cov(draws.T) / np.outer(sd, sd), atol=0.02)
    # without the question nothing is averaged
    plain = laplace.solution(wide, wider, True)
    assert plain.drifts == 1.0 and laplace.solution(narrow, problem, True).drifts == 0.0
    assert_allclose(plain.drift_nm, laplace.solution(wide, wider, True, 1.0).drift_nm, atol=0.2)


def test_which_frames_do_not_fit():
    usual = np.array([0.01, 0.0, 0.02, 0.01, 0.0, 0.01])
    off = usual + np.array([0, 0, 0, 0, 0.3, 0])
    assert_array_equal(refine.unfit(off, np.ones(6)), [0, 0, 0, 0, 1, 0])
    assert not refine.unfit(usual, np.ones(6)).any()
    assert not refine.unfit(off[3:], np.ones(3)).any()  # too few to judge
    half = usual + np.array([0.3, 0.4, 0.5, 0, 0, 0])
    assert not refine.unfit(half, np.ones(6)).any()  # never half of them


def test_misfit_lowers_the_weights():
    """1/(1 + 2 n m) with the median misfit m beyond the usual; frames set aside stay so."""
    problem = replace(blank(STEPS[:3]), weights=np.array([1.0, 0.0, 1.0]))
    point = posterior.Point(np.zeros(1), 0.0, np.zeros(1), np.eye(1), np.array([0.03, 9.0, 0.05]),
                            np.ones(3))
    share = 1 / (1 + 2 * refine.CORRELATED * (0.04 - refine.USUAL))
    assert_allclose(refine.tempered(problem, point).weights, [share, 0.0, share])
    good = point._replace(misfit=np.zeros(3))
    assert_array_equal(refine.tempered(problem, good).weights, [1.0, 0.0, 1.0])


def test_frame_terms_of_a_frame_that_fits():
    """P = S: the gradient vanishes, the deviance is minus Euler's constant and 0 per bin."""
    problem = blank(STEPS[:1])
    z = unknowns.start(problem, tuple(TRUTH), list(TRUTH.values()))
    phases, physics, _ = unknowns.frames_of(z, problem)
    power = tuple(part.astype(np.float32) for part in expected(z, problem)[0])
    places = tuple(aberrations.indices(problem.free).tolist())
    deviance, gradient, fisher, bins = posterior.frame_terms(
        jnp.float32(phases[0]), physics[0], power, places, problem.layouts)
    assert_allclose(deviance / bins, -np.euler_gamma, atol=1e-3)
    assert np.all(np.abs(gradient) < 1e-3 * np.sqrt(np.diag(fisher) * bins))
