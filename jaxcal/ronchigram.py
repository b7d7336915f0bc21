"""Probe, far field and partial coherence: the wave-optical Ronchigram.

Everything here is dimensionless: angles in units of the aperture's radius (rho), lengths in units
of wavelength / semi-angle, aberrations as phases at the aperture's edge in radians
(:func:`jaxcal.optics.edge_phases`). A frame is ``[row = y, column = x]`` with the disc's centre on
pixel ``(N/2, N/2)`` and intensity 1 inside the disc where there is no specimen.
"""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations

EDGE_PIXELS = 1.0  # width of the aperture's linear edge, in pixels


class Quadrature(NamedTuple):
    """Incoherent sum: shifts (M, 3) = (C10 edge phase in rad, x, y in wavelength/semi-angle)."""

    shifts: jax.Array
    weights: jax.Array


def lines(size: int, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """Angles rho_x (1, size) and rho_y (size, 1), in aperture radii, of a frame's pixels."""
    line = (np.arange(size) - size // 2) / radius
    return line[None, :], line[:, None]


def amplitude(x, y, radius: float):
    """The aperture's amplitude at rho = (x, y): 1 inside, a linear edge EDGE_PIXELS wide."""
    return jnp.clip((1.0 - jnp.sqrt(x * x + y * y)) * radius / EDGE_PIXELS + 0.5, 0.0, 1.0)


def steepest_slope(phases, azimuths: int = 48, circles=(0.5, 0.8, 1.0)):
    """Largest |grad W| inside the aperture, waves per aperture radius, of edge phases (25,) in rad.

    That of pure defocus of w waves at the edge is 2 w. Taken on circles up to the edge: with the
    default ones it comes out up to 2 % low, with 360 azimuths and 20 circles by less than 1e-6.
    """
    phases = jnp.asarray(phases)
    gradient = jax.vmap(jax.grad(aberrations.chi, argnums=(1, 2)), in_axes=(None, 0, 0))
    angle = np.linspace(0.0, 2 * np.pi, azimuths, endpoint=False)
    circles = np.asarray(circles)[:, None]
    x, y = (jnp.asarray((circles * f(angle)).ravel(), phases.dtype) for f in (np.cos, np.sin))
    slope_x, slope_y = gradient(phases, x, y)
    return jnp.max(jnp.hypot(slope_x, slope_y)) / (2 * jnp.pi)


_finely = jax.jit(
    partial(steepest_slope, azimuths=360, circles=tuple(np.linspace(0.05, 1.0, 20).tolist()))
)


def required_radius(phases) -> float:
    """Aperture radius in pixels that samples the aberrations: half a wave per pixel at most.

    The real-space cell, wavelength/pixel angle, must exceed twice the largest displacement
    |grad W| of a ray; in units of the aperture that reads radius >= 2 max|grad W|.

    Args:
        phases: (25,) edge phases, rad; concrete values, not tracers.
    """
    return float(2.0 * _finely(jnp.asarray(phases, jnp.result_type(float))))


def check_sampling(phases, size: int, radius: float) -> None:
    """What to call before simulating on a (size, size) grid with ``radius`` pixels to the aperture.

    Args:
        phases: (25,) edge phases, rad; concrete values, not tracers.

    Raises:
        ValueError: the grid is too coarse for the aberrations; the message says which would do.
    """
    need = required_radius(phases)
    if not np.isfinite(need):
        raise ValueError("the aberrations are not finite: check the state and the knobs, in nm")
    if need > radius:
        fitting = 2 ** math.ceil(math.log2(size * need / radius))
        raise ValueError(
            f"sampling too coarse: the aberrations need an aperture radius of {math.ceil(need)} "
            f"pixels, the {size} x {size} grid has {radius:.0f}; use a grid of at least "
            f"{fitting} x {fitting} with a radius of {math.ceil(need)} pixels or smaller "
            f"aberrations"
        )


def quadrature(focal_spread, source_size, focal_nodes: int = 5, source_nodes: int = 3):
    """Gauss-Hermite nodes of focal spread and source size, as a :class:`Quadrature`.

    Args:
        focal_spread: standard deviation of C10's edge phase, rad.
        source_size: standard deviation of the probe's position per axis, wavelength/semi-angle.
        focal_nodes, source_nodes: nodes of the focal spread, and per axis of the source.
    """
    focal, focal_weight = np.polynomial.hermite.hermgauss(focal_nodes)
    source, source_weight = np.polynomial.hermite.hermgauss(source_nodes)
    f, x, y = (a.ravel() for a in np.meshgrid(focal, source, source, indexing="ij"))
    weight = np.einsum("i,j,k->ijk", focal_weight, source_weight, source_weight).ravel()
    root2 = math.sqrt(2.0)  # a Python float, which leaves float32 alone under x64
    dtype = jnp.result_type(focal_spread, source_size, 1.0)
    f, x, y = (jnp.asarray(node, dtype) for node in (f, x, y))
    shifts = jnp.stack(
        [root2 * focal_spread * f, root2 * source_size * x, root2 * source_size * y], axis=-1
    )
    return Quadrature(shifts, jnp.asarray(weight / np.pi**1.5, dtype=shifts.dtype))


ENOUGH = (3, 5, 9, 13, 21, 31, 45, 63)  # numbers of focal nodes to choose from: each is compiled
UNDAMPED = 0.05  # of a fringe's contrast, by which a sum over nodes may be off


@lru_cache
def reach(focal_nodes: int) -> float:
    """Largest focal spread, rad, that so many nodes render.

    A fringe between two angles in the aperture, whose C10 phase differs by up to that of the edge,
    is damped by exp(-s^2/2) for s times the focal spread; a sum of few nodes lets it come back.
    """
    nodes, weight = np.polynomial.hermite_e.hermegauss(focal_nodes)
    spread = np.linspace(0.0, 16.0, 3201)
    damping = np.cos(spread[:, None] * nodes) @ weight / weight.sum()
    wrong = np.abs(damping - np.exp(-0.5 * spread**2)) > UNDAMPED
    return float(spread[np.argmax(wrong)]) if wrong.any() else float(spread[-1])


def enough_nodes(focal_spread: float) -> int:
    """The least of ENOUGH that renders a focal spread (rad, standard deviation of C10's edge
    phase), the most where none does."""
    return next((n for n in ENOUGH if reach(n) >= focal_spread), ENOUGH[-1])


def phase_plate(phases, size: int, radius: float):
    """Aperture times exp(-i chi), (size, size) complex, in FFT order, of edge phases (25,), rad."""
    return _spread(_wave(phases, *lines(_around(size, radius), radius), radius), size)


def _wave(phases, x, y, radius: float):
    """The same at angles x (1, n) and y (n, 1), in their order."""
    x, y = _as(phases.dtype, x, y)
    waves = aberrations.chi(phases / (2 * jnp.pi), x, y)
    angle = 2 * jnp.pi * (waves - jnp.round(waves))  # whole waves dropped: float32 keeps the rest
    pupil = amplitude(x, y, radius)
    return jax.lax.complex(pupil * jnp.cos(angle), -pupil * jnp.sin(angle))


def _around(size: int, radius: float) -> int:
    """Side of a square that holds the aperture with its edge, pixels."""
    return min(size, 2 * math.ceil(radius + EDGE_PIXELS) + 2)


def _spread(square, size: int):
    """A square, of even side or whole, in the middle of (size, size) zeros, in FFT order."""
    half, empty = len(square) // 2, size - len(square)
    if empty == 0:
        return jnp.fft.ifftshift(square)
    columns = jnp.zeros((len(square), empty), square.dtype)
    rows = jnp.concatenate([square[:, half:], columns, square[:, :half]], 1)
    return jnp.concatenate([rows[half:], jnp.zeros((empty, size), square.dtype), rows[:half]])


def _middle(frame, side: int):
    """The middle (side, side) of a frame (N, N) in FFT order, centre at (side/2, side/2)."""
    half = side // 2
    rows = jnp.concatenate([frame[-half:], frame[: side - half]])
    return jnp.concatenate([rows[:, -half:], rows[:, : side - half]], 1)


def defocus_and_shift(shift, size: int, radius: float):
    """exp(-i (a rho^2 + 2 pi rho.d)) of a node (3,) = (a, d_x, d_y): lines (1, N) and (N, 1).

    Defocus and displacement are sums of a function of x and one of y, so their phase factor is
    the product of two lines and costs no sine or cosine on the grid.
    """
    return _factors(shift, *(np.fft.ifftshift(line) for line in lines(size, radius)))


def _factors(shift, x, y):
    """The two lines of a node at angles x (1, N) and y (N, 1)."""
    return tuple(
        jnp.exp(-1j * (shift[0] * line**2 + 2 * jnp.pi * displacement * line))
        for line, displacement in zip(_as(shift.dtype, x, y), shift[1:], strict=True)
    )


def far_field(plate, transmission, radius: float, slice_defocus=0.0):
    """Intensity |FT[t psi]|^2 (N, N), in FFT order, behind S slices.

    Args:
        plate: (N, N) complex pupil, C10 counted at the middle plane of the film.
        transmission: (S, N, N) complex, in FFT order.
        radius: aperture radius, pixels.
        slice_defocus: spacing of the slices as C10 edge phase, rad.
    """
    return _square(_far_wave(plate, transmission, radius, slice_defocus))


def _far_wave(plate, transmission, radius: float, slice_defocus):
    slices, size = transmission.shape[0], transmission.shape[-1]
    if slices > 1:
        entry = jnp.stack([-0.5 * (slices - 1) * slice_defocus, 0.0, 0.0])
        step = jnp.stack([slice_defocus, 0.0, 0.0])
        (enter_x, enter_y), (step_x, step_y) = (
            defocus_and_shift(shift.astype(plate.real.dtype), size, radius)
            for shift in (entry, step)
        )
        plate = plate * enter_x * enter_y
    wave = jnp.fft.ifft2(plate) * transmission[0]
    for layer in transmission[1:]:
        wave = jnp.fft.ifft2(jnp.fft.fft2(wave) * step_x * step_y) * layer
    return jnp.fft.fft2(wave)


def ronchigram(phases, transmission, radius: float, nodes: Quadrature, *, slice_defocus=0.0,
               side: int | None = None):
    """Partially coherent Ronchigram (N, N), disc's centre at (N/2, N/2): sum_m w_m I_m.

    Args:
        phases: (25,) edge phases, rad; C10 counts at the middle plane of the film.
        transmission, radius, slice_defocus: as of :func:`far_field`.
        nodes: the incoherent sum of :func:`quadrature`.
        side: even; only the middle (side, side) of the frame, centre at (side/2, side/2).
    """
    size = transmission.shape[-1]
    side = side or size
    square = lines(_around(size, radius), radius)
    wave = _wave(phases, *square, radius)

    def add(total, node):
        shift, weight = node
        line_x, line_y = _factors(shift, *square)
        plate = _spread(wave * line_x * line_y, size)
        far = _middle(_far_wave(plate, transmission, radius, slice_defocus), side)
        return total + weight * _square(far), None

    return jax.lax.scan(add, jnp.zeros((side, side), phases.dtype), nodes)[0]


def _square(wave):
    return wave.real**2 + wave.imag**2


def _as(dtype, *values):
    return (jnp.asarray(value, dtype) for value in values)
