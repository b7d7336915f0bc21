"""The bound: a case solved by hand, freedom from bias, and the simulator against the theory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcal import aberrations, fisher, hologram, simulation, specimen, tiles
from jaxcal.optics import Optics, edge_phases
from jaxcal.simulation import Grid

BINS = jnp.linspace(0.0, 1.0, 20)
WEIGHTS = jnp.linspace(0.5, 1.0, 20)
AT = jnp.array([0.3, -0.5])
SLOPES = np.stack([np.ones(20), np.asarray(BINS)], 1)  # of log S = p_0 + p_1 f
BY_HAND = SLOPES.T @ (np.asarray(WEIGHTS)[:, None] * SLOPES)


def noisy(key, p):
    """Exponential bins about S, and slopes that scatter by five times themselves."""
    level, tilt = jax.random.split(key)
    spectrum = jnp.exp(p[0] + p[1] * BINS)
    scatter = 5.0 * jax.random.normal(tilt, BINS.shape) * spectrum * (p[1] - AT[1])
    return spectrum * jax.random.exponential(level, BINS.shape) + scatter


def test_a_case_solved_by_hand():
    """Without scatter F = sum w s s^T exactly, s the slopes of log S."""
    found = fisher.information(lambda key, p: jnp.exp(p[0] + p[1] * BINS), AT,
                               jax.random.split(jax.random.key(0), 4), WEIGHTS)
    assert_allclose(found, BY_HAND, rtol=1e-12)


def test_the_halves_take_the_bias_away():
    """300 estimates of 16 draws: the mean is right within four standard errors (and the 1/N of a
    ratio); the square of one mean is too large by the scatter of its slopes, 25/16 a bin."""
    keys = jax.random.split(jax.random.key(1), (300, 16))
    mean_of = jax.jit(jax.vmap(lambda k: fisher.information(noisy, AT, k, WEIGHTS)))
    found = np.asarray(mean_of(keys))
    error = found.std(0) / np.sqrt(300)
    assert np.all(np.abs(found.mean(0) - BY_HAND) < 4 * error + 0.2 * BY_HAND)

    def naive(keys):
        values, slopes = jax.vmap(lambda k: fisher._value_and_slopes(noisy, AT, k))(keys)
        relative = slopes.mean(0) / values.mean(0)[:, None]
        return relative.T @ (WEIGHTS[:, None] * relative)

    biased = np.asarray(jax.jit(jax.vmap(naive))(keys)).mean(0)
    assert biased[1, 1] > BY_HAND[1, 1] + 0.8 * float(WEIGHTS.sum()) * 25 / 16


def test_a_nuisance_widens_the_bound():
    """Cov(p_0) = F_11/(F_00 F_11 - F_01^2) where p_1 is unknown, 1/F_00 where it is known."""
    both = fisher.bound(jnp.asarray(BY_HAND), 1)
    determinant = BY_HAND[0, 0] * BY_HAND[1, 1] - BY_HAND[0, 1] ** 2
    assert_allclose(both, [[BY_HAND[1, 1] / determinant]])
    assert both[0, 0] > 1 / BY_HAND[0, 0]


def test_parameters_are_those_of_the_instrument():
    optics = Optics(200.0, 20.0, 0.2)
    made = simulation.draw_instrument(
        jax.random.key(0), edge_phases(optics), 1 / optics.length_unit_nm)
    places = aberrations.places(("C10", "C30"))
    phases = jnp.arange(25.0)
    packed = fisher.pack(fisher.parameters_of(made, phases, places))
    assert_allclose(packed[:2], [0.0, 7.0])
    assert packed[2] == made.focal_spread
    assert_allclose(packed[3:-1], made.log_amplitude)
    assert_allclose(packed[-1], np.log(np.pi / made.electrons))


@pytest.mark.slow
def test_the_simulator_and_the_theory_agree_on_the_information():
    """Standard deviations of C10 ... C23b from one frame, nuisances known: within a factor 1.5.

    Two ways to the same number that share the windows alone. 32 films leave about a tenth of noise;
    the theory's first order in the film and its Gaussian windows lose some of what is there.
    """
    optics = Optics(200.0, 20.0, 0.2)
    per_nm = edge_phases(optics)
    made = simulation.draw_instrument(jax.random.key(4), per_nm, 1 / optics.length_unit_nm)
    fine = np.linspace(0.02, 2, 100)
    shape = np.interp(fine, specimen.KNOTS, np.asarray(made.log_amplitude))
    rms = np.sqrt(np.sum(np.exp(2 * shape) * 2 * np.pi * fine) * (fine[1] - fine[0]))
    made = made._replace(
        log_amplitude=made.log_amplitude - np.log(rms / 0.2), tail=0.0, thickness=1e-3,
        focal_spread=3 * per_nm[0], electrons=100 * np.pi * 115.0**2)
    made = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), made)
    names = aberrations.NAMES[:7]
    places = aberrations.places(names)
    state = aberrations.vector({"C10": 60.0, "C12a": -30.0, "C12b": 20.0, "C21a": 100.0})
    phases = jnp.asarray(state * per_nm, jnp.float32)
    found = np.asarray(fisher.of_frame(
        jax.random.key(0), made, phases, places, Grid(192, 66.0), draws=32))[:7, :7]

    film = 2 * np.interp(hologram.KNOTS, specimen.KNOTS, np.asarray(made.log_amplitude))
    noise = float(jnp.log(jnp.pi / made.electrons))
    physics = hologram.Physics(*(jnp.asarray(v, jnp.float32) for v in (
        film, [noise, 0.0, 0.0], jnp.log(made.focal_spread), jnp.log(made.thickness),
        jnp.log(made.blur), -9.0)))
    theory = np.zeros((7, 7))
    laid_out = jax.jit(partial(hologram.lay_out_all, places=places, layouts=tiles.LAYOUTS))(
        phases[:7], physics=physics)
    for layout, points in zip(tiles.LAYOUTS, laid_out, strict=True):
        slopes = jax.jit(lambda points, layout=layout: jax.lax.map(
            lambda p: hologram.log_spectrum_and_slopes(phases[:7], physics, p, layout)[1],
            points))(points)
        slopes = np.asarray(slopes)[:, :, :7].reshape(-1, 7)
        theory += layout.weight * slopes.T @ slopes
    ratio = np.sqrt(np.diag(np.linalg.inv(theory)) / np.diag(np.linalg.inv(found)))
    assert np.all((ratio > 0.8) & (ratio < 1.5)), ratio
