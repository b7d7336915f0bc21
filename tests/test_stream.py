"""The stream of simulated spectra: orientations, ranges, reproducibility, order of nuisances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import aberrations, ronchigram, simulation, spectra, stream
from jaxcal.optics import Optics, edge_phases
from jaxcal.simulation import Grid

BUCKET = stream.Bucket(Grid(128, 36.0), 2.0, 9.0, 2, 1)
THICK = BUCKET._replace(slices=2)
_batch = jax.jit(stream.batch, static_argnums=1)


@pytest.fixture(scope="module")
def batch():
    return _batch(jax.random.key(0), BUCKET)


def test_shapes_and_types(batch):
    assert batch.spectra.shape == (8, spectra.ROWS, spectra.COLUMNS)
    assert batch.waves.shape == (8, 25)
    assert batch.nuisances.shape == (8, len(stream.NUISANCES))
    for leaf in batch:
        assert leaf.dtype == jnp.float32 and np.all(np.isfinite(leaf))


def test_the_key_decides_and_frames_differ(batch):
    again = _batch(jax.random.key(0), BUCKET)
    jax.tree.map(assert_array_equal, batch, again)
    other = _batch(jax.random.key(1), BUCKET)
    assert not np.array_equal(batch.waves, other.waves)
    assert not np.array_equal(batch.spectra[0], batch.spectra[4])


def test_spectra_are_normalised(batch):
    mask = spectra.MASK
    assert_array_equal(np.asarray(batch.spectra)[:, ~mask], 0.0)
    # a mean over 8000 bins of values of order one, in float32
    assert_allclose(np.asarray(batch.spectra)[:, mask].mean(1), 0.0, atol=1e-5)


def test_four_orientations_of_each_frame(batch):
    """Frame, mirrored, transposed, both: waves and fixed nuisances are turned along."""
    for first in (0, 4):
        waves = np.asarray(batch.waves[first : first + 4])
        for k, turn in enumerate((
            lambda w: w, aberrations.flip, aberrations.transpose,
            lambda w: aberrations.flip(aberrations.transpose(w)),
        )):
            assert_allclose(waves[k], turn(waves[0]), atol=1e-6)
        images = batch.spectra[first : first + 4]
        assert_array_equal(images[1], spectra.flip(images[0]))
        assert_array_equal(images[3], spectra.flip(images[2]))
        fixed = waves[:, aberrations.indices(stream.FIXED)]
        assert_array_equal(batch.nuisances[first : first + 4, -len(stream.FIXED) :], fixed)
        others = np.asarray(batch.nuisances[first : first + 4, : -len(stream.FIXED)])
        assert_array_equal(others, np.broadcast_to(others[0], others.shape))


def mirrored(array):
    """Rows about the middle pixel N/2, which an even grid keeps: row 0 has no partner."""
    return np.roll(array[..., ::-1, :], 1, axis=-2)


def turned(array):
    return np.swapaxes(array, -1, -2)


ORIENTATIONS = {
    "mirrored": (mirrored, aberrations.flip),
    "transposed": (turned, aberrations.transpose),
    "both": (lambda a: mirrored(turned(a)),
             lambda w: aberrations.flip(aberrations.transpose(w))),
}  # fmt: skip


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_the_optics_turn_as_the_copies_do(name):
    """A turned film seen with turned aberrations gives the turned frame, hence its spectrum."""
    turn, of_waves = ORIENTATIONS[name]
    size, radius = 128, 36.0
    random = np.random.default_rng(0)
    frequency = np.fft.fftfreq(size)
    low = (np.abs(frequency[:, None]) < 0.15) & (np.abs(frequency) < 0.15)
    noise = np.fft.ifft2(np.fft.fft2(random.normal(size=(1, size, size))) * low).real
    film = np.exp(0.3j * noise / noise.std())
    phases = random.normal(size=25) * 2
    phases[:3] *= 5
    nodes = ronchigram.quadrature(0.3, 0.0, 3, 1)
    image = jax.jit(lambda p, t: ronchigram.ronchigram(p, t, radius, nodes))
    frame = image(phases, film)
    # the film's grid is in FFT order: turned about its own origin
    unshifted = np.fft.ifftshift(turn(np.fft.fftshift(film, axes=(-2, -1))), axes=(-2, -1))
    other = image(of_waves(phases), unshifted)
    assert_allclose(other, turn(np.asarray(frame)), atol=1e-10)

    column, row = size // 2 + 0.3, size // 2 - 0.2
    spectrum = jax.jit(lambda f, d: spectra.log_image(spectra.power_spectrum(f, d)))
    places = {"mirrored": (column, size - row), "transposed": (row, column),
              "both": (row, size - column)}  # fmt: skip
    found = spectrum(jnp.asarray(turn(np.asarray(frame))), spectra.Disc(*places[name], radius))
    expected = {
        "mirrored": lambda: spectra.flip(spectrum(frame, spectra.Disc(column, row, radius))),
        "transposed": lambda: spectrum(frame.T, spectra.Disc(row, column, radius)),
        "both": lambda: spectra.flip(spectrum(frame.T, spectra.Disc(row, column, radius))),
    }[name]()
    assert_allclose(found, expected, atol=1e-6)


def test_slopes_stay_within_the_bucket():
    """At most the highest; at least half the lowest, as coma and defocus share the slope."""
    draw = jax.jit(jax.vmap(lambda k: stream.draw_state(k, 15.0, 30.0)))
    states = draw(jax.random.split(jax.random.key(0), 2000))
    slopes = np.asarray(jax.vmap(stream.slope)(states))
    assert slopes.max() <= 30.0 * 1.02  # the slope is taken at 48 azimuths
    assert slopes.min() >= 7.5
    assert np.mean(slopes > 15.0) > 0.8 and slopes.max() > 28
    assert_array_equal(states[:, 7:], 0.0)
    # signs are equally likely: binomial, four standard deviations
    signs = np.mean(np.asarray(states)[:, :7] > 0, axis=0)
    assert_allclose(signs, 0.5, atol=4 * 0.5 / np.sqrt(2000))
    assert np.abs(np.asarray(states)[:, 3:7]).max() <= 2 * stream.COMA_WAVES


def test_slope_of_pure_defocus_is_its_waves():
    for waves in (-7.0, 3.0):
        assert_allclose(stream.slope(jnp.zeros(25).at[0].set(waves)), abs(waves), rtol=1e-6)


@pytest.mark.parametrize("bucket", stream.BUCKETS)
def test_every_bucket_samples_its_slopes(bucket):
    """Half a wave per pixel at the edge at most: |grad W| = 2 slope <= radius/2."""
    assert 2 * bucket.highest <= bucket.grid.radius / 2 * 1.001
    assert bucket.lowest < bucket.highest
    assert 2.2 * bucket.grid.radius < bucket.grid.size


def test_buckets_leave_no_gap_and_reach_the_promised_range():
    """C10 and C12 of 45 waves at once have a slope of 45 (1 + sqrt 2); each alone is covered."""
    ranges = sorted((b.lowest, b.highest) for b in stream.BUCKETS)
    covered = ranges[0][1]
    assert ranges[0][0] == 0.0
    for low, high in ranges[1:]:
        assert low <= covered
        covered = max(covered, high)
    assert covered >= 45


def test_drawn_optics_are_those_of_a_microscope():
    """Phases per nm follow from one energy and one angle within the ranges."""
    per_nm, unit = jax.jit(jax.vmap(stream.draw_optics))(jax.random.split(jax.random.key(0), 200))
    low, high = stream.SEMI_ANGLES_MRAD
    for phases, one in zip(np.asarray(per_nm), np.asarray(unit), strict=True):
        fits = []
        for energy in set(stream.ENERGIES_KEV):
            angle = 1e3 * one * Optics(energy, 20.0, 0.2).wavelength_nm
            if low * 0.999 <= angle <= high * 1.001:
                expected = edge_phases(Optics(energy, angle, 0.2))
                fits.append(np.allclose(phases, expected, rtol=1e-4))
        assert any(fits)


def test_nuisances_stand_in_their_order():
    instrument = simulation.Instrument(
        log_amplitude=jnp.arange(1.0, 8.0), tail=jnp.asarray(0.5), focal_spread=jnp.asarray(3.0),
        thickness=jnp.asarray(4.0), residual=2 * jnp.pi * jnp.arange(25.0),
        electrons=jnp.exp(6.0), blur=jnp.asarray(0.01), pixel=jnp.asarray(0.02),
        scintillator=jnp.asarray(1.0), gain_error=jnp.asarray(0.0))
    found = dict(zip(stream.NUISANCES, np.asarray(stream.nuisance_vector(instrument)), strict=True))
    expected = {f"film{k}": k + 1.0 for k in range(7)}
    expected |= {"electrons": 6.0, "focal_spread": 3.0, "thickness": 4.0, "blur": 1.0, "pixel": 2.0,
                 "scintillator": 1.0, "tail": 0.5}
    expected |= {name: float(aberrations.index(name)) for name in stream.FIXED}
    assert found.keys() == expected.keys()
    for name in expected:
        assert_allclose(found[name], expected[name], rtol=1e-6, err_msg=name)


def test_thin_films_have_no_thickness_and_thick_ones_have(batch):
    place = stream.NUISANCES.index("thickness")
    assert not np.any(batch.nuisances[:, place])
    thick = jax.eval_shape(lambda k: stream.batch(k, THICK), jax.random.key(0))
    assert thick.spectra.shape == batch.spectra.shape
