"""What an instrument must offer to be calibrated: knobs, a camera, its nominal optics."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from jaxcal.optics import Optics


class InstrumentError(RuntimeError):
    """The instrument refused, did not answer, or did not do what it was asked for."""


class NoAnswerError(InstrumentError):
    """A call has not ended in time; it goes on, nobody can stop it."""


class Past(NamedTuple):
    """What an interrupted run did with an instrument. P knobs, N frames taken.

    asked_nm: (N, P) settings of the frames; knobs_nm: (P,) where the knobs are known to stand,
    counted from the start of that run, None where it ended while they moved; origin: what the
    microscope said of its start, see `Microscope`.
    """

    asked_nm: np.ndarray
    knobs_nm: np.ndarray | None
    origin: object


@runtime_checkable
class Microscope(Protocol):
    """A microscope that `jaxcal.calibrate` can tune.  Any object with these four members will do.

    Attributes:
        knob_names: the knobs that may be turned, Krivanek names such as "C12a".
        optics: nominal `jaxcal.Optics`: energy, convergence semi-angle, angle of one pixel.

    More are used where they are there: ``name`` (str), what results call the microscope;
    ``knobs_nm`` (P,), the setting in force after `set`, for instruments that do not arrive exactly
    where they were sent; ``arrives``, False where they are not meant to (a recorded series);
    ``limits_nm`` (P,) or {knob: nm}, the largest setting of each knob. For runs that are continued:
    ``origin``, anything that JSON can hold and that tells where the knobs stood at the start, and
    ``resume(past)``, which takes up counting from there (`Past`).

    Its members are called one after the other, each call in a thread of its own, so that one that
    hangs can be given up: what is bound to the thread that opened it (COM) is to be opened anew in
    each call.
    """

    knob_names: Sequence[str]
    optics: "Optics"

    def set(self, knobs_nm: np.ndarray) -> None:
        """Turn every knob to its setting, (P,) nm, counted from where it stood at the start."""

    def acquire(self) -> np.ndarray:
        """Take one Ronchigram at the present setting: (H, W) counts, `[row = y, column = x]`."""


def optional(microscope, name: str, absent):
    """A member that a microscope need not have, ``absent`` where it has none.

    Raises:
        InstrumentError: it has one that fails; a limit that cannot be read is not no limit.
    """
    try:
        return getattr(microscope, name)
    except Exception as error:  # a property may raise anything
        if isinstance(error, AttributeError) and not hasattr(type(microscope), name):
            return absent
        raise InstrumentError(f"{name} cannot be read: {error}") from error


def settings(knobs_nm, knob_names, limits=None):
    """Settings of all knobs as (P,) float64, nm.

    Raises:
        ValueError: not one finite number for each knob, or one beyond its of the ``limits`` (P,).
    """
    knobs = np.asarray(knobs_nm, np.float64)
    if knobs.shape != (len(knob_names),) or not np.all(np.isfinite(knobs)):
        raise ValueError(
            f"expected one finite setting in nm for each of {', '.join(knob_names)}, got "
            f"{np.array2string(knobs, precision=4)}: give an array of shape ({len(knob_names)},)"
        )
    beyond = np.flatnonzero(np.abs(knobs) > (np.inf if limits is None else limits))
    if beyond.size:
        worst = int(beyond[0])
        raise ValueError(f"{knob_names[worst]} was asked to {knobs[worst]:.1f} nm, its limit is "
                         f"{limits[worst]:g} nm: nothing was moved")
    return knobs


def stated_limits(limits_nm, knob_names) -> np.ndarray:
    """Largest settings (P,), nm, as a microscope states them: one number, one for each knob, or a
    mapping as of `limits`.

    Raises:
        ValueError: it is none of these, or one is negative.
    """
    if isinstance(limits_nm, Mapping):
        return limits(limits_nm, knob_names)
    try:
        found = np.broadcast_to(np.asarray(limits_nm, float), len(knob_names))
        if not np.any(np.isnan(found)) and np.all(found >= 0):
            return found
    except (TypeError, ValueError):
        pass
    raise ValueError(f"limits_nm should be the largest setting in nm of each of "
                     f"{', '.join(knob_names)}, got {limits_nm}")


def limits(limits_nm, knob_names) -> np.ndarray:
    """Largest settings (P,), nm, of a mapping {knob: nm} of some of the knobs; infinite elsewhere.

    Raises:
        ValueError: a limit that is not positive or of no knob.
    """
    given = dict(limits_nm or {})
    found = np.array([given.pop(name, np.inf) for name in knob_names], float)
    if given or not np.all(found > 0):
        raise ValueError(f"limits_nm should give a positive limit in nm for some of "
                         f"{', '.join(knob_names)}, got {limits_nm}")
    return found
