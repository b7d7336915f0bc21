"""Tune a microscope in a closed loop: acquire, estimate, step, stop, apply, verify."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace

import jax
import numpy as np

from jaxcal import diagnosis, em, identification, refine, runs, spectra, unknowns, verification
from jaxcal import model as models
from jaxcal.aberrations import ORDER, indices
from jaxcal.answers import (
    NOT_DECIDED,
    REFUSED,
    TUNED,
    Calibration,
    Estimate,
    inside,
    left,
    many_set_aside,
    reliable,
)
from jaxcal.basins import START, check_knobs
from jaxcal.course import Course, Plan
from jaxcal.decisions import (
    beforehand,
    knob_limit_nm,
    next_step,
    tolerance,
    verified,
    within,
)
from jaxcal.estimation import acting, estimate
from jaxcal.microscopes.guarded import TIMEOUT_S, GuardedMicroscope
from jaxcal.microscopes.protocol import InstrumentError
from jaxcal.runs import RecordedMicroscope
from jaxcal.series import SeriesError

__all__ = ["NOT_DECIDED", "REFUSED", "TUNED", "Calibration", "calibrate", "estimate"]

HOPELESS = 3  # frames, all that were taken, none of which can be used, after which the loop ends
# Log odds from which on a verification frame is taken to show another state: more than right frames
# come to (benchmarks/verification.py).
DOUBTED = 15.0
ASTRAY = ("the knobs could not be brought back, they stand anywhere between there and where they "
          "were sent last")
ELSEWHERE = ("the verification frame disagrees: it shows another state than the one expected "
             "there, take more frames; a knob may not have arrived")


def calibrate(microscope, *, frames: int = 10, tolerance_nm=None, model=None, seed: int = 0,
              refined: bool = True, settings: em.Settings | None = None, run=None,
              resume: bool = False, timeout_s: float = TIMEOUT_S,
              progress: Callable | None = None) -> Calibration:
    """Tune a microscope: acquire, estimate, step where it tells most, stop, apply, verify.

    Whatever the microscope does, the run ends with an answer; where it raises, hangs or gives what
    is no frame, the answer is "refused" and the knobs are brought back to where they were.

    Args:
        microscope: a `jaxcal.Microscope`.
        frames: at most so many, the last verification not counted; two at least. Refined, of
            fewer than `refine.ACTUATED` frames, the verification among them, none ends as tuned,
            which ``progress`` is told first of all.
        tolerance_nm: (P,) or scalar, what may be left of each knob's aberration; the pi/4 limits
            where None. The loop stops where all knobs are within with CONFIDENCE, by so many
            frames (`refine.ACTUATED`) that a knob which does not act as told would be found.
        model, seed, refined, progress: as of `estimate`.
        settings: of EM, as of `estimate`.
        run: folder that keeps the run while it goes, see :mod:`jaxcal.runs`; None keeps nothing.
        resume: go on with the interrupted run of that folder; the call has to be the same,
            the model too.
        timeout_s: for each call of the microscope, s.

    Returns:
        `Calibration`; it says where the knobs stand.

    Raises:
        ValueError: no steps can decide (one frame, no knob, no room to turn it), unknown knobs or
            limits, an aperture's image too small, or a run that cannot be gone on with or that
            another calibration is at.
        InstrumentError: a member of the microscope cannot be read, or, with ``resume``, it cannot
            take up the run.
    """
    report = progress or (lambda message, fraction: None)
    model = model or models.load()
    instrument = GuardedMicroscope(microscope, timeout_s)
    names = instrument.knob_names
    spectra.check_optics(instrument.optics)
    if not refined:
        check_knobs(names, instrument.name)
    largest = np.minimum([knob_limit_nm(n) for n in ORDER[indices(names)]], instrument.limits_nm)
    identification.check_loop(frames, largest, names, instrument.optics)
    limits = tolerance(tolerance_nm, instrument.optics, names)
    for told in beforehand(frames, names, instrument.optics, refined):
        report(told, 0.0)
    plan = Plan(frames, limits, largest, model, seed, refined, settings, report,
                 _truth(microscope))
    call = {"frames": int(frames), "seed": int(seed), "refined": bool(refined),
            "optics": asdict(instrument.optics), "model": model.digest,
            "settings": settings and {name: type(usual)(value) for (name, usual), value in zip(
                em.DEFAULT._asdict().items(), settings, strict=True)}}
    with runs.alone(run, new=not resume):
        ended = _closed(Course(RecordedMicroscope(
            instrument, run, call=call, limits_nm=limits, resume=resume)), plan)
    left_nm = _true_left(microscope, names) if plan.truth_nm else None
    return replace(ended, true_left_nm=left_nm)


def _closed(course: Course, plan: Plan) -> Calibration:
    """The loop to its end, with the knobs in a stated place, whatever happens."""
    ended, wrong = None, None
    try:
        while ended is None:
            _explore(course, plan)
            ended = _apply(course, plan)
    except (InstrumentError, ValueError, OSError) as error:
        microscope = course.microscope
        if microscope.ended and (microscope.recorded or not isinstance(error, ValueError)):
            raise  # it had ended, and goes otherwise now: what it left, and its answer, stand
        wrong = str(error)  # of the instrument, its frames, or the folder
        if isinstance(error, np.linalg.LinAlgError):
            wrong = (f"the frames could not be evaluated ({error}): they may be unlike each other, "
                     f"start again")
    except BaseException as error:
        if course.microscope.ended:
            raise
        try:
            error.add_note(_bring_back(course)[1])
        except BaseException as again:
            error.add_note(f"{ASTRAY} (interrupted again: {type(again).__name__})")
        raise
    if ended is None:
        try:
            ended = _refused(course, plan, wrong)
        except BaseException as error:
            error.add_note(f"{wrong}; {ASTRAY} (interrupted while they were brought back: "
                           f"{type(error).__name__})")
            raise
    try:
        course.microscope.end(ended.verdict, ended.reason)
    except OSError as error:  # a full disk does not take the answer away
        ended = replace(ended, reason=f"{ended.reason}; its end could not be kept: {error}")
    return ended


def _true_left(microscope, names) -> np.ndarray | None:
    """What is really left of the knobs' aberrations (P,), nm; of a simulated microscope."""
    try:
        return microscope.state_nm()[indices(names)]
    except Exception:  # an adapter that is no simulation may raise anything; it has no truth
        return None


def _truth(microscope) -> dict | None:
    """The hidden state of a microscope that is simulated."""
    try:
        truth = microscope.truth_nm
    except Exception:  # as above
        return None
    return truth if isinstance(truth, Mapping) else None


def _explore(course: Course, plan: Plan) -> None:
    """Take frames until the tolerance is reached or the budget is spent.

    Refined, it is never reached before `refine.ACTUATED` frames could be used: of fewer, knobs that
    do not act as told are not found, and the widths do not allow for them.
    """
    key, report = jax.random.key(plan.seed), plan.report
    names, optics = course.microscope.knob_names, course.microscope.optics
    knobs = np.zeros(len(names))
    while (number := len(course.frames)) < plan.frames:
        place, fraction = f"frame {number + 1}", number / (plan.frames + 1)
        if course.history:
            report(f"{place}: next step", fraction)
            knobs = next_step(jax.random.fold_in(key, number - 1), course.history[-1], plan.limits,
                              plan.model, plan.largest)
        report(f"{place}: acquire", fraction)
        course.look(knobs)
        if all(seen.fault for seen in course.observations):
            if number + 1 in (plan.frames, HOPELESS):
                raise SeriesError(f"no frame can be used, the last because: {course.fault}",
                                  "correct that and start again", frame=number)
            continue
        answer = course.estimate(plan, place, fraction)
        course.history.append(answer)
        if _enough(answer, plan) and within(answer, plan.limits) and not unknowns.one_setting(
                np.stack(course.settings_nm)[list(answer.frame_numbers)], names, optics):
            break


def _apply(course: Course, plan: Plan) -> Calibration | None:
    """Turn the knobs to where they tune, take one more frame there and judge by it. None where it
    does not bear the estimate out and there are frames left to find out why."""
    answer, series = course.history[-1], course.series()
    applied, reached = answer.tuned_knobs_nm, within(answer, plan.limits)
    beyond = _beyond(applied, plan, course.microscope)
    if beyond and reached:  # or the knobs do not act as thought, which is asked
        wrong, _ = _advice(course, plan, answer, doubtful=True)
        raise InstrumentError(f"{beyond}: bring the instrument nearer by other means and start "
                              f"again; {answer.message}{wrong}")
    if beyond:
        return _lost(course, plan, beyond)
    plan.report("verify", fraction := plan.frames / (plan.frames + 1))
    course.look(applied)
    checked, fault = course.estimate(plan, "verify", fraction), course.fault
    holds, verdict = verified(answer, checked, fault, plan.limits)
    if holds and answer.refinement and _elsewhere(course, plan, answer):
        holds, verdict = False, ELSEWHERE
    known = reached and holds and within(checked, plan.limits)
    tuned = known and _enough(checked, plan)
    if reached and not tuned and len(course.frames) < plan.frames:
        if fault is None:
            course.history.append(checked)
        return None
    final = checked if fault is None else answer
    doubtful = not tuned and ((not holds and fault is None) or not reliable(final))
    advice, otherwise = ("", False) if tuned else _advice(course, plan, final, doubtful)
    back = doubtful or otherwise  # where they were they did less harm than anywhere else
    standing, corrected = _leave(course, plan, checked, holds, back)
    if back:
        verdict += "; the knobs are back where they were"
    if corrected:
        verdict += ", by which the knobs were corrected once more"
        if reached and not tuned:
            verdict += (f"; that all are within the tolerance now has a probability of "
                        f"{inside(*left(checked), plan.limits):.0%}")
    if tuned and not within(checked, plan.limits, standing):
        tuned, off = False, np.abs(left(checked, standing)[0])
        worst = int(np.argmax(off / plan.limits))
        verdict += (f"; the knobs do not come to rest where they are sent, {off[worst]:.2g} nm of "
                    f"{checked.knob_names[worst]} are left")
        advice, otherwise = _advice(course, plan, final, doubtful=False)
        if otherwise:
            standing = course.go(np.zeros(len(plan.limits)))
            verdict += "; the knobs are back where they were"
    if known and not _enough(checked, plan):
        verdict += (f"; only {checked.frames_used} frames could be used, and knobs that act "
                    f"otherwise than told are not found by fewer than {refine.ACTUATED}")
    spent = ("within the tolerance" if reached
             else "frame budget spent before the tolerance was reached,")
    message = f"{spent} after {len(series)} frames; {verdict}; {final.message}{advice}"
    final = replace(final, converged=tuned, message=message, seconds=course.seconds)
    return Calibration(course.microscope.knob_names, TUNED if tuned else NOT_DECIDED, message,
                       final, tuple(course.history), series, course.frames[-1], standing,
                       plan.limits, plan.truth_nm, course.seconds)


def _beyond(applied, plan: Plan, microscope) -> str | None:
    """A sentence where a setting (P,), nm, is beyond what the knobs may be turned to."""
    beyond = np.abs(applied) > plan.largest
    if not np.any(beyond):
        return None
    worst = int(np.argmax(beyond))
    whose = ("its limit is" if plan.largest[worst] == microscope.limits_nm[worst]
             else "a calibration turns it to at most")
    return (f"{microscope.knob_names[worst]} would have to be turned to {applied[worst]:.0f} nm, "
            f"{whose} {plan.largest[worst]:g} nm")


def _lost(course: Course, plan: Plan, beyond: str) -> Calibration:
    """The answer where the budget is spent and the estimate, sure of nothing, points beyond the
    knobs' reach: that is no setting to go to, and mostly a knob or a camera that is wrong."""
    answer, series = course.history[-1], course.series()
    standing = course.go(np.zeros(len(plan.limits)))
    message = (f"frame budget spent before the tolerance was reached, after {len(series)} frames; "
               f"by an estimate that is not sure {beyond}; the knobs are back where they were; "
               f"{answer.message}")
    message += _advice(course, plan, answer, doubtful=True)[0]
    final = replace(answer, converged=False, message=message, seconds=course.seconds)
    return Calibration(course.microscope.knob_names, NOT_DECIDED, message, final,
                       tuple(course.history), series, None, standing, plan.limits, plan.truth_nm,
                       course.seconds)


def _leave(course: Course, plan: Plan, checked: Estimate, holds: bool, back: bool):
    """Leave the knobs where it is best, as far as is known: ``back`` at zero, corrected by the last
    frame where that helps, otherwise where it was taken. Where they stand then, (P,) nm, and
    whether they were corrected."""
    applied = course.history[-1].tuned_knobs_nm
    if back:
        return course.go(np.zeros(len(applied))), False
    corrects = holds and not within(checked, plan.limits, course.standing(applied)) and np.all(
        np.abs(checked.tuned_knobs_nm) <= plan.largest)
    if corrects:
        return course.go(checked.tuned_knobs_nm), True
    return course.stay(applied), False


def _enough(answer: Estimate, plan: Plan) -> bool:
    """Whether knobs that do not act as told would have been found."""
    return not plan.refined or answer.frames_used >= refine.ACTUATED


def _elsewhere(course: Course, plan: Plan, answer: Estimate) -> bool:
    """Whether the last frame shows another state than the estimate expects at its setting."""
    expected = verification.state_nm(answer, course.settings_nm[-1])
    return DOUBTED < verification.log_odds_elsewhere(
        course.observations[-1], expected, course.microscope.optics, plan.model,
        candidates=(plan.settings or START).candidates)


def _refused(course: Course, plan: Plan, reason: str) -> Calibration:
    """The answer where the run cannot go on; the knobs are brought back."""
    standing, told = _bring_back(course)
    last = course.history[-1] if course.history else None
    reason = f"{reason}; {told}"
    try:
        series = course.series()
    except ValueError:  # no frames, or none that can be used
        series = None
    final = last and replace(last, converged=False, message=f"refused: {reason}",
                             seconds=course.seconds)
    return Calibration(course.microscope.knob_names, REFUSED, reason, final, tuple(course.history),
                       series, None, standing, plan.limits, plan.truth_nm, course.seconds)


def _bring_back(course: Course):
    """Where the knobs stand after they were sent back to zero, (P,) or None, and a sentence."""
    home = np.zeros(len(course.microscope.knob_names))
    try:
        course.microscope.bring_back()
    except OSError as error:
        return course.standing(home), (f"the knobs are back where they were, which could not be "
                                       f"kept: {error}")
    except (InstrumentError, ValueError) as error:
        return None, f"{ASTRAY} ({error})"
    return course.standing(home), "the knobs are back where they were"


def _advice(course: Course, plan: Plan, answer: Estimate, doubtful: bool) -> tuple[str, bool]:
    """What to do where the answer is "not decided", beyond what its message says, and whether the
    knobs act quite otherwise than it takes them to; doubtful: whether the frames speak against it,
    so that more of them are no remedy."""
    try:
        told, otherwise = _found(course, plan, answer, doubtful)
    except ValueError as error:  # an answer is not given up for what else might be said
        return f"; why could not be found out ({error}); start again with more frames", False
    return "".join(f"; {words}" for words in told), otherwise


def _found(course: Course, plan: Plan, answer: Estimate, doubtful: bool):
    """What is wrong, as far as can be found out, sentences, and whether the knobs act quite
    otherwise than the answer takes them to. How they really act is asked where the answer is
    doubtful, frames were set aside or the knobs do not act as told."""
    told, frames, otherwise = [], len(course.frames), False
    many = many_set_aside(answer, frames)
    if many:
        told.append(f"{len(answer.rejected_frames)} of {frames} frames were set aside, look for a "
                    f"better area of thin amorphous film")
    found = answer.refinement
    odd = found is not None and (found.with_actuator or found.with_misses)
    if plan.refined and (doubtful or many or odd):
        findings, how = acting(course.observations, course.series(), plan.model, plan.report)
        told += findings
        otherwise = diagnosis.otherwise(how, answer.actuator)
    if not doubtful and not otherwise:
        told.append("start again from here with more frames")
    return told, otherwise
