"""The log posterior of the unknowns, given the frames' spectra, with what climbing it needs.

A bin of a spectrum is an exponential variable about its expectation S of :mod:`jaxcal.hologram`.
With the share w of a bin that is independent of the others, and all unknowns in units of their
prior as one vector z, the log posterior is

    -sum_frames s sum_bins w t [log S + P / S] - |z|^2 / 2,

where the unknowns are independent beforehand, s is the weight of a frame (`refine.tempered`) and t
the trust in a window (`hologram.trust`); what is not trusted is charged UNTRUSTED instead.

What z stands for is the matter of :mod:`jaxcal.unknowns`.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations, devices, hologram, tiles
from jaxcal.unknowns import Problem, frames_of

UNTRUSTED = 0.05  # deviance per bin that is charged where the theory is not trusted


class Point(NamedTuple):
    """Log posterior's negative, its gradient (Z,), that of the trust left out, and Fisher
    information (Z, Z) at z (Z,); misfit
    (T,): what each frame's deviance per bin exceeds that of a frame that fits by; trusted (T,): the
    share of each frame's bins that counts; terms: of `frame_terms`, each (T, ...), which do not
    depend on the frames' weights."""

    z: np.ndarray
    value: float
    gradient: np.ndarray
    fisher: np.ndarray
    misfit: np.ndarray
    trusted: np.ndarray
    terms: tuple[np.ndarray, ...] = ()


@partial(jax.jit, static_argnames=("places", "layouts"), compiler_options=devices.LIGHT)
@jax.default_matmul_precision("highest")  # accelerators multiply with fewer bits otherwise
def frame_terms(phases, physics: hologram.Physics, power, places: tuple[int, ...], layouts):
    """One frame's deviance, beyond that of a frame that fits, its gradient (L,) and Fisher
    information (L, L), and the number of independent bins.

    Args:
        phases: (F,) rad, of the aberrations at ``places``; power: (K, B) for each of the
            ``layouts``.
    """
    totals = 0.0, 0.0, 0.0, 0.0
    points = hologram.lay_out_all(phases, places, physics, layouts)
    for layout, laid_out, measured in zip(layouts, points, power, strict=True):
        def window(args, layout=layout):
            centre, points, power = args
            log, slopes = hologram.log_spectrum_and_slopes(phases, physics, points, layout)
            ratio = power * jnp.exp(-log)
            weight = layout.weight * hologram.trust(phases, places, centre)
            usual = jnp.log(jnp.maximum(power, 1e-30)) + 1 + np.euler_gamma
            return (weight * jnp.sum(log + ratio - usual), weight * slopes.T @ (1 - ratio),
                    weight * slopes.T @ slopes, weight * power.size)

        middles = jnp.asarray(layout.moments[0], phases.dtype)
        terms = jax.lax.map(window, (middles, laid_out, measured))
        totals = tuple(total + term.sum(0) for total, term in zip(totals, terms, strict=True))
    return totals


def prepare(free, several: bool) -> Callable[[], None]:
    """Start to compile what `evaluate` calls, once for all problems alike, in threads; what is
    returned waits for it. That saves time and nothing else: where it fails, `evaluate` compiles
    again and says what is wrong.

    Args:
        free: names of the free aberrations.
        several: for more than one start, which are compared on the lower frequencies first.
    """
    places = aberrations.places(free)
    device = jax.config.jax_default_device
    waits = [_compiled(places, layouts, device)
             for layouts in ((tiles.LAYOUTS, (tiles.GLIMPSE,)) if several else (tiles.LAYOUTS,))]

    def wait():
        for compiled in waits:
            try:
                compiled()
            except Exception:  # whatever it is, `evaluate` meets it again and does not hide it
                _compiled.cache_clear()

    return wait


@lru_cache(maxsize=64)
def _compiled(places: tuple[int, ...], layouts, device):
    """Waits for `frame_terms` of these places and layouts, whose compilation it has started."""
    knots = len(hologram.KNOTS)
    physics = hologram.Physics(np.zeros(knots, np.float32), np.zeros(3, np.float32),
                               *np.zeros(4, np.float32))
    power = tuple(np.ones((len(layout.centres), len(layout.bins)), np.float32)
                  for layout in layouts)
    return devices.aside(lambda: jax.block_until_ready(
        frame_terms(np.zeros(len(places), np.float32), physics, power, places, layouts)))


def evaluate(z, problem: Problem) -> Point:
    """The log posterior at z, with what Fisher scoring needs.

    Where the theory is not trusted it makes no misfit either; a state near focus would explain any
    frame. Such windows are charged what the theory would fail by.
    """
    phases, physics, slopes = frames_of(z, problem)
    places = aberrations.places(problem.free)

    def one(k):
        terms = frame_terms(np.float32(phases[k]), physics[k], problem.measured.power[k], places,
                            problem.layouts)
        return [np.asarray(term, float) for term in terms]

    terms = zip(*devices.side_by_side(one, range(len(phases))), strict=True)
    return _summed(z, tuple(np.stack(term) for term in terms), slopes, problem)


def reweighed(point: Point, problem: Problem) -> Point:
    """The point in a problem that weighs the same frames otherwise: no spectrum is computed."""
    *_, slopes = frames_of(point.z, problem)
    return _summed(point.z, point.terms, slopes, problem)


def _summed(z, terms, slopes, problem: Problem) -> Point:
    """The log posterior at z from the frames' terms and their slopes (T, L, Z) in z."""
    deviance, gradients, information, counted = terms
    bins = sum(part.weight * len(part.centres) * len(part.bins) for part in problem.layouts)
    prior = np.eye(z.size) if problem.precision is None else problem.precision
    value, gradient, fisher = 0.5 * z @ prior @ z, prior @ z, prior.copy()
    for k, weight in enumerate(problem.weights):
        value += weight * (deviance[k] + UNTRUSTED * (bins - counted[k]))
        gradient += weight * slopes[k].T @ gradients[k]
        fisher += weight * slopes[k].T @ information[k] @ slopes[k]
    return Point(z, value, gradient, fisher, deviance / np.maximum(counted, 1e-9), counted / bins,
                 terms)
