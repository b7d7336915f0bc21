"""Frame -> power spectra of the Ronchigram through Gaussian windows, small and large.

Locally a Ronchigram is an in-line hologram whose defocus and astigmatism are the Hessian of W at
that place: small windows (tiles) beside each other carry C21 and C23 and their signs, which the
spectrum of the whole disc has lost. A large window resolves the rings of the transfer function,
and with them C10 and C12. Angles are counted from the disc's centre in aperture radii,
frequencies in cycles per aperture radius; no pixel is resampled.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import devices
from jaxcal.spectra import Disc, angles, to_size, without_hot_pixels

FLAT, END = 0.85, 0.98  # the windows' common taper towards the aperture's edge
WING = 3.0  # width of the wings of a window's transform, cycles per aperture radius
LOWEST = 2.5  # cycles per aperture radius; frequencies below are illumination, and leak from it


def taper(rho):
    """1 for rho < FLAT, a cos^2 to 0 at END."""
    t = jnp.clip((rho - FLAT) / (END - FLAT), 0.0, 1.0)
    return jnp.cos(0.5 * jnp.pi * t) ** 2


@dataclass(frozen=True, eq=False)
class Layout:
    """Windows of one size and the frequencies their spectra are taken at.

    width: standard deviation of the amplitude window; centres: (K, 2) x, y, aperture radii;
    spacing, highest: of the frequencies, cycles per radius; weight: independent bins per bin, of
    what the other layouts do not see already.
    """

    width: float
    centres: np.ndarray
    spacing: float
    highest: float
    weight: float

    @cached_property
    def lines(self):
        """Frequencies f_x >= 0 and f_y along the axes."""
        count = round(self.highest / self.spacing)
        return self.spacing * np.arange(count + 1.0), self.spacing * np.arange(-count, count + 1.0)

    @cached_property
    def bins(self):
        """Places (B, 2), row and column, of the frequencies that count: half a ring."""
        fx, fy = self.lines
        size = np.hypot(fy[:, None], fx[None, :])
        mask = (size >= LOWEST) & (size <= self.highest)
        mask[:, 0] &= fy > 0  # f_y and -f_y are one where f_x = 0
        return np.argwhere(mask)

    @cached_property
    def frequencies(self):
        """(B, 2) f_x, f_y of the bins, cycles per radius."""
        fx, fy = self.lines
        return np.stack([fx[self.bins[:, 1]], fy[self.bins[:, 0]]], 1)

    @cached_property
    def plane(self):
        """(2, N) f_x, f_y of all frequencies of the lines, row by row of f_y."""
        return np.stack([line.ravel() for line in np.meshgrid(*self.lines)])

    @cached_property
    def halves(self):
        """(N,) 1, and 0.5 where f_x = 0: there both f and -f are among the frequencies."""
        return np.where(self.plane[0] > 0, 1.0, 0.5)

    @cached_property
    def wings(self):
        """(B, N) weights of the power at all frequencies in that at the bins: a kernel
        (1 + (f/WING)^2)^-2 of unit sum over the plane, mirrored at the origin."""
        fx, fy = self.plane
        bins = self.frequencies

        def kernel(x, y):
            return (1 + (x**2 + y**2) / WING**2) ** -2 * self.spacing**2 / (np.pi * WING**2)

        here, there = (kernel(bins[:, :1] - s * fx, bins[:, 1:] - s * fy) for s in (1, -1))
        return self.halves * (here + there)

    @cached_property
    def differences(self):
        """Places (2, B, N) of f_b - f_n and f_b + f_n among the N frequencies, N where outside."""
        fx, fy = (np.rint(line / self.spacing).astype(int) for line in self.lines)
        places = []
        for sign in (-1, 1):
            x = fx[self.bins[:, 1], None, None] + sign * fx
            y = fy[self.bins[:, 0], None, None] + sign * fy[:, None]
            x, y = np.broadcast_arrays(x, y)
            y, x = np.where(x < 0, -y, y), np.abs(x)  # the power at f and -f is one
            inside = (x < fx.size) & (np.abs(y) <= fy[-1])
            place = np.where(inside, (y + fy[-1]) * fx.size + x, fx.size * fy.size)
            places.append(place.reshape(len(self.bins), -1))
        return np.array(places, np.int32)

    @cached_property
    def moments(self):
        """Middles (K, 2) and widths (K,) of the Gaussians that have the moments of the windows."""
        line = np.linspace(-1, 1, 401)
        x, y = line[None, :], line[:, None]
        with jax.ensure_compile_time_eval():  # also where a tracer asks first
            edge = np.asarray(taper(np.hypot(x, y)))
        middles, widths = [], []
        for cx, cy in self.centres:
            weight = edge**2 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / self.width**2)
            weight /= weight.sum()
            mx, my = (weight * x).sum(), (weight * y).sum()
            middles.append((mx, my))
            widths.append(np.sqrt((weight * ((x - mx) ** 2 + (y - my) ** 2)).sum()))
        return np.array(middles), np.array(widths)


def _ring(distance):
    angle = np.arange(6) * np.pi / 3
    around = distance * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate([np.zeros((1, 2)), around])


# Widths and rings cover the disc once; the weights were set with simulated instruments
# (benchmarks/coverage.py).
TILES = Layout(width=0.26, centres=_ring(0.65), spacing=1.0, highest=22.0, weight=0.4)
WHOLE = Layout(width=0.45, centres=np.zeros((1, 2)), spacing=0.5, highest=10.0, weight=0.26)
LAYOUTS = (TILES, WHOLE)
GLIMPSE = replace(TILES, highest=12.0)  # what decides between basins, a tenth of the work


def tile_spectra(frame, disc: Disc, dark: float = 0.0) -> tuple[np.ndarray, ...]:
    """Spectra of a frame (H, W) of counts and its disc: (K, B) float32 for each of LAYOUTS.

    Args:
        dark: counts without light, which would lessen the contrast.

    Raises:
        ValueError: the disc is too small, see `jaxcal.spectra.check_disc`.
    """
    frame, disc = to_size(frame, disc)
    power = _tile_spectra(frame - np.float32(dark), disc)
    return tuple(np.asarray(part, np.float32) for part in power)


@partial(jax.jit, compiler_options=devices.LIGHT)
def _tile_spectra(frame, disc):
    clean = without_hot_pixels(frame)
    return tuple(power_spectra(clean, disc, layout) for layout in LAYOUTS)


def power_spectra(frame, disc: Disc, layout: Layout):
    """Power per unit of solid angle (K, B): |sum w (F/F0 - 1) exp(-2 pi i f.rho)|^2 / sum w^2 R^2.

    F0 is the mean of the counts under the window w.
    """
    frame = jnp.asarray(frame)
    dtype = jnp.result_type(frame, jnp.float32)  # counts may be integers
    disc = Disc(*(jnp.asarray(place, dtype) for place in disc))
    x, y = angles(frame.shape, disc)
    edge = taper(jnp.sqrt(x[None, :] ** 2 + y[:, None] ** 2))
    fx, fy = (jnp.asarray(line, dtype) for line in layout.lines)
    wave_x, wave_y = 2 * jnp.pi * x[:, None] * fx, 2 * jnp.pi * fy[:, None] * y
    product = partial(jnp.matmul, precision="highest")

    def one(centre):
        across = jnp.exp(-0.5 * ((x - centre[0]) / layout.width) ** 2)
        along = jnp.exp(-0.5 * ((y - centre[1]) / layout.width) ** 2)
        window = edge * across[None, :] * along[:, None]
        contrast = window * (frame * (jnp.sum(window) / jnp.sum(window * frame)) - 1.0)
        cosine, sine = (product(contrast, f(wave_x)) for f in (jnp.cos, jnp.sin))
        real = product(jnp.cos(wave_y), cosine) - product(jnp.sin(wave_y), sine)
        imaginary = product(jnp.sin(wave_y), cosine) + product(jnp.cos(wave_y), sine)
        power = (real**2 + imaginary**2) / (jnp.sum(window**2) * disc.radius**2)
        return power[layout.bins[:, 0], layout.bins[:, 1]]

    return jax.lax.map(one, jnp.asarray(layout.centres, dtype))
