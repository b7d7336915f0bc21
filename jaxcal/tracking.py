"""After the calibration: the state of the instrument followed with one frame now and then.

The state x0 of the knobs walks at random, its variance grows with time, and a frame brings it
back: a Kalman filter whose measurement is the refinement of that one frame, begun at the state
predicted. Best is a frame away from focus, at `probe_nm`: near the tuning setting a Ronchigram
tells little.

    state = tracking.start(run.estimate, run.series.optics, walk_nm=0.5)
    state = tracking.wait(state, seconds=600)
    state = tracking.look(state, frame, knobs_nm)
    told = tracking.judge(state, knobs_nm)
"""

from dataclasses import dataclass, field, replace

import numpy as np

from jaxcal import answers, laplace, observation, posterior, refine, tiles, unknowns
from jaxcal.aberrations import ORDER, SYMMETRY, indices
from jaxcal.acquisition import NEAR
from jaxcal.answers import Estimate
from jaxcal.estimation import CONFIDENCE
from jaxcal.microscopes.protocol import stated_limits
from jaxcal.optics import Optics, edge_waves, quarter_pi_limits_nm
from jaxcal.series import SeriesError

HOUR = 3600.0
SURPRISE = 16.0  # squared deviations, a knob, by which a frame may surprise
STEPS = 15  # of the climb
SEEN = 0.1  # share of a frame's windows that the theory is to be trusted in (`hologram.trust`)
LEARNT = "log_scale", "film", "noise", "focal_spread", "thickness", "blur", "halo"
WIDTH = 2.0  # standard deviations that are to fit into a limit before the knobs are corrected
HELPS = 0.03  # by which a correction has to raise the probability of being within the limits


@dataclass(frozen=True)
class Tracked:
    """What is known of an instrument at one time. P knobs.

    Attributes:
        knob_names; optics: nominal `jaxcal.Optics`.
        x0_nm, covariance_nm2: (P,), (P, P) state with the knobs at zero, nm.
        actuator: (P, P) matrix by which the knobs act.
        walk_nm: (P,) standard deviation of the random walk after one hour.
        largest_nm: (P,) largest settings of the knobs, infinite where there are none.
        learnt: {name: (mean, standard deviation)} of `unknowns.Unknowns`, what the calibration
            found of scale, film and camera; one frame cannot tell them from the state.
        radius_pixels: of the aperture's image; None where each frame's own is taken.
        surprise: squared deviations a knob by which the last frame moved the state, nan before.
    """

    knob_names: tuple[str, ...]
    optics: Optics
    x0_nm: np.ndarray
    covariance_nm2: np.ndarray
    actuator: np.ndarray
    walk_nm: np.ndarray
    largest_nm: np.ndarray
    learnt: dict = field(default_factory=dict)
    radius_pixels: float | None = None
    surprise: float = np.nan

    def state_nm(self, knobs_nm) -> np.ndarray:
        """(P,) aberrations at a setting (P,), nm."""
        return self.x0_nm + self.actuator @ np.asarray(knobs_nm, float)


@dataclass(frozen=True)
class Judgement:
    """Whether an instrument is tuned at its setting: inside, the probability that all knobs are
    within their limits; correct: whether that is less than CONFIDENCE and the setting that tunes,
    knobs_nm (P,), is within reach, known well enough to go there, and better than the present one;
    message: all that in a sentence, and what to do where it is not."""

    inside: float
    correct: bool
    knobs_nm: np.ndarray
    message: str


def start(answer: Estimate, optics: Optics, walk_nm, limits_nm=np.inf) -> Tracked:
    """What is known at the end of a calibration.

    Args:
        answer: the estimate; its state is taken at the time of its last frame.
        walk_nm: (P,) or scalar, drift after one hour, standard deviation, nm; a scalar is that of
            C10 and C12, aberrations of order n drift by the same phase at the aperture's edge.
        limits_nm: the microscope's, largest setting of each knob: (P,), a number or {knob: nm};
            neither a probe nor a correction is proposed beyond.

    Raises:
        ValueError: a drift that is not finite and positive, limits that are none, or no estimate.
    """
    if answer is None:
        raise ValueError("there is no estimate to start from: the calibration was refused, make "
                         "another")
    names = tuple(answer.knob_names)
    places = indices(names)
    walk = np.asarray(walk_nm, float)
    if walk.ndim == 0:
        waves = edge_waves(optics)
        walk = walk * waves[indices(["C10"])[0]] / waves[places]
    if walk.shape != places.shape or not np.all(np.isfinite(walk) & (walk > 0)):
        raise ValueError(f"walk_nm should be positive, one number or one for each of "
                         f"{', '.join(names)}, got {walk_nm}: give the drift of an hour in nm")
    gain = np.asarray(answer.actuator, float)
    tracked = Tracked(names, optics, -gain @ answer.tuned_knobs_nm, answers.left(answer)[1], gain,
                      walk, stated_limits(limits_nm, names))
    if answer.refinement is None:
        return tracked
    problem, point = answer.refinement.problem, answer.refinement.solutions[0].point
    found, active = unknowns.decode(point.z, problem), np.flatnonzero(problem.active)
    sd = np.zeros(problem.active.size)
    sd[active] = np.sqrt(np.diag(np.linalg.inv(point.fisher[np.ix_(active, active)])))
    sd *= unknowns.flat(problem.sd)
    learnt = {name: (getattr(found, name), sd[unknowns.slices(problem)[name]].reshape(
        np.shape(getattr(found, name)))) for name in LEARNT}
    measured = (problem.optics.semi_angle_mrad / optics.semi_angle_mrad) ** (
        1 / observation.MEASURED_SHARE)
    return replace(tracked, learnt=learnt, radius_pixels=measured * optics.radius_pixels)


def wait(tracked: Tracked, seconds: float) -> Tracked:
    """The same some time later: less is known.

    Raises:
        ValueError: a time that is negative or not finite.
    """
    if not 0 <= seconds < np.inf:
        raise ValueError(f"seconds should be 0 or more, got {seconds}: time goes on")
    grown = np.diag(tracked.walk_nm**2 * seconds / HOUR)
    return replace(tracked, covariance_nm2=tracked.covariance_nm2 + grown)


def look(tracked: Tracked, frame, knobs_nm) -> Tracked:
    """What a frame (H, W), taken at the setting (P,), nm, adds.

    Raises:
        SeriesError: the frame cannot be used, or is expected, and found, too near focus to tell
            anything; nothing was learnt.
    """
    seen = observation.observe(frame, tracked.optics)
    if seen.fault is not None:
        raise SeriesError(f"the frame cannot be used: {seen.fault}", "take another")
    problem = _problem(tracked, seen, np.asarray(knobs_nm, float))
    start = posterior.evaluate(np.zeros(problem.active.size), problem)
    point, _ = refine.climb(problem, start, STEPS)
    if point.trusted[0] < SEEN:
        raise SeriesError(
            f"the frame tells nothing of the state, {point.trusted[0]:.0%} of its windows can be "
            f"trusted: it is too near focus", "take one away from focus, at tracking.probe_nm")
    climbed, _, _ = laplace.tuning(unknowns.decode(point.z, problem), problem)
    x0, after = combined(tracked.x0_nm, tracked.covariance_nm2, climbed,
                         laplace.covariances(point, problem)[0], laplace.theory_nm2(problem))
    before = np.diag(tracked.covariance_nm2)
    surprise = float(np.mean((x0 - tracked.x0_nm) ** 2 / before))
    return replace(tracked, x0_nm=x0, covariance_nm2=after, surprise=surprise)


def combined(mean, covariance, climbed, width, theory):
    """Mean (P,) and covariance (P, P) of a prediction and a frame together.

    Args:
        mean, covariance: of the prediction.
        climbed, width: mean and covariance of the frame with the prediction's deviations alone as
            the prior, without their correlations.
        theory: (P, P) the theory's own error, which the frame's information does not know of.
    """
    told = np.linalg.inv(width)
    pull = told @ (climbed - mean)  # of the frame alone
    told = told - np.diag(1 / np.diag(covariance))
    values, vectors = np.linalg.eigh(0.5 * (told + told.T))
    told = vectors @ np.diag(np.maximum(values, 0.0)) @ vectors.T
    less = np.linalg.inv(np.eye(len(mean)) + told @ theory)
    told, pull = less @ told, less @ pull
    after = np.linalg.inv(np.linalg.inv(covariance) + 0.5 * (told + told.T))
    return mean + after @ pull, after


def judge(tracked: Tracked, knobs_nm, limits_nm=None) -> Judgement:
    """Whether the instrument is within limits (P,), the pi/4 limits where None, at a setting."""
    limits = (quarter_pi_limits_nm(tracked.optics, tracked.knob_names)
              if limits_nm is None else np.asarray(limits_nm, float))
    inside = answers.inside(tracked.state_nm(knobs_nm), tracked.covariance_nm2, limits)
    tunes = -np.linalg.solve(tracked.actuator, tracked.x0_nm)
    best = answers.inside(np.zeros(len(limits)), tracked.covariance_nm2, limits)
    known = bool(np.all(WIDTH * np.sqrt(np.diag(tracked.covariance_nm2)) <= limits))
    known = known and best >= min(CONFIDENCE, inside + HELPS)
    beyond = np.abs(tunes) > tracked.largest_nm
    surprised = tracked.surprise > SURPRISE
    correct = inside < CONFIDENCE and known and not surprised and not np.any(beyond)
    message = f"within the limits with {100 * inside:.0f} %"
    if correct:
        message += "; correct the knobs"
    elif inside < CONFIDENCE and not known:
        message += "; take a frame away from focus, the state is not known well enough to correct"
    elif inside < CONFIDENCE and np.any(beyond):
        worst = int(np.argmax(beyond))
        message += (f"; {tracked.knob_names[worst]} would have to be turned to {tunes[worst]:.0f} "
                    f"nm, its limit is {tracked.largest_nm[worst]:g} nm: bring the instrument "
                    f"nearer by other means and calibrate anew")
    if surprised:
        message += ("; the last frame moved the state by more than the drift explains: calibrate "
                    "anew")
    return Judgement(inside, correct, tunes, message)


def probe_nm(tracked: Tracked, side: int = 1) -> np.ndarray:
    """Setting (P,), nm, whose frame tells much: at a line focus, the other knobs tuned.

    Args:
        side: 1 or -1, of focus. What the scale between knobs and optics is off moves the state one
            way on one side and back on the other: take them in turns. Where that side is beyond the
            knobs' limits the other is taken.

    Raises:
        ValueError: both are.
    """
    places = indices(tracked.knob_names)
    away = np.where(ORDER[places] == 1, side * NEAR, 0.0)
    if np.count_nonzero(away) == 3:
        away[SYMMETRY[places] == 2] /= np.sqrt(2)
    tunes = -np.linalg.solve(tracked.actuator, tracked.x0_nm)
    away = away / edge_waves(tracked.optics)[places]
    for probe in (tunes + away, tunes - away):
        if np.all(np.abs(probe) <= tracked.largest_nm):
            return probe
    raise ValueError("the knobs' limits leave no room for a frame away from focus: bring the "
                     "instrument nearer by other means and calibrate anew")


def _problem(tracked: Tracked, seen: observation.Observation, knobs) -> unknowns.Problem:
    """The refinement's problem of one frame, its prior the state predicted."""
    radius, ellipticity = observation.camera_of([seen])
    radius = tracked.radius_pixels or radius
    power = tiles.tile_spectra(
        seen.frame, seen.disc._replace(radius=radius, ellipticity=ellipticity), seen.dark)
    measured = unknowns.Measured((power,), (tracked.actuator @ knobs)[None], np.zeros(1), 0.0)
    problem = unknowns.problem(measured, tracked.knob_names,
                               observation.measured_optics(tracked.optics, radius), radius)
    rows = [problem.free.index(name) for name in tracked.knob_names]
    mean, sd = problem.mean.state.copy(), problem.sd.state.copy()
    mean[rows] = tracked.x0_nm
    sd[rows] = np.sqrt(np.diag(tracked.covariance_nm2))
    means, deviations = ({name: pair[k] for name, pair in tracked.learnt.items()} for k in (0, 1))
    return replace(problem, mean=problem.mean._replace(state=mean, **means),
                   sd=problem.sd._replace(state=sd, **deviations))
