"""Frames and their power spectra prepared for the eye: cut to the disc, binned, blanked."""

import numpy as np

HIGHEST_FREQUENCY = 32.0  # cycles per aperture radius, as far as the model looks


def display_spectrum(frame, optics):
    """Log power spectrum of the disc of a frame, for the eye.

    Args:
        frame: (H, W) counts.
        optics: nominal `jaxcal.Optics`.

    Returns:
        reach: highest frequency shown, cycles per aperture radius.
        image: (N, N) log power, zero frequency in the middle, the smooth part blanked.
    """
    factor = min(frame.shape)
    frame = smaller(frame, 384)
    factor //= min(frame.shape)  # frequencies of interest lie far below the camera's own
    row, column, radius = _disc(frame, optics, factor)
    y, x = np.indices(frame.shape, dtype=float)
    distance = np.hypot(x - column, y - row) / radius
    weight = np.cos(0.5 * np.pi * np.clip((distance - 0.6) / 0.36, 0, 1)) ** 2
    disc = frame[distance < 1] if np.any(distance < 1) else frame
    usual = np.median(disc)
    spread = 1.4826 * np.median(np.abs(disc - usual))
    if spread > 0:  # hot pixels draw stripes
        frame = np.clip(frame, usual - 6 * spread, usual + 6 * spread)
    mean = np.sum(weight * frame) / np.sum(weight)
    size = 2 * max(frame.shape)
    power = np.abs(np.fft.fft2(weight * (frame - mean), s=(size, size))) ** 2
    frequency = np.fft.fftshift(np.fft.fftfreq(size)) * radius
    power = np.fft.fftshift(power)
    keep = np.abs(frequency) <= HIGHEST_FREQUENCY
    power, frequency = power[np.ix_(keep, keep)], frequency[keep]
    low = np.hypot(*np.meshgrid(frequency, frequency)) < 0.75
    image = np.log10(power + 1e-12 * (power.max() + 1e-300))
    image[low] = np.median(image)
    return float(np.abs(frequency).max()), image


def in_disc(frame, optics):
    """Half width in aperture radii, and the square of the frame around the disc."""
    frame = np.asarray(frame, float)
    row, column, radius = _disc(frame, optics)
    half = int(min(np.ceil(1.12 * radius), *(side // 2 for side in frame.shape)))
    row = int(np.clip(round(row), half, frame.shape[0] - half))
    column = int(np.clip(round(column), half, frame.shape[1] - half))
    cut = frame[row - half : row + half, column - half : column + half]
    return half / radius, cut


def _disc(frame, optics, factor=1):
    """Row, column and radius (pixels binned by ``factor``) of the disc, for a picture."""
    radius = optics.semi_angle_mrad / optics.pixel_mrad / factor
    middle = (np.array(frame.shape) - 1) / 2
    inside = np.percentile(frame, 75)
    bright = frame > 0.5 * (inside + np.percentile(frame, 2))
    if not 0.3 < np.count_nonzero(bright) / (np.pi * radius**2) < 1.3:
        return *middle, radius
    return *(axis.mean() for axis in np.nonzero(bright)), radius


def smaller(frame, side):
    """The frame binned to about ``side`` pixels, for a thumbnail."""
    factor = max(1, min(frame.shape) // side)
    height, width = (n // factor * factor for n in frame.shape)
    cut = np.asarray(frame[:height, :width], float)
    return cut.reshape(height // factor, factor, width // factor, factor).mean((1, 3))
