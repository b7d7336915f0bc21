"""Laplace's approximation about the top of a climb: the evidence, and what it says of the knobs.

Near its top the log posterior of :mod:`jaxcal.posterior` is a parabola, whose curvature is the
Fisher information: a normal distribution, with the evidence as its integral. The theory's own
error comes on top of its widths. Whether the instrument drifts is averaged over: six frames often
cannot tell.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit

from jaxcal import aberrations
from jaxcal.optics import Optics, edge_waves
from jaxcal.posterior import Point
from jaxcal.unknowns import (
    Problem,
    Unknowns,
    asked,
    at_rest,
    decode,
    flat,
    slices,
    with_drift,
)

# The theory's own error at the aperture's edge, of the first order and of higher ones, set with
# simulated instruments (benchmarks/coverage.py).
THEORY_WAVES = 0.034, 0.01
DRIFTS = 0.2  # probability, before any frame is seen, that an instrument drifts


class Solution(NamedTuple):
    """One mode. x0_nm, tuned_knobs_nm (P,) with covariances (P, P) in nm^2; gain: actuator matrix
    (P, P), gain_sd: its standard deviations, 0 where it is as told; drift_nm: (P,) per frame;
    drifts: probability that there is one, 1 or 0 where that is not asked; miss_nm: (P,) by which
    the knobs miss a setting, standard deviation, 0 where that is not asked; log_evidence; settled:
    whether the climb ended at the top."""

    point: Point
    x0_nm: np.ndarray
    covariance_nm2: np.ndarray
    tuned_knobs_nm: np.ndarray
    tuned_covariance_nm2: np.ndarray
    gain: np.ndarray
    gain_sd: np.ndarray
    drift_nm: np.ndarray
    drifts: float
    miss_nm: np.ndarray
    log_evidence: float
    settled: bool


def log_evidence(point: Point, problem: Problem) -> float:
    """Laplace's approximation to the log marginal likelihood, up to a constant of the data."""
    active = np.flatnonzero(problem.active)
    return -point.value - 0.5 * np.linalg.slogdet(point.fisher[np.ix_(active, active)])[1]


def evidence_nearby(problem: Problem, point: Point) -> float:
    """Log evidence of a problem to second order about a point, up to a constant of the data, with
    the theory's own error as misses of every frame where these are not among the unknowns."""
    part, frames = slices(problem)["miss"], len(problem.weights)
    share = problem.active.astype(float)
    if not np.any(problem.active[part]):
        own = np.tile(np.sqrt(np.diag(theory_nm2(problem))), frames)
        share[part] = own / np.maximum(np.ravel(problem.sd.miss), own)
    open_ = np.flatnonzero(share)
    share = share[open_]
    fisher = np.outer(share, share) * (point.fisher - np.eye(point.z.size))[np.ix_(open_, open_)]
    fisher += np.eye(open_.size)
    slope = share * point.gradient[open_]
    return (0.5 * slope @ np.linalg.solve(fisher, slope) - 0.5 * np.linalg.slogdet(fisher)[1]
            - point.value)


def solution(point: Point, problem: Problem, settled: bool,
             drifts: float | None = None) -> Solution:
    """What an end of a climb says about the knobs.

    The setting that tunes the instrument at the last frame t is u = -G^-1 (x0 + t drift). The
    covariances are Laplace's with the error of the theory itself, which more frames do not lessen;
    that of the setting that tunes has what knobs, sent there, miss it by.

    Args:
        drifts: probability of a drift, see `drift_probability`: mean and covariance are those of
            the mixture of drift and none. None: by the problem's unknowns alone.
    """
    found = decode(point.z, problem)
    _, inverse, _ = tuning(found, problem)
    if drifts is None:
        drifts = float(asked(problem, "drift"))
        parts = [(1.0, point.z, covariance_of(point, problem))]
    else:
        parts = [(drifts, *_nearby(point, with_drift(problem))),
                 (1 - drifts, *_nearby(still(point, problem), at_rest(problem)))]
    weights = [weight for weight, *_ in parts]
    states, settings = [], []
    for _, z, covariance in parts:
        x0, _, tuned = tuning(decode(z, problem), problem)
        of_state, of_tuned = derivatives(z, problem)
        states.append((x0, of_state @ covariance @ of_state.T))
        settings.append((tuned, of_tuned @ covariance @ of_tuned.T))
    x0, x0_covariance = mixture(weights, states)
    tuned, tuned_covariance = mixture(weights, settings)
    own, misses = theory_nm2(problem), misses_nm(point, problem)
    tuned_covariance = tuned_covariance + inverse @ (own + np.diag(misses**2)) @ inverse.T
    drift = sum(weight * decode(z, problem).drift for weight, z, _ in parts)
    gain_variance = np.diag(covariance_of(point, problem))[slices(problem)["gain"]]
    return Solution(point, x0, x0_covariance + own, tuned, tuned_covariance,
                    np.eye(len(x0)) + found.gain,
                    problem.sd.gain * np.sqrt(gain_variance.reshape(found.gain.shape)),
                    drift, drifts, misses, log_evidence(point, problem), settled)


def mixture(weights, parts, middle=None):
    """Mean (P,) of a mixture of normal distributions, its ``parts`` (mean (P,), covariance (P, P)),
    and its second moment (P, P) about that, or about ``middle`` (P,)."""
    if middle is None:
        middle = sum(weight * mean for weight, (mean, _) in zip(weights, parts, strict=True))
    return middle, sum(
        weight * (covariance + np.outer(mean - middle, mean - middle))
        for weight, (mean, covariance) in zip(weights, parts, strict=True))


def drift_probability(point: Point, problem: Problem) -> float:
    """Probability that the instrument drifts, DRIFTS before the frames were seen, to second order
    about the end of a climb with or without the drift; the theory's own error is allowed for."""
    rise = (evidence_nearby(with_drift(problem), point)
            - evidence_nearby(at_rest(problem), still(point, problem)))
    return float(expit(rise + logit(DRIFTS)))


def still(point: Point, problem: Problem) -> Point:
    """The point with no drift, to second order."""
    part = slices(problem)["drift"]
    step = np.zeros_like(point.z)
    step[part] = -point.z[part]
    moved = point.fisher @ step
    return point._replace(z=point.z + step, gradient=point.gradient + moved, terms=(),
                          value=point.value + point.gradient @ step + 0.5 * step @ moved)


def _nearby(point: Point, problem: Problem):
    """Mean (Z,) and covariance (Z, Z) of a problem's z, to second order about a point."""
    covariance = covariance_of(point, problem)
    return point.z - covariance @ point.gradient, covariance


def tuning(found: Unknowns, problem: Problem):
    """x0 (P,) of the knobs, nm; the inverse actuator matrix (P, P); the tuning setting (P,), nm."""
    x0 = found.state[[problem.free.index(name) for name in problem.knob_names]]
    inverse = np.linalg.inv(np.eye(len(x0)) + found.gain)
    return x0, inverse, -inverse @ (x0 + problem.measured.last * found.drift)


def derivatives(z, problem: Problem):
    """Derivatives (P, Z) of the knobs' x0 and of the setting that tunes, nm, in z."""
    _, inverse, tuned = tuning(decode(z, problem), problem)
    rows = [problem.free.index(name) for name in problem.knob_names]
    count, sd, part = len(rows), flat(problem.sd), slices(problem)
    of_state = np.zeros((count, sd.size))
    of_state[np.arange(count), rows] = 1.0
    of_tuned = of_state.copy()
    of_tuned[:, part["drift"]] = problem.measured.last * np.eye(count)
    of_tuned[:, part["gain"]] = np.kron(np.eye(count), tuned)
    return of_state * sd, -inverse @ of_tuned * sd


def covariances(point: Point, problem: Problem):
    """Laplace's covariances (P, P), nm^2, of the knobs' x0 and of the setting that tunes."""
    covariance = covariance_of(point, problem)
    of_state, of_tuned = derivatives(point.z, problem)
    return of_state @ covariance @ of_state.T, of_tuned @ covariance @ of_tuned.T


def misses_nm(point: Point, problem: Problem) -> np.ndarray:
    """By what the knobs miss a setting (P,), nm: root of the mean second moment over the frames
    that are not set aside."""
    moment = np.where(problem.active, point.z**2 + np.diag(covariance_of(point, problem)), 0.0)
    moment = moment[slices(problem)["miss"]].reshape(problem.sd.miss.shape)
    return np.sqrt((moment * problem.sd.miss**2)[problem.weights > 0].mean(0))


def covariance_of(point: Point, problem: Problem) -> np.ndarray:
    """Covariance (Z, Z) of z, zero for what is not estimated."""
    active = np.flatnonzero(problem.active)
    covariance = np.zeros_like(point.fisher)
    covariance[np.ix_(active, active)] = np.linalg.inv(point.fisher[np.ix_(active, active)])
    return covariance


def theory_nm2(problem: Problem) -> np.ndarray:
    """Covariance (P, P), nm^2, of the theory's own error in the knobs' aberrations."""
    return np.diag(theory_sd_nm(problem.knob_names, problem.optics) ** 2)


def theory_sd_nm(knob_names, optics: Optics) -> np.ndarray:
    """The theory's own error (P,), nm, in aberrations: no number of frames lessens it."""
    places = aberrations.indices(knob_names)
    waves = np.where(aberrations.ORDER[places] == 1, *THEORY_WAVES)
    return waves / edge_waves(optics)[places]
