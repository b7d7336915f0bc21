"""Focus and astigmatism of a telescope, found by the same EM.

    python scripts/telescope.py [--instruments 12] [--samples 6000]

A camera sees unknown sources through a pupil with a deformable mirror, whose steps are known. The
image's power spectrum is the source's times |OTF|^2, which stays the same when all even aberrations
change sign (the point-spread function becomes its point mirror): a group of two. Simulated, for
training: a clear pupil, one wavelength, Gaussian random sources. Seen: a central obscuration,
seeing, three other wavelengths, star fields. `jaxcal.em` and `jaxcal.latent_map` are used as they
are. Prints errors and standard deviations and writes ``benchmarks/results/telescope.json`` and the
table in ``docs/results.md``, `scripts/figures.py --only telescope` draws them. The exit status is 0
where the rms error is at most a fifth of the prior's deviation and 1.5 times what is stated.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from telescope_simulator import REAL, image, log_spectrum, simulate, star_field

from jaxcal import em, latent_map, modes

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks import provenance  # noqa: E402

KNOBS = ("focus", "astigmatism 0", "astigmatism 45")  # Zernike, nm rms
WAVELENGTH_NM, SPREAD = 550.0, 0.02  # nominal; sd of the log of the effective one
PRIOR_NM, STEP_NM = 50.0, 70.0  # sd of the hidden state; step of the mirror
LATENTS, HIDDEN = 8, 48
STEPS_NM = STEP_NM * np.array([[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, 0, 1.0]])
# Even aberrations change sign together; spherical aberration, a nuisance, is one of them.
GROUP = latent_map.Symmetry(((1.0,) * 3, (-1.0,) * 3), ((1.0, 1.0, 1.0), (-1.0, 1.0, 1.0)))
STATE_SCALE = (0.15,) * 3  # waves rms
SETTINGS = em.Settings(candidates=1024, iterations=4)


def train(samples: int = 6000, epochs: int = 60, seed: int = 0):
    """A compressor, spectra (N, B) -> latents (N, D), and the map from states, waves rms, to the
    latents: principal components of simulated spectra, and a network fitted to them."""
    random = np.random.default_rng(seed)
    reach = (3 * PRIOR_NM + STEP_NM) / WAVELENGTH_NM
    states = random.uniform(-reach, reach, (samples, 3)).astype(np.float32)
    nuisances = random.standard_normal((samples, 3)).astype(np.float32)
    keys = jax.random.split(jax.random.key(seed), samples)
    spectra = np.concatenate([simulate(keys[k : k + 50], states[k : k + 50], nuisances[k : k + 50])
                              for k in range(0, samples, 50)])
    mean = spectra.mean(0)
    _, sizes, rows = np.linalg.svd(spectra - mean, full_matrices=False)
    rows = rows[:LATENTS] * np.sqrt(samples) / sizes[:LATENTS, None]

    def compress(spectra):
        return (spectra - mean) @ rows.T

    network = latent_map.MapNetwork(GROUP, STATE_SCALE, LATENTS, HIDDEN, rngs=nnx.Rngs(seed))
    network = fit(network, (states, nuisances, compress(spectra)), epochs)
    return compress, em.Map(network, np.array(GROUP.states), np.array(STATE_SCALE),
                            latent_map.SIMULATED_PRIOR)


def fit(network, rows, epochs: int, batch: int = 100):
    """Maximum likelihood of latents (N, D) at states (N, 3) and nuisances (N, 3), by Adam."""
    graph, weights = nnx.split(network)
    steps, rows = len(rows[0]) // batch, tuple(jnp.asarray(part, jnp.float32) for part in rows)
    rule = optax.adam(optax.cosine_decay_schedule(3e-3, epochs * steps))

    def loss(weights, chosen):
        predict = nnx.merge(graph, weights)
        density = jax.vmap(lambda x, n, z: latent_map.log_density(predict(x), z, n))
        return -density(*(part[chosen] for part in rows)).mean()

    def step(carry, chosen):
        weights, state = carry
        update, state = rule.update(jax.grad(loss)(weights, chosen), state)
        return (optax.apply_updates(weights, update), state), None

    random = np.random.default_rng(0)
    order = [random.permutation(len(rows[0]))[: steps * batch] for _ in range(epochs)]
    order = np.concatenate(order).reshape(-1, batch)
    start = (weights, rule.init(weights))
    return nnx.merge(graph, jax.jit(lambda carry: jax.lax.scan(step, carry, order)[0][0])(start))


def observe(seed: int, compress, telescope=REAL, source=star_field):
    """Hidden state (3,) nm and the latents (T, D) of images of T sources, one for each step."""
    random, keys = np.random.default_rng([seed, 1]), jax.random.split(jax.random.key(seed), 5)
    hidden = PRIOR_NM * random.standard_normal(3)
    nuisances = random.standard_normal(3).astype(np.float32)
    waves = jnp.asarray((hidden + STEPS_NM) / WAVELENGTH_NM, jnp.float32)
    spectra = [log_spectrum(image(noise, source(field), state, nuisances, telescope))
               for (field, noise), state in zip(map(jax.random.split, keys), waves, strict=True)]
    return hidden, compress(np.array(spectra))


def estimate(seed: int, latents, map_: em.Map, frames: int = len(STEPS_NM)):
    """EM on the first images: candidates (N, 3), mean and sd (3,) of the largest mode, nm."""
    noise = np.where(np.arange(len(STEPS_NM)) < frames, 1.0, em.EXCLUDED)
    data = em.Experiment(*(jnp.asarray(field, jnp.float32) for field in (
        STEPS_NM, latents, noise, np.full(3, 1 / WAVELENGTH_NM), -np.ones(3),
        np.full(3, PRIOR_NM), SPREAD, np.zeros((3, 3)))))
    found = em.run(jax.random.key(seed), data, map_, SETTINGS)
    positions = np.asarray(found.candidates.positions, float)[:, :3]
    best = positions[modes.members(positions)[0]]
    return positions, best.mean(0), best.std(0)


def markdown(result) -> str:
    """Table for the documentation."""
    error, sd = (np.array([run[name] for run in result["runs"]]) for name in ("error_nm", "sd_nm"))
    rows = [(name, *(f"{np.sqrt(np.mean(x**2)):.{n}f}" for x, n in ((e, 1), (s, 1), (e / s, 2))),
             ", ".join(f"{x:.1f}" for x in np.quantile(np.abs(e), (0.25, 0.5, 0.75, 1.0))))
            for name, e, s in zip((*KNOBS, "all"), (*error.T, error), (*sd.T, sd), strict=True)]
    head = ("nm rms", "rms error", "stated sd", "rms error/sd", "abs. error: quartiles, largest")
    sampled = provenance.sampled("instruments", [run["seed"] for run in result["runs"]],
                                 f"{len(STEPS_NM)} images each")
    return f"{provenance.markdown(head, rows)}\n\n{sampled} {provenance.source(result)}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, default=12)
    parser.add_argument("--samples", type=int, default=6000, help="simulated images to train on")
    parser.add_argument("--json", default=provenance.RESULTS / "telescope.json")
    parser.add_argument("--document", default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    compress, map_ = train(options.samples)
    runs = []
    for seed in range(options.instruments):
        hidden, latents = observe(seed, compress)
        _, mean, sd = estimate(seed, latents, map_)
        runs.append({"seed": seed, "hidden_nm": hidden.tolist(), "sd_nm": sd.tolist(),
                     "error_nm": (mean - hidden).tolist()})
        print(f"{seed}: " + ", ".join(f"{name} {h:+.0f}, error {m - h:+.1f} ± {s:.1f} nm" for
                                      name, h, m, s in zip(KNOBS, hidden, mean, sd, strict=True)))
    error, sd = (np.array([run[name] for run in runs]) for name in ("error_nm", "sd_nm"))
    left, z = (float(np.sqrt(np.mean(x**2))) for x in (error, error / sd))
    result = {"benchmark": "telescope", "provenance": provenance.provenance(), "runs": runs,
              "samples": options.samples, "rms_nm": left, "rms_z": z}
    provenance.publish(result, "telescope", markdown(result), options.json, options.document)
    print(f"rms error {left:.1f} nm of {PRIOR_NM:.0f} nm, {z:.2f} times what is stated")
    return int(left > PRIOR_NM / 5 or z > 1.5)


if __name__ == "__main__":
    sys.exit(main())
