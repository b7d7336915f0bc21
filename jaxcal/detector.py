"""From intensity to counts: MTF, dose, gain, offset, readout noise, hot pixels.

A frame is ``[row, column]``; doses are electrons per pixel in the empty disc.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Detector(NamedTuple):
    """A camera's faults; every field a scalar but ``gain``.

    dose: electrons per pixel inside the disc without a film; blur: standard deviation of the
    Gaussian MTF and pixel: side of the square camera pixel, both in pixels of the intensity;
    scintillator: 1 where the blur acts after the shot noise (0: before);
    gain: (N, N) relative sensitivity or scalar 1; counts_per_electron; offset and readout in
    counts; hot: (N, N) counts of the hot pixels, or 0.
    """

    dose: jax.Array | float
    blur: jax.Array | float = 0.0
    pixel: jax.Array | float = 1.0
    scintillator: jax.Array | float = 0.0
    gain: jax.Array | float = 1.0
    counts_per_electron: jax.Array | float = 1.0
    offset: jax.Array | float = 0.0
    readout: jax.Array | float = 0.0
    hot: jax.Array | float = 0.0


def transfer_function(shape, blur, pixel=1.0):
    """MTF (rows, columns//2 + 1) of a Gaussian blur and of the square pixel's own area."""
    fy, fx = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])[None, :]
    gaussian = jnp.exp(-2 * (jnp.pi * blur) ** 2 * (fx**2 + fy**2))
    return jnp.sinc(fx * pixel) * jnp.sinc(fy * pixel) * gaussian


def expected(intensity, detector: Detector):
    """Mean counts (N, N) of an intensity (N, N): noise-free, differentiable."""
    mtf = transfer_function(intensity.shape, detector.blur, detector.pixel).astype(intensity.dtype)
    blurred = jnp.fft.irfft2(jnp.fft.rfft2(intensity) * mtf, s=intensity.shape)
    electrons = detector.dose * detector.gain * blurred
    return detector.counts_per_electron * electrons + detector.offset + detector.hot


def expose(key, intensity, detector: Detector):
    """One exposure (N, N) in counts.

    Shot noise is normal with the Poisson variance (doses are tens of electrons and more). Of a
    scintillator the blur acts on the noise too, of a direct detector only on the image. What the
    detector does not have, a plain number 0, is not computed.
    """
    shot, read = jax.random.split(key)
    shape, dtype = intensity.shape, intensity.dtype
    mtf = transfer_function(shape, detector.blur, detector.pixel).astype(dtype)
    blurred = jnp.maximum(jnp.fft.irfft2(jnp.fft.rfft2(intensity) * mtf, s=shape), 0.0)
    noise = jnp.sqrt(detector.dose * blurred) * jax.random.normal(shot, shape, dtype)
    if not _lacks(detector.scintillator):
        smooth = jnp.fft.irfft2(jnp.fft.rfft2(noise) * mtf, s=shape)
        noise = jnp.where(detector.scintillator > 0.5, smooth, noise)
    electrons = (detector.dose * blurred + noise) * detector.gain
    counts = detector.counts_per_electron * electrons + detector.offset + detector.hot
    if not _lacks(detector.readout):
        counts = counts + detector.readout * jax.random.normal(read, shape, dtype)
    return counts


def _lacks(part) -> bool:
    return isinstance(part, int | float) and part == 0
