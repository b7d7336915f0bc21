"""What a calibration series has to be: names, shapes, values.

What is not as it should be raises `SeriesError`, which says what came and what to do.
"""

import numpy as np

SMALLEST_FRAME = 64
"""Fewest rows and columns of a frame, pixels: below, an aperture has too few pixels for rings."""
LAYOUT = (
    "a series has datasets frames (T, H, W) and knobs (T, P) and attributes knob_names, "
    "energy_keV, semi_angle_mrad, pixel_mrad"
)


class SeriesError(ValueError):
    """A series that cannot be used: which file, which frame, what is wrong, what to do.

    Attributes:
        problem: what was expected and what came.
        remedy: what to do about it.
        frame: number of the frame (from 0) or None.
        file: the file, or None for a series made in memory.
    """

    def __init__(self, problem, remedy, frame=None, file=None):
        self.problem, self.remedy, self.frame, self.file = problem, remedy, frame, file
        place = [str(file)] if file else []
        place += [f"frame {frame}"] if frame is not None else []
        super().__init__(": ".join([*place, f"{problem}; {remedy}"]))

    def at(self, file):
        """The same error, of the file named."""
        return SeriesError(self.problem, self.remedy, self.frame, file)


def check_names(names):
    """The knobs' names (P,) as a tuple; they must be known and distinct."""
    from jaxcal.aberrations import NAMES, index

    if isinstance(names, str):
        raise SeriesError(
            f"knob_names should be a sequence of names, got the one string {names!r}",
            f"write [{names!r}]",
        )
    names = tuple(plain_text(name) for name in names)
    if not names or names == ("",):
        raise SeriesError("names no knob", f"give at least one of {', '.join(NAMES)}")
    for name in names:
        try:
            index(name)
        except ValueError as error:
            problem, _, remedy = str(error).partition(": ")
            raise SeriesError(problem.replace("aberration", "knob name"), remedy) from None
        if names.count(name) > 1:
            raise SeriesError(
                f"knob {name} is named twice in {', '.join(names)}", "name each knob once"
            )
    return names


def check_frame_shape(shape):
    """Frames of a shape (T, H, W) must be large enough."""
    if min(shape[1:]) < SMALLEST_FRAME:
        raise SeriesError(
            f"frames of {shape[1]} x {shape[2]} pixels are too small, "
            f"at least {SMALLEST_FRAME} x {SMALLEST_FRAME} are needed",
            "store the frames with less binning",
        )


def check_frames(frames):
    """Frames (T, H, W) as an array: finite counts of at least one frame."""
    frames = np.asarray(frames)
    if frames.ndim != 3:
        remedy = "one frame alone is frames[np.newaxis]" if frames.ndim == 2 else LAYOUT
        raise SeriesError(f"frames should have shape (T, H, W), got {frames.shape}", remedy)
    if frames.shape[0] == 0:
        raise SeriesError("holds zero frames", "record at least one frame")
    if frames.dtype.kind not in "uif":
        raise SeriesError(
            f"frames should be unsigned integer or float counts, got dtype {frames.dtype}",
            "store the counts, not an image made of them",
        )
    check_frame_shape(frames.shape)
    if frames.dtype.kind == "f":
        for number, frame in enumerate(frames):
            bad = frame.size - np.count_nonzero(np.isfinite(frame))
            if bad:
                raise SeriesError(
                    f"{bad} of {frame.size} pixels are NaN or infinite",
                    "leave the frame out or put the local mean where pixels are dead",
                    frame=number,
                )
    return frames


def check_knobs(knobs, frames, names):
    """Settings as (T, P) float64, nm, finite, one row for each of the frames."""
    knobs = np.asarray(knobs)
    expected = (frames, len(names))
    if knobs.shape != expected:
        raise SeriesError(
            f"knobs should have shape {expected}, one row for each frame and one column for each "
            f"of {', '.join(names)}, got {knobs.shape}",
            "store the knob setting of every frame",
        )
    if knobs.dtype.kind not in "uif":
        raise SeriesError(
            f"knobs should be numbers, got dtype {knobs.dtype}", "store them as float64 in nm"
        )
    knobs = knobs.astype(np.float64)
    wrong = np.argwhere(~np.isfinite(knobs))
    if len(wrong):
        number, knob = wrong[0]
        raise SeriesError(
            f"the setting of knob {names[knob]} is {knobs[number, knob]}",
            "store the setting in nm or leave the frame out",
            frame=int(number),
        )
    return knobs


def check_aperture(shape, optics):
    """The nominal aperture must fit on frames of a shape (T, H, W)."""
    diameter = 2 * optics.semi_angle_mrad / optics.pixel_mrad
    side = min(shape[1:])
    # Nominal angles are known to a few percent, so a little too wide may still fit.
    if diameter > 1.05 * side:
        raise SeriesError(
            f"the aperture of {optics.semi_angle_mrad:g} mrad would be {diameter:.0f} pixels wide "
            f"at {optics.pixel_mrad:g} mrad a pixel, the frames are {shape[1]} x {shape[2]}",
            "correct semi_angle_mrad (half the full angle) or pixel_mrad, or record the whole disc",
        )


def plain_text(value):
    """A string from what HDF5 gives for one."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
