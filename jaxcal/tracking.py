"""After the calibration: the state of the instrument followed with one frame now and then.

The knobs' aberrations walk at random, their variance grows with time, and a frame brings it back: a
Kalman filter whose measurement is the refinement of that one frame, begun at what is predicted.
Best is a frame away from focus, at `probe_nm`: near the tuning setting a Ronchigram tells little,
and at a line focus it does not tell on which side of it the state is.

    state = tracking.start(run.estimate, run.series.optics, walk_nm=0.5)
    state = tracking.wait(state, seconds=600)
    state = tracking.look(state, frame, knobs_nm)
    told = tracking.judge(state, knobs_nm)

Frames do not average out what they have in common. Scale, film, camera and the aberrations that are
no knobs stay where the calibration found them, the latter with widths that grow with time, and the
filter keeps what of its error comes from theirs (Schmidt's consider parameters): to learn them from
single frames, by a theory that is not exact, made the state worse. The theory's own error is added
to what the filter knows, and counts in each frame too, as some of it changes with the setting.
"""

from dataclasses import dataclass, replace

import numpy as np

from jaxcal import answers, laplace, observation, posterior, refine, tiles, unknowns
from jaxcal.aberrations import ORDER, SYMMETRY, indices
from jaxcal.acquisition import NEAR
from jaxcal.answers import Estimate
from jaxcal.basins import DECIDED
from jaxcal.estimation import CONFIDENCE
from jaxcal.microscopes.protocol import stated_limits
from jaxcal.optics import Optics, edge_waves, quarter_pi_limits_nm
from jaxcal.series import SeriesError

HOUR = 3600.0
SURPRISE = 25.0  # squared deviations by which a frame may be off what is expected, in any direction
FAINT = 1e-3  # of the prior's information, below which a frame tells nothing of a direction
STEPS = 15  # of the climb
ASTIGMATIC = 0.3  # C12 of a probe over its C10, both halves together
SEEN = 0.1  # share of a frame's windows that the theory is to be trusted in (`hologram.trust`)
FOLLOWED = "state", "log_scale", "film", "noise", "focal_spread", "thickness", "blur", "halo"
HELPS = 0.1  # by which a correction has to raise the probability of being within the limits


@dataclass(frozen=True)
class Tracked:
    """What is known of an instrument at one time. P knobs, F free aberrations, U unknowns.

    Attributes:
        knob_names; optics: nominal `jaxcal.Optics`.
        free: names of the F aberrations, the knobs among them.
        mean, covariance: (U,), (U, U) of the unknowns FOLLOWED, one after the other: the state with
            the knobs at zero, nm, and the rest as in `unknowns.Unknowns`, the film as deviations of
            its prior; without the theory's own error.
        theory_nm2: (P, P) that error in the knobs' aberrations; missed_nm2: (P, P) what knobs that
            do not come to rest where they are sent put into each frame.
        actuator: (P, P) matrix by which the knobs act.
        walk_nm: (F,) standard deviation of the random walk after one hour.
        largest_nm: (P,) largest settings of the knobs, infinite where there are none.
        radius_pixels: of the aperture's image; misfit: deviance per bin by which the calibration's
            frames exceed those that fit.
        surprise: squared deviations by which the last frame was off what was expected, in the
            direction where that is most; nan before.
        last: (H, W) the frame looked at last, by which one that comes again is known; None before.
    """

    knob_names: tuple[str, ...]
    optics: Optics
    free: tuple[str, ...]
    mean: np.ndarray
    covariance: np.ndarray
    theory_nm2: np.ndarray
    missed_nm2: np.ndarray
    actuator: np.ndarray
    walk_nm: np.ndarray
    largest_nm: np.ndarray
    radius_pixels: float
    misfit: float
    surprise: float = np.nan
    last: np.ndarray | None = None

    @property
    def rows(self) -> list[int]:
        """Places of the knobs among the unknowns."""
        return [self.free.index(name) for name in self.knob_names]

    @property
    def x0_nm(self) -> np.ndarray:
        """(P,) aberrations with the knobs at zero, nm."""
        return self.mean[self.rows]

    @property
    def covariance_nm2(self) -> np.ndarray:
        """(P, P) of x0_nm, the theory's own error included."""
        return self.covariance[np.ix_(self.rows, self.rows)] + self.theory_nm2

    def state_nm(self, knobs_nm) -> np.ndarray:
        """(P,) aberrations at a setting (P,), nm."""
        return self.x0_nm + self.actuator @ np.asarray(knobs_nm, float)


@dataclass(frozen=True)
class Judgement:
    """Whether an instrument is tuned at its setting.

    inside: the probability that all knobs are within their limits; correct: whether that is less
    than CONFIDENCE, and at the setting that tunes as far as is known, knobs_nm (P,), more by HELPS
    or CONFIDENCE; not where that is out of reach, or the last frame a surprise; message: all that
    in a sentence, and what to do where it is not.
    """

    inside: float
    correct: bool
    knobs_nm: np.ndarray
    message: str


def start(answer: Estimate, optics: Optics, walk_nm, limits_nm=np.inf) -> Tracked:
    """What is known at the end of a calibration.

    Args:
        answer: the estimate, refined; its state is taken at the time of its last frame.
        walk_nm: (P,) or scalar, drift after one hour, standard deviation, nm; a scalar is that of
            C10 and C12, aberrations of order n drift by the same phase at the aperture's edge.
            Those that are no knobs drift by the phase that the knobs do, in the median.
        limits_nm: the microscope's, largest setting of each knob: (P,), a number or {knob: nm};
            neither a probe nor a correction is proposed beyond.

    Raises:
        ValueError: a drift that is not finite and positive, limits that are none, no estimate
            from the spectra, or one that leaves the state open or does not explain the frames.
    """
    if answer is None or answer.refinement is None:
        why = ("there is no estimate to start from: the calibration was refused" if answer is None
               else "the estimate is of the latents alone, frames are followed by their spectra")
        raise ValueError(f"{why}, make another")
    if answer.modes[0].weight < DECIDED or not answers.reliable(answer):
        raise ValueError(f"the estimate does not say in which state the instrument is, make "
                         f"another: {answer.message}")
    problem, best = answer.refinement.problem, answer.refinement.solutions[0]
    point = best.point
    names = tuple(answer.knob_names)
    waves = edge_waves(optics)
    walk = np.asarray(walk_nm, float)
    if walk.ndim == 0:
        walk = walk * waves[indices(["C10"])[0]] / waves[indices(names)]
    if walk.shape != (len(names),) or not np.all(np.isfinite(walk) & (walk > 0)):
        raise ValueError(f"walk_nm should be positive, one number or one for each of "
                         f"{', '.join(names)}, got {walk_nm}: give the drift of an hour in nm")
    walks = np.median(walk * waves[indices(names)]) / waves[indices(problem.free)]
    known = slice(0, unknowns.slices(problem)[FOLLOWED[-1]].stop)
    sd = unknowns.flat(problem.sd)[known]
    mean = unknowns.flat(problem.mean)[known] + sd * point.z[known]
    mean[unknowns.slices(problem)["film"]] -= problem.mean.film
    covariance = laplace.covariance_of(point, problem)[known, known] * np.outer(sd, sd)
    gain, theory = np.asarray(answer.actuator, float), laplace.theory_nm2(problem)
    tracked = Tracked(
        names, optics, problem.free, mean, covariance, theory, np.diag(best.miss_nm**2), gain,
        walks, stated_limits(limits_nm, names), observation.radius_of(problem.optics, optics),
        refine.usual_misfit(point, problem))
    # of the knobs more is known than from the climb: a drift that is averaged over, other solutions
    rows, block = tracked.rows, np.ix_(tracked.rows, tracked.rows)
    walks[rows], mean[rows] = walk, -gain @ answer.tuned_knobs_nm
    covariance[block] += _positive(answers.left(answer)[1] - theory - covariance[block])
    return tracked


def _positive(matrix) -> np.ndarray:
    """A symmetric matrix (N, N) without its negative part."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    return vectors @ np.diag(np.maximum(values, 0.0)) @ vectors.T


def wait(tracked: Tracked, seconds: float) -> Tracked:
    """The same some time later: less is known.

    Raises:
        ValueError: a time that is negative or not finite.
    """
    if not 0 <= seconds < np.inf:
        raise ValueError(f"seconds should be 0 or more, got {seconds}: time goes on")
    grown = np.zeros(tracked.mean.size)
    grown[: len(tracked.free)] = tracked.walk_nm**2 * seconds / HOUR
    return replace(tracked, covariance=tracked.covariance + np.diag(grown))


def look(tracked: Tracked, frame, knobs_nm) -> Tracked:
    """What a frame (H, W), taken at the setting (P,), nm, adds.

    Raises:
        SeriesError: the frame cannot be used, shows another film or instrument, or is expected, and
            found, too near focus to tell anything; nothing was learnt.
    """
    seen = observation.observe(frame, tracked.optics)
    earlier = [] if tracked.last is None else [tracked.last]
    if fault := seen.fault or observation.stale(frame, earlier):
        raise SeriesError(f"the frame cannot be used: {fault}", "take another")
    problem = _problem(tracked, seen, np.asarray(knobs_nm, float))
    start = posterior.evaluate(np.zeros(problem.active.size), problem)
    point, _ = refine.climb(problem, start, STEPS)
    problem = refine.tempered(problem, point)
    point, _ = refine.climb(problem, posterior.reweighed(point, problem), STEPS)
    if point.trusted[0] < SEEN:
        raise SeriesError(
            f"the frame tells nothing of the state, {point.trusted[0]:.0%} of its windows can be "
            f"trusted: it is too near focus", "take one away from focus, at tracking.probe_nm")
    if point.misfit[0] > tracked.misfit + refine.MISFIT:
        raise SeriesError(
            f"the frame does not fit, by {point.misfit[0]:.2f} nats a bin: no state near the one "
            f"expected explains it", "go to a clean, thin area of the film; where that is not it, "
            "calibrate anew")
    known = slice(0, tracked.mean.size)
    own = np.zeros_like(tracked.covariance)
    own[np.ix_(tracked.rows, tracked.rows)] = tracked.theory_nm2 + tracked.missed_nm2
    sd = np.sqrt(np.diag(tracked.covariance))
    mean, covariance, surprise = combined(
        tracked.mean, tracked.covariance, tracked.mean + sd * point.z[known],
        laplace.covariance_of(point, problem)[known, known] * np.outer(sd, sd), own)
    others = np.setdiff1d(np.arange(mean.size), tracked.rows)
    mean[others] = tracked.mean[others]
    covariance[np.ix_(others, others)] = tracked.covariance[np.ix_(others, others)]
    return replace(tracked, mean=mean, covariance=covariance, surprise=surprise,
                   last=np.array(frame))


def combined(mean, covariance, climbed, width, own):
    """Mean (U,) and covariance (U, U) of a prediction and a frame together, and the surprise: how
    far the frame alone is off the prediction, squared and in units of what that should vary by, in
    the direction where that is most.

    Args:
        mean, covariance: of the prediction.
        climbed, width: mean and covariance of both together, but for the frame's own errors.
        own: (U, U) these, of which its information does not know.
    """
    sd = np.sqrt(np.diag(covariance))
    scale = np.outer(sd, sd)
    told = np.linalg.inv(width / scale)
    pull = told @ ((climbed - mean) / sd)  # of the frame alone
    told = _positive(told - np.linalg.inv(covariance / scale))
    less = np.linalg.inv(np.eye(len(mean)) + told @ (own / scale))
    told, pull = _positive(less @ told), less @ pull
    factor = np.linalg.cholesky(covariance / scale)
    information, axes = np.linalg.eigh(factor.T @ told @ factor)
    information = np.maximum(information, 0.0)
    axes = factor @ axes  # in which prediction and frame are independent, the former's deviation 1
    off, seen = axes.T @ pull, information > FAINT
    surprise = np.max(off[seen] ** 2 / (information * (1 + information))[seen], initial=0.0)
    after = axes / (1 + information) @ axes.T
    return mean + sd * (axes @ (off / (1 + information))), after * scale, float(surprise)


def judge(tracked: Tracked, knobs_nm, limits_nm=None) -> Judgement:
    """Whether the instrument is within limits (P,), the pi/4 limits where None, at a setting."""
    limits = (quarter_pi_limits_nm(tracked.optics, tracked.knob_names)
              if limits_nm is None else np.broadcast_to(np.asarray(limits_nm, float),
                                                        len(tracked.knob_names)))
    inside = answers.inside(tracked.state_nm(knobs_nm), tracked.covariance_nm2, limits)
    tunes = -np.linalg.solve(tracked.actuator, tracked.x0_nm)
    best = answers.inside(np.zeros(len(limits)), tracked.covariance_nm2, limits)
    helps = best >= min(CONFIDENCE, inside + HELPS)
    beyond = np.abs(tunes) > tracked.largest_nm
    surprised = tracked.surprise > SURPRISE
    correct = inside < CONFIDENCE and helps and not surprised and not np.any(beyond)
    message = f"within the limits with {100 * inside:.0f} %"
    if correct:
        message += f"; correct the knobs, then with {100 * best:.0f} %"
    elif inside < CONFIDENCE and not helps:
        message += "; take a frame away from focus, the state is not known well enough to correct"
    elif inside < CONFIDENCE and np.any(beyond):
        worst = int(np.argmax(beyond))
        message += (f"; {tracked.knob_names[worst]} would have to be turned to {tunes[worst]:.0f} "
                    f"nm, its limit is {tracked.largest_nm[worst]:g} nm: bring the instrument "
                    f"nearer by other means and calibrate anew")
    if surprised:
        message += ("; the last frame is off what was expected by more than the drift explains: "
                    "calibrate anew")
    return Judgement(inside, correct, tunes, message)


def probe_nm(tracked: Tracked, side: int = 1) -> np.ndarray:
    """Setting (P,), nm, whose frame tells much: NEAR waves of C10, ASTIGMATIC of that of C12, the
    other knobs tuned.

    Not at a line focus, though its streaks tell more to first order: there the spectrum is even in
    what the state is off across the line, and half of the frames bring it the wrong way.

    Args:
        side: 1 or -1, of focus. What the scale between knobs and optics is off moves the state one
            way on one side and back on the other: take them in turns. Where that side is beyond the
            knobs' limits the other is taken.

    Raises:
        ValueError: both are, or no knob is C10 or C12.
    """
    places = indices(tracked.knob_names)
    away = np.where(ORDER[places] == 1, side * NEAR, 0.0)
    if not np.any(away):
        raise ValueError(f"none of {', '.join(tracked.knob_names)} takes a frame away from focus: "
                         f"follow with C10 or C12 among the knobs")
    twofold = SYMMETRY[places] == 2
    if np.any(away[~twofold]):
        away[twofold] *= ASTIGMATIC / np.sqrt(2)
    tunes = -np.linalg.solve(tracked.actuator, tracked.x0_nm)
    away = np.linalg.solve(tracked.actuator, away / edge_waves(tracked.optics)[places])
    for probe in (tunes + away, tunes - away):
        if np.all(np.abs(probe) <= tracked.largest_nm):
            return probe
    raise ValueError("the knobs' limits leave no room for a frame away from focus: bring the "
                     "instrument nearer by other means and calibrate anew")


def _problem(tracked: Tracked, seen: observation.Observation, knobs) -> unknowns.Problem:
    """The refinement's problem of one frame, its prior what is predicted."""
    radius = tracked.radius_pixels
    power = tiles.tile_spectra(seen.frame, seen.disc._replace(radius=radius), seen.dark)
    measured = unknowns.Measured((power,), (tracked.actuator @ knobs)[None], np.zeros(1), 0.0)
    problem = unknowns.problem(measured, tracked.knob_names,
                               observation.measured_optics(tracked.optics, radius), radius)
    place, widths = unknowns.slices(problem), np.sqrt(np.diag(tracked.covariance))
    mean, sd = ({name: np.reshape(part[place[name]], np.shape(getattr(problem.mean, name)))
                 for name in FOLLOWED} for part in (tracked.mean, widths))
    mean["film"] = problem.mean.film + problem.film_factor @ mean["film"]
    precision = np.eye(problem.active.size)
    precision[: widths.size, : widths.size] = np.linalg.inv(
        tracked.covariance / np.outer(widths, widths))
    return replace(problem, mean=problem.mean._replace(**mean), sd=problem.sd._replace(**sd),
                   precision=precision)
