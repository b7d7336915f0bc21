"""The next knob step: where one more frame narrows the posterior of the knobs most.

For a trial step u every candidate x0 predicts latents m(x0 + u). To first order in the spread of
the candidates, a frame there reduces the covariance of x0 by

    C_xm (C_mm + S)^-1 C_mx,

the covariances being those over the candidates and S the noise of the latents. The step with the
largest reduction, in units of the tolerance, is taken (A-optimal). Once the spectra are refined,
their Fisher information at the trial steps takes the place of the latents' covariances.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations, devices, em, laplace, latent_map, posterior, refine, unknowns
from jaxcal.optics import edge_waves


@partial(jax.jit, static_argnames="map_")
def reduction(step, candidates, weights, parameters, experiment: em.Experiment, map_: em.Map):
    """Expected reduction of sum(variance * weights) by one frame at the knob step (P,).

    Args:
        step: (P,) knob step, state units, zero for what is not a knob.
        candidates: (N, P + 1) of the posterior.
        weights: (P,) one over the squared tolerance, zero for what does not matter.
    """
    one = experiment._replace(knobs=step[None])
    states = jax.vmap(lambda c: em.states(c, parameters, one)[0])(candidates)
    predictions = jax.vmap(map_.predict)(states)
    place = latent_map.kernel_coordinates(states.mean(0), jnp.asarray(map_.scale, states.dtype))
    gap = latent_map.gap_kernel(parameters.process, jnp.asarray(map_.signs, states.dtype))
    noise = jnp.exp(2 * parameters.process.log_noise) + gap.evaluate(place, place)
    start = candidates[:, :-1] - candidates[:, :-1].mean(0)
    # whiten the latents with the noise at the mean candidate, so that S is a multiple of one
    middle = predictions.whitening.mean(0)
    white = (predictions.mean - predictions.mean.mean(0)) @ middle.T
    count = len(candidates)
    cross = start.T @ white / count
    spread = white.T @ white / count + noise * jnp.eye(white.shape[1], dtype=white.dtype)
    gain = jnp.sum(cross * jnp.linalg.solve(spread, cross.T).T, axis=1)
    return jnp.sum(weights * gain)


def trial_steps(key, candidates, is_knob, reach, limit, count: int):
    """Trial knob steps (count, P): the tuning step of a candidate plus an offset, within limits.

    Args:
        candidates: (N, P + 1); is_knob: (P,) bool.
        reach: (P,) standard deviation of the offset; limit: (P,) largest step.
    """
    which, offset = jax.random.split(key)
    chosen = candidates[jax.random.randint(which, (count,), 0, len(candidates)), :-1]
    noise = reach * jax.random.normal(offset, chosen.shape, chosen.dtype)
    return jnp.where(is_knob, jnp.clip(noise - chosen, -limit, limit), 0.0)


@partial(jax.jit, static_argnames=("map_", "trials", "sample"))
def next_step(key, candidates, weights, parameters, experiment, map_, is_knob, reach, limit,
              trials: int = 128, sample: int = 256):
    """The best of ``trials`` random trial steps (P,), judged with ``sample`` candidates."""
    stride = max(1, len(candidates) // sample)
    candidates = candidates[::stride]
    steps = trial_steps(key, candidates, is_knob, reach, limit, trials)
    gains = jax.lax.map(
        lambda step: reduction(step, candidates, weights, parameters, experiment, map_), steps)
    return steps[jnp.argmax(gains)]


REFINED_TRIALS = 48
CLOSER = 8  # of the trials that are judged by all frequencies, best of a glimpse
NEAR, FAR = 7.0, 18.0  # waves of C10 at the aperture's edge: offset from the tuning setting
LINE_FOCUS = 0.8, 1.15  # C12 of a trial, in units of its C10
ASIDE = 0.05, 1.0  # waves of the other knobs, standard deviation: beside knobs of C10, C12; alone
SOLUTIONS = 3  # likeliest that a step is judged by


def refined_trials(key, knob_names, optics):
    """States (REFINED_TRIALS, P), nm, in which a frame tells much of the others.

    Defocus spreads the film's rings over the spectrum; C12 of the size of C10 makes streaks, whose
    direction and opening depend on the least change from window to window. The other knobs all but
    tune, as coma blurs the streaks; without a knob of the first order they must do alone.
    """
    sign, far, ratio, azimuth, others = jax.random.split(key, 5)
    count = (REFINED_TRIALS,)
    defocus = (jax.random.rademacher(sign, count, float)
               * jnp.exp(jax.random.uniform(far, count, float, np.log(NEAR), np.log(FAR))))
    twofold = jnp.abs(defocus) * jax.random.uniform(ratio, count, float, *LINE_FOCUS)
    angle = jax.random.uniform(azimuth, count, float, 0.0, 2 * jnp.pi)
    places = aberrations.indices(knob_names)
    aside = ASIDE[0] if np.any(aberrations.ORDER[places] == 1) else ASIDE[1]
    waves = aside * jax.random.normal(others, (*count, len(aberrations.NAMES)), float)
    first = jnp.stack([defocus, twofold * jnp.cos(angle), twofold * jnp.sin(angle)], 1)
    waves = np.asarray(waves.at[:, :3].set(first), float)
    return waves[:, places] / edge_waves(optics)[places]


def refined_step(key, refinement: refine.Refinement, tolerance_nm, limit_nm):
    """The best of some random trial steps (P,), nm, by the Fisher information of the spectra.

    Args:
        tolerance_nm: (P,) what may be left of the knobs' aberrations, nm, as of `step_gain`.
        limit_nm: (P,) largest setting.
    """
    problem, front = refinement.problem, list(zip(refinement.weights, refinement.solutions,
                                                  strict=True))[:SOLUTIONS]
    states = refined_trials(key, problem.knob_names, problem.optics)
    which = np.resize(np.arange(len(front)), REFINED_TRIALS)
    steps = np.array([front[k][1].tuned_knobs_nm + np.linalg.solve(front[k][1].gain, state)
                      for k, state in zip(which, states, strict=True)])
    steps = np.clip(steps, -limit_nm, limit_nm)

    def gain(steps, problem):
        return sum(weight * step_gain(steps, tolerance_nm, problem, solution.point)
                   for weight, solution in front)

    steps = steps[np.argsort(-gain(steps, unknowns.glimpse(problem)))[:CLOSER]]
    return steps[np.argmax(gain(steps, problem))]


def step_gain(steps, tolerance_nm, problem: unknowns.Problem, point: posterior.Point) -> np.ndarray:
    """Expected fall, by one frame, of the sum over the knobs of log(1 + variance / tolerance^2) of
    the aberrations at the setting that tunes at its time.

    Args:
        steps: (N, P) knob settings of the next frame, nm; tolerance_nm: (P,).
        point: where the climb of a solution ended.

    Returns:
        (N,), from the Fisher information of a frame at each setting. The logarithm keeps a knob
        that is still far from known from drowning the others; near the tolerance it is
        A-optimality.
    """
    active = np.flatnonzero(problem.active)
    measured, count = problem.measured, len(problem.knob_names)
    phases, physics, shared, own = _frames_at(steps, problem, point.z)
    places = aberrations.places(problem.free)

    def one(k):
        *_, information, _ = posterior.frame_terms(
            np.float32(phases[k]), physics[k], measured.power[0], places, problem.layouts)
        return problem.weights.max() * np.asarray(information, float)

    then = replace(problem, measured=measured._replace(last=measured.last + 1))
    actuator = np.eye(count) + unknowns.decode(point.z, then).gain
    wanted = actuator @ laplace.derivatives(point.z, then)[1][:, active]
    wanted /= np.reshape(tolerance_nm, (-1, 1))

    def left(fisher):
        return np.log1p(np.diag(wanted @ np.linalg.solve(fisher, wanted.T))).sum()

    fisher = point.fisher[np.ix_(active, active)]
    before, gains = left(fisher), []
    for k, information in enumerate(devices.side_by_side(one, range(len(steps)))):
        moved = information @ own[k]  # the new frame's own are integrated out
        information = information - moved @ np.linalg.solve(
            np.eye(own.shape[-1]) + own[k].T @ moved, moved.T)
        slope = shared[k][:, active]
        gains.append(before - left(fisher + slope.T @ information @ slope))
    return np.array(gains)


def _frames_at(steps, problem: unknowns.Problem, z):
    """The next frame at each of the knob settings (N, P): phases and physics of the N, their slopes
    by z, (N, E, Z), and by what that frame has for itself, (N, E, O): its film's strength, and what
    the knobs miss by where that is among the unknowns."""
    number, count = np.full(len(steps), problem.measured.last + 1), len(problem.knob_names)
    trial = replace(
        problem,
        measured=unknowns.Measured(
            problem.measured.power[:1] * len(steps), np.asarray(steps), number, 0.0),
        mean=problem.mean._replace(strength=np.zeros(len(steps)),
                                   miss=np.zeros((len(steps), count))),
        sd=problem.sd._replace(strength=np.full(len(steps), unknowns.STRENGTH_SD),
                               miss=np.tile(problem.sd.miss[0], (len(steps), 1))))
    part = unknowns.slices(problem)
    first, last = part["strength"].start, part["miss"].stop  # of what each frame has for itself
    between = len(steps) * (1 + count)
    phases, physics, slopes = unknowns.frames_of(
        np.concatenate([z[:first], np.zeros(between), z[last:]]), trial)
    shared = np.zeros((*slopes.shape[:2], z.size))
    shared[..., :first], shared[..., last:] = slopes[..., :first], slopes[..., first + between :]
    missed = np.any(problem.active[part["miss"]])
    own = [[first + k, *(first + len(steps) + k * count + np.arange(count if missed else 0))]
           for k in range(len(steps))]
    return phases, physics, shared, np.stack([slopes[k][:, own[k]] for k in range(len(steps))])
