"""The autoencoder: ELBO in closed form, shapes, types, and that training it raises the ELBO."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import vae

SHAPE = vae.Architecture(rows=16, columns=8, patch=4, features=5, hidden=12, latents=3)


def network(seed=0, dtype=jnp.float64):
    graph, weights = nnx.split(vae.Vae(SHAPE, rngs=nnx.Rngs(seed)))
    return nnx.merge(graph, jax.tree.map(lambda w: w.astype(dtype), weights))


NETWORK = network()
encode = jax.jit(NETWORK.encoder)
decode = jax.jit(NETWORK.decoder)


def images(seed, count=6, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=(count, SHAPE.rows, SHAPE.columns)).astype(dtype)


def test_distortion_is_the_exponential_likelihood():
    """-log p(P | mean S) = log S + P/S, with P = e^l and S = e^s; weights count bins."""
    random = np.random.default_rng(0)
    power, mean = random.exponential(size=(2, 3, 4, 5))
    weight = random.uniform(size=(4, 5))
    expected = np.sum(weight * (np.log(mean) + power / mean), axis=(1, 2))
    assert_allclose(vae.distortion(np.log(power), np.log(mean), weight), expected, rtol=1e-12)


@given(st.floats(-4, 4))
@settings(deadline=None, max_examples=25)
def test_distortion_is_least_at_the_truth(log_power):
    """d/ds (s + e^(l - s)) = 0 at s = l, where it is l + 1."""
    at = jnp.full((1, 1), log_power)
    assert_allclose(vae.distortion(at, at, 1.0), log_power + 1, rtol=1e-12, atol=1e-12)
    for wrong in (-0.1, 0.1):
        assert vae.distortion(at, at + wrong, 1.0) > log_power + 1


def test_elbo_by_hand():
    """The divergence by the formula and by quadrature; the distortion at the very draw."""
    image, weight = images(1), np.random.default_rng(1).uniform(size=(16, 8))
    key = jax.random.key(3)
    found = vae.elbo(vae.draws(key, NETWORK, image), NETWORK, image, weight)
    mean, log_variance = (np.asarray(a) for a in encode(image))
    divergence = 0.5 * np.sum(np.exp(log_variance) + mean**2 - 1 - log_variance, axis=1)
    assert_allclose(found.divergence, divergence, rtol=1e-12)
    latents = mean + np.exp(log_variance / 2) * np.asarray(jax.random.normal(key, mean.shape))
    expected = np.asarray(decode(latents))
    distortion = np.sum(weight * (expected + np.exp(image - expected)), axis=(1, 2))
    assert_allclose(found.distortion, distortion, rtol=1e-12)
    assert_allclose(found.value, -distortion - divergence, rtol=1e-12)

    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    by_quadrature = 0.0
    for m, v in zip(mean[0], np.exp(log_variance[0]), strict=True):
        z = m + np.sqrt(v) * nodes
        log_ratio = -0.5 * nodes**2 - 0.5 * np.log(v) + 0.5 * z**2
        by_quadrature += weights @ log_ratio / np.sqrt(2 * np.pi)
    assert_allclose(divergence[0], by_quadrature, rtol=1e-10)


def test_divergence_vanishes_where_the_posterior_is_the_prior():
    graph, weights = nnx.split(NETWORK)
    silent = nnx.merge(graph, jax.tree.map(jnp.zeros_like, weights))
    noise = vae.draws(jax.random.key(0), silent, images(2))
    terms = vae.elbo(noise, silent, images(2), np.ones((16, 8)))
    assert_array_equal(terms.divergence, 0.0)
    assert_allclose(terms.distortion, np.exp(images(2)).sum((1, 2)), rtol=1e-12)


def test_masked_bins_do_not_count():
    weight = np.ones((16, 8))
    weight[3:5] = 0.0
    image = images(3)
    changed = image.copy()
    changed[:, 3:5] = 1.0
    expected = np.asarray(decode(np.zeros((6, 3))))
    assert_allclose(vae.distortion(image, expected, weight),
                    vae.distortion(changed, expected, weight), rtol=1e-14)


def test_the_encoder_sees_nothing_beyond_floor_and_ceiling():
    image = images(4)
    image[0, 0, 0], image[0, 5, 5] = vae.FLOOR, vae.CEILING
    beyond = image.copy()
    beyond[0, 0, 0], beyond[0, 5, 5] = -1e30, 1e30
    for found, expected in zip(encode(beyond), encode(image), strict=True):
        assert_allclose(found, expected, rtol=1e-14)
    log_variance = encode(1e9 * image)[1]
    assert -12 <= log_variance.min() and log_variance.max() <= 4


def test_patches_are_where_they_belong():
    """Only the output bias differs from zero: every patch of the image shows it."""
    graph, weights = nnx.split(NETWORK)
    empty = nnx.merge(graph, jax.tree.map(jnp.zeros_like, weights))
    pattern = jnp.arange(16.0)
    empty.decoder.out.bias[...] = pattern
    image = empty.decoder(jnp.zeros(3))
    assert_array_equal(image, np.tile(np.arange(16.0).reshape(4, 4), (4, 2)))
    # and the encoder cuts the same patches: with the identity as its embedding they come back
    embedded = []
    empty.encoder.embed = lambda x: embedded.append(x) or jnp.zeros((*x.shape[:-1], 5))
    row, column = np.indices((16, 8))
    empty.encoder(jnp.asarray(row + column / 16.0 - 4.0))
    patches = np.asarray(embedded[0]) * 2.0 + 4.0
    assert patches.shape == (8, 16)
    expected = np.clip((row + column / 16.0), -1, 10)[4:8, 4:8].ravel()
    assert_allclose(patches[3], expected)  # second row of patches, second of two columns


def test_shapes_and_batches_are_loops():
    batch = images(5)
    mean, log_variance = encode(batch)
    assert mean.shape == log_variance.shape == (6, 3)
    image = decode(mean)
    assert image.shape == batch.shape
    mapped = jax.jit(jax.vmap(NETWORK.encoder))(batch)
    assert_allclose(mapped[0], mean, rtol=1e-12)
    for k in range(2):
        assert_allclose(NETWORK.encoder(batch[k])[0], mean[k], rtol=1e-12)
        assert_allclose(NETWORK.decoder(mean[k]), image[k], rtol=1e-12)
    assert encode(batch.reshape(2, 3, 16, 8))[0].shape == (2, 3, 3)


def test_one_trace():
    traces = []

    @jax.jit
    def run(key, image):
        traces.append(None)
        noise = vae.draws(key, NETWORK, image)
        return vae.elbo(noise, NETWORK, image, np.ones((16, 8)))

    for seed in range(3):
        run(jax.random.key(seed), images(seed))
    assert len(traces) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_types_are_kept(dtype):
    made, image = network(dtype=dtype), images(6, dtype=dtype)
    weight = np.ones((16, 8), dtype)
    noise = vae.draws(jax.random.key(0), made, image)
    terms = jax.eval_shape(lambda: vae.elbo(noise, made, jnp.asarray(image), weight))
    assert {term.dtype for term in terms} == {np.dtype(dtype)}
    assert {term.shape for term in terms} == {(6,)}


def test_gradient_of_the_elbo_along_a_random_direction():
    graph, weights = nnx.split(NETWORK)
    random = np.random.default_rng(7)
    along = jax.tree.map(lambda w: jnp.asarray(random.normal(size=w.shape)), weights)
    image, weight = images(7), np.ones((16, 8))

    @jax.jit
    def walk(t):
        moved = jax.tree.map(lambda w, d: w + t * d, weights, along)
        noise = vae.draws(jax.random.key(0), NETWORK, image)
        terms = vae.elbo(noise, nnx.merge(graph, moved), image, weight)
        return jnp.mean(terms.value)

    expected = (walk(1e-6) - walk(-1e-6)) / 2e-6
    assert_allclose(jax.grad(walk)(0.0), expected, rtol=1e-6)


def test_training_learns_what_one_number_decides():
    """Log spectra s(c) = c pattern with exponential noise: the ELBO gains most of what c tells.

    Given the truth, a bin costs s + 1 nats on average, without c the log mean power: 128 bins lose
    the sum of log E e^s - E s over them, here 15 nats. A VAE that learns c must win back more than
    half.
    """
    random = np.random.default_rng(8)
    row, column = np.indices((16, 8))
    pattern = np.sin(row / 2.0) * np.cos(column / 3.0)
    amount = random.uniform(-2, 2, (2048, 1, 1))
    expected = amount * pattern
    data = np.log(random.exponential(size=expected.shape)) + expected
    weight = np.ones((16, 8))
    graph, weights = nnx.split(network(1, jnp.float32))
    optimiser = optax.adam(3e-3)
    data = jnp.asarray(data, jnp.float32)

    def loss(weights, key, batch):
        whole = nnx.merge(graph, weights)
        terms = vae.elbo(vae.draws(key, whole, batch), whole, batch, weight.astype(np.float32))
        return -jnp.mean(terms.value)

    @jax.jit
    def train(weights, keys):
        def step(carry, key):
            weights, state = carry
            pick, noise = jax.random.split(key)
            batch = data[jax.random.randint(pick, (64,), 0, 1792)]
            gradient = jax.grad(loss)(weights, noise, batch)
            update, state = optimiser.update(gradient, state, weights)
            return (optax.apply_updates(weights, update), state), None

        return jax.lax.scan(step, (weights, optimiser.init(weights)), keys)[0][0]

    trained = train(weights, jax.random.split(jax.random.key(0), 1500))
    test = data[1792:]
    final = -loss(trained, jax.random.key(1), test)
    best = -np.mean(np.sum(expected[1792:] + 1, axis=(1, 2)))
    ignorant = -np.sum(1 + np.log(np.exp(expected).mean(0)))
    assert ignorant + 0.5 * (best - ignorant) < final < best + 3


def test_the_misfit_of_what_the_expectation_explains_is_none():
    """Exponential powers about their mean: 0 within its error; twice or half the power: more."""
    power = np.random.default_rng(0).exponential(size=(3, 200, 200))
    weight = np.ones((200, 200))
    weight[:, :50] = 0.0
    found = vae.misfit(np.log(power), np.zeros((200, 200)), weight)
    np.testing.assert_allclose(found, 0.0, atol=0.02)
    for shift in (-np.log(2), np.log(2)):
        away = vae.misfit(np.log(power), shift, weight)
        np.testing.assert_allclose(away, np.exp(-shift) + shift - 1, atol=0.03)
    power[:, :, :50] = 1e6  # where nothing counts
    np.testing.assert_allclose(vae.misfit(np.log(power), 0.0, weight), found)
