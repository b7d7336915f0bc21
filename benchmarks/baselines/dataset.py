"""Simulated frames to train and tune the baselines on: the stream of jaxcal's own model.

The same draws of optics, instruments and states as :mod:`jaxcal.stream`, kept with what the scalar
methods measure on a frame and the stream leaves out: the variance of its contrast.
"""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import provenance
from benchmarks.baselines import quality
from jaxcal import aberrations, simulation, spectra, stream

FOLDER = provenance.ROOT / "build" / "baselines"
SEED = 20_000  # of the stream; instruments with seeds from here on are for tuning only
ROUNDS = 600


class Samples(NamedTuple):
    """images: (N, 128, 64) log spectra; waves: (N, 25) edge phases; nuisances: (N, R);
    variance: (N,) log weighted variance of the frame."""

    images: np.ndarray
    waves: np.ndarray
    nuisances: np.ndarray
    variance: np.ndarray


def simulate(key, bucket: stream.Bucket) -> Samples:
    """One frame in four orientations, as `jaxcal.stream.simulate` makes it, with its variance."""
    optics_key, instrument_key, state_key, frame_key, disc_key = jax.random.split(key, 5)
    per_nm, unit = stream.draw_optics(optics_key)
    instrument = simulation.draw_instrument(instrument_key, per_nm, unit)
    if bucket.slices == 1:
        instrument = instrument._replace(thickness=jnp.zeros((), jnp.float32))
    waves = stream.draw_state(state_key, bucket.lowest, bucket.highest)
    waves = waves + instrument.residual / (2 * jnp.pi)
    frame = simulation.frame(
        frame_key, instrument, 2 * jnp.pi * waves, bucket.grid, slices=bucket.slices,
        side=bucket.grid.side)
    middle = bucket.grid.side // 2
    wrong = 0.004 * jax.random.normal(disc_key, (3,), jnp.float32)
    disc = spectra.Disc(*(middle + wrong[:2] * bucket.grid.radius),
                        bucket.grid.radius * (1 + wrong[2]))
    power = spectra.power_spectrum(frame, disc)
    turned = spectra.power_spectrum(
        frame.T, spectra.Disc(disc.row, disc.column, disc.radius))
    images = [spectra.log_image(power), spectra.log_image(turned)]
    states = [waves, aberrations.transpose(waves)]
    nuisance = stream.nuisance_vector(instrument)
    fixed = aberrations.indices(stream.FIXED)
    made = []
    for image, state in zip(images, states, strict=True):
        for im, st in ((image, state), (spectra.flip(image), aberrations.flip(state))):
            made.append((im, st, nuisance.at[-len(stream.FIXED):].set(st[fixed]),
                         quality.log_variance(power)))
    return Samples(*(jnp.stack(field) for field in zip(*made, strict=True)))


@cache
def _compiled():
    def batch(key, bucket):
        made = jax.lax.map(lambda k: simulate(k, bucket), jax.random.split(key, bucket.frames))
        return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), made)

    return jax.jit(batch, static_argnums=1)


def one_round(seed: int, index: int, buckets=stream.BUCKETS) -> Samples:
    """Round ``index``: a batch of every bucket, images in half precision."""
    key = jax.random.fold_in(jax.random.key(seed), index)
    parts = [_compiled()(jax.random.fold_in(key, number), bucket)
             for number, bucket in enumerate(buckets)]
    made = Samples(*(np.concatenate([np.asarray(a) for a in field])
                     for field in zip(*parts, strict=True)))
    return made._replace(images=made.images.astype(np.float16))


def load(rounds: int = ROUNDS, folder: Path = FOLDER, seed: int = SEED, report=None,
         buckets=stream.BUCKETS) -> Samples:
    """``rounds`` rounds, from the folder as far as an earlier call made them.

    Every round is one file, written whole or not at all: a call that was killed is taken up again.
    """
    folder = Path(folder) / "rounds"
    folder.mkdir(parents=True, exist_ok=True)
    wanted = {"seed": seed, "code": provenance.code(),
              "quality": provenance.digest(quality.__file__),
              "buckets": json.loads(json.dumps([bucket._asdict() for bucket in buckets]))}
    claim = folder / "settings.json"
    if not claim.exists() or json.loads(claim.read_text()) != wanted:
        for old in folder.glob("*.npz"):
            old.unlink()
        claim.write_text(json.dumps(wanted))
    parts = []
    for index in range(rounds):
        path = folder / f"{index:05d}.npz"
        if not path.exists():
            made = one_round(seed, index, buckets)
            temporary = path.with_suffix(".tmp")
            with open(temporary, "wb") as file:
                np.savez(file, **made._asdict())
            temporary.replace(path)
            if report:
                report(f"round {index + 1}/{rounds} simulated")
        with np.load(path) as file:
            parts.append(Samples(**{name: file[name] for name in Samples._fields}))
    return Samples(*(np.concatenate(field) for field in zip(*parts, strict=True)))
