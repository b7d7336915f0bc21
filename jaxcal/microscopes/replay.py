"""A recorded series played back as a microscope: decisions on data that were really taken."""

import zlib

import numpy as np

from jaxcal.microscopes.protocol import InstrumentError, Past, settings
from jaxcal.optics import quarter_pi_limits_nm


class ReplayMicroscope:
    """Shows the recorded frame whose knob setting is nearest to the one asked for.

    Distances count in pi/4 limits, so that 10 nm of C10 weigh more than 10 nm of C23. Each frame
    is shown once, because the same frame twice is not twice the information; when all were
    shown, the nearest is shown again.

    Args:
        series: `jaxcal.Series`.

    Attributes:
        knob_names, optics, name: those of the series.
        knobs_nm: (P,) nm, the recorded setting; after `acquire`, that of the frame just shown. It
            differs from what was asked for, and an estimate must use it.
        frame_number: number of that frame in the series.
        remaining: how many frames were not shown yet.
    """

    arrives = False

    def __init__(self, series):
        self.series = series
        self.knob_names, self.optics = series.knob_names, series.optics
        self.name = series.name or "replay"
        self._limits = quarter_pi_limits_nm(series.optics, series.knob_names)
        self._shown = np.zeros(len(series), bool)
        self.set(np.zeros(len(self.knob_names)))

    @property
    def remaining(self):
        return int(np.count_nonzero(~self._shown))

    def set(self, knobs_nm):
        """Go to the recorded setting nearest to (P,) nm."""
        self._asked = settings(knobs_nm, self.knob_names)
        distance = np.linalg.norm((self.series.knobs_nm - self._asked) / self._limits, axis=1)
        if self.remaining:
            distance[self._shown] = np.inf
        self.frame_number = int(np.argmin(distance))
        self.knobs_nm = self.series.knobs_nm[self.frame_number].copy()

    @property
    def origin(self) -> str:
        """Which series it is, by what is in it."""
        return f"{zlib.crc32(self.series.knobs_nm.tobytes() + self.series.frames.tobytes()):08x}"

    def resume(self, past: Past):
        """Show once more what an interrupted run was shown.

        Raises:
            InstrumentError: it was shown another series.
        """
        if past.origin not in (None, self.origin):
            raise InstrumentError("the run was begun with another series")
        self._shown[:] = False
        for knobs in past.asked_nm:
            self.set(knobs)
            self.acquire()

    def acquire(self):
        """The recorded frame (H, W) at ``knobs_nm``."""
        if self._shown[self.frame_number] and self.remaining:
            self.set(self._asked)  # a second look at the same setting is another recorded frame
        self._shown[self.frame_number] = True
        return self.series.frames[self.frame_number]
