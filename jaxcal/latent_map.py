"""Map from states to latents: a simulated mean, nuisances, and a symmetric Gaussian process.

For frame t in state x_t an instrument shows the latents

    W(x_t) [z_t - m(x_t) - Phi(x_t) nu] = delta(x_t) + e_t,   e_t ~ N(0, sigma^2 1)

where m, Phi and W come from simulation (a network), nu ~ N(0, 1) are the instrument's nuisances
(one draw for all frames), and delta, the gap between simulation and instrument, is a Gaussian
process in each whitened latent whose kernel has the symmetry of the instrument. nu and delta are
integrated in closed form. States are in whatever units the map was trained in; nothing here knows
what they mean.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.scipy.linalg as linalg
import numpy as np
import tinygp
from flax import nnx

LOG_TWO_PI = math.log(2 * math.pi)
LEFT_OUT = 1e3  # a frame with a larger noise factor is not counted


@dataclass(frozen=True)
class Symmetry:
    """A group of sign changes: states (G, P) -> latents unchanged, nuisances (G, R) along.

    ``states[g] * x`` with nuisances ``nuisances[g] * nu`` shows the same latents as x with nu.
    The first element is the identity. Rows are tuples of +1 and -1, so that a symmetry is hashable.
    """

    states: tuple[tuple[float, ...], ...]
    nuisances: tuple[tuple[float, ...], ...]


class Prediction(NamedTuple):
    """Latents at one state: mean (D,), nuisance sensitivities (R, D), whitening of noise (D, D)."""

    mean: jax.Array
    sensitivity: jax.Array
    whitening: jax.Array


class Hyperparameters(NamedTuple):
    """Logs of the gap's amplitude (in noise standard deviations), length scale and noise.

    The amplitude is that before the average over the group of G sign changes: the gap's variance is
    the square of it where a state is its own image, and 1/G of that far from there.
    The length scale is in the units of the kernel's coordinates, see :func:`kernel_coordinates`.
    """

    log_amplitude: jax.Array
    log_length: jax.Array
    log_noise: jax.Array


class Prior(NamedTuple):
    """Independent normal priors on :class:`Hyperparameters`: means and standard deviations."""

    mean: Hyperparameters
    sd: Hyperparameters


SIMULATED_PRIOR = Prior(  # a gap of at most half a noise standard deviation, slowly varying
    Hyperparameters(math.log(0.5), math.log(1.0), 0.0), Hyperparameters(0.7, 0.5, 0.25)
)
# Without simulated mean, where the process is the whole map and its noise a fraction; the medians
# are the best of some that benchmarks/tuning.py tries.
FLAT_PRIOR = Prior(
    Hyperparameters(math.log(2.0), math.log(2.0), math.log(0.1)), Hyperparameters(0.5, 0.5, 0.5)
)


def log_prior(hyper: Hyperparameters, prior: Prior):
    """Log density of the hyperparameters, up to a constant."""
    terms = jax.tree.map(lambda h, m, s: -0.5 * ((h - m) / s) ** 2, hyper, prior.mean, prior.sd)
    return sum(jax.tree.leaves(terms))


class MapNetwork(nnx.Module):
    """Network state (P,) -> :class:`Prediction`, exactly symmetric under a :class:`Symmetry`.

    The hidden features are averaged over the group, once for every way in which a nuisance can
    change sign; the output layer is linear in them.
    """

    def __init__(self, symmetry: Symmetry, scale, latents: int, hidden: int = 128, *,
                 rngs: nnx.Rngs):
        self.symmetry = symmetry
        self.latents = latents
        self.scale = tuple(float(s) for s in scale)
        states, nuisances = len(symmetry.states[0]), len(symmetry.nuisances[0])
        self.first = nnx.Linear(3 * states, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, rngs=rngs)
        self.third = nnx.Linear(hidden, hidden, rngs=rngs)
        small = nnx.initializers.normal(1e-3)
        self.mean = nnx.Linear(hidden, latents, rngs=rngs)
        self.sensitivity = nnx.Linear(hidden, nuisances * latents, rngs=rngs, kernel_init=small)
        self.whitening = nnx.Linear(hidden, latents * (latents + 1) // 2, rngs=rngs,
                                    kernel_init=small)

    def features(self, state):
        """Hidden features of states (..., P), near the origin and far from it."""
        x = state / jnp.asarray(self.scale, state.dtype)
        x = jnp.concatenate([0.2 * x, jnp.arcsinh(2 * x), x / jnp.sqrt(1 + x * x)], axis=-1)
        x = nnx.gelu(self.first(x))
        x = x + nnx.gelu(self.second(x))
        return x + nnx.gelu(self.third(x))

    def __call__(self, state) -> Prediction:
        """Prediction at one state (P,); batch with vmap."""
        signs = np.asarray(self.symmetry.nuisances)
        hidden = self.features(state * jnp.asarray(self.symmetry.states, state.dtype))
        even = hidden.mean(0)
        characters, which = np.unique(signs, axis=1, return_inverse=True)
        averaged = jnp.asarray(characters.T, state.dtype) @ hidden / len(signs)
        kernel = self.sensitivity.kernel[...].reshape(-1, signs.shape[1], self.latents)
        bias = self.sensitivity.bias[...].reshape(signs.shape[1], self.latents)
        invariant = (signs == 1).all(0)
        alike = [np.flatnonzero(which.ravel() == c) for c in range(characters.shape[1])]
        sensitivity = jnp.concatenate([  # one product for all nuisances that turn alike
            jnp.tensordot(averaged[c], kernel[:, rows], 1) for c, rows in enumerate(alike)
        ])[np.argsort(np.concatenate(alike))] + bias * jnp.asarray(invariant[:, None], bias.dtype)
        return Prediction(self.mean(even), sensitivity, unpack(self.whitening(even), self.latents))


def unpack(entries, size: int):
    """Lower triangular (size, size) with positive diagonal from size (size + 1)/2 entries."""
    rows, columns = np.tril_indices(size)
    lower = jnp.zeros((size, size), entries.dtype).at[rows, columns].set(entries)
    diagonal = jnp.diag(lower)
    return lower - jnp.diag(diagonal) + jnp.diag(jnp.exp(diagonal))


def flat_prediction(latent_mean, latent_whitening, nuisances: int):
    """The published form: no simulated mean, the latents' overall mean and spread instead."""
    empty = jnp.zeros((nuisances, latent_mean.shape[0]), latent_mean.dtype)

    def predict(state):
        return Prediction(latent_mean, empty, latent_whitening)

    return predict


def log_density(prediction: Prediction, latents, nuisances):
    """Log density of latents (D,) at known nuisances (R,): the training loss of the map."""
    residual = latents - prediction.mean - nuisances @ prediction.sensitivity
    white = prediction.whitening @ residual
    log_det = jnp.sum(jnp.log(jnp.diag(prediction.whitening)))
    return log_det - 0.5 * jnp.sum(white**2) - 0.5 * LOG_TWO_PI * white.size


class Symmetrised(tinygp.kernels.Kernel):
    """Kernel averaged over a group of sign changes: k(x, x') = mean_g base(x, g x')."""

    base: tinygp.kernels.Kernel
    signs: jax.Array

    def evaluate(self, X1, X2):
        return jnp.mean(jax.vmap(lambda sign: self.base.evaluate(X1, sign * X2))(self.signs))


def kernel_coordinates(state, scale):
    """States (P,) -> coordinates of the kernel: linear near the origin, logarithmic far away.

    The spectra of near-focus states change faster with the state than those far from it.
    """
    return jnp.arcsinh(state / scale)


def gap_kernel(hyper: Hyperparameters, signs):
    """Squared-exponential kernel with the group's symmetry, in kernel coordinates."""
    base = jnp.exp(2 * hyper.log_amplitude) * tinygp.kernels.ExpSquared(
        scale=jnp.exp(hyper.log_length))
    return Symmetrised(base, signs)


@jax.default_matmul_precision("highest")  # accelerators multiply with fewer bits otherwise
def log_likelihood(hyper: Hyperparameters, predict, states, latents, signs, scale, frame_noise):
    """log p(latents | states): nuisances and gap integrated out.

    The nuisances enter through the matrix determinant lemma, so that the cost is one Cholesky
    factor of the frames (T, T), shared by the latents, and one of the nuisances (R, R).

    Args:
        predict: state (P,) -> :class:`Prediction`.
        states: (T, P); latents: (T, D).
        signs: (G, P), the group's sign changes; scale: (P,), unit of the kernel's coordinates.
        frame_noise: (T,) factor on each frame's noise; a large one leaves the frame out.
    """
    predictions = jax.vmap(predict)(states)
    residual = latents - predictions.mean
    stacked = jnp.concatenate([residual[:, None], predictions.sensitivity], axis=1)
    white = jnp.einsum("tij,trj->tir", predictions.whitening, stacked)  # (T, D, 1 + R)
    kept = frame_noise < LEFT_OUT  # the others must not count in the determinants either
    white = jnp.where(kept[:, None, None], white, 0.0)
    log_whitening = jnp.log(jnp.diagonal(predictions.whitening, axis1=-2, axis2=-1))
    process = tinygp.GaussianProcess(
        gap_kernel(hyper, signs), kernel_coordinates(states, scale),
        diag=(jnp.exp(hyper.log_noise) * frame_noise) ** 2)
    frames, dimensions = latents.shape
    # a product with the inverse of the small factor: LAPACK solves for many columns slowly
    inverse = process.solver.solve_triangular(jnp.eye(frames, dtype=latents.dtype))
    solved = (inverse @ white.reshape(frames, -1)).reshape(white.shape)
    data, nuisance = solved[..., 0].ravel(), solved[..., 1:].reshape(frames * dimensions, -1)
    inner = jnp.eye(nuisance.shape[1], dtype=latents.dtype) + nuisance.T @ nuisance
    factor = jnp.linalg.cholesky(inner)
    estimate = linalg.cho_solve((factor, True), nuisance.T @ data)
    # (d - N nu)^2 + nu^2: a sum of squares, unlike d^2 - (N^T d) nu, which cancels in float32
    quadratic = jnp.sum((data - nuisance @ estimate) ** 2) + jnp.sum(estimate**2)
    log_scale = dimensions * jnp.log(jnp.diag(process.solver.scale_tril))
    log_det = (jnp.sum(kept * (log_scale - jnp.sum(log_whitening, axis=-1)))
               + jnp.sum(jnp.log(jnp.diag(factor))))
    counted = dimensions * jnp.sum(kept, dtype=latents.dtype)
    return -0.5 * quadratic - log_det - 0.5 * LOG_TWO_PI * counted
