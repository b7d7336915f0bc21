"""The likelihood of the frames' spectra under the wave optics, maximised from EM's answer.

A bin of a spectrum is an exponential variable about its expectation S of :mod:`jaxcal.hologram`.
With the share w of a bin that is independent of the others, and all unknowns in units of their
prior as one vector z, the log posterior is

    -sum_frames sum_bins w [log S + P / S] - |z|^2 / 2.

Fisher scoring with Levenberg's damping climbs it, and Laplace's approximation there gives widths
and weights. What z stands for is the matter of :mod:`jaxcal.unknowns`.
"""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations, devices, hologram
from jaxcal.optics import edge_waves
from jaxcal.unknowns import (
    Problem,
    Unknowns,
    decode,
    flat,
    frames_of,
    glimpse,
    mirrored,
    slices,
    with_actuator,
    with_drift,
    with_misses,
)

LONGEST = 2.0  # step of any unknown, prior standard deviations
SETTLED = 0.1  # promised rise of the log posterior that counts as none
SETTLING = 5  # steps in which an end is to settle: a first one too long is tried again, shorter
NOISE_OF_GRIDS = 0.3  # by which the value changes because the grids of q move with the state
GLANCE = 12  # steps on the lower frequencies after which the starts are compared
SLOW = 100.0  # log evidence by which a start must trail then to be given up
BEHIND = 25.0  # the same for the end of a climb
DRIFTS = 0.0  # log evidence from which on the answer allows for a drift
MISSES = 3.0  # log evidence that it takes to believe that knobs do not come to rest where sent
DOUBT = 26.0  # log evidence that it takes to believe that the knobs do not act as told
THEORY_WAVES = 0.034, 0.01  # the theory's own error at the aperture's edge, first order, higher
USUAL = 0.004  # deviance per bin, beyond that of a frame that fits, that chance explains
CORRELATED = 20.0  # neighbouring bins that an error of the theory moves together
UNTRUSTED = 0.05  # deviance per bin that is charged where the theory is not trusted
MISFIT = 0.15  # deviance per bin by which a frame that does not fit exceeds the others
ACTUATED = 6  # frames from which on a drift, the actuator matrix, misses can be asked for
JUDGED = 4  # frames from which on one of them can be found not to fit
EULER = 0.5772156649


class Point(NamedTuple):
    """Log posterior's negative, its gradient (Z,) and Fisher information (Z, Z) at z (Z,), with
    what each frame's deviance per bin (T,) exceeds that of a frame that fits by."""

    z: np.ndarray
    value: float
    gradient: np.ndarray
    fisher: np.ndarray
    misfit: np.ndarray


class Solution(NamedTuple):
    """One mode. x0_nm, tuned_knobs_nm (P,) with covariances (P, P) in nm^2; gain: actuator matrix
    (P, P); drift_nm: (P,) per frame; miss_nm: (P,) by which the knobs miss a setting, standard
    deviation, 0 where that is not asked; log_evidence; settled: whether the climb ended at the
    top."""

    point: Point
    x0_nm: np.ndarray
    covariance_nm2: np.ndarray
    tuned_knobs_nm: np.ndarray
    tuned_covariance_nm2: np.ndarray
    gain: np.ndarray
    drift_nm: np.ndarray
    miss_nm: np.ndarray
    log_evidence: float
    settled: bool


class Refinement(NamedTuple):
    """solutions, most probable first, with their weights; the problem they solve; unfit: places
    (in ``measured``) of the frames set aside because they do not fit; with_drift, with_actuator,
    with_misses: whether these were among the unknowns."""

    solutions: tuple[Solution, ...]
    weights: np.ndarray
    problem: Problem
    unfit: tuple[int, ...]

    with_drift = property(lambda self: self._open("drift"))
    with_actuator = property(lambda self: self._open("gain"))
    with_misses = property(lambda self: self._open("miss"))

    def _open(self, part: str) -> bool:
        return bool(np.any(self.problem.active[slices(self.problem)[part]]))


@partial(jax.jit, static_argnames=("places", "layouts"))
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
            usual = jnp.log(jnp.maximum(power, 1e-30)) + 1 + EULER
            return (weight * jnp.sum(log + ratio - usual), weight * slopes.T @ (1 - ratio),
                    weight * slopes.T @ slopes, weight * power.size)

        middles = jnp.asarray(layout.moments[0], phases.dtype)
        terms = jax.lax.map(window, (middles, laid_out, measured))
        totals = tuple(total + term.sum(0) for total, term in zip(totals, terms, strict=True))
    return totals


def prepare(problem: Problem, several: bool) -> None:
    """Compile what `solve` evaluates, by a look at the first frame; ``several``: for more than one
    start, which are compared on the lower frequencies first."""
    places = tuple(aberrations.indices(problem.free).tolist())
    for part in (problem, glimpse(problem)) if several else (problem,):
        phases, physics, _ = frames_of(np.zeros(part.active.size), part)
        frame_terms(np.float32(phases[0]), physics[0], part.measured.power[0], places,
                    part.layouts)


def evaluate(z, problem: Problem) -> Point:
    """The log posterior at z, with what Fisher scoring needs.

    Where the theory is not trusted it makes no misfit either; a state near focus would explain any
    frame. Such windows are charged what the theory would fail by.
    """
    phases, physics, slopes = frames_of(z, problem)
    places = tuple(aberrations.indices(problem.free).tolist())
    bins = sum(part.weight * len(part.centres) * len(part.bins) for part in problem.layouts)

    def one(k):
        terms = frame_terms(np.float32(phases[k]), physics[k], problem.measured.power[k], places,
                            problem.layouts)
        return [np.asarray(term, float) for term in terms]

    value, gradient, fisher = 0.5 * z @ z, z.copy(), np.eye(z.size)
    misfit = np.zeros(len(phases))
    for k, terms in enumerate(devices.side_by_side(one, range(len(phases)))):
        misfit[k] = terms[0] / terms[3]
        value += problem.weights[k] * (terms[0] + UNTRUSTED * (bins - terms[3]))
        gradient += problem.weights[k] * slopes[k].T @ terms[1]
        fisher += problem.weights[k] * slopes[k].T @ terms[2] @ slopes[k]
    return Point(z, value, gradient, fisher, misfit)


def climb(problem: Problem, here: Point, steps: int) -> tuple[Point, bool]:
    """Up to so many damped steps of Fisher scoring; also whether the climb settled."""
    active, damping = np.flatnonzero(problem.active), 1e-3
    for _ in range(steps):
        fisher, gradient = here.fisher[np.ix_(active, active)], here.gradient[active]
        step = -np.linalg.solve(fisher + damping * np.diag(np.diag(fisher)), gradient)
        step *= min(1.0, LONGEST / np.abs(step).max())
        if -gradient @ step - 0.5 * step @ fisher @ step < SETTLED:
            return here, True
        z = here.z.copy()
        z[active] += step
        there = evaluate(z, problem)
        if np.isfinite(there.value) and there.value < here.value:
            here, damping = there, max(damping / 10, 1e-6)
        elif there.value < here.value + NOISE_OF_GRIDS:
            return here, True
        else:
            damping = max(10 * damping, 1e-2)
    return here, False


def climbed(problem: Problem, starts, steps: int) -> list[Point]:
    """Where the climbs from the starts (Z,) end."""
    return devices.side_by_side(
        lambda z: climb(problem, evaluate(z, problem), steps)[0], starts)


def resume(problem: Problem, before: Refinement) -> list[np.ndarray]:
    """z (Z,) where an earlier refinement of the same instrument ended, for each of its solutions.

    New frames have no strength of their own yet; a coefficient that has come to matter since, with
    a new measure of the aperture, starts at its prior's mean.
    """
    old, new, starts = slices(before.problem), slices(problem), []
    for solution in before.solutions:
        z, ended = np.zeros(problem.active.size), solution.point.z
        for name, place in new.items():
            if name not in ("state", "strength", "miss"):
                z[place] = ended[old[name]]
        for place, name in enumerate(problem.free):
            if name in before.problem.free:
                z[place] = ended[before.problem.free.index(name)]
        starts.append(np.where(problem.active, z, 0.0))
    return starts


def log_evidence(point: Point, problem: Problem) -> float:
    """Laplace's approximation to the log marginal likelihood, up to a constant of the data."""
    active = np.flatnonzero(problem.active)
    return -point.value - 0.5 * np.linalg.slogdet(point.fisher[np.ix_(active, active)])[1]


def rise(wider: Problem, point: Point, problem: Problem) -> float:
    """By how much the log evidence would rise, to second order, from the top of a problem to that
    of a wider one; -inf where it is no wider, or of too few frames.

    Both allow for the theory's own error in each frame: what looks like knobs that miss, by so
    much, asks for nothing.
    """
    if not np.any(wider.active & ~problem.active) or len(problem.weights) < ACTUATED:
        return -np.inf
    return _top(wider, point) - _top(problem, point)


def _top(problem: Problem, point: Point) -> float:
    """Log evidence of a problem to second order about a point, up to a constant, with the theory's
    own error as misses of every frame where these are not among the unknowns."""
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
    return 0.5 * slope @ np.linalg.solve(fisher, slope) - 0.5 * np.linalg.slogdet(fisher)[1]


def tempered(problem: Problem, point: Point) -> Problem:
    """The problem with the frames' weights lowered by what the theory fails to explain.

    An error e of log S leaves the deviance e^2/2 a bin and moves the gradient by e in CORRELATED
    bins at once, where chance moves it by 1 in each: the variance grows by 1 + 2 CORRELATED misfit.
    """
    excess = max(0.0, float(np.median(point.misfit[problem.weights > 0])) - USUAL)
    share = 1 / (1 + 2 * CORRELATED * excess)
    return replace(problem, weights=np.where(problem.weights > 0, share, 0.0))


def unfit(misfit, weights) -> np.ndarray:
    """Which frames (T,) do not fit: their deviance exceeds that of the others by MISFIT and by
    six of their standard deviations. Never half of the frames, and none of fewer than JUDGED."""
    usual = np.median(misfit[weights > 0])
    spread = 1.4826 * np.median(np.abs(misfit[weights > 0] - usual))
    found = misfit - usual > max(MISFIT, 6 * spread)
    few = misfit.size < JUDGED or 2 * found.sum() >= misfit.size
    return np.zeros_like(found) if few else found


def set_aside(problem: Problem, points, steps: int):
    """The climbs of the points go on without the frames that do not fit, or with those that do
    again; problem and points."""
    for _ in range(2):
        bad = unfit(points[0].misfit, problem.weights)
        if np.array_equal(bad, problem.weights == 0):
            break
        problem = replace(problem, weights=np.where(bad, 0.0, problem.weights.max()))
        points = climbed(problem, [point.z for point in points], steps)
    return problem, points


def solve(problem: Problem, starts, steps: int = 15, progress=None) -> Refinement:
    """The modes that climbs from the starts (Z,) end in.

    More than one start climb for GLANCE steps on the lower frequencies first; those that trail the
    best, or come to the same place, are given up. Frames of one setting show a state and its mirror
    image alike: that is an end, too. Frames that do not fit are set aside. A drift is estimated too
    where the others do not speak against it, and the actuator matrix, and what the knobs miss their
    settings by, where they ask for it.
    """
    report = progress or (lambda message, fraction: None)
    if len(starts) > 1:
        report(f"refine, {len(starts)} starts", 0.0)
        rough = glimpse(problem)
        starts = [point.z for point in _front(climbed(rough, starts, GLANCE), rough, SLOW)]
    report("refine", 0.4)
    points = _front(climbed(problem, starts, steps), problem)
    knobs = problem.measured.knobs
    if np.all(knobs == knobs[0]):
        images = [mirrored(point.z, problem) for point in points]
        points = _front([*points, *climbed(problem, images, steps)], problem)
    problem = tempered(problem, points[0])
    points = _front(climbed(problem, [point.z for point in points], steps), problem)
    report("frames that do not fit", 0.6)
    problem, points = set_aside(problem, points, steps)
    wider = with_drift(problem)
    if rise(wider, points[0], problem) > DRIFTS:
        report("refine with a drift", 0.7)
        problem, points = set_aside(
            wider, _front([climb(wider, point, steps)[0] for point in points], wider), steps)
    wider = with_actuator(problem)
    if rise(wider, points[0], problem) > 0.5 * DOUBT:  # the second order falls short of a long way
        report("refine with the actuator matrix", 0.8)
        freed = _front([climb(wider, point, steps)[0] for point in points], wider)
        if log_evidence(freed[0], wider) > log_evidence(points[0], problem) + DOUBT:
            problem, points = set_aside(wider, freed, steps)
    wider = with_misses(problem)
    if rise(wider, points[0], problem) > MISSES:
        report("refine with what the knobs miss", 0.9)
        problem, points = set_aside(
            wider, _front([climb(wider, point, steps)[0] for point in points], wider), steps)
    ends = [climb(problem, point, SETTLING) for point in _front(points, problem)]
    found = [solution(point, problem, settled) for point, settled in ends]
    evidence = np.array([s.log_evidence for s in found])
    weights = np.exp(evidence - evidence.max())
    order = np.argsort(-weights)
    return Refinement(tuple(found[k] for k in order), weights[order] / weights.sum(), problem,
                      tuple(np.flatnonzero(problem.weights == 0).tolist()))


def _front(points, problem, behind=BEHIND) -> list[Point]:
    """Points whose evidence is not so far behind, best first, one for each place."""
    kept: list[Point] = []
    best = max(log_evidence(point, problem) for point in points)
    for point in sorted(points, key=lambda p: -log_evidence(p, problem)):
        if log_evidence(point, problem) < best - behind:
            break
        if all((point.z - other.z) @ other.fisher @ (point.z - other.z) > 2 * point.z.size
               for other in kept):
            kept.append(point)
    return kept


def solution(point: Point, problem: Problem, settled: bool) -> Solution:
    """What an end of a climb says about the knobs.

    The setting that tunes the instrument at the last frame t is u = -G^-1 (x0 + t drift). The
    covariances are Laplace's with the error of the theory itself, which more frames do not lessen;
    that of the setting that tunes has what knobs, sent there, miss it by.
    """
    found = decode(point.z, problem)
    x0, inverse, tuned = tuning(found, problem)
    of_state, of_tuned = laplace(point, problem)
    own, misses = theory_nm2(problem), misses_nm(point, problem)
    of_tuned = of_tuned + inverse @ (own + np.diag(misses**2)) @ inverse.T
    return Solution(point, x0, of_state + own, tuned, of_tuned, np.eye(len(x0)) + found.gain,
                    found.drift, misses, log_evidence(point, problem), settled)


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


def laplace(point: Point, problem: Problem):
    """Laplace's covariances (P, P), nm^2, of the knobs' x0 and of the setting that tunes."""
    covariance = _inverse(point, problem)
    of_state, of_tuned = derivatives(point.z, problem)
    return of_state @ covariance @ of_state.T, of_tuned @ covariance @ of_tuned.T


def misses_nm(point: Point, problem: Problem) -> np.ndarray:
    """By what the knobs miss a setting (P,), nm: root of the mean second moment over the frames."""
    moment = np.where(problem.active, point.z**2 + np.diag(_inverse(point, problem)), 0.0)
    moment = moment[slices(problem)["miss"]].reshape(problem.sd.miss.shape)
    return np.sqrt((moment * problem.sd.miss**2).mean(0))


def _inverse(point: Point, problem: Problem) -> np.ndarray:
    """Covariance (Z, Z) of z, zero for what is not estimated."""
    active = np.flatnonzero(problem.active)
    covariance = np.zeros_like(point.fisher)
    covariance[np.ix_(active, active)] = np.linalg.inv(point.fisher[np.ix_(active, active)])
    return covariance


def theory_nm2(problem: Problem) -> np.ndarray:
    """Covariance (P, P), nm^2, of the theory's own error in the knobs' aberrations."""
    places = aberrations.indices(problem.knob_names)
    waves = np.where(aberrations.ORDER[places] == 1, *THEORY_WAVES)
    return np.diag((waves / edge_waves(problem.optics)[places]) ** 2)
