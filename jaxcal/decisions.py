"""What the closed loop decides by: how far a knob may go, where to look next, when that is enough,
and whether a frame at the setting that tunes bears it out."""

import jax.numpy as jnp
import numpy as np

from jaxcal import acquisition, identification, refine
from jaxcal.aberrations import ORDER, indices
from jaxcal.answers import Estimate, inside, left, mostly_unlike
from jaxcal.basins import DECIDED, PRIOR_SD_NM, STATES
from jaxcal.estimation import CONFIDENCE
from jaxcal.optics import Optics, quarter_pi_limits_nm

CONSISTENT = 3.0  # standard deviations by which a verification may move the answer
KNOB_LIMIT_NM = {1: 400.0, 2: 2000.0}  # largest step of calibrate


def next_step(key, answer: Estimate, limits, model, largest=None) -> np.ndarray:
    """Knob setting (P,), nm, where one more frame tells most about the tuning setting.

    ``largest`` (P,) bounds it, nm, `knob_limit_nm` where None. From the spectra's Fisher
    information at the refined solutions, from the latents of EM's candidates before there are any.
    """
    order = ORDER[indices(answer.knob_names)]
    if largest is None:
        largest = np.array([knob_limit_nm(n) for n in order])
    if answer.refinement is not None:
        return acquisition.refined_step(key, answer.refinement, limits, largest)
    result, data = answer.posterior
    known = [name for name in answer.knob_names if name in STATES]
    columns = [STATES.index(name) for name in known]
    places = [answer.knob_names.index(name) for name in known]
    weights = np.zeros(len(STATES), np.float32)
    weights[columns] = 1 / np.square(limits[places])
    reach = jnp.asarray([0.5 * PRIOR_SD_NM[n] for n in ORDER[indices(STATES)]], jnp.float32)
    most = jnp.zeros(len(STATES)).at[np.array(columns)].set(largest[places])
    step = acquisition.next_step(key, result.candidates.positions, weights, result.parameters, data,
                                 model.map, np.isin(STATES, known), reach, most)
    knobs = np.zeros(len(answer.knob_names))
    knobs[places] = np.asarray(step, float)[columns]
    return np.clip(knobs, -largest, largest)  # single precision may round a limit up


def beforehand(frames: int, knob_names, optics, refined: bool) -> list[str]:
    """What is to be said of a loop before its first frame: that its budget is too small to end as
    tuned, and of which knobs no frame can tell anything."""
    told = []
    if refined and 2 <= frames < refine.ACTUATED - 1:
        told.append(f"a budget of {frames} frames and one to verify cannot end as tuned: knobs "
                    f"that act otherwise than told are not found by fewer than {refine.ACTUATED}; "
                    f"allow {refine.ACTUATED - 1} frames before the verification")
    unseen = identification.unseen(knob_names, optics)
    return told + [identification.of_unseen(unseen)] * bool(unseen)


def knob_limit_nm(order: int) -> float:
    """Largest step of a knob by the order of its aberration, nm."""
    return KNOB_LIMIT_NM.get(int(order), 1e4)


def verified(before: Estimate, after: Estimate, fault: str | None, limits):
    """Whether the answer stays with the frame at the applied setting, and a sentence on it."""
    if fault is not None:
        return False, f"the verification frame cannot be used: {fault}"
    moved = np.abs(left(after, before.tuned_knobs_nm)[0])
    allowed = np.maximum(limits, CONSISTENT * np.sqrt(np.diag(left(before)[1])))
    if np.all(moved <= allowed):
        return True, "verified with one more frame"
    worst = int(np.argmax(moved / allowed))
    return False, (f"the verification frame disagrees: with it {moved[worst]:.1f} nm of "
                   f"{after.knob_names[worst]} are left there, take more frames")


def within(answer: Estimate, limits, applied_nm=None) -> bool:
    """Whether all knobs' aberrations are within their limits with CONFIDENCE at a setting (P,), nm;
    where None, at the one that tunes.

    In one mode that is decided and at whose top the climb has come, of frames most of which are
    like what the model was trained on.
    """
    if answer.modes[0].weight < DECIDED or (answer.refinement and not answer.converged):
        return False
    if mostly_unlike(answer):
        return False
    return inside(*left(answer, applied_nm), limits) >= CONFIDENCE


def tolerance(tolerance_nm, optics: Optics, names) -> np.ndarray:
    """What may be left of each knob (P,), nm: the pi/4 limits where None.

    Raises:
        ValueError: it is not positive, or neither one number nor one for each knob.
    """
    limits = quarter_pi_limits_nm(optics, names)
    if tolerance_nm is None:
        return limits
    given = np.asarray(tolerance_nm, float)
    if given.shape not in ((), limits.shape) or not np.all(given > 0):
        raise ValueError(f"tolerance_nm should be positive, got {tolerance_nm}: give what may be "
                         f"left of each knob, in nm, one number or one for each of "
                         f"{', '.join(names)}")
    return np.broadcast_to(given, limits.shape).copy()
