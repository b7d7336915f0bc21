"""The state of a microscope from a series of frames: EM over the latents, then the refinement.

EM finds the basins from the latents of whole frames, the refinement (:mod:`jaxcal.refine`) what
the spectra contain.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import (
    devices,
    em,
    identification,
    inconsistency,
    laplace,
    modes,
    observation,
    posterior,
    refine,
    spectra,
    stream,
    unknowns,
)
from jaxcal import model as models
from jaxcal.aberrations import ORDER, indices
from jaxcal.answers import Estimate, Mode, mostly_unlike
from jaxcal.optics import Optics, edge_waves
from jaxcal.series import Series, SeriesError

STATES = stream.KNOBS
PRIOR_SD_NM = {1: 150.0, 2: 400.0}  # of x0 by order, about zero, for EM
PADDED = 4  # frames are padded to a multiple, so that one compiled program serves many lengths
CONFIDENCE = 0.95  # with which all knobs are to be within their limits
DECIDED = 0.95  # weight of one mode above which the others are out
UNSPOKEN = 0.05  # probability of a drift up to which it is not spoken of
START = em.Settings(candidates=1024, iterations=0)  # of EM where the refinement goes on
GAIN_STEPS = 8  # M-steps then where it is asked for the actuator matrix, which moves the states
UNLIKE = 0.2  # nats a bin, `Model.look`, above which a frame is unlike anything trained on
UNFIT = ("does not fit the others: its spectra are not those of the same instrument and film at "
         "this knob setting")
FEW = ("too few to ask for a drift or how the knobs act: the widths are those of an instrument "
       "that stands still and does as it is told")
ONE_SETTING = ("not decided: all frames at one knob setting, where a state and its mirror image "
               "show the same; take a frame at another")
STARTS = 6  # modes of EM at most that the refinement starts from
MORE_STARTS = 12  # single candidates it starts from too, divided by the frames


def experiment(latents, knobs_nm, knob_names, optics: Optics, *, actuator=False, length=None):
    """The data of a series for :mod:`jaxcal.em`, padded to ``length`` frames that weigh nothing.

    Args:
        latents: (T, D); knobs_nm: (T, P) nm; knob_names: P aberrations; the latents' map knows
            STATES, steps of others are left to the refinement.
        optics: with the measured semi-angle.
        actuator: whether the actuator matrix is to be estimated.
    """
    frames = len(latents)
    length = frames if length is None else length
    columns, known = _columns(knob_names)
    knobs = np.zeros((length, len(STATES)))
    knobs[:frames, columns] = np.asarray(knobs_nm)[:, known]
    noise = np.full(length, em.EXCLUDED)
    noise[:frames] = 1.0
    padded = np.zeros((length, np.shape(latents)[1]))
    padded[:frames] = latents
    places = indices(STATES)
    order = ORDER[places]
    sd = np.zeros((len(STATES),) * 2)
    if actuator:
        same = order[:, None] == order[None, :]
        block = np.where(np.eye(len(STATES), dtype=bool), unknowns.GAIN_SD,
                         unknowns.CROSSTALK_SD * same)
        sd[np.ix_(columns, columns)] = block[np.ix_(columns, columns)]
    fields = (knobs, padded, noise, edge_waves(optics)[places], order + 1.0,
              np.array([PRIOR_SD_NM[n] for n in order]), unknowns.SCALE_SD, sd)
    return em.Experiment(*(jnp.asarray(field, jnp.float32) for field in fields))


def estimate(series: Series, model: models.Model | None = None, *, seed: int = 0,
             actuator: bool = False, published: bool = False, refined: bool = True,
             settings: em.Settings | None = None, progress: Callable | None = None) -> Estimate:
    """Estimate the state of the instrument that a calibration series was taken with.

    Args:
        series: frames at known knob steps.
        model: trained model; the shipped one where None.
        seed: of the candidates.
        actuator: estimate the actuator matrix (gains 10 %, crosstalk 3 % uncertain) and the drift
            in any case; the refinement does so by itself where the frames ask for it.
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
    answer = infer(observations, series, model or models.load(), seed=seed, actuator=actuator,
                   published=published, refined=refined, settings=settings,
                   progress=lambda message, fraction: report(
                       message, None if fraction is None else 0.2 + 0.8 * fraction))
    return replace(answer, seconds=time.perf_counter() - start)


def infer(observations, series: Series, model: models.Model, *, seed: int = 0,
          actuator: bool = False, published: bool = False, refined: bool = True,
          settings: em.Settings | None = None, length: int | None = None,
          before: Estimate | None = None, progress=None) -> Estimate:
    """The estimate from the frames' observations.

    Args:
        observations: of all frames, see `jaxcal.observation.observe`.
        length: pads the frames, see `experiment`.
        before: a decided estimate from the first of these frames; the refinement goes on from
            there instead of from EM.
    """
    start = time.perf_counter()
    frames = _look(observations, series, model)
    report = progress or (lambda message, fraction: None)
    by_em = partial(_by_em, frames, series, model, seed=seed, published=published, report=report,
                    length=length or PADDED * -(-len(frames.numbers) // PADDED))
    if published or not refined:
        result, data = by_em(settings or em.DEFAULT, actuator, 1.0)
        answer, found = _summary(result, data, series, frames), None
    else:
        answer, found = _by_spectra(frames, series, by_em, settings, actuator, before, report)
    answer = _remarked(answer, frames, series, model, found)
    return replace(answer, seconds=time.perf_counter() - start)


class _Frames(NamedTuple):
    """What is seen of the T frames that can be used.

    numbers: theirs; rejected: ((number, reason), ...) of the others; observations; images
    (T, 128, 64), log; latents (T, D); misfit (T,), see `Model.look`; radius: of the aperture's
    image, pixels; optics: with the semi-angle as measured.
    """

    numbers: list[int]
    rejected: tuple[tuple[int, str], ...]
    observations: list[observation.Observation]
    images: np.ndarray
    latents: np.ndarray
    misfit: np.ndarray
    radius: float
    optics: Optics


def _look(observations, series: Series, model: models.Model) -> _Frames:
    good = [k for k, seen in enumerate(observations) if seen.fault is None]
    rejected = tuple((k, seen.fault) for k, seen in enumerate(observations)
                     if seen.fault is not None)
    if not good:
        number, fault = rejected[0]
        raise SeriesError(f"no frame can be used, the first because: {fault}",
                          "take the series again", frame=number, file=series.name or None)
    usable = [observations[k] for k in good]
    images = observation.log_images(usable)
    looked = [model.look(image[None]) for image in images]  # one program for any number of frames
    latents, misfit = (np.concatenate(part) for part in zip(*looked, strict=True))
    radius, _ = observation.camera_of(usable)
    return _Frames(good, rejected, usable, images, latents, misfit, radius,
                   observation.measured_optics(series.optics, radius))


def _by_em(frames: _Frames, series: Series, model: models.Model, settings: em.Settings,
           actuator: bool, share: float, *, seed, published, length, report):
    """EM's result and what it was given; it has ``share`` of the progress."""
    data = experiment(frames.latents, series.knobs_nm[frames.numbers], series.knob_names,
                      frames.optics, actuator=actuator, length=length)
    return em.run(jax.random.key(seed), data, model.flat_map if published else model.map, settings,
                  progress=lambda told, fraction: report(
                      told, None if fraction is None else share * fraction)), data


def _by_spectra(frames: _Frames, series: Series, by_em, settings: em.Settings | None,
                actuator: bool, before: Estimate | None, report):
    """The answer of the refinement, and the refinement: from where an earlier one ended, or from
    EM's modes; and from those of another EM where the knobs turn out to act far from told."""
    def posed():
        measured = observation.measured(frames.observations, series, frames.numbers)
        problem = unknowns.problem(measured, series.knob_names, frames.optics, frames.radius)
        return unknowns.with_actuator(problem) if actuator else problem

    def refined_from(problem, starts, share, search=False):
        return refine.solve(problem, starts, search=search, progress=lambda told, fraction: report(
            told, share + (1 - share) * fraction))

    goes_on = before is not None and before.refinement is not None
    if goes_on:
        share = 0.0
        answer = replace(before, iterations=0, frame_numbers=tuple(frames.numbers),
                         latents=frames.latents, spectra=frames.images,
                         rejected_frames=frames.rejected)
        problem, starts = refine.resume(posed(), before.refinement)
    else:
        settings = settings or (START._replace(iterations=GAIN_STEPS) if actuator else START)
        share = 0.5 if settings.iterations else 0.0
        compiled, coming = _prepare(series, frames.optics), devices.aside(posed)  # while EM runs
        result, data = by_em(settings, actuator, share)
        answer = _summary(result, data, series, frames)
        problem, _ = coming(), compiled()
        starts = _starts(result, data, series, problem)
    # a loop's steps follow its estimates, and may never leave the top of a scale told wrong
    found = refined_from(problem, starts, share,
                         search=goes_on and before.frames_used < refine.ACTUATED)
    if found.far_off and not _asked_for_gains(problem, before):
        report("how the knobs act, from the start", share)
        again = (settings or START)._replace(iterations=GAIN_STEPS)
        wider = unknowns.with_actuator(problem)
        found = refine.likelier(found, refined_from(
            wider, _starts(*by_em(again, True, 0.5), series, wider), 0.5))
    return _refined(answer, found, series, asked=actuator), found


def _remarked(answer: Estimate, frames: _Frames, series: Series, model: models.Model,
              found) -> Estimate:
    """The answer with what else is to be said of it: optics told wrong or never trained on, all
    frames at one setting, frames unlike anything trained on."""
    wrong = inconsistency.findings(series.optics, frames.radius, found)
    answer = replace(answer, message="; ".join(filter(None, (
        answer.message, wrong, inconsistency.untrained(frames.optics, model.card)))))
    if identification.one_setting(
            series.knobs_nm[list(answer.frame_numbers)], series.knob_names, series.optics):
        told = answer.message.removeprefix(f"{_undecided(answer.modes)}; ")
        answer = replace(answer, converged=False, message=f"{ONE_SETTING}; {told}")
    return _compared(answer, {number: float(far) for number, far in zip(
        frames.numbers, frames.misfit, strict=True) if not far < UNLIKE})


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
                             several=MORE_STARTS // len(series) > 0)  # `_starts`


def _columns(knob_names):
    """Columns of the states that are knobs, and places of these among the knobs."""
    known = [k for k, name in enumerate(knob_names) if name in STATES]
    return [STATES.index(knob_names[k]) for k in known], known


def _starts(result, data, series, problem):
    """z (Z,) that the refinement starts from: the mean of each mode of EM, the largest first, and,
    where few frames leave the second order open, some candidates at random."""
    columns, _ = _columns(series.knob_names)
    positions = np.asarray(result.candidates.positions, float)
    gain = _actuator(result, data, series.knob_names)
    means = [positions[chosen, : len(STATES)].mean(0)
             for chosen in modes.members(positions[:, columns])[:STARTS]]
    more = np.random.default_rng(0).choice(len(positions), MORE_STARTS // len(series))
    return [unknowns.start(problem, STATES, state, gain)
            for state in (*means, *positions[more, : len(STATES)])]


def _actuator(result, data, knob_names) -> np.ndarray:
    """EM's actuator matrix (P, P); the identity for knobs that the map does not know."""
    columns, known = _columns(knob_names)
    gain = np.eye(len(knob_names))
    gain[np.ix_(known, known)] = np.asarray(em.actuator(result.parameters, data), float)[
        np.ix_(columns, columns)]
    return gain


def _summary(result, data, series: Series, frames: _Frames) -> Estimate:
    """EM's answer; knobs that the map does not know stay at the prior's mean."""
    columns, known = _columns(series.knob_names)
    count = len(series.knob_names)
    candidates = np.asarray(result.candidates.positions, float)
    positions = unknowns.state_sd_nm(series.knob_names) * np.random.default_rng(0).standard_normal(
        (len(candidates), count))
    positions[:, known] = candidates[:, columns]
    clouds = [positions[chosen] for chosen in modes.members(candidates[:, columns])]
    found = tuple(Mode(len(cloud) / len(positions), cloud.mean(0), modes.covariance(cloud))
                  for cloud in clouds)
    x0 = found[0].x0_nm
    gain = _actuator(result, data, series.knob_names)
    inverse = np.linalg.inv(gain)
    away = positions - x0
    covariance = away.T @ away / len(away)
    decided = found[0].weight >= DECIDED
    message = result.message if decided else f"{_undecided(found)}; {result.message}"
    return Estimate(
        knob_names=tuple(series.knob_names), x0_nm=x0, covariance_nm2=covariance,
        tuned_knobs_nm=-inverse @ x0, tuned_covariance_nm2=inverse @ covariance @ inverse.T,
        modes=found, frames_used=len(frames.numbers), rejected_frames=frames.rejected,
        converged=bool(decided and result.converged), message=message,
        iterations=result.iterations, seconds=0.0, actuator=gain,
        frame_numbers=tuple(frames.numbers), latents=frames.latents, spectra=frames.images,
        states_nm=x0 + series.knobs_nm[frames.numbers] @ gain.T, posterior=(result, data))


def _undecided(found) -> str:
    return (f"not decided: {len(found)} solutions are left, the likeliest with "
            f"{100 * found[0].weight:.0f} %; take more frames at other knob steps")


def _refined(answer: Estimate, found: refine.Refinement, series: Series, asked: bool) -> Estimate:
    """EM's answer with the numbers of the refinement; asked: whether the actuator matrix was to be
    estimated in any case."""
    best = found.solutions[0]
    solutions = tuple(Mode(float(weight), s.x0_nm, s.covariance_nm2)
                      for weight, s in zip(found.weights, found.solutions, strict=True))
    kept = [k for k in range(len(answer.frame_numbers)) if k not in found.unfit]
    unfit = [(answer.frame_numbers[k], UNFIT) for k in found.unfit]
    numbers = tuple(answer.frame_numbers[k] for k in kept)
    decided = solutions[0].weight >= DECIDED
    told = f"refined on the spectra of {len(kept)} frames"
    if not refine.enough(found.problem):
        told += f", {FEW}"
    if found.with_actuator:
        gains = ", ".join(f"{name} {gain:.2f}" for name, gain in zip(
            series.knob_names, np.diag(best.gain), strict=True))
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
    return replace(
        answer, x0_nm=best.x0_nm, tuned_knobs_nm=best.tuned_knobs_nm, modes=solutions,
        covariance_nm2=laplace.mixture(
            found.weights, [(s.x0_nm, s.covariance_nm2) for s in found.solutions], best.x0_nm)[1],
        tuned_covariance_nm2=laplace.mixture(
            found.weights, [(s.tuned_knobs_nm, s.tuned_covariance_nm2) for s in found.solutions],
            best.tuned_knobs_nm)[1],
        frames_used=len(kept), rejected_frames=tuple(sorted([*answer.rejected_frames, *unfit])),
        converged=bool(decided and best.settled),
        message=told if decided else f"{_undecided(solutions)}; {told}",
        actuator=best.gain, frame_numbers=numbers, latents=answer.latents[kept],
        spectra=answer.spectra[kept],
        states_nm=best.x0_nm + knobs @ best.gain.T + time_ * best.drift_nm, refinement=found)


def check_knobs(names, file):
    """Raise SeriesError where the latents' map does not know a knob."""
    unknown = [name for name in names if name not in STATES]
    if unknown:
        raise SeriesError(
            f"knobs {', '.join(unknown)} are not covered by the model, which sees "
            f"{', '.join(STATES)}", "leave them fixed and out of the series, or refine",
            file=file or None)
