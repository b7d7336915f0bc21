"""Scalars of a Ronchigram that are at an extremum where the microscope is tuned.

Weighted variance. A *scanned image* of a film has its largest contrast in focus, and its normalised
variance is what the field maximises. This is not that. A Ronchigram is the other way round: in
focus a thin film has no phase contrast, the middle of the disc is flat, and the variance of I/mean
is at its *minimum*. A scan cannot be had from Ronchigrams, so that this minimum stands for it.
Taken plainly, it is a well of 20 nm with slopes that fall again beyond 100 nm, and an optimisation
ends in the corners of its box. Weighing the power at the frequency f by |f| mends this: with
defocus the same contrast moves to higher frequencies, so that the weighted variance rises to about
200 nm.

Emittance. The growth of the beam's emittance with aberrations is the root mean square of the
gradient of chi over the aperture. The published form of this objective lets a network, trained on
simulated Ronchigrams, read it from a frame; so does :mod:`benchmarks.baselines.network`.
"""

from functools import cache

import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations, spectra

SOFT = 0.1  # waves per aperture radius; smaller emittances look alike


def log_variance(power):
    """Log of the variance of the contrast in a power spectrum (128, 64), weighted by |f|."""
    half = np.where(spectra.FREQUENCY_X == 0, 1.0, 2.0)  # f and -f are one
    weight = spectra.MASK * half * spectra.SPACING**2 * spectra.FREQUENCY
    return jnp.log(jnp.sum(jnp.asarray(weight, power.dtype) * power))


@cache
def gradient_form() -> np.ndarray:
    """(25, 25) Q with a^T Q a = <|grad chi|^2> over the aperture, a in edge phases."""
    line = np.linspace(-1, 1, 201)
    x, y = np.meshgrid(line, line)
    inside = np.hypot(x, y) <= 1.0
    slopes = np.concatenate(
        [np.asarray(part, float) for part in aberrations.edge_gradient(x[inside], y[inside])], 1)
    return slopes @ slopes.T / inside.sum()


def log_emittance(waves):
    """Log of the rms gradient of chi, waves per aperture radius, of edge phases (..., 25), waves.

    `SOFT` waves are added in squares: below that a spectrum does not tell.
    """
    squared = np.einsum("...i,ij,...j->...", waves, gradient_form(), waves)
    return 0.5 * np.log(squared + SOFT**2)

