"""A microscope made of jaxcal's own wave optics, with a hidden state to be found."""

import zlib

import jax
import numpy as np

from jaxcal.aberrations import NAMES, ORDER, dictionary, indices, vector
from jaxcal.microscopes import camera
from jaxcal.microscopes.protocol import InstrumentError, Past, limits, settings
from jaxcal.optics import Optics

FIRST_ORDER = ("C10", "C12a", "C12b")
SEVEN = (*FIRST_ORDER, "C21a", "C21b", "C23a", "C23b")
DISC_FRACTION = 0.84
"""Diameter of the aperture's image over the side of the frame."""

# Medians of what a commercial corrector left after tuning at 300 kV (a published JEOL COSMO log).
RESIDUALS_NM = {
    "C21": 14.5, "C23": 6.4, "C30": 310.0, "C32": 113.0, "C34": 214.0,
    "C41": 1750.0, "C43": 880.0, "C45": 490.0, "C50": 18e3,
}  # fmt: skip

SECOND_ORDER_FACTOR = 5.0
"""How much wider C21 and C23 are hidden than C10 and C12 where they are knobs."""


def simulated_optics(energy_keV=200.0, semi_angle_mrad=20.0):
    """Nominal `Optics` of a simulated camera: the disc fills `DISC_FRACTION` of the frame."""
    pixel = 2 * semi_angle_mrad / (DISC_FRACTION * camera.PIXELS)
    return Optics(energy_keV, semi_angle_mrad, pixel)


def draw_state(seed, knob_names=FIRST_ORDER, hidden_range_nm=200.0):
    """Hidden state of an instrument, (25,) nm: knobs far from zero, the rest nearly corrected.

    C10, C12a and C12b are uniform within +-hidden_range_nm; C21 and C23 where they are knobs
    within `SECOND_ORDER_FACTOR` times that; every other coefficient is normal with the median
    magnitude of `RESIDUALS_NM`.

    Args:
        seed: int; the same seed gives the same state on every machine.
        knob_names: the knobs the instrument is to have.
        hidden_range_nm: half the width of the range of C10 and C12, nm.
    """
    random = np.random.default_rng(seed)
    uniform, normal = random.uniform(-1, 1, len(NAMES)), random.standard_normal(len(NAMES))
    state = np.zeros(len(NAMES))
    for place, name in enumerate(NAMES):
        if ORDER[place] == 1:
            state[place] = hidden_range_nm * uniform[place]
        elif ORDER[place] == 2 and name in knob_names:
            state[place] = SECOND_ORDER_FACTOR * hidden_range_nm * uniform[place]
        elif name[:3] in RESIDUALS_NM:
            # Median of |normal| is 0.674, of the length of a pair of normals 1.177.
            median = 0.674 if name[2] == "0" else 1.177
            state[place] = RESIDUALS_NM[name[:3]] / median * normal[place]
    return state


def random_steps(seed, frames, knob_names=FIRST_ORDER, *, step_nm=120.0):
    """Knob settings of a series, (frames, P) nm: first zero, then uniform within +-step_nm.

    C21 and C23 are turned by `SECOND_ORDER_FACTOR` times as much.
    """
    places = indices(knob_names)
    reach = np.where(ORDER[places] == 1, step_nm, SECOND_ORDER_FACTOR * step_nm)
    knobs = reach * np.random.default_rng([seed, 1]).uniform(-1, 1, (frames, len(places)))
    knobs[0] = 0.0
    return knobs


class SimulatedMicroscope:
    """A simulated microscope: x = x0 + G u + drift, seen through a camera's faults.

    Args:
        optics: nominal `Optics`; 200 keV and 20 mrad where None. The true aperture, pixel angle,
            film, coherence and camera differ a little and are drawn from the seed.
        hidden_nm: the state x0 with all knobs at zero: a mapping {name: nm}, a vector (25,), or
            None to draw one (`draw_state`).
        knob_names: the knobs that can be turned.
        seed: int; fixes the hidden state, the instrument and the noise.
        hidden_range_nm: half range of the drawn C10 and C12, nm.
        actuator: (P, P) matrix G by which the knobs really act; the identity where None.
        drift_nm: (P,) drift from each frame to the next, nm; none where None.
        limits_nm: {knob: nm}, what each may be turned to at most; no limit where it is not named.

    Attributes:
        knob_names, optics, name, knobs_nm, limits_nm: see `jaxcal.Microscope`.
        truth_nm: {knob: nm}, the hidden x0 of the knobs.
        hidden_nm: {name: nm}, all 25 coefficients of x0.
        frames_taken: how many frames were acquired.

    Raises:
        ValueError: an unknown or repeated knob, or a shape that does not fit the knobs.

    Example:
        >>> microscope = SimulatedMicroscope(seed=1)
        >>> microscope.set([10.0, 0.0, 0.0])
        >>> microscope.acquire().shape
        (256, 256)
    """

    name = "simulated"

    def __init__(
        self,
        optics=None,
        hidden_nm=None,
        *,
        knob_names=FIRST_ORDER,
        seed=0,
        hidden_range_nm=200.0,
        actuator=None,
        drift_nm=None,
        limits_nm=None,
    ):
        self.knob_names = tuple(knob_names)
        self._places = indices(self.knob_names)
        self.optics = simulated_optics() if optics is None else optics
        count = len(self.knob_names)
        self._actuator = _shaped("actuator", actuator, (count, count), np.eye(count))
        self._drift = _shaped("drift_nm", drift_nm, (count,), np.zeros(count))
        if hidden_nm is None:
            hidden_nm = draw_state(seed, self.knob_names, hidden_range_nm)
        elif hasattr(hidden_nm, "items"):
            hidden_nm = vector(hidden_nm)
        self._hidden = _shaped("hidden_nm", hidden_nm, (len(NAMES),), None)
        self.hidden_nm = dictionary(self._hidden)
        self.truth_nm = dictionary(self._hidden, self.knob_names)
        self.knobs_nm, self.limits_nm = np.zeros(count), limits(limits_nm, self.knob_names)
        self.frames_taken = 0
        self._noise = jax.random.fold_in(jax.random.key(seed), 1)
        self._camera = camera.draw_camera(seed, self.optics)

    def set(self, knobs_nm):
        """Turn the knobs to (P,) nm, counted from the start.

        Raises:
            ValueError: not one finite setting for each knob, or one beyond its limit.
        """
        self.knobs_nm = settings(knobs_nm, self.knob_names, self.limits_nm)

    @property
    def origin(self) -> str:
        """Which instrument it is, by what is hidden in it."""
        hidden = (self._hidden, self._actuator, self._drift, jax.random.key_data(self._noise))
        return f"{zlib.crc32(b''.join(np.asarray(part).tobytes() for part in hidden)):08x}"

    def resume(self, past: Past):
        """Go on as the instrument that an interrupted run had before it.

        Raises:
            InstrumentError: it had another one.
        """
        if past.origin not in (None, self.origin):
            raise InstrumentError("the run was begun with another simulated instrument: give the "
                                  "same seed, hidden range and knobs")
        self.frames_taken = len(past.asked_nm)
        if past.knobs_nm is not None:
            self.knobs_nm = np.array(past.knobs_nm, float)

    def state_nm(self):
        """All 25 coefficients at the present setting and drift, (25,) nm."""
        state = self._hidden.copy()
        state[self._places] += self._actuator @ self.knobs_nm + self._drift * self.frames_taken
        return state

    def acquire(self):
        """One frame, (256, 256) float32 counts."""
        key = jax.random.fold_in(self._noise, self.frames_taken)
        frame = camera.acquire(key, self._camera, self.state_nm())
        self.frames_taken += 1
        return np.asarray(frame)


def _shaped(name, value, shape, default):
    if value is None:
        return default
    value = np.asarray(value, np.float64)
    if value.shape != shape or not np.all(np.isfinite(value)):
        raise ValueError(
            f"{name} should be finite and of shape {shape}, got shape {value.shape}: "
            f"give one value for each knob or coefficient"
        )
    return value
