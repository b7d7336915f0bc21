"""EM over the latents of a series: the basins of the state, in which the refinement starts.

From the frames that can be used (:func:`look`) and the knob settings to EM's candidates
(:func:`search`), and from these to an answer (:func:`summary`) or to what
:mod:`jaxcal.refine` starts from (:func:`starts`).
"""

from typing import NamedTuple

import jax
import numpy as np

from jaxcal import em, modes, observation, stream, unknowns
from jaxcal import model as models
from jaxcal.aberrations import ORDER, indices
from jaxcal.answers import Estimate, Mode
from jaxcal.optics import Optics, edge_waves
from jaxcal.series import Series, SeriesError

STATES = stream.KNOBS
PRIOR_SD_NM = {1: 150.0, 2: 400.0}  # of x0 by order, about zero, for EM
PADDED = 4  # frames are padded to a multiple, so that one compiled program serves many lengths
DECIDED = 0.95  # weight of one mode above which the others are out
START = em.Settings(candidates=1024, iterations=0)  # of EM where the refinement goes on
GAIN_STEPS = 8  # M-steps then where it is asked for the actuator matrix, which moves the states
STARTS = 6  # modes of EM at most that the refinement starts from
MORE_STARTS = 12  # single candidates it starts from too, divided by the frames


class Frames(NamedTuple):
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


def look(observations, series: Series, model: models.Model) -> Frames:
    """The frames without a fault, encoded.

    Raises:
        SeriesError: there is none.
    """
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
    return Frames(good, rejected, usable, images, latents, misfit, radius,
                  observation.measured_optics(series.optics, radius))


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
    return em.Experiment(*(np.asarray(field, np.float32) for field in fields))


def search(frames: Frames, series: Series, model: models.Model, settings: em.Settings,
           actuator: bool, share: float, *, seed, published, report, length=None):
    """EM's result and what it was given.

    Args:
        published: with the form of the map that has no simulated mean.
        share: of the progress that it has; report: called with (message, fraction or None).
        length: pads the frames, to a multiple of PADDED where None, see `experiment`.
    """
    length = length or PADDED * -(-len(frames.numbers) // PADDED)
    data = experiment(frames.latents, series.knobs_nm[frames.numbers], series.knob_names,
                      frames.optics, actuator=actuator, length=length)
    return em.run(jax.random.key(seed), data, model.flat_map if published else model.map, settings,
                  progress=lambda told, fraction: report(
                      told, None if fraction is None else share * fraction)), data


def _columns(knob_names):
    """Columns of the states that are knobs, and places of these among the knobs."""
    known = [k for k, name in enumerate(knob_names) if name in STATES]
    return [STATES.index(knob_names[k]) for k in known], known


def starts(result, data, series, problem):
    """z (Z,) that the refinement starts from: the mean of each mode of EM, the largest first, and,
    where few frames leave the second order open, some candidates at random."""
    columns, _ = _columns(series.knob_names)
    positions = np.asarray(result.candidates.positions, float)
    gain = actuator_of(result, data, series.knob_names)
    means = [positions[chosen, : len(STATES)].mean(0)
             for chosen in modes.members(positions[:, columns])[:STARTS]]
    more = np.random.default_rng(0).choice(len(positions), MORE_STARTS // len(series))
    return [unknowns.start(problem, STATES, state, gain)
            for state in (*means, *positions[more, : len(STATES)])]


def actuator_of(result, data, knob_names) -> np.ndarray:
    """EM's actuator matrix (P, P); the identity for knobs that the map does not know."""
    columns, known = _columns(knob_names)
    gain = np.eye(len(knob_names))
    gain[np.ix_(known, known)] = np.asarray(em.actuator(result.parameters, data), float)[
        np.ix_(columns, columns)]
    return gain


def summary(result, data, series: Series, frames: Frames) -> Estimate:
    """EM's answer, of knobs that the map knows."""
    columns, _ = _columns(series.knob_names)
    positions = np.asarray(result.candidates.positions, float)[:, columns]
    clouds = [positions[chosen] for chosen in modes.members(positions)]
    found = tuple(Mode(len(cloud) / len(positions), cloud.mean(0), modes.covariance(cloud))
                  for cloud in clouds)
    x0 = found[0].x0_nm
    gain = actuator_of(result, data, series.knob_names)
    inverse = np.linalg.inv(gain)
    away = positions - x0
    covariance = away.T @ away / len(away)
    decided = found[0].weight >= DECIDED
    message = result.message if decided else f"{undecided(found)}; {result.message}"
    return Estimate(
        knob_names=tuple(series.knob_names), x0_nm=x0, covariance_nm2=covariance,
        tuned_knobs_nm=-inverse @ x0, tuned_covariance_nm2=inverse @ covariance @ inverse.T,
        modes=found, frames_used=len(frames.numbers), rejected_frames=frames.rejected,
        converged=bool(decided and result.converged), message=message,
        iterations=result.iterations, seconds=0.0, actuator=gain,
        frame_numbers=tuple(frames.numbers), latents=frames.latents, spectra=frames.images,
        states_nm=x0 + series.knobs_nm[frames.numbers] @ gain.T, posterior=(result, data))


def undecided(found) -> str:
    """That several modes are left."""
    return (f"not decided: {len(found)} solutions are left, the likeliest with "
            f"{100 * found[0].weight:.0f} %; take more frames at other knob steps")


def check_knobs(names, file):
    """Raise SeriesError where the latents' map does not know a knob."""
    unknown = [name for name in names if name not in STATES]
    if unknown:
        raise SeriesError(
            f"knobs {', '.join(unknown)} are not covered by the model, which sees "
            f"{', '.join(STATES)}", "leave them fixed and out of the series, or refine",
            file=file or None)
