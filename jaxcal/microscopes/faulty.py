"""What goes wrong with instruments, to try the loop and adapters against.

A `FaultyMicroscope` stands before another one, usually simulated, and spoils what passes: single
frames, the camera's orientation, how the knobs arrive, what the instrument says of its optics, or a
call. Gains, cross-talk, drift and a knob that does not move are an ``actuator`` and a ``drift_nm``
of `jaxcal.SimulatedMicroscope`.
"""

import time

import numpy as np

from jaxcal.microscopes.protocol import InstrumentError, Past, settings

FRAMES = ("blank", "saturated", "half shadowed", "crystalline", "contaminated", "stale", "late")
"""Faults of a frame. stale: the one before once more; late: exposed before the knobs moved."""
CALLS = ("raise", "hang", "rubbish")
"""Faults of a call of `set` or `acquire`."""
HUNG_S = 3600.0


class FaultyMicroscope:
    """A microscope with something wrong with it.

    Args:
        microscope: the one behind, such as `jaxcal.SimulatedMicroscope`.
        frames: {number of a frame, from 0: one of FRAMES}.
        calls: {number of a call of set or acquire, from 0: one of CALLS}.
        hysteresis: share of each move that does not arrive.
        stuck: {knob: number of a frame}, from which on the knob stays where it is.
        quarter_turns, mirrored: how the camera is mounted: turned, as ``numpy.rot90`` turns, after
            left and right were exchanged.
        optics: what the instrument says of its optics; the truth where None.
        seed: int, of the faults' own noise.

    Attributes:
        largest_nm: (P,) how far each knob was ever sent; asked_nm: (P,) where last, nm.
        Those of the microscope behind.

    Raises:
        ValueError: a fault that is not known.
    """

    def __init__(self, microscope, *, frames=None, calls=None, hysteresis: float = 0.0,
                 stuck=None, quarter_turns: int = 0, mirrored: bool = False, optics=None,
                 seed: int = 0):
        self._behind = microscope
        self._frames, self._calls = dict(frames or {}), dict(calls or {})
        unknown = {*self._frames.values()} - {*FRAMES} | {*self._calls.values()} - {*CALLS}
        if unknown:
            raise ValueError(f"faults should be of {', '.join((*FRAMES, *CALLS))}, got "
                             f"{', '.join(map(str, unknown))}")
        self._stuck = {tuple(microscope.knob_names).index(knob): frame
                       for knob, frame in (stuck or {}).items()}
        self._hysteresis, self._turns, self._mirrored = hysteresis, quarter_turns, mirrored
        self.optics = microscope.optics if optics is None else optics
        self._random = np.random.default_rng([seed, 5])
        self.asked_nm = np.zeros(len(microscope.knob_names))
        self._last, self._taken, self._called = None, 0, 0
        self._arrived = self._stood = self.asked_nm  # now, and before the last move
        self.largest_nm = self.asked_nm.copy()

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        if name == "knobs_nm" and getattr(self._behind, "arrives", True):
            raise AttributeError(name)  # it does not know where it arrives
        return getattr(self._behind, name)

    def set(self, knobs_nm):
        """Turn the knobs to (P,) nm, counted from the start, as far as they arrive."""
        wanted = settings(knobs_nm, self._behind.knob_names)
        self.largest_nm = np.maximum(self.largest_nm, np.abs(wanted))
        self._fail()
        arriving = wanted - self._hysteresis * (wanted - self.asked_nm)
        self.asked_nm = wanted
        for knob, frame in self._stuck.items():
            if self._taken >= frame:
                arriving[knob] = self._arrived[knob]
        self._stood, self._arrived = self._arrived, arriving
        self._behind.set(arriving)

    def acquire(self):
        """One frame (H, W), or what comes in its place."""
        spoilt = self._fail()
        if spoilt is not None:
            return spoilt
        fault = self._frames.get(self._taken)
        self._taken += 1
        if fault == "stale" and self._last is not None:
            return self._last.copy()
        if fault == "late":
            self._behind.set(self._stood)
        frame = np.asarray(self._behind.acquire(), float)
        if fault == "late":
            self._behind.set(self._arrived)
        if self._mirrored:
            frame = frame[:, ::-1]
        frame = np.rot90(frame, self._turns)
        if fault in _SPOIL:
            frame = _SPOIL[fault](frame, self._random)
        self._last = np.ascontiguousarray(frame, np.float32)
        return self._last.copy()

    def resume(self, past: Past):
        """Go on as the instrument that an interrupted run had before it."""
        self._behind.resume(past)
        self._taken = len(past.asked_nm)
        self._called = 2 * self._taken
        if past.knobs_nm is not None:
            self.asked_nm = np.array(past.knobs_nm, float)
            self._arrived = self._stood = self.asked_nm  # as far as the past tells

    def _fail(self):
        fault = self._calls.get(self._called)
        self._called += 1
        if fault == "raise":
            raise InstrumentError("the instrument does not answer")
        if fault == "hang":
            time.sleep(HUNG_S)
        return np.full((3, 7), np.nan) if fault == "rubbish" else None


def _blank(frame, random):
    dark = np.quantile(frame, 0.01)
    return dark + 2.0 * random.standard_normal(frame.shape)


def _saturated(frame, random):
    return np.minimum(frame, np.quantile(frame, 0.6))


def _half_shadowed(frame, random):
    y, x = _plane(frame)
    angle = random.uniform(0, 2 * np.pi)
    dark = np.quantile(frame, 0.01)
    return np.where(np.cos(angle) * x + np.sin(angle) * y > 0, frame, dark)


def _crystalline(frame, random):
    """Fringes of a lattice in two directions, as strong as the film's own contrast and more."""
    y, x = _plane(frame)
    dark, angle, number = np.quantile(frame, 0.01), random.uniform(0, np.pi), random.uniform(8, 25)
    fringes = [np.cos(2 * np.pi * number * (np.cos(a) * x + np.sin(a) * y) + random.uniform(0, 6))
               for a in (angle, angle + np.pi / 3)]
    return dark + (frame - dark) * np.clip(1 + 0.5 * sum(fringes), 0.05, None)


def _contaminated(frame, random):
    """Drops of hydrocarbon: thick patches that darken and blur into each other."""
    y, x = _plane(frame)
    depth = np.zeros(frame.shape)
    for _ in range(12):
        place, size = random.uniform(-0.8, 0.8, 2), random.uniform(0.08, 0.3)
        depth += random.uniform(0.3, 1.5) * np.exp(
            -((x - place[0]) ** 2 + (y - place[1]) ** 2) / (2 * size**2))
    dark = np.quantile(frame, 0.01)
    return dark + (frame - dark) * np.exp(-depth)


def _plane(frame):
    """y and x of the pixels, one at the frame's edge."""
    height, width = frame.shape
    return np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]


_SPOIL = {"blank": _blank, "saturated": _saturated, "half shadowed": _half_shadowed,
          "crystalline": _crystalline, "contaminated": _contaminated}
