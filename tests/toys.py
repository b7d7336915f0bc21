"""Small made-up maps and experiments whose answers are known in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import em, latent_map
from jaxcal.latent_map import Hyperparameters, Prediction, Prior, Symmetry

KLEIN = Symmetry(  # of four states and three nuisances: even and odd ones change sign separately
    states=((1.0, 1.0, 1.0, 1.0), (1.0, 1.0, -1.0, -1.0), (-1.0, -1.0, 1.0, 1.0),
            (-1.0, -1.0, -1.0, -1.0)),
    nuisances=((1.0, 1.0, 1.0), (1.0, 1.0, -1.0), (1.0, -1.0, 1.0), (1.0, -1.0, -1.0)),
)  # fmt: skip


def held(amplitude=1e-3, length=1.0, noise=1.0, sd=(0.02, 0.02, 0.02)):
    """A prior that leaves the M-step next to no freedom: a process known beforehand."""
    return Prior(Hyperparameters(*map(math.log, (amplitude, length, noise))),
                 Hyperparameters(*sd))


class Linear:
    """m(x) = A x, one nuisance of sensitivity s, whitening W: everything is Gaussian.

    Two states, four latents; the process is too small to matter.
    """

    matrix = np.array([[0.9, 0.1], [-0.3, 0.7], [0.2, 0.5], [0.6, -0.4]])
    sensitivity = np.array([[0.3, -0.2, 0.4, 0.1]])
    whitening = np.diag([1.0, 1.3, 0.8, 1.1]) + np.tril(0.1 * np.ones((4, 4)), -1)

    def __init__(self, prior=None):
        dtype = jnp.result_type(float)
        self.map = em.Map(self._predict, np.ones((1, 2)), np.ones(2), prior or held())
        self._parts = [jnp.asarray(a, dtype) for a in (
            self.matrix, self.sensitivity, self.whitening)]

    def _predict(self, state):
        matrix, sensitivity, whitening = (a.astype(state.dtype) for a in self._parts)
        return Prediction(matrix @ state, sensitivity, whitening)

    def latents(self, random, states, noise=1.0):
        """Latents (T, 4) drawn at states (T, 2), with one nuisance for all."""
        errors = noise * random.standard_normal((len(states), 4)) @ np.linalg.inv(self.whitening).T
        return states @ self.matrix.T + random.standard_normal() * self.sensitivity + errors

    def posterior(self, data, noise=1.0, actuator_sd=None):
        """Mean and covariance of x0, then of the (P) diagonal gains where asked, and log p(z)."""
        latents, knobs = np.asarray(data.latents), np.asarray(data.knobs)
        frames = np.flatnonzero(np.asarray(data.frame_noise) < latent_map.LEFT_OUT)
        design, sd = np.tile(self.matrix, (len(frames), 1)), np.asarray(data.prior_sd)
        offset = (knobs[frames] @ self.matrix.T).ravel()
        if actuator_sd is not None:
            design = np.hstack([design, np.vstack([self.matrix * knobs[t] for t in frames])])
            sd = np.append(sd, actuator_sd)
        inverse = np.linalg.inv(self.whitening)
        nuisance = np.tile(self.sensitivity[0], len(frames))
        errors = np.kron(np.eye(len(frames)), noise**2 * inverse @ inverse.T)
        errors = errors + np.outer(nuisance, nuisance)
        total = errors + design * sd**2 @ design.T
        residual = latents[frames].ravel() - offset
        gain = (design * sd**2).T @ np.linalg.inv(total)
        evidence = -0.5 * (residual @ np.linalg.solve(total, residual)
                           + np.linalg.slogdet(2 * np.pi * total)[1])
        return gain @ residual, np.diag(sd**2) - gain @ (design * sd**2), evidence


def experiment(knobs, latents, *, frame_noise=None, prior_sd=3.0, scale_sd=1e-6, actuator_sd=None,
               dtype=None):
    """An `em.Experiment` in map units; the scale is known unless told otherwise."""
    frames, states = np.shape(knobs)
    fields = (knobs, latents, np.ones(frames) if frame_noise is None else frame_noise,
              np.ones(states), np.ones(states), np.full(states, prior_sd), scale_sd,
              np.zeros((states, states)) if actuator_sd is None else actuator_sd)
    return em.Experiment(*(jnp.asarray(f, dtype or jnp.result_type(float)) for f in fields))


def gap(random, hyper, states, signs, scale, dimensions):
    """A draw of the process (T, D) at states (T, P)."""
    coordinates = jax.vmap(lambda x: latent_map.kernel_coordinates(x, jnp.asarray(scale)))(
        jnp.asarray(states))
    kernel = latent_map.gap_kernel(hyper, jnp.asarray(signs))
    covariance = np.asarray(kernel(coordinates, coordinates)) + 1e-12 * np.eye(len(states))
    return np.linalg.cholesky(covariance) @ random.standard_normal((len(states), dimensions))


class Folded:
    """m(x) of |x|-like features of two states whose signs do not show: four mirror images.

    Prediction fails, as not a number, where the first state is beyond 9.
    """

    signs = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    scale = np.array([1.0, 1.0])
    prior = Prior(Hyperparameters(math.log(0.5), 0.0, 0.0), Hyperparameters(0.5, 0.3, 0.25))

    def __init__(self):
        self.map = em.Map(self.predict, self.signs, self.scale, self.prior)

    def predict(self, state):
        x, y = jnp.where(state[0] > 9.0, jnp.nan, state[0]), state[1]
        a, b = jnp.sqrt(1 + x**2), jnp.sqrt(1 + y**2)
        mean = jnp.stack([3 * a, 3 * b, a * b, 2 * (a - b)])
        sensitivity = jnp.stack([0.3 * mean, jnp.ones_like(mean)])
        return Prediction(mean, sensitivity, jnp.diag(2.0 + 0.1 * mean**2 / (1 + mean**2)))

    def latents(self, random, states, hyper):
        """Latents (T, 4) drawn at states (T, 2) from the model itself."""
        predictions = jax.vmap(self.predict)(jnp.asarray(states))
        mean, sensitivity, whitening = (np.asarray(p) for p in predictions)
        white = gap(random, hyper, states, self.signs, self.scale, 4)
        white = white + np.exp(hyper.log_noise) * random.standard_normal(white.shape)
        unwhitened = np.linalg.solve(whitening, white[..., None])[..., 0]
        return mean + np.einsum("trd,r->td", sensitivity, random.standard_normal(2)) + unwhitened
