"""An adapter to copy: `column` and `camera` stand for what your instrument hands out.

    jaxcal check my_scope.py:microscope
    jaxcal calibrate --microscope my_scope.py:microscope --run monday

The first says whether what was made of it is right. HERE marks what is yours to fill in.
"""

import numpy as np

import jaxcal
from jaxcal.microscopes import InstrumentError, Past

NM = 1e-9  # in the column's unit. HERE


class MyMicroscope:
    """The knobs of a column and the frames of its Ronchigram camera."""

    name = "my column"
    knob_names = ("C10", "C12a", "C12b")  # Krivanek's names, whatever the column calls them. HERE
    optics = jaxcal.Optics(energy_keV=200.0, semi_angle_mrad=20.0, pixel_mrad=0.19)  # HERE
    limits_nm = np.array([400.0, 400.0, 400.0])  # largest settings, counted from the start. HERE

    def __init__(self, column, camera):
        self._column, self._camera = column, camera
        self._start = self._read()

    def set(self, knobs_nm):
        """Turn every knob to its setting (P,), nm from the start, and wait until all stand."""
        wanted = np.asarray(knobs_nm, float)
        beyond = np.flatnonzero(np.abs(wanted) > self.limits_nm)
        if beyond.size:  # before anything moves
            raise ValueError(f"{self.knob_names[beyond[0]]} was asked beyond its limit")
        for name, value in zip(self.knob_names, self._start + NM * wanted, strict=True):
            if not self._column.move(name, value):  # names, signs and unit of the column. HERE
                raise InstrumentError(f"{name} did not arrive at {value:g}")

    def acquire(self):
        """One Ronchigram (H, W) whose exposure begins after this call."""
        frame = np.asarray(self._camera.grab())  # HERE
        return np.rot90(frame, 0)  # rows from top to bottom, columns from left to right. HERE

    @property
    def knobs_nm(self):
        """Where the knobs stand, (P,) nm; to be left out where a column cannot be asked."""
        return (self._read() - self._start) / NM

    # For runs that are continued after a crash; both to be left out where a column cannot be asked.

    @property
    def origin(self):
        """Where the knobs stood at the start, as JSON can hold it."""
        return self._start.tolist()

    def resume(self, past: Past):
        """Count from where the knobs stood when the interrupted run began."""
        self._start = np.array(past.origin)

    def _read(self):
        return np.array([self._column.position(name) for name in self.knob_names])  # HERE


def microscope():
    """The adapter of this instrument, for the command line."""
    import my_institute  # what connects to your column and camera. HERE

    return MyMicroscope(my_institute.column(), my_institute.camera())
