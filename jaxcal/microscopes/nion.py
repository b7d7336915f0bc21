"""Nion Swift as a microscope: the knobs of a STEM controller, frames of its Ronchigram camera.

Works on the objects that Nion Swift hands out, and imports nothing of it:

    stem = Registry.get_component("stem_controller")
    microscope = NionMicroscope(stem, stem.ronchigram_camera, optics)

The controls C10, C12.a ... are in metres and in Krivanek's normalisation, with x to the right and y
down, as here; the instrument simulator calls the halves of a pair C12.x and C12.y.
"""

import time

import numpy as np

from jaxcal.aberrations import indices
from jaxcal.microscopes.protocol import InstrumentError, Past, limits, settings

HALVES = {"a": ("a", "x"), "b": ("b", "y")}
NM = 1e-9
START_S, STOP_S = 3.0, 30.0  # for the camera to start, and to end its last exposure


class NionMicroscope:
    """Knobs and camera of a running Nion Swift.

    Args:
        stem: the STEM controller: ``TryGetVal``, ``SetValAndConfirm``.
        camera: the Ronchigram camera: ``start_playing``, ``grab_next_to_start``, ``stop_playing``.
        optics: nominal `jaxcal.Optics`; one pixel is that of the frames as they come, binned.
        knob_names: Krivanek names of the controls to turn.
        limits_nm: {knob: nm}, what each may be turned to at most, counted from the start; a
            setting beyond is refused before anything moves.
        tolerance_factor: how near a control has to come to be confirmed, times what the controller
            takes for near.
        timeout_s: for a control to be confirmed, and for an exposure; a frame takes up to two.

    Attributes:
        knobs_nm: (P,) what the knobs were turned by, read from the controls, nm.
        limits_nm: (P,) nm; origin: P values of the controls at the start, m.

    Raises:
        ValueError: an unknown knob or limit.
        InstrumentError: the controller has no such control, or does not tell where it stands.
    """

    name = "nion"

    def __init__(self, stem, camera, optics, knob_names=("C10", "C12a", "C12b"), *,
                 limits_nm=None, tolerance_factor: float = 1.0, timeout_s: float = 20.0):
        self._stem, self._camera, self.optics = stem, camera, optics
        self.knob_names = tuple(knob_names)
        indices(self.knob_names)
        self.limits_nm = limits(limits_nm, self.knob_names)
        self._tolerance, self._timeout = tolerance_factor, timeout_s
        self._controls = [self._control(name) for name in self.knob_names]
        self._start = self._read()

    @property
    def knobs_nm(self) -> np.ndarray:
        """Where the controls stand, (P,) nm, counted from the start."""
        return (self._read() - self._start) / NM

    @property
    def origin(self) -> list[float]:
        return self._start.tolist()

    def resume(self, past: Past) -> None:
        """Count the knobs from where the controls stood when an interrupted run began.

        Raises:
            InstrumentError: that is not told.
        """
        self._start = self._values(past.origin)

    def set(self, knobs_nm) -> None:
        """Turn the knobs to (P,) nm, counted from the start, and wait until they are there.

        Raises:
            ValueError: not one finite setting for each knob, or one beyond its limit; nothing
                has moved then.
            InstrumentError: a control was not confirmed; the others have moved.
        """
        wanted, missed = settings(knobs_nm, self.knob_names, self.limits_nm), []
        for control, start, step in zip(self._controls, self._start, wanted, strict=True):
            value = float(start + step * NM)
            try:
                done, why = self._stem.SetValAndConfirm(
                    control, value, self._tolerance, int(1000 * self._timeout)), ""
            except Exception as error:  # a controller may raise anything
                done, why = False, f" ({error})"
            if not done:
                missed.append(f"{control} was not confirmed at {value:.4g} m{why}")
        if missed:
            raise InstrumentError(f"{', '.join(missed)} within {self._timeout:g} s: look at the "
                                  f"instrument")

    def acquire(self) -> np.ndarray:
        """One Ronchigram (H, W), whose exposure begins after this is called.

        Raises:
            InstrumentError: no frame came in time, or one that is no image.
        """
        playing = bool(getattr(self._camera, "is_playing", False))
        wait = 2 * self._timeout  # for the exposure that runs, and for the one after it
        try:
            if not playing:
                self._camera.start_playing(sync_timeout=START_S)
            began = time.monotonic()
            grabbed = self._camera.grab_next_to_start(timeout=wait)
            late = time.monotonic() - began >= wait
            stopped = playing and not self._camera.is_playing
        except Exception as error:  # a camera's driver may raise anything
            raise InstrumentError(f"the Ronchigram camera gave no frame within "
                                  f"{wait:g} s ({error}): is it running?") from error
        finally:
            if not playing:  # and wait: an exposure that still runs would be the next one's first
                self._stop()
        if late or stopped:  # what it gives then is a frame of before
            raise InstrumentError(f"the Ronchigram camera gave no new frame within "
                                  f"{wait:g} s: is it running?")
        frame = np.asarray(grabbed[0].data) if grabbed and grabbed[0] is not None else None
        if frame is None or frame.ndim != 2:
            shape = "nothing" if frame is None else f"an array of shape {frame.shape}"
            raise InstrumentError(f"expected an image from the Ronchigram camera, got {shape}: "
                                  f"check the camera's mode")
        return frame

    def _stop(self):
        try:
            self._camera.stop_playing(sync_timeout=STOP_S)
        except Exception:  # it plays on then, and the next frame is one that begins after that
            return

    def _control(self, knob: str) -> str:
        """The controller's name of a knob."""
        tried = [knob] if knob[-1].isdigit() else [
            f"{knob[:-1]}.{half}" for half in HALVES[knob[-1]]]
        for name in tried:
            if self._stem.TryGetVal(name)[0]:
                return name
        raise InstrumentError(f"the controller has no control {' or '.join(tried)} for the knob "
                              f"{knob}: leave it out of knob_names")

    def _read(self) -> np.ndarray:
        """Values (P,) of the controls, m."""
        values = []
        for control in self._controls:
            known, value = self._stem.TryGetVal(control)
            if not known:
                raise InstrumentError(f"the controller does not know {control} any more")
            values.append(value)
        return self._values(values)

    def _values(self, told) -> np.ndarray:
        """Values (P,) of the controls, m, as they are told.

        Raises:
            InstrumentError: they are not one finite number for each.
        """
        try:
            values = np.array(told, float)
        except (TypeError, ValueError):
            values = np.array(np.nan)
        if values.shape != (len(self._controls),) or not np.all(np.isfinite(values)):
            raise InstrumentError(f"the controls {', '.join(self._controls)} should stand at one "
                                  f"finite number each, in m, got {told}: look at the instrument")
        return values
