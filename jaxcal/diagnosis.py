"""How the knobs really act, frame by frame: dead knobs, hysteresis, a turned or mirrored camera.

Each frame alone tells the aberrations it was taken with, up to a common sign. With these states
x_k and the settings u_k,

    s_k x_k = x0 + G u_k,   s_k = +-1,

is solved for x0, G and the signs by least squares, begun at each of many guesses of G: as told,
the camera turned by any multiple of 15 degrees, mirrored or not, one knob without effect. G is free
among the two knobs of a pair and for those without a partner. That a knob and all others have the
opposite sign cannot be told, nor does it matter: C10 counts as right, or the first that moves.
Where the settings before each frame are known, another guess is that a share of every move is
missing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxcal.aberrations import indices
from jaxcal.optics import Optics, edge_waves

DIAGNOSED = 5  # frames from which on it is asked how the knobs really act
TURN = 15.0  # degrees between two guesses
GUESSED = 12.0  # squared deviations by which a guess other than "as told" must be better
ROUNDS = 4
ANCHORS = 3  # frames that the signs are counted from, one after the other
OUTLIER = 9.0  # squared deviations that a frame and knob count at most
OWN_WAVES = 0.15  # error of a single frame's state at the aperture's edge, beside the stated one
MOVES = 0.35  # gain below which a knob does not move
TURNED = 20.0  # degrees of a pair's angle, from which on a camera counts as turned
RIGHT = 0.25  # deviation of a gain from 1 that passes
OTHERWISE = 0.5  # deviation of an element of G from an estimate's that speaks against that
LAGS = np.arange(0.02, 0.41, 0.02)  # guesses of the share of each move that does not arrive


@dataclass(frozen=True)
class Response:
    """How the knobs act. P knobs, T frames.

    Attributes:
        knob_names; actuator: (P, P) G; sd: (P, P) its standard deviation, 0 where it was not free.
        lag: share of each move that does not arrive; 0 where that explains no more.
        x0_nm: (P,); fits: (T,) whether each frame fits; cost: sum of the squared deviations, each
            at most OUTLIER.
        findings: what is wrong, sentences with what to do; empty where nothing is.
    """

    knob_names: tuple[str, ...]
    actuator: np.ndarray
    sd: np.ndarray
    lag: float
    x0_nm: np.ndarray
    fits: np.ndarray
    cost: float
    findings: tuple[str, ...]


def of_frames(observations, knobs_nm, knob_names, optics: Optics, state_of: Callable,
              report) -> tuple[list[str], Response | None]:
    """What is wrong with how the knobs act, sentences, from the frames one by one, and how they
    act; nothing of fewer usable frames than DIAGNOSED.

    Args:
        observations: of all frames; knobs_nm: (T, P) their settings, one after the other from zero.
        state_of: gives the state (P,) that a frame's observation was taken with, nm, up to its
            sign, and its standard deviation (P,), or raises ValueError; `estimation.state_of`.
        report: called with (message, fraction).
    """
    good, alone = [k for k, seen in enumerate(observations) if seen.fault is None], {}
    if len(good) < DIAGNOSED:
        return [], None
    for k in good:
        report(f"what is wrong: frame {k + 1} alone", 1.0)
        try:
            alone[k] = state_of(observations[k])
        except ValueError:  # no state explains this one; the others may tell
            continue
    if len(alone) < DIAGNOSED:
        return [f"how the knobs act could not be found out: {len(good) - len(alone)} frames alone "
                f"show no state"], None
    (states, sd), used = zip(*alone.values(), strict=True), list(alone)
    before = np.concatenate([np.zeros_like(knobs_nm[:1]), knobs_nm[:-1]])
    found = response(states, sd, knobs_nm[used], knob_names, optics, before[used])
    return list(found.findings), found


def otherwise(found: Response | None, actuator) -> bool:
    """Whether knobs are found to act quite otherwise than by an actuator matrix (P, P), by most of
    the frames: one does not move, say, or a turned camera sees them."""
    if found is None:
        return False
    off = np.abs(found.actuator - actuator) > np.maximum(OTHERWISE, 3 * found.sd)
    return bool(np.any(off) and found.findings and np.mean(found.fits) > 0.5)


def response(states_nm, sd_nm, knobs_nm, knob_names, optics: Optics, before_nm=None) -> Response:
    """How the knobs act, from states (T, P) and their deviations (T, P) at settings (T, P), nm.

    Args:
        before_nm: (T, P) the setting from which each was gone to; None: hysteresis is not looked
            for.

    Raises:
        ValueError: fewer than three frames.
    """
    names = tuple(knob_names)
    waves = edge_waves(optics)[indices(names)]
    x, u = np.asarray(states_nm, float) * waves, np.asarray(knobs_nm, float) * waves
    sd = np.hypot(np.asarray(sd_nm, float) * waves, OWN_WAVES)
    if len(x) < 3:
        raise ValueError(f"how the knobs act takes at least three frames, got {len(x)}")
    guesses = [(guess, 0.0) for guess in _guesses(names)]
    moves = np.zeros_like(u)
    if before_nm is not None:
        moves = u - np.asarray(before_nm, float) * waves
        guesses += [(np.eye(len(names)), lag) for lag in LAGS]
    known = np.argsort((sd**2).sum(1))[:ANCHORS]  # a frame that is known well fixes the signs
    found = [min((_solve(x, u - lag * moves, sd, guess, first, names) for first in known),
                 key=lambda f: f[0]) for guess, lag in guesses]
    costs = np.array([fit[0] for fit in found])
    costs[1:] += GUESSED
    best = int(np.argmin(costs))
    (cost, x0, gain, of_gain, squares), lag = found[best], float(guesses[best][1])
    moving = np.flatnonzero(np.abs(np.diag(gain)) > MOVES)  # a common sign cannot be told
    first = min(moving, key=lambda place: names[place], default=0)
    sign = np.sign(gain[first, first]) if moving.size else 1.0
    gain, x0 = sign * gain, sign * x0
    fits = squares.mean(1) < OUTLIER
    across = waves[None, :] / waves[:, None]  # from waves a wave to nm a nm
    gain, of_gain = gain * across, of_gain * across
    findings = _findings(gain, of_gain, names)
    if lag:
        findings = [f"hysteresis: {100 * lag:.0f} % of each move does not arrive: go to every "
                    f"setting from the same side, or cycle the lenses first", *findings]
    return Response(names, gain, of_gain, lag, x0 / waves, fits, cost, tuple(findings))


def _solve(x, u, sd, gain, first, names):
    """Cost, x0, G, its standard deviation and squared deviations (T, P), from a guess of G."""
    x0 = x[first] - gain @ u[first]
    of_gain = np.zeros_like(gain)
    for _ in range(ROUNDS):
        expected = x0 + u @ gain.T
        sign = np.where((((x - expected) / sd) ** 2).clip(max=4 * OUTLIER).sum(1)
                        <= (((-x - expected) / sd) ** 2).clip(max=4 * OUTLIER).sum(1), 1.0, -1.0)
        squares = ((sign[:, None] * x - expected) / sd) ** 2
        weight = (1 / sd**2) * np.minimum(1.0, OUTLIER / np.maximum(squares.mean(1), 1e-9))[:, None]
        gain = gain.copy()
        for rows in blocks(names):
            design = np.concatenate([np.ones((len(u), 1)), u[:, rows]], 1)
            for row in rows:
                w = weight[:, row, None]
                normal = design.T @ (w * design) + 1e-9 * np.eye(design.shape[1])
                normal[1:, 1:] += np.eye(len(rows)) / 4  # gains are of the order of one
                right = design.T @ (w[:, 0] * sign * x[:, row])
                right[1:] += gain[row, rows] / 4
                solved = np.linalg.solve(normal, right)
                x0[row], gain[row, rows] = solved[0], solved[1:]
                of_gain[row, rows] = np.sqrt(np.diag(np.linalg.inv(normal))[1:])
    expected = x0 + u @ gain.T
    squares = ((sign[:, None] * x - expected) / sd) ** 2
    return float(squares.clip(max=OUTLIER).sum()), x0, gain, of_gain, squares


def blocks(names) -> list[list[int]]:
    """Places of the knobs that belong together: the two of a pair, a before b, or one alone."""
    found = {}
    for place in sorted(range(len(names)), key=lambda place: names[place]):
        found.setdefault(names[place][:3], []).append(place)
    return list(found.values())


def _guesses(names):
    """(P, P) each: as told, turned and mirrored, and one knob without effect."""
    yield np.eye(len(names))
    for mirrored in (False, True):
        for turn in np.arange(0.0, 360.0, TURN):
            if turn or mirrored:
                yield turned(names, turn, mirrored)
    for knob in range(len(names)):
        dead = np.eye(len(names))
        dead[knob, knob] = 0.0
        yield dead


def turned(names, degrees: float, mirrored: bool = False) -> np.ndarray:
    """Actuator matrix (P, P) as a camera sees it that is turned, and mirrored before that."""
    gain = np.eye(len(names))
    for places in blocks(names):
        fold = int(names[places[0]][2])
        if not fold:
            continue
        angle = np.deg2rad(fold * degrees)
        c, s = np.cos(angle), np.sin(angle)
        halves = ["ab".index(names[place][3]) for place in places]
        whole = np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if mirrored else 1.0])
        gain[np.ix_(places, places)] = whole[np.ix_(halves, halves)]
    return gain


def _findings(gain, sd, names) -> list[str]:
    told, turns = [], []
    for places in blocks(names):
        part, sure = gain[np.ix_(places, places)], sd[np.ix_(places, places)]
        size = np.hypot(*part) if len(places) > 1 else np.abs(part[0])
        still = [k for k in range(len(places)) if size[k] < MOVES and sure[:, k].max() < MOVES / 2]
        for k in still:
            told.append(f"{names[places[k]]} does not move (gain {size[k]:.2f}): look at its "
                        f"supply and cable, or leave it out of the knobs")
        if still:
            continue
        if len(places) == 1:
            if part[0, 0] < -MOVES:
                told.append(f"{names[places[0]]} moves against the others: its sign is wrong")
            continue
        mirrored = bool(np.linalg.det(part) < 0)
        own = part @ np.diag([1.0, -1.0]) if mirrored else part
        angle = np.rad2deg(np.arctan2(own[1, 0] - own[0, 1], own[0, 0] + own[1, 1]))
        unsure = np.rad2deg(sure.max() / max(np.sqrt(abs(np.linalg.det(part))), 1e-3))
        if 2 * unsure < 90:
            wrong = mirrored or abs(angle) > max(TURNED, 3 * unsure)
            turns.append((int(names[places[0]][2]), angle, mirrored, unsure, wrong))
    if any(wrong for *_, wrong in turns):
        told.append(_camera(turns))
    scale = _common(np.diag(gain), np.diag(sd))
    if not told and scale is not None and len(names) > 1:
        told = [f"all knobs move by {scale:.2f} of what they were told: energy_keV, "
                f"semi_angle_mrad (half the full angle) or pixel_mrad is wrong, or the knobs' unit"]
    elif not told:
        told = [f"{names[k]} moves by {gain[k, k]:.2f} of what it was told: mend its calibration"
                for k in range(len(names))
                if abs(gain[k, k] - 1) > max(RIGHT, 3 * sd[k, k])]
    return told


def _common(gains, sd):
    """The factor by which all gains are off alike; None where they are right, or not alike."""
    weight = 1 / (sd**2 + 0.03**2)
    mean = float((weight * gains).sum() / weight.sum())
    alike = np.all(np.abs(gains - mean) < np.maximum(3 * sd, 0.1 * abs(mean)))
    return mean if alike and abs(mean - 1) > RIGHT else None


def _camera(turns) -> str:
    """What turned pairs, (fold, degrees, mirrored, its deviation, whether wrong), say of the
    camera. A pair of fold m tells the camera's angle up to multiples of 360/m degrees."""
    fold, angle, mirrored, *_ = min(turns, key=lambda pair: pair[3])
    possible = [(angle + 360 * k) / fold % 360 for k in range(fold)]

    def misses(turn):
        return sum(((other - fold_ * turn + 180) % 360 - 180) ** 2 / (unsure**2 + 25.0)
                   for fold_, other, _, unsure, _ in turns)

    least = min(map(misses, possible))
    likely = [turn for turn in possible if misses(turn) < least + OUTLIER]
    degrees = " or ".join(f"{turn % 360:.0f}" for turn in sorted(np.round(likely) % 360))
    return (f"the camera sees the knobs {'mirrored and ' if mirrored else ''}turned by {degrees} "
            f"degrees: {'flip and ' if mirrored else ''}turn its frames back, or the knobs")
