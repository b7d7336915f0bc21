"""Estimate the state of a microscope from a series, and tune one in a closed loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import acquisition, aperture, em, modes, spectra, stream
from jaxcal import model as models
from jaxcal.aberrations import ORDER, indices
from jaxcal.optics import Optics, edge_waves, quarter_pi_limits_nm
from jaxcal.series import Series, SeriesError

STATES = stream.KNOBS
PRIOR_SD_NM = {1: 150.0, 2: 400.0}  # of x0 by order, about zero
SCALE_SD = 0.01  # of the log semi-angle, after combining nominal and measured radius
MEASURED_SHARE = 0.8  # of the measured radius in the semi-angle: pixels are known better
ACTUATOR_SD, CROSSTALK_SD = 0.1, 0.03  # where the actuator matrix is estimated
CONSISTENT = 3.0  # standard deviations by which a verification may move the answer
PADDED = 4  # frames are padded to a multiple, so that one compiled program serves many lengths
DECIDED = 0.95  # weight of one mode above which the others are out
IN_LOOP = em.Settings(candidates=1024, iterations=2)  # while more frames are to come
KNOB_LIMIT_NM = {1: 400.0, 2: 2000.0}  # largest step of calibrate


@dataclass(frozen=True)
class Mode:
    """One solution the data allow: its weight, mean x0 (P,) in nm and covariance (P, P) in nm^2."""

    weight: float
    x0_nm: np.ndarray
    covariance_nm2: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """What a series says about its instrument. P knobs, T frames used.

    Attributes:
        knob_names: the P knobs.
        x0_nm, covariance_nm2: (P,), (P, P) state with the knobs at zero: mean of the largest mode,
            second moment of the whole posterior about it.
        tuned_knobs_nm, tuned_covariance_nm2: the knob setting -G^-1 x0 that tunes the instrument.
        modes: solutions the data allow, largest weight first.
        frames_used, rejected_frames: how many; (number, reason) of the others.
        converged: one mode holds DECIDED of the weight and the map's parameters settled.
        message: why it stopped. iterations: of EM. seconds: it took.
        actuator: (P, P) matrix G, the identity where it was not estimated.
        frame_numbers: (T,) of the frames used; latents (T, D); spectra (T, 128, 64), log images;
        states_nm: (T, P) state of each frame.
        posterior: what :mod:`jaxcal.acquisition` needs to choose the next step.
    """

    knob_names: tuple[str, ...]
    x0_nm: np.ndarray
    covariance_nm2: np.ndarray
    tuned_knobs_nm: np.ndarray
    tuned_covariance_nm2: np.ndarray
    modes: tuple[Mode, ...]
    frames_used: int
    rejected_frames: tuple[tuple[int, str], ...]
    converged: bool
    message: str
    iterations: int
    seconds: float
    actuator: np.ndarray
    frame_numbers: tuple[int, ...]
    latents: np.ndarray
    spectra: np.ndarray
    states_nm: np.ndarray
    posterior: tuple[em.Result, em.Experiment]


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


@dataclass(frozen=True)
class Observation:
    """A frame and its disc, or the reason why it cannot be used."""

    frame: np.ndarray
    disc: spectra.Disc
    fault: str | None


def observe(frame, optics: Optics) -> Observation:
    """Find the aperture in a frame (H, W) and judge the frame."""
    disc, quality = aperture.find_disc(frame, optics.radius_pixels)
    if quality.fault is None:
        disc = disc._replace(ellipticity=quality.ellipse[0])
    return Observation(np.asarray(frame), disc, quality.fault)


def camera_of(observations) -> tuple[float, float]:
    """Radius, pixels, and ellipticity of the aperture's image: medians, one camera for all frames.

    Only the centre may move from frame to frame; what one frame's speckle does to its own radius
    would shift its C10 by twice the relative error.
    """
    discs = [seen.disc for seen in observations]
    return (float(np.median([disc.radius for disc in discs])),
            float(np.median([disc.ellipticity for disc in discs])))


def log_images(observations):
    """Log images (T, 128, 64) of frames on their common camera.

    Raises:
        ValueError: the disc is too small, see `jaxcal.spectra.check_disc`.
    """
    radius, ellipticity = camera_of(observations)
    return np.stack([
        np.asarray(spectra.log_spectrum(
            seen.frame, seen.disc._replace(radius=radius, ellipticity=ellipticity)))
        for seen in observations])


def measured_optics(optics: Optics, radius: float) -> Optics:
    """Nominal optics with the semi-angle that the measured radius (pixels) makes most likely."""
    measured = optics.pixel_mrad * radius
    semi_angle = optics.semi_angle_mrad * (measured / optics.semi_angle_mrad) ** MEASURED_SHARE
    return replace(optics, semi_angle_mrad=semi_angle)


def experiment(latents, knobs_nm, knob_names, optics: Optics, *, actuator=False, length=None):
    """The data of a series for :mod:`jaxcal.em`, padded to ``length`` frames that weigh nothing.

    Args:
        latents: (T, D); knobs_nm: (T, P) nm; knob_names: P of STATES.
        optics: with the measured semi-angle.
        actuator: whether the actuator matrix is to be estimated.
    """
    frames = len(latents)
    length = frames if length is None else length
    columns = [STATES.index(name) for name in knob_names]
    knobs = np.zeros((length, len(STATES)))
    knobs[:frames, columns] = knobs_nm
    noise = np.full(length, em.EXCLUDED)
    noise[:frames] = 1.0
    padded = np.zeros((length, np.shape(latents)[1]))
    padded[:frames] = latents
    places = indices(STATES)
    order = ORDER[places]
    sd = np.zeros((len(STATES),) * 2)
    if actuator:
        same = order[:, None] == order[None, :]
        block = np.where(np.eye(len(STATES), dtype=bool), ACTUATOR_SD, CROSSTALK_SD * same)
        sd[np.ix_(columns, columns)] = block[np.ix_(columns, columns)]
    fields = (knobs, padded, noise, edge_waves(optics)[places], order + 1.0,
              np.array([PRIOR_SD_NM[n] for n in order]), SCALE_SD, sd)
    return em.Experiment(*(jnp.asarray(field, jnp.float32) for field in fields))


def estimate(series: Series, model: models.Model | None = None, *, seed: int = 0,
             actuator: bool = False, published: bool = False, settings: em.Settings = em.DEFAULT,
             progress: Callable | None = None) -> Estimate:
    """Estimate the state of the instrument that a calibration series was taken with.

    Args:
        series: frames at known knob steps.
        model: trained model; the shipped one where None.
        seed: of the candidates.
        actuator: estimate the actuator matrix too (gains 10 %, crosstalk 3 % uncertain).
        published: use the published form of the map, without the simulated mean.
        settings: of EM.
        progress: called with (message, fraction or None).

    Raises:
        SeriesError: no frame can be used, or a knob is not one the model covers.

    Example:
        >>> import jaxcal
        >>> answer = jaxcal.estimate(jaxcal.read_series("series.h5"))  # doctest: +SKIP
    """
    report = progress or (lambda message, fraction: None)
    _check_knobs(series.knob_names, series.name)
    observations = []
    for number, frame in enumerate(series.frames):
        report(f"aperture of frame {number + 1}/{len(series)}", 0.2 * number / len(series))
        observations.append(observe(frame, series.optics))
    return infer(observations, series, model or models.load(), seed=seed, actuator=actuator,
                 published=published, settings=settings,
                 progress=lambda message, fraction: report(
                     message, None if fraction is None else 0.2 + 0.8 * fraction))


def infer(observations, series: Series, model: models.Model, *, seed: int = 0,
          actuator: bool = False, published: bool = False,
          settings: em.Settings = em.DEFAULT, length: int | None = None, progress=None) -> Estimate:
    """The estimate from the frames' observations; ``length`` pads them, see `experiment`."""
    start = time.perf_counter()
    good = [k for k, seen in enumerate(observations) if seen.fault is None]
    rejected = [(k, seen.fault) for k, seen in enumerate(observations) if seen.fault is not None]
    if not good:
        number, fault = rejected[0]
        raise SeriesError(f"no frame can be used, the first because: {fault}",
                          "take the series again", frame=number, file=series.name or None)
    usable = [observations[k] for k in good]
    images = log_images(usable)
    latents = np.asarray(model.encode(images))
    optics = measured_optics(series.optics, camera_of(usable)[0])
    length = length or PADDED * -(-len(good) // PADDED)
    data = experiment(latents, series.knobs_nm[good], series.knob_names, optics,
                      actuator=actuator, length=length)
    map_ = model.flat_map if published else model.map
    result = em.run(jax.random.key(seed), data, map_, settings, progress=progress)
    return _summary(result, data, series.knob_names, good, rejected, latents, images,
                    time.perf_counter() - start)


def _summary(result, data, knob_names, good, rejected, latents, images, seconds) -> Estimate:
    columns = [STATES.index(name) for name in knob_names]
    positions = np.asarray(result.candidates.positions, float)
    knob_positions = positions[:, columns]
    clouds = [knob_positions[chosen] for chosen in modes.members(knob_positions)]
    found = tuple(Mode(len(cloud) / len(positions), cloud.mean(0), modes.covariance(cloud))
                  for cloud in clouds)
    x0 = found[0].x0_nm
    gain = np.asarray(em.actuator(result.parameters, data), float)[np.ix_(columns, columns)]
    inverse = np.linalg.inv(gain)
    away = knob_positions - x0
    covariance = away.T @ away / len(away)
    decided = found[0].weight >= DECIDED
    message = result.message
    if not decided:
        message = (f"not decided: {len(found)} solutions are left, the likeliest with "
                   f"{100 * found[0].weight:.0f} %; take more frames at other knob steps; "
                   f"{message}")
    knobs = np.asarray(data.knobs, float)[: len(good)][:, columns]
    return Estimate(
        knob_names=tuple(knob_names), x0_nm=x0, covariance_nm2=covariance,
        tuned_knobs_nm=-inverse @ x0, tuned_covariance_nm2=inverse @ covariance @ inverse.T,
        modes=found, frames_used=len(good), rejected_frames=tuple(rejected),
        converged=bool(decided and result.converged), message=message,
        iterations=result.iterations, seconds=seconds, actuator=gain,
        frame_numbers=tuple(good), latents=latents, spectra=images,
        states_nm=x0 + knobs @ gain.T, posterior=(result, data))


def _check_knobs(names, file):
    unknown = [name for name in names if name not in STATES]
    if unknown:
        raise SeriesError(
            f"knobs {', '.join(unknown)} are not covered by the model, which sees "
            f"{', '.join(STATES)}", "leave them fixed and out of the series",
            file=file or None)


def calibrate(microscope, *, frames: int = 10, tolerance_nm=None, model=None, seed: int = 0,
              settings: em.Settings = IN_LOOP,
              progress: Callable | None = None) -> Calibration:
    """Tune a microscope: acquire, estimate, step where it tells most, stop, apply, verify.

    Args:
        microscope: a `jaxcal.Microscope`.
        frames: at most so many, the verification not counted.
        tolerance_nm: (P,) or scalar standard deviation of each knob to stop at; the pi/4 limits
            where None.
        model, seed, progress: as of `estimate`.
        settings: of EM while frames are taken; the verification is estimated with `em.DEFAULT`.

    Returns:
        `Calibration`; the knobs stand at ``applied_knobs_nm``.

    Raises:
        ValueError: no frame budget, unknown knobs, or no frame that could be used.
    """
    if frames < 1:
        raise ValueError(f"frames should be at least 1, got {frames}: give a frame budget")
    report = progress or (lambda message, fraction: None)
    model = model or models.load()
    names = tuple(microscope.knob_names)
    _check_knobs(names, getattr(microscope, "name", None))
    limits = _tolerance(tolerance_nm, microscope.optics, names)
    is_knob = np.isin(STATES, names)
    order = ORDER[indices(STATES)]
    reach = jnp.asarray([0.5 * PRIOR_SD_NM[n] for n in order], jnp.float32)
    largest = jnp.asarray([KNOB_LIMIT_NM[n] for n in order], jnp.float32)
    weights = np.zeros(len(STATES), np.float32)
    weights[[STATES.index(name) for name in names]] = 1 / limits**2
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
        answer = infer(observations, series, model, seed=seed, settings=settings, length=frames + 1,
                       progress=_part_of(report, f"frame {number + 1}", number / (frames + 1)))
        history.append(answer)
        if within(answer, limits):
            break
        if number + 1 < frames:
            report(f"frame {number + 1}: next step", (number + 0.9) / (frames + 1))
            result, data = answer.posterior
            step = acquisition.next_step(
                jax.random.fold_in(key, number), result.candidates.positions, weights,
                result.parameters, data, model.map, is_knob, reach, largest)
            knobs = np.asarray(step, float)[[STATES.index(name) for name in names]]
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
    checked = infer(observations, longer, model, seed=seed, length=frames + 1)
    reached = within(answer, limits)
    holds, verdict = _verify(answer, checked, observations[-1].fault, limits)
    spent = "tuned to the tolerance" if reached else "frame budget spent before the tolerance"
    final = replace(checked if observations[-1].fault is None else answer,
                    converged=reached and holds,
                    message=f"{spent} after {len(shots)} frames; {verdict}; {answer.message}")
    return Calibration(final, tuple(history), series, verification, applied, limits,
                       getattr(microscope, "truth_nm", None))


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
    """Whether every knob is known to its tolerance and one mode holds the weight."""
    sd = np.sqrt(np.diag(answer.tuned_covariance_nm2))
    return bool(np.all(sd <= limits) and answer.modes[0].weight >= DECIDED)


def _tolerance(tolerance_nm, optics, names):
    limits = quarter_pi_limits_nm(optics)[indices(names)]
    if tolerance_nm is None:
        return limits
    tolerance = np.broadcast_to(np.asarray(tolerance_nm, float), limits.shape)
    if not np.all(tolerance > 0):
        raise ValueError(f"tolerance_nm should be positive, got {tolerance_nm}: give the standard "
                         "deviation in nm to stop at")
    return tolerance.copy()
