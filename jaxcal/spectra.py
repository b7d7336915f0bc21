"""Frame -> aperture -> normalised log power spectrum in units of the aperture.

The spectrum is a direct Fourier sum at fixed frequencies f in cycles per aperture radius, with
the angles counted from the measured disc's centre in units of its measured radius. No pixel is
resampled: any frame size, centre and radius gives the same dimensionless grid exactly.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

SPACING = 0.5  # cycles per aperture radius: one over the disc's diameter
COLUMNS = 64  # f_x = 0 ... 31.5
ROWS = 128  # f_y = -32 ... 31.5
LOWEST = 0.75  # frequencies below are illumination, not specimen
FLAT, END = 0.6, 0.96  # the window: 1 inside FLAT, zero from END, in aperture radii

FREQUENCY_X = SPACING * np.arange(COLUMNS)
FREQUENCY_Y = SPACING * (np.arange(ROWS) - ROWS // 2)
FREQUENCY = np.hypot(FREQUENCY_Y[:, None], FREQUENCY_X[None, :])
MASK = FREQUENCY >= LOWEST
MASK[0] = False  # f_y = -32 has no mirror image on the grid


class Disc(NamedTuple):
    """The aperture's image: centre (column, row) and radius, pixels, pixel centres at integers."""

    column: jax.Array | float
    row: jax.Array | float
    radius: jax.Array | float


def window(rho):
    """Weight of an angle: 1 for rho < FLAT, a cos^2 taper to 0 at END."""
    t = jnp.clip((rho - FLAT) / (END - FLAT), 0.0, 1.0)
    return jnp.cos(0.5 * jnp.pi * t) ** 2


def without_hot_pixels(frame, threshold: float = 6.0):
    """Frame (H, W) with pixels far above their neighbourhood's median replaced by that median."""
    padded = jnp.pad(frame, 1, mode="edge")
    height, width = frame.shape
    around = jnp.stack(
        [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    )
    median = jnp.median(around, axis=0)
    excess = frame - median
    scale = 1.4826 * jnp.median(jnp.abs(excess))
    return jnp.where(jnp.abs(excess) > threshold * jnp.maximum(scale, 1e-12), median, frame)


def power_spectrum(frame, disc: Disc):
    """Power spectrum (ROWS, COLUMNS) of the contrast inside the disc, per unit of solid angle.

    With the window w, the mean F0 = sum w F / sum w and the contrast c = w (F / F0 - 1),
    P(f) = |sum c exp(-2 pi i f.rho)|^2 / (sum w^2 R^2). Counts' scale and the frame's pixel
    size drop out; an offset must have been subtracted. White noise of variance v per pixel
    gives P = v / (F0 R)^2.
    """
    height, width = frame.shape
    dtype = frame.dtype
    x = (jnp.arange(width, dtype=dtype) - disc.column) / disc.radius
    y = (jnp.arange(height, dtype=dtype) - disc.row) / disc.radius
    weight = window(jnp.sqrt(x[None, :] ** 2 + y[:, None] ** 2))
    mean = jnp.sum(weight * frame) / jnp.sum(weight)
    contrast = weight * (frame / mean - 1.0)
    phase_x = 2 * jnp.pi * x[:, None] * jnp.asarray(FREQUENCY_X, dtype)
    phase_y = 2 * jnp.pi * y[:, None] * jnp.asarray(FREQUENCY_Y[ROWS // 2 :], dtype)
    along_cos, along_sin = contrast @ jnp.cos(phase_x), contrast @ jnp.sin(phase_x)
    cos_y, sin_y = jnp.cos(phase_y).T, jnp.sin(phase_y).T
    # sum c exp(-i(a + b)) for +b and -b from the four products of cosines and sines
    cc, cs, sc, ss = cos_y @ along_cos, cos_y @ along_sin, sin_y @ along_cos, sin_y @ along_sin
    plus = (cc - ss) ** 2 + (cs + sc) ** 2
    minus = (cc + ss) ** 2 + (cs - sc) ** 2
    edge = jnp.zeros_like(plus[:1])  # f_y = -32, outside MASK
    power = jnp.concatenate([edge, minus[:0:-1], plus])
    return power / (jnp.sum(weight**2) * disc.radius**2)


def log_image(power):
    """Normalised log spectrum: log P minus its mean over MASK, 0 outside MASK; same shape."""
    log = jnp.log(jnp.maximum(power, 1e-30))
    mask = jnp.asarray(MASK)
    mean = jnp.sum(jnp.where(mask, log, 0.0), (-2, -1), keepdims=True) / MASK.sum()
    return jnp.where(mask, log - mean, 0.0)


def flip(image):
    """Spectrum (ROWS, COLUMNS) of the frame mirrored at the x axis; row f_y = -32 stays."""
    return jnp.concatenate([image[:1], image[:0:-1]])
