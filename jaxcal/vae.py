"""Variational autoencoder of images of random power: encoder, decoder, ELBO.

A patch network without convolutions: dense layers shared by all patches, one dense layer across
them. The decoder gives the expected log power; the data are exponential about it, as the power
of a random signal is, so that the ELBO weighs every bin by what it can tell.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

FLOOR, CEILING = -5.0, 6.0  # log power about the mean at which the encoder's input is cut


@dataclass(frozen=True)
class Architecture:
    """Sizes: image (rows, columns), patch side, features a patch, hidden units, latents."""

    rows: int = 128
    columns: int = 64
    patch: int = 8
    features: int = 24
    hidden: int = 256
    latents: int = 12

    @property
    def patches(self) -> tuple[int, int]:
        return self.rows // self.patch, self.columns // self.patch


class Elbo(NamedTuple):
    """Evidence lower bound per image and its parts, nats: value = -distortion - divergence."""

    value: jax.Array
    distortion: jax.Array
    divergence: jax.Array


class Encoder(nnx.Module):
    """Log-power image -> mean and log variance of the latents."""

    def __init__(self, shape: Architecture, *, rngs: nnx.Rngs):
        self.shape = shape
        down, across = shape.patches
        self.embed = nnx.Linear(shape.patch**2, shape.features, rngs=rngs)
        self.mix = nnx.Linear(down * across * shape.features, shape.hidden, rngs=rngs)
        self.deep = nnx.Linear(shape.hidden, shape.hidden, rngs=rngs)
        self.out = nnx.Linear(shape.hidden, 2 * shape.latents, rngs=rngs)

    def __call__(self, image):
        """(..., rows, columns) -> two arrays (..., latents)."""
        s = self.shape
        (down, across), batch = s.patches, image.shape[:-2]
        x = jnp.clip(image, FLOOR, CEILING) / 2.0
        x = x.reshape(*batch, down, s.patch, across, s.patch)
        x = jnp.swapaxes(x, -3, -2).reshape(*batch, down * across, s.patch**2)
        x = nnx.gelu(self.embed(x)).reshape(*batch, -1)
        x = nnx.gelu(self.mix(x))
        x = x + nnx.gelu(self.deep(x))
        mean, log_variance = jnp.split(self.out(x), 2, axis=-1)
        return mean, jnp.clip(log_variance, -12.0, 4.0)


class Decoder(nnx.Module):
    """Latents -> expected log power."""

    def __init__(self, shape: Architecture, *, rngs: nnx.Rngs):
        self.shape = shape
        down, across = shape.patches
        self.enter = nnx.Linear(shape.latents, shape.hidden, rngs=rngs)
        self.deep = nnx.Linear(shape.hidden, shape.hidden, rngs=rngs)
        self.mix = nnx.Linear(shape.hidden, down * across * shape.features, rngs=rngs)
        self.out = nnx.Linear(shape.features, shape.patch**2, rngs=rngs)

    def __call__(self, latents):
        """(..., latents) -> (..., rows, columns)."""
        s = self.shape
        (down, across), batch = s.patches, latents.shape[:-1]
        x = nnx.gelu(self.enter(latents))
        x = x + nnx.gelu(self.deep(x))
        x = nnx.gelu(self.mix(x)).reshape(*batch, down * across, s.features)
        x = self.out(x).reshape(*batch, down, across, s.patch, s.patch)
        return jnp.swapaxes(x, -3, -2).reshape(*batch, s.rows, s.columns)


class Vae(nnx.Module):
    """Encoder and decoder of one architecture."""

    def __init__(self, shape: Architecture, *, rngs: nnx.Rngs):
        self.shape = shape
        self.encoder = Encoder(shape, rngs=rngs)
        self.decoder = Decoder(shape, rngs=rngs)


def distortion(log_power, expected, weight):
    """-log likelihood (up to a constant) of images (..., H, W): sum weight (s + e^(l - s)).

    The power e^l is exponential with mean e^s; ``weight`` (H, W) is 0 for bins to leave out and
    below 1 where neighbouring bins are correlated.
    """
    return jnp.sum(weight * (expected + jnp.exp(log_power - expected)), axis=(-2, -1))


def misfit(log_power, expected, weight):
    """By what the deviance of images (..., H, W) exceeds that of images that their expectation
    explains, nats a bin, the mean with weights (H, W): about 0 where it does."""
    away = log_power - expected
    excess = jnp.exp(away) - away - 1 - np.euler_gamma
    return jnp.sum(weight * excess, axis=(-2, -1)) / weight.sum()


def draws(key, vae: Vae, image):
    """Standard normal noise (..., latents) for the `elbo` of images (..., rows, columns)."""
    return jax.random.normal(key, (*image.shape[:-2], vae.encoder.shape.latents), image.dtype)


def elbo(noise, vae: Vae, image, weight) -> Elbo:
    """ELBO of images (..., rows, columns) with one draw of the latents each, from `draws`.

    Source: Kingma & Welling, Auto-encoding variational Bayes, 2014.
    """
    mean, log_variance = vae.encoder(image)
    expected = vae.decoder(mean + jnp.exp(0.5 * log_variance) * noise)
    loss = distortion(image, expected, weight)
    divergence = 0.5 * jnp.sum(jnp.exp(log_variance) + mean**2 - 1.0 - log_variance, axis=-1)
    return Elbo(-loss - divergence, loss, divergence)
