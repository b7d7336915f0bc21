"""The camera: MTF, mean and variance of the counts, and each fault by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from jaxcal import detector
from jaxcal.detector import Detector

SHAPE = (48, 40)
FLAT = np.ones(SHAPE)
EXPOSURES = 300
EXPOSE = jax.jit(jax.vmap(detector.expose, in_axes=(0, None, None)))


def draws(intensity, camera, number=EXPOSURES):
    """Frames (number, H, W) of independent exposures."""
    keys = jax.random.split(jax.random.key(0), number)
    return np.asarray(EXPOSE(keys, intensity, camera))


def image(seed=0):
    return np.random.default_rng(seed).uniform(0.2, 2.0, SHAPE)


# The mean


@pytest.mark.parametrize("pixel", [0.0, 1.0, 2.0])
def test_mtf_of_a_grating_is_the_gaussian_s_times_the_pixel_s(pixel):
    """cos(2 pi f x) comes out with exp(-2 (pi s f)^2) sinc(f p) of its amplitude."""
    blur, waves = 0.8, 6
    frequency = waves / SHAPE[1]
    grating = 1 + 0.5 * np.cos(2 * np.pi * frequency * np.arange(SHAPE[1])) * FLAT
    found = detector.expected(grating, Detector(dose=1.0, blur=blur, pixel=pixel))
    factor = np.exp(-2 * (np.pi * blur * frequency) ** 2) * np.sinc(frequency * pixel)
    assert_allclose(found, 1 + factor * (grating - 1), atol=1e-12)


def test_blur_in_real_space_is_a_gaussian():
    point = np.zeros(SHAPE)
    point[20, 20] = 1.0
    found = detector.expected(point, Detector(dose=1.0, blur=1.5, pixel=0.0))
    y, x = np.indices(SHAPE) - 20.0
    expected = np.exp(-(x**2 + y**2) / (2 * 1.5**2)) / (2 * np.pi * 1.5**2)
    assert_allclose(found, expected, atol=1e-4)


def test_no_blur_leaves_the_image_and_blur_the_electrons():
    perfect = Detector(dose=7.0, blur=0.0, pixel=0.0)
    assert_allclose(detector.expected(image(), perfect), 7 * image(), rtol=1e-12)
    blurred = detector.expected(image(), Detector(dose=7.0, blur=2.0))
    assert_allclose(blurred.sum(), 7 * image().sum(), rtol=1e-12)


def test_gain_offset_and_hot_pixels():
    gain = image(1)
    hot = np.zeros(SHAPE)
    hot[3, 4] = 1e4
    camera = Detector(
        dose=20.0, pixel=0.0, gain=gain, counts_per_electron=3.0, offset=50.0, hot=hot
    )
    assert_allclose(detector.expected(image(), camera), 60 * gain * image() + 50 + hot, rtol=1e-12)


# The statistics


@settings(max_examples=8, deadline=None)
@given(
    dose=st.floats(20, 1000), counts=st.floats(0.5, 30), offset=st.floats(0, 300),
    readout=st.floats(0, 20), direct=st.booleans(), blur=st.floats(0, 1),
)  # fmt: skip
def test_mean_and_variance_of_the_counts(dose, counts, offset, readout, direct, blur):
    """Direct: variance c^2 dose I + readout^2; a scintillator's shot noise is blurred as well."""
    camera = Detector(
        dose=dose, blur=blur, pixel=1.0, scintillator=float(not direct),
        counts_per_electron=counts, offset=offset, readout=readout,
    )  # fmt: skip
    frames = draws(FLAT, camera)
    mtf = detector.transfer_function(SHAPE, blur, 1.0)
    mirror = mtf[:, 1:-1]  # the half of the spectrum that rfft leaves out
    kept = (np.sum(mtf**2) + np.sum(mirror**2)) / FLAT.size
    variance = counts**2 * dose * (1.0 if direct else kept) + readout**2
    independent = EXPOSURES * FLAT.size * (1.0 if direct else 0.2)
    mean_error = 5 * counts * np.sqrt(dose / EXPOSURES / FLAT.size) + 5 * readout / 800
    assert_allclose(frames.mean(), counts * dose + offset, atol=mean_error)
    assert_allclose(frames.var(0).mean(), variance, rtol=5 * np.sqrt(2 / independent) + 0.004)


def test_each_pixel_has_its_own_mean_and_variance():
    camera = Detector(dose=100.0, blur=0.5, counts_per_electron=2.0, offset=10.0)
    frames, mean = draws(image(), camera), detector.expected(image(), camera)
    variance = 2 * (mean - 10)
    assert np.max(np.abs(frames.mean(0) - mean) / np.sqrt(variance / EXPOSURES)) < 5
    assert np.max(np.abs(frames.var(0) / variance - 1)) < 6 * np.sqrt(2 / EXPOSURES)


def test_noise_of_a_scintillator_is_correlated_that_of_a_direct_detector_is_not():
    for scintillator, low, high in ((0.0, -0.02, 0.02), (1.0, 0.3, 1.0)):
        camera = Detector(dose=50.0, blur=0.8, scintillator=scintillator)
        noise = draws(FLAT, camera) - 50.0
        correlation = np.mean(noise[:, :, 1:] * noise[:, :, :-1]) / np.mean(noise**2)
        assert low < correlation < high


def test_readout_noise_alone_where_no_beam_is():
    frames = draws(np.zeros(SHAPE), Detector(dose=100.0, offset=20.0, readout=4.0))
    assert_allclose([frames.mean(), frames.std()], [20, 4], rtol=0.01)


def test_what_a_detector_lacks_is_not_computed_and_changes_nothing():
    key, camera = jax.random.key(3), Detector(dose=30.0, blur=0.7)
    zeros = camera._replace(scintillator=jnp.float32(0.0), readout=jnp.float32(0.0))
    assert_allclose(detector.expose(key, FLAT, camera), detector.expose(key, FLAT, zeros))
    plain = str(jax.make_jaxpr(lambda made: detector.expose(key, made, camera))(FLAT))
    full = str(jax.make_jaxpr(detector.expose)(key, FLAT, zeros))
    assert 0 < plain.count("fft") < full.count("fft")


def test_exposures_differ_and_repeat_by_key():
    camera, key = Detector(dose=30.0), jax.random.key(5)
    first, again = (detector.expose(key, FLAT, camera) for _ in range(2))
    other = detector.expose(jax.random.key(6), FLAT, camera)
    assert_allclose(first, again)
    assert np.abs(first - other).max() > 1


# Derivatives, compilation


def test_gradient_by_finite_differences():
    weights = np.random.default_rng(1).normal(size=SHAPE)

    @jax.jit
    def projection(intensity, dose, blur, gain):
        camera = Detector(dose=dose, blur=blur, gain=gain, counts_per_electron=3.0, offset=5.0)
        return jnp.sum(weights * detector.expected(intensity, camera))

    arguments, step = (image(2), 40.0, 0.8, image(3)), 1e-5
    gradients = jax.grad(projection, argnums=(0, 1, 2, 3))(*arguments)
    for place, found in enumerate(gradients):
        along = np.random.default_rng(4).normal(size=np.shape(arguments[place]))
        ends = [
            projection(*(a + sign * step * along if k == place else a
                         for k, a in enumerate(arguments)))
            for sign in (1, -1)
        ]  # fmt: skip
        assert_allclose(np.sum(found * along), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("noisy", [False, True])
def test_compiled_batched_traced_once_dtype_kept(dtype, noisy):
    traces = []

    def exposed(key, intensity, dose):
        traces.append(1)
        camera = Detector(dose=dose, blur=0.7, scintillator=1.0, readout=2.0)
        if noisy:
            return detector.expose(key, intensity, camera)
        return detector.expected(intensity, camera)

    samples = [
        (jax.random.key(s), jnp.asarray(image(s), dtype), jnp.asarray(50.0, dtype)) for s in (0, 1)
    ]
    eager = [exposed(*sample) for sample in samples]
    traces.clear()
    compiled = jax.jit(exposed)
    tolerance = 1e-12 if dtype == np.float64 else 1e-5
    for found, sample in zip(eager, samples, strict=True):
        assert found.dtype == dtype
        assert_allclose(compiled(*sample), found, rtol=tolerance, atol=100 * tolerance)
    assert len(traces) == 1
    batched = jax.vmap(exposed)(*(jnp.stack(column) for column in zip(*samples, strict=True)))
    assert_allclose(batched, jnp.stack(eager), rtol=tolerance, atol=100 * tolerance)
