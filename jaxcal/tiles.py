"""Frame -> power spectra of overlapping tiles of the Ronchigram.

A tile looks at the contrast through a Gaussian window. Locally a Ronchigram is an in-line hologram
whose defocus and astigmatism are the Hessian of W at the tile, so that the tiles together carry
C21 and C23 and their signs, which the spectrum of the whole disc has lost. Angles are counted from
the disc's centre in aperture radii, frequencies in cycles per aperture radius; no pixel is
resampled.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal.spectra import LARGEST_RADIUS, Disc, binned, check_disc, without_hot_pixels

WIDTH = 0.22  # standard deviation of a tile's amplitude window, aperture radii
RING = 0.5  # distance of the outer tiles from the centre
FLAT, END = 0.85, 0.98  # common taper towards the aperture's edge

HIGHEST = 16  # cycles per aperture radius, along both axes
LOWEST = 2.5  # frequencies below are illumination, and leak from it


def _centres():
    angle = np.arange(6) * np.pi / 3
    ring = RING * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate([np.zeros((1, 2)), ring])


CENTRES = _centres()
"""(K, 2) middles (x, y) of the tiles, aperture radii."""

FREQUENCY_X = np.arange(HIGHEST + 1.0)
FREQUENCY_Y = np.arange(-HIGHEST, HIGHEST + 1.0)
FREQUENCY = np.hypot(FREQUENCY_Y[:, None], FREQUENCY_X[None, :])
MASK = (FREQUENCY >= LOWEST) & (FREQUENCY <= HIGHEST)
MASK[:, 0] &= FREQUENCY_Y > 0  # f_x = 0: f_y and -f_y are one


class Windows(NamedTuple):
    """Moments of the tiles' squared windows: middles (K, 2) and standard deviation (K,)."""

    centres: np.ndarray
    widths: np.ndarray


def taper(rho):
    """1 for rho < FLAT, a cos^2 to 0 at END."""
    t = jnp.clip((rho - FLAT) / (END - FLAT), 0.0, 1.0)
    return jnp.cos(0.5 * jnp.pi * t) ** 2


def _windows():
    line = np.linspace(-1, 1, 401)
    x, y = np.meshgrid(line, line)
    edge = np.asarray(taper(np.hypot(x, y)))
    centres, widths = [], []
    for cx, cy in CENTRES:
        weight = edge**2 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / WIDTH**2)
        weight /= weight.sum()
        mx, my = (weight * x).sum(), (weight * y).sum()
        centres.append((mx, my))
        widths.append(np.sqrt(0.5 * (weight * ((x - mx) ** 2 + (y - my) ** 2)).sum()))
    return Windows(np.array(centres), np.array(widths) * np.sqrt(2))


WINDOWS = _windows()


def tile_spectra(frame, disc: Disc):
    """Power spectra (K, ROWS, COLUMNS) of the tiles, float32, of a frame (H, W) and its disc."""
    check_disc(disc)
    factor = max(1, int(disc.radius / LARGEST_RADIUS * 2))
    column, row, radius, ellipticity = (np.float32(place) for place in disc)
    shift = np.float32(0.5 * (factor - 1))
    small = Disc((column - shift) / factor, (row - shift) / factor, radius / factor, ellipticity)
    return _tile_spectra(binned(np.asarray(frame), factor), small)


@jax.jit
def _tile_spectra(frame, disc):
    return power_spectra(without_hot_pixels(frame), disc)


def power_spectra(frame, disc: Disc):
    """Power per unit of solid angle, P(f) = |sum w c exp(-2 pi i f.rho)|^2 / (sum w^2 R^2).

    c = F/F0 - 1 with the mean F0 over the disc, w the tile's window.
    """
    frame = jnp.asarray(frame)
    dtype = frame.dtype
    height, width = frame.shape
    disc = Disc(*(jnp.asarray(place, dtype) for place in disc))
    radius_x, radius_y = (disc.radius * (1 + s * disc.ellipticity) for s in (1, -1))
    x = (jnp.arange(width, dtype=dtype) - disc.column) / radius_x
    y = (jnp.arange(height, dtype=dtype) - disc.row) / radius_y
    edge = taper(jnp.sqrt(x[None, :] ** 2 + y[:, None] ** 2))
    mean = jnp.sum(edge * frame) / jnp.sum(edge)
    contrast = edge * (frame / mean - 1.0)
    product = partial(jnp.matmul, precision="highest")
    wave_x = 2 * jnp.pi * x[:, None] * jnp.asarray(FREQUENCY_X, dtype)
    wave_y = 2 * jnp.pi * y[:, None] * jnp.asarray(FREQUENCY_Y, dtype)

    def one(centre):
        window_x = jnp.exp(-0.5 * ((x - centre[0]) / WIDTH) ** 2)
        window_y = jnp.exp(-0.5 * ((y - centre[1]) / WIDTH) ** 2)
        norm = jnp.sum((edge * window_x[None, :] * window_y[:, None]) ** 2)
        windowed = contrast * window_x[None, :] * window_y[:, None]
        windowed = windowed - edge**2 * (window_x[None, :] * window_y[:, None]) * (
            jnp.sum(windowed) / jnp.sum(edge**2 * window_x[None, :] * window_y[:, None]))
        cosine, sine = (product(windowed, f(wave_x)) for f in (jnp.cos, jnp.sin))
        up_cosine, up_sine = jnp.cos(wave_y).T, jnp.sin(wave_y).T
        real = product(up_cosine, cosine) - product(up_sine, sine)
        imaginary = product(up_sine, cosine) + product(up_cosine, sine)
        return (real**2 + imaginary**2) / (norm * disc.radius**2)

    return jnp.stack([one(centre) for centre in CENTRES])
