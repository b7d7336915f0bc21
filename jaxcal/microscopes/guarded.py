"""An instrument whose every call ends: in time, within the knobs' limits, with a usable frame."""

import json
import threading

import numpy as np

from jaxcal.microscopes.protocol import (
    InstrumentError,
    NoAnswerError,
    Past,
    optional,
    settings,
    stated_limits,
)
from jaxcal.optics import Optics

_ABSENT = object()

TIMEOUT_S = 300.0
"""For a call of a microscope; a simulated one compiles in the first."""

CALLS = "set", "acquire", "resume", "knobs_nm"
"""Members that are asked one after the other."""

_MOVING: dict[int, threading.Thread] = {}
"""The call that moves the knobs, by the microscope's id: the next run of the same object is to know
of one that the last was given up in."""

_BUSY: dict[int, threading.Thread] = {}
"""The same of the last call that moves nothing, one that hangs or was interrupted."""


class GuardedMicroscope:
    """A microscope of which nothing worse than an `InstrumentError` is to be expected.

    What the microscope raises becomes an InstrumentError; so does a call that does not end within
    ``timeout_s`` (it goes on in its thread, nobody can stop it), a frame that is none, and a
    setting that is none. While a call that moves the knobs goes on so, no other is begun: it is
    waited for once more. So is one that moves nothing, an exposure, say; then the next is begun
    beside it, as a camera that hangs must not keep the knobs where they are. A setting beyond
    ``limits_nm`` is refused before the microscope is asked.

    Args:
        microscope: any `jaxcal.Microscope`.
        timeout_s: for each of its calls, s.

    Attributes:
        standing_nm: (P,) where the knobs are known to stand, nm; None while they move, and where
            moving failed.
        limits_nm: (P,) largest settings, infinite where the microscope says nothing of them.
        arrives: whether settings are meant to be reached, see `jaxcal.Microscope`.
        shape: (H, W) of the frames, None before the first.

    Raises:
        ValueError: the microscope's limits_nm are neither numbers nor a mapping of its knobs.
        InstrumentError: they, or another member that it has, cannot be read, or not in time.
    """

    def __init__(self, microscope, timeout_s: float = TIMEOUT_S):
        self.microscope, self.timeout_s = microscope, timeout_s
        self.knob_names = tuple(self._call("knob_names"))
        self.optics = self._call("optics")
        if not isinstance(self.optics, Optics):
            raise InstrumentError(f"optics should be a jaxcal.Optics, got "
                                  f"{type(self.optics).__name__}: give energy_keV, "
                                  f"semi_angle_mrad and pixel_mrad")
        self.name = self._call("name", absent="microscope")
        self.arrives = self._call("arrives", absent=True)
        count = len(self.knob_names)
        self.limits_nm = stated_limits(self._call("limits_nm", absent=np.inf), self.knob_names)
        origin = self._call("origin", absent=_ABSENT)
        self.origin = None if origin is _ABSENT else _plain(origin)
        self.standing_nm = np.zeros(count)
        self.knobs_nm = np.zeros(count)
        self.shape = None

    @property
    def hangs(self) -> bool:
        """Whether a call that moves the knobs has not ended yet."""
        return id(self.microscope) in _MOVING and _MOVING[id(self.microscope)].is_alive()

    def set(self, knobs_nm) -> None:
        """Turn the knobs to (P,) nm; ``knobs_nm`` is then where they arrived.

        Raises:
            ValueError: not one finite setting for each knob, or one beyond its limit; then nothing
                moved.
            InstrumentError: the microscope failed; where the knobs stand is not known.
        """
        wanted = settings(knobs_nm, self.knob_names, self.limits_nm)
        self.standing_nm = None
        self._call("set", wanted.copy())
        self.knobs_nm = self.where(wanted)
        self.standing_nm = wanted

    def send(self, knobs_nm) -> Exception | None:
        """Ask the microscope itself for a setting (P,), nm, beyond a limit too; what it raised."""
        self.standing_nm = None
        try:
            self._call("set", np.array(knobs_nm, float))
        except InstrumentError as error:
            return error.__cause__ or error
        return None

    def acquire(self) -> np.ndarray:
        """One Ronchigram (H, W).

        Raises:
            InstrumentError: the microscope failed, or gave no image of real, finite counts of the
                shape of those before.
        """
        frame = self._call("acquire")
        try:
            frame = np.array(frame)  # a camera may use its memory again
        except Exception as error:  # an array-like object may raise anything
            raise InstrumentError(f"acquire gave no image: {error}") from error
        if frame.ndim != 2 or frame.dtype.kind not in "uif":
            raise InstrumentError(f"acquire should give an image (H, W) of real counts, got shape "
                                  f"{frame.shape} of {frame.dtype}: look at the camera's mode")
        if not np.all(np.isfinite(frame)):
            raise InstrumentError("acquire gave a frame with counts that are not finite: look at "
                                  "the camera, and mend its dead pixels first")
        if self.shape not in (None, frame.shape):
            raise InstrumentError(f"acquire gave a frame of shape {frame.shape}, those before had "
                                  f"{self.shape}: leave the camera's mode as it is")
        self.shape = frame.shape
        return frame

    def resume(self, past: Past) -> None:
        """Take up counting where an interrupted run left the microscope.

        Raises:
            InstrumentError: it cannot.
        """
        if not hasattr(self.microscope, "resume"):
            raise InstrumentError(f"{self.name} cannot take up an interrupted run: its adapter has "
                                  "no resume(past), begin a new run")
        self._call("resume", past)
        self.origin, self.standing_nm = past.origin, past.knobs_nm

    def where(self, arrived_nm) -> np.ndarray:
        """Where the knobs say they stand now, (P,) nm; where they had arrived if they say nothing.

        Raises:
            InstrumentError: they cannot be read.
        """
        told = self._call("knobs_nm", absent=np.array(arrived_nm, float))
        try:
            return settings(told, self.knob_names)
        except (TypeError, ValueError) as error:
            raise InstrumentError(f"knobs_nm tells no setting: {error}") from error

    def _wait(self):
        """Wait for a call that has not ended, see above."""
        if busy := _BUSY.pop(id(self.microscope), None):
            busy.join(self.timeout_s)
        if self.hangs:
            _MOVING[id(self.microscope)].join(self.timeout_s)
            if self.hangs:
                raise NoAnswerError("the call that moved the knobs still has not ended, where they "
                                    "stand is not known: look at the instrument")

    def _call(self, member: str, *arguments, absent=None):
        """What a member of the microscope gives, or an InstrumentError; ``absent`` where there is
        no such member and that is not None."""
        if member in CALLS:
            self._wait()
        answer = {}

        def call():
            try:
                found = (getattr(self.microscope, member) if absent is None
                         else optional(self.microscope, member, absent))
                answer["value"] = found(*arguments) if callable(found) else found
            except BaseException as error:
                answer["error"] = error

        thread = threading.Thread(target=call, daemon=True, name=f"microscope {member}")
        running = _MOVING if member in ("set", "resume") else _BUSY
        if member in CALLS:
            running[id(self.microscope)] = thread
        thread.start()
        thread.join(self.timeout_s)
        if member in CALLS and not thread.is_alive():
            running.pop(id(self.microscope), None)
        if thread.is_alive():
            raise NoAnswerError(f"the microscope did not answer to {member} within "
                                f"{self.timeout_s:g} s: look at the instrument")
        if "error" in answer:
            error = answer["error"]
            if not isinstance(error, Exception) or (
                    isinstance(error, InstrumentError) and member not in CALLS):
                raise error  # says what cannot be read
            told = str(error) or type(error).__name__
            raise InstrumentError(f"the microscope failed in {member}: {told}") from error
        return answer["value"]


def _plain(origin):
    """What a microscope says of its start, as JSON can hold it.

    Raises:
        InstrumentError: it cannot.
    """
    try:
        return json.loads(json.dumps(origin, default=lambda part: part.tolist()))
    except (AttributeError, TypeError, ValueError) as error:
        raise InstrumentError(f"origin should be what JSON can hold: {error}") from error
