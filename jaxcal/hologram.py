"""Expected power spectrum of a tile of a Ronchigram: local in-line holography of a weak film.

The specimen's component q (semi-angle/wavelength) scatters the beam of rho + q and that of rho - q
into rho, where both beat with the unscattered one. Around a tile's centre rho these two side bands
are gratings of the frequencies, in cycles per aperture radius,

    f-(q) = [grad chi(rho) - grad chi(rho - q)] / 2 pi,  f+(q) = [grad chi(rho + q) - grad chi(rho)] / 2 pi

of opposite sign and of the relative phase D = chi(rho + q) + chi(rho - q) - 2 chi(rho). With the
power spectrum g of the film and the squared transform G of the tile's window, the mean spectrum is

    S(f) = sum_q g(q) [ a-^2 G(f - f-) + a+^2 G(f - f+) - 2 a- a+ cos(D) V G(f - (f- + f+)/2) ]

a- and a+ hold what of a side band's beam passes the aperture, and the focal spread; V the
thickness of the film and the distance of the two gratings. To first order in the film this is exact
for the phases at the tile's centre (no Hessian at one point stands for the whole tile); what the
phase does across the window enters as a broadening of G. The sum runs over a half plane of q laid
out along the axes of the local Hessian, on one grid for the side bands apart and on a finer one, of
shorter reach, for their interference, whose rings the window resolves at small q only.

Everything is dimensionless, as in :mod:`jaxcal.ronchigram`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations, tiles

REACH = 1.3  # highest |q| that counts, semi-angle/wavelength
RING_REACH = 0.5  # the same of the interference where the window resolves its rings
MARGIN = 1.5  # how far beyond the highest frequency the grids reach, cycles per radius
SIDE_NODES, RING_NODES = 18, 22  # of the grids: N + 1 by 2 N + 1 nodes
KNOTS = np.array([0.04, 0.1, 0.18, 0.28, 0.4, 0.55, 0.75, 1.0, 1.3])
"""|q| at which the film's log power spectrum is given."""

BINS = np.argwhere(tiles.MASK)
_F = np.stack([tiles.FREQUENCY_X[BINS[:, 1]], tiles.FREQUENCY_Y[BINS[:, 0]]], 1)


class Physics(NamedTuple):
    """What besides the phases shapes the spectra of a frame.

    film: (K,) log power at KNOTS; noise: (3,) log power of the noise, polynomial in
    (f/HIGHEST)^2; focal_spread, thickness: log of the C10 edge phases, rad; blur: log of the
    standard deviation of the Gaussian MTF, aperture radii.
    """

    film: jax.Array
    noise: jax.Array
    focal_spread: jax.Array
    thickness: jax.Array
    blur: jax.Array


class Nodes(NamedTuple):
    """Points of a grid of q at a tile, and what the phases do there, per edge phase.

    amount: (N,) cell area, zero beyond REACH; q: (N,) |q|; minus_x ... plus_y: (N, 25) gradients
    of f- and f+; relative: (N, 25) of D; variance_x, variance_y: (N,) of G.
    path: (N, 2) phase of the side bands per C10 edge phase; inside: (N, 2) share of the window
    whose beam passes the aperture, as power.
    """

    amount: jax.Array
    q: jax.Array
    minus_x: jax.Array
    minus_y: jax.Array
    plus_x: jax.Array
    plus_y: jax.Array
    relative: jax.Array
    variance_x: jax.Array
    variance_y: jax.Array
    path: jax.Array
    inside: jax.Array


def grid(phases, centre, nodes: int, reach):
    """Half plane of q along the axes of the Hessian at a tile: x, y, cell area, each (N,)."""
    xx, xy, yy = (bend @ phases / (2 * jnp.pi) for bend in aberrations.edge_hessian(*centre))
    angle = 0.5 * jnp.arctan2(2 * xy, xx - yy)
    mean, half = 0.5 * (xx + yy), jnp.hypot(0.5 * (xx - yy), xy)
    steep = jnp.maximum(jnp.abs(jnp.stack([mean + half, mean - half])), 1e-3)
    extent = jnp.minimum(reach(steep), (tiles.HIGHEST + MARGIN) / steep)
    line = jnp.arange(-nodes, nodes + 1, dtype=phases.dtype) / nodes
    first, second = jnp.meshgrid(line[nodes:] * extent[0], line * extent[1])
    area = jnp.where(first > 0, 1.0, 0.5) * extent[0] * extent[1] / nodes**2
    c, s = jnp.cos(angle), jnp.sin(angle)
    return (c * first - s * second).ravel(), (s * first + c * second).ravel(), area.ravel()


def nodes(phases, centre, width, points) -> Nodes:
    """The grid's points at a tile; the broadening of G is that at ``phases``."""
    (x, y), (qx, qy, area) = centre, points
    turn = 1 / (2 * jnp.pi)
    q = jnp.sqrt(qx**2 + qy**2 + 1e-12)
    here, before, after = (aberrations.edge_gradient(x + k * qx, y + k * qy) for k in (0, -1, 1))
    chirp = [0.5 * turn * ((bend - other) @ phases) for bend, other in zip(
        aberrations.edge_hessian(x + qx, y + qy), aberrations.edge_hessian(x - qx, y - qy),
        strict=True)]
    window = 1 / (8 * jnp.pi**2 * width**2)

    def side(sign):
        depth = (1 - jnp.sqrt((x - sign * qx) ** 2 + (y - sign * qy) ** 2 + 1e-12)) / width
        return (qx * (2 * x - sign * qx) + qy * (2 * y - sign * qy),
                jax.scipy.stats.norm.cdf(jnp.sqrt(2.0) * depth))

    (path_minus, in_minus), (path_plus, in_plus) = side(1.0), side(-1.0)
    basis = aberrations.edge_basis
    return Nodes(
        jnp.where(q < REACH, area, 0.0), q,
        *(turn * (h - b) for h, b in zip(here, before, strict=True)),
        *(turn * (a - h) for h, a in zip(here, after, strict=True)),
        basis(x + qx, y + qy) + basis(x - qx, y - qy) - 2 * basis(x, y),
        window + 0.5 * width**2 * (chirp[0] ** 2 + chirp[1] ** 2),
        window + 0.5 * width**2 * (chirp[2] ** 2 + chirp[1] ** 2),
        jnp.stack([path_minus, path_plus], 1), jnp.stack([in_minus, in_plus], 1))


def lay_out(phases, centre, width):
    """Grids of the side bands and of their interference at a tile, for states near ``phases``."""
    side = grid(phases, centre, SIDE_NODES, lambda steep: REACH)
    ring = grid(phases, centre, RING_NODES,
                lambda steep: jnp.clip(1.5 / jnp.sqrt(steep), RING_REACH, REACH))
    return nodes(phases, centre, width, side), nodes(phases, centre, width, ring)


def _amplitudes(at: Nodes, physics: Physics):
    """Power of the film in each cell, and the side bands' amplitudes (N, 2)."""
    film = at.amount * jnp.exp(_interpolation(at.q) @ physics.film)
    blurred = jnp.exp(-0.5 * (jnp.exp(physics.focal_spread) * at.path) ** 2)
    return film, blurred * jnp.sqrt(at.inside + 1e-9)


def blobs(phases, physics: Physics, layout):
    """Everything S is the sum of: amounts (M,) and places f_x, f_y (M,) of the blobs G."""
    side, ring = layout
    film, amplitude = _amplitudes(side, physics)
    minus = side.minus_x @ phases, side.minus_y @ phases
    plus = side.plus_x @ phases, side.plus_y @ phases
    power = film[:, None] * amplitude**2
    film, amplitude = _amplitudes(ring, physics)
    apart_x = (ring.plus_x - ring.minus_x) @ phases
    apart_y = (ring.plus_y - ring.minus_y) @ phases
    together = jnp.exp(-(apart_x**2) / (8 * ring.variance_x) - apart_y**2 / (8 * ring.variance_y))
    thick = jnp.sinc(jnp.exp(physics.thickness) * ring.q**2 / jnp.pi)
    beat = -2 * film * amplitude[:, 0] * amplitude[:, 1] * together * thick * jnp.cos(
        ring.relative @ phases)
    middle_x = 0.5 * (ring.plus_x + ring.minus_x) @ phases
    middle_y = 0.5 * (ring.plus_y + ring.minus_y) @ phases
    # the other half plane of q is the mirror image f -> -f
    amounts = [power[:, 0], power[:, 1], beat]
    places_x, places_y = [minus[0], plus[0], middle_x], [minus[1], plus[1], middle_y]
    return (jnp.concatenate(amounts * 2),
            jnp.concatenate(places_x + [-f for f in places_x]),
            jnp.concatenate(places_y + [-f for f in places_y]))


def kernel(place_x, place_y, layout):
    """G (B, M) of every bin at every blob, and the blobs' variances (M,) along x and y."""
    side, ring = layout
    variance_x = jnp.tile(jnp.concatenate([side.variance_x] * 2 + [ring.variance_x]), 2)
    variance_y = jnp.tile(jnp.concatenate([side.variance_y] * 2 + [ring.variance_y]), 2)
    dtype = place_x.dtype
    fx = jnp.asarray(tiles.FREQUENCY_X, dtype)[:, None]
    fy = jnp.asarray(tiles.FREQUENCY_Y, dtype)[:, None]
    along = jnp.exp(-0.5 * (fx - place_x) ** 2 / variance_x)
    across = jnp.exp(-0.5 * (fy - place_y) ** 2 / variance_y)
    across = across / (2 * jnp.pi * jnp.sqrt(variance_x * variance_y))
    return along[BINS[:, 1]] * across[BINS[:, 0]], variance_x, variance_y


def camera(physics: Physics, dtype):
    """Squared MTF and noise (B,) of the bins."""
    r = jnp.asarray((_F**2).sum(1) / tiles.HIGHEST**2, dtype)
    mtf2 = jnp.exp(-4 * (jnp.pi * jnp.exp(physics.blur) * tiles.HIGHEST) ** 2 * r)
    return mtf2, jnp.exp(physics.noise[0] + physics.noise[1] * r + physics.noise[2] * r**2)


def spectrum(phases, physics: Physics, layout):
    """Expected power (B,) of a tile at BINS."""
    amount, x, y = blobs(phases, physics, layout)
    mtf2, noise = camera(physics, phases.dtype)
    weights, _, _ = kernel(x, y, layout)
    return mtf2 * jnp.maximum(weights @ amount, 0.0) + noise


def log_spectrum_and_slopes(phases, physics: Physics, layout, free):
    """log S (B,) and its derivatives (B, F + |physics|) in phases[free] and physics.

    That is jacfwd of `spectrum`; the places enter through G alone, G_x = G (f_x - x)/v_x, so that
    all derivatives are sums over the same G, one matrix product.
    """
    dtype = phases.dtype

    def moving(part):
        return blobs(phases.at[free].set(part), physics, layout)

    def shaping(physics):
        return blobs(phases, physics, layout)[0]

    amount, x, y = moving(phases[free])
    slope_amount, slope_x, slope_y = jax.jacfwd(moving)(phases[free])  # (M, F)
    weights, variance_x, variance_y = kernel(x, y, layout)
    push_x, push_y = ((amount / v)[:, None] * s
                      for v, s in ((variance_x, slope_x), (variance_y, slope_y)))
    still = slope_amount - x[:, None] * push_x - y[:, None] * push_y
    shape = jax.jacfwd(shaping)(physics)
    shapes = jnp.concatenate([
        shape.film, shape.focal_spread[:, None], shape.thickness[:, None]], 1)
    sums = jnp.matmul(weights, jnp.concatenate(
        [amount[:, None], still, push_x, push_y, shapes], 1))
    count = len(free)
    power, still, push_x, push_y, shapes = jnp.split(
        sums, np.cumsum([1, count, count, count]), axis=1)
    fx, fy = (jnp.asarray(_F[:, k : k + 1], dtype) for k in (0, 1))
    mtf2, noise = camera(physics, dtype)
    slopes = jnp.concatenate([still + fx * push_x + fy * push_y, shapes], 1)
    signal = mtf2 * jnp.maximum(power[:, 0], 0.0)
    total = signal + noise
    slope_mtf, slope_noise = jax.jacfwd(camera)(physics, dtype)
    slope_blur = power[:, 0] * slope_mtf.blur
    film = len(KNOTS)
    columns = jnp.concatenate([
        mtf2[:, None] * slopes[:, : count + film],
        slope_noise.noise,
        mtf2[:, None] * slopes[:, count + film :],
        slope_blur[:, None]], 1)
    return jnp.log(total), columns / total[:, None]


def _interpolation(q):
    """(N, K) weights of the linear interpolation in q over KNOTS, constant outside."""
    knots = jnp.asarray(KNOTS, q.dtype)
    q = jnp.clip(q, knots[0], knots[-1])[:, None]
    left = jnp.concatenate([knots[:1] - 1, knots[:-1]])
    right = jnp.concatenate([knots[1:], knots[-1:] + 1])
    return jnp.clip(jnp.minimum((q - left) / (knots - left), (right - q) / (right - knots)), 0, 1)
