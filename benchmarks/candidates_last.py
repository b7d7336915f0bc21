"""Log likelihoods of candidates with everything written out, the candidates along the last axis.

What :mod:`jaxcal.latent_map` does by tinygp, a candidate at a time, is done here for a block of
candidates at once: kernel, factor and solve, column by column, every operation on vectors of
candidates. One more frame adds one row to each factor. It is here to be measured beside the form of
the package (`e_step`), which does not use it: most of an E-step is the map network.

T frames, P knobs, D latents, B candidates of a block.
"""

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import devices, latent_map

BLOCK = 128  # candidates at a time: a factor of 32 frames is then 270 kB


class Factor(NamedTuple):
    """Of the frames so far: kernel coordinates (T, P, B), columns of the Cholesky factors, the k-th
    from its diagonal on, (T - k, B), and whitened latents (T, D, B)."""

    where: jax.Array
    columns: tuple[jax.Array, ...]
    white: jax.Array


def kernel(one, others, hyper, signs):
    """Kernel of coordinates (P, B) with others (R, P, B), (R, B).

    The mean over the group is a product over the parts of the state that change sign together.

    Raises:
        ValueError: the group's parts do not change sign independently of each other.
    """
    parts = [np.flatnonzero((signs == column[:, None]).all(0))
             for column in np.unique(signs, axis=1).T]
    if len(signs) != math.prod(len(np.unique(signs[:, part])) for part in parts):
        raise ValueError("the parts of the state do not change sign independently")
    value = jnp.exp(2 * hyper.log_amplitude)
    for part in parts:
        images = [jnp.exp(-((one[part] - sign * others[:, part]) ** 2).sum(1)
                          * (0.5 * jnp.exp(-2 * hyper.log_length)))
                  for sign in np.unique(signs[:, part])]
        value = value * sum(images) / len(images)
    return value


def factorise(where, latents, hyper, signs) -> Factor:
    """All frames at once, of coordinates (T, P, B) and latents (T, D)."""
    columns, white = [], []
    for k in range(len(where)):
        column = kernel(where[k], where[k:], hyper, signs)
        column = jnp.concatenate([column[:1] + jnp.exp(2 * hyper.log_noise), column[1:]])
        for j, before in enumerate(columns):
            column = column - before[k - j :] * before[k - j]
        diagonal = jnp.sqrt(column[0])
        # else XLA computes the columns before anew for each that follows
        column = jax.lax.optimization_barrier(jnp.concatenate([diagonal[None],
                                                               column[1:] / diagonal]))
        rest = latents[k][:, None]
        for j, before in enumerate(columns):
            rest = rest - before[k - j] * white[j]
        columns.append(column)
        white.append(rest / diagonal)
    return Factor(where, tuple(columns), jnp.stack(white))


def append(factor: Factor, where, latents, hyper, signs):
    """One more frame, of coordinates (P, B) and latents (D,): its row of the factors (T + 1, B),
    its whitened latents (D, B), and what it adds to the log likelihoods (B,)."""
    rest = kernel(where, factor.where, hyper, signs)
    square = kernel(where, where[None], hyper, signs)[0] + jnp.exp(2 * hyper.log_noise)
    row, white = [], latents[:, None]
    for column, before in zip(factor.columns, factor.white, strict=True):
        entry = rest[0] / column[0]
        rest = rest[1:] - column[1:] * entry
        white = white - before * entry
        square = square - entry**2
        row.append(entry)
    diagonal = jnp.sqrt(square)
    white = white / diagonal
    return jnp.stack([*row, diagonal]), white, _density(diagonal[None], white[None])


def log_likelihood(factor: Factor):
    """Log likelihoods (B,)."""
    return _density(jnp.stack([column[0] for column in factor.columns]), factor.white)


def _density(diagonals, white):
    frames, latents, _ = white.shape
    return -0.5 * (white**2).sum((0, 1)) - latents * (
        jnp.log(diagonals).sum(0) + 0.5 * frames * math.log(2 * math.pi))


def blocks(states, scale):
    """Candidates' states (N, T, P) -> kernel coordinates by blocks, (N / B, T, P, B)."""
    number, *shape = states.shape
    block = math.gcd(BLOCK, number)
    return jnp.moveaxis(latent_map.kernel_coordinates(
        states.reshape(number // block, block, *shape), scale), 1, -1)


def form(signs, scale):
    """Parts of candidates' states (N, T, P), latents (T, D), log parameters -> log likelihoods (N,)
    of each part.

    On a CPU a block's vectors are too short for XLA to share them out, so each part has a thread.
    """
    @jax.jit
    def score(states, latents, hyper):
        return jax.lax.map(
            lambda where: log_likelihood(factorise(where, latents, hyper, signs)),
            blocks(states, scale)).reshape(-1)

    return partial(_in_threads, score)


def append_form(signs, scale):
    """Parts of factors by blocks and candidates' states (N, P) in one more frame, its latents (D,),
    log parameters -> its rows (N / B, T + 1, B), whitened latents and what they add, by parts."""
    @jax.jit
    def score(part, latents, hyper):
        factors, states = part
        return jax.lax.map(lambda x: append(*x, latents, hyper, signs),
                           (factors, blocks(states[:, None], scale)[:, 0]))

    return partial(_in_threads, score)


def factors(signs, scale):
    """Candidates' states (N, T, P), latents (T, D), log parameters -> their factors by blocks."""
    return jax.jit(lambda states, latents, hyper: jax.lax.map(
        lambda where: factorise(where, latents, hyper, signs), blocks(states, scale)))


def _in_threads(score, parts, *whole):
    return devices.side_by_side(lambda part: jax.block_until_ready(score(part, *whole)), parts)
