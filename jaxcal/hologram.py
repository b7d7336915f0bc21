"""Expected power spectrum of a tile of a Ronchigram: local in-line holography of a weak film.

The specimen's component q (semi-angle/wavelength) scatters the beam of rho + q and that of rho - q
into rho, where both beat with the unscattered one. Around a tile's centre rho these two side bands
are gratings of the frequencies, in cycles per aperture radius,

    f-(q) = [grad chi(rho) - grad chi(rho - q)] / 2 pi,
    f+(q) = [grad chi(rho + q) - grad chi(rho)] / 2 pi

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

from jaxcal import aberrations, gratings, tiles
from jaxcal.gratings import Band
from jaxcal.splatting import splat

STEP = 1.7  # of the grid of q for the side bands, standard deviations of G
RING_STEP = 1.4  # the same of their interference
RING_SEEN = 2.1  # q sqrt(8 pi^2 v) up to which a window with the variance v of G resolves rings
MARGIN = 3.0  # how far beyond the highest frequency the grids reach, standard deviations of G
FLAT = 8.0  # Hessian, waves per radius^2, at which a window counts half: see `trust`
NOISE_UNIT = 16.0  # frequency at which the noise's polynomial is expanded
KNOTS = np.array([0.04, 0.1, 0.18, 0.28, 0.4, 0.55, 0.75, 1.0, 1.3])
"""|q| at which the film's log power spectrum is given."""


class Physics(NamedTuple):
    """What besides the phases shapes the spectra of a frame.

    film: (K,) log power at KNOTS; noise: (3,) log power of the noise, polynomial in
    (f/NOISE_UNIT)^2; focal_spread, thickness: log of the C10 edge phases, rad; blur: log of the
    standard deviation of the Gaussian MTF, aperture radii; halo: log odds of the power in
    the wings of G, see `with_wings`.
    """

    film: jax.Array
    noise: jax.Array
    focal_spread: jax.Array
    thickness: jax.Array
    blur: jax.Array
    halo: jax.Array


class Points(NamedTuple):
    """What a window's spectrum is the sum of.

    sides: Band of both side bands; rings: Band of their interference, with the distance of the
    side bands apart_x, apart_y (F, N) and their relative phase (F, N), per edge phase.
    """

    sides: Band
    rings: Band
    apart_x: jax.Array
    apart_y: jax.Array
    relative: jax.Array


def lay_out(phases, places, physics: Physics, centre, width, layout: tiles.Layout) -> Points:
    """The points of q at a window, for states near ``phases`` and a focal spread near physics'.

    Args:
        phases: (F,) edge phases, rad, of the aberrations at ``places``, a static tuple; the
            others are zero.
        centre, width: of the window, from the layout's moments.
    """
    window = jnp.asarray(centre)[None], jnp.asarray(width)[None]
    points = _lay_out(phases, places, physics, [(layout, *window)])[0]
    return jax.tree.map(lambda part: part[0], points)


def lay_out_all(phases, places, physics: Physics, layouts) -> list[Points]:
    """The points at all K windows of each of the layouts, (K, ...), see `lay_out`."""
    return _lay_out(phases, places, physics, [
        (layout, *(jnp.asarray(moment, phases.dtype) for moment in layout.moments))
        for layout in layouts])


def _lay_out(phases, places, physics, windows):
    """Of windows (layout, centres (K, 2), widths (K,)). What is done to each point is done to those
    of all windows in one go: the arithmetic is long, and is to be compiled once."""
    sides, rings = zip(*(_grids(phases, places, *window) for window in windows), strict=True)
    focal_spread = jnp.exp(physics.focal_spread)
    (*place, width), side = _joined(sides)
    signs = jnp.asarray([1, -1], phases.dtype)
    both = jax.vmap(lambda sign: gratings.side_band(
        sign, phases, places, focal_spread, place, width, side))(signs)
    both = [jax.tree.map(lambda part: jnp.concatenate([part[:, 0], part[:, 1]], -1), band)
            for band in _split(both, sides)]
    (*place, width), ring = _joined(rings)
    interference = gratings.interference(phases, places, focal_spread, place, width, ring)
    return [Points(band, *rest)
            for band, rest in zip(both, _split(interference, rings), strict=True)]


def _grids(phases, places, layout, centres, widths):
    """Centre x, y and width, and q_x, q_y and area of the points of both grids, each (K, N)."""
    blob = 1 / (np.sqrt(8) * np.pi * layout.width)
    seen = RING_SEEN / (np.sqrt(8) * np.pi * blob)
    highest = layout.highest + MARGIN * blob

    def of_window(step, reach):
        nodes = int(highest / (step * blob))
        points = jax.vmap(lambda centre: gratings.grid(
            phases, places, centre, highest, nodes, reach))(centres)
        own = (jnp.broadcast_to(value[:, None], points[0].shape) for value in (*centres.T, widths))
        return [*own, *points]

    return (of_window(STEP, lambda steep: gratings.REACH),
            of_window(RING_STEP, lambda steep: jnp.clip(
                1.5 / jnp.sqrt(steep), seen, gratings.REACH)))


def _joined(grids):
    """All points of some grids in one row each: centre and width; q_x, q_y and area."""
    rows = [jnp.concatenate([part.ravel() for part in parts]) for parts in zip(*grids, strict=True)]
    return rows[:3], rows[3:]


def _split(tree, grids):
    """Leaves (..., all points) apart: a tree for each of the grids, its leaves (K, ..., N)."""
    ends = np.cumsum([grid[0].size for grid in grids])

    def part(leaf, end, shape):
        own = leaf[..., end - shape[0] * shape[1] : end]
        return jnp.moveaxis(own.reshape(*leaf.shape[:-1], *shape), -2, 0)

    return [jax.tree.map(lambda leaf, end=end, grid=grid: part(leaf, end, grid[0].shape), tree)
            for end, grid in zip(ends, grids, strict=True)]


def trust(phases, places, centre):
    """Weight of a window between 0 and 1: where the phase is too flat, the theory fails.

    It takes the Ronchigram for a stretched shadow image with one place for each frequency. Near
    focus or on a caustic that place is as large as the window, and what the aperture's edge
    diffracts fills the rest of the spectrum: against the simulator's mean spectra the misfit grows
    from 0.004 to 0.05 a bin below 10 waves.
    """
    xx, xy, yy = (bend / (2 * jnp.pi)
                  for bend in aberrations.edge_curvature(phases, *centre, places))
    square = 0.5 * (xx**2 + 2 * xy**2 + yy**2)
    return square / (square + FLAT**2)


def blobs(phases, physics: Physics, points: Points):
    """Everything S is the sum of: amounts (M,) and places f_x, f_y (M,) of the blobs G.

    These are of one half plane of q; the other gives the mirror image f -> -f.
    """
    strength, depth, turn = _beat(phases, physics, points)
    amount = jnp.concatenate([_power(points.sides, physics),
                              strength * jnp.sinc(depth / jnp.pi) * jnp.cos(turn)])
    x, y = (phases @ place for place in positions(points))
    return amount, x, y


def slopes_of_amounts(phases, physics: Physics, points: Points):
    """Derivatives of the amounts of `blobs`: in the phases (F, M); in the film (K, M), the focal
    spread and the thickness, (K + 2, M)."""
    sides, rings, apart_x, apart_y, relative = points
    strength, depth, turn = _beat(phases, physics, points)
    thin, cosine = jnp.sinc(depth / jnp.pi), jnp.cos(turn)
    power, ring = _power(sides, physics), strength * thin * cosine
    apart = (phases @ apart_x / (4 * rings.variance_x) * apart_x
             + phases @ apart_y / (4 * rings.variance_y) * apart_y)
    by_phases = -ring * apart - strength * thin * jnp.sin(turn) * relative
    defocused = 2 * jnp.exp(2 * physics.focal_spread) * rings.q**4
    by_film = jnp.concatenate([power * _interpolation(sides.q).T, ring * _interpolation(rings.q).T],
                              1)
    by_focus = jnp.concatenate([power * _focus_slope(sides, physics),
                                ring * (_focus_slope(rings, physics) - defocused)])
    by_thickness = jnp.concatenate([jnp.zeros_like(power),
                                    strength * cosine * (jnp.cos(depth) - thin)])
    return (jnp.concatenate([jnp.zeros((len(phases), power.size), power.dtype), by_phases], 1),
            jnp.concatenate([by_film, by_focus[None], by_thickness[None]]))


def _power(band: Band, physics: Physics):
    """Power (N,) of the film in each cell, after the aperture and the focal spread."""
    loss, factor = _focus_loss(band, physics)
    film = jnp.exp(_interpolation(band.q) @ physics.film)
    return band.amount * band.inside * film * jnp.exp(-loss) / jnp.sqrt(factor)


def _focus_loss(band: Band, physics: Physics):
    """What the focal spread leaves of the power, exp(-first) / sqrt(second), each (N,)."""
    square = jnp.exp(2 * physics.focal_spread)
    factor = 1 + 2 * square * band.path_variance
    return square * band.path**2 / factor, factor


def _focus_slope(band: Band, physics: Physics):
    """Derivative (N,) of the log of `_power` in the log of the focal spread."""
    loss, factor = _focus_loss(band, physics)
    return -2 * loss / factor - (1 - 1 / factor)


def _beat(phases, physics: Physics, points: Points):
    """Of the interference: strength, depth of the film and phase between both side bands, (N,)."""
    _, rings, apart_x, apart_y, relative = points
    together = jnp.exp(-((phases @ apart_x) ** 2) / (8 * rings.variance_x)
                       - (phases @ apart_y) ** 2 / (8 * rings.variance_y))
    defocus = jnp.exp(-jnp.exp(2 * physics.focal_spread) * rings.q**4)
    return (-2 * _power(rings, physics) * together * defocus,
            jnp.exp(physics.thickness) * rings.q**2, phases @ relative)


def positions(points: Points):
    """Places f_x, f_y (F, M) of the blobs per edge phase."""
    return tuple(jnp.concatenate(pair, 1) for pair in (
        (points.sides.place_x, points.rings.place_x), (points.sides.place_y, points.rings.place_y)))


def variances(points: Points):
    """Variances (M,) of the blobs along x and y."""
    return tuple(jnp.concatenate(pair) for pair in (
        (points.sides.variance_x, points.rings.variance_x),
        (points.sides.variance_y, points.rings.variance_y)))


def with_wings(power, physics: Physics, layout: tiles.Layout):
    """Columns (N, C) at all frequencies -> at the bins (B, C), with the wings of G.

    The aperture's edge cuts the windows of the side bands sharply and diffracts, which leaves wings
    about the blobs that no Gaussian has: a share of the power is spread with the kernel
    of `tiles.Layout.wings`.
    """
    share = jax.nn.sigmoid(physics.halo)
    wings = jnp.asarray(layout.wings, power.dtype)
    return (1 - share) * power[chosen(layout)] + share * (wings @ power)


def second_order(power, columns, layout: tiles.Layout):
    """sum_n P(f_b - f_n) C(f_n) df^2 at the bins (B, C), of the power (N,) and columns (N, C).

    Half of that of the power with itself is what a strong film adds to its contrast I_1: the
    spectrum of I_1^2/2 for a normally distributed I_1.
    """
    padded = jnp.append(power, 0.0)
    minus, plus = (padded[place] for place in layout.differences)
    halves = jnp.asarray(layout.halves, power.dtype)
    return (layout.spacing**2 * halves * (minus + plus)) @ columns


def chosen(layout: tiles.Layout):
    """Places (B,) of the bins among all frequencies."""
    return layout.bins[:, 0] * layout.lines[0].size + layout.bins[:, 1]


def camera(physics: Physics, layout: tiles.Layout):
    """Squared MTF and noise (B,) of the bins."""
    r = _square(layout, physics.noise.dtype)
    noise = jnp.exp(physics.noise[0] + physics.noise[1] * r + physics.noise[2] * r**2)
    return jnp.exp(_log_mtf2(physics, layout)), noise


def _log_mtf2(physics: Physics, layout: tiles.Layout):
    """Log of the squared MTF (B,), and half of its derivative in the log of the blur."""
    r = _square(layout, physics.blur.dtype)
    return -4 * (jnp.pi * jnp.exp(physics.blur) * NOISE_UNIT) ** 2 * r


def _square(layout: tiles.Layout, dtype):
    """(f/NOISE_UNIT)^2 (B,) of the bins."""
    return jnp.asarray((layout.frequencies**2).sum(1) / NOISE_UNIT**2, dtype)


def spectrum(phases, physics: Physics, points, layout: tiles.Layout):
    """Expected power (B,) of a window at the layout's bins."""
    amount, x, y = blobs(phases, physics, points)
    mtf2, noise = camera(physics, layout)
    power, _ = splat(x, y, variances(points), amount[None], amount[None][:0], layout)
    power = jnp.maximum(power, 0.0)
    seen = with_wings(power, physics, layout) + 0.5 * second_order(power[:, 0], power, layout)
    return mtf2 * seen[:, 0] + noise


def log_spectrum_and_slopes(phases, physics: Physics, points, layout: tiles.Layout):
    """log S (B,) and its derivatives (B, F + |physics|) in phases and physics.

    That is jacfwd of `spectrum`; the places enter through G alone, G_x = G (f_x - x)/v_x, so that
    all derivatives are sums over the same G, one matrix product.
    """
    dtype = phases.dtype
    amount, x, y = blobs(phases, physics, points)
    by_phases, shapes = slopes_of_amounts(phases, physics, points)
    spread, (slope_x, slope_y) = variances(points), positions(points)  # slopes: (F, M)
    push_x, push_y = ((amount / v) * s for v, s in zip(spread, (slope_x, slope_y), strict=True))
    still = by_phases - x * push_x - y * push_y
    # at the mirror image amounts are the same and places move the other way
    count = len(phases)
    even, odd = splat(x, y, spread, jnp.concatenate([amount[None], still, shapes]),
                      jnp.concatenate([push_x, push_y]), layout)
    power, still, shapes = jnp.split(even, [1, 1 + count], axis=1)
    push_x, push_y = jnp.split(odd, 2, axis=1)
    fx, fy = jnp.asarray(layout.plane, dtype)
    columns = jnp.concatenate(
        [power, still + fx[:, None] * push_x + fy[:, None] * push_y, shapes], 1)
    columns = jnp.where(power > 0, columns, 0.0)
    single = with_wings(columns, physics, layout)
    by_halo = jax.nn.sigmoid(-physics.halo) * (single[:, :1] - columns[chosen(layout), :1])
    twice = second_order(columns[:, 0], columns, layout).at[:, 0].multiply(0.5)
    power, moved, shapes = jnp.split(single + twice, [1, 1 + count], axis=1)
    mtf2, noise = camera(physics, layout)
    total, film, r = mtf2 * power[:, 0] + noise, len(KNOTS), _square(layout, dtype)
    by_blur = power[:, 0] * mtf2 * 2 * _log_mtf2(physics, layout)
    mtf2 = mtf2[:, None]
    slopes = jnp.concatenate([
        mtf2 * moved, mtf2 * shapes[:, :film], noise[:, None] * r[:, None] ** jnp.arange(3),
        mtf2 * shapes[:, film:], by_blur[:, None], mtf2 * by_halo], 1)
    return jnp.log(total), slopes / total[:, None]


def _interpolation(q):
    """(N, K) weights of the linear interpolation in q over KNOTS, constant outside."""
    knots = jnp.asarray(KNOTS, q.dtype)
    q = jnp.clip(q, knots[0], knots[-1])[:, None]
    left = jnp.concatenate([knots[:1] - 1, knots[:-1]])
    right = jnp.concatenate([knots[1:], knots[-1:] + 1])
    return jnp.clip(jnp.minimum((q - left) / (knots - left), (right - q) / (right - knots)), 0, 1)
