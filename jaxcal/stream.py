"""The endless stream of simulated spectra a model is trained on.

One batch is a pure function of a random key: optics, instruments and states are drawn, frames
simulated on the smallest grid that samples them, and each frame used in four orientations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxcal import aberrations, devices, ronchigram, simulation, spectra
from jaxcal.optics import Optics, edge_phases
from jaxcal.simulation import Grid


class Bucket(NamedTuple):
    """A grid, the slopes it is used for (waves of equivalent defocus), frames per batch, and slices
    of the film."""

    grid: Grid
    lowest: float
    highest: float
    frames: int
    slices: int


#: Steeper states need finer grids: half a wave per pixel at the edge at most, but for what the
#: fixed residuals add, a few per cent.
BUCKETS = (
    Bucket(Grid(256, 72.0), 0.0, 18.0, 10, 1),
    Bucket(Grid(256, 72.0), 0.0, 18.0, 6, 2),
    Bucket(Grid(384, 120.0), 15.0, 30.0, 8, 1),
    Bucket(Grid(512, 180.0), 25.0, 45.0, 5, 1),
    Bucket(Grid(768, 280.0), 40.0, 70.0, 3, 1),
)

KNOBS = ("C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b")
FIXED = ("C30", "C32a", "C32b", "C34a", "C34b")
COMA_WAVES = 2.1  # C21 and C23 of 1 um at 200 kV and 25 mrad

#: What the latents depend on besides the state: the film's spectrum and dose, coherence, camera.
NUISANCES = (
    *(f"film{k}" for k in range(len(simulation.specimen.KNOTS))),
    "electrons", "focal_spread", "thickness", "blur", "pixel", "scintillator", "tail", *FIXED,
)


class Batch(NamedTuple):
    """Log spectra (B, ROWS, COLUMNS), edge phases in waves (B, 25), nuisances (B, R)."""

    spectra: jax.Array
    waves: jax.Array
    nuisances: jax.Array


ENERGIES_KEV = np.array([30.0, 40.0, 60.0, 80.0, 100.0, 120.0, 200.0, 200.0, 300.0, 300.0])
SEMI_ANGLES_MRAD = (14.0, 33.0)


def draw_optics(key):
    """Random optics: edge phases per nm (25,) and semi-angle/wavelength, 1/nm."""
    table = np.array([edge_phases(Optics(e, 20.0, 0.2)) for e in ENERGIES_KEV], np.float32)
    units = np.array([1 / Optics(e, 20.0, 0.2).length_unit_nm for e in ENERGIES_KEV], np.float32)
    which, angle = jax.random.split(key)
    row = jax.random.randint(which, (), 0, len(ENERGIES_KEV))
    ratio = jax.random.uniform(angle, (), jnp.float32, *SEMI_ANGLES_MRAD) / 20.0
    power = jnp.asarray(aberrations.ORDER + 1, jnp.float32)
    return jnp.asarray(table)[row] * ratio**power, jnp.asarray(units)[row] * ratio


def draw_state(key, lowest: float, highest: float):
    """Edge phases (25,), waves, of random C10 ... C23 whose slope is at most one of the range.

    The slope is that of the equivalent defocus, max|grad W|/2: those of C10 and C12 and of C21 and
    C23 add up to one drawn from the range, that of their sum is between half of it and all. C21
    and C23 are small in half of the draws, C10 and C12 of comparable size.
    """
    first, coma, small, size, many = jax.random.split(key, 5)
    comas = jax.random.uniform(coma, (4,), jnp.float32, -COMA_WAVES, COMA_WAVES)
    few = 0.1 * jax.random.normal(small, (4,), jnp.float32)
    comas = jnp.where(jax.random.bernoulli(many), comas, few)
    low = jax.random.uniform(first, (3,), jnp.float32, -1.0, 1.0)
    target = lowest + (highest - lowest) * jax.random.uniform(size, (), jnp.float32)
    state = jnp.zeros(25, jnp.float32)
    coma_state, low_state = state.at[3:7].set(comas), state.at[:3].set(low)
    shrink = jnp.minimum(1.0, 0.7 * target / slope(coma_state))
    coma_state = coma_state * shrink
    rest = jnp.maximum(target - slope(coma_state), 0.0)
    return coma_state + low_state * (rest / slope(low_state))


def slope(waves):
    """max|grad W|/2 inside the aperture, waves, of edge phases (25,) in waves."""
    return ronchigram.steepest_slope(waves * (2 * jnp.pi)) / 2


def nuisance_vector(instrument: simulation.Instrument):
    """(R,) nuisances in the order of NUISANCES."""
    fixed = instrument.residual[aberrations.indices(FIXED)] / (2 * jnp.pi)
    logs = [jnp.log(instrument.electrons), instrument.focal_spread, instrument.thickness,
            100 * instrument.blur, 100 * instrument.pixel, instrument.scintillator,
            instrument.tail]
    return jnp.concatenate([instrument.log_amplitude, jnp.stack(logs), fixed])


def simulate(key, bucket: Bucket) -> Batch:
    """One frame in four orientations, as a Batch of 4 (a square lattice's mirror images)."""
    optics_key, instrument_key, state_key, frame_key, disc_key = jax.random.split(key, 5)
    per_nm, unit = draw_optics(optics_key)
    instrument = simulation.draw_instrument(instrument_key, per_nm, unit)
    if bucket.slices == 1:
        instrument = instrument._replace(thickness=jnp.zeros((), jnp.float32))
    waves = draw_state(state_key, bucket.lowest, bucket.highest)
    waves = waves + instrument.residual / (2 * jnp.pi)
    frame = simulation.frame(
        frame_key, instrument, 2 * jnp.pi * waves, bucket.grid, slices=bucket.slices,
        side=bucket.grid.side)
    middle = bucket.grid.side // 2
    wrong = 0.004 * jax.random.normal(disc_key, (3,), jnp.float32)  # errors of the measured disc
    disc = spectra.Disc(*(middle + wrong[:2] * bucket.grid.radius),
                        bucket.grid.radius * (1 + wrong[2]))
    images = [spectra.power_spectrum(frame, disc),
              spectra.power_spectrum(frame.T, spectra.Disc(disc.row, disc.column, disc.radius))]
    images = [spectra.log_image(image) for image in images]
    turned = aberrations.transpose(waves)
    nuisance = nuisance_vector(instrument)

    def entry(image, waves):
        fixed = waves[aberrations.indices(FIXED)]
        return image, waves, nuisance.at[-len(FIXED):].set(fixed)

    entries = [entry(images[0], waves), entry(spectra.flip(images[0]), aberrations.flip(waves)),
               entry(images[1], turned), entry(spectra.flip(images[1]), aberrations.flip(turned))]
    return Batch(*(jnp.stack(field) for field in zip(*entries, strict=True)))


def batch(key, bucket: Bucket) -> Batch:
    """``bucket.frames`` frames, hence four times as many spectra."""
    keys = jax.random.split(key, bucket.frames)
    out = devices.in_parts(jax.vmap(lambda k: simulate(k, bucket)), keys)
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), out)
