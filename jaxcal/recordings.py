"""Frames from the files that cameras and their programs write, and what these say of the optics.

    .npy               NumPy, one frame or a stack; says nothing of the optics
    .dm3 .dm4          Gatan DigitalMicrograph
    .emd               Velox, NCEM
    .hspy              HyperSpy
    .mrc .tif .tiff    MRC, TIFF
    .ser               TIA

All but ``.npy`` are read by RosettaSciIO, which comes with ``pip install '.[io]'``.  A frame
is ``[row = y, column = x]`` as RosettaSciIO gives it.  One file holds one frame or one stack.
"""

import gc
import logging
import os
import traceback
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np

from jaxcal import recorded_optics
from jaxcal.files import first_line
from jaxcal.recorded_optics import own
from jaxcal.series import SeriesError, probe

READERS = {
    ".dm3": "digitalmicrograph", ".dm4": "digitalmicrograph", ".emd": "emd", ".hspy": "hspy",
    ".mrc": "mrc", ".ser": "tia", ".tif": "tiff", ".tiff": "tiff",
}  # fmt: skip
"""RosettaSciIO's reader of each ending."""
HDF5 = (".emd", ".hspy")
ENDINGS = (".npy", *READERS)
"""Endings of the files that can be read."""

INSTALL = "pip install '.[io]' in jaxcal's folder"
EXACT_FLOAT32 = 2**24
"""Integers up to this are exact in float32."""
LOST = (" page", "series", "circular")
"""Words of what tifffile logs where frames may be missing."""
COLOURS = (2, 3)
"""TIFF's PhotometricInterpretation of red, green and blue, and of a palette."""


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
        jaxcal.series_checks.SeriesError: no_such_file.dm4: no such file; check the path
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
        if ending in HDF5:
            probe(path)
        return _recording(_images(_read_field(path, READERS[ending])), energy_keV)
    except SeriesError as error:
        raise error.at(path) from None
    except Exception as error:  # odd metadata, of which no reader thought
        raise SeriesError(f"what is in it makes no recording ({type(error).__name__}: "
                          f"{first_line(error)})", "export the frames as TIFF or NumPy"
                          ).at(path) from None


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
        problem = f"NumPy cannot read it ({first_line(error)})"
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
            f"RosettaSciIO needs more to read it ({first_line(error)})",
            "install that, or export the frames as TIFF or NumPy",
        ) from None
    except Exception as error:  # its readers check little: anything can come of a broken file
        if "last dimension size of the array must be 3 or 4" in str(error):
            raise SeriesError(
                "is a colour image, or a stack of three that was saved as the planes of one",
                "store counts, one plane a frame (tifffile: photometric='minisblack')",
            ) from None
        faults = [first_line(error)]
    if faults:
        raise SeriesError(
            f"RosettaSciIO cannot read it ({faults[0]})",
            "copy it again if it is cut off, or export the frames as TIFF or NumPy",
        )
    return datasets


@contextmanager
def _heard():
    """Collects what the readers log of lost frames; their remarks are not for the screen.

    tifffile reads on where pages are missing and only logs it, as it does with tags of a maker
    that it does not know.  Files that a reader leaves open when it fails are closed.
    """
    faults = []

    def hear(record):
        message = record.getMessage()
        if any(word in message for word in LOST):
            faults.append(message)

    handler = logging.Handler(logging.ERROR)
    handler.emit = hear
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
            except Exception as error:  # any: it is raised again
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
    pages = all("PhotometricInterpretation" in own(dataset) for dataset in datasets)
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
    if own(dataset).get("PhotometricInterpretation") in COLOURS:
        raise SeriesError("is a colour image", "store the counts, not an image made of them")
    told = recorded_optics.energy_keV(dataset)
    return Recording(
        _counts(data),
        told,
        recorded_optics.semi_angle_mrad(dataset),
        recorded_optics.pixel_mrad(axes[-2:], told if energy_keV is None else energy_keV),
    )


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
