"""The theory of local holograms: against the wave-optical simulator, its own derivatives, and by
symmetry."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcal import (
    aberrations,
    hologram,
    ronchigram,
    simulation,
    specimen,
    splatting,
    tiles,
)
from jaxcal.optics import Optics, edge_phases
from jaxcal.simulation import Grid
from jaxcal.spectra import Disc

OPTICS = Optics(200.0, 20.0, 0.2)
PLACES = tuple(range(8))  # C10 ... C30
NOISE = 1e-6


def phases(**state_nm):
    return jnp.asarray((aberrations.vector(state_nm) * edge_phases(OPTICS))[:8])


def physics(film, **changes):
    focus = edge_phases(OPTICS)[0]
    made = hologram.Physics(
        jnp.asarray(film), jnp.asarray([np.log(NOISE), 0.0, 0.0]), jnp.asarray(np.log(4 * focus)),
        jnp.asarray(-9.0), jnp.asarray(-9.0), jnp.asarray(-9.0))
    return made._replace(**{name: jnp.asarray(value) for name, value in changes.items()})


FILM = np.array([-3.6, -3.7, -3.9, -4.2, -4.7, -5.4, -6.4, -8.0, -10.0])


lay_out = jax.jit(hologram.lay_out, static_argnames=("places", "layout"))


@partial(jax.jit, static_argnames="layout")
def spectra(state, made, layout):
    """(K, B) of all windows."""
    points, = hologram.lay_out_all(state, PLACES, made, (layout,))
    return jax.vmap(lambda p: hologram.spectrum(state, made, p, layout))(points)


STATES = {"defocus": {"C10": 60.0}, "stretched": {"C10": 60.0, "C12a": 30.0, "C12b": -20.0},
          "coma": {"C10": -55.0, "C21a": 300.0, "C21b": -100.0, "C23a": 200.0, "C30": 2000.0}}


@pytest.mark.parametrize("name", STATES)
def test_the_mean_spectra_of_the_simulator(name):
    """100 films of 0.1 rad rms; the mean's own noise costs 1/200 per bin of the misfit.

    The misfit of a spectrum that is right up to a factor 1 + e is e^2/2 per bin.
    """
    per_nm, unit = edge_phases(OPTICS), 1 / OPTICS.length_unit_nm
    instrument = simulation.draw_instrument(jax.random.key(1), per_nm, unit)
    fine = np.linspace(0.02, 2, 100)
    shape = np.interp(fine, specimen.KNOTS, np.asarray(instrument.log_amplitude))
    power = np.sum(np.exp(2 * shape) * 2 * np.pi * fine) * (fine[1] - fine[0])
    film = instrument.log_amplitude - 0.5 * np.log(power) + np.log(0.1)
    instrument = instrument._replace(
        log_amplitude=film, tail=0.0, focal_spread=4 * per_nm[0], thickness=0.0)
    state, grid = jnp.asarray(aberrations.vector(STATES[name]) * per_nm), Grid(256, 72.0)
    ronchigram.check_sampling(state, *grid)
    disc = Disc(128, 128, grid.radius)

    @jax.jit
    def draw(key):
        nodes = ronchigram.quadrature(instrument.focal_spread, 0.0, 7, 1)
        image = ronchigram.ronchigram(
            state, simulation.film(key, instrument, grid, 1), grid.radius, nodes)
        return [tiles.power_spectra(image, disc, layout) for layout in tiles.LAYOUTS]

    draws = [draw(key) for key in jax.random.split(jax.random.key(0), 100)]
    made = physics(2 * np.interp(hologram.KNOTS, specimen.KNOTS, np.asarray(film)))
    for number, (layout, allowed) in enumerate(zip(tiles.LAYOUTS, (0.02, 0.05), strict=True)):
        mean = np.mean([d[number] for d in draws], 0) + NOISE
        ratio = mean / np.asarray(spectra(state[:8], made, layout))
        misfit = np.mean(ratio - np.log(ratio) - 1)
        assert misfit < allowed, (layout.width, misfit)
        assert abs(np.mean(np.log(ratio))) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("layout", tiles.LAYOUTS, ids=["tiles", "whole"])
def test_slopes_are_the_derivatives(layout):
    state = phases(C10=60.0, C12a=-50.0, C21a=200.0, C23b=300.0, C30=2000.0)
    made = physics(FILM, thickness=0.3, blur=np.log(0.008), halo=-3.0)
    centre, width = (jnp.asarray(m[-1]) for m in layout.moments)
    points = lay_out(state, PLACES, made, centre, width, layout)

    def log_spectrum(state, made):
        return jnp.log(hologram.spectrum(state, made, points, layout))

    log, slopes = jax.jit(partial(hologram.log_spectrum_and_slopes, layout=layout))(
        state, made, points)
    by_state, by_physics = jax.jit(jax.jacfwd(log_spectrum, (0, 1)))(state, made)
    expected = [by_state, by_physics.film, by_physics.noise,
                *(by_physics[k][:, None] for k in (2, 3, 4, 5))]
    assert_allclose(log, log_spectrum(state, made), rtol=1e-10)
    assert_allclose(slopes, np.concatenate(expected, 1), rtol=1e-8, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("halo", [-40.0, 2.0, 40.0])
def test_the_wings_never_hold_more_than_all_power(halo):
    """A frame that does not fit may ask for any share; each leaves powers and finite slopes."""
    made, layout = physics(FILM, thickness=0.3, blur=np.log(0.008), halo=halo), tiles.TILES
    state = phases(C10=60.0, C12a=-50.0)
    points = lay_out(state, PLACES, made, *(jnp.asarray(m[-1]) for m in layout.moments), layout)
    log, slopes = jax.jit(partial(hologram.log_spectrum_and_slopes, layout=layout))(
        state, made, points)
    assert np.all(np.isfinite(log)) and np.all(np.isfinite(slopes))


@pytest.mark.parametrize("layout", [tiles.TILES, tiles.WHOLE, tiles.GLIMPSE])
def test_blobs_are_summed_as_written(layout):
    """Against all blobs at all frequencies, in NumPy; what is left out lies beyond TAIL."""
    random = np.random.default_rng(1)
    count = 700
    x, y = 1.3 * layout.highest * random.uniform(-1, 1, (2, count))
    x[0], y[1] = 0.0, 0.0
    spread = random.uniform(0.2, 1.2, (2, count)) ** 2
    even, odd = random.standard_normal((count, 3)), random.standard_normal((count, 2))
    even[5:20], odd[5:20] = 0.0, 0.0
    fx, fy = layout.plane[:, :, None]

    def blob(sign):
        return np.exp(-0.5 * (fx - sign * x) ** 2 / spread[0]
                      - 0.5 * (fy - sign * y) ** 2 / spread[1]) / (2 * np.pi * np.sqrt(
                          spread[0] * spread[1]))

    expected = (blob(1) + blob(-1)) @ even, (blob(1) - blob(-1)) @ odd
    found = jax.jit(lambda *args: splatting.splat(*args, layout))(x, y, spread, even.T, odd.T)
    lost = np.exp(-0.5 * splatting.TAIL**2) / (2 * np.pi * 0.2**2)  # of the sharpest, per unit
    for one, other in zip(found, expected, strict=True):
        assert_allclose(one, other, rtol=0, atol=4 * lost)
        assert np.abs(other).max() > 100 * lost


def test_windows_laid_out_together_are_those_laid_out_alone():
    state, made = phases(C10=60.0, C12a=-50.0, C21a=300.0, C30=2000.0), physics(FILM)
    layouts = tiles.GLIMPSE, tiles.WHOLE
    together = jax.jit(lambda s, m: hologram.lay_out_all(s, PLACES, m, layouts))(state, made)
    for layout, points in zip(layouts, together, strict=True):
        centres, widths = layout.moments
        assert points.sides.q.shape[0] == len(centres)
        for k in (0, len(centres) - 1):
            alone = lay_out(state, PLACES, made, centres[k], widths[k], layout)
            for one, other in zip(jax.tree.leaves(points), jax.tree.leaves(alone), strict=True):
                assert_allclose(one[k], other, rtol=1e-9, atol=1e-9)


def test_all_signs_at_once_change_nothing():
    state = phases(C10=60.0, C12a=-50.0, C21a=300.0, C23b=200.0, C30=2000.0)
    made = physics(FILM)
    for layout in tiles.LAYOUTS:
        assert_allclose(spectra(-state, made, layout), spectra(state, made, layout), rtol=1e-6)


def test_the_signs_of_the_odd_terms_exchange_opposite_tiles():
    odd = phases(C21a=300.0, C23b=200.0)
    even, made = phases(C10=60.0, C12a=-50.0, C30=2000.0), physics(FILM)
    one, other = (np.asarray(spectra(even + s * odd, made, tiles.TILES)) for s in (1, -1))
    assert_allclose(other, one[[0, 4, 5, 6, 1, 2, 3]], rtol=1e-6)
    assert np.abs(np.log(other / one)).max() > 0.3  # and the tiles see them


def test_defocus_rings_have_zeros_where_the_phase_says():
    """Pure defocus a: zeros of sin^2(a q^2) at q^2 = n pi/a, seen at f = a q/pi."""
    state, made = phases(C10=150.0), physics(FILM)
    power = np.asarray(spectra(state, made, tiles.WHOLE)[0])
    size = np.hypot(*tiles.WHOLE.frequencies.T)
    a = float(state[0])
    zero, top = (a * np.sqrt(n * np.pi / a) / np.pi for n in (1.0, 0.5))
    at = [power[np.abs(size - f) < 0.3].mean() for f in (top, zero)]
    assert at[1] < 0.7 * at[0]


def test_flat_phases_are_trusted_less():
    centre = (0.0, 0.0)
    trust = [float(hologram.trust(phases(C10=c), PLACES, centre)) for c in (0.0, 10.0, 50.0, 200.0)]
    assert trust[0] == 0.0 and np.all(np.diff(trust) > 0) and trust[-1] > 0.9
    half = np.pi * hologram.FLAT  # 2 a / 2 pi waves
    state = jnp.zeros(8).at[0].set(half)
    assert float(hologram.trust(state, PLACES, centre)) == pytest.approx(0.5)
