"""What an instrument must offer to be calibrated: knobs, a camera, its nominal optics."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from jaxcal.optics import Optics


@runtime_checkable
class Microscope(Protocol):
    """A microscope that `jaxcal.calibrate` can tune.  Any object with these four members will do.

    Attributes:
        knob_names: the knobs that may be turned, Krivanek names such as "C12a".
        optics: nominal `jaxcal.Optics`: energy, convergence semi-angle, angle of one pixel.

    Two more are used where they are there: ``name`` (str), what results call the microscope, and
    ``knobs_nm`` (P,), the setting in force after `set`, for instruments that do not arrive exactly
    where they were sent.
    """

    knob_names: Sequence[str]
    optics: "Optics"

    def set(self, knobs_nm: np.ndarray) -> None:
        """Turn every knob to its setting, (P,) nm, counted from where it stood at the start."""

    def acquire(self) -> np.ndarray:
        """Take one Ronchigram at the present setting: (H, W) counts, `[row = y, column = x]`."""


def settings(knobs_nm, knob_names):
    """Settings of all knobs as (P,) float64, nm.

    Raises:
        ValueError: not one finite number for each knob.
    """
    knobs = np.asarray(knobs_nm, np.float64)
    if knobs.shape != (len(knob_names),) or not np.all(np.isfinite(knobs)):
        raise ValueError(
            f"expected one finite setting in nm for each of {', '.join(knob_names)}, got "
            f"{np.array2string(knobs, precision=4)}: give an array of shape ({len(knob_names)},)"
        )
    return knobs
