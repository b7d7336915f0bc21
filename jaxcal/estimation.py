"""The state of a microscope from a series of frames: EM over the latents, then the refinement.

EM finds the basins from the latents of whole frames, the refinement (:mod:`jaxcal.refine`) what
the spectra contain. Where the knobs turn out to act far from told, or many
frames do not fit, they are asked one by one (:mod:`jaxcal.diagnosis`): a camera that is turned can
look like knobs that miss their settings.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from jaxcal import (
    basins,
    devices,
    diagnosis,
    em,
    inconsistency,
    laplace,
    observation,
    posterior,
    refine,
    spectra,
    unknowns,
)
from jaxcal import model as models
from jaxcal.aberrations import ORDER, indices
from jaxcal.answers import Estimate, Mode, many_set_aside, mostly_unlike
from jaxcal.basins import DECIDED, GAIN_STEPS, MORE_STARTS, START, Frames, check_knobs, undecided
from jaxcal.optics import Optics
from jaxcal.results import standard_deviation
from jaxcal.series import Series

CONFIDENCE = 0.95  # with which all knobs are to be within their limits
UNSPOKEN = 0.5  # probability of a drift up to which it is allowed for without a word
UNLIKE = 0.2  # nats a bin, `Model.look`, above which a frame is unlike anything trained on
UNFIT = ("does not fit the others: its spectra are not those of the same instrument and film at "
         "this knob setting")
FEW = ("too few to ask for a drift or how the knobs act: the widths are those of an instrument "
       "that stands still and does as it is told")
ONE_SETTING = ("all frames at one knob setting, where a state and its mirror image "
               "show the same; take a frame at another")
NEAR = 0.1  # of an element of the actuator matrix, between two ways to find it that agree
DISBELIEVED = 0.5  # of a gain from what is told: knobs that do so are not estimated along
CROSSTALK = 0.03  # share of one knob in another's aberration from which on it is spoken of
NOT_BELIEVED = ("{} would act by {:.2f} of what it is told, which is not believed: look at the "
                "knob, and whether the camera is turned or mirrored")
UNEXPLAINED = ("no state explains the spectra, the likeliest leaves a deviance of "
               "{:.2f} a bin; look whether the frames are diffraction patterns of a thin film, the "
               "knobs act as told, and the energy and the angles are right")


def estimate(series: Series, model: models.Model | None = None, *, seed: int = 0,
             actuator: bool = False, published: bool = False, refined: bool = True,
             settings: em.Settings | None = None, progress: Callable | None = None) -> Estimate:
    """Estimate the state of the instrument that a calibration series was taken with.

    Args:
        series: frames at known knob steps.
        model: trained model; the shipped one where None.
        seed: of the candidates.
        actuator: estimate the actuator matrix (gains 10 %, crosstalk 3 % uncertain) in any case,
            refined the drift too; the refinement does so by itself where the frames ask for it.
        published: use the published form of the map, without the simulated mean or refinement.
        refined: go on to the spectra after EM.
        settings: of EM; START where the refinement goes on and em.DEFAULT where not, if None.
        progress: called with (message, fraction or None).

    Raises:
        SeriesError: no frame can be used, or a knob is not one the model covers and there is no
            refinement.
        ValueError: the aperture's image is too small, or no state explains the spectra.
        numpy.linalg.LinAlgError: the frames contradict each other beyond any state.

    Example:
        >>> import jaxcal
        >>> answer = jaxcal.estimate(jaxcal.read_series("series.h5"))  # doctest: +SKIP
    """
    start = time.perf_counter()
    report = progress or (lambda message, fraction: None)
    model = model or models.load()
    spectra.check_optics(series.optics)  # before anything is compiled
    if published or not refined:
        check_knobs(series.knob_names, series.name)
    observations, goes_on = [], refined and not published
    for number, frame in enumerate(series.frames):
        report(f"aperture of frame {number + 1}/{len(series)}", 0.2 * number / len(series))
        seen = observation.observe(frame, series.optics)
        observations.append(replace(
            seen, fault=seen.fault or observation.stale(frame, series.frames[:number])))
        if goes_on and observations[-1].fault is None:  # something to refine; begun only once
            _prepare(series, series.optics)
    answer = infer(observations, series, model, seed=seed, actuator=actuator,
                   published=published, refined=refined, settings=settings,
                   progress=lambda message, fraction: report(
                       message, None if fraction is None else 0.2 + 0.8 * fraction))
    if answer.converged and answer.refinement and doubted(answer, len(series)):
        told, found = acting(observations, series, model, report)
        # what does not arrive is the same share of each move, which no width of misses allows for
        if diagnosis.otherwise(found, answer.actuator) or (found and found.lag):
            answer = _open(answer, "; ".join(told))
        else:
            answer = _by_what_frames_say(answer, found, observations, series, model, report)
            answer = replace(answer, message="; ".join([answer.message, *told]))
    return replace(answer, seconds=time.perf_counter() - start)


def _by_what_frames_say(answer: Estimate, found, observations, series: Series, model: models.Model,
                        report) -> Estimate:
    """The answer, or that of a climb from how the knobs act by the frames one by one, where that is
    another and its top is the higher: far from told, the actuator matrix has more tops than one."""
    if found is None or np.mean(found.fits) <= 0.5:
        return answer
    apart = np.abs(found.actuator - answer.actuator) > np.maximum(NEAR, 3 * found.sd)
    far = np.abs(np.diag(found.actuator) - 1) > DISBELIEVED
    if not np.any(apart) or np.any(far):
        return answer
    report("fitting the spectra, from how the knobs act by the frames one by one", 0.95)
    frames = basins.look(observations, series, model)
    wider = _posed(frames, series, True)
    begun = unknowns.start(wider, found.knob_names, found.x0_nm, found.actuator)
    try:
        best = refine.likelier(answer.refinement, refine.solve(wider, [begun]))
    except ValueError:  # no climb from there explains the spectra
        return answer
    if best is answer.refinement:
        return answer
    made = _refined(frames, best, series, answer.posterior, answer.iterations, asked=False)
    return _remarked(made, frames, series, model, best)


def doubted(answer: Estimate, frames: int) -> bool:
    """Whether it is to be asked of a refined answer how the knobs really act: far from told by the
    refinement, or many frames were set aside."""
    return answer.refinement.far_off or many_set_aside(answer, frames)


def acting(observations, series: Series, model: models.Model, report):
    """How the knobs act: `diagnosis.of_frames`, of these frames one by one."""
    return diagnosis.of_frames(
        observations, series.knobs_nm, series.knob_names, series.optics,
        lambda seen: state_of(seen, series.knob_names, series.optics, model), report)


def state_of(seen: observation.Observation, knob_names, optics: Optics, model: models.Model,
             seed: int = 0):
    """State (P,) nm that a frame was taken with, up to its sign, and its standard deviation (P,).

    Raises:
        ValueError: the frame cannot be used, or no state explains it by any number.
    """
    series = Series(seen.frame[None], np.zeros((1, len(knob_names))), knob_names, optics)
    best = infer([seen], series, model, seed=seed).modes[0]
    return best.x0_nm, standard_deviation(best.covariance_nm2)


def infer(observations, series: Series, model: models.Model, *, seed: int = 0,
          actuator: bool = False, published: bool = False, refined: bool = True,
          settings: em.Settings | None = None, length: int | None = None,
          before: Estimate | None = None, progress=None) -> Estimate:
    """The estimate from the frames' observations.

    Args:
        observations: of all frames, see `jaxcal.observation.observe`.
        length: pads the frames, see `basins.experiment`.
        before: a decided estimate from the first of these frames; the refinement goes on from
            there instead of from EM.
    """
    start = time.perf_counter()
    frames = basins.look(observations, series, model)
    report = progress or (lambda message, fraction: None)
    by_em = partial(basins.search, frames, series, model, seed=seed, published=published,
                    report=report, length=length)
    if published or not refined:
        result, data = by_em(settings or em.DEFAULT, actuator, 1.0)
        answer, found = basins.summary(result, data, series, frames), None
    else:
        answer, found = _by_spectra(frames, series, by_em, settings, actuator, before, report)
    answer = _remarked(answer, frames, series, model, found)
    return replace(answer, seconds=time.perf_counter() - start)


def _by_spectra(frames: Frames, series: Series, by_em, settings: em.Settings | None,
                actuator: bool, before: Estimate | None, report):
    """The answer of the refinement, and the refinement: from where an earlier one ended, or from
    EM's modes; and from those of another EM where the knobs turn out to act far from told."""
    def refined_from(problem, starts, share, other_scales=False):
        return refine.solve(
            problem, starts, lambda told, fraction: report(told, share + (1 - share) * fraction),
            other_scales=other_scales)

    if before is not None and before.refinement is not None:
        by, iterations = before.posterior, 0
        problem, starts = refine.resume(_posed(frames, series, actuator), before.refinement)
        # a loop's steps follow its estimates, and may never leave the top of a scale told wrong
        found = refined_from(problem, starts, 0.0, before.frames_used < refine.ACTUATED)
    else:
        chosen = settings or (START._replace(iterations=GAIN_STEPS) if actuator else START)
        share = 0.5 if chosen.iterations else 0.0
        by, problem = _begun(frames, series, actuator, partial(by_em, chosen, actuator, share))
        iterations = by[0].iterations
        found = refined_from(problem, basins.starts(*by, series, problem), share)
    if found.far_off and not _asked_for_gains(problem, before):
        report("how the knobs act, from the start", 0.0)
        again = (settings or START)._replace(iterations=GAIN_STEPS)
        wider = unknowns.with_actuator(problem)
        starts = basins.starts(*by_em(again, True, 0.5), series, wider)
        try:
            found = refine.likelier(found, refined_from(wider, starts, 0.5))
        except ValueError:  # none of these explains the spectra; the first answer does
            pass
    return _refined(frames, found, series, by, iterations, asked=actuator), found


def _begun(frames: Frames, series: Series, actuator: bool, by_em):
    """EM's result with its data, and the problem of the refinement; what the refinement takes is
    compiled and prepared while EM runs."""
    compiled = _prepare(series, frames.optics)
    coming = devices.aside(partial(_posed, frames, series, actuator))
    by = by_em()
    problem, _ = coming(), compiled()
    return by, problem


def _posed(frames: Frames, series: Series, actuator: bool) -> unknowns.Problem:
    """What the refinement is to solve."""
    measured = observation.measured(frames.observations, series, frames.numbers)
    problem = unknowns.problem(measured, series.knob_names, frames.optics, frames.radius)
    return unknowns.with_actuator(problem) if actuator else problem


def _remarked(answer: Estimate, frames: Frames, series: Series, model: models.Model,
              found) -> Estimate:
    """The answer with what else is to be said of it: optics told wrong or never trained on, all
    frames at one setting, no state that explains them, gains that are not believed, frames unlike
    anything trained on."""
    wrong = inconsistency.findings(series.optics, frames.radius, found)
    answer = replace(answer, message="; ".join(filter(None, (
        answer.message, wrong, inconsistency.untrained(frames.optics, model.card)))))
    if unknowns.one_setting(
            series.knobs_nm[list(answer.frame_numbers)], series.knob_names, series.optics):
        told = answer.message.removeprefix(f"{undecided(answer.modes)}; ")  # it is two, of course
        answer = _open(replace(answer, message=told), ONE_SETTING)
    if found is not None and not found.explains:
        answer = _open(answer, UNEXPLAINED.format(found.misfit))
    gains = np.diag(answer.actuator)
    if np.any(np.abs(gains - 1) > DISBELIEVED):
        worst = int(np.argmax(np.abs(gains - 1)))
        answer = _open(answer, NOT_BELIEVED.format(answer.knob_names[worst], gains[worst]))
    return _compared(answer, {number: float(far) for number, far in zip(
        frames.numbers, frames.misfit, strict=True) if not far < UNLIKE})


def _told_gains(actuator, names) -> str:
    """The gains of the knobs, and the largest crosstalk where there is any to speak of."""
    told = ", ".join(f"{name} {gain:.2f}" for name, gain in zip(
        names, np.diag(actuator), strict=True))
    across = actuator - np.diag(np.diag(actuator))
    row, column = np.unravel_index(np.argmax(np.abs(across)), across.shape)
    if abs(across[row, column]) < CROSSTALK:
        return told
    return f"{told}, {across[row, column]:+.2f} of {names[column]} arrives in {names[row]}"


def _open(answer: Estimate, why: str) -> Estimate:
    """The answer, not decided for a reason that goes before the others."""
    told = answer.message.removeprefix("not decided: ")
    return replace(answer, converged=False, message=f"not decided: {why}; {told}")


def _asked_for_gains(problem, before: Estimate | None) -> bool:
    """Whether the actuator matrix is among the unknowns from the start, or was before in vain."""
    earlier = before.refinement if before else None
    return unknowns.asked(problem, "gain") or bool(earlier and earlier.with_misses)


def _compared(answer: Estimate, unlike: dict[int, float]) -> Estimate:
    """The answer with the frames that are unlike anything trained on, {number: misfit}."""
    answer = replace(answer, unlike_frames=tuple(unlike))
    if not unlike:
        return answer
    told = ", ".join(f"{number} ({far:.1f} nats a bin)" for number, far in unlike.items())
    told = (f"frames unlike anything the model was trained on: {told}; look whether the area is "
            f"thin, amorphous and clean")
    if not mostly_unlike(answer):
        return replace(answer, message=f"{answer.message}; {told}")
    message = f"not decided: {answer.message.removeprefix('not decided: ')}"
    return replace(answer, converged=False, message=f"{message}; half and more of the {told}")


def _prepare(series: Series, optics: Optics) -> Callable[[], None]:
    """Start to compile what the refinement of a series takes; waits for it."""
    return posterior.prepare(unknowns.free_aberrations(series.knob_names, optics),
                             several=MORE_STARTS // len(series) > 0)  # `basins.starts`


def _refined(frames: Frames, found: refine.Refinement, series: Series, by, iterations: int,
             asked: bool) -> Estimate:
    """The answer of the refinement.

    Args:
        by: result and data of the EM it began with, which may be of fewer frames; iterations: of
            EM for this answer.
        asked: whether the actuator matrix was to be estimated in any case.
    """
    best = found.solutions[0]
    solutions = tuple(Mode(float(weight), s.x0_nm, s.covariance_nm2)
                      for weight, s in zip(found.weights, found.solutions, strict=True))
    kept = [k for k in range(len(frames.numbers)) if k not in found.unfit]
    unfit = [(frames.numbers[k], UNFIT) for k in found.unfit]
    numbers = tuple(frames.numbers[k] for k in kept)
    decided = solutions[0].weight >= DECIDED
    told = f"refined on the spectra of {len(kept)} frames"
    if not refine.enough(found.problem):
        told += f", {FEW}"
    if found.with_actuator:
        gains = _told_gains(best.gain, series.knob_names)
        told += (f"; gains {gains}, drift estimated along" if asked else
                 f"; the knobs do not act as told: gains {gains}, drift estimated along")
    elif best.drifts > UNSPOKEN:
        drift = ", ".join(f"{name} {nm:+.1f}" for name, nm, order in zip(
            series.knob_names, best.drift_nm, ORDER[indices(series.knob_names)], strict=True)
            if order == 1)
        told += (f"; a drift, {best.drifts:.0%} likely, is allowed for: from frame to frame "
                 f"{drift} nm")
    if found.with_misses:
        misses = ", ".join(f"{name} by {nm:.1f}" for name, nm in zip(
            series.knob_names, best.miss_nm, strict=True) if nm > 0)
        told += f"; the knobs do not come to rest where they are sent, they miss it: {misses} nm"
    if not best.settled:
        told += "; the climb had not settled"
    knobs, time_ = series.knobs_nm[list(numbers)], np.array(numbers)[:, None]
    return Estimate(
        knob_names=tuple(series.knob_names), x0_nm=best.x0_nm,
        covariance_nm2=laplace.mixture(
            found.weights, [(s.x0_nm, s.covariance_nm2) for s in found.solutions], best.x0_nm)[1],
        tuned_knobs_nm=best.tuned_knobs_nm, tuned_covariance_nm2=laplace.mixture(
            found.weights, [(s.tuned_knobs_nm, s.tuned_covariance_nm2) for s in found.solutions],
            best.tuned_knobs_nm)[1],
        modes=solutions, frames_used=len(kept),
        rejected_frames=tuple(sorted([*frames.rejected, *unfit])),
        converged=bool(decided and best.settled),
        message=told if decided else f"{undecided(solutions)}; {told}",
        iterations=iterations, seconds=0.0, actuator=best.gain, frame_numbers=numbers,
        latents=frames.latents[kept], spectra=frames.images[kept],
        states_nm=best.x0_nm + knobs @ best.gain.T + time_ * best.drift_nm, posterior=by,
        refinement=found)
