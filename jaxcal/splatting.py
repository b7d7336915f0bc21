"""Sums of many Gaussians at the frequencies of a spectrum.

A Gaussian G is a product of two short lines, so that a block of them becomes a small matrix, and
the sums over any number of columns one product with it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import tiles

BLOCK = 256  # blobs at a time
STRIP = 8  # lines of f_y at a time
TAIL = 4.0  # standard deviations of G, beyond which it is left out
FOLDED = 6.0  # frequency f_x up to which the blobs' mirror images reach back


def splat(x, y, spread, even, odd, layout: tiles.Layout):
    """Sums over blobs of G at all frequencies of the layout's lines: of ``even`` (C, M) with the
    blobs at f and at -f, and of ``odd`` (D, M) with those at f less those at -f; (N, C), (N, D).

    G is a product of two short lines, and reaches few: in the order of f_y a block of blobs is
    summed at the lines within TAIL standard deviations of it, STRIP at a time. Blobs of f_x < 0
    are turned to their mirror image, and what the others leave at f_x < 0, as far as FOLDED, is
    folded back.
    """
    fx, fy = (line.size for line in layout.lines)
    folded = min(round(FOLDED / layout.spacing), fx - 1)
    side = jnp.where(x < 0, -1, 1).astype(x.dtype)
    columns = jnp.concatenate([even, side * odd])
    x, y, (variance_x, variance_y) = side * x, side * y, spread
    reach = TAIL * jnp.sqrt(variance_y)
    seen = (jnp.abs(y) - reach < layout.highest) & jnp.any(columns != 0, 0)
    order = _order(jnp.where(seen, y / layout.highest, jnp.inf))
    count = -(-x.size // BLOCK)

    def blocks(values, fill=0.0):
        padded = jnp.pad(values[..., order], [(0, 0)] * (values.ndim - 1)
                         + [(0, count * BLOCK - x.size)], constant_values=fill)
        return jnp.moveaxis(padded.reshape(*values.shape[:-1], count, BLOCK), -2, 0)

    def place(frequency):  # among the lines of f_y
        return jnp.clip(frequency / layout.spacing + fy // 2, 0.0, fy - 1.0)

    across = layout.spacing * jnp.arange(-folded, fx, dtype=x.dtype)

    def add(totals, block):
        x, y, variance_x, variance_y, low, high, columns = block
        first = jnp.floor(place(low.min())).astype(int)
        strips = (jnp.ceil(place(high.max())).astype(int) - first) // STRIP + 1
        line = jnp.exp(-0.5 * (across[:, None] - x) ** 2 / variance_x)
        line = line / (2 * jnp.pi * jnp.sqrt(variance_x * variance_y))

        def add_strip(k, totals):
            start = first + k * STRIP
            along = layout.spacing * (start + jnp.arange(STRIP) - fy // 2).astype(x.dtype)
            # the barrier keeps the compiler from computing each exponential anew for every bin
            rows = jax.lax.optimization_barrier(
                jnp.exp(-0.5 * (along[:, None] - y) ** 2 / variance_y))
            blob = (rows[:, None] * line).reshape(-1, BLOCK)
            here = jax.lax.dynamic_slice_in_dim(totals, start * across.size, len(blob))
            return jax.lax.dynamic_update_slice_in_dim(
                totals, here + blob @ columns.T, start * across.size, 0)

        return jax.lax.fori_loop(0, jnp.where(jnp.isfinite(low.min()), strips, 0), add_strip,
                                 totals), None

    low, high = (jnp.where(seen, y + s * reach, s * -jnp.inf) for s in (-1, 1))
    parts = [blocks(x), blocks(y), blocks(variance_x, 1.0), blocks(variance_y, 1.0),
             blocks(low, jnp.inf), blocks(high, -jnp.inf), blocks(columns)]
    start = jnp.zeros(((fy + STRIP) * across.size, len(columns)), x.dtype)
    total = jax.lax.scan(add, start, parts)[0].reshape(fy + STRIP, across.size, -1)[:fy]
    turned = jnp.concatenate([jnp.ones(len(even), x.dtype), -jnp.ones(len(odd), x.dtype)])
    both = total[:, folded:].at[:, : folded + 1].add(turned * total[::-1, folded::-1])
    return jnp.split(both.reshape(fy * fx, -1), [len(even)], axis=1)


def _order(values):
    """Order (M,) of values between -2 and 2, others at the end, to some 1e-5: value and place in
    one integer, whose sort is many times faster than that of floating numbers with their places."""
    bits = (values.size - 1).bit_length()
    top = 2 ** (31 - bits) - 1
    key = jnp.clip((0.25 * values + 0.5) * top, 0, top).astype(jnp.uint32)
    place = jnp.arange(values.size, dtype=jnp.uint32)
    return jnp.sort((key << bits) | place) & np.uint32(2**bits - 1)
