"""What a recorded file says of the optics, from the data set that RosettaSciIO makes of it.

Taken where it is beyond doubt, None elsewhere: the pixel's angle where both axes of the frame have
the same scale in an angle or a reciprocal length (1/d without 2 pi, times the wavelength), the
energy and the semi-angle where HyperSpy's metadata have them.  Velox's BeamConvergence is taken as
a semi-angle in rad; the maker does not say so in public.
"""

import math
import re
from collections.abc import Mapping

import numpy as np

from jaxcal import notation_reports

SQUARE = 0.01
"""Share by which the scales of the two axes may differ in a camera with square pixels."""

_ANGLES_MRAD = {
    "rad": 1e3, "mrad": 1.0, "urad": 1e-3, "µrad": 1e-3, "μrad": 1e-3,
    "deg": 1e3 * math.pi / 180, "degree": 1e3 * math.pi / 180, "°": 1e3 * math.pi / 180,
}  # fmt: skip
LENGTHS_NM = notation_reports.LENGTHS_NM | {"A": 0.1, "angstrom": 0.1}  # unambiguous in a file
_RECIPROCAL = re.compile(
    r"1/\(?(?P<under>[^\W\d_]+)\)?|(?P<base>[^\W\d_]+)(?:(?:\^|\*\*)?\(?[-−]1\)?|⁻¹)"
)


def energy_keV(dataset):
    """Beam energy of a data set, keV, or None."""
    return _metadata(dataset, "beam_energy")


def semi_angle_mrad(dataset):
    """Convergence semi-angle of a data set, mrad, or None."""
    angle = _metadata(dataset, "convergence_angle")
    velox = _positive(_look_up(own(dataset), ["Optics", "BeamConvergence"]))
    if angle is None and velox is not None and 1e-3 <= velox <= 0.15:  # rad, of a STEM
        angle = 1e3 * velox
    return angle


def pixel_mrad(axes, energy_keV):
    """Angle of one pixel, mrad, or None.

    Args:
        axes: the two axes of a frame, mappings with ``scale`` and ``units``.
        energy_keV: beam energy, keV, or None; needed where the units are reciprocal lengths.
    """
    angles = [_angle_mrad(axis, energy_keV) for axis in axes]
    if len(angles) != 2 or None in angles:
        return None
    return angles[1] if abs(angles[0] / angles[1] - 1) <= SQUARE else None


def own(dataset):
    """The metadata of a data set in the terms of its file."""
    return dataset.get("original_metadata") or {}


def _metadata(dataset, name):
    """A positive number under HyperSpy's ``Acquisition_instrument.TEM``, or None.

    RosettaSciIO gives it in the metadata or says where in the file's own it stands ("mapping").
    """
    target = f"Acquisition_instrument.TEM.{name}"
    value = _positive(_look_up(dataset.get("metadata"), target.split(".")))
    for source, (goal, change) in (dataset.get("mapping") or {}).items():
        if value is None and goal == target:
            try:
                found = _look_up(own(dataset), source.split("."))
                value = _positive(change(found) if change else found)
            except Exception:  # what a reader makes of odd metadata: then they do not say
                continue
    return value


def _look_up(tree, keys):
    for key in keys:
        if not isinstance(tree, Mapping) or key not in tree:
            return None
        tree = tree[key]
    return tree


def _positive(value):
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and number > 0 else None


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
    length = LENGTHS_NM.get((found["under"] or found["base"]) if found else None)
    # A scale of exactly 1 is what programs write that were never calibrated.
    if length is None or energy_keV is None or scale == 1:
        return None
    try:
        return 1e3 * wavelength_nm(energy_keV) * scale / length
    except ValueError:
        return None
