"""Transmission functions: amorphous films, thin or in slices.

Lengths in units of wavelength / semi-angle, spatial frequencies q in units of
semi-angle / wavelength, arrays in FFT order.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

#: Spatial frequencies at which a film's amplitude spectrum is given, semi-angle/wavelength.
KNOTS = np.array([0.05, 0.15, 0.3, 0.5, 0.75, 1.1, 1.6])


def frequencies(size: int, radius: float) -> np.ndarray:
    """|q| (size, size//2 + 1) of a grid with ``radius`` pixels to the aperture, as of rfft2."""
    rows = np.fft.fftfreq(size, d=1.0 / size) / radius
    columns = np.fft.rfftfreq(size, d=1.0 / size) / radius
    return np.hypot(rows[:, None], columns[None, :])


def band_limit(size: int, radius: float) -> float:
    """Highest |q| that scatters from the disc into the disc without wrapping around."""
    return min(2.0, size / radius - 2.0)


def amorphous_phase(noise, log_amplitude, radius: float, slices: int = 1):
    """Phase shift (slices, N, N), rad, of a film: white noise shaped by a radial spectrum.

    Args:
        noise: (slices, N, N) real white noise of unit variance.
        log_amplitude: (K,) natural log of the amplitude spectrum at KNOTS, such that
            ``exp(2 log_amplitude)`` is the power per unit area of q; shared by the slices.
        radius: aperture radius, pixels.
    """
    size = noise.shape[-1]
    q = frequencies(size, radius)
    shape = jnp.interp(jnp.asarray(q, noise.dtype), jnp.asarray(KNOTS, noise.dtype), log_amplitude)
    transfer = jnp.where(q <= band_limit(size, radius), jnp.exp(shape), 0.0)
    # white noise of unit variance has the power (pixel side)^2 per unit area of q
    pixel_side = radius / size
    spectrum = jnp.fft.rfft2(noise) * (transfer / (pixel_side * math.sqrt(slices)))
    return jnp.fft.irfft2(spectrum, s=noise.shape[-2:])


def transmission(phase):
    """exp(i phase), the transmission of a phase object; any shape."""
    return jax.lax.complex(jnp.cos(phase), jnp.sin(phase))
