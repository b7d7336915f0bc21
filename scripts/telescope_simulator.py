"""A telescope with focus, astigmatism and unknown sources: the simulator of ``telescope.py``.

Aberrations are Zernike's with unit rms over the clear pupil, in waves of the nominal wavelength.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SIZE, RADIUS, BINNED = 128, 24, 4  # pixels: image, pupil; frequencies averaged along each axis
SPHERICAL = 0.027  # sd of the spherical aberration, waves rms
CONTRAST = 0.3  # sd of a source over its mean
LINE = (np.arange(SIZE) - SIZE // 2).astype(np.float32)
FREQUENCY = np.hypot(LINE[:, None], LINE[None, :])  # cycles per image


class Telescope(NamedTuple):
    """Obscuration, share of the pupil's radius; seeing, sd in pixels; wavelengths over nominal."""

    obscuration: float = 0.0
    seeing: float = 0.0
    wavelengths: tuple[float, ...] = (1.0,)


SIMULATED, REAL = Telescope(), Telescope(0.2, 0.5, (0.94, 1.02, 1.10))


def transfer(waves, spherical, telescope: Telescope):
    """OTF (SIZE, SIZE), zero frequency first, of focus and astigmatism (3,) and spherical
    aberration, waves rms at the nominal wavelength."""
    total = 0.0
    for wavelength in telescope.wavelengths:
        y, x = (wavelength / RADIUS * line for line in (LINE[:, None], LINE[None, :]))
        r2 = x * x + y * y
        path = (waves[0] * 3**0.5 * (2 * r2 - 1) + waves[1] * 6**0.5 * (x * x - y * y)
                + waves[2] * 6**0.5 * 2 * x * y + spherical * 5**0.5 * (6 * r2 * r2 - 6 * r2 + 1))
        inside = (r2 <= 1) & (r2 >= telescope.obscuration**2)
        spread = jnp.abs(jnp.fft.fft2(inside * jnp.exp(2j * jnp.pi * path / wavelength))) ** 2
        total = total + spread / jnp.sum(spread) / len(telescope.wavelengths)
    blur = np.exp(-2 * (np.pi * telescope.seeing * FREQUENCY / SIZE) ** 2)
    return jnp.fft.fft2(total) * np.fft.ifftshift(blur)


def random_source(key, slope):
    """A Gaussian random source (SIZE, SIZE) of power f^-slope, mean 1."""
    amplitude = jnp.maximum(FREQUENCY, 1.0) ** (-0.5 * slope)
    wave = jnp.fft.fft2(jax.random.normal(key, (SIZE, SIZE), jnp.float32))
    field = jnp.real(jnp.fft.ifft2(wave * jnp.fft.ifftshift(amplitude)))
    return 1.0 + CONTRAST * (field - field.mean()) / field.std()


def star_field(key):
    """A crowded field of stars (SIZE, SIZE) of log-normal brightness in a bright sky, mean 1."""
    where, how = jax.random.split(key)
    stars = jax.random.bernoulli(where, 0.1, (SIZE, SIZE)) * jnp.exp(
        0.5 * jax.random.normal(how, (SIZE, SIZE), jnp.float32))
    return 1.0 + CONTRAST * (stars - stars.mean()) / stars.std()


def image(key, source, waves, nuisances, telescope: Telescope = SIMULATED):
    """Counts (SIZE, SIZE). Nuisances (3,) N(0, 1): spherical aberration, slope, brightness."""
    otf = transfer(waves, SPHERICAL * nuisances[0], telescope)
    spread = jnp.fft.ifft2(jnp.fft.fft2(source) * otf)
    mean = 1000.0 * jnp.exp(0.3 * nuisances[2]) * jnp.maximum(jnp.real(spread), 0.0)
    return mean + jnp.sqrt(mean + 25.0) * jax.random.normal(key, mean.shape, mean.dtype)


def log_spectrum(counts):
    """Log power (B,) over half of the plane, in blocks of frequencies, less its mean."""
    window, count = np.hanning(SIZE).astype(np.float32), SIZE // BINNED
    contrast = (counts / counts.mean() - 1.0) * window[:, None] * window
    power = jnp.fft.fftshift(jnp.abs(jnp.fft.fft2(contrast)) ** 2)[:, SIZE // 2 :]
    log = jnp.log(power.reshape(count, BINNED, count // 2, BINNED).mean((1, 3))).ravel()
    return log - log.mean()


@jax.jit
@jax.vmap
def simulate(key, waves, nuisances):
    """Log spectrum (B,) of a simulated image of a random source."""
    source, noise = jax.random.split(key)
    return log_spectrum(
        image(noise, random_source(source, 0.5 + 0.5 * nuisances[1]), waves, nuisances))
