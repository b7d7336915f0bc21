"""Tune a microscope in a closed loop: acquire, estimate, step, stop, apply, verify."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import acquisition, em, identification
from jaxcal import model as models
from jaxcal.aberrations import ORDER, indices
from jaxcal.estimation import (
    DECIDED,
    PRIOR_SD_NM,
    START,
    STATES,
    Estimate,
    check_knobs,
    estimate,
    infer,
    observe,
)
from jaxcal.optics import quarter_pi_limits_nm
from jaxcal.series import Series, SeriesError

__all__ = ["Calibration", "calibrate", "estimate", "within"]

RESUMED = 4  # frames from which on the loop does not ask EM again before the verification
CONFIDENCE = 0.95  # with which all knobs are to be within their limits
DRAWS = 4096
CONSISTENT = 3.0  # standard deviations by which a verification may move the answer
KNOB_LIMIT_NM = {1: 400.0, 2: 2000.0}  # largest step of calibrate


@dataclass(frozen=True)
class Calibration:
    """A closed-loop run: the last estimate, those after each frame, and what was applied.

    ``estimate`` includes the verification frame; ``converged`` says that the tolerance was reached
    and the verification bore it out. ``series`` holds the frames before it and their knob
    settings; the verification was taken at ``applied_knobs_nm``. ``limits_nm`` (P,) is the
    tolerance aimed at; ``truth_nm`` the hidden state where the microscope is simulated.
    """

    estimate: Estimate
    history: tuple[Estimate, ...]
    series: Series
    verification_frame: np.ndarray | None
    applied_knobs_nm: np.ndarray
    limits_nm: np.ndarray
    truth_nm: dict | None


def calibrate(microscope, *, frames: int = 10, tolerance_nm=None, model=None, seed: int = 0,
              refined: bool = True, settings: em.Settings | None = None,
              progress: Callable | None = None) -> Calibration:
    """Tune a microscope: acquire, estimate, step where it tells most, stop, apply, verify.

    Args:
        microscope: a `jaxcal.Microscope`.
        frames: at most so many, the verification not counted; two at least.
        tolerance_nm: (P,) or scalar, what may be left of each knob's aberration; the pi/4 limits
            where None. The loop stops where all knobs are within with CONFIDENCE.
        model, seed, refined, progress: as of `estimate`.
        settings: of EM; START where None.

    Returns:
        `Calibration`; the knobs stand at ``applied_knobs_nm``.

    Raises:
        ValueError: no steps can decide (one frame, no knob, no room to turn it), unknown knobs, or
            no frame that could be used.
    """
    report = progress or (lambda message, fraction: None)
    model = model or models.load()
    names = tuple(microscope.knob_names)
    if not refined:
        check_knobs(names, getattr(microscope, "name", None))
    identification.check_loop(frames, [knob_limit_nm(n) for n in ORDER[indices(names)]], names,
                              microscope.optics)
    limits = _tolerance(tolerance_nm, microscope.optics, names)
    settings = settings or START
    key = jax.random.key(seed)
    shots, settings_nm, observations, history = [], [], [], []
    knobs = np.zeros(len(names))
    for number in range(frames):
        report(f"frame {number + 1}: acquire", number / (frames + 1))
        microscope.set(knobs)
        shots.append(np.asarray(microscope.acquire()))
        settings_nm.append(np.asarray(getattr(microscope, "knobs_nm", knobs), float).copy())
        series = Series(np.stack(shots), np.stack(settings_nm), names, microscope.optics,
                        getattr(microscope, "name", "microscope"))
        observations.append(observe(shots[-1], microscope.optics))
        if all(seen.fault for seen in observations):
            if number + 1 == frames:
                raise SeriesError(f"no frame can be used, the last because: "
                                  f"{observations[-1].fault}", "correct that and start again",
                                  frame=number, file=series.name)
            continue
        answer = infer(observations, series, model, seed=seed, refined=refined, settings=settings,
                       length=frames + 1, before=_settled(history),
                       progress=_part_of(report, f"frame {number + 1}", number / (frames + 1)))
        history.append(answer)
        if within(answer, limits) and not identification.one_setting(
                series.knobs_nm[list(answer.frame_numbers)], names, microscope.optics):
            break
        if number + 1 < frames:
            report(f"frame {number + 1}: next step", (number + 0.9) / (frames + 1))
            knobs = next_step(jax.random.fold_in(key, number), answer, limits, model)
    answer = history[-1]
    applied = answer.tuned_knobs_nm
    microscope.set(applied)
    report("verify", frames / (frames + 1))
    verification = np.asarray(microscope.acquire())
    stands = np.asarray(getattr(microscope, "knobs_nm", applied), float)
    observations.append(observe(verification, microscope.optics))
    longer = Series(np.concatenate([series.frames, verification[None]]),
                    np.concatenate([series.knobs_nm, stands[None]]), names, series.optics,
                    series.name)
    checked = infer(observations, longer, model, seed=seed, refined=refined, settings=settings,
                    length=frames + 1, before=_settled(history),
                    progress=_part_of(report, "verify", frames / (frames + 1)))
    reached = within(answer, limits)
    holds, verdict = _verify(answer, checked, observations[-1].fault, limits)
    spent = "tuned to the tolerance" if reached else "frame budget spent before the tolerance"
    final = replace(checked if observations[-1].fault is None else answer,
                    converged=reached and holds,
                    message=f"{spent} after {len(shots)} frames; {verdict}; {answer.message}")
    return Calibration(final, tuple(history), series, verification, applied, limits,
                       getattr(microscope, "truth_nm", None))


def _settled(history) -> Estimate | None:
    """The last estimate where the next can go on from it: refined, decided, of enough frames."""
    last = history[-1] if history else None
    settled = last and last.converged and last.refinement and last.frames_used >= RESUMED
    return last if settled else None


def next_step(key, answer: Estimate, limits, model) -> np.ndarray:
    """Knob setting (P,), nm, where one more frame tells most about the tuning setting.

    From the spectra's Fisher information at the refined solutions, from the latents of EM's
    candidates before there are any.
    """
    order = ORDER[indices(answer.knob_names)]
    largest = np.array([knob_limit_nm(n) for n in order])
    if answer.refinement is not None:
        return acquisition.refined_step(key, answer.refinement, limits, largest)
    result, data = answer.posterior
    known = [name for name in answer.knob_names if name in STATES]
    columns = [STATES.index(name) for name in known]
    places = [answer.knob_names.index(name) for name in known]
    weights = np.zeros(len(STATES), np.float32)
    weights[columns] = 1 / np.square(limits[places])
    states = ORDER[indices(STATES)]
    reach, most = (jnp.asarray([size(n) for n in states], jnp.float32)
                   for size in (lambda n: 0.5 * PRIOR_SD_NM[n], knob_limit_nm))
    step = acquisition.next_step(key, result.candidates.positions, weights, result.parameters, data,
                                 model.map, np.isin(STATES, known), reach, most)
    knobs = np.zeros(len(answer.knob_names))
    knobs[places] = np.asarray(step, float)[columns]
    return knobs


def knob_limit_nm(order: int) -> float:
    """Largest step of a knob by the order of its aberration, nm."""
    return KNOB_LIMIT_NM.get(int(order), 1e4)


def _part_of(report, place: str, fraction: float):
    """Progress of a part of the run: its messages, at the fraction the run has come to."""
    return lambda message, _: report(f"{place}: {message}", fraction)


def _verify(before: Estimate, after: Estimate, fault: str | None, limits):
    """Whether the frame at the applied setting bears the estimate out, and a sentence on it."""
    if fault is not None:
        return False, f"the verification frame cannot be used: {fault}"
    moved = np.abs(after.tuned_knobs_nm - before.tuned_knobs_nm)
    sd = np.sqrt(np.diag(before.tuned_covariance_nm2))
    if np.all(moved <= np.maximum(limits, CONSISTENT * sd)):
        return True, "verified with one more frame"
    worst = int(np.argmax(moved / np.maximum(limits, CONSISTENT * sd)))
    return False, (f"the verification frame disagrees: with it {after.knob_names[worst]} tunes "
                   f"{moved[worst]:.1f} nm elsewhere, take more frames")


def within(answer: Estimate, limits) -> bool:
    """Whether, once applied, all knobs are within their limits with CONFIDENCE.

    By draws from the normal distribution of what the setting leaves, in one mode that is decided
    and at whose top the climb has come.
    """
    if answer.modes[0].weight < DECIDED or (answer.refinement and not answer.converged):
        return False
    left = np.random.default_rng(0).multivariate_normal(
        np.zeros(len(limits)), answer.tuned_covariance_nm2, DRAWS, method="eigh")
    return bool(np.mean(np.all(np.abs(left) <= limits, axis=1)) >= CONFIDENCE)


def _tolerance(tolerance_nm, optics, names):
    limits = quarter_pi_limits_nm(optics)[indices(names)]
    if tolerance_nm is None:
        return limits
    tolerance = np.broadcast_to(np.asarray(tolerance_nm, float), limits.shape)
    if not np.all(tolerance > 0):
        raise ValueError(f"tolerance_nm should be positive, got {tolerance_nm}: give what may "
                         "be left of each knob, in nm")
    return tolerance.copy()
