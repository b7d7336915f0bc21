"""The whole simulator: against NumPy, gradients end to end, doses, symmetries, random draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import aberrations as ab
from jaxcal import detector, ronchigram, simulation, specimen, spectra, stream
from jaxcal.optics import Optics, edge_phases
from jaxcal.reference import ronchigram as reference

OPTICS = Optics(200.0, 20.0, 0.2)
PER_NM, UNIT = edge_phases(OPTICS), 1 / OPTICS.length_unit_nm
SMALL = simulation.Grid(96, 24.0)
GRID = simulation.Grid(256, 72.0)
DISC = spectra.Disc(128.0, 128.0, 72.0)
STATE_NM = ab.vector({"C10": 60.0, "C12a": -25.0, "C12b": 15.0, "C23a": 60.0, "C21b": -80.0,
                      "C30": 1000.0})  # fmt: skip

DRAW = jax.jit(lambda key: simulation.draw_instrument(key, PER_NM, UNIT))
FRAME = jax.jit(simulation.frame, static_argnums=3, static_argnames=("slices", "focal_nodes"))


def instrument(seed=0, dtype=jnp.float32, **changes):
    drawn = DRAW(jax.random.key(seed))._replace(**changes)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), drawn)


def state(dtype=jnp.float32, nm=STATE_NM):
    return jnp.asarray(nm * PER_NM, dtype)


# The chain


@pytest.mark.parametrize("slices", [1, 2])
def test_a_noise_free_frame_equals_numpy(slices):
    """The film by jaxcal, everything after it by the reference and NumPy's FFT."""
    made = instrument(1, jnp.float64)
    film = simulation.film(jax.random.key(2), made, SMALL, slices)
    spacing = float(made.thickness) / slices
    nodes = ronchigram.quadrature(made.focal_spread, 0.0, 3, 1)
    intensity = ronchigram.ronchigram(
        state(jnp.float64), film, SMALL.radius, nodes, slice_defocus=spacing
    )
    camera = detector.Detector(dose=50.0, blur=0.8, offset=7.0)
    found = detector.expected(intensity, camera)

    expected = reference.ronchigram(
        np.asarray(state(jnp.float64)), np.asarray(film), SMALL.radius,
        reference.quadrature(float(made.focal_spread), 0.0, 3, 1), slice_defocus=spacing,
    )  # fmt: skip
    f_y, f_x = np.fft.fftfreq(SMALL.size)[:, None], np.fft.fftfreq(SMALL.size)[None, :]
    mtf = np.sinc(f_x) * np.sinc(f_y) * np.exp(-2 * (np.pi * 0.8) ** 2 * (f_x**2 + f_y**2))
    expected = 50 * np.fft.ifft2(np.fft.fft2(expected) * mtf).real + 7
    assert_allclose(found, expected, rtol=1e-10, atol=1e-10 * expected.max())


def test_gradients_through_the_whole_simulator():
    """From the state, the film, the coherence and the camera to a projection of the log image."""
    made, grid = instrument(3, jnp.float64), GRID
    weights = np.random.default_rng(0).normal(size=spectra.FREQUENCY.shape) / 100
    noise = np.random.default_rng(1).normal(size=(2, grid.size, grid.size))
    shot = 0.1 * np.random.default_rng(2).normal(size=(grid.size, grid.size))

    def projection(phases, log_amplitude, spread, thickness, blur, dose):
        film = specimen.amorphous_phase(noise, log_amplitude, grid.radius, 2)
        nodes = ronchigram.quadrature(spread, 0.0, 3, 1)
        intensity = ronchigram.ronchigram(
            phases, specimen.transmission(film), grid.radius, nodes, slice_defocus=thickness / 2
        )
        camera = detector.Detector(dose=dose, blur=blur, pixel=0.7)
        counts = detector.expected(intensity, camera) + shot
        return jnp.sum(weights * spectra.log_image(spectra.power_spectrum(counts, DISC)))

    arguments = (
        state(jnp.float64), made.log_amplitude, made.focal_spread, jnp.asarray(1.5),
        jnp.asarray(0.8), jnp.asarray(30.0),
    )  # fmt: skip
    gradients = jax.jit(jax.grad(projection, argnums=range(6)))(*arguments)
    compiled = jax.jit(projection)
    for place, found in enumerate(gradients):
        along = np.random.default_rng(place).normal(size=found.shape)
        step = 1e-5
        ends = [
            compiled(*(a + sign * step * along if k == place else a
                       for k, a in enumerate(arguments)))
            for sign in (1, -1)
        ]  # fmt: skip
        expected = (ends[0] - ends[1]) / (2 * step)
        assert_allclose(np.sum(found * along), expected, rtol=2e-5, atol=1e-8)


def test_a_frame_holds_the_instrument_s_electrons():
    """Counts are electrons per pixel; nothing but the band of the film scatters off the grid."""
    made = instrument(4, electrons=100.0 * np.pi * GRID.radius**2)
    counts = FRAME(jax.random.key(0), made, state(), GRID)
    assert counts.shape == (256, 256)
    assert counts.dtype == jnp.float32
    assert_allclose(counts.sum(), made.electrons, rtol=0.02)
    y, x = np.indices((256, 256)) - 128
    inside = np.hypot(x, y) < 0.9 * GRID.radius
    assert 70 < np.asarray(counts)[inside].mean() < 101


@pytest.mark.parametrize("scintillator", [0.0, 1.0])
def test_the_noise_is_that_of_the_dose(scintillator):
    """Without a film the disc is even; a scintillator blurs the noise too."""
    made = instrument(
        5, electrons=200.0 * np.pi * GRID.radius**2, log_amplitude=np.full(7, -30.0),
        scintillator=scintillator, blur=0.6 / GRID.radius, pixel=1.0 / GRID.radius,
    )  # fmt: skip
    counts = np.asarray(FRAME(jax.random.key(0), made, state(), GRID))
    y, x = np.indices((256, 256)) - 128
    inside = counts[np.hypot(x, y) < 0.9 * GRID.radius]
    mtf = np.asarray(detector.transfer_function((256, 256), 0.6, 1.0))
    kept = (np.sum(mtf**2) + np.sum(mtf[:, 1:-1] ** 2)) / 256**2
    assert_allclose(inside.mean(), 200, rtol=0.01)
    assert_allclose(inside.var(), 200 * (kept if scintillator else 1), rtol=0.08)


# What does not change the frame, or its spectrum


@pytest.mark.parametrize("bucket", stream.BUCKETS)
def test_the_middle_of_a_frame_is_enough_for_its_spectrum(bucket):
    """Under the spectrum's window it is that of the whole frame, through a narrow and a wide blur:
    to 3e-4 of the dose rms, a hundredth of the noise of 1,000 electrons a pixel. (The narrow one
    rings a little where the square ends.)"""
    grid, phases = bucket.grid, jnp.asarray(state(), jnp.float32)
    seen = simulation.film(jax.random.key(0), instrument(3), grid, 1)
    nodes = ronchigram.quadrature(jnp.float32(0.5), jnp.float32(0.0), 1, 1)
    y, x = np.indices((grid.side, grid.side)) - grid.side // 2
    window = np.asarray(spectra.window(np.hypot(x, y) / grid.radius))
    first = grid.size // 2 - grid.side // 2
    for blur in (0.3, 1.3):
        camera = detector.Detector(
            dose=1.0, blur=blur / 64 * grid.radius, pixel=grid.radius / 64)
        whole, middle = (np.asarray(detector.expected(ronchigram.ronchigram(
            phases, seen, grid.radius, nodes, side=side), camera))
            for side in (grid.size, grid.side))
        assert whole.shape == (grid.size,) * 2 and middle.shape == (grid.side,) * 2
        off = whole[first : first + grid.side, first : first + grid.side] - middle
        assert np.sqrt(np.sum((window * off) ** 2) / np.sum(window**2)) < 3e-4


def test_areas_and_exposures_follow_the_key():
    made = instrument(6)
    first, again, other = (
        np.asarray(FRAME(jax.random.key(seed), made, state(), SMALL)) for seed in (0, 0, 1)
    )
    assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1 * first.max()


def images(nm, number, first_key=0, grid=GRID):
    """Mean log image of fresh areas at a state: the scatter of the speckle averaged out."""
    made = instrument(7, thickness=0.0, electrons=300.0 * np.pi * 72.0**2, tail=0.0)
    made = made._replace(log_amplitude=made.log_amplitude - jnp.log(3.0))
    total = 0.0
    for k in range(number):
        counts = FRAME(jax.random.key(first_key + k), made, state(nm=nm), grid)
        total += np.asarray(LOG_IMAGE(counts)) / number
    return total[spectra.MASK]


LOG_IMAGE = jax.jit(lambda counts: spectra.log_image(spectra.power_spectrum(counts, DISC)))


def test_spectra_do_not_tell_even_or_odd_flips_but_they_do_tell_the_state():
    """The group Z2 x Z2 of the full-frame spectrum of a weak film, in distribution."""
    number, nm = 12, STATE_NM
    base = images(nm, number)
    floor = np.corrcoef(base, images(nm, number, 100))[0, 1]
    even, odd = (np.corrcoef(base, images(sign * nm, number, 200))[0, 1]
                 for sign in (-ab.PARITY, ab.PARITY))  # fmt: skip
    both = np.corrcoef(base, images(-nm, number, 300))[0, 1]
    other = nm.copy()
    other[:3] = 45.0, 40.0, -20.0
    different = np.corrcoef(base, images(other, number, 400))[0, 1]
    assert min(even, odd, both) > floor - 0.02
    assert different < floor - 0.1


def test_spectrum_is_the_same_through_finer_grids():
    """Dimensionless: 72 or 144 pixels to the aperture, the same angles and the same statistics."""
    made = instrument(8, thickness=0.0, electrons=1e4 * np.pi * 115.0**2)
    averages = []
    for grid in (GRID, simulation.Grid(512, 144.0)):
        disc = spectra.Disc(grid.size / 2, grid.size / 2, grid.radius)
        image = jax.jit(lambda counts, disc=disc: spectra.power_spectrum(counts, disc))
        power = [
            np.asarray(image(FRAME(jax.random.key(k), made, state(), grid))) for k in range(6)
        ]
        averages.append(np.mean(power, axis=0))
    first, second = (np.array([
        power[(spectra.FREQUENCY > low) & (spectra.FREQUENCY <= low + 4)].mean()
        for low in range(1, 29, 4)
    ]) for power in averages)  # fmt: skip
    assert_allclose(second / first, 1, atol=0.2)


# Random instruments


def test_drawn_instruments_lie_in_their_ranges():
    many = jax.jit(jax.vmap(DRAW))(jax.random.split(jax.random.key(0), 400))
    ranges = {
        "tail": (0.0, 0.8), "focal_spread": (1.5 * PER_NM[0], 8.0 * PER_NM[0]),
        "thickness": (0.0, 10.0 * PER_NM[0]), "gain_error": (0.0, 0.02),
        "electrons": (20 * np.pi * 115**2, 1000 * np.pi * 115**2),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        values = np.asarray(getattr(many, name), float)
        assert low <= values.min() < low + 0.05 * (high - low), name
        assert high - 0.1 * (high - low) < values.max() <= high * (1 + 1e-6), name
    assert set(np.unique(many.scintillator)) == {0.0, 1.0}
    assert np.all(many.pixel <= 1 / 64)
    blur = np.asarray(many.blur / many.pixel)
    assert 0.3 <= blur.min() and blur.max() <= 1.3001
    residual = np.asarray(many.residual) / PER_NM
    assert_array_equal(residual[:, :7], 0)
    expected = [simulation.RESIDUAL_NM[name[:3]] for name in ab.NAMES[7:]]
    assert_allclose(residual[:, 7:].std(0), expected, rtol=0.2)


def test_films_have_the_strength_they_are_drawn_with():
    """0.05 to 0.5 rad rms up to twice the aperture, a deviation of 20 % at each knot aside."""
    strengths = []
    for seed in range(30):
        made = instrument(seed, tail=0.0)
        film = simulation.film(jax.random.key(seed), made, simulation.Grid(256, 64.0), 1)
        strengths.append(float(np.angle(film).std()))
    assert 0.03 < min(strengths) < 0.1
    assert 0.25 < max(strengths) < 0.75


def test_films_are_pure_phases_and_heavier_tails_keep_the_strength():
    spread = {}
    for tail in (0.0, 0.8):
        made = instrument(9, tail=tail)
        film = simulation.film(jax.random.key(0), made, simulation.Grid(256, 64.0), 2)
        assert film.dtype == jnp.complex64
        assert_allclose(np.abs(film), 1, atol=1e-6)
        spread[tail] = np.angle(film).std()
    assert_allclose(spread[0.8], spread[0.0], rtol=0.05)


# Compilation


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_compiled_batched_traced_once_dtype_kept(dtype):
    traces = []

    def exposed(key, made, phases):
        traces.append(1)
        return simulation.frame(key, made, phases, SMALL, slices=2)

    samples = [
        (jax.random.key(seed), instrument(seed, dtype), state(dtype)) for seed in (0, 1)
    ]
    eager = [exposed(*sample) for sample in samples]
    traces.clear()
    compiled = jax.jit(exposed)
    size = float(jnp.max(jnp.abs(eager[0])))
    tolerance = size * (1e-10 if dtype == jnp.float64 else 1e-4)
    for found, sample in zip(eager, samples, strict=True):
        assert found.dtype == dtype
        assert_allclose(compiled(*sample), found, atol=tolerance)
    assert len(traces) == 1
    stacked = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *column)
               for column in zip(*samples, strict=True)]  # fmt: skip
    assert_allclose(jax.vmap(exposed)(*stacked), jnp.stack(eager), atol=tolerance)


def test_drawing_keeps_float32():
    for leaf in DRAW(jax.random.key(0)):
        assert leaf.dtype == jnp.float32
    eager = simulation.draw_instrument(jax.random.key(3), PER_NM, UNIT)
    for found, expected in zip(DRAW(jax.random.key(3)), eager, strict=True):
        assert_allclose(found, expected, rtol=1e-5)


def test_sampling_is_checked_before_a_frame_is_made():
    steep = np.asarray(state()) * 10
    with pytest.raises(ValueError, match="sampling too coarse: .* use a grid of at least"):
        ronchigram.check_sampling(steep, *GRID)
    ronchigram.check_sampling(np.asarray(state()), *GRID)


