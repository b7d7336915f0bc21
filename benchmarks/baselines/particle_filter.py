"""A particle filter over the state with the simulated map alone, without the gap.

Particles (x0, log scale) are drawn from the prior and weighed frame by frame by
p(z_t | z_1 ... z_t-1, x0) of the simulated map: the gap's amplitude is `GAP` and there is no
M-step. The instrument's nuisances are integrated out exactly (a Rao-Blackwellised filter). x0 does
not move, so that particles would die out: where a frame leaves fewer than half of them effective
it is let in by steps, and after each the particles are resampled and moved by Metropolis at the
likelihood so far (Chopin 2002, a sequential particle filter for static models).
"""

import math
import time
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.baselines.interface import Answer, Seen
from benchmarks.baselines.scalar_em import from_candidates
from jaxcal import basins, em, latent_map

PARTICLES = 2048
MOVES = 3
EFFECTIVE = 0.5
GAP = 1e-3  # amplitude of the gap in noise standard deviations: none
NOISE = 1.0  # of the map's own; error/sd is 0.9 to 1.1 on the tuning instruments 20040 to 20045


@lru_cache(maxsize=8)
def without_gap(map_: em.Map) -> em.Map:
    """The simulated map with no gap and the noise that training found."""
    mean = latent_map.Hyperparameters(math.log(GAP), 0.0, math.log(NOISE))
    return em.Map(map_.predict, map_.signs, map_.scale,
                  latent_map.Prior(mean, latent_map.SIMULATED_PRIOR.sd))


@partial(jax.jit, static_argnames=("map_", "moves"))
def admit(key, positions, old, new, share, parameters, before, after, map_, moves: int = MOVES):
    """One step of letting a frame in: raise its share, resample, move.

    Args:
        old, new: (N,) log likelihoods without and with the frame; share: of the frame so far.
        before, after: `em.Experiment` without and with it.

    Returns:
        positions, old, new, share.
    """
    choose, walk = jax.random.split(key)
    gain = jnp.where(jnp.isfinite(new - old), new - old, -1e30)
    raised = em.next_temperature(share, gain, EFFECTIVE)
    weights = jnp.exp((raised - share) * (gain - jnp.max(gain)))
    kept = em.resample(choose, weights)
    positions, old, new = positions[kept], old[kept], new[kept]
    prior = jax.vmap(partial(em.log_prior, experiment=after))
    signs = jnp.asarray(map_.signs, positions.dtype)

    def between(old, new):
        return (1 - raised) * old + raised * new

    def move(carry, key):
        positions, old, new = carry
        draw, accept = jax.random.split(key)
        trial = em.propose(draw, positions, parameters, after, signs)
        trial_old = em.score_all(trial, parameters, before, map_)
        trial_new = em.score_all(trial, parameters, after, map_)
        rise = (between(trial_old, trial_new) - between(old, new)
                + prior(trial) - prior(positions))
        taken = jnp.log(jax.random.uniform(accept, rise.shape, rise.dtype)) < rise
        return (jnp.where(taken[:, None], trial, positions), jnp.where(taken, trial_old, old),
                jnp.where(taken, trial_new, new)), None

    (positions, old, new), _ = jax.lax.scan(
        move, (positions, old, new), jax.random.split(walk, moves))
    return positions, old, new, raised


def filter_(seen: Seen, counts, seed: int, model, length: int | None = None,
            particles: int = PARTICLES) -> dict[int, Answer]:
    """Answers {count: `Answer`} after each of ``counts`` frames, in one pass."""
    start = time.perf_counter()
    last = max(counts)
    good, images, optics = seen.usable(last)
    series, map_ = seen.series, without_gap(model.map)
    latents = np.asarray(model.encode(images))
    length = max(length or last, len(good))
    data = basins.experiment(latents, series.knobs_nm[good], series.knob_names, optics,
                             length=length)
    parameters = em.initial_parameters(map_, data)
    key = jax.random.key(seed)
    noise = np.full(length, em.EXCLUDED, np.float32)
    before = data._replace(frame_noise=jnp.array(noise))  # a copy: noise changes below
    positions = em.draw(key, before, particles)
    score = _scorer(map_)
    old = score(positions, parameters, before)
    answers = {}
    for number in range(last):
        if number in good:
            noise[good.index(number)] = 1.0
            after = data._replace(frame_noise=jnp.array(noise))
            new, share, stage = score(positions, parameters, after), jnp.float32(0.0), 0
            while float(share) < 1.0:
                step = jax.random.fold_in(jax.random.fold_in(key, number + 1), stage)
                positions, old, new, share = admit(
                    step, positions, old, new, share, parameters, before, after, map_)
                stage += 1
            before, old = after, new
        if number + 1 in counts:
            answers[number + 1] = from_candidates(
                positions, series, time.perf_counter() - start)
    return answers


@lru_cache(maxsize=8)
def _scorer(map_):
    return jax.jit(lambda positions, parameters, experiment: em.score_all(
        positions, parameters, experiment, map_))
