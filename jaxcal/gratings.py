"""The gratings that a component q of the film makes of a window: frequency, width, share.

For each q of a grid, the two side bands of :mod:`jaxcal.hologram` and their interference: where in
frequency they lie, per edge phase, how far G is broadened there, and what passes the aperture. The
points may be those of many windows: the centre (x, y) and the width are one each, or (N,).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations

REACH = 1.3  # highest |q| that counts, semi-angle/wavelength


class Band(NamedTuple):
    """Blobs of N components q: one side band, or the interference of both.

    amount: (N,) cell of q, zero beyond REACH; q: (N,) |q|; place_x, place_y: (F, N) frequency
    per edge phase; variance_x, variance_y: (N,) of G; path: (N,) phase per C10 edge phase at the
    window's centre and path_variance: (N,) over the window; inside: (N,) share of the window's
    power that the aperture lets through.
    """

    amount: jax.Array
    q: jax.Array
    place_x: jax.Array
    place_y: jax.Array
    variance_x: jax.Array
    variance_y: jax.Array
    path: jax.Array
    path_variance: jax.Array
    inside: jax.Array


def grid(phases, places, centre, highest: float, nodes: int, reach):
    """Half plane of q along the axes of the Hessian at a window: x, y, cell area, each (N,).

    It covers the frequencies up to ``highest``, and |q| up to ``reach`` of the steepness.
    """
    xx, xy, yy = (bend / (2 * jnp.pi)
                  for bend in aberrations.edge_curvature(phases, *centre, places))
    angle = 0.5 * jnp.arctan2(2 * xy, xx - yy)
    mean, half = 0.5 * (xx + yy), jnp.hypot(0.5 * (xx - yy), xy)
    steep = jnp.maximum(jnp.abs(jnp.stack([mean + half, mean - half])), 1e-3)
    extent = jnp.minimum(reach(steep), highest / steep)
    line = jnp.arange(-nodes, nodes + 1, dtype=phases.dtype) / nodes
    first, second = jnp.meshgrid(line[nodes:] * extent[0], line * extent[1])
    area = jnp.where(first > 0, 1.0, 0.5) * extent[0] * extent[1] / nodes**2
    c, s = jnp.cos(angle), jnp.sin(angle)
    return (c * first - s * second).ravel(), (s * first + c * second).ravel(), area.ravel()


def _focused(path, q, variance, focal_spread):
    """How the focal spread narrows a window along q: precision factor, shift along q."""
    factor = 1 + 8 * (focal_spread * q) ** 2 * variance
    return factor, -4 * focal_spread**2 * q * path * variance / factor


def _cut(x, y, variance):
    """Half plane that the aperture's edge at (x, y) leaves of a window: what remains of its power,
    shift and relative precision along the outward normal, and the normal."""
    radius = jnp.sqrt(x**2 + y**2 + 1e-12)
    depth = (1 - radius) / jnp.sqrt(variance)
    share = jax.scipy.stats.norm.cdf(depth)
    hazard = jax.scipy.stats.norm.pdf(depth) / jnp.maximum(share, 1e-6)
    left = jnp.clip(1 - hazard * (depth + hazard), 0.1, 1.0)
    shift = -jnp.minimum(hazard, 3.0) * jnp.sqrt(variance)
    return share, shift, 1 / left, x / radius, y / radius


def _variances(variance, along, normals, chirp):
    """Variance of G along x and y: the window's own, narrowed along q and along the edges'
    normals, and what the phase's change across the window adds."""
    base = 1 / (16 * jnp.pi**2 * variance)
    (factor, unit_x, unit_y), (xx, xy, yy) = along, chirp
    extra_x = (factor - 1) * unit_x**2 + sum((f - 1) * nx**2 for f, nx, _ in normals)
    extra_y = (factor - 1) * unit_y**2 + sum((f - 1) * ny**2 for f, _, ny in normals)
    return (base * (1 + extra_x) + variance * (xx**2 + xy**2),
            base * (1 + extra_y) + variance * (yy**2 + xy**2))


def side_band(sign, phases, places, focal_spread, centre, width, points) -> Band:
    """The side band of rho - sign q at the points of a grid of q."""
    (x, y), (qx, qy, area) = centre, points
    variance = 0.5 * width**2  # of the squared window
    q = jnp.sqrt(qx**2 + qy**2 + 1e-12)
    unit_x, unit_y = qx / q, qy / q
    path = qx * (2 * x - sign * qx) + qy * (2 * y - sign * qy)
    factor, shift = _focused(path, q, variance, focal_spread)
    x, y = x + shift * unit_x, y + shift * unit_y
    share, back, narrow, nx, ny = _cut(x - sign * qx, y - sign * qy, variance)
    x, y = x + back * nx, y + back * ny
    beams = jnp.stack([x, x - sign * qx]), jnp.stack([y, y - sign * qy])
    slopes, bends = aberrations.edge_derivatives(phases, *beams, places)
    place = sign * (slopes[:, :, 0] - slopes[:, :, 1]) / (2 * jnp.pi)
    chirp = (bends[:, 0] - bends[:, 1]) / (2 * jnp.pi)  # of the frequency, across the window
    spread = _variances(variance, (factor, unit_x, unit_y), [(narrow, nx, ny)], chirp)
    return Band(jnp.where(q < REACH, area, 0.0), q, *place, *spread, path, 4 * q**2 * variance,
                share)


def interference(phases, places, focal_spread, centre, width, points):
    """The interference of both side bands: Band, distance (F, N) twice, phase (F, N)."""
    (x, y), (qx, qy, area) = centre, points
    variance = 0.5 * width**2
    q = jnp.sqrt(qx**2 + qy**2 + 1e-12)
    unit_x, unit_y = qx / q, qy / q
    path = 2 * (qx * x + qy * y)
    factor, shift = _focused(path, q, variance, focal_spread)
    x, y = x + shift * unit_x, y + shift * unit_y
    cuts = [_cut(x - sign * qx, y - sign * qy, variance) for sign in (1, -1)]
    x, y = (v + sum(cut[1] * cut[k] for cut in cuts) for v, k in ((x, 3), (y, 4)))
    beams = x + np.array([[-1], [0], [1]]) * qx, y + np.array([[-1], [0], [1]]) * qy
    near, middle, far = jnp.moveaxis(aberrations.edge_basis(*beams, places), -1, 1)
    relative = far + near - 2 * middle
    turn = 1 / (2 * jnp.pi)
    slopes, bends = aberrations.edge_derivatives(phases, *beams, places)
    place = 0.5 * turn * (slopes[:, :, 2] - slopes[:, :, 0])
    apart = turn * (slopes[:, :, 2] + slopes[:, :, 0] - 2 * slopes[:, :, 1])
    chirp = 0.5 * turn * (bends[:, 2] - bends[:, 0])
    spread = _variances(variance, (factor, unit_x, unit_y), [cut[2:] for cut in cuts], chirp)
    band = Band(jnp.where(q < REACH, area, 0.0), q, *place, *spread, path, 4 * q**2 * variance,
                cuts[0][0] * cuts[1][0])
    return band, *apart, relative
