"""Probe, far field and partial coherence; twin of `jaxcal.ronchigram`.

Angles in aperture radii, lengths in wavelength/semi-angle, aberrations as phases at the aperture
edge in rad.  A frame is [row = y, column = x], the disc's centre on pixel (N/2, N/2); specimens
are in FFT order.
"""

from typing import NamedTuple

import numpy as np

from . import aberrations

EDGE_PIXELS = 1.0


class Quadrature(NamedTuple):
    """Nodes of an incoherent sum: shifts (M, 3) = (C10 edge phase in rad, x, y), weights (M,)."""

    shifts: np.ndarray
    weights: np.ndarray


def lines(size, radius):
    """rho_x (1, size) and rho_y (size, 1) of a frame's pixels: (pixel - size/2) / radius."""
    line = np.array([(pixel - size // 2) / radius for pixel in range(size)])
    return line.reshape(1, size), line.reshape(size, 1)


def amplitude(x, y, radius):
    """A(rho) = clip((1 - |rho|) R / EDGE_PIXELS + 1/2, 0, 1)."""
    return np.clip((1 - np.hypot(x, y)) * radius / EDGE_PIXELS + 0.5, 0, 1)


def steepest_slope(phases):
    """Largest |grad W| within the aperture, waves per aperture radius, of edge phases (25,), rad.

    Central differences of chi on a fine grid of radii and azimuths.
    """
    radius, azimuth = np.meshgrid(np.linspace(0.05, 1, 20), np.linspace(0, 2 * np.pi, 361))
    x, y, step = radius * np.cos(azimuth), radius * np.sin(azimuth), 1e-5
    along_x = aberrations.chi(phases, x + step, y) - aberrations.chi(phases, x - step, y)
    along_y = aberrations.chi(phases, x, y + step) - aberrations.chi(phases, x, y - step)
    return np.hypot(along_x, along_y).max() / (2 * step) / (2 * np.pi)


def required_radius(phases):
    """Aperture radius in pixels that samples the aberrations: 2 max |grad W|."""
    return 2 * steepest_slope(phases)


def quadrature(focal_spread, source_size, focal_nodes=5, source_nodes=3):
    """Product of Gauss-Hermite rules: nodes sqrt(2) sigma xi, weights w/sqrt(pi).

    Args:
        focal_spread: standard deviation of C10's edge phase, rad.
        source_size: standard deviation of the probe's position per axis, wavelength/semi-angle.
        focal_nodes, source_nodes: nodes of the focal spread, and per axis of the source.
    """
    shifts, weights = [], []
    focal = list(zip(*np.polynomial.hermite.hermgauss(focal_nodes), strict=True))
    source = list(zip(*np.polynomial.hermite.hermgauss(source_nodes), strict=True))
    for focus, focus_weight in focal:
        for x, x_weight in source:
            for y, y_weight in source:
                sigmas = np.array([focal_spread, source_size, source_size])
                shifts.append(np.sqrt(2) * sigmas * [focus, x, y])
                weights.append(focus_weight * x_weight * y_weight / np.pi**1.5)
    return Quadrature(np.array(shifts), np.array(weights))


def phase_plate(phases, size, radius):
    """A exp(-i chi), (size, size), FFT order, of edge phases (25,), rad."""
    x, y = lines(size, radius)
    chi = aberrations.chi(phases, *np.broadcast_arrays(x, y))
    return np.fft.ifftshift(amplitude(x, y, radius) * np.exp(-1j * chi))


def defocus_and_shift(shift, size, radius):
    """exp(-i (a rho^2 + 2 pi rho . d)), shift = (a, d_x, d_y), (size, size), FFT order.

    The twin in `jaxcal.ronchigram` returns this as two lines whose product it is.
    """
    x, y = lines(size, radius)
    defocus, x_shift, y_shift = shift
    phase = defocus * (x**2 + y**2) + 2 * np.pi * (x * x_shift + y * y_shift)
    return np.fft.ifftshift(np.exp(-1j * phase))


def far_field(plate, transmission, radius, slice_defocus=0.0):
    """|FT[t psi]|^2 (N, N), FFT order, behind S slices (S, N, N), of a pupil plate (N, N).

    The wave enters with C10 shifted by -(S-1)/2 of the slices' spacing, so that C10 counts at the
    middle plane of the film; between slices the propagator is exp(-i slice_defocus rho^2).
    """
    slices, size, _ = np.shape(transmission)
    far = plate * defocus_and_shift((-(slices - 1) / 2 * slice_defocus, 0, 0), size, radius)
    for number, layer in enumerate(transmission):
        if number:
            far = far * defocus_and_shift((slice_defocus, 0, 0), size, radius)
        far = np.fft.fft2(np.fft.ifft2(far) * layer)
    return np.abs(far) ** 2


def ronchigram(phases, transmission, radius, nodes, *, slice_defocus=0.0):
    """Incoherent sum (N, N) over the nodes of a quadrature, the disc's centre at (N/2, N/2)."""
    size = np.shape(transmission)[-1]
    plate = phase_plate(phases, size, radius)
    total = sum(
        weight
        * far_field(
            plate * defocus_and_shift(shift, size, radius), transmission, radius, slice_defocus
        )
        for shift, weight in zip(*nodes, strict=True)
    )
    return np.fft.fftshift(total)
