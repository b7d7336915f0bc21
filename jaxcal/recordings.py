"""Frames from the files that cameras and their programs write, and what these say of the optics.

    .npy               NumPy, one frame or a stack; says nothing of the optics
    .dm3 .dm4          Gatan DigitalMicrograph
    .emd               Velox, NCEM
    .hspy              HyperSpy
    .mrc .tif .tiff    MRC, TIFF
    .ser               TIA

All but ``.npy`` are read by RosettaSciIO, which comes with ``pip install 'jaxcal[io]'``.  A frame
is ``[row = y, column = x]`` as RosettaSciIO gives it.  One file holds one frame or one stack.

What a file says is taken where it is beyond doubt and left None elsewhere: the pixel's angle where
both axes of the frame have the same scale in an angle or a reciprocal length (1/d without 2 pi,
times the wavelength), the energy and the semi-angle where HyperSpy's metadata have them.  Velox's
BeamConvergence is taken as a semi-angle in rad; the maker does not say so in public.
"""

import gc
import logging
import math
import os
import re
import traceback
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from jaxcal.series import SeriesError

READERS = {
    ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd", ".hspy": "hspy",
    ".mrc": "mrc", ".ser": "tia", ".tif": "tiff", ".tiff": "tiff",
}  # fmt: skip
"""RosettaSciIO's reader of each ending."""
ENDINGS = (".npy", *READERS)
"""Endings of the files that can be read."""

INSTALL = "pip install 'jaxcal[io]'"
EXACT_FLOAT32 = 2**24
"""Integers up to this are exact in float32."""
COLOURS = (2, 3)
"""TIFF's PhotometricInterpretation of red, green and blue, and of a palette."""
SQUARE = 0.01
"""Share by which the scales of the two axes may differ in a camera with square pixels."""

_ANGLES_MRAD = {
    "rad": 1e3, "mrad": 1.0, "urad": 1e-3, "µrad": 1e-3, "μrad": 1e-3,
    "deg": 1e3 * math.pi / 180, "degree": 1e3 * math.pi / 180, "°": 1e3 * math.pi / 180,
}  # fmt: skip
_LENGTHS_NM = {
    "pm": 1e-3, "nm": 1.0, "um": 1e3, "µm": 1e3, "μm": 1e3, "mm": 1e6, "m": 1e9,
    "A": 0.1, "Å": 0.1, "\u212b": 0.1, "Ang": 0.1, "angstrom": 0.1,
}  # fmt: skip
_RECIPROCAL = re.compile(
    r"1/\(?(?P<under>[^\W\d_]+)\)?|(?P<base>[^\W\d_]+)(?:(?:\^|\*\*)?\(?[-−]1\)?|⁻¹)"
)


@dataclass(frozen=True)
class Recording:
    """What one file holds.

    Attributes:
        frames: (N, H, W) counts, unsigned integer or float, `[frame, row = y, column = x]`.
        energy_keV: beam energy, keV, or None where the file does not say.
        semi_angle_mrad: convergence semi-angle, mrad, or None.
        pixel_mrad: angle of one pixel, mrad, or None.
    """

    frames: np.ndarray
    energy_keV: float | None = None
    semi_angle_mrad: float | None = None
    pixel_mrad: float | None = None


def read(path, energy_keV=None):
    """Read the frames of a file and what it says of the optics.

    Args:
        path: file with one of `ENDINGS`.
        energy_keV: beam energy, keV, that turns a pixel in 1/nm into an angle; None for the
            file's own.

    Returns:
        `Recording`.  Unsigned and float counts keep their type; signed ones become float32, or
        float64 where float32 would round them.

    Raises:
        SeriesError: the file is not there, RosettaSciIO is missing or cannot read it, or it holds
            something else than one frame or one stack of counts; the message names the file.

    Example:
        >>> read("no_such_file.dm4")
        Traceback (most recent call last):
        ...
        jaxcal.series.SeriesError: no_such_file.dm4: no such file; check the path
    """
    try:
        _check_there(Path(path))
        ending = Path(path).suffix.lower()
        if ending == ".npy":
            return Recording(_counts(_read_numpy(path)))
        if ending not in READERS:
            raise SeriesError(
                f"has the ending {ending!r}, one of {', '.join(ENDINGS)} can be read",
                "export the frames as TIFF or NumPy",
            )
        return _recording(_images(_read_field(path, READERS[ending])), energy_keV)
    except SeriesError as error:
        raise error.at(path) from None


def _check_there(path):
    try:
        there = path.exists()
    except OSError:  # a name that no file can have
        there = False
    if not there:
        raise SeriesError("no such file", "check the path")
    if path.is_dir():
        raise SeriesError("is a folder", "give the file in it")
    if not os.access(path, os.R_OK):
        raise SeriesError("cannot be read", "ask for permission to read it")


def _read_numpy(path):
    try:
        data = np.load(path, allow_pickle=False)
    except Exception as error:  # whatever the bytes of a broken file lead to
        problem = f"NumPy cannot read it ({_first_line(error)})"
        raise SeriesError(problem, "save one array of counts, frames of one shape") from None
    if not isinstance(data, np.ndarray):
        data.close()
        raise SeriesError("holds several arrays", "save one array of counts with numpy.save")
    return data


def _read_field(path, plugin):
    """The data sets of a file as RosettaSciIO gives them, a list of dictionaries."""
    try:
        with _heard() as faults:
            datasets = import_module(f"rsciio.{plugin}").file_reader(str(path))
    except ModuleNotFoundError as error:
        name = (error.name or "").split(".")[0]
        if name in ("rsciio", "h5py", "tifffile", "imagecodecs"):
            problem = f"RosettaSciIO is needed to read it (no module {name})"
            raise SeriesError(problem, INSTALL) from None
        raise SeriesError(
            f"RosettaSciIO needs more to read it ({_first_line(error)})",
            "install that, or export the frames as TIFF or NumPy",
        ) from None
    except Exception as error:  # its readers check little: anything can come of a broken file
        if "last dimension size of the array must be 3 or 4" in str(error):
            raise SeriesError(
                "is a colour image, or a stack of three that was saved as the planes of one",
                "store counts, one plane a frame (tifffile: photometric='minisblack')",
            ) from None
        faults = [_first_line(error)]
    if faults:
        raise SeriesError(
            f"RosettaSciIO cannot read it ({faults[0]})",
            "copy it again if it is cut off, or export the frames as TIFF or NumPy",
        )
    return datasets


@contextmanager
def _heard():
    """Collects what the readers log as errors; their remarks are not for the screen.

    tifffile reads on where pages are missing and only logs it.  Files that a reader leaves open
    when it fails are closed.
    """
    faults = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: faults.append(record.getMessage())
    try:
        import_module("rsciio")  # sets up its logging when first imported
    except ModuleNotFoundError:
        pass  # told by the import that follows
    loggers = [logging.getLogger(name) for name in ("rsciio", "tifffile")]
    before = [(logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers[:], logger.propagate = [handler], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                yield faults
            except Exception as error:
                traceback.clear_frames(error.__traceback__)
                gc.collect()  # tifffile's objects refer to each other
                raise
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate = handlers, propagate


def _images(datasets):
    """The one image or stack of a file; pages of one shape are a stack."""
    if not datasets:
        raise SeriesError("holds no data", "save the frames again")
    shapes = [np.shape(dataset["data"]) for dataset in datasets]
    first = datasets[0]
    if len(datasets) == 1:
        return first
    pages = all("PhotometricInterpretation" in _own(dataset) for dataset in datasets)
    if pages and len(set(shapes)) == 1 and len(shapes[0]) == 2:
        return {**first, "data": np.stack([dataset["data"] for dataset in datasets])}
    told = ", ".join(" x ".join(map(str, shape)) for shape in shapes[:5])
    raise SeriesError(
        f"holds {len(datasets)} data sets of shape {told}, one frame or one stack is expected",
        "export the Ronchigrams alone, as one stack of one shape or one by one",
    )


def _recording(dataset, energy_keV):
    data = np.asarray(dataset["data"])
    axes = list(dataset.get("axes") or ())
    if all(axis.get("index_in_array") is not None for axis in axes):
        axes.sort(key=lambda axis: axis["index_in_array"])
    if data.ndim > 1 and sum(not axis.get("navigate", True) for axis in axes) == 1:
        raise SeriesError("holds spectra", "give the file of the Ronchigrams")
    if _own(dataset).get("PhotometricInterpretation") in COLOURS:
        raise SeriesError("is a colour image", "store the counts, not an image made of them")
    told = _metadata(dataset, "beam_energy")
    energy = told if energy_keV is None else energy_keV
    semi_angle = _metadata(dataset, "convergence_angle")
    if semi_angle is None:
        semi_angle = _velox_semi_angle(_own(dataset))
    return Recording(_counts(data), told, semi_angle, _pixel_mrad(axes[-2:], energy))


def _counts(data):
    """(N, H, W) counts in the byte order of the machine, unsigned or float."""
    if data.dtype.names:
        raise SeriesError("is a colour image", "store the counts, not an image made of them")
    if data.dtype.kind not in "iuf":
        raise SeriesError(
            f"frames should be integer or float counts, got dtype {data.dtype}",
            "store the counts, not an image made of them",
        )
    if data.size == 0:
        raise SeriesError(f"is empty, of shape {data.shape}", "record at least one frame")
    if data.ndim == 3 and data.shape[-1] in (3, 4):
        raise SeriesError(
            f"is a colour image, of shape {data.shape}",
            "store the counts, not an image made of them",
        )
    if data.ndim not in (2, 3):
        raise SeriesError(
            f"frames should have shape (H, W) or (N, H, W), got {data.shape}",
            "export the Ronchigrams as one stack or one by one",
        )
    frames = np.array(data, data.dtype.newbyteorder("="), ndmin=3, order="C")
    if frames.dtype.kind == "i":
        largest = max(abs(int(frames.min())), abs(int(frames.max())))
        frames = frames.astype(np.float32 if largest <= EXACT_FLOAT32 else np.float64)
    elif frames.dtype == np.float16:  # too coarse to add up
        frames = frames.astype(np.float32)
    for number, frame in enumerate(frames if frames.dtype.kind == "f" else ()):
        if bad := frame.size - np.count_nonzero(np.isfinite(frame)):
            raise SeriesError(
                f"{bad} of {frame.size} pixels are NaN or infinite",
                "leave the frame out or put the local mean where pixels are dead",
                frame=number,
            )
    return frames


def _metadata(dataset, name):
    """A positive number under HyperSpy's ``Acquisition_instrument.TEM``, or None.

    RosettaSciIO gives it in the metadata or says where in the file's own it stands ("mapping").
    """
    target = f"Acquisition_instrument.TEM.{name}"
    value = _positive(_look_up(dataset.get("metadata"), target.split(".")))
    for source, (goal, change) in (dataset.get("mapping") or {}).items():
        if value is None and goal == target:
            try:
                found = _look_up(_own(dataset), source.split("."))
                value = _positive(change(found) if change else found)
            except (TypeError, ValueError):
                continue
    return value


def _velox_semi_angle(metadata):
    """Velox keeps the convergence in rad; what is no angle of a STEM in rad is left out."""
    angle = _positive(_look_up(metadata, ["Optics", "BeamConvergence"]))
    return 1e3 * angle if angle is not None and 1e-3 <= angle <= 0.15 else None


def _own(dataset):
    """The metadata of the file in its own terms."""
    return dataset.get("original_metadata") or {}


def _look_up(tree, keys):
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _positive(value):
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and number > 0 else None


def _pixel_mrad(axes, energy_keV):
    """Angle of one pixel of the frame from its two axes, mrad; None where they do not say."""
    angles = [_angle_mrad(axis, energy_keV) for axis in axes]
    if len(angles) != 2 or None in angles:
        return None
    return angles[1] if abs(angles[0] / angles[1] - 1) <= SQUARE else None


def _angle_mrad(axis, energy_keV):
    from jaxcal.optics import wavelength_nm

    scale = axis.get("scale")
    scale = _positive(abs(scale) if isinstance(scale, (int, float, np.number)) else scale)
    unit = re.sub(r"[\s${}]", "", str(axis.get("units") or ""))
    if scale is None or not unit:
        return None
    if unit in _ANGLES_MRAD:
        return scale * _ANGLES_MRAD[unit]
    found = _RECIPROCAL.fullmatch(unit)
    length = _LENGTHS_NM.get((found["under"] or found["base"]) if found else None)
    # A scale of exactly 1 is what programs write that were never calibrated.
    if length is None or energy_keV is None or scale == 1:
        return None
    try:
        return 1e3 * wavelength_nm(energy_keV) * scale / length
    except ValueError:
        return None


def _first_line(error):
    return str(error).splitlines()[0] if str(error) else type(error).__name__
