"""The next knob step: where one more frame narrows the posterior of the knobs most.

For a trial step u every candidate x0 predicts latents m(x0 + u). To first order in the spread of
the candidates, a frame there reduces the covariance of x0 by

    C_xm (C_mm + S)^-1 C_mx,

the covariances being those over the candidates and S the noise of the latents. The step with the
largest reduction, in units of the tolerance, is taken (A-optimal). Once the spectra are refined,
their Fisher information at the trial steps takes the place of the latents' covariances.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import em, refine


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
    noise = jnp.exp(2 * parameters.process.log_noise) + jnp.exp(
        2 * parameters.process.log_amplitude)
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


REFINED_TRIALS = 24
SCALES = (0.03, 0.1, 0.3, 1.0)  # of the offsets from the tuning setting, in units of the reach


def refined_step(key, refinement: refine.Refinement, tolerance_nm, reach_nm, limit_nm):
    """The best of some random trial steps (P,), nm, by the Fisher information of the spectra.

    Args:
        tolerance_nm: (P,) weights of the knobs, as of `jaxcal.refine.step_gain`.
        reach_nm: (P,) offsets from the tuning setting; limit_nm: (P,) largest setting.
    """
    tuned = refinement.solutions[0].tuned_knobs_nm
    offset = np.asarray(jax.random.normal(key, (REFINED_TRIALS, len(tuned))), float)
    scale = np.resize(SCALES, REFINED_TRIALS)[:, None] * reach_nm
    steps = np.clip(tuned + scale * offset, -limit_nm, limit_nm)
    return steps[np.argmax(refine.step_gain(steps, tolerance_nm, refinement))]
