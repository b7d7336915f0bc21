"""jaxcal's EM with one scalar of a frame in place of its latents.

The same `jaxcal.em.run`, prior, symmetry, nuisances and gap; only z is a single number, and its
map from states is fitted to simulated frames as the latents' map is. The scalars are those of
:mod:`benchmarks.baselines.quality`: the logarithm of the weighted variance, or that of the
emittance as the network reads it. The settings are those of the latents.
"""

import math
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from benchmarks.baselines import dataset, network, quality
from benchmarks.baselines.interface import Answer, Seen, power_of
from jaxcal import basins, em, latent_map, training, vae
from jaxcal import model as models

SCALARS = ("variance", "emittance")
HIDDEN = 64
EPOCHS = 30
PRIORS = {  # of the process, chosen by :mod:`benchmarks.tuning`
    "variance": latent_map.SIMULATED_PRIOR._replace(
        mean=latent_map.SIMULATED_PRIOR.mean._replace(log_noise=math.log(0.5))),
    "emittance": latent_map.SIMULATED_PRIOR,
}
MAP_ROUNDS = 60  # the last rounds of the data set: the network has not seen them


def measure(frame, optics, trained=None) -> dict:
    """{scalar: value} of a frame: log variance and, with a network, log emittance."""
    power, image = power_of(frame, optics)
    found = {"variance": float(quality.log_variance(power))}
    if trained is not None:
        found["emittance"] = float(network.read(trained)(np.asarray(image)[None])[0][0, -1])
    return found


def fit(scalars, samples: dataset.Samples, epochs: int = EPOCHS, report=None,
        prior=latent_map.SIMULATED_PRIOR):
    """Map of one scalar (N,) of simulated samples: (`em.Map`, standard deviation, mean)."""
    middle = float(np.mean(scalars))
    rows = {"latents": (np.asarray(scalars, np.float32) - middle)[:, None],
            "waves": samples.waves, "nuisances": samples.nuisances}
    standard = models.standardise(rows["latents"], rows["nuisances"])
    config = training.Config(map_hidden=HIDDEN, map_epochs=epochs, map_batch=256,
                             architecture=replace(vae.Architecture(), latents=1))
    weights, _ = training.fit_map(config, standard, rows, report or (lambda message, part: None))
    fitted = models.map_network(1, HIDDEN)
    fitted = nnx.merge(nnx.split(fitted)[0], weights)
    made = em.Map(fitted, np.asarray(fitted.symmetry.states, np.float32),
                  np.asarray(models.STATE_SCALE, np.float32), prior)
    return made, float(standard.latent_sd[0]), middle


def load(trained, folder: Path = dataset.FOLDER, report=None) -> dict:
    """{scalar: fitted map} of the rounds that the network was not trained on; kept in the folder.
    """
    samples = dataset.load(folder=folder, report=report)
    size = len(samples.images) // dataset.ROUNDS
    last = dataset.Samples(*(field[-MAP_ROUNDS * size:] for field in samples))
    read = network.read(trained)
    emittance = np.concatenate([np.asarray(read(part)[0])[:, -1]
                                for part in np.array_split(last.images, 16)])
    return {"variance": fit(samples.variance, samples, report=report, prior=PRIORS["variance"]),
            "emittance": fit(emittance, last, report=report, prior=PRIORS["emittance"])}


def estimate(seen: Seen, count: int, seed: int, fitted, values, length: int | None = None,
             settings: em.Settings = em.DEFAULT) -> Answer:
    """The answer from the first ``count`` frames.

    Args:
        fitted: of `fit`; values: (T,) the scalar of each frame of the series.
    """
    start = time.perf_counter()
    good, _, optics = seen.usable(count)
    made, spread, middle = fitted
    series = seen.series
    latents = ((np.asarray(values)[good] - middle) / spread)[:, None]
    data = basins.experiment(latents, series.knobs_nm[good], series.knob_names, optics,
                             length=max(length or count, len(good)))
    result = em.run(jax.random.key(seed), data, made, settings)
    return from_candidates(result.candidates.positions, series, time.perf_counter() - start)


def from_candidates(positions, series, seconds: float) -> Answer:
    """The mean of the largest mode, as `jaxcal.estimation` takes it, and the spread about it."""
    from jaxcal import modes

    columns = [basins.STATES.index(name) for name in series.knob_names]
    cloud = np.asarray(positions, float)[:, columns]
    x0 = cloud[modes.members(cloud)[0]].mean(0)
    return Answer(-x0, np.sqrt(np.mean((cloud - x0) ** 2, axis=0)), seconds)
