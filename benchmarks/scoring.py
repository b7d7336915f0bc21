"""Log likelihoods of candidate states: jaxcal beside NumPy, one candidate at a time and in batches.

The work of a candidate: the map's prediction at every frame, the symmetrised Gaussian process over
the frames, the nuisances integrated out. ``numpy_loop`` and ``numpy_batch`` are the same algebra in
float64, written below from the equations of :mod:`jaxcal.latent_map`; they differ only in how many
candidates share a call. ``network alone`` and ``factors alone`` are parts of jaxcal's own work: the
map's predictions, in the same blocks, and the Cholesky factors over the frames. An accelerator gets
more candidates, of which NumPy scores the first; the rates are per candidate. The deviation is the
largest difference of a log likelihood from the NumPy one, over the spread of the log likelihoods.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import roofline, timing
from jaxcal import basins, em
from jaxcal import model as models
from jaxcal.microscopes.simulated import FIRST_ORDER, random_steps, simulated_optics

LATENTS = 12
FEW, MANY = 512, 65_536  # candidates, on a CPU and on an accelerator


def problem(frames: int, candidates: int):
    """An experiment with random latents, and candidates from its prior."""
    latents = np.random.default_rng(0).standard_normal((frames, LATENTS))
    data = basins.experiment(
        latents, random_steps(0, frames), FIRST_ORDER, simulated_optics())
    data = jax.tree.map(lambda leaf: leaf.astype(timing.real()), data)
    return data, em.draw(jax.random.key(0), data, candidates)


class NumpyMap:
    """The map network and the likelihood in NumPy, batched over any leading axes."""

    def __init__(self, network):
        self.size, self.scale = network.latents, np.asarray(network.scale)
        self.layers = {
            name: tuple(np.asarray(part[...], float) for part in (layer.kernel, layer.bias))
            for name in ("first", "second", "third", "mean", "sensitivity", "whitening")
            for layer in [getattr(network, name)]}
        self.signs = np.asarray(network.symmetry.states)
        self.nuisance_signs = np.asarray(network.symmetry.nuisances)

    def _dense(self, name, x):
        kernel, bias = self.layers[name]
        return x @ kernel + bias

    def predict(self, states):
        """States (..., P) -> mean (..., D), sensitivity (..., R, D), whitening (..., D, D)."""
        x = states[..., None, :] * self.signs / self.scale
        x = np.concatenate([0.2 * x, np.arcsinh(2 * x), x / np.sqrt(1 + x * x)], -1)
        x = _gelu(self._dense("first", x))
        x = x + _gelu(self._dense("second", x))
        x = x + _gelu(self._dense("third", x))  # (..., G, H)
        even = x.mean(-2)
        count, size = self.nuisance_signs.shape[1], self.size
        kernel, bias = (a.reshape(-1, count, size) for a in self.layers["sensitivity"])
        invariant = (self.nuisance_signs == 1).all(0)
        sensitivity = np.empty((*states.shape[:-1], count, size))
        for character in np.unique(self.nuisance_signs, axis=1).T:  # nuisances that turn alike
            alike = (self.nuisance_signs == character[:, None]).all(0)
            averaged = np.einsum("g,...gh->...h", character, x) / len(character)
            flat = averaged @ kernel[:, alike].reshape(len(kernel), -1)
            sensitivity[..., alike, :] = flat.reshape(*flat.shape[:-1], -1, size)
        sensitivity += bias[0] * invariant[:, None]
        whitening = np.zeros((*states.shape[:-1], size, size))
        whitening[(..., *np.tril_indices(size))] = self._dense("whitening", even)
        diagonal = np.arange(size)
        whitening[..., diagonal, diagonal] = np.exp(whitening[..., diagonal, diagonal])
        return self._dense("mean", even), sensitivity, whitening

    def log_likelihood(self, positions, data: em.Experiment, hyper):
        """Log likelihoods (N,) of candidates (N, P + 1)."""
        data = jax.tree.map(lambda a: np.asarray(a, float), data)
        unit = data.unit * np.exp(data.scale_power * positions[:, None, -1:])
        states = unit * (positions[:, None, :-1] + data.knobs)  # (N, T, P)
        mean, sensitivity, whitening = self.predict(states)
        columns = np.concatenate([(data.latents - mean)[..., None, :], sensitivity], -2)
        white = np.einsum("ntij,ntrj->ntir", whitening, columns)  # (N, T, D, 1 + R)
        where = np.arcsinh(states / np.asarray(models.STATE_SCALE))
        images = where[:, None, :, None] * self.signs  # arcsinh is odd: signs pass through
        distance = ((where[:, :, None, None] - images) ** 2).sum(-1)
        amplitude, length, noise = (np.exp(float(h)) for h in hyper)
        kernel = amplitude**2 * np.exp(-0.5 * distance / length**2).mean(-1)
        kernel += noise**2 * np.eye(len(data.latents))
        factor = np.linalg.cholesky(kernel)
        number, frames, size, _ = white.shape
        solved = np.linalg.solve(factor, white.reshape(number, frames, -1)).reshape(white.shape)
        solved = solved.reshape(number, frames * size, -1)
        residual, nuisance = solved[..., 0], solved[..., 1:]
        across = np.swapaxes(nuisance, -1, -2)
        inner = np.eye(nuisance.shape[-1]) + across @ nuisance
        along = (across @ residual[..., None])[..., 0]
        quadratic = (residual**2).sum(-1) - (
            along * np.linalg.solve(inner, along[..., None])[..., 0]).sum(-1)
        log_det = (size * _log_diagonal(factor) + 0.5 * np.linalg.slogdet(inner)[1]
                   - _log_diagonal(whitening).sum(-1))
        return -0.5 * quadratic - log_det - 0.5 * frames * size * np.log(2 * np.pi)


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _log_diagonal(matrix):
    return np.log(np.diagonal(matrix, axis1=-2, axis2=-1)).sum(-1)


def run(repetitions: int = timing.REPETITIONS, frames=(8, 16), candidates: int | None = None,
        network: nnx.Module | None = None) -> Iterator[dict]:
    """One entry a number of frames; ``network``: the map, that of the shipped model where None."""
    candidates = candidates or (FEW if jax.default_backend() == "cpu" else MANY)
    network = models.load().network if network is None else network
    map_ = em.Map(network, np.asarray(network.symmetry.states, np.float32),
                  np.asarray(models.STATE_SCALE, np.float32), models.latent_map.SIMULATED_PRIOR)
    numpy_map = NumpyMap(network)
    score = jax.jit(lambda p, parameters, data: em.score_all(p, parameters, data, map_))
    factor = jax.jit(jnp.linalg.cholesky)
    for count in frames:
        block = min(em.block_of(count), candidates)
        predict = jax.jit(partial(jax.lax.map, jax.vmap(network), batch_size=block))
        data, positions = problem(count, candidates)
        parameters = em.initial_parameters(map_, data)
        states = jax.vmap(lambda p, q=parameters, d=data: em.states(p, q, d))(positions)
        kernel = jnp.eye(count) + 0.1 * jnp.ones((candidates, count, count), states.dtype)
        double = np.asarray(positions, float)[:FEW]

        def in_numpy(few, double=double, data=data, hyper=parameters.process):
            return np.concatenate([numpy_map.log_likelihood(part, data, hyper)
                                   for part in np.split(double, len(double) // few)])

        times = candidates / len(double)
        timings = timing.in_turn({
            "jaxcal": timing.Form(score, (positions, parameters, data)),
            "network alone": timing.Form(predict, (states,)),
            "factors alone": timing.Form(factor, (kernel,)),
            "numpy_batch": timing.Form(in_numpy, (min(32, candidates),), times),
            "numpy_loop": timing.Form(in_numpy, (1,), times)}, repetitions)
        ours = np.asarray(jnp.asarray(timings["jaxcal"].value), float)[:FEW]
        theirs = timings["numpy_loop"].value
        # of one block of candidates: XLA counts the body of the loop over several once
        limit = roofline.share(score, (positions[:block], parameters, data),
                               timings["jaxcal"].median * block / candidates)
        yield timing.entry(
            "scoring", {"frames": count, "candidates": candidates, "latents": LATENTS}, timings,
            candidates, "candidates", np.abs(ours - theirs).max() / theirs.std(), limit)
