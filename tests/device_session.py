"""What one process computes on its devices: python device_session.py [PORT NUMBER OF].

With a port it joins OF processes at it. Prints one JSON object: how many devices there were and
what came out, which must not depend on them.
"""

import json
import sys
from threading import Barrier

import jax
import numpy as np
import tiny_training
import toys
from flax import nnx

from jaxcal import devices, em, stream, training, vae
from jaxcal.simulation import Grid

STATE, STEPS = np.array([1.2, -0.7]), np.array([[0, 0], [1.5, 0], [0, 1.5], [-1.5, 1.0]])
COUNT = 301  # candidates, no multiple of anything
em.BLOCK = 16 * len(STEPS)  # several blocks on each device


def candidates():
    """Log likelihoods, the gradient of the M-step, and a whole run of EM."""
    folded = toys.Folded()
    latents = folded.latents(np.random.default_rng(0), STATE + STEPS, folded.prior.mean)
    data = toys.experiment(STEPS, latents, dtype="float32")
    parameters = em.initial_parameters(folded.map, data)
    positions = em.draw(jax.random.key(0), data, COUNT)
    score = jax.jit(lambda p, q, d: em.score_all(p, q, d, folded.map))
    slope = jax.jit(jax.grad(lambda q, p, d: em.objective(q, p, d, folded.map)[0]))
    found = em.run(jax.random.key(1), data, folded.map, em.Settings(candidates=200, iterations=2))
    return {"score": score(positions, parameters, data),
            "slope": jax.tree.leaves(slope(parameters, positions[:40], data)),
            "posterior": found.candidates.positions.mean(0), "evidences": found.evidences}


def training_step():
    """Simulated spectra, and the weights after a step of the VAE on them."""
    bucket = stream.Bucket(Grid(64, 18.0), 0.0, 4.0, 3, 1)
    made = jax.jit(stream.batch, static_argnums=1)(jax.random.key(2), bucket)
    config = tiny_training.shrink()
    graph, weights = nnx.split(vae.Vae(config.architecture, rngs=nnx.Rngs(0)))
    optimiser = training.vae_optimiser(config).init(weights)
    weights, _, terms = training.vae_step(
        jax.random.key(3), weights, optimiser, np.asarray(made.spectra), graph, config)
    return {"spectra": made.spectra.mean((1, 2)), "elbo": terms.value,
            "weights": np.concatenate([np.asarray(w).ravel() for w in jax.tree.leaves(weights)])}


def instruments():
    """What comes of an instrument for each device of this host, all at the same time, and how many
    devices it took."""
    together = Barrier(jax.local_device_count(), timeout=60.0)

    @jax.jit
    def estimate(seed):
        return jax.random.normal(jax.random.key(seed), (3,))

    def one(seed):
        together.wait()  # a device that was given twice would leave the others waiting
        return estimate(seed)

    made = list(devices.each(one, range(jax.local_device_count())))
    return made[0], len(set().union(*(answer.devices() for answer in made)))


def main(port=None, number=0, of=1):
    if port is not None:
        jax.distributed.initialize(f"127.0.0.1:{port}", int(of), int(number))
    with jax.set_mesh(devices.mesh()):
        made = {**candidates(), **training_step()}
    made["instrument"], used = instruments()
    made = jax.tree.map(lambda leaf: np.asarray(leaf, float).tolist(), made)
    print(json.dumps({"devices": jax.device_count(), "used": used,
                      "share": devices.share(range(7)), **made}))


if __name__ == "__main__":
    main(*sys.argv[1:])
