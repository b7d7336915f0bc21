"""The map from states to latents: dense twin, symmetry, closed forms, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from toys import KLEIN

from jaxcal import em, latent_map
from jaxcal.latent_map import Hyperparameters, MapNetwork, Prediction
from jaxcal.reference import gaussian_process

STATES, NUISANCES, LATENTS = 4, 3, 5
SIGNS = np.array(KLEIN.states)
SCALE = np.array([2.0, 2.0, 0.5, 0.5])
HYPER = Hyperparameters(np.log(0.6), np.log(0.8), np.log(1.3))


def network(seed=0, dtype=jnp.float64):
    """A map whose nuisances and whitening depend on the state, as of a trained one."""
    made = MapNetwork(KLEIN, SCALE, LATENTS, 16, rngs=nnx.Rngs(seed))
    graph, weights = nnx.split(made)
    random = np.random.default_rng(seed)
    weights = jax.tree.map(
        lambda w: jnp.asarray(w + 0.15 * random.standard_normal(w.shape), dtype), weights)
    return nnx.merge(graph, weights)


NETWORK = network()
predict = jax.jit(NETWORK)
predict_all = jax.jit(jax.vmap(NETWORK))


@jax.jit
def log_likelihood(hyper, states, latents, frame_noise):
    return latent_map.log_likelihood(hyper, NETWORK, states, latents, SIGNS.astype(states.dtype),
                                     SCALE.astype(states.dtype), frame_noise)


slope = jax.jit(jax.grad(log_likelihood))


def data(seed, frames=5):
    random = np.random.default_rng(seed)
    return (random.uniform(-3, 3, (frames, STATES)), 2 * random.standard_normal((frames, LATENTS)),
            random.uniform(0.5, 2.0, frames))


def dense(hyper, states, latents, frame_noise):
    """The reference; its kernel is a sum over the group where the module takes the mean."""
    amplitude = np.exp(hyper.log_amplitude) / np.sqrt(len(SIGNS))
    coordinates = np.arcsinh(states / SCALE)
    matrix = gaussian_process.covariance(
        coordinates, coordinates, amplitude, np.exp(hyper.log_length), SIGNS)
    matrix += np.diag((np.exp(hyper.log_noise) * frame_noise) ** 2)
    predictions = jax.tree.map(np.asarray, predict_all(states))
    return gaussian_process.log_likelihood_of_latents(
        latents, predictions.mean, predictions.sensitivity, predictions.whitening, matrix)


# The likelihood


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), amplitude=st.floats(-4, 2), length=st.floats(-1.5, 1.5),
       noise=st.floats(-1, 1))  # fmt: skip
def test_likelihood_is_that_of_the_dense_covariance(seed, amplitude, length, noise):
    hyper = Hyperparameters(amplitude, length, noise)
    arguments = data(seed)
    assert_allclose(log_likelihood(hyper, *arguments), dense(hyper, *arguments), rtol=1e-10)


def test_without_nuisances_it_is_one_process_for_each_latent():
    states, latents, noise = data(1)
    found = latent_map.log_likelihood(
        HYPER, lambda x: Prediction(jnp.zeros(LATENTS), jnp.zeros((1, LATENTS)), jnp.eye(LATENTS)),
        states, latents, SIGNS, SCALE, noise)
    coordinates = np.arcsinh(states / SCALE)
    amplitude = np.exp(HYPER.log_amplitude) / 2
    matrix = gaussian_process.covariance(
        coordinates, coordinates, amplitude, np.exp(HYPER.log_length), SIGNS)
    matrix += np.diag((np.exp(HYPER.log_noise) * noise) ** 2)
    assert_allclose(found, gaussian_process.log_likelihood(latents, matrix), rtol=1e-10)


def test_float32_keeps_ten_thousandths_of_a_nat():
    """Sums of about 100 squares of rounded numbers: 100 eps32 of 100 nats, and some to spare."""
    arguments = data(2)
    low = [jnp.asarray(a, jnp.float32) for a in arguments]
    hyper = Hyperparameters(*(jnp.float32(h) for h in HYPER))
    narrow = network(dtype=jnp.float32)
    found = latent_map.log_likelihood(
        hyper, narrow, low[0], low[1], SIGNS.astype(np.float32), SCALE.astype(np.float32), low[2])
    assert found.dtype == jnp.float32
    exact = log_likelihood(HYPER, *arguments)
    assert_allclose(found, exact, rtol=100 * np.finfo(np.float32).eps)


@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_excluded_frame_is_an_absent_one(place):
    """Its variance is 1e8 times the others', so that it tells 1e-8 of what they do."""
    states, latents, noise = data(3)
    others = np.arange(5) != place
    absent = log_likelihood(HYPER, states[others], latents[others], noise[others])
    noise[place] = em.EXCLUDED
    latents[place] = 0.0
    assert_allclose(log_likelihood(HYPER, states, latents, noise), absent, atol=1e-6)
    kept = slope(HYPER, states[others], latents[others], noise[others])
    assert_allclose(slope(HYPER, states, latents, noise), kept, atol=1e-6)


def test_two_points_by_hand():
    """One latent, no nuisance: a 2 x 2 normal density with r = k(x, x')."""
    states, latents, noise = np.array([[0.3], [-1.1]]), np.array([[0.7], [-0.4]]), np.ones(2)
    amplitude, length, spread = 0.9, 1.2, 0.4
    hyper = Hyperparameters(*np.log([amplitude, length, spread]))
    found = latent_map.log_likelihood(
        hyper, lambda x: Prediction(jnp.full(1, 0.1), jnp.zeros((1, 1)), jnp.full((1, 1), 2.0)),
        states, latents, np.array([[1.0], [-1.0]]), np.ones(1), noise)
    a, b = np.arcsinh(states[:, 0])

    def k(x, y):
        one, other = (np.exp(-0.5 * ((x - s * y) / length) ** 2) for s in (1, -1))
        return amplitude**2 * (one + other) / 2

    aa, bb, ab = k(a, a) + spread**2, k(b, b) + spread**2, k(a, b)
    u, v = 2.0 * (latents[:, 0] - 0.1)
    determinant = aa * bb - ab**2
    squares = (bb * u**2 - 2 * ab * u * v + aa * v**2) / determinant
    expected = -0.5 * squares - 0.5 * np.log(determinant) - np.log(2 * np.pi) + 2 * np.log(2.0)
    assert_allclose(found, expected, rtol=1e-13)


def test_nuisance_of_one_frame_is_a_rank_one_covariance():
    """One frame: z ~ N(m, W^-1 W^-T (a^2 + s^2) + S' S), a closed form of D variables."""
    states, latents, noise = data(4, frames=1)
    prediction = jax.tree.map(lambda p: np.asarray(p[0]), predict_all(states))
    coordinates = np.arcsinh(states[0] / SCALE)
    distance = np.array([np.sum((coordinates - s * coordinates) ** 2) for s in SIGNS])
    variance = np.exp(2 * HYPER.log_amplitude) * np.mean(
        np.exp(-0.5 * distance / np.exp(2 * HYPER.log_length)))
    variance += (np.exp(HYPER.log_noise) * noise[0]) ** 2
    inverse = np.linalg.inv(prediction.whitening)
    covariance = variance * inverse @ inverse.T + prediction.sensitivity.T @ prediction.sensitivity
    residual = latents[0] - prediction.mean
    expected = -0.5 * (residual @ np.linalg.solve(covariance, residual)
                       + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert_allclose(log_likelihood(HYPER, states, latents, noise), expected, rtol=1e-10)


def test_density_at_known_nuisances_is_normal():
    random = np.random.default_rng(5)
    state, latents, nuisances = (random.standard_normal(n) for n in (STATES, LATENTS, NUISANCES))
    prediction = jax.tree.map(np.asarray, predict(jnp.asarray(state)))
    inverse = np.linalg.inv(prediction.whitening)
    residual = latents - prediction.mean - prediction.sensitivity.T @ nuisances
    covariance = inverse @ inverse.T
    expected = -0.5 * (residual @ np.linalg.solve(covariance, residual)
                       + np.linalg.slogdet(2 * np.pi * covariance)[1])
    assert_allclose(latent_map.log_density(prediction, latents, nuisances), expected, rtol=1e-10)


def test_integrating_over_the_nuisances_gives_the_likelihood():
    """log E exp(log density) over nu ~ N(0, 1) by Gauss-Hermite nodes, one frame, no gap."""
    states, latents, _ = data(6, frames=1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    grid = np.stack(np.meshgrid(*[nodes] * NUISANCES, indexing="ij"), -1).reshape(-1, NUISANCES)
    product = np.prod(np.stack(np.meshgrid(*[weights] * NUISANCES, indexing="ij"), -1), -1).ravel()
    prediction = predict(jnp.asarray(states[0]))
    prediction = prediction._replace(sensitivity=0.3 * prediction.sensitivity)
    each = jax.vmap(lambda nu: latent_map.log_density(prediction, latents[0], nu))(grid)
    expected = np.log(np.sum(np.exp(each) * product) / np.sqrt(2 * np.pi) ** NUISANCES)
    hyper = Hyperparameters(-30.0, 0.0, 0.0)
    found = latent_map.log_likelihood(
        hyper, lambda x: prediction, states, latents, SIGNS, SCALE, np.ones(1))
    assert_allclose(found, expected, rtol=1e-8)


# Symmetry


@pytest.mark.parametrize("element", range(4))
@pytest.mark.parametrize("seed", range(3))
def test_network_is_symmetric_under_every_element(element, seed):
    """z does not change when x and nu go to g x and g nu: the sensitivities take nu's sign."""
    state = np.random.default_rng(seed).uniform(-5, 5, STATES)
    here, there = predict(jnp.asarray(state)), predict(jnp.asarray(SIGNS[element] * state))
    turned = np.array(KLEIN.nuisances)[element][:, None] * there.sensitivity
    assert_allclose(there.mean, here.mean, atol=1e-13)
    assert_allclose(there.whitening, here.whitening, atol=1e-13)
    assert_allclose(turned, here.sensitivity, atol=1e-13)
    assert np.abs(here.sensitivity).max() > 0.05  # nothing is symmetric by being zero


def test_a_nuisance_that_changes_sign_has_no_effect_at_the_origin():
    sensitivity = predict(jnp.zeros(STATES)).sensitivity
    assert_allclose(sensitivity[1:], 0.0, atol=1e-14)
    assert np.abs(sensitivity[0]).max() > 0.05


def test_the_likelihood_has_mirror_images():
    states, latents, noise = data(7)
    values = [log_likelihood(HYPER, sign * states, latents, noise) for sign in SIGNS]
    assert_allclose(values, values[0], rtol=1e-12)
    one = np.array(states)
    one[0] *= SIGNS[1]  # a single frame's mirror image: only the nuisances tell
    assert abs(log_likelihood(HYPER, one, latents, noise) - values[0]) > 1e-3


def test_kernel_is_a_covariance_with_the_symmetry():
    states, *_ = data(8, frames=6)
    points = np.concatenate([states, states * SIGNS[2]])
    coordinates = jax.vmap(lambda x: latent_map.kernel_coordinates(x, SCALE))(points)
    matrix = np.asarray(latent_map.gap_kernel(HYPER, jnp.asarray(SIGNS))(coordinates, coordinates))
    assert_allclose(matrix, matrix.T, atol=1e-15)
    assert_allclose(matrix[:6], matrix[6:], atol=1e-14)
    eigenvalues = np.linalg.eigvalsh(matrix)
    assert eigenvalues.min() > -1e-12
    expected = gaussian_process.covariance(
        np.arcsinh(points / SCALE), np.arcsinh(points / SCALE),
        np.exp(HYPER.log_amplitude) / 2, np.exp(HYPER.log_length), SIGNS)
    assert_allclose(matrix, expected, atol=1e-14)


def test_whitening_is_lower_triangular_with_a_positive_diagonal():
    entries = np.random.default_rng(9).standard_normal(LATENTS * (LATENTS + 1) // 2)
    lower = np.asarray(latent_map.unpack(jnp.asarray(entries), LATENTS))
    assert_array_equal(lower, np.tril(lower))
    expected = np.zeros((LATENTS, LATENTS))
    expected[np.tril_indices(LATENTS)] = entries
    assert_allclose(np.diag(lower), np.exp(np.diag(expected)))
    assert_array_equal(np.tril(lower, -1), np.tril(expected, -1))


# Gradients, compilation, types


def test_gradients_along_a_random_direction():
    """Central differences of step h: truncation and rounding are both about 1e-9 of the value."""
    states, latents, noise = data(0)
    random = np.random.default_rng(10)
    along = random.standard_normal(states.shape)
    hyper_along = Hyperparameters(*random.standard_normal(3))

    @jax.jit
    def walk(t):
        hyper = Hyperparameters(*(h + t * d for h, d in zip(HYPER, hyper_along, strict=True)))
        return log_likelihood(hyper, states + t * along, latents, noise)

    step = 1e-5
    expected = (walk(step) - walk(-step)) / (2 * step)
    assert_allclose(jax.grad(walk)(0.0), expected, rtol=1e-6)


def test_gradient_of_the_training_loss():
    random = np.random.default_rng(11)
    state, along = random.standard_normal((2, STATES))
    latents, nuisances = random.standard_normal(LATENTS), random.standard_normal(NUISANCES)

    @jax.jit
    def walk(t):
        return latent_map.log_density(NETWORK(state + t * along), latents, nuisances)

    expected = (walk(1e-5) - walk(-1e-5)) / 2e-5
    assert_allclose(jax.grad(walk)(0.0), expected, rtol=1e-6)


def test_log_prior_is_normal():
    prior = latent_map.SIMULATED_PRIOR
    moved = Hyperparameters(*(m + s for m, s in zip(prior.mean, prior.sd, strict=True)))
    assert_allclose(latent_map.log_prior(prior.mean, prior), 0.0)
    assert_allclose(latent_map.log_prior(moved, prior), -1.5)


def test_batches_are_loops_and_one_trace_serves_all():
    traces = []

    @jax.jit
    def all_of(states):
        traces.append(None)
        return jax.vmap(NETWORK)(states)

    states, *_ = data(12)
    batched = all_of(states)
    all_of(states + 1)
    assert len(traces) == 1
    for number, state in enumerate(states):
        one = predict(jnp.asarray(state))
        jax.tree.map(lambda a, b: assert_allclose(a[number], b, atol=1e-13), batched, one)  # noqa: B023


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_are_kept(dtype):
    made = network(dtype=dtype)
    for leaf in jax.tree.leaves(made(jnp.zeros(STATES, dtype))):
        assert leaf.dtype == dtype


def test_the_published_form_knows_nothing_of_the_state():
    predict = latent_map.flat_prediction(jnp.arange(3.0), 2 * jnp.eye(3), NUISANCES)
    here, there = predict(jnp.zeros(STATES)), predict(jnp.ones(STATES))
    jax.tree.map(assert_array_equal, here, there)
    assert here.sensitivity.shape == (NUISANCES, 3) and not here.sensitivity.any()
    assert_array_equal(here.mean, np.arange(3.0))
