"""The posterior of the unknowns climbed from EM's answer: which solutions, which unknowns, and how
sure.

Fisher scoring with Levenberg's damping climbs the log posterior of :mod:`jaxcal.posterior`;
Laplace's approximation there (:mod:`jaxcal.laplace`) gives widths and weights. Frames that do not
fit are set aside on the way, and a drift, the actuator matrix and what the knobs miss a setting by
join the unknowns where the frames ask for them.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxcal import devices
from jaxcal.laplace import Solution, drift_probability, evidence_nearby, log_evidence, solution
from jaxcal.posterior import Point, evaluate, reweighed
from jaxcal.unknowns import (
    GAIN_SD,
    SCALE_SD,
    Problem,
    asked,
    glimpse,
    mirrored,
    one_setting,
    rescaled,
    slices,
    with_actuator,
    with_drift,
    with_misses,
    with_scale,
)

STEPS = 15  # of a climb
LONGEST = 2.0  # step of any unknown, prior standard deviations
SETTLED = 0.1  # promised rise of the log posterior that counts as none
SETTLING = 5  # steps in which an end is to settle: a first one too long is tried again, shorter
LITTLE = 1.0  # promised rise that may be lost in what is next
NOISE_OF_GRIDS = 0.3  # by which the value changes because grids of q and trust move with the state
GLANCE = 12  # steps on the lower frequencies after which the starts are compared
SLOW = 100.0  # log evidence by which a start must trail then to be given up
BEHIND = 25.0  # the same for the end of a climb
LIKELY = 0.5  # probability of a drift from which on it is among the unknowns of the climb
BELIEVED = 3.0  # log evidence that it takes to believe that the knobs miss or turn otherwise
SCALES = -0.1, 0.1  # log scales between knobs and optics that are tried besides
OFF_SCALE = 2.5  # standard deviations of the scale between knobs and optics that ask for a wider
USUAL = 0.004  # deviance per bin, beyond that of a frame that fits, that chance explains
CORRELATED = 20.0  # neighbouring bins that an error of the theory moves together
MISFIT = 0.15  # deviance per bin by which a frame that does not fit exceeds the others; no state
# explains the frames where half of them exceed by it what chance makes
ACTUATED = 6  # frames from which on a drift, the actuator matrix, misses can be asked for
JUDGED = 4  # frames from which on one of them can be found not to fit


class Refinement(NamedTuple):
    """solutions, most probable first, with their weights; the problem they solve; unfit: places
    (in ``measured``) of the frames set aside because they do not fit; with_actuator,
    with_misses: whether these were among the unknowns; with_scale: whether the scale between
    knobs and optics is another than the energy and the angles say."""

    solutions: tuple[Solution, ...]
    weights: np.ndarray
    problem: Problem
    unfit: tuple[int, ...]

    with_actuator = property(lambda self: asked(self.problem, "gain"))
    with_misses = property(lambda self: asked(self.problem, "miss"))
    with_scale = property(lambda self: self.problem.sd.log_scale > SCALE_SD)

    @property
    def misfit(self) -> float:
        """Deviance per bin beyond what chance makes that half of the frames exceed, or reach, by
        the first solution; those set aside are not counted."""
        left = self.solutions[0].point.misfit[self.problem.weights > 0]
        return float(np.quantile(left, 0.5, method="higher"))

    @property
    def explains(self) -> bool:
        """Whether the first solution explains more than half of the frames."""
        return self.misfit <= MISFIT

    @property
    def far_off(self) -> bool:
        """Whether the knobs act so far from told that the climbs may have begun too far from the
        truth: they miss, or a gain is beyond twice its prior's standard deviation."""
        gain = np.abs(np.diag(self.solutions[0].gain) - 1)
        return bool(self.with_misses or np.any(gain > 2 * GAIN_SD))


def climb(problem: Problem, here: Point, steps: int) -> tuple[Point, bool]:
    """Up to so many damped steps of Fisher scoring; also whether the climb settled."""
    active, damping = np.flatnonzero(problem.active), 1e-3
    for _ in range(steps):
        fisher, gradient = here.fisher[np.ix_(active, active)], here.gradient[active]
        step = -np.linalg.solve(fisher + damping * np.diag(np.diag(fisher)), gradient)
        step *= LONGEST / max(LONGEST, np.abs(step).max())
        promised = -gradient @ step - 0.5 * step @ fisher @ step
        if promised < SETTLED:
            return here, True
        z = here.z.copy()
        z[active] += step
        there = evaluate(z, problem)
        if np.isfinite(there.value) and there.value < here.value:
            here, damping = there, max(damping / 10, 1e-6)
        elif promised < LITTLE and there.value < here.value + NOISE_OF_GRIDS:
            return here, True
        else:
            damping = max(10 * damping, 1e-2)
    return here, False


def climbed(problem: Problem, starts, steps: int) -> list[Point]:
    """Where the climbs from the starts (Z,) end."""
    return devices.side_by_side(
        lambda z: climb(problem, evaluate(z, problem), steps)[0], starts)


def climbed_on(problem: Problem, points, steps: int) -> list[Point]:
    """Where the climbs of the points end in a problem that weighs the frames otherwise."""
    return devices.side_by_side(
        lambda point: climb(problem, reweighed(point, problem), steps)[0], points)


def resume(problem: Problem, before: Refinement) -> tuple[Problem, list[np.ndarray]]:
    """The problem as an earlier refinement of the same instrument left it, and z (Z,) where that
    ended, for each of its solutions.

    A scale or an actuator matrix once found wrong stays open. New frames have no strength of their
    own yet; a coefficient that has come to matter since, with a new measure of the aperture, starts
    at its prior's mean.
    """
    problem = with_scale(problem) if before.with_scale else problem
    problem = with_actuator(problem) if before.with_actuator else problem
    old, new, starts = slices(before.problem), slices(problem), []
    for found in before.solutions:
        z, ended = np.zeros(problem.active.size), found.point.z
        for name, place in new.items():
            if name not in ("state", "strength", "miss"):
                z[place] = ended[old[name]]
        for place, name in enumerate(problem.free):
            if name in before.problem.free:
                z[place] = ended[before.problem.free.index(name)]
        starts.append(np.where(problem.active, z, 0.0))
    return problem, starts


def enough(problem: Problem) -> bool:
    """Whether there are frames enough, those set aside not counted, to ask for another scale, a
    drift, the actuator matrix, or misses."""
    return np.count_nonzero(problem.weights) >= ACTUATED


def may_drift(problem: Problem) -> bool:
    """Whether a drift is averaged over: there are frames enough, a knob of the first order that can
    drift, and no actuator matrix among the unknowns, which brings a drift along."""
    return bool(enough(problem) and np.any(problem.sd.drift > 0) and not asked(problem, "gain"))


def off_scale(point: Point, problem: Problem) -> float:
    """How far the scale between knobs and optics is off, standard deviations of its prior."""
    return float(point.z[slices(problem)["log_scale"]][0])


def rise(wider: Problem, point: Point, problem: Problem) -> float:
    """By how much the log evidence would rise, to second order, from the top of a problem to that
    of a wider one; -inf where it is no wider, or of too few frames.

    Both allow for the theory's own error in each frame: what looks like knobs that miss, by so
    much, asks for nothing.
    """
    if not np.any(wider.active & ~problem.active) or not enough(problem):
        return -np.inf
    return evidence_nearby(wider, point) - evidence_nearby(problem, point)


def tempered(problem: Problem, point: Point) -> Problem:
    """The problem with the frames' weights lowered by what the theory fails to explain.

    An error e of log S leaves the deviance e^2/2 a bin and moves the gradient by e in CORRELATED
    bins at once, where chance moves it by 1 in each: the variance grows by 1 + 2 CORRELATED misfit.
    """
    excess = max(0.0, usual_misfit(point, problem) - USUAL)
    share = 1 / (1 + 2 * CORRELATED * excess)
    return replace(problem, weights=np.where(problem.weights > 0, share, 0.0))


def usual_misfit(point: Point, problem: Problem) -> float:
    """Median, over the frames that count, of the deviance per bin beyond what chance makes."""
    return float(np.median(point.misfit[problem.weights > 0]))


def unfit(misfit, weights) -> np.ndarray:
    """Which frames (T,) do not fit: their deviance exceeds that of the others by MISFIT and by
    six of their standard deviations. Never half of the frames, and none of fewer than JUDGED."""
    usual = np.median(misfit[weights > 0])
    spread = 1.4826 * np.median(np.abs(misfit[weights > 0] - usual))
    found = misfit - usual > max(MISFIT, 6 * spread)
    few = misfit.size < JUDGED or 2 * found.sum() >= misfit.size
    return np.zeros_like(found) if few else found


def set_aside(problem: Problem, points):
    """The climbs of the points go on without the frames that do not fit, or with those that do
    again; problem and points."""
    for _ in range(2):
        bad = unfit(points[0].misfit, problem.weights)
        if np.array_equal(bad, problem.weights == 0):
            break
        problem = replace(problem, weights=np.where(bad, 0.0, problem.weights.max()))
        points = _front(climbed_on(problem, points, STEPS), problem)
    return problem, points


def wanted(problem: Problem, points, report, other_scales: bool = False):
    """The problem with what the frames ask for besides, another scale between knobs and optics,
    also one far from that told where ``other_scales`` says so, a drift, the actuator matrix, or
    what the knobs miss their settings by, and where the climbs of the points end in it."""
    problem, points = _scale(problem, points, report, other_scales)
    for ask in (_drift, _actuator, _misses):
        problem, points = ask(problem, points, report)
    return problem, points


def _freed(wider: Problem, points) -> list[Point]:
    """Where the climbs of the points end in a wider problem."""
    return _front([climb(wider, point, STEPS)[0] for point in points], wider)


def _scale(problem: Problem, points, report, other_scales: bool):
    """With another scale between knobs and optics, where that is believed; of `wanted`."""
    if not enough(problem):
        return problem, points
    wider, starts = with_scale(problem), []
    if abs(off_scale(points[0], problem)) > OFF_SCALE:
        starts += [rescaled(point.z, problem, wider) for point in points]
    if other_scales:
        report("looking for another scale between knobs and optics", 0.62)
        starts += _other_scales(points[0], problem, wider)
    if not starts:
        return problem, points
    report("fitting the scale between knobs and optics", 0.65)
    far = [top for top in climbed(wider, starts, 2 * STEPS) if np.isfinite(top.value)]
    if not far:
        return problem, points
    ends = [climb(wider, top, SETTLING) for top in _front(far, wider)]
    believed = log_evidence(ends[0][0], wider) > log_evidence(points[0], problem) + BELIEVED
    if not believed or not all(settled for _, settled in ends):
        return problem, points
    return set_aside(wider, [top for top, _ in ends])


def _other_scales(best: Point, problem: Problem, wider: Problem) -> list[np.ndarray]:
    """z (Z,) in the wider problem of other scales that are likelier, by the lower frequencies, than
    that of the best point: with a wrong energy a loop may have come to a second top, from which no
    climb leads to the first."""
    rough, place = glimpse(wider), slices(wider)["log_scale"]
    starts = [rescaled(best.z, problem, wider)]
    for log_scale in SCALES:
        starts.append(starts[0].copy())
        starts[-1][place] += log_scale / wider.sd.log_scale
    first, *others = climbed(rough, starts, GLANCE)
    return [end.z for end in others  # whether to believe it is asked of all frequencies
            if np.isfinite(end.value) and log_evidence(end, rough) > log_evidence(first, rough)]


def _drift(problem: Problem, points, report):
    """With a drift, where that is likelier than none; of `wanted`."""
    if not (enough(problem) and drift_probability(points[0], problem) > LIKELY):
        return problem, points
    report("fitting a drift", 0.7)
    wider = with_drift(problem)
    return set_aside(wider, _freed(wider, points))


def _actuator(problem: Problem, points, report):
    """With the actuator matrix, where that is believed; of `wanted`. Of knobs that miss and knobs
    that act otherwise than told the likelier is believed."""
    wider = with_actuator(problem)
    needed = max(BELIEVED, rise(with_misses(problem), points[0], problem))
    if not rise(wider, points[0], problem) > 0.5 * needed:  # to second order, short of a long way
        return problem, points
    report("fitting how the knobs act", 0.8)
    ends = _freed(wider, points)
    if not log_evidence(ends[0], wider) > log_evidence(points[0], problem) + needed:
        return problem, points
    return set_aside(wider, ends)


def _misses(problem: Problem, points, report):
    """With what the knobs miss their settings by, where that is believed; of `wanted`."""
    wider = with_misses(problem)
    if not rise(wider, points[0], problem) > BELIEVED:
        return problem, points
    report("fitting what the knobs miss", 0.9)
    return set_aside(wider, _freed(wider, points))


def solve(problem: Problem, starts, progress=None, *, other_scales: bool = False) -> Refinement:
    """The modes that climbs from the starts (Z,) end in.

    More than one start climb for GLANCE steps on the lower frequencies first; those that trail the
    best, or come to the same place, are given up. Frames of one setting show a state and its mirror
    image alike: that is an end, too. Frames that do not fit are set aside. The actuator matrix, and
    what the knobs miss their settings by, are estimated too where the others ask for it; a drift
    is averaged over, and climbed with where it is likelier than none. ``other_scales``: look for
    another scale between knobs and optics also where nothing nearby asks for one.
    """
    report = progress or (lambda message, fraction: None)
    if len(starts) > 1:
        report(f"fitting the spectra, {len(starts)} starts", 0.0)
        rough = glimpse(problem)
        starts = [point.z for point in _front(climbed(rough, starts, GLANCE), rough, SLOW)]
    report("fitting the spectra", 0.4)
    points = _front(climbed(problem, starts, STEPS), problem)
    if one_setting(problem.measured.knobs, problem.knob_names, problem.optics):
        images = [mirrored(point.z, problem) for point in points]
        points = _front([*points, *climbed(problem, images, STEPS)], problem)
    problem = tempered(problem, points[0])
    points = _front(climbed_on(problem, points, STEPS), problem)
    report("looking for frames that do not fit", 0.6)
    problem, points = set_aside(problem, points)
    narrow = problem
    problem, points = wanted(problem, points, report, other_scales)
    if problem is not narrow:  # what did not fit may have been what has been freed since
        problem = tempered(problem, points[0])
        points = climbed_on(problem, points, STEPS)
    ends = [climb(problem, point, SETTLING) for point in _front(points, problem)]
    found = [solution(point, problem, settled,
                      drift_probability(point, problem) if may_drift(problem) else None)
             for point, settled in ends]
    evidence = np.array([s.log_evidence for s in found])
    weights = np.exp(evidence - evidence.max())
    order = np.argsort(-weights)
    return Refinement(tuple(found[k] for k in order), weights[order] / weights.sum(), problem,
                      tuple(np.flatnonzero(problem.weights == 0).tolist()))


def likelier(one: Refinement, other: Refinement) -> Refinement:
    """The one whose first solution has the larger evidence, on the frames that both took, weighed
    alike."""
    weights = np.where((one.problem.weights > 0) & (other.problem.weights > 0),
                       max(one.problem.weights.max(), other.problem.weights.max()), 0.0)

    def evidence(found):
        problem = replace(found.problem, weights=weights)
        return log_evidence(reweighed(found.solutions[0].point, problem), problem)

    return other if evidence(other) > evidence(one) else one


def _front(points, problem, behind=BEHIND) -> list[Point]:
    """Points whose evidence is not so far behind, best first, one for each place.

    Raises:
        ValueError: none is finite.
    """
    kept: list[Point] = []
    points = [point for point in points if np.isfinite(point.value)]
    if not points:
        raise ValueError("no state explains the spectra by any number: the frames are not those of "
                         "one instrument and film, or the knobs do not act at all as told; look at "
                         "both")
    best = max(log_evidence(point, problem) for point in points)
    for point in sorted(points, key=lambda p: -log_evidence(p, problem)):
        if log_evidence(point, problem) < best - behind:
            break
        if all((point.z - other.z) @ other.fisher @ (point.z - other.z) > 2 * point.z.size
               for other in kept):
            kept.append(point)
    return kept
