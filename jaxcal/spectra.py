"""Frame -> aperture -> normalised log power spectrum in units of the aperture.

The spectrum is a direct Fourier sum at fixed frequencies f in cycles per aperture radius, with
the angles counted from the measured disc's centre in units of its measured radius. No pixel is
resampled: any frame size, centre and radius gives the same dimensionless grid exactly.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import devices

SPACING = 0.5  # cycles per aperture radius: one over the disc's diameter
COLUMNS = 64  # f_x = 0 ... 31.5
ROWS = 128  # f_y = -32 ... 31.5
LOWEST = 0.75  # frequencies below are illumination, not specimen
FLAT, END = 0.6, 0.96  # the window: 1 inside FLAT, zero from END, in aperture radii

SMALLEST_RADIUS = 64.0  # of the disc, pixels: twice the highest frequency, so that none is folded
OFF_NOMINAL = 0.15  # by which a radius may differ from what right nominal angles say
LARGEST_RADIUS = 400.0  # pixels; larger discs are binned to half of it or more

FREQUENCY_X = SPACING * np.arange(COLUMNS)
FREQUENCY_Y = SPACING * (np.arange(ROWS) - ROWS // 2)
FREQUENCY = np.hypot(FREQUENCY_Y[:, None], FREQUENCY_X[None, :])
MASK = FREQUENCY >= LOWEST
MASK[0] = False  # f_y = -32 has no mirror image on the grid


class Disc(NamedTuple):
    """The aperture's image: centre (column, row) and radius, pixels, pixel centres at integers.

    The radii along x and y are radius (1 +- ellipticity): the aperture is round in angle, so an
    elliptical image means pixels that are not square in angle.
    """

    column: jax.Array | float
    row: jax.Array | float
    radius: jax.Array | float
    ellipticity: jax.Array | float = 0.0


def window(rho):
    """Weight of an angle: 1 for rho < FLAT, a cos^2 taper to 0 at END."""
    t = jnp.clip((rho - FLAT) / (END - FLAT), 0.0, 1.0)
    return jnp.cos(0.5 * jnp.pi * t) ** 2


def binned(frame, factor: int):
    """Mean over blocks of factor x factor pixels, float32; a remainder at the end is left out.

    NumPy on the host. Pixel k of the result is centred on ``factor * k + (factor - 1)/2``.
    """
    height, width = (side // factor for side in frame.shape)
    frame = frame[: height * factor, : width * factor]
    if factor == 1:
        return frame.astype(np.float32)
    rows = frame.reshape(height, factor, -1).astype(np.float32).sum(1)
    return rows.reshape(height, width, factor).sum(2) / factor**2


def check_disc(disc: Disc) -> None:
    """Raise ValueError where a disc is too small to carry the spectrum's frequencies.

    The pixels sample f and f - R alike (R = radius in pixels = cycles per radius between them), and
    the grid reaches |f| = 31.5 on both axes. From R = 64 on, what it holds lies below the Nyquist
    frequency, and the nearest copies are a whole cycle apart, where the window's kernel leaves 1 %.
    """
    if not np.all(np.isfinite(np.asarray(disc, float))):
        raise ValueError("the aperture's centre and radius are not finite: find the disc first")
    if disc.radius < SMALLEST_RADIUS:
        raise ValueError(
            f"the aperture has a radius of {disc.radius:.1f} pixels, its spectrum needs at least "
            f"{SMALLEST_RADIUS:.0f}: bin the frames less or take them with a longer camera length"
        )


def check_optics(optics) -> None:
    """Raise ValueError where frames of nominal `jaxcal.Optics` cannot come to a disc as of
    `check_disc`; the angles may be off by OFF_NOMINAL."""
    if (1 + OFF_NOMINAL) * optics.radius_pixels < SMALLEST_RADIUS:
        raise ValueError(
            f"by semi_angle_mrad and pixel_mrad the aperture has a radius of "
            f"{optics.radius_pixels:.1f} pixels, its spectrum needs at least "
            f"{SMALLEST_RADIUS:.0f}: check these, bin the frames less or take them with a longer "
            f"camera length")


def log_spectrum(frame, disc: Disc):
    """Normalised log spectrum (ROWS, COLUMNS), float32, of a frame and its disc: checked.

    Frames whose disc is larger than the models are trained on are binned by an integer first, hot
    pixels are replaced by their neighbours' median.

    Args:
        frame: (H, W) counts of any real type; an offset does not matter.
        disc: of `jaxcal.aperture.find_disc`, pixels; concrete values, not tracers.

    Raises:
        ValueError: the disc is too small, see `check_disc`.
    """
    return _log_spectrum(*to_size(frame, disc))


def to_size(frame, disc: Disc):
    """A frame (H, W) and its disc binned by an integer where it is larger than needed: checked.

    Raises:
        ValueError: the disc is too small, see `check_disc`.
    """
    check_disc(disc)
    factor = max(1, int(disc.radius / LARGEST_RADIUS * 2))
    column, row, radius, ellipticity = (np.float32(place) for place in disc)
    shift = np.float32(0.5 * (factor - 1))
    return binned(np.asarray(frame), factor), Disc(
        (column - shift) / factor, (row - shift) / factor, radius / factor, ellipticity)


@partial(jax.jit, compiler_options=devices.LIGHT)
def _log_spectrum(frame, disc):
    return log_image(power_spectrum(without_hot_pixels(frame), disc))


def without_hot_pixels(frame, threshold: float = 10.0):
    """Frame (H, W) with pixels far from their neighbourhood's median replaced by that median.

    Far is ``threshold`` times the usual distance in the bright part of the frame: around the disc
    there is next to no noise, and measured by that, every pixel inside would be far.
    """
    frame = jnp.asarray(frame)
    padded = jnp.pad(frame, 1, mode="edge")
    height, width = frame.shape
    median = _median_of_nine(
        [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
    )
    distance = jnp.abs(frame - median)
    bright = jnp.where(median >= jnp.mean(median), distance, jnp.nan)
    usual = jnp.nanmedian(bright)
    # of few counts a pixel most are at the median, and only the mean distance is not zero
    usual = jnp.where(usual > 0, 1.4826 * usual, 1.2533 * jnp.nanmean(bright))
    usual = jnp.maximum(usual, 1e-12)
    return jnp.where(distance > threshold * usual, median, frame)


def _median_of_nine(images):
    """Pixelwise median of nine images by Paeth's network of minima and maxima.

    Rows of three are sorted; the median of nine is that of the largest of the lowest, the median
    of the middle and the smallest of the highest.
    """

    def sort(a, b, c):
        low, high = jnp.minimum(a, b), jnp.maximum(a, b)
        return jnp.minimum(low, c), jnp.maximum(low, jnp.minimum(high, c)), jnp.maximum(high, c)

    low, middle, high = zip(*(sort(*images[k : k + 3]) for k in (0, 3, 6)), strict=True)
    return sort(sort(*low)[2], sort(*middle)[1], sort(*high)[0])[1]


def angles(shape, disc: Disc):
    """Angles (W,) of the columns and (H,) of the rows of a frame (H, W), in aperture radii."""
    height, width = shape
    radius_x, radius_y = (disc.radius * (1 + s * disc.ellipticity) for s in (1, -1))
    return ((jnp.arange(width, dtype=disc.radius.dtype) - disc.column) / radius_x,
            (jnp.arange(height, dtype=disc.radius.dtype) - disc.row) / radius_y)


def power_spectrum(frame, disc: Disc):
    """Power spectrum (ROWS, COLUMNS) of the contrast inside the disc, per unit of solid angle.

    With the window w, the mean F0 = sum w F / sum w and the contrast c = w (F / F0 - 1),
    P(f) = |sum c exp(-2 pi i f.rho)|^2 / (sum w^2 R^2). Counts' scale and the frame's pixel
    size drop out; an offset must have been subtracted. White noise of variance v per pixel
    gives P = v / (F0 R)^2.
    """
    frame = jnp.asarray(frame)
    frame = frame.astype(jnp.result_type(frame, jnp.float32))  # counts may be integers
    dtype = frame.dtype
    disc = Disc(*(jnp.asarray(place, dtype) for place in disc))
    x, y = angles(frame.shape, disc)
    weight = window(jnp.sqrt(x[None, :] ** 2 + y[:, None] ** 2))
    mean = jnp.sum(weight * frame) / jnp.sum(weight)
    contrast = weight * (frame / mean - 1.0)
    phase_x = 2 * jnp.pi * x[:, None] * jnp.asarray(FREQUENCY_X, dtype)
    phase_y = 2 * jnp.pi * y[:, None] * jnp.asarray(FREQUENCY_Y[ROWS // 2 :], dtype)
    # Accelerators multiply float32 with fewer bits unless told otherwise.
    product = partial(jnp.matmul, precision="highest")
    across, along = (jnp.concatenate([jnp.cos(phase), jnp.sin(phase)], 1)
                     for phase in (phase_x, phase_y))
    # sum c exp(-i(a + b)) for +b and -b from the four products of cosines and sines
    (cc, cs), (sc, ss) = (jnp.split(half, 2, axis=1) for half in jnp.split(
        product(along.T, product(contrast, across)), 2))
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
