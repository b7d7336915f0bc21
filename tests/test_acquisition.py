"""The next knob step: closed form on a linear map, limits, better than chance on a curved one."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import acquisition, em
from jaxcal.aberrations import indices
from jaxcal.latent_map import Prediction
from jaxcal.optics import Optics, edge_waves

LINEAR = toys.Linear()
PARAMETERS = em.initial_parameters(LINEAR.map, toys.experiment(np.zeros((1, 2)), np.zeros((1, 4))))
ONE = toys.experiment(np.zeros((1, 2)), np.zeros((1, 4)))
WEIGHTS = np.array([1.0, 4.0])


def cloud(seed=0, count=400, mean=(1.0, -2.0)):
    random = np.random.default_rng(seed)
    x = np.asarray(mean) + random.standard_normal((count, 2)) @ np.array([[2.0, 0.5], [0.0, 0.7]])
    return jnp.asarray(np.column_stack([x, np.zeros(count)]))


def curved(state):
    """Tells much of a state near zero and nothing of one far away."""
    shown = jnp.tanh(state / 2.0)
    return Prediction(4 * jnp.concatenate([shown, shown]), jnp.zeros((1, 4)), jnp.eye(4))


CURVED = em.Map(curved, np.ones((1, 2)), np.ones(2), LINEAR.map.prior)


def test_reduction_is_that_of_a_kalman_update():
    """sum_p w_p [P A' (A P A' + S)^-1 A P]_pp with the candidates' own covariance, any step."""
    candidates = cloud()
    start = np.asarray(candidates[:, :2])
    covariance = np.cov(start.T, bias=True)
    white = LINEAR.whitening @ LINEAR.matrix
    noise = sum(np.exp(2 * float(h)) for h in (
        PARAMETERS.process.log_noise, PARAMETERS.process.log_amplitude))
    gain = covariance @ white.T @ np.linalg.solve(
        white @ covariance @ white.T + noise * np.eye(4), white @ covariance)
    expected = WEIGHTS @ np.diag(gain)
    for step in ([0.0, 0.0], [30.0, -7.0]):
        found = acquisition.reduction(
            jnp.asarray(step), candidates, WEIGHTS, PARAMETERS, ONE, LINEAR.map)
        assert_allclose(found, expected, rtol=1e-10)


def test_no_more_than_everything_and_nothing_of_what_does_not_matter():
    candidates = cloud(1)
    variance = np.var(np.asarray(candidates[:, :2]), axis=0)
    loud = PARAMETERS._replace(process=PARAMETERS.process._replace(log_noise=jnp.asarray(9.0)))
    quiet = PARAMETERS._replace(process=PARAMETERS.process._replace(
        log_noise=jnp.asarray(-9.0), log_amplitude=jnp.asarray(-9.0)))
    step = jnp.zeros(2)
    for weights in (np.array([1.0, 0.0]), np.array([0.0, 1.0])):
        everything = acquisition.reduction(step, candidates, weights, quiet, ONE, LINEAR.map)
        nothing = acquisition.reduction(step, candidates, weights, loud, ONE, LINEAR.map)
        assert_allclose(everything, weights @ variance, rtol=1e-5)
        assert_allclose(nothing, 0.0, atol=1e-5)
    assert acquisition.reduction(step, candidates, np.zeros(2), quiet, ONE, LINEAR.map) == 0.0


def test_trial_steps_respect_limits_and_knobs():
    limit, reach = jnp.asarray([3.0, 50.0]), jnp.asarray([2.0, 1.0])
    steps = np.asarray(acquisition.trial_steps(
        jax.random.key(0), cloud(), np.array([True, True]), reach, limit, 2000))
    assert np.all(np.abs(steps) <= limit)
    assert np.abs(steps[:, 0]).max() == 3.0
    # the tuning step of a candidate, -x0, plus the offset: mean and variance add up
    start = np.asarray(cloud())[:, 1]
    assert_allclose(steps[:, 1].mean(), -start.mean(), atol=4 * steps[:, 1].std() / np.sqrt(2000))
    assert_allclose(steps[:, 1].var(), start.var() + 1.0, rtol=4 * np.sqrt(2 / 2000))
    still = acquisition.trial_steps(
        jax.random.key(0), cloud(), np.array([True, False]), reach, limit, 100)
    assert_array_equal(still[:, 1], 0.0)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_of_the_trials_is_taken(seed):
    key, candidates = jax.random.key(seed), cloud(seed)
    knob, reach, limit = np.array([True, True]), np.full(2, 5.0), np.full(2, 6.0)
    step = acquisition.next_step(
        key, candidates, WEIGHTS, PARAMETERS, ONE, CURVED, knob, reach, limit, 64, 400)
    steps = acquisition.trial_steps(key, candidates, knob, reach, limit, 64)
    gains = [acquisition.reduction(s, candidates, WEIGHTS, PARAMETERS, ONE, CURVED) for s in steps]
    assert_allclose(step, steps[int(np.argmax(gains))])
    assert np.all(np.abs(step) <= 6.0)
    again = acquisition.next_step(
        key, candidates, WEIGHTS, PARAMETERS, ONE, CURVED, knob, reach, limit, 64, 400)
    assert_array_equal(step, again)


@jax.jit
def shown(positions, step):
    return jax.vmap(lambda x: curved(x + step).mean)(positions)


def remaining(step, truth, candidates, random):
    """Weighted variance of the candidates after a frame at the step, by exact reweighing."""
    x = np.asarray(candidates)[:, :2]
    seen = np.asarray(shown(truth[None], step))[0] + random.standard_normal(4)
    log_weights = -0.5 * np.sum((np.asarray(shown(x, step)) - seen) ** 2, axis=1)
    weights = np.exp(log_weights - log_weights.max())
    weights /= weights.sum()
    return WEIGHTS @ (weights @ x**2 - (weights @ x) ** 2)


def test_better_than_random_steps():
    """Variance left after one more frame, averaged over truths drawn from the candidates.

    Random steps are uniform within the same limits. The chosen ones must leave at most half as
    much; the average over 40 truths is certain to about 15 %.
    """
    candidates = cloud(5, mean=(6.0, -5.0))
    knob, reach, limit = np.array([True, True]), np.full(2, 2.0), np.full(2, 12.0)
    random = np.random.default_rng(0)
    chosen, chance = [], []
    for trial in range(40):
        truth = np.asarray(candidates)[random.integers(len(candidates)), :2]
        step = acquisition.next_step(
            jax.random.key(trial), candidates, WEIGHTS, PARAMETERS, ONE, CURVED, knob, reach, limit)
        chosen.append(remaining(np.asarray(step), truth, candidates, random))
        chance.append(remaining(random.uniform(-12, 12, 2), truth, candidates, random))
    assert np.mean(chosen) < 0.5 * np.mean(chance)


def test_gradient_of_the_reduction_along_the_step():
    candidates = cloud(2)

    def walk(t):
        step = jnp.asarray([0.3, 1.0]) + t * jnp.asarray([1.0, -0.5])
        return acquisition.reduction(step, candidates, WEIGHTS, PARAMETERS, ONE, CURVED)

    expected = (walk(1e-5) - walk(-1e-5)) / 2e-5
    assert_allclose(jax.grad(walk)(0.0), expected, rtol=1e-6)


def test_types_are_kept():
    low = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (cloud(), PARAMETERS, ONE))
    step = jax.eval_shape(lambda: acquisition.next_step(
        jax.random.key(0), low[0], jnp.ones(2, jnp.float32), low[1], low[2], LINEAR.map,
        np.array([True, True]), jnp.ones(2, jnp.float32), jnp.ones(2, jnp.float32)))
    assert step.dtype == jnp.float32 and step.shape == (2,)


# The spectra's own choice


def test_trial_states_are_line_foci_in_waves():
    """|C10| between NEAR and FAR waves, |C12| about as large (LINE_FOCUS), for any optics."""
    names = ("C10", "C12a", "C12b", "C21a")
    for optics in (Optics(200.0, 20.0, 0.2), Optics(300.0, 30.0, 0.3)):
        states = acquisition.refined_trials(jax.random.key(0), names, optics)
        assert states.shape == (acquisition.REFINED_TRIALS, 4)
        waves = states * edge_waves(optics)[indices(names)]
        defocus = np.abs(waves[:, 0])
        assert np.all(defocus <= acquisition.FAR * (1 + 1e-6))
        assert np.all(defocus >= acquisition.NEAR * (1 - 1e-6))
        assert (waves[:, 0] > 0).any() and (waves[:, 0] < 0).any()
        ratio = np.hypot(*waves[:, 1:3].T) / defocus
        low, high = acquisition.LINE_FOCUS
        assert np.all(ratio >= low * (1 - 1e-6)) and np.all(ratio <= high * (1 + 1e-6))
        assert ratio.max() > 1.0
        assert 0.5 < waves[:, 3].std() / acquisition.ASIDE[0] < 1.5
        only = acquisition.refined_trials(jax.random.key(0), ("C30",), optics)
        assert only.shape == (acquisition.REFINED_TRIALS, 1)
        waves = only * edge_waves(optics)[indices(("C30",))]
        assert 0.5 < waves.std() / acquisition.ASIDE[1] < 1.5


def test_the_step_of_the_largest_gain_is_taken(monkeypatch):
    """Gains averaged over two solutions by their weights; knobs clipped to their limits. All are
    judged at a glimpse, the best of them by all frequencies."""
    optics = Optics(200.0, 20.0, 0.2)
    asked = []

    def step_gain(steps, tolerance_nm, problem, point):
        asked.append((problem.glimpse, steps))
        return point * steps[:, 0]  # the second solution would go the other way

    monkeypatch.setattr(acquisition, "step_gain", step_gain)
    monkeypatch.setattr(acquisition.unknowns, "glimpse",
                        lambda problem: SimpleNamespace(glimpse=True))
    solutions = tuple(SimpleNamespace(tuned_knobs_nm=np.array([u, 0.0]), point=p, gain=np.eye(2))
                      for u, p in ((50.0, 1.0), (-50.0, -1.0)))
    refinement = SimpleNamespace(
        problem=SimpleNamespace(knob_names=("C10", "C12a"), optics=optics, glimpse=False),
        solutions=solutions, weights=np.array([0.8, 0.2]))
    limit = np.array([100.0, 20.0])
    step = acquisition.refined_step(jax.random.key(1), refinement, np.ones(2), limit)
    assert [glimpse for glimpse, _ in asked] == [True, True, False, False]
    assert [len(steps) for _, steps in asked] == [acquisition.REFINED_TRIALS] * 2 + [
        acquisition.CLOSER] * 2
    (_, trials), (_, again), (_, closer), _ = asked
    assert_array_equal(trials, again)
    assert np.all(np.abs(trials) <= limit)
    assert_array_equal(closer[:, 0], np.sort(trials[:, 0])[: -acquisition.CLOSER - 1 : -1])
    assert step[0] == trials[:, 0].max() == 100.0
