"""Expectation maximisation over an unknown start state and an uncertain map.

E-step: thousands of candidates (the start state x0 and the logarithm of the scale between knobs
and optics) are drawn from the prior and carried to the posterior by tempered sequential Monte
Carlo: weighed by their likelihood, resampled where it is high, and moved there, mirror images
included. M-step: the hyperparameters of the map, and where asked the actuator matrix, climb the
expected log likelihood over the candidates; only a climb is accepted, so the marginal likelihood
never falls. Nothing here knows what the states mean.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxcal import devices, latent_map

EXCLUDED = 10 * latent_map.LEFT_OUT  # noise factor of a frame that is left out: it weighs nothing
BLOCK = 1024  # frames of all candidates of a block: a CPU's cache then holds what the map makes
BLOCK_ELSEWHERE = 8192  # an accelerator has no such cache, but a cost for each block


class Experiment(NamedTuple):
    """The data of one series and what is known beforehand.

    knobs: (T, P) steps of each frame, zero for what is not a knob; latents: (T, D);
    frame_noise: (T,) factor on each frame's noise, EXCLUDED where it is left out;
    unit: (P,) map units per state unit; scale_power: (P,) power of the scale in each unit;
    prior_sd: (P,) of the start state about zero; scale_sd: of the log scale;
    actuator_sd: (P, P) of the actuator matrix about the identity, zero where it is exact.
    """

    knobs: jax.Array
    latents: jax.Array
    frame_noise: jax.Array
    unit: jax.Array
    scale_power: jax.Array
    prior_sd: jax.Array
    scale_sd: jax.Array
    actuator_sd: jax.Array


class Parameters(NamedTuple):
    """What the M-step estimates: the process, and the actuator matrix in units of its prior."""

    process: latent_map.Hyperparameters
    actuator: jax.Array  # (P, P), G = 1 + actuator_sd * actuator


@dataclass(frozen=True, eq=False)
class Map:
    """The map to estimate with, a constant of the compiled functions (compared by identity).

    predict: state (P,) -> Prediction; signs: (G, P), the symmetry group; scale: (P,), unit of the
    kernel's coordinates; prior: of the process's hyperparameters.
    """

    predict: Callable[[jax.Array], latent_map.Prediction]
    signs: np.ndarray
    scale: np.ndarray
    prior: latent_map.Prior


class Candidates(NamedTuple):
    """Equally weighted candidates (N, P + 1), last column the log scale, with log likelihoods.

    temperature: power of the likelihood they are distributed by (1: the posterior);
    log_evidence: log of the marginal likelihood so far.
    """

    positions: jax.Array
    log_likelihood: jax.Array
    temperature: jax.Array
    log_evidence: jax.Array


class StepInfo(NamedTuple):
    """effective: effective number before resampling; accepted: fraction of each of the moves;
    failed: count."""

    effective: jax.Array
    accepted: tuple[jax.Array, ...]
    failed: jax.Array


class Settings(NamedTuple):
    """candidates: how many; moves: per temperature; effective: fraction kept when tempering;
    iterations: M-steps at most, 0 leaves the parameters at their prior's mean; tolerance: change
    of the log hyperparameters that counts as none; climbs: gradient steps of an M-step, over
    ``climbing`` of the candidates."""

    candidates: int = 2048
    moves: int = 3
    effective: float = 0.5
    iterations: int = 8
    tolerance: float = 0.05
    climbs: int = 25
    climbing: int = 128


DEFAULT = Settings()


class Result(NamedTuple):
    """candidates: the posterior's; parameters: the M-step's, or the prior's mean without one;
    evidences: log marginal likelihood (with the prior of the parameters) by iteration; converged,
    message: why it stopped."""

    candidates: Candidates
    parameters: Parameters
    evidences: tuple[float, ...]
    iterations: int
    converged: bool
    message: str


def actuator(parameters: Parameters, experiment: Experiment):
    """Actuator matrix G (P, P)."""
    size = experiment.knobs.shape[1]
    return jnp.eye(size, dtype=experiment.knobs.dtype) + (
        experiment.actuator_sd * parameters.actuator)


def states(candidate, parameters: Parameters, experiment: Experiment):
    """States (T, P), in map units, of a candidate (P + 1,): unit scale^power (x0 + G u_t)."""
    start, log_scale = candidate[:-1], candidate[-1]
    unit = experiment.unit * jnp.exp(experiment.scale_power * log_scale)
    moved = jnp.matmul(  # accelerators multiply with fewer bits otherwise
        experiment.knobs, actuator(parameters, experiment).T, precision="highest")
    return unit * (start + moved)


def score(candidate, parameters: Parameters, experiment: Experiment, map_: Map):
    """Log likelihood of one candidate (P + 1,); -inf where a factorisation failed."""
    value = latent_map.log_likelihood(
        parameters.process, map_.predict, states(candidate, parameters, experiment),
        experiment.latents, jnp.asarray(map_.signs, candidate.dtype),
        jnp.asarray(map_.scale, candidate.dtype), experiment.frame_noise)
    return jnp.where(jnp.isfinite(value), value, -jnp.inf)


def block_of(frames: int) -> int:
    """How many candidates of so many frames are scored at a time: a power of two, as the number of
    candidates mostly is."""
    whole = BLOCK if jax.default_backend() == "cpu" else BLOCK_ELSEWHERE
    return 1 << max(whole // frames, 1).bit_length() - 1


@partial(jax.jit, static_argnames="map_")
def score_all(positions, parameters, experiment, map_):
    """Log likelihoods (N,) of candidates (N, P + 1), in blocks that bound the memory."""
    def part(positions, parameters, experiment):
        return jax.lax.map(lambda c: score(c, parameters, experiment, map_), positions,
                           batch_size=block_of(len(experiment.latents)))

    return devices.in_parts(part, positions, parameters, experiment)


def log_prior(candidate, experiment: Experiment):
    """Log prior density of one candidate (P + 1,), up to a constant."""
    sd = jnp.append(experiment.prior_sd, experiment.scale_sd)
    return -0.5 * jnp.sum((candidate / sd) ** 2)


@partial(jax.jit, static_argnames="count")
def draw(key, experiment: Experiment, count: int):
    """``count`` candidates (N, P + 1) from the prior."""
    sd = jnp.append(experiment.prior_sd, experiment.scale_sd)
    return sd * jax.random.normal(key, (count, sd.size), sd.dtype)


def effective_number(log_weights):
    """(sum w)^2 / sum w^2 of log weights (N,)."""
    w = jnp.exp(log_weights - jnp.max(log_weights))
    return jnp.sum(w) ** 2 / jnp.sum(w**2)


def next_temperature(temperature, log_likelihood, effective: float):
    """Largest temperature up to 1 at which ``effective`` of the candidates still count."""
    wanted = effective * log_likelihood.size
    gain = jnp.where(jnp.isfinite(log_likelihood), log_likelihood, -1e30)

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        enough = effective_number(middle * gain) >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    room = 1.0 - temperature
    low, _ = jax.lax.fori_loop(0, 30, halve, (jnp.zeros_like(room), room))
    low = jnp.where(effective_number(room * gain) >= wanted, room, low)
    return jnp.minimum(temperature + jnp.maximum(low, 1e-6), 1.0)


def resample(key, weights):
    """Systematic resampling: indices (N,) drawn with the weights (N,)."""
    count = weights.size
    grid = (jnp.arange(count, dtype=weights.dtype) + jax.random.uniform(key, (), weights.dtype))
    places = jnp.searchsorted(jnp.cumsum(weights) / jnp.sum(weights), grid / count)
    return jnp.clip(places, 0, count - 1)


def propose(key, positions, parameters: Parameters, experiment: Experiment, signs):
    """Symmetric proposals for all candidates (N, P + 1).

    Mostly the difference of two other candidates (ter Braak 2006), which has the shape of the
    distribution; in one of eight the mirror image of the state of one frame,
    x0 -> g (x0 + G u_t) - G u_t, so that mirrored modes exchange candidates.
    """
    first, second, size, noise, mirror, element, frame = jax.random.split(key, 7)
    count, dimensions = positions.shape
    a = positions[jax.random.randint(first, (count,), 0, count)]
    b = positions[jax.random.randint(second, (count,), 0, count)]
    reach = 2.38 / math.sqrt(2 * dimensions)
    factor = reach * jnp.exp(0.7 * jax.random.normal(size, (count, 1), positions.dtype))
    sd = jnp.append(experiment.prior_sd, experiment.scale_sd)
    jitter = 1e-4 * sd * jax.random.normal(noise, positions.shape, positions.dtype)
    moved = positions + factor * (a - b) + jitter
    sign = signs[jax.random.randint(element, (count,), 0, len(signs))]
    steps = experiment.knobs @ actuator(parameters, experiment).T
    step = steps[jax.random.randint(frame, (count,), 0, len(steps))]
    image = sign * (positions[:, :-1] + step) - step
    mirrored = jnp.concatenate([image, positions[:, -1:]], axis=1)
    return jnp.where(jax.random.bernoulli(mirror, 0.125, (count, 1)), mirrored, moved)


@jax.jit
def _trial(key, positions, parameters, experiment, signs):
    """`propose`, and a key to `accept` the proposals with."""
    key, accept_key = jax.random.split(key)
    return propose(key, positions, parameters, experiment, signs), accept_key


@jax.jit
def accept(key, candidates: Candidates, trial, likelihood, experiment: Experiment):
    """Candidates after Metropolis' choice between them and proposals (N, P + 1) of known log
    likelihoods (N,), at their temperature; also the fraction accepted."""
    prior = jax.vmap(partial(log_prior, experiment=experiment))
    gain = (candidates.temperature * (likelihood - candidates.log_likelihood)
            + prior(trial) - prior(candidates.positions))
    chosen = jnp.log(jax.random.uniform(key, gain.shape, gain.dtype)) < gain
    return candidates._replace(
        positions=jnp.where(chosen[:, None], trial, candidates.positions),
        log_likelihood=jnp.where(chosen, likelihood, candidates.log_likelihood),
    ), jnp.mean(chosen)


@jax.jit
def reweigh(key, candidates: Candidates, log_weights) -> tuple[Candidates, jax.Array]:
    """Resample by log weights (N,); their mean joins the evidence. Also the effective number."""
    weights = jnp.exp(log_weights - jnp.max(log_weights))
    chosen = resample(key, weights)
    return candidates._replace(
        positions=candidates.positions[chosen],
        log_likelihood=candidates.log_likelihood[chosen],
        log_evidence=candidates.log_evidence + jnp.max(log_weights) + jnp.log(jnp.mean(weights)),
    ), effective_number(log_weights)


def walk(keys, candidates: Candidates, parameters, experiment, map_):
    """A Metropolis move of every candidate for each of the keys; the fractions accepted.

    The likelihoods are those of `score_all`, one program, also for `begin`: no other here takes as
    long to compile.
    """
    signs, accepted = np.asarray(map_.signs, candidates.positions.dtype), []
    for key in keys:
        trial, accept_key = _trial(key, candidates.positions, parameters, experiment, signs)
        likelihood = score_all(trial, parameters, experiment, map_)
        candidates, fraction = accept(accept_key, candidates, trial, likelihood, experiment)
        accepted.append(fraction)
    return candidates, tuple(accepted)


@partial(jax.jit, static_argnames=("effective", "moves"))
def raise_temperature(key, candidates: Candidates, effective: float, moves: int):
    """Candidates at the next temperature, resampled; their effective number and how many had
    failed before; keys to walk with, one for each of the moves. One program: each small one costs
    a start."""
    key, resample_key = jax.random.split(key)
    failed = jnp.sum(~jnp.isfinite(candidates.log_likelihood))
    temperature = next_temperature(candidates.temperature, candidates.log_likelihood, effective)
    log_weights = (temperature - candidates.temperature) * candidates.log_likelihood
    candidates, number = reweigh(resample_key, candidates, log_weights)
    return (candidates._replace(temperature=temperature), number, failed,
            tuple(jax.random.split(key, moves)))


def temper(key, candidates: Candidates, parameters, experiment, map_, settings: Settings):
    """One step towards the posterior: raise the temperature, reweigh, resample, move."""
    candidates, effective, failed, keys = raise_temperature(
        key, candidates, settings.effective, settings.moves)
    candidates, accepted = walk(keys, candidates, parameters, experiment, map_)
    return candidates, StepInfo(effective, accepted, failed)


def begin(key, parameters, experiment, map_, count: int) -> Candidates:
    """Candidates from the prior, at temperature 0."""
    positions = draw(key, experiment, count)
    zero = np.zeros((), positions.dtype)
    return Candidates(positions, score_all(positions, parameters, experiment, map_), zero, zero)


def objective(parameters, positions, experiment, map_):
    """Expected log likelihood over candidates plus log prior of the parameters, and its parts."""
    likelihood = score_all(positions, parameters, experiment, map_)
    prior = latent_map.log_prior(parameters.process, map_.prior)
    prior = prior - 0.5 * jnp.sum(parameters.actuator**2)
    return jnp.mean(likelihood) + prior, (likelihood, prior)


@partial(jax.jit, static_argnames=("map_", "settings"))
def maximise(candidates: Candidates, parameters, experiment, map_, settings: Settings):
    """M-step: parameters that raise the expected log likelihood, and the evidence's rise.

    Adam's best iterate over a fixed subset of the candidates, the start among them. By Jensen's
    inequality the log of the mean likelihood ratio over the subset, returned as the rise, is at
    least the rise of the expectation, which is not negative.
    """
    stride = max(1, candidates.positions.shape[0] // settings.climbing)
    positions = candidates.positions[::stride]
    climb = optax.adam(0.1)
    value = jax.value_and_grad(
        lambda p: objective(p, positions, experiment, map_), has_aux=True)

    def step(carry, _):
        parameters, state = carry
        (now, (likelihood, prior)), gradient = value(parameters)
        gradient = jax.tree.map(lambda g: jnp.where(jnp.isfinite(g), -g, 0.0), gradient)
        update, state = climb.update(gradient, state)
        return ((optax.apply_updates(parameters, update), state),
                (parameters, now, likelihood, prior))

    _, (tried, values, likelihoods, priors) = jax.lax.scan(
        step, (parameters, climb.init(parameters)), None, length=settings.climbs)
    best = jnp.argmax(jnp.where(jnp.isfinite(values), values, -jnp.inf))
    ratio = jax.nn.logsumexp(likelihoods[best] - likelihoods[0]) - math.log(len(positions))
    return jax.tree.map(lambda leaf: leaf[best], tried), ratio + priors[best] - priors[0]


def renew(key, candidates: Candidates, parameters, experiment, map_, settings: Settings):
    """E-step after the parameters or the data changed: reweigh the posterior's candidates, move."""
    key, resample_key = jax.random.split(key)
    likelihood = score_all(candidates.positions, parameters, experiment, map_)
    log_weights = likelihood - candidates.log_likelihood
    evidence = candidates.log_evidence
    candidates, effective = reweigh(
        resample_key, candidates._replace(log_likelihood=likelihood), log_weights)
    keys = jax.random.split(key, 2 * settings.moves)
    candidates, accepted = walk(
        keys, candidates._replace(log_evidence=evidence), parameters, experiment, map_)
    return candidates, StepInfo(effective, accepted, jnp.sum(~jnp.isfinite(likelihood)))


def initial_parameters(map_: Map, experiment: Experiment) -> Parameters:
    """The prior's mean, and an exact actuator matrix."""
    dtype = experiment.latents.dtype
    process = jax.tree.map(lambda m: np.asarray(m, dtype), map_.prior.mean)
    return Parameters(process, np.zeros(experiment.actuator_sd.shape, dtype))


def run(key, experiment: Experiment, map_: Map, settings: Settings = DEFAULT,
        progress=None) -> Result:
    """EM from the prior to the posterior.

    Returns:
        :class:`Result`; ``converged``: the parameters stopped moving, or were not to move.

    Raises:
        ValueError: settings with fewer than two candidates or with negative iterations.
    """
    if settings.candidates < 2 or settings.iterations < 0:
        raise ValueError(f"EM needs at least 2 candidates and no negative iterations, got "
                         f"{settings.candidates} and {settings.iterations}: raise them in Settings")
    report = progress or (lambda message, fraction: None)
    parameters = initial_parameters(map_, experiment)
    begin_key, temper_key, renew_key = (jax.random.fold_in(key, part) for part in range(3))
    candidates, failed = begin(begin_key, parameters, experiment, map_, settings.candidates), 0
    stage = 0
    while float(candidates.temperature) < 1.0:
        report(f"narrowing down the candidates, step {stage + 1}", None)
        candidates, info = temper(jax.random.fold_in(temper_key, stage), candidates, parameters,
                                  experiment, map_, settings)
        stage += 1
        failed += int(info.failed)
        if stage == 1 and failed == settings.candidates:
            return Result(candidates, parameters, (), 0, False,
                          "no candidate has a finite likelihood: the latents or the knobs are "
                          "outside anything the map can describe")
    evidences = [float(candidates.log_evidence)]
    if settings.iterations == 0:
        return Result(candidates, parameters, tuple(evidences), 0, True,
                      "the map's parameters were left where they were expected" + _lost(failed))
    for iteration in range(1, settings.iterations + 1):
        report(f"fitting the map, step {iteration}", iteration / settings.iterations)
        new, rise = maximise(candidates, parameters, experiment, map_, settings)
        evidences.append(evidences[-1] + float(rise))
        change = max(float(jnp.max(jnp.abs(a - b))) for a, b in zip(
            jax.tree.leaves(new), jax.tree.leaves(parameters), strict=True))
        parameters = new
        candidates, info = renew(jax.random.fold_in(renew_key, iteration), candidates, parameters,
                                 experiment, map_, settings)
        failed += int(info.failed)
        if change < settings.tolerance:
            return Result(candidates, parameters, tuple(evidences), iteration, True,
                          f"the map's parameters settled after {iteration} iterations"
                          + _lost(failed))
    return Result(candidates, parameters, tuple(evidences), settings.iterations, False,
                  f"the map's parameters still moved by {change:.2g} (log units) after "
                  f"{settings.iterations} iterations" + _lost(failed))


def _lost(failed: int) -> str:
    """What is said of candidates whose factorisation failed: they weigh nothing."""
    told = f"; candidates without a finite likelihood, which weigh nothing: {failed}"
    return told if failed else ""
