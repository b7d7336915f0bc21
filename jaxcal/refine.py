"""The likelihood of the tiles' spectra under the wave optics, maximised from the candidates of EM.

A bin of a spectrum is an exponential variable about its expectation S(f) of
:mod:`jaxcal.hologram`. With the weight w of a bin (tiles and bins overlap), the log posterior of
all unknowns z, each in units of its prior, is

    -sum_k r_k w sum_bins [log S_k + P_k / S_k] - |z|^2 / 2

Fisher scoring with Levenberg's damping climbs it. What makes up z: the state at knobs zero, the
scale between knobs and optics, the film's spectrum and each frame's strength, the noise, the focal
spread, the film's thickness, the MTF, and, where asked, the actuator matrix and the drift.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations, hologram, simulation, specimen, tiles
from jaxcal.optics import Optics, edge_phases

WEIGHT = 0.22  # of a bin: independent bins per bin
FREE = ("C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30", "C32a", "C32b", "C34a", "C34b")
STATE_SD_NM = {1: 150.0, 2: 400.0}
SCALE_SD = 0.01
FILM_SD = 0.3  # by which films differ from the simulated ones, log power at each knot
STRENGTH_SD = 0.2  # of the film between frames, log power
NOISE_SD = (1.5, 1.0, 1.0)
FOCAL_SPREAD_NM, THICKNESS_NM, BLUR_PIXELS = (4.0, 0.5), (4.0, 0.8), (1.0, 0.5)  # mean, log sd
GAIN_SD, CROSSTALK_SD, DRIFT_SD_NM = 0.1, 0.03, 0.7


class Series(NamedTuple):
    """power (T, K, B) of the frames' tiles; knobs (T, P) nm; number (T,) of the frames in time."""

    power: np.ndarray
    knobs: np.ndarray
    number: np.ndarray


class Unknowns(NamedTuple):
    """state (F,) nm; log_scale; film, noise, focal_spread, thickness (log nm), blur (log radii);
    strength (T,); gain (P, P), the actuator matrix less the identity; drift (P,) nm a frame."""

    state: np.ndarray
    log_scale: np.ndarray
    film: np.ndarray
    noise: np.ndarray
    focal_spread: np.ndarray
    thickness: np.ndarray
    blur: np.ndarray
    strength: np.ndarray
    gain: np.ndarray
    drift: np.ndarray


class Prior(NamedTuple):
    mean: Unknowns
    sd: Unknowns
    film_factor: np.ndarray


def flat(unknowns):
    return np.concatenate([np.ravel(u) for u in unknowns])


def unflat(values, like):
    out, at = [], 0
    for u in like:
        size = np.size(u)
        out.append(np.reshape(values[at: at + size], np.shape(u)))
        at += size
    return Unknowns(*out)


@lru_cache(maxsize=8)
def _films(length_unit_nm):
    draw = jax.jit(jax.vmap(lambda key: simulation.film_spectrum(key, jnp.float32(1 / length_unit_nm))))
    amplitude = np.asarray(draw(jax.random.split(jax.random.key(0), 400)))
    power = np.stack([2 * np.interp(hologram.KNOTS, specimen.KNOTS, a) for a in amplitude])
    return power.mean(0), np.linalg.cholesky(np.cov(power.T) + FILM_SD**2 * np.eye(len(hologram.KNOTS)))


def prior(series: Series, knob_names, optics: Optics, radius_pixels, *, actuator=False, drift=False,
          free=FREE):
    T, P = series.knobs.shape
    places = aberrations.indices(free)
    order = aberrations.ORDER[places]
    sd = np.array([STATE_SD_NM.get(n) or simulation.RESIDUAL_NM[name[:3]] for n, name in zip(order, free)])
    film, factor = _films(optics.length_unit_nm)
    noise = np.log(np.percentile(series.power, 2))
    knob_order = aberrations.ORDER[aberrations.indices(knob_names)]
    same = knob_order[:, None] == knob_order[None, :]
    gain = np.where(np.eye(P, dtype=bool), GAIN_SD, CROSSTALK_SD * same) if actuator else np.zeros((P, P))
    logs = [(np.log(m), s) for m, s in (FOCAL_SPREAD_NM, THICKNESS_NM, (BLUR_PIXELS[0] / radius_pixels, BLUR_PIXELS[1]))]
    mean = Unknowns(np.zeros(len(free)), 0.0, film, np.array([noise, 0, 0]), *(m for m, _ in logs),
                    np.zeros(T), np.zeros((P, P)), np.zeros(P))
    sds = Unknowns(sd, SCALE_SD, np.ones(len(film)), np.array(NOISE_SD), *(s for _, s in logs),
                   np.full(T, STRENGTH_SD), gain, np.where(knob_order == 1, DRIFT_SD_NM, 0.0) if drift else np.zeros(P))
    return Prior(mean, sds, factor)


def unknowns(z, prior: Prior) -> Unknowns:
    u = unflat(flat(prior.mean) + z * flat(prior.sd), prior.mean)
    return u._replace(film=prior.mean.film + prior.film_factor @ (u.film - prior.mean.film))


def frame_vectors(u: Unknowns, prior: Prior, series: Series, knob_names, optics, free):
    """Per-frame phases (T,25), physics list, and slopes (T, L, Z)."""
    per = edge_phases(optics)
    knobs_at, free_at = aberrations.indices(knob_names), aberrations.indices(free)
    T, P = series.knobs.shape
    F, K = len(free_at), len(u.film)
    n1 = aberrations.ORDER + 1.0
    scale = per * np.exp(n1 * u.log_scale)
    states = np.zeros((T, 25))
    states[:, free_at] += u.state
    states[:, knobs_at] += series.knobs @ (np.eye(P) + u.gain).T + series.number[:, None] * u.drift
    phases = states * scale
    sizes = [np.size(p) for p in prior.mean]
    at = np.concatenate([[0], np.cumsum(sizes)])
    L = F + K + 3 + 3
    A = np.zeros((T, L, at[-1]))
    rows = np.arange(F)
    A[:, rows, at[0] + rows] = scale[free_at]
    A[:, :F, at[1]] = (n1 * phases)[:, free_at]
    A[:, F + K + 3, at[1]] = A[:, F + K + 4, at[1]] = 2.0
    A[:, F: F + K, at[2]: at[3]] = prior.film_factor
    for j in range(3):
        A[:, F + K + j, at[3] + j] = 1.0
        A[:, F + K + 3 + j, at[4 + j]] = 1.0
    A[np.arange(T)[:, None], F + np.arange(K)[None], at[7] + np.arange(T)[:, None]] = 1.0
    where = {place: row for row, place in enumerate(free_at)}
    for i, place in enumerate(knobs_at):
        row = where[place]
        A[:, row, at[8] + i * P: at[8] + (i + 1) * P] = scale[place] * series.knobs
        A[:, row, at[9] + i] = scale[place] * series.number
    A *= flat(prior.sd)
    focus = np.log(per[0]) + 2 * u.log_scale
    physics = [hologram.Physics(*(np.float32(v) for v in (
        u.film + u.strength[k], u.noise, u.focal_spread + focus, u.thickness + focus, u.blur)))
        for k in range(T)]
    return phases, physics, A


@partial(jax.jit, static_argnames="free")
def frame_terms(phases, physics, power, free):
    """Deviance parts of one frame: value per tile (K,), gradient (L,), Fisher (L, L)."""
    centres = jnp.asarray(tiles.WINDOWS.centres, phases.dtype)
    widths = jnp.asarray(tiles.WINDOWS.widths, phases.dtype)
    places = np.asarray(free)

    def tile(args):
        centre, width, power = args
        layout = hologram.lay_out(phases, centre, width)
        log, slopes = hologram.log_spectrum_and_slopes(phases, physics, layout, places)
        ratio = power * jnp.exp(-log)
        return jnp.sum(log + ratio), slopes.T @ (1 - ratio), slopes.T @ slopes

    value, gradient, fisher = jax.lax.map(tile, (centres, widths, power))
    return value, gradient.sum(0), fisher.sum(0)


class Point(NamedTuple):
    z: np.ndarray
    value: float
    gradient: np.ndarray
    fisher: np.ndarray
    frames: np.ndarray  # (T,) minus log likelihood of each


class Problem:
    def __init__(self, series, prior, knob_names, optics, free=FREE, weights=None, start=None):
        self.series, self.prior, self.names, self.optics, self.free = series, prior, knob_names, optics, free
        self.places = tuple(aberrations.indices(free).tolist())
        self.weights = np.ones(len(series.power)) if weights is None else weights
        self.power = [jnp.asarray(p, jnp.float32) for p in series.power]
        self.pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def evaluate(self, z) -> Point:
        u = unknowns(z, self.prior)
        phases, physics, A = frame_vectors(u, self.prior, self.series, self.names, self.optics, self.free)
        used = np.flatnonzero(self.weights > 0)
        def one(k):
            return [np.asarray(o, float) for o in frame_terms(np.float32(phases[k]), physics[k], self.power[k], self.places)]
        out = list(self.pool.map(one, used))
        value, gradient, fisher = 0.5 * z @ z, z.copy(), np.eye(z.size)
        frames = np.full(len(self.power), np.nan)
        for k, (v, g, f) in zip(used, out):
            w = WEIGHT * self.weights[k]
            frames[k] = v.sum()
            value += w * v.sum()
            gradient += w * A[k].T @ g
            fisher += w * A[k].T @ f @ A[k]
        return Point(z, value, gradient, fisher, frames)


def fit(problem: Problem, z, iterations=10, tolerance=0.02, verbose=False):
    here = problem.evaluate(z)
    damping = 1e-3
    for it in range(iterations):
        step = -np.linalg.solve(here.fisher + damping * np.diag(np.diag(here.fisher)), here.gradient)
        there = problem.evaluate(here.z + step)
        if verbose: print("   ", it, round(here.value, 2), round(there.value, 2), damping)
        if np.isfinite(there.value) and there.value < here.value:
            done = here.value - there.value < tolerance
            here, damping = there, max(damping / 10, 1e-6)
            if done:
                break
        else:
            damping = max(10 * damping, 1e-2)
            if damping > 1e3 or here.value - there.value > -tolerance:
                break
    return here
