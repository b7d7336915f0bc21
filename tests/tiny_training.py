"""A training run of seconds, for the tests to kill: python tiny_training.py DIRECTORY MOMENT.

MOMENT: the start of a progress message at which the process kills itself, "save" for the middle of
the first checkpoint, "" for never. Noise of the stream's shapes stands in for the simulation, which
takes longer to compile than all the rest.
"""

import os
import signal
import sys
import threading
from pathlib import Path

import jax

from jaxcal import stream, training, vae
from jaxcal.simulation import Grid

CONFIG = dict(vae_rounds=5, map_rounds=4, replays=1, buffer=3, map_hidden=8, map_batch=8,
              map_epochs=2, save_every=2)


def noise(key, bucket):
    shapes = ((4, 128, 64), (4, 25), (4, len(stream.NUISANCES)))
    keys = jax.random.split(key, 3)
    return stream.Batch(*(
        jax.random.normal(k, s, "float32") for k, s in zip(keys, shapes, strict=True)))


def shrink():
    """Make a round of the stream tiny; returns the configuration of the run."""
    stream.BUCKETS = (stream.Bucket(Grid(64, 18.0), 0.0, 4.0, 1, 1),)
    training.HELD_BACK = 2
    training._batch = jax.jit(noise, static_argnums=1)
    return training.Config(
        **CONFIG, architecture=vae.Architecture(features=2, hidden=8, latents=3))


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_saving(folder):
    while True:
        if folder.exists() and any(folder.iterdir()):
            die()


def main(directory, moment):
    if moment == "save":
        folder = Path(directory) / "checkpoints"
        threading.Thread(target=die_while_saving, args=(folder,), daemon=True).start()

    def progress(message, fraction):
        print(f"{fraction:.3f} {message}", flush=True)
        if moment and message.startswith(moment):
            die()

    training.train(shrink(), directory, progress)


if __name__ == "__main__":
    main(*sys.argv[1:])
