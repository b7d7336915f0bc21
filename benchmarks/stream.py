"""The stream of simulated spectra that a model is trained on: how many a second, by grid.

One batch of each of the stream's buckets: optics, instruments, states and films drawn, frames
simulated with their camera, and of each frame four spectra, as its mirror images have. No other
program does that; `simulate` is a frame of it beside others. On an accelerator larger batches are
asked for as well. Beside it stands the share of a batch that is not a number: none should be.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp

from benchmarks import timing
from jaxcal import stream

LARGER = 16  # times the frames, on an accelerator


def cases():
    """Buckets of the stream, and larger ones where there is an accelerator."""
    larger = [bucket._replace(frames=LARGER * bucket.frames) for bucket in stream.BUCKETS]
    return [*stream.BUCKETS, *(larger if jax.default_backend() != "cpu" else ())]


def run(repetitions: int = timing.REPETITIONS, buckets=None) -> Iterator[dict]:
    """One entry a bucket."""
    batch, key = jax.jit(stream.batch, static_argnums=1), jax.random.key(0)
    for bucket in buckets or cases():
        took = timing.measure(batch, key, bucket, repetitions=repetitions)
        spectra = took.value.spectra
        yield timing.entry(
            "stream", {"size": bucket.grid.size, "slices": bucket.slices, "frames": bucket.frames},
            {"jaxcal": took}, len(spectra), "spectra", jnp.mean(~jnp.isfinite(spectra)),
            dtype=spectra.dtype)
