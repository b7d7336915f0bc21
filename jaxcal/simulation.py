"""The digital twin: an instrument and its specimen drawn at random, and frames of it.

An :class:`Instrument` holds what stays the same from frame to frame: the film's spectrum, the
coherence, the camera and the aberrations nobody tunes. Everything is in the dimensionless units of
:mod:`jaxcal.ronchigram`; the draws are made in nanometres and milliradians (``draw_instrument``),
so that what is drawn together is physically consistent.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations, detector, ronchigram, specimen


class Instrument(NamedTuple):
    """What is constant during a calibration.

    log_amplitude: (K,) log amplitude spectrum of the film at ``specimen.KNOTS``;
    tail: exponent that makes the film's noise heavy-tailed (clusters, heavy atoms), 0 = Gaussian;
    focal_spread: standard deviation, C10 edge phase, rad; thickness: C10 edge phase, rad;
    residual: (25,) edge phases of the aberrations, rad; electrons: in the disc, in one frame;
    blur, pixel: standard deviation of the MTF and camera pixel, aperture radii;
    scintillator: 1 where the noise is blurred too; gain_error: rms of the gain map.
    """

    log_amplitude: jax.Array
    tail: jax.Array
    focal_spread: jax.Array
    thickness: jax.Array
    residual: jax.Array
    electrons: jax.Array
    blur: jax.Array
    pixel: jax.Array
    scintillator: jax.Array
    gain_error: jax.Array


class Grid(NamedTuple):
    """A simulation grid: (size, size) pixels, ``radius`` of them to the aperture."""

    size: int
    radius: float

    @property
    def side(self) -> int:
        """Of the square about the disc that its spectrum needs, with the reach of a camera's blur:
        what lies outside is dark field."""
        return min(self.size, 2 * math.ceil(self.radius + 8.0))


def _log_uniform(key, low, high):
    return jnp.exp(_uniform(key, math.log(low), math.log(high)))


class Film(NamedTuple):
    """What an amorphous film's spectrum is made of; frequencies in 1/nm, lengths in nm.

    strength: rad rms; width, steepness: q0 and p of a scattering factor 1/(1 + (q/q0)^2)^p; hole,
    hole_width: depth and reach of the suppression of small q, peak, peak_place, peak_width: the
    peak near the inverse nearest-neighbour distance, both of a random packing; source: size of the
    source; deviation: (K,) of the log amplitude at KNOTS.
    """

    strength: jax.Array
    width: jax.Array
    steepness: jax.Array
    hole: jax.Array
    hole_width: jax.Array
    peak: jax.Array
    peak_place: jax.Array
    peak_width: jax.Array
    source: jax.Array
    deviation: jax.Array


#: What a random film's parts are uniform between, in the order of Film; the first two in their log.
FILM_RANGES = np.array([np.log([0.05, 0.5]), np.log([2.0, 6.0]), [0.7, 1.4], [0.0, 0.9], [1.0, 4.0],
                        [0.0, 0.8], [2.5, 6.0], [0.7, 1.5], [0.01, 0.045]], np.float32)
FILM_NUMBERS, FILM_DEVIATION = len(FILM_RANGES), 0.2


def film_of(uniform, normal) -> Film:
    """A random film of random numbers: (FILM_NUMBERS,) between 0 and 1, and normal ones (K,)."""
    low, high = FILM_RANGES.T
    strength, width, *rest = low + (high - low) * uniform
    return Film(jnp.exp(strength), jnp.exp(width), *rest, FILM_DEVIATION * normal)


def film_spectrum(film: Film, unit_per_nm):
    """Log amplitude (K,) of a film at KNOTS.

    Args:
        unit_per_nm: semi-angle/wavelength, 1/nm: the unit of q.
    """
    q = jnp.asarray(specimen.KNOTS, jnp.float32) * unit_per_nm

    def amplitude(q):
        factor = -film.steepness * jnp.log1p((q / film.width) ** 2)
        hole = film.hole * jnp.exp(-((q / film.hole_width) ** 2))
        peak = film.peak * jnp.exp(-(((q - film.peak_place) / film.peak_width) ** 2))
        source = -2 * (jnp.pi * film.source * q) ** 2
        return factor + 0.5 * jnp.log1p(-hole) + jnp.log1p(peak) + source

    fine = jnp.linspace(0.02, 2.0, 100, dtype=jnp.float32) * unit_per_nm
    power = jnp.sum(jnp.exp(2 * amplitude(fine)) * 2 * jnp.pi * fine) * (fine[1] - fine[0])
    # power per unit area of q in the dimensionless unit: q^2 in 1/nm^2 over unit_per_nm^2
    scale = jnp.log(film.strength) - 0.5 * jnp.log(power) + jnp.log(unit_per_nm)
    return amplitude(q) + scale + film.deviation


def draw_film(key) -> Film:
    """A random film."""
    *keys, last = jax.random.split(key, FILM_NUMBERS + 1)
    *keys, strength = keys  # so the shipped model's films were drawn
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32))(
        jnp.stack([strength, *keys]))
    return film_of(uniform, jax.random.normal(last, (len(specimen.KNOTS),), jnp.float32))


def _uniform(key, low, high):
    return jax.random.uniform(key, (), jnp.float32, low, high)


#: Standard deviations of the aberrations that are fixed and untuned, nm, by radial order n >= 3:
#: some times what a published log of a commercial corrector leaves (medians C30 310, C34 214, C41
#: 1750 nm, C50 18 um), so that an instrument less well kept is covered.
RESIDUAL_NM = {"C30": 2000.0, "C32": 300.0, "C34": 300.0, "C41": 1500.0, "C43": 1500.0,
               "C45": 1500.0, "C50": 150e3, "C52": 5e3, "C54": 5e3, "C56": 5e3}
_RESIDUAL_SD = np.array([RESIDUAL_NM.get(name[:3], 0.0) for name in aberrations.NAMES],
                        np.float32)


def draw_instrument(key, per_nm, unit_per_nm):
    """A random :class:`Instrument`.

    Args:
        key: random key.
        per_nm: (25,) edge phases per nm of ``optics.edge_phases``.
        unit_per_nm: semi-angle/wavelength, 1/nm.
    """
    keys = jax.random.split(key, 11)
    per_nm, unit_per_nm = (jnp.asarray(value, jnp.float32) for value in (per_nm, unit_per_nm))
    camera_radius = _log_uniform(keys[0], 64.0, 400.0)  # pixels
    return Instrument(
        log_amplitude=film_spectrum(draw_film(keys[1]), unit_per_nm),
        tail=_uniform(keys[2], 0.0, 0.8),
        focal_spread=_uniform(keys[3], 1.5, 8.0) * per_nm[0],
        thickness=_uniform(keys[4], 0.0, 10.0) * per_nm[0],
        residual=jax.random.normal(keys[5], (25,), jnp.float32) * _RESIDUAL_SD * per_nm,
        electrons=_log_uniform(keys[6], 20.0, 1000.0) * jnp.pi * 115.0**2,
        blur=_uniform(keys[7], 0.3, 1.3) / camera_radius,
        pixel=1.0 / camera_radius,
        scintillator=jax.random.bernoulli(keys[8]).astype(per_nm.dtype),
        gain_error=_uniform(keys[9], 0.0, 0.02),
    )


def film(key, instrument: Instrument, grid: Grid, slices: int):
    """Transmission (slices, N, N) of a fresh piece of the instrument's film."""
    noise = jax.random.normal(key, (slices, grid.size, grid.size), jnp.float32)
    heavy = jnp.sign(noise) * jnp.exp((1 + instrument.tail) * jnp.log(jnp.abs(noise) + 1e-6))
    heavy = heavy / jnp.sqrt(jnp.mean(heavy**2))
    return specimen.transmission(
        specimen.amorphous_phase(heavy, instrument.log_amplitude, grid.radius, slices))


def frame(key, instrument: Instrument, phases, grid: Grid, *, slices: int = 1,
          focal_nodes: int = 3, side: int | None = None):
    """One exposure (N, N) of a fresh area, counts (electrons per pixel, no offset), float32.

    The source size is in the film's spectrum, where it acts for a weak film. Call
    `ronchigram.check_sampling` first, outside compiled code: nothing here tells whether the grid
    samples the phases.

    Args:
        phases: (25,) edge phases of the full state, rad (residuals included by the caller).
        side: even; only the middle (side, side) is exposed, the disc's centre at (side/2, side/2).
    """
    area, exposure = jax.random.split(key)
    transmission = film(area, instrument, grid, slices)
    nodes = ronchigram.quadrature(instrument.focal_spread, 0.0, focal_nodes, 1)
    intensity = ronchigram.ronchigram(
        phases, transmission, grid.radius, nodes, slice_defocus=instrument.thickness / slices,
        side=side)
    camera = detector.Detector(
        dose=instrument.electrons / (jnp.pi * grid.radius**2),
        blur=instrument.blur * grid.radius,
        pixel=instrument.pixel * grid.radius,
        scintillator=instrument.scintillator,
    )
    return detector.expose(exposure, intensity, camera)
