"""Frame to normalised log power spectrum, a direct Fourier sum; twin of `jaxcal.spectra`."""

import numpy as np

SPACING, COLUMNS, ROWS = 0.5, 64, 128
LOWEST = 0.75
FLAT, END = 0.6, 0.96

FREQUENCY_X = SPACING * np.arange(COLUMNS)
FREQUENCY_Y = SPACING * np.arange(-ROWS // 2, ROWS // 2)
FREQUENCY = np.sqrt(FREQUENCY_Y[:, None] ** 2 + FREQUENCY_X[None, :] ** 2)
MASK = (FREQUENCY >= LOWEST) & (FREQUENCY_Y[:, None] > FREQUENCY_Y[0])


def window(rho):
    """1 for rho < FLAT, cos^2 taper to 0 at END."""
    taper = np.cos(np.pi / 2 * (np.asarray(rho) - FLAT) / (END - FLAT)) ** 2
    return np.where(rho < FLAT, 1.0, np.where(rho < END, taper, 0.0))


def power_spectrum(frame, disc):
    """P(f) = |sum c exp(-2 pi i f . rho)|^2 / sum(w^2) / R^2, (ROWS, COLUMNS).

    c = w (F/mean - 1), mean = sum(w F)/sum(w).  The row f_y = -32 is 0: it has no mirror image on
    the grid and lies outside MASK.

    Args:
        frame: (H, W) counts, offset subtracted.
        disc: (column, row, radius) of the aperture's image, pixels, and where it is an ellipse
            (r_x - r_y)/(r_x + r_y) of the radii along x and y.
    """
    column, row, radius, *ellipse = disc
    ellipticity = ellipse[0] if ellipse else 0.0
    frame = np.asarray(frame, float)
    y = (np.arange(frame.shape[0]) - row) / (radius * (1 - ellipticity))
    x = (np.arange(frame.shape[1]) - column) / (radius * (1 + ellipticity))
    weight = window(np.sqrt(y[:, None] ** 2 + x[None, :] ** 2))
    mean = (weight * frame).sum() / weight.sum()
    contrast = weight * (frame / mean - 1)
    along_y = np.exp(-2j * np.pi * np.outer(FREQUENCY_Y, y))
    along_x = np.exp(-2j * np.pi * np.outer(x, FREQUENCY_X))
    power = np.abs(along_y @ contrast @ along_x) ** 2 / (weight**2).sum() / radius**2
    power[0] = 0
    return power


def log_image(power):
    """log P minus its mean over MASK, 0 outside."""
    log = np.log(np.maximum(power, 1e-30))
    return np.where(MASK, log - log[MASK].mean(), 0.0)


def flip(image):
    """Spectrum of the frame mirrored at the x axis: f_y turns its sign; row f_y = -32 stays."""
    flipped = np.array(image)
    flipped[1:] = flipped[:0:-1].copy()
    return flipped
