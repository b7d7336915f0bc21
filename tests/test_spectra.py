"""Frame and disc to log spectrum: reference, what it must not see, hot pixels, small discs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import spectra
from jaxcal.reference import spectra as reference

DISC = spectra.Disc(105.3, 98.6, 75.0)
SHAPE = (200, 210)
POWER = jax.jit(spectra.power_spectrum)


def noise(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).uniform(1, 2, shape)


def waves(seed, count=60):
    """Random gratings below 30 cycles per radius: frequencies (count, 2), phases, strengths."""
    random = np.random.default_rng(seed)
    frequency = random.uniform(-30, 30, (count, 2))
    return frequency, random.uniform(0, 2 * np.pi, count), random.exponential(0.03, count)


def sampled(shape, disc, content):
    """A frame of a continuous function of the angle, as seen through a disc's centre and radius."""
    y, x = (np.arange(side) for side in shape)
    radius_x, radius_y = disc.radius * (1 + disc.ellipticity), disc.radius * (1 - disc.ellipticity)
    x, y = (x - disc.column)[None, :] / radius_x, (y - disc.row)[:, None] / radius_y
    frame = np.ones(shape)
    for (f_x, f_y), start, strength in zip(*content, strict=True):
        frame = frame + strength * np.cos(2 * np.pi * (f_x * x + f_y * y) + start)
    return frame


def poisson_disc(dose, *, readout=1.0, seed=0, size=256, radius=100.0):
    """A noisy even disc on a quiet ground: frame, disc and a mask of its inner part."""
    random = np.random.default_rng(seed)
    y, x = np.indices((size, size)) - (size - 1) / 2
    distance = np.hypot(x, y)
    frame = random.poisson(dose * np.clip(radius - distance + 0.5, 0, 1)) + 100.0
    frame += random.normal(0, readout, frame.shape)
    middle = (size - 1) / 2
    return frame, spectra.Disc(middle, middle, radius), distance < 0.9 * radius


# Equality with the reference


def test_tables_equal_the_reference():
    for name in ("FREQUENCY_X", "FREQUENCY_Y", "FREQUENCY", "MASK"):
        assert_allclose(getattr(spectra, name), getattr(reference, name), rtol=1e-15)
    for name in ("SPACING", "ROWS", "COLUMNS", "LOWEST", "FLAT", "END"):
        assert getattr(spectra, name) == getattr(reference, name)


@pytest.mark.parametrize("ellipticity", [0.0, 0.006])
def test_spectrum_and_image_equal_the_reference(ellipticity):
    disc = DISC._replace(ellipticity=ellipticity)
    power, expected = POWER(noise(), disc), reference.power_spectrum(noise(), disc)
    assert_allclose(power, expected, rtol=1e-9, atol=1e-10 * expected.max())
    assert_allclose(spectra.log_image(power), reference.log_image(expected), atol=1e-8)
    assert_allclose(spectra.flip(power), reference.flip(np.asarray(power)))
    rho = np.linspace(0, 1.5, 100)
    assert_allclose(spectra.window(rho), reference.window(rho), atol=1e-15)


def test_float32_error_is_that_of_the_phases():
    """Phases reach 2 pi 32: amplitudes are off by eps32 times that, of the rms amplitude."""
    frame = noise().astype(np.float32)
    found, expected = POWER(frame, DISC), reference.power_spectrum(frame, DISC)
    assert found.dtype == jnp.float32
    error = np.abs(np.sqrt(found) - np.sqrt(expected))[spectra.MASK]
    largest = np.finfo(np.float32).eps * 2 * np.pi * 32
    assert error.max() < largest * np.sqrt(expected.mean())


# Closed forms


def test_a_cosine_is_the_window_s_transform_at_its_frequency():
    """c = e w cos(2 pi f.rho) gives P(f) = (e/2)^2 (sum w)^2 / sum(w^2) / R^2."""
    row, column, strength = 64 + 9, 12, 0.1
    content = (np.array([[6.0, 4.5]]), [0.3], [strength])
    power = np.asarray(POWER(500 * sampled(SHAPE, DISC, content), DISC))
    y, x = np.indices(SHAPE)
    weight = spectra.window(np.hypot(x - DISC.column, y - DISC.row) / DISC.radius)
    expected = (strength / 2) ** 2 * weight.sum() ** 2 / (weight**2).sum() / DISC.radius**2
    assert np.unravel_index(power.argmax(), power.shape) == (row, column)
    assert_allclose(power[row, column], expected, rtol=1e-3)


def test_white_noise_gives_its_variance():
    frame = np.random.default_rng(7).normal(100, 5, SHAPE)
    power = np.asarray(POWER(frame, DISC))[spectra.MASK]
    # about 4000 exponential bins, about 4 of which share one independent number
    assert_allclose(power.mean(), (5 / 100 / 75) ** 2, rtol=4 / np.sqrt(power.size / 4))


def test_log_image_is_centred_over_its_mask():
    power = np.random.default_rng(9).exponential(size=(2, spectra.ROWS, spectra.COLUMNS))
    image = spectra.log_image(power)
    assert_allclose(image[:, spectra.MASK].mean(1), 0, atol=1e-14)
    assert_array_equal(image[:, ~spectra.MASK], 0)


# What it must not see


@settings(max_examples=10, deadline=None)
@given(gain=st.floats(0.01, 1000), offset=st.floats(-0.5, 1000))
def test_gain_and_offset(gain, offset):
    """An offset only scales the spectrum, which the image's mean takes out."""
    image = spectra.log_image(POWER(noise(), DISC))
    assert_allclose(spectra.log_image(POWER(gain * (noise() + offset), DISC)), image, atol=1e-6)


@settings(max_examples=10, deadline=None)
@given(
    column=st.floats(-10, 10), row=st.floats(-10, 10), radius=st.floats(75, 140),
    ellipticity=st.floats(-0.01, 0.01), seed=st.integers(0, 99),
)  # fmt: skip
def test_centre_radius_shape_and_size_of_the_frame(column, row, radius, ellipticity, seed):
    """The same angles through another camera: nothing is resampled, hence next to no error."""
    content = waves(seed)
    other = spectra.Disc(160 + column, 155 + row, radius, ellipticity)
    first = POWER(sampled(SHAPE, DISC, content), DISC)
    second = POWER(sampled((310, 320), other, content), other)
    image, found = spectra.log_image(first), spectra.log_image(second)
    strong = np.asarray(first) > 0.01 * np.max(first)
    assert_allclose(np.asarray(found)[strong], np.asarray(image)[strong], atol=0.05)
    total = float(jnp.sum(first))
    assert float(jnp.sum(jnp.abs(first * second.sum() / total - second))) < 0.01 * total


def test_what_lies_around_the_disc():
    padded = np.pad(noise(), ((3, 30), (8, 1)), constant_values=1e3)
    moved = spectra.Disc(DISC.column + 8, DISC.row + 3, DISC.radius)
    assert_allclose(POWER(padded, moved), POWER(noise(), DISC), rtol=1e-8, atol=1e-18)


def test_inverted_contrast_and_point_reflection():
    power = POWER(noise(), DISC)
    y, x = np.indices(SHAPE)
    weight = spectra.window(np.hypot(x - DISC.column, y - DISC.row) / DISC.radius)
    inverted = 2 * (weight * noise()).sum() / weight.sum() - noise()
    assert_allclose(POWER(inverted, DISC), power, rtol=1e-8, atol=1e-18)
    turned = spectra.Disc(SHAPE[1] - 1 - DISC.column, SHAPE[0] - 1 - DISC.row, DISC.radius)
    assert_allclose(POWER(noise()[::-1, ::-1], turned), power, rtol=1e-8, atol=1e-18)


def test_mirror_images():
    """Flipped rows turn f_y; a transposed frame exchanges f_x and f_y, and (f_x, f_y) = -(..)."""
    power = np.asarray(POWER(noise(), DISC))
    mirrored = spectra.Disc(DISC.column, SHAPE[0] - 1 - DISC.row, DISC.radius)
    assert_allclose(
        POWER(noise()[::-1], mirrored), spectra.flip(power), rtol=1e-8, atol=1e-18
    )
    turned = np.asarray(POWER(noise().T, spectra.Disc(DISC.row, DISC.column, DISC.radius)))
    assert_allclose(turned[64:, :], power[64:, :].T, rtol=1e-8, atol=1e-18)
    assert_array_equal(spectra.flip(spectra.flip(power)), power)


# Hot pixels


@pytest.mark.parametrize("dose", [20.0, 2000.0])
def test_hot_and_dead_pixels_are_replaced_and_the_rest_left(dose):
    frame, _, inside = poisson_disc(dose)
    places = np.random.default_rng(1).integers(60, 190, (2, 12))
    spoilt = frame.copy()
    spoilt[tuple(places)] = np.where(np.arange(12) % 3 > 0, 100 * dose, 0.0)
    found = np.asarray(spectra.without_hot_pixels(spoilt))
    changed = found != spoilt
    hot = np.zeros_like(changed)
    hot[tuple(places)] = spoilt[tuple(places)] > 50 * dose
    assert changed[hot].all()
    assert np.abs(found[hot] - dose - 100).max() < 5 * np.sqrt(dose)
    assert (changed & ~hot & inside).sum() < 1e-3 * inside.sum()


def test_the_quiet_ground_does_not_make_the_disc_s_noise_hot():
    """Measured by the noise of the whole frame, nearly half of these pixels would be hot."""
    frame, _, inside = poisson_disc(500.0, readout=0.1)
    assert_array_equal(np.asarray(spectra.without_hot_pixels(frame))[inside], frame[inside])


def test_single_counts_are_not_taken_for_hot_pixels():
    """Of few electrons a pixel most are at their neighbours' median, which measures no noise."""
    random = np.random.default_rng(4)
    for dose in (0.1, 0.25, 0.6):
        frame = random.poisson(dose, (128, 128)).astype(np.float32)
        frame[40, 60] = 400.0
        found = np.asarray(spectra.without_hot_pixels(frame))
        assert found[40, 60] < 5 and (found != frame).mean() < 0.002
    quiet = np.rint(12 + 0.3 * random.standard_normal((128, 128))).astype(np.float32)
    assert (np.asarray(spectra.without_hot_pixels(quiet)) != quiet).mean() < 0.002


def test_median_of_nine():
    images = np.random.default_rng(2).integers(0, 5, (9, 20, 20))
    assert_array_equal(spectra._median_of_nine(list(jnp.asarray(images))), np.median(images, 0))


# The checked way


def test_log_spectrum_takes_counts_of_any_type():
    frame, disc, _ = poisson_disc(200.0)
    frame[100, 110:112] = 6e4
    expected = spectra.log_image(
        spectra.power_spectrum(spectra.without_hot_pixels(np.float32(np.rint(frame))), disc)
    )
    for dtype in (np.uint16, np.int32, np.float64):
        found = spectra.log_spectrum(np.rint(frame).astype(dtype), disc)
        assert found.shape == (spectra.ROWS, spectra.COLUMNS)
        assert found.dtype == jnp.float32
        assert_allclose(found, expected, atol=0.02)
    power = spectra.power_spectrum(np.rint(frame).astype(np.uint16), disc)
    assert_allclose(power, POWER(np.float32(np.rint(frame)), disc), rtol=1e-3, atol=1e-9)


def test_large_frames_are_binned_to_the_same_spectrum():
    """Of a disc of 450 pixels 2 x 2 make one, which hardly damps these frequencies."""
    small, large = spectra.Disc(255.3, 258.1, 225.0), spectra.Disc(511.1, 516.7, 450.0)
    content = waves(3)
    first = spectra.log_spectrum(sampled((512, 512), small, content), small)
    second = spectra.log_spectrum(sampled((1024, 1024), large, content), large)
    strong = np.asarray(first) > np.max(first) - 5
    assert_allclose(np.asarray(second)[strong], np.asarray(first)[strong], atol=0.1)


def test_binned_means_blocks():
    frame = np.arange(35).reshape(5, 7)
    assert_allclose(spectra.binned(frame, 2), [[4, 6, 8], [18, 20, 22]])
    assert spectra.binned(frame, 1).dtype == np.float32


def test_small_discs_are_refused():
    frame, disc, _ = poisson_disc(50.0)
    spectra.check_disc(disc)
    match = "radius of 63.9 pixels, its spectrum needs at least 64: bin the frames less or take"
    for function in (spectra.check_disc, lambda disc: spectra.log_spectrum(frame, disc)):
        with pytest.raises(ValueError, match=match):
            function(disc._replace(radius=63.9))
    with pytest.raises(ValueError, match="not finite: find the disc first"):
        spectra.check_disc(disc._replace(row=np.nan))


def test_the_bound_is_where_the_copies_of_the_pixel_grid_come_in():
    """In noise, bins at f and at R - f (its mirror image's alias) share power below the bound."""
    shared = []
    for radius in (63.0, 64.0):
        column = spectra.COLUMNS - 1
        pairs = []
        for seed in range(60):
            disc = spectra.Disc(80.0, 80.0, radius)
            power = np.asarray(POWER(1 + noise(seed, (161, 161)), disc))
            rows = slice(24, 104, 4)
            pairs.append([power[rows, column], power[::-1][rows, column][: len(power[rows])]])
            # f_y of row k is 0.5 (k - 64); that of the mirror image is row 128 - k
            pairs[-1][1] = power[128 - np.arange(24, 104, 4), column]
        first, second = np.concatenate(pairs, axis=1)
        away = first != second
        shared.append(np.corrcoef(first[away], second[away])[0, 1])
    assert shared[0] > 0.95
    assert abs(shared[1]) < 0.1


# Derivatives, compilation


def test_gradient_by_finite_differences():
    weights = np.random.default_rng(3).normal(size=(spectra.ROWS, spectra.COLUMNS))

    @jax.jit
    def projection(frame, disc):
        return jnp.sum(weights * spectra.log_image(spectra.power_spectrum(frame, disc)))

    frame, step = noise(), 1e-6
    found = jax.grad(projection)(frame, DISC)
    along = np.random.default_rng(4).normal(size=SHAPE)
    ends = [projection(frame + sign * step * along, DISC) for sign in (1, -1)]
    assert_allclose(np.sum(found * along), (ends[0] - ends[1]) / (2 * step), rtol=1e-5)
    found = jax.grad(projection, argnums=1)(frame, DISC)
    for place in range(4):
        ends = [
            projection(frame, spectra.Disc(*(value + sign * step * (k == place)
                                             for k, value in enumerate(DISC))))
            for sign in (1, -1)
        ]  # fmt: skip
        assert_allclose(found[place], (ends[0] - ends[1]) / (2 * step), rtol=1e-4, atol=1e-4)


TABLE = {
    "window": (spectra.window, (100,)),
    "without_hot_pixels": (spectra.without_hot_pixels, SHAPE),
    "power_spectrum": (lambda frame: spectra.power_spectrum(frame, DISC), SHAPE),
    "log_image": (spectra.log_image, (spectra.ROWS, spectra.COLUMNS)),
    "flip": (spectra.flip, (spectra.ROWS, spectra.COLUMNS)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TABLE)
def test_compiled_batched_traced_once_dtype_kept(name, dtype):
    function, shape = TABLE[name]
    samples, traces = [jnp.asarray(noise(seed, shape), dtype) for seed in (0, 1)], []

    def counted(frame):
        traces.append(1)
        return function(frame)

    compiled, eager = jax.jit(counted), [function(sample) for sample in samples]
    tolerance = 1e-9 if dtype == np.float64 else 1e-4
    for found, sample in zip(eager, samples, strict=True):
        assert found.dtype == dtype
        assert_allclose(compiled(sample), found, rtol=tolerance, atol=tolerance * jnp.max(found))
    assert len(traces) == 1
    together = jax.vmap(function)(jnp.stack(samples))
    assert_allclose(together, jnp.stack(eager), rtol=tolerance, atol=tolerance * jnp.max(together))
