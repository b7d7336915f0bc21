"""Calibration series: frames at known knob settings, in memory and as an HDF5 file.

    frames  (T, H, W)  unsigned integer or float counts, [frame, row = y, column = x]
    knobs   (T, P)     float64, nm: the step of each frame from the unknown start
    attributes         knob_names (P Krivanek names), energy_keV, semi_angle_mrad, pixel_mrad

Anything more in a file is ignored, except the optional truth of a simulated one (`read_truth`).
"""

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxcal.files import first_line, replacing
from jaxcal.series_checks import (
    LAYOUT,
    SeriesError,
    check_aperture,
    check_frame_shape,
    check_frames,
    check_knobs,
    check_names,
    plain_text,
)

PROBE_S = 20.0
"""For which another process may look into a file; a sound one takes a fraction of a second."""



@dataclass(frozen=True)
class Series:
    """Frames at known knob settings.

    Attributes:
        frames: (T, H, W) counts, any real dtype, `[frame, row = y, column = x]`.
        knobs_nm: (T, P) float64, nm: the step u_k of each frame from the unknown start.
        knob_names: the P knobs, Krivanek names such as "C12a", distinct.
        optics: nominal `jaxcal.Optics`.
        name: what results and messages call it; the base name of its file.

    Raises:
        SeriesError: a shape, a value or a name cannot be used; the message says which and what
            to do.
    """

    frames: np.ndarray
    knobs_nm: np.ndarray
    knob_names: tuple[str, ...]
    optics: object
    name: str = ""

    def __post_init__(self):
        try:
            names = check_names(self.knob_names)
            frames = check_frames(self.frames)
            knobs = check_knobs(self.knobs_nm, len(frames), names)
            check_aperture(frames.shape, self.optics)
        except SeriesError as error:
            raise error.at(self.name or None) from None
        object.__setattr__(self, "frames", frames)
        object.__setattr__(self, "knobs_nm", knobs)
        object.__setattr__(self, "knob_names", names)

    def __len__(self):
        return len(self.frames)

    def first(self, count):
        """The series of its first ``count`` frames."""
        return self.select(range(min(count, len(self))))

    def select(self, frames):
        """The series of the frames whose numbers are given, in that order."""
        chosen = np.asarray(list(frames), int)
        return Series(
            self.frames[chosen], self.knobs_nm[chosen], self.knob_names, self.optics, self.name
        )


def read(path):
    """Read a calibration series.

    Args:
        path: HDF5 file in the layout at the head of this module.

    Returns:
        `Series`, its name the base name of the file.

    Raises:
        SeriesError: the file is not there, is not HDF5, lacks something, or holds values that
            cannot be used; the message names the file, the frame and the remedy.

    Example:
        >>> read("no_such_file.h5")
        Traceback (most recent call last):
        ...
        jaxcal.series_checks.SeriesError: no_such_file.h5: no such file; check the path
    """
    try:
        with _open(path) as file:
            frames = _dataset(file, "frames")
            knobs = _dataset(file, "knobs")
            names = _names_attribute(file)
            numbers = {name: _number_attribute(file, name) for name in _NUMBERS}
            if frames.ndim == 3 and frames.shape[0] > 0:
                check_frame_shape(frames.shape)  # before reading what may be gigabytes
            _check_written(knobs)
            frames, knobs = frames[...], knobs[...]
        return Series(frames, knobs, names, _optics(numbers), os.path.basename(path))
    except SeriesError as error:
        raise error.at(path) from None


def probe(path, seconds: float = PROBE_S):
    """Look into a file from another process: HDF5 can loop or crash on a damaged one.

    Raises:
        SeriesError: it did; the message names the file. What else is wrong `read` tells.
    """
    damaged = SeriesError("HDF5 cannot read it, it is damaged", "copy it again", file=path)
    try:
        # -P: modules are not looked for in the folder of the data
        ended = subprocess.run([sys.executable, "-P", "-c", _PROBE, str(path)], timeout=seconds,
                               capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        raise damaged from None
    if ended.returncode < 0:  # killed by a signal
        raise damaged


def write(path, series, truth_nm=None, *, simulated=False):
    """Write a calibration series, whole or not at all.

    Args:
        path: HDF5 file to write; an old one is replaced only when the new one is complete.
        series: `Series`.
        truth_nm: mapping of Krivanek names to nm, the hidden state of a simulated instrument;
            kept as the optional attributes ``truth_names`` and ``truth_nm``.
        simulated: leave the mark by which `is_simulated` knows the file.
    """
    import h5py

    # HDF5 1.10's layout has checksums on its own tables, the datasets get theirs: a damaged file
    # does not pass for another measurement
    with replacing(path) as scratch, h5py.File(scratch, "w", libver="v110") as file:
        height, width = series.frames.shape[1:]
        file.create_dataset(
            "frames",
            data=series.frames,
            chunks=(1, height, width),
            compression="gzip",
            shuffle=True,
            fletcher32=True,
        )
        file.create_dataset("knobs", data=series.knobs_nm, chunks=True, fletcher32=True)
        file.attrs["knob_names"] = list(series.knob_names)
        for name in _NUMBERS:
            file.attrs[name] = float(getattr(series.optics, name))
        if simulated:
            file.attrs["simulated_by"] = "jaxcal"
        if truth_nm is not None:
            file.attrs["truth_names"] = list(truth_nm)
            file.attrs["truth_nm"] = np.array(list(truth_nm.values()), float)


def read_truth(path):
    """The hidden state a simulated series was made with, {name: nm}; None where none is kept.

    Raises:
        SeriesError: the file is not there or is not HDF5, or names and values do not belong
            together.
    """
    try:
        with _open(path) as file:
            if "truth_nm" not in file.attrs or "truth_names" not in file.attrs:
                return None
            names = [plain_text(name) for name in np.ravel(file.attrs["truth_names"])]
            values = np.ravel(file.attrs["truth_nm"])
            if len(names) != len(values) or values.dtype.kind not in "fiu":
                raise SeriesError("truth_names and truth_nm do not belong together",
                                  "give one number for each name, or delete both")
            return dict(zip(names, values.tolist(), strict=True))
    except SeriesError as error:
        raise error.at(path) from None


def is_simulated(path):
    """Whether a file is a series that jaxcal simulated, and so can be made again."""
    try:
        with _open(path) as file:
            return "simulated_by" in file.attrs
    except SeriesError:
        return False


def holds_frames(path) -> bool:
    """Whether a file is HDF5 with frames, a series or the like."""
    try:
        with _open(path) as file:
            return "frames" in file
    except SeriesError:
        return False


read_series, write_series = read, write

_PROBE = """
import sys, h5py

def look(_, one):
    for read in (lambda: dict(one.attrs),
                 lambda: isinstance(one, h5py.Dataset) and one[tuple(-1 for _ in one.shape)]):
        try:
            read()
        except Exception:  # an error is told of by who reads the file
            pass

with h5py.File(sys.argv[1], "r") as file:
    look("", file)
    if "knobs" in file:
        file["knobs"][...]
    file.visititems(look)
"""
_NUMBERS = ("energy_keV", "semi_angle_mrad", "pixel_mrad")
@contextmanager
def _open(path):
    """The open HDF5 file; whatever HDF5 stumbles over in it becomes a SeriesError."""
    import h5py

    path = Path(path)
    try:
        os.stat(path)
    except FileNotFoundError:
        raise SeriesError("no such file", "check the path") from None
    except (OSError, ValueError) as error:
        raise SeriesError(f"cannot be reached ({first_line(error)})", "check the path") from None
    if path.is_dir():
        raise SeriesError("is a folder", "give the .h5 file in it")
    if not os.access(path, os.R_OK):
        raise SeriesError("cannot be read", "ask for permission to read it")
    if not h5py.is_hdf5(path):
        raise SeriesError("is not an HDF5 file", f"convert it: {LAYOUT}")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except SeriesError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError,
            MemoryError) as error:  # a damaged file makes h5py raise all of these
        raise SeriesError(
            f"HDF5 cannot read it ({first_line(error)})",
            "copy it again if it is cut off or still being written, or store it uncompressed",
        ) from None


def _dataset(file, name):
    import h5py

    if name not in file:
        there = ", ".join(map(plain_text, file)) or "nothing"
        raise SeriesError(f"has no dataset {name!r}, it holds {there}", f"add it: {LAYOUT}")
    if not isinstance(file[name], h5py.Dataset):
        raise SeriesError(f"{name!r} is a group", f"make it a dataset: {LAYOUT}")
    return file[name]


def _check_written(dataset):
    """HDF5 gives zeros for what was never written; as settings they would pass for measured."""
    if dataset.chunks and dataset.id.get_num_chunks() < np.prod(
            [-(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)]):
        raise SeriesError("the settings in knobs were not all written", "write every frame's row")


def _attribute(file, name):
    if name not in file.attrs:
        there = ", ".join(map(plain_text, file.attrs)) or "none"
        raise SeriesError(f"has no attribute {name!r}, it has {there}", f"add it: {LAYOUT}")
    return file.attrs[name]


def _names_attribute(file):
    value = np.ravel(_attribute(file, "knob_names"))
    names = [plain_text(name) for name in value]
    if len(names) == 1:  # one string for all of them is common enough to be understood
        names = [name.strip() for name in names[0].split(",")]
    return tuple(names)


def _number_attribute(file, name):
    value = np.ravel(_attribute(file, name))
    try:
        number = float(value[0]) if value.size == 1 else None
    except (TypeError, ValueError):
        number = None
    if number is None:
        raise SeriesError(
            f"attribute {name!r} should be one number, got {_brief(value)}",
            "write it as a float in the unit of its name",
        )
    if not np.isfinite(number) or number <= 0:
        raise SeriesError(
            f"attribute {name!r} should be finite and positive, got {number:g}",
            "write the nominal value in the unit of its name",
        )
    return number


def _optics(numbers):
    from jaxcal.optics import Optics

    try:
        return Optics(**numbers)
    except ValueError as error:
        problem, _, remedy = str(error).partition(": ")
        raise SeriesError(problem, remedy or "correct the attribute") from None


def _brief(value):
    text = str(value.tolist())
    return text if len(text) <= 40 else text[:37] + "..."
