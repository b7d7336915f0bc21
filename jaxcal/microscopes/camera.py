"""The simulated instrument behind `SimulatedMicroscope`: true optics, film, camera and its faults.

The far field is computed on a grid fine enough for the aberrations and then integrated over the
camera's pixels, whose size, centre and shape are a little off nominal, as in a real instrument.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import detector, ronchigram, simulation
from jaxcal.optics import Optics, edge_phases
from jaxcal.simulation import Grid, Instrument

PIXELS = 256
SLICES = 2
GRIDS = (Grid(384, 120.0), Grid(576, 180.0), Grid(896, 280.0), Grid(1280, 400.0))
"""Grids by fineness; a frame is made on the first that samples its aberrations. All have the same
`specimen.band_limit`: a film whose finest detail came and went with the defocus would be none."""


class Camera(NamedTuple):
    """What stays the same from frame to frame.

    per_nm: (25,) edge phases per nm of the true optics; instrument: film, coherence and dose;
    edges_x, edges_y: (PIXELS + 1,) edges of the columns and rows in aperture radii; detector:
    dose, MTF, gain, offset, readout and hot pixels, in camera pixels.
    """

    per_nm: np.ndarray
    instrument: Instrument
    edges_x: np.ndarray
    edges_y: np.ndarray
    detector: detector.Detector


def draw_camera(seed, optics):
    """A random instrument for nominal optics, the same for the same seed.

    The true semi-angle is within 1.5 % of nominal, the pixel within 1 % and up to 0.3 % different
    between x and y, the disc within 3 pixels of the frame's middle.

    Args:
        seed: int.
        optics: nominal `Optics`.
    """
    random = np.random.default_rng([seed, 2])
    true = Optics(
        optics.energy_keV,
        optics.semi_angle_mrad * random.uniform(0.985, 1.015),
        optics.pixel_mrad * random.uniform(0.99, 1.01),
    )
    per_nm = edge_phases(true)
    instrument = simulation.draw_instrument(
        jax.random.key(seed), jnp.asarray(per_nm, jnp.float32), 1.0 / true.length_unit_nm
    )
    instrument = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), instrument)
    pixel = true.pixel_mrad / true.semi_angle_mrad * (1 + random.uniform(-0.003, 0.003) * _XY)
    middle = (PIXELS - 1) / 2 + random.uniform(-3.0, 3.0, 2)
    edges = (np.arange(PIXELS + 1) - 0.5 - middle[:, None]) * pixel[:, None]
    shape = (PIXELS, PIXELS)
    gain = 1 + float(instrument.gain_error) * random.standard_normal(shape)
    counts_per_electron = float(np.exp(random.uniform(0.0, np.log(10.0))))
    hot = np.zeros(shape)
    places = random.integers(0, PIXELS, (2, random.integers(0, 12)))
    dose = float(instrument.electrons) / (np.pi * true.radius_pixels**2)
    hot[tuple(places)] = random.uniform(1, 5, places.shape[1]) * dose * counts_per_electron
    faults = detector.Detector(
        dose=jnp.float32(dose),
        blur=instrument.blur / instrument.pixel,
        pixel=jnp.float32(0.0),  # the camera's pixels are integrated over exactly
        scintillator=instrument.scintillator,
        gain=jnp.asarray(gain, jnp.float32),
        counts_per_electron=jnp.float32(counts_per_electron),
        offset=jnp.float32(random.uniform(0.0, 50.0)),
        readout=jnp.float32(random.uniform(0.0, 1.5) * np.sqrt(counts_per_electron)),
        hot=jnp.asarray(hot, jnp.float32),
    )
    return Camera(per_nm, instrument, edges[0], edges[1], faults)


def acquire(key, camera, coefficients_nm):
    """One frame (PIXELS, PIXELS) float32 counts of a fresh area of the film.

    Args:
        key: random key.
        camera: `Camera`.
        coefficients_nm: (25,) nm, the state of the instrument.

    Raises:
        ValueError: the aberrations are too steep for the finest grid.
    """
    phases = np.asarray(coefficients_nm, float) * camera.per_nm
    grid = next((g for g in GRIDS if ronchigram.required_radius(phases) <= g.radius), GRIDS[-1])
    ronchigram.check_sampling(phases, grid.size, grid.radius)
    over_y, over_x = (
        jnp.asarray(overlap(edges, grid), jnp.float32) for edges in (camera.edges_y, camera.edges_x)
    )
    return _expose(
        key, camera.instrument, camera.detector, jnp.asarray(phases, jnp.float32), over_y, over_x,
        grid, ronchigram.enough_nodes(float(camera.instrument.focal_spread)),
    )  # fmt: skip


def overlap(edges, grid):
    """Weights (PIXELS, grid.size) that average a line of the grid over each camera pixel.

    Args:
        edges: (PIXELS + 1,) edges of the camera's pixels, aperture radii.
        grid: `Grid` whose pixel n covers (n - N/2 -+ 1/2)/radius.
    """
    low = (np.arange(grid.size) - grid.size // 2 - 0.5) / grid.radius
    shared = np.minimum(edges[1:, None], low + 1 / grid.radius) - np.maximum(edges[:-1, None], low)
    return np.clip(shared, 0.0, None) / np.diff(edges)[:, None]


_XY = np.array([1.0, -1.0])


@partial(jax.jit, static_argnames=("grid", "focal_nodes"))
def _expose(key, instrument, faults, phases, over_y, over_x, grid, focal_nodes):
    area, exposure = jax.random.split(key)
    transmission = simulation.film(area, instrument, grid, SLICES).astype(jnp.complex64)
    nodes = ronchigram.quadrature(instrument.focal_spread, 0.0, focal_nodes, 1)
    nodes = jax.tree.map(lambda leaf: leaf.astype(phases.dtype), nodes)
    intensity = ronchigram.ronchigram(
        phases, transmission, grid.radius, nodes, slice_defocus=instrument.thickness / SLICES
    )
    seen = over_y @ intensity.astype(jnp.float32) @ over_x.T
    return detector.expose(exposure, seen, faults).astype(jnp.float32)
