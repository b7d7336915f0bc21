"""Films: their spectrum and variance as asked for, slices that share it, pure phase objects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import specimen

SIZE, RADIUS = 96, 30.0
FALLING = np.log(0.05) - 0.8 * specimen.KNOTS
PHASE = jax.jit(specimen.amorphous_phase, static_argnums=(2, 3))


def white(seed, slices=1):
    return np.random.default_rng(seed).normal(size=(slices, SIZE, SIZE))


def spectral_density(q):
    """Power per unit area of q that FALLING asks for, zero beyond the band limit."""
    inside = q <= specimen.band_limit(SIZE, RADIUS)
    return np.exp(2 * np.interp(q, specimen.KNOTS, FALLING)) * inside


def full_frequencies():
    line = np.fft.fftfreq(SIZE, 1 / SIZE) / RADIUS
    return np.hypot(line[:, None], line[None, :])


def test_frequencies_are_those_of_the_grid():
    found = specimen.frequencies(SIZE, RADIUS)
    assert found.shape == (SIZE, SIZE // 2 + 1)
    assert_allclose(found, full_frequencies()[:, : SIZE // 2 + 1])


def test_band_limit_keeps_what_wraps_around_out_of_the_disc():
    """From the edge of the disc, by q, to the next copy of the disc's edge: N/R - 2."""
    assert specimen.band_limit(256, 72.0) == pytest.approx(256 / 72 - 2)
    assert specimen.band_limit(1000, 72.0) == 2.0


def test_phase_is_the_noise_filtered():
    """Against NumPy: FT^-1[FT[noise] sqrt(density) / pixel side], pixel side R/N."""
    noise = white(0)
    amplitude = np.sqrt(spectral_density(full_frequencies()))
    expected = np.fft.ifft2(np.fft.fft2(noise) * amplitude * SIZE / RADIUS).real
    found = PHASE(noise, FALLING, RADIUS, 1)
    assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


def test_variance_is_the_integral_of_the_spectrum():
    expected = spectral_density(full_frequencies()).sum() / RADIUS**2  # one bin is 1/R wide
    found = [np.var(PHASE(white(seed), FALLING, RADIUS, 1)) for seed in range(30)]
    # of some (pi q^2 R^2)/2 independent pairs of numbers a frame; the spectrum's fall takes half
    assert_allclose(np.mean(found), expected, rtol=4 / np.sqrt(30 * np.pi * RADIUS**2 / 4))


@pytest.mark.parametrize("knot", [1, 3])
def test_spectrum_near_each_knot_is_the_one_asked_for(knot):
    q = full_frequencies()
    ring = np.abs(q - specimen.KNOTS[knot]) < 1.5 / RADIUS
    power = np.mean([
        np.abs(np.fft.fft2(PHASE(white(seed), FALLING, RADIUS, 1)))[0] ** 2 for seed in range(40)
    ], axis=0)  # fmt: skip
    found = power[ring].mean() * (RADIUS / SIZE**2) ** 2
    independent = 40 * ring.sum() / 2  # the phase is real
    expected = spectral_density(q[ring]).mean()
    assert_allclose(found, expected, rtol=4 / np.sqrt(independent))


def test_slices_share_the_strength():
    total = [np.var(PHASE(white(seed, 4), FALLING, RADIUS, 4).sum(0)) for seed in range(15)]
    single = [np.var(PHASE(white(seed + 50), FALLING, RADIUS, 1)) for seed in range(15)]
    assert_allclose(np.mean(total), np.mean(single), rtol=0.1)
    assert PHASE(white(0, 4), FALLING, RADIUS, 4).shape == (4, SIZE, SIZE)


def test_film_has_no_mean_drift_beyond_its_band():
    found = np.abs(np.fft.fft2(PHASE(white(1), FALLING, RADIUS, 1)))[0]
    beyond = full_frequencies() > specimen.band_limit(SIZE, RADIUS)
    assert found[beyond].max() < 1e-10 * found.max()


def test_transmission_is_a_pure_phase():
    phase = np.random.default_rng(2).normal(size=(2, 8, 8))
    assert_allclose(specimen.transmission(phase), np.exp(1j * phase), atol=1e-14)
    assert_array_equal(specimen.transmission(np.zeros((3, 3))), 1)


def test_gradient_by_finite_differences():
    weights, noise = np.random.default_rng(3).normal(size=(1, SIZE, SIZE)), white(3)

    @jax.jit
    def projection(log_amplitude):
        film = specimen.transmission(PHASE(noise, log_amplitude, RADIUS, 1))
        return jnp.sum(weights * (film.real + 2 * film.imag))

    direction, step = np.random.default_rng(4).normal(size=len(FALLING)), 1e-6
    found = jax.grad(projection)(FALLING) @ direction
    ends = [projection(FALLING + sign * step * direction) for sign in (1, -1)]
    assert_allclose(found, (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_batched_traced_once_dtype_kept(dtype):
    traces = []

    def film(noise, log_amplitude):
        traces.append(1)
        return specimen.transmission(specimen.amorphous_phase(noise, log_amplitude, RADIUS, 2))

    samples = [(jnp.asarray(white(s, 2), dtype), jnp.asarray(FALLING, dtype)) for s in (0, 1)]
    eager = [film(*sample) for sample in samples]
    traces.clear()
    compiled = jax.jit(film)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for found, sample in zip(eager, samples, strict=True):
        assert found.real.dtype == dtype
        assert_allclose(compiled(*sample), found, atol=tolerance)
    assert len(traces) == 1
    batched = jax.vmap(film)(*(jnp.stack(column) for column in zip(*samples, strict=True)))
    assert_allclose(batched, jnp.stack(eager), atol=tolerance)
