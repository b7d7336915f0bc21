"""The unknowns of a series of frames, their prior, and the phases and physics they stand for.

All unknowns in units of their prior are one vector z: the state with the knobs at zero and the
aberrations that are no knobs; the scale between knobs and optics; the film's spectrum, its
thickness and its strength in each frame; the noise, the focal spread and the camera's MTF; and,
where the frames ask for them, a drift, the actuator matrix, and what the knobs miss a setting by.
"""

from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import numpy as np

from jaxcal import aberrations, devices, hologram, simulation, specimen, tiles
from jaxcal.optics import Optics, edge_phases, quarter_pi_limits_nm

STATE_SD_NM = {1: 150.0, 2: 600.0}  # of the state with the knobs at zero, by order
MATTERS = 0.05  # rad at the aperture's edge; smaller aberrations that are no knobs are left out
SCALE_SD = 0.01  # of the log semi-angle, after combining nominal and measured radius
WRONG_SCALE_SD = 0.15  # the same where the energy, an angle or the knobs' unit may be wrong
FILM_SD = 0.3  # by which films differ from the simulated ones, log power at each knot
STRENGTH_SD = 0.2  # of the film from frame to frame, log power
NOISE = (-0.7, -0.4, 0.0), (1.5, 0.5, 0.3)  # polynomial of the log noise: mean, the first
# counted from the tiles' lowest power at high frequencies, which holds some signal; sd
FOCAL_SPREAD_NM, THICKNESS_NM, BLUR_PIXELS = (4.0, 0.5), (4.0, 0.8), (1.0, 0.5)  # mean, sd of log
HALO = 0.008, 0.8  # share of the power in the wings: mean, sd of its log odds
GAIN_SD, CROSSTALK_SD = 0.1, 0.03  # of the actuator matrix about the identity
DRIFT_SD_NM = 0.7  # of the drift of C10 and C12 from frame to frame
FILMS = 4000  # simulated ones, whose mean and covariance are a film's prior
SAME = 0.1  # pi/4 limits: settings that differ by less are one, and tell the sign by nothing
MISS_SD_NM = {1: 2.0, 2: 20.0}  # by which knobs miss where they are sent, by order


class Measured(NamedTuple):
    """What a series tells: power, T tuples of (K, B) for each layout of windows;
    knobs (T, P) nm; number (T,) of each frame in time; last: number of the last frame taken."""

    power: tuple
    knobs: np.ndarray
    number: np.ndarray
    last: float


class Unknowns(NamedTuple):
    """state: (F,) nm; log_scale; film: (K,) log power at the knots; noise: (3,);
    focal_spread, thickness: log nm; blur: log aperture radii; halo: log odds;
    strength: (T,) log power; miss: (T, P) nm by which the knobs missed the setting of each frame;
    gain: (P, P) actuator matrix less the identity; drift: (P,) nm per frame."""

    state: np.ndarray
    log_scale: np.ndarray
    film: np.ndarray
    noise: np.ndarray
    focal_spread: np.ndarray
    thickness: np.ndarray
    blur: np.ndarray
    halo: np.ndarray
    strength: np.ndarray
    miss: np.ndarray
    gain: np.ndarray
    drift: np.ndarray


@dataclass(frozen=True)
class Problem:
    """A series and what is known beforehand. T frames, P knobs, F free aberrations.

    measured, knob_names, optics; free: names of the F aberrations; mean, sd: prior of the
    unknowns; film_factor: (K, K) Cholesky factor of the film's prior; weights: (T,) of the
    frames, 0 for one that is set aside; active: (Z,) which unknowns are estimated; layouts: of the
    windows whose power is measured; precision: (Z, Z) of the prior of z, where that is not the
    identity.
    """

    measured: Measured
    knob_names: tuple[str, ...]
    optics: Optics
    free: tuple[str, ...]
    mean: Unknowns
    sd: Unknowns
    film_factor: np.ndarray
    weights: np.ndarray
    active: np.ndarray
    layouts: tuple[tiles.Layout, ...] = tiles.LAYOUTS
    precision: np.ndarray | None = None


def free_aberrations(knob_names, optics: Optics) -> tuple[str, ...]:
    """What is estimated along: the knobs, C10 ... C23, and residuals whose phase matters."""
    size = edge_phases(optics)
    return tuple(
        name for place, name in enumerate(aberrations.NAMES)
        if name in knob_names or aberrations.ORDER[place] < 3
        or size[place] * simulation.RESIDUAL_NM[name[:3]] > MATTERS)


def state_sd_nm(names) -> np.ndarray:
    """Prior standard deviations (F,) of aberrations with the knobs at zero, nm."""
    order = aberrations.ORDER[aberrations.indices(names)]
    return np.array([STATE_SD_NM.get(int(n)) or simulation.RESIDUAL_NM[name[:3]]
                     for n, name in zip(order, names, strict=True)])


@partial(jax.jit, compiler_options=devices.LIGHT)
def _film_spectra(uniform, normal, unit_per_nm):
    """Log amplitudes (N, K) of films of random numbers."""
    return jax.vmap(lambda *numbers: simulation.film_spectrum(
        simulation.film_of(*numbers), unit_per_nm))(uniform, normal)


@lru_cache(maxsize=16)
def film_prior(unit_per_nm: float):
    """Mean (K,) and Cholesky factor (K, K) of the log power spectra of simulated films."""
    random = np.random.default_rng(0)
    amplitudes = np.asarray(_film_spectra(
        random.random((FILMS, simulation.FILM_NUMBERS), np.float32),
        random.standard_normal((FILMS, len(specimen.KNOTS)), np.float32), np.float32(unit_per_nm)))
    between = np.stack([np.interp(hologram.KNOTS, specimen.KNOTS, one)  # interpolation, a matrix
                        for one in np.eye(len(specimen.KNOTS))])
    power = 2 * amplitudes.astype(float) @ between
    return power.mean(0), np.linalg.cholesky(np.cov(power.T) + FILM_SD**2 * np.eye(power.shape[1]))


def problem(measured: Measured, knob_names, optics: Optics, radius_pixels: float) -> Problem:
    """The problem of a series; drift, actuator matrix and misses are not active.

    Args:
        optics: with the measured semi-angle; radius_pixels: of the aperture's image.
    """
    frames, knobs = measured.knobs.shape
    free = free_aberrations(knob_names, optics)
    film, factor = film_prior(1 / optics.length_unit_nm)
    small = tiles.LAYOUTS[0]
    high = np.hypot(*small.frequencies.T) > 0.8 * small.highest
    noise = np.log(np.percentile([p[0][:, high].mean(1) for p in measured.power], 10))
    order = aberrations.ORDER[aberrations.indices(knob_names)]
    gain = np.where(np.eye(knobs, dtype=bool), GAIN_SD, CROSSTALK_SD * (order[:, None] == order))
    blur = (BLUR_PIXELS[0] / radius_pixels, BLUR_PIXELS[1])
    focus, depth, blur = ((np.log(m), s) for m, s in (FOCAL_SPREAD_NM, THICKNESS_NM, blur))
    mean = Unknowns(np.zeros(len(free)), 0.0, film, np.array(NOISE[0]) + [noise, 0, 0], focus[0],
                    depth[0], blur[0], np.log(HALO[0] / (1 - HALO[0])), np.zeros(frames),
                    np.zeros((frames, knobs)), np.zeros((knobs, knobs)), np.zeros(knobs))
    sd = Unknowns(state_sd_nm(free), SCALE_SD, np.ones(len(film)), np.array(NOISE[1]), focus[1],
                  depth[1], blur[1], HALO[1], np.full(frames, STRENGTH_SD),
                  np.tile([MISS_SD_NM.get(int(n), 0.0) for n in order], (frames, 1)), gain,
                  np.where(order == 1, DRIFT_SD_NM, 0.0))
    active = np.arange(flat(sd).size) < flat(sd[: sd._fields.index("miss")]).size
    return Problem(measured, tuple(knob_names), optics, free, mean, sd, factor, np.ones(frames),
                   active)


def one_setting(knobs_nm, knob_names, optics: Optics) -> bool:
    """Whether frames at the settings (T, P), nm, all show one state: none can decide the sign."""
    knobs = np.asarray(knobs_nm, float)
    return bool(np.all(np.ptp(knobs, axis=0) <= SAME * quarter_pi_limits_nm(optics, knob_names)))


def glimpse(problem: Problem) -> Problem:
    """The problem with the tiles' lower frequencies alone, `tiles.GLIMPSE`."""
    low = np.hypot(*tiles.TILES.frequencies.T) <= tiles.GLIMPSE.highest
    power = tuple((frame[0][:, low],) for frame in problem.measured.power)
    return replace(problem, measured=problem.measured._replace(power=power),
                   layouts=(tiles.GLIMPSE,))


def with_scale(problem: Problem) -> Problem:
    """The problem for optics that may be told wrong: the scale has WRONG_SCALE_SD."""
    return replace(problem, sd=problem.sd._replace(log_scale=WRONG_SCALE_SD))


def rescaled(z, problem: Problem, wider: Problem) -> np.ndarray:
    """z (Z,) of a problem in the units of another, whose prior has the same mean."""
    return z * flat(problem.sd) / np.maximum(flat(wider.sd), 1e-12)


def with_drift(problem: Problem) -> Problem:
    """The problem with the drift among the unknowns."""
    return _widened(problem, "drift")


def at_rest(problem: Problem) -> Problem:
    """The problem without the drift among the unknowns."""
    active = problem.active.copy()
    active[slices(problem)["drift"]] = False
    return replace(problem, active=active)


def with_actuator(problem: Problem) -> Problem:
    """The problem with the actuator matrix and the drift among the unknowns."""
    return _widened(problem, "gain", "drift")


def with_misses(problem: Problem) -> Problem:
    """The problem with what the knobs miss each setting by among the unknowns."""
    return _widened(problem, "miss")


def _widened(problem: Problem, *parts: str) -> Problem:
    active, open_, place = problem.active.copy(), flat(problem.sd) > 0, slices(problem)
    for part in parts:
        active[place[part]] = open_[place[part]]
    return replace(problem, active=active)


def asked(problem: Problem, part: str) -> bool:
    """Whether anything of a part of `Unknowns` is estimated."""
    return bool(np.any(problem.active[slices(problem)[part]]))


def flat(parts: Unknowns) -> np.ndarray:
    """One vector (Z,) of all."""
    return np.concatenate([np.ravel(part) for part in parts])


def decode(z, problem: Problem) -> Unknowns:
    """What a vector z (Z,) stands for."""
    values, parts, at = flat(problem.mean) + z * flat(problem.sd), [], 0
    for part in problem.mean:
        parts.append(values[at : at + np.size(part)].reshape(np.shape(part)))
        at += np.size(part)
    found = Unknowns(*parts)
    film = problem.mean.film
    return found._replace(film=film + problem.film_factor @ (found.film - film))


def start(problem: Problem, names, state_nm, actuator=None) -> np.ndarray:
    """z (Z,) of a state: nm of the aberrations named, and an actuator matrix (P, P) where it is
    among the unknowns; the rest at the prior's mean."""
    state = np.zeros(len(problem.free))
    for name, value in zip(names, state_nm, strict=True):
        state[problem.free.index(name)] = value
    z = np.zeros(problem.active.size)
    z[: len(state)] = state / problem.sd.state
    if actuator is not None and asked(problem, "gain"):
        away = np.ravel(np.asarray(actuator, float) - np.eye(len(actuator)))
        sd = np.ravel(problem.sd.gain)
        z[slices(problem)["gain"]] = np.where(sd > 0, away / np.maximum(sd, 1e-9), 0.0)
    return z


def mirrored(z, problem: Problem) -> np.ndarray:
    """z (Z,) of the other state that frames of one setting show alike: all phases change sign."""
    setting = np.zeros(len(problem.free))
    setting[[problem.free.index(name) for name in problem.knob_names]] = problem.measured.knobs[0]
    state, image = slices(problem)["state"], z.copy()
    image[state] = -z[state] - 2 * setting / problem.sd.state
    return image


def slices(problem: Problem) -> dict[str, slice]:
    """Where each of `Unknowns` stands in z."""
    ends = np.cumsum([np.size(part) for part in problem.mean])
    return {name: slice(end - np.size(part), end) for name, part, end in zip(
        Unknowns._fields, problem.mean, ends, strict=True)}


def frames_of(z, problem: Problem):
    """Phases (T, F), T of `hologram.Physics`, and slopes (T, L, Z) of what shapes each frame.

    The L are the phases of the free aberrations, then the fields of Physics.
    """
    found = decode(z, problem)
    per_nm, power = edge_phases(problem.optics), aberrations.ORDER + 1.0
    knobs, number = problem.measured.knobs, problem.measured.number
    free, turned = (aberrations.indices(n) for n in (problem.free, problem.knob_names))
    frames, count = knobs.shape
    scale = per_nm * np.exp(power * found.log_scale)
    states = np.zeros((frames, len(per_nm)))
    states[:, free] = found.state
    states[:, turned] += (knobs @ (np.eye(count) + found.gain).T + number[:, None] * found.drift
                          + found.miss)
    phases = states * scale
    focus = np.log(per_nm[0]) + 2 * found.log_scale
    physics = [hologram.Physics(*(np.float32(part) for part in (
        found.film + strength, found.noise, found.focal_spread + focus, found.thickness + focus,
        found.blur, found.halo))) for strength in found.strength]

    size, knots = len(free), len(found.film)
    part = slices(problem)
    film, noise = slice(size, size + knots), slice(size + knots, size + knots + 3)
    focal_spread, thickness, blur, halo = range(noise.stop, noise.stop + 4)
    slopes = np.zeros((frames, halo + 1, z.size))
    slopes[:, :size, part["state"]] = np.diag(scale[free])
    slopes[:, :size, part["log_scale"]] = (power * phases)[:, free, None]
    slopes[:, [focal_spread, thickness], part["log_scale"]] = 2.0
    slopes[:, film, part["film"]] = problem.film_factor
    slopes[:, noise, part["noise"]] = np.eye(3)
    for row, name in ((focal_spread, "focal_spread"), (thickness, "thickness"), (blur, "blur"),
                      (halo, "halo")):
        slopes[:, row, part[name]] = 1.0
    slopes[:, film, part["strength"]] = np.eye(frames)[:, None, :]
    for knob, place in enumerate(turned):
        row, first = list(free).index(place), part["gain"].start + knob * count
        slopes[:, row, first : first + count] = scale[place] * knobs
        slopes[:, row, part["drift"].start + knob] = scale[place] * number
        own = part["miss"].start + count * np.arange(frames) + knob
        slopes[np.arange(frames), row, own] = scale[place]
    return phases[:, free], physics, slopes * flat(problem.sd)
