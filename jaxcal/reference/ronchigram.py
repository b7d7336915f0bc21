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


def grid(size, radius):
    """rho_x, rho_y (size, size) of a frame's pixels: ((column, row) - size/2) / radius."""
    rows, columns = np.indices((size, size))
    return (columns - size // 2) / radius, (rows - size // 2) / radius


def aperture(size, radius, edge=EDGE_PIXELS):
    """A(rho) = clip((1 - |rho|) R / edge + 1/2, 0, 1), (size, size)."""
    x, y = grid(size, radius)
    return np.clip((1 - np.sqrt(x**2 + y**2)) * radius / edge + 0.5, 0, 1)


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


def phase_plate(phases, size, radius, shift=None, extra_defocus=0.0):
    """A exp(-i chi) exp(-2 pi i rho . delta), (size, size), FFT order."""
    defocus, x_shift, y_shift = (0.0, 0.0, 0.0) if shift is None else shift
    x, y = grid(size, radius)
    chi = aberrations.chi(phases, x, y) + (defocus + extra_defocus) * (x**2 + y**2)
    plate = aperture(size, radius) * np.exp(-1j * chi)
    return np.fft.ifftshift(plate * np.exp(-2j * np.pi * (x * x_shift + y * y_shift)))


def coherent(phases, transmission, radius, *, slice_defocus=0.0, shift=None):
    """|FT[t psi]|^2 (N, N) through S slices (S, N, N), frame order.

    The wave enters with C10 shifted by -(S-1)/2 of the slices' spacing, so that C10 counts at the
    middle plane of the film; between slices the propagator is exp(-i slice_defocus rho^2).
    """
    slices, size, _ = np.shape(transmission)
    x, y = grid(size, radius)
    propagator = np.fft.ifftshift(np.exp(-1j * slice_defocus * (x**2 + y**2)))
    entry = -(slices - 1) / 2 * slice_defocus
    far = phase_plate(phases, size, radius, shift, entry)
    for number, layer in enumerate(transmission):
        if number:
            far = far * propagator
        far = np.fft.fft2(np.fft.ifft2(far) * layer)
    return np.fft.fftshift(np.abs(far) ** 2)


def ronchigram(phases, transmission, radius, nodes, *, slice_defocus=0.0):
    """Incoherent sum (N, N) of `coherent` over the nodes of a quadrature."""
    return sum(
        weight * coherent(phases, transmission, radius, slice_defocus=slice_defocus, shift=shift)
        for shift, weight in zip(*nodes, strict=True)
    )
