"""What the spectra can tell at best: Fisher information from the wave-optical simulator.

The bins of a spectrum are exponential variables about S(p), so that their information on the
parameters p is

    F = sum_bins w (d log S/dp) (d log S/dp)^T

with the share w of a bin that is independent of the others. S and its derivatives are means over
films; the noise of the mean of N films adds to every square. Slopes of two independent halves,

    F = sym[ sum_bins w (dS_1/dp) (dS_2/dp)^T / S^2 ],

have no such bias.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import detector, ronchigram, simulation, tiles
from jaxcal.simulation import Grid, Instrument
from jaxcal.spectra import Disc


class Parameters(NamedTuple):
    """What the bound is taken over: phases (F,) of the free aberrations, rad; focal_spread, rad;
    film: (K,) log amplitude at ``specimen.KNOTS``; noise: log of the noise's power."""

    phases: jax.Array
    focal_spread: jax.Array
    film: jax.Array
    noise: jax.Array


def information(sample, parameters, keys, weights):
    """Debiased Fisher information (P, P) of spectra whose mean over random draws is S(parameters).

    Args:
        sample: (key, parameters (P,)) -> one draw of the spectra (B,), differentiable.
        parameters: (P,).
        keys: an even number of random keys, half of them for each factor.
        weights: (B,) independent bins per bin.

    Returns:
        Symmetric matrix; it may have small negative eigenvalues where the draws are few.
    """
    value_and_slopes = partial(_value_and_slopes, sample, parameters)
    values, slopes = jax.lax.map(value_and_slopes, keys)
    half = len(keys) // 2
    mean = values.mean(0)
    first, second = (part.mean(0) / mean[:, None] for part in (slopes[:half], slopes[half:]))
    across = first.T @ (weights[:, None] * second)
    return 0.5 * (across + across.T)


def _value_and_slopes(sample, parameters, key):
    slopes, value = jax.jacfwd(lambda p: (sample(key, p),) * 2, has_aux=True)(parameters)
    return value, slopes


def bound(fisher, count: int):
    """Cramer-Rao covariance (count, count) of the first parameters, the others marginalised."""
    return jnp.linalg.inv(fisher)[:count, :count]


def pack(parameters: Parameters):
    """One vector of all parameters, aberrations first."""
    return jnp.concatenate([jnp.ravel(part) for part in parameters])


def parameters_of(instrument: Instrument, phases, places) -> Parameters:
    """The parameters of a simulated instrument at the state ``phases`` (25,)."""
    return Parameters(phases[np.asarray(places)], instrument.focal_spread,
                      instrument.log_amplitude, jnp.log(jnp.pi / instrument.electrons))


def spectra_sample(instrument: Instrument, phases, places, grid: Grid, focal_nodes: int = 3):
    """A function (key, vector of `pack`) -> spectra of one film, (sum of K B,), for `information`.

    The mean counts are transformed; shot noise enters by its power. One thin slice.

    Args:
        phases: (25,) rad, the state; places: F of them are parameters, a static tuple.
    """
    centre = grid.size // 2
    disc = Disc(centre, centre, grid.radius)
    camera = detector.Detector(1.0, instrument.blur * grid.radius, instrument.pixel * grid.radius)

    def sample(key, vector):
        free, knots = len(places), len(instrument.log_amplitude)
        state = phases.at[jnp.asarray(places)].set(vector[:free])
        made = instrument._replace(focal_spread=vector[free],
                                   log_amplitude=vector[free + 1 : free + 1 + knots])
        transmission = simulation.film(key, made, grid, 1)
        nodes = ronchigram.quadrature(made.focal_spread, 0.0, focal_nodes, 1)
        intensity = ronchigram.ronchigram(state, transmission, grid.radius, nodes)
        counts = detector.expected(intensity, camera)
        power = [tiles.power_spectra(counts, disc, layout).ravel() for layout in tiles.LAYOUTS]
        return jnp.concatenate(power) + jnp.exp(vector[-1])

    return sample


def weights():
    """Independent bins per bin, (sum of K B,), in the order of `spectra_sample`."""
    return np.concatenate([np.full(len(layout.centres) * len(layout.bins), layout.weight)
                           for layout in tiles.LAYOUTS])


@partial(jax.jit, static_argnames=("places", "grid", "draws"))
def of_frame(key, instrument: Instrument, phases, places, grid: Grid, draws: int = 64):
    """Information (P, P) that one frame's spectra hold on the parameters of `pack`.

    Call `ronchigram.check_sampling` first, outside compiled code.

    Args:
        phases: (25,) rad, the state; places: static tuple of the F free aberrations.
        draws: of films, even.
    """
    sample = spectra_sample(instrument, phases, places, grid)
    vector = pack(parameters_of(instrument, phases, places))
    return information(sample, vector, jax.random.split(key, draws), jnp.asarray(weights()))
