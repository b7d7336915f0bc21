"""The aperture in a frame: found to a fraction of a pixel, and frames nobody should use told so."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import aperture, detector, ronchigram, simulation, specimen, spectra
from jaxcal.optics import Optics, edge_phases

SIZE, RADIUS = 256, 104.0


def blurred(image, pixels):
    """Cyclic Gaussian blur of an image."""
    y, x = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None, :]
    fall = np.exp(-2 * (np.pi * pixels) ** 2 * (x**2 + y**2))
    return np.fft.irfft2(np.fft.rfft2(image) * fall, s=image.shape)


def expected_counts(
    column, row, radius, shape=(SIZE, SIZE), *, contrast=0.3, grain=0.03, blur=0.7, seed=0
):
    """Intensity of a speckled disc with a wide halo, the empty disc being 1.

    contrast: rms of the speckle; grain: its size over the radius; blur: of the camera, pixels.
    """
    y, x = (np.arange(side) - place for side, place in zip(shape, (row, column), strict=True))
    distance = np.hypot(y[:, None], x[None, :])
    speckle = blurred(np.random.default_rng(seed).normal(size=shape), grain * radius)
    speckle = np.exp(contrast * speckle / speckle.std())
    inside = np.clip(radius - distance + 0.5, 0, 1)
    return blurred(inside * speckle, blur) + 0.05 * np.exp(-0.5 * (distance / radius) ** 2)


def counts(intensity, dose=100.0, *, offset=100.0, hot=5, seed=0, dtype=np.uint16):
    """Camera counts of an intensity: Poisson, readout noise of 3, hot pixels."""
    random = np.random.default_rng(seed)
    frame = random.poisson(dose * np.clip(intensity, 0, None)) + offset
    frame = frame + random.normal(0, 3, frame.shape)
    frame.flat[random.integers(0, frame.size, hot)] = random.uniform(500, 60000, hot)
    return np.clip(frame, 0, 65535).astype(dtype)


def distance_from(disc, column, row):
    return float(np.hypot(disc.column - column, disc.row - row))


# Found where it is


@settings(max_examples=25, deadline=None)
@given(
    column=st.floats(-20, 20), row=st.floats(-20, 20), radius=st.floats(60, 105),
    wrong=st.floats(0.92, 1.08), dose=st.floats(20, 1000), contrast=st.floats(0, 0.4),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_any_centre_radius_and_dose(column, row, radius, wrong, dose, contrast, seed):
    column, row = 127.5 + column, 127.5 + row
    intensity = expected_counts(column, row, radius, contrast=contrast, seed=seed)
    disc, quality = aperture.find_disc(counts(intensity, dose, seed=seed), wrong * radius)
    assert quality.fault is None
    assert distance_from(disc, column, row) < 0.25  # a hot pixel may sit on the edge
    assert abs(disc.radius / radius - 1) < 3e-3
    assert np.hypot(*quality.ellipse) * radius < 0.25  # pixels, as for the centre


def test_typical_error_is_a_few_hundredths_of_a_pixel():
    errors = []
    for seed in range(20):
        places = 127.5 + np.random.default_rng(seed).uniform(-3, 3, 2)
        frame = counts(expected_counts(*places, RADIUS, seed=seed), 50.0, seed=seed)
        disc, _ = aperture.find_disc(frame, RADIUS)
        errors.append([disc.column - places[0], disc.row - places[1], disc.radius - RADIUS])
    errors = np.array(errors)
    assert np.sqrt(np.mean(errors**2)) < 0.04
    assert np.abs(errors.mean(0)).max() < 0.03


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_simulated_frames(bins):
    """A wave-optical frame binned like a camera: the centre falls between pixels.

    The half level of the simulator's edge, linear in amplitude, lies at the amplitude sqrt(1/2).
    """
    radius, size = 72.0 * bins, 256 * bins
    optics = Optics(200.0, 20.0, 0.2)
    per_nm = edge_phases(optics)
    drawn = jax.random.split(jax.random.key(bins), 3)
    instrument = simulation.draw_instrument(
        drawn[0], jnp.asarray(per_nm, jnp.float32), 1 / optics.length_unit_nm
    )
    instrument = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), instrument)
    phases = jnp.asarray(per_nm, jnp.float32) * jnp.zeros(25, jnp.float32).at[:3].set(
        jnp.asarray([80.0, 60.0, -40.0], jnp.float32)
    )
    film = simulation.film(drawn[1], instrument, simulation.Grid(size, radius), 1)
    nodes = ronchigram.quadrature(instrument.focal_spread, 0.0, 3, 1)
    intensity = np.asarray(ronchigram.ronchigram(phases, film, radius, nodes))
    camera = detector.Detector(dose=60.0, blur=0.8, counts_per_electron=8.0, offset=200.0)
    frame = detector.expose(drawn[2], jnp.asarray(spectra.binned(intensity, bins)), camera)
    middle = (size // 2 - 0.5 * (bins - 1)) / bins
    disc, quality = aperture.find_disc(np.asarray(frame), 0.98 * 72.0)
    assert quality.fault is None
    assert distance_from(disc, middle, middle) < 0.1
    expected = (radius - (1 - np.sqrt(0.5)) * ronchigram.EDGE_PIXELS) / bins
    assert abs(disc.radius / expected - 1) < 2e-3


@pytest.mark.parametrize(
    ("shape", "radius"), [((256, 256), 60.0), ((480, 640), 200.0), ((1200, 1100), 500.0)]
)
def test_any_size_of_frame(shape, radius):
    row, column = (side / 2 + 3.3 for side in shape)
    frame = counts(expected_counts(column, row, radius, shape, blur=radius / 150), 20.0)
    disc, quality = aperture.find_disc(frame, 1.02 * radius)
    assert quality.fault is None
    assert distance_from(disc, column, row) < 1e-3 * radius
    assert abs(disc.radius / radius - 1) < 1e-3


def test_large_frames_are_binned_for_the_search_without_a_shift():
    frame = counts(expected_counts(125.3, 130.9, RADIUS))
    fine, coarse = (
        aperture.find_disc(image, factor * RADIUS)[0]
        for image, factor in ((np.kron(frame, np.ones((6, 6), int)), 6), (frame, 1))
    )
    expected = [6 * coarse.column + 2.5, 6 * coarse.row + 2.5, 6 * coarse.radius]
    assert_allclose(fine[:3], expected, atol=0.3)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_any_type_and_gain(dtype):
    frame = counts(expected_counts(126.2, 128.9, RADIUS), 60.0, offset=20.0, hot=0)
    converted = np.clip(frame, 0, 255).astype(dtype)
    disc, quality = aperture.find_disc(converted, RADIUS)
    assert quality.fault is None
    assert distance_from(disc, 126.2, 128.9) < 0.1
    if np.dtype(dtype).kind == "f":
        again, _ = aperture.find_disc(1e-3 * converted - 7, RADIUS)
        assert_allclose(again, disc, atol=0.01)


def test_what_is_told_about_a_good_frame():
    frame = counts(expected_counts(127.5, 127.5, RADIUS, contrast=0.0), 200.0, offset=300.0)
    _, quality = aperture.find_disc(frame, RADIUS)
    assert quality.dark_seen
    assert 300 < quality.outside < 310
    assert_allclose(quality.inside, 505, atol=8)
    assert quality.coverage == 1
    assert quality.saturated == quality.shadowed == 0
    assert quality.edge_scatter < 0.002
    assert quality.contrast > 5


def test_a_slight_ellipse_is_measured_and_does_not_move_the_circle():
    """Columns 0.8 % narrower than rows are wide: the disc is shorter along the columns' axis."""
    y, x = np.indices((SIZE, SIZE)) - 127.5
    distance = np.hypot(x / 1.004, y / 0.996)
    frame = counts(blurred(np.clip(RADIUS - distance + 0.5, 0, 1), 0.7))
    disc, quality = aperture.find_disc(frame, RADIUS)
    assert_allclose(quality.ellipse, (0.004, 0.0), atol=3e-4)
    assert abs(disc.radius - RADIUS) < 0.05
    turned = aperture.find_disc(frame.T, RADIUS)[1]
    assert_allclose(turned.ellipse, (-0.004, 0.0), atol=3e-4)


def test_transposed_frames_give_the_transposed_disc():
    frame = counts(expected_counts(131.0, 122.4, RADIUS))
    disc, _ = aperture.find_disc(frame, RADIUS)
    turned, _ = aperture.find_disc(frame.T, RADIUS)
    assert_allclose(turned[:3], (disc.row, disc.column, disc.radius), atol=0.03)


def test_crystals_scatter_outside_the_disc_but_do_not_pull_it():
    """Two lattice waves put discs of a third of the intensity half beside the central one."""
    optics = Optics(200.0, 20.0, 0.2)
    size, radius = 256, 72.0
    rows, columns = np.indices((size, size))
    lattice = np.cos(2 * np.pi * 70 * columns / size) + np.cos(2 * np.pi * 84 * rows / size)
    film = specimen.transmission(jnp.asarray(0.6 * lattice[None], jnp.float32))
    phases = edge_phases(optics) * np.where(np.arange(25) < 2, 60.0, 0.0)
    nodes = ronchigram.quadrature(np.float32(2.0), np.float32(0.02), 3, 3)
    intensity = ronchigram.ronchigram(jnp.asarray(phases, jnp.float32), film, radius, nodes)
    frame = counts(np.asarray(intensity), 300.0)
    disc, _ = aperture.find_disc(frame, radius)
    assert distance_from(disc, size / 2, size / 2) < 0.5
    assert abs(disc.radius / (radius - 0.2) - 1) < 5e-3


def test_a_disc_that_fills_the_frame_leaves_only_the_darkest_counts():
    frame = counts(expected_counts(127.5, 127.5, RADIUS), hot=0)[54:-54, 54:-54]
    _, quality = aperture.find_disc(frame, RADIUS)
    assert "cut by the frame" in quality.fault
    assert not quality.dark_seen


# Frames that cannot be used


def shadowed(angle, offset=0.0):
    """A straight edge across the disc, everything beyond it dark."""
    y, x = np.indices((SIZE, SIZE)) - 127.5
    edge = (x * np.cos(angle) + y * np.sin(angle) - offset * RADIUS) / 3
    return expected_counts(127.5, 127.5, RADIUS) / (1 + np.exp(np.clip(edge, -50, 50)))


def with_nan(frame):
    frame = frame.astype(float)
    frame[3, 4:7] = np.nan, np.inf, -np.inf
    return frame


def noise_only(hot):
    return counts(np.zeros((SIZE, SIZE)), hot=hot)


GOOD = counts(expected_counts(126.0, 129.0, RADIUS))
LEVEL = int(np.quantile(GOOD[60:195, 60:195], 0.9))
GRADIENT = np.random.default_rng(0).poisson(100 + np.arange(SIZE) * np.ones((SIZE, 1)))

FAULTS = {
    "constant": (np.full((SIZE, SIZE), 7), "blank frame, every pixel has 7 counts: check that"),
    "noise": (noise_only(0), "blank frame, nothing stands out of the noise: check that the beam"),
    "noise and hot pixels": (noise_only(9), "blank frame, nothing stands out of the noise"),
    "zeros and hot pixels": (counts(np.zeros((SIZE, SIZE)), offset=-20.0), "blank frame, nothing"),
    "evenly lit": (counts(np.ones((SIZE, SIZE))), "blank frame, nothing stands out"),
    "gradient": (GRADIENT, "no aperture found|part of the aperture is dark"),
    "saturated": (np.where(GOOD > 150, 65535, GOOD), "saturated: (9[5-9]|100) % of the disc .*sho"),
    "at 10 % saturated": (np.minimum(GOOD, LEVEL), "saturated: 1. % of the disc .*shorten"),
    "below a hot pixel": (np.where(GOOD > 9e3, GOOD, np.minimum(GOOD, LEVEL)), "saturated: 1. %"),
    "half in shadow": (counts(shadowed(0.3)), "part of the aperture is dark: .* move what blocks"),
    "more than half": (counts(shadowed(2.0, -0.25)), "part of the aperture is dark"),
    "less than half": (counts(shadowed(4.0, 0.3)), "part of the aperture is dark"),
    "cut at the side": (GOOD[:, 50:], "aperture is cut by the frame of 206 x 256 .* column 76"),
    "cut at a corner": (GOOD[60:, 60:], "aperture is cut by the frame of 196 x 196 .*centre"),
    "larger than the frame": (GOOD[50:-50, 50:-50], "cut by the frame of 156 x 156 .* is 104 pix"),
    "no counts": (np.where(GOOD > 150, 1e300, GOOD), "counts of up to 1e.300 are none: look at"),
    "no integers": (np.where(GOOD > 150, np.int64(-(2**63)), GOOD), "counts of up to 9e.18 are"),
    "not finite": (with_nan(GOOD), "3 of 65536 pixels are not finite: replace dead pixels by the"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_bad_frames_are_refused_with_a_remedy(name):
    frame, match = FAULTS[name]
    fault = aperture.assess(frame, RADIUS)
    assert fault is not None
    with pytest.raises(ValueError, match=match):
        raise ValueError(fault)


@settings(max_examples=15, deadline=None)
@given(angle=st.floats(0, 6.28), offset=st.floats(-0.3, 0.3))
def test_any_half_shadow_is_seen(angle, offset):
    assert "is dark" in aperture.assess(counts(shadowed(angle, offset)), RADIUS)


@pytest.mark.parametrize(("nominal", "said"), [(72.0, 72), (150.0, 150)])
def test_wrong_nominal_values_are_told_with_what_was_found(nominal, said):
    frame = counts(expected_counts(255.5, 250.0, RADIUS, (512, 512)))
    match = f"no aperture found near the nominal radius of {said} pixels, but one of 104 pixels"
    assert match in aperture.assess(frame, nominal)
    disc, _ = aperture.find_disc(frame, nominal)
    assert abs(disc.radius - RADIUS) < 0.2


def test_usable_frames_have_no_fault():
    assert aperture.assess(GOOD, RADIUS) is None
    assert aperture.assess(GOOD, 1.1 * RADIUS) is None
    single_electrons = np.random.default_rng(0).poisson(expected_counts(127.5, 127.5, RADIUS))
    assert aperture.assess(single_electrons, RADIUS) is None


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(16, 200), width=st.integers(16, 200), share=st.floats(0.05, 1.9),
    kind=st.sampled_from(["noise", "sparse", "binary", "tail", "ramp"]), seed=st.integers(0, 99),
)  # fmt: skip
def test_no_frame_makes_it_fail(height, width, share, kind, seed):
    random, shape = np.random.default_rng(seed), (height, width)
    frame = {
        "noise": lambda: random.normal(size=shape),
        "sparse": lambda: random.poisson(0.01, shape),
        "binary": lambda: random.integers(0, 2, shape).astype(bool),
        "tail": lambda: random.exponential(size=shape) ** 8,
        "ramp": lambda: np.indices(shape).sum(0),
    }[kind]()
    fault = aperture.assess(frame, max(4.0, share * max(shape)))
    assert fault.rstrip() and ":" in fault


@pytest.mark.parametrize(
    ("frame", "radius", "match"),
    [
        (np.zeros((2, 64, 64)), 20.0, r"got shape \(2, 64, 64\) of float64: pass one frame"),
        (np.zeros((64, 64), complex), 20.0, "real counts .* complex128"),
        (np.zeros((64, 8)), 20.0, "at least 16 x 16"),
        (np.zeros((64, 64)), 3.0, "nominal_radius should be between 4 .*give semi_angle_mrad"),
        (np.zeros((64, 64)), 200.0, "twice the frame's side 64, got 200"),
        (np.zeros((64, 64)), np.nan, "got nan"),
    ],
)
def test_what_is_no_frame(frame, radius, match):
    with pytest.raises(ValueError, match=match):
        aperture.find_disc(frame, radius)


def test_the_frame_is_not_changed():
    frame = GOOD.copy()
    aperture.find_disc(frame, RADIUS)
    assert_array_equal(frame, GOOD)
