"""Can a set of knob steps decide? Before a frame is taken: expected widths, and the sign.

Two things have to be decided by the steps u_k (docs/identifiability.md). How well each knob's state
x0 is known follows from the Fisher information of the spectra at the states x0 + u_k, prior
included, everything else marginalised. And the spectra of one frame are the same for a state and
its mirror image, all aberrations of the opposite sign. The mirror image -x0 of the whole series
sees its knobs turned the wrong way, by 2 u_k; with the information F_k of frame k, the slopes J_k
of its phases in the unknowns and d_k what 2 u_k moves, the data are expected to speak against it by

    m = min_v  1/2 sum_k (J_k v - d_k)^T F_k (J_k v - d_k) + |v|^2 / 2

in log odds, to second order in the steps. It is zero where all u_k are equal, and only there, if
the spectra show what the knobs do.
"""

from dataclasses import dataclass, replace

import numpy as np

from jaxcal import aberrations, devices, laplace, posterior, tiles, unknowns
from jaxcal.optics import Optics, quarter_pi_limits_nm
from jaxcal.unknowns import Measured, Problem

DRAWS = 6  # of the state and of what else is unknown; near focus a frame tells little
WITHIN = 0.5  # standard deviation over limit: two of them, 95 % of a normal error, are inside
SIGN_ODDS = 14.0  # expected log odds m that leave the mirror image less than 5 % nearly always:
# they scatter by sqrt(2 m), and m - 2 sqrt(2 m) should exceed log(0.95/0.05)
KEPT = 0.9  # of the prior's width: nothing was learnt
ELECTRONS = 100 * np.pi * 115.0**2  # in the disc of a frame, a usual dose: 100 per pixel
STEP = 40.0  # pi/4 limits, 5 waves at the edge: a step that decides any sign


@dataclass(frozen=True)
class Identifiability:
    """What a set of knob steps can decide. P knobs.

    Attributes:
        knob_names: the P knobs.
        sd_nm, worst_sd_nm: (P,) expected standard deviation of x0, mean and largest over the draws.
        limits_nm: (P,) pi/4 limits; ratio: (P,) sd_nm / limits_nm.
        sign_log_odds: least over the draws of the log odds against the mirror image.
        sign_decided: they exceed SIGN_ODDS; decides: and all ratios are below WITHIN, and no knob
            is `unseen`.
        message: what the steps decide and what to do.
    """

    knob_names: tuple[str, ...]
    sd_nm: np.ndarray
    worst_sd_nm: np.ndarray
    limits_nm: np.ndarray
    sign_log_odds: float
    sign_decided: bool
    decides: bool
    message: str

    @property
    def ratio(self) -> np.ndarray:
        return self.sd_nm / self.limits_nm

    def __str__(self):
        lines = [f"{name:5} {sd:8.2g} nm (worst {worst:.2g}), {ratio:.2g} of the pi/4 limit"
                 for name, sd, worst, ratio in zip(
                     self.knob_names, self.sd_nm, self.worst_sd_nm, self.ratio, strict=True)]
        return "\n".join([*lines, self.message])


def identifiability(knobs_nm, knob_names, optics: Optics, *, x0_nm=None, sd_nm=None,
                    electrons: float = ELECTRONS, draws: int = DRAWS,
                    seed: int = 0) -> Identifiability:
    """What frames at these knob settings can decide about the state with the knobs at zero.

    The state, the film, the coherence and the camera are drawn from their priors; the Fisher
    information at each draw is that of the refinement's theory (:mod:`jaxcal.hologram`).

    Args:
        knobs_nm: (T, P) settings of the frames, nm.
        knob_names: P aberrations.
        optics: nominal `jaxcal.Optics`.
        x0_nm, sd_nm: (P,) a guess of the state and its standard deviation, nm; zero and the prior's
            width where None. The guess says where to look; it is no prior of the estimate.
        electrons: in the disc of one frame.
        draws, seed: how many, and of what seed.

    Returns:
        `Identifiability`; its text is for people.

    Raises:
        ValueError: the steps are no finite (T, P) array, or a name, guess or number is no good.

    Example:
        >>> import jaxcal
        >>> optics = jaxcal.Optics(200.0, 20.0, 0.19)
        >>> told = jaxcal.identifiability([[0.0], [0.0]], ["C10"], optics, draws=1)
        >>> told.sign_decided
        False
    """
    knobs, names = np.asarray(knobs_nm, float), tuple(knob_names)
    places = aberrations.indices(names)
    if knobs.ndim != 2 or knobs.shape[1:] != places.shape or not knobs.size:
        raise ValueError(f"knobs_nm should have the shape (frames, {len(names)}), got "
                         f"{knobs.shape}: one row of settings of {', '.join(names)} for each frame")
    if not np.all(np.isfinite(knobs)):
        raise ValueError("knobs_nm should be finite, got a setting that is not: give nm")
    if draws < 1 or not electrons > 0:
        raise ValueError(f"draws should be at least 1 and electrons positive, got {draws} and "
                         f"{electrons}: leave them out for {DRAWS} and {ELECTRONS:.2g}")
    middle, spread = (_each("x0_nm", x0_nm, names, 0.0),
                      _each("sd_nm", sd_nm, names, unknowns.state_sd_nm(names)))
    limits = quarter_pi_limits_nm(optics, names)
    problem = planned(knobs, names, optics, electrons)
    rows = [problem.free.index(name) for name in names]
    random = np.random.default_rng(seed)
    deviations, odds = [], []
    for _ in range(draws):
        z = np.where(problem.active, random.standard_normal(problem.active.size), 0.0)
        z[rows] = (middle + spread * random.standard_normal(len(names))) / problem.sd.state[rows]
        covariance, log_odds = one_draw(z, problem)
        deviations.append(np.sqrt(np.diag(covariance)))
        odds.append(log_odds)
    against = float(min(odds))
    told = Identifiability(names, np.mean(deviations, 0), np.max(deviations, 0), limits, against,
                           against >= SIGN_ODDS, False, "")
    blind = unseen(names, optics)
    if blind:
        return replace(told, message=of_unseen(blind))
    decides = told.sign_decided and bool(np.all(told.ratio <= WITHIN))
    theory = laplace.theory_sd_nm(names, optics) / limits
    return replace(told, decides=decides, message=_message(told, knobs, theory))


def planned(knobs_nm, knob_names, optics: Optics, electrons: float = ELECTRONS) -> Problem:
    """The refinement's problem for frames (T, P) not taken yet; only their number of bins and the
    level of the noise, that of shot noise, are in their place."""
    shot_noise = np.pi / electrons * np.exp(-unknowns.NOISE[0][0])  # the prior's mean is below it
    power = tuple(np.full((len(layout.centres), len(layout.bins)), shot_noise, np.float32)
                  for layout in tiles.LAYOUTS)
    frames = len(knobs_nm)
    measured = Measured((power,) * frames, np.asarray(knobs_nm, float), np.arange(float(frames)),
                        float(frames - 1))
    return unknowns.problem(measured, knob_names, optics, optics.radius_pixels)


def one_draw(z, problem: Problem):
    """Covariance (P, P) of the knobs' x0, nm^2, and the log odds against the mirror image at z."""
    phases, physics, slopes = unknowns.frames_of(z, problem)
    places = aberrations.places(problem.free)
    wrong = turned_twice(z, problem)
    size = z.size
    fisher, pull, energy = np.eye(size), np.zeros(size), 0.0

    def of_frame(k):
        return np.asarray(posterior.frame_terms(np.float32(phases[k]), physics[k],
                                                problem.measured.power[k], places,
                                                problem.layouts)[2], float)

    for k, information in enumerate(devices.side_by_side(of_frame, range(len(phases)))):
        fisher += slopes[k].T @ information @ slopes[k]
        pull += slopes[k].T @ information @ wrong[k]
        energy += wrong[k] @ information @ wrong[k]
    point = posterior.Point(z, 0.0, np.zeros(size), fisher, *np.zeros((2, len(phases))))
    active = problem.active
    pull = pull[active]
    explained = pull @ np.linalg.solve(fisher[np.ix_(active, active)], pull)
    return laplace.solution(point, problem, True).covariance_nm2, max(0.0, energy - explained) / 2


def turned_twice(z, problem: Problem):
    """What twice the steps, counted from their mean, move (T, L): phases of the free aberrations,
    rad, and nothing of the fields of `jaxcal.hologram.Physics`."""
    _, _, slopes = unknowns.frames_of(z, problem)
    steps = problem.measured.knobs - problem.measured.knobs.mean(0)
    wrong = np.zeros(slopes.shape[:2])
    for knob, name in enumerate(problem.knob_names):
        row = problem.free.index(name)
        wrong[:, row] += 2 * steps[:, knob] * slopes[0, row, row] / problem.sd.state[row]
    return wrong


def unseen(knob_names, optics: Optics) -> tuple[str, ...]:
    """The knobs of which no number of frames tells anything, whatever their settings.

    What an answer says of a knob is never narrower than the theory's own error. Where that alone is
    KEPT of the width before any frame is seen, nothing can be learnt. No frame is simulated for it.
    """
    error, prior = laplace.theory_sd_nm(knob_names, optics), unknowns.state_sd_nm(knob_names)
    return tuple(np.array(knob_names)[error >= KEPT * prior].tolist())


def check_loop(frames: int, largest_nm, knob_names, optics: Optics) -> None:
    """Refuse a closed loop in which no steps can decide the sign.

    Args:
        frames: the budget; largest_nm: (P,) largest setting of each knob.

    Raises:
        ValueError: what is missing, and what to do.
    """
    if frames < 2:
        raise ValueError(
            f"frames should be at least 2, got {frames}: the spectra of one frame are the same for "
            f"a state and its mirror image; give a frame budget for a second knob setting")
    if not len(knob_names):
        raise ValueError("knob_names should hold at least one knob, got none: without a step a "
                         "state and its mirror image show the same; name what can be turned")
    reach, limits = np.asarray(largest_nm, float), quarter_pi_limits_nm(optics, knob_names)
    if np.any(reach >= STEP * limits):
        return
    told = identifiability(np.stack([-reach, reach]), knob_names, optics)
    if not told.sign_decided:
        raise ValueError(
            f"the knobs' limits should leave room for a step, got {_list(knob_names, reach)}: a "
            f"state and its mirror image show the same until a knob is turned, from limit to limit "
            f"the log odds against it are {told.sign_log_odds:.1f}, {SIGN_ODDS:.0f} would do; "
            f"allow a step, {_step(knob_names, limits)}")


def of_unseen(names) -> str:
    """What is said of knobs that are `unseen`."""
    return (f"no frame can tell anything of {', '.join(names)}: a usual value makes hardly more "
            f"phase in the aperture than the theory is off by; leave {_it(names)} out of the knobs")


def _it(names) -> str:
    return "it" if len(names) == 1 else "them"


def _message(told: Identifiability, knobs, theory) -> str:
    """What the steps decide, and what to do; theory: (P,) its own error, in limits, of which more
    frames take nothing."""
    names, limits, frames = told.knob_names, told.limits_nm, len(knobs)
    if not told.sign_decided:
        if np.all(np.ptp(knobs, axis=0) <= unknowns.SAME * limits):
            place = "all frames at one knob setting" if frames > 1 else "one frame"
            return (f"not decided: {place}, where a state and its mirror image show the same; "
                    f"take a frame at another, {_step(names, limits)}")
        return (f"not decided: the settings are so close that the log odds against the mirror "
                f"image are {told.sign_log_odds:.1f}, {SIGN_ODDS:.0f} would do; take a frame "
                f"farther away, {_step(names, limits)}")
    wide = [k for k in np.argsort(-told.ratio) if told.ratio[k] > WITHIN]
    if not wide:
        return "decided: the sign, and every knob to well within its pi/4 limit"
    blind = [names[k] for k in wide
             if told.sd_nm[k] > KEPT * unknowns.state_sd_nm([names[k]])[0]]
    if blind:
        return (f"the sign is decided, but these frames tell nothing of {', '.join(blind)}: the "
                f"aperture does not show so little phase; leave {_it(blind)} out of the knobs")
    worst = wide[0]
    times = (told.ratio[worst] ** 2 - theory[worst] ** 2) / (WITHIN**2 - theory[worst] ** 2)
    more = int(np.ceil(frames * times))
    open_ = ", ".join(f"{names[k]} ({told.ratio[k]:.1f} limits)" for k in wide)
    return (f"the sign is decided, but not to half the pi/4 limit: {open_}; about {more} frames at "
            f"such settings would do, fewer where calibrate chooses them")


def _each(what, values, names, otherwise):
    found = np.asarray(otherwise if values is None else values, float)
    if found.shape not in ((), (len(names),)) or not np.all(np.isfinite(found)):
        raise ValueError(f"{what} should be one finite number of nm for each of "
                         f"{', '.join(names)}, got {values}: give {len(names)}")
    return found


def _step(names, limits) -> str:
    return f"for instance {names[0]} by {STEP * limits[0]:.0f} nm"


def _list(names, values) -> str:
    return ", ".join(f"{name} {value:g} nm" for name, value in zip(names, values, strict=True))
