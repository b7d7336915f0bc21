"""The supervised network: log spectrum of a frame -> its aberrations up to symmetry, emittance.

A spectrum tells the even aberrations p = (C10, C12a, C12b) up to their common sign, the odd ones
(C21, C23) up to theirs (Z2 x Z2). So the targets are the products p_i p_j / |p| of each block, six
and ten, which have no sign to choose and determine the block up to it, and the logarithm of the
emittance. Every target has a stated standard deviation: the loss is the Gaussian negative log
likelihood. The network is the encoder of jaxcal's autoencoder and starts from its trained weights:
that saves the ten minutes that are spent here most of the work.
"""

import time
from functools import lru_cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from benchmarks import provenance
from benchmarks.baselines import dataset, quality
from jaxcal import model as models
from jaxcal import vae

EVEN, ODD = slice(0, 3), slice(3, 7)
UNIT = {"even": 0.5, "odd": 0.1}  # waves, below which targets are linear
PAIRS = {"even": np.triu_indices(3), "odd": np.triu_indices(4)}
TARGETS = 17
TRAINED_ROUNDS = 540  # of the data set; the others judge
EPOCHS = 12
BATCH = 256
RATE = 1e-3
DECAY = 0.05
NOISE, LEFT_OUT = 0.6, 0.3  # sd of the noise added to log power, share of patches left out
TINY = 1e-12


def products(waves):
    """(16,) targets of the seven edge phases (7,), waves, of C10 ... C23."""
    parts = []
    for name, block in (("even", waves[EVEN]), ("odd", waves[ODD])):
        rows, columns = PAIRS[name]
        length = jnp.sqrt(jnp.sum(block**2) + TINY)
        parts.append(jnp.arcsinh(block[rows] * block[columns] / length / UNIT[name]))
    return jnp.concatenate(parts)


def untrained(seed: int = 0, pretrained=None):
    """The network; its first layers from a trained `jaxcal.vae.Vae` where one is given."""
    shape = pretrained.encoder.shape if pretrained else vae.Architecture()
    network = vae.Encoder(
        vae.Architecture(shape.rows, shape.columns, shape.patch, shape.features, shape.hidden,
                         TARGETS), rngs=nnx.Rngs(seed))
    if pretrained:
        for name in ("embed", "mix", "deep"):
            setattr(network, name, nnx.clone(getattr(pretrained.encoder, name)))
    return network


def disturbed(key, images):
    """Images with noise and with patches left out: the film must not be learnt by heart. What is
    kept counts for more, so that the layers see the sums of whole images."""
    noise, hole = jax.random.split(key)
    count, rows, columns = images.shape
    kept = jax.random.bernoulli(hole, 1 - LEFT_OUT, (count, rows // 8, columns // 8))
    kept = jnp.repeat(jnp.repeat(kept, 8, axis=1), 8, axis=2)
    noisy = images + NOISE * jax.random.normal(noise, images.shape, images.dtype)
    return kept * noisy / (1 - LEFT_OUT)


def loss(weights, graph, images, targets):
    """Mean Gaussian negative log likelihood of targets (B, 17)."""
    mean, log_variance = nnx.merge(graph, weights)(images.astype(jnp.float32))
    return 0.5 * jnp.mean((targets - mean) ** 2 * jnp.exp(-log_variance) + log_variance)


def targets_of(samples: dataset.Samples) -> np.ndarray:
    """(N, 17): products and log emittance."""
    waves = jnp.asarray(samples.waves, jnp.float32)
    return np.column_stack([np.asarray(jax.vmap(products)(waves[:, :7])),
                            quality.log_emittance(samples.waves)]).astype(np.float32)


@partial(jax.jit, static_argnames=("graph", "optimiser"))
def _epoch(key, weights, state, graph, optimiser, images, targets):
    def step(carry, batch):
        weights, state = carry
        key, images, targets = batch
        images = disturbed(key, images.astype(jnp.float32))
        value, gradient = jax.value_and_grad(loss)(weights, graph, images, targets)
        update, state = optimiser.update(gradient, state, weights)
        return (optax.apply_updates(weights, update), state), value

    (weights, state), values = jax.lax.scan(step, (weights, state),
                                              (jax.random.split(key, len(images)), images, targets))
    return weights, state, jnp.mean(values)


def train(samples: dataset.Samples, held: dataset.Samples, folder: Path, *, epochs: int = EPOCHS,
          pretrained=None, report=None):
    """Train into ``folder``; an interrupted call goes on after its last epoch.

    Returns:
        The network, and what was written of its training: losses and seconds.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "network.npz"
    batch = min(BATCH, len(samples.images))
    count = len(samples.images) // batch
    graph, weights = nnx.split(untrained(0, pretrained))
    optimiser = _optimiser(epochs, count)
    state = optimiser.init(weights)
    empty = (weights, state)
    leaves, tree = jax.tree.flatten(empty)
    losses, seconds, first = [], 0.0, 0
    if path.exists():
        with np.load(path) as file:
            if ((str(file["code"]), int(file["epochs"]), int(file["samples"]))
                    == (code(), epochs, len(samples.images))):
                leaves = [jnp.asarray(file[f"leaf{k}"]) for k in range(len(leaves))]
                losses, seconds = file["losses"].tolist(), float(file["seconds"])
                first = len(losses)
    weights, state = jax.tree.unflatten(tree, leaves)
    if first < epochs:
        targets, held_targets = targets_of(samples), targets_of(held)
    for epoch in range(first, epochs):
        start = time.perf_counter()
        order = np.random.default_rng(epoch).permutation(len(targets))[: count * batch]
        total, parts = 0.0, np.array_split(order.reshape(count, batch), max(1, count // 16))
        for number, part in enumerate(parts):  # a few thousand images at a time on the device
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(1), epoch), number)
            weights, state, value = _epoch(key, weights, state, graph, optimiser,
                                           jnp.asarray(samples.images[part]),
                                           jnp.asarray(targets[part]))
            total += float(value) * len(part) / count
        judged = float(_judge(weights, graph, jnp.asarray(held.images), jnp.asarray(held_targets)))
        losses.append((total, judged))
        seconds += time.perf_counter() - start
        leaves = jax.tree.leaves((weights, state))
        temporary = path.with_suffix(".tmp")
        with open(temporary, "wb") as file:
            np.savez(file, **{f"leaf{k}": np.asarray(leaf) for k, leaf in enumerate(leaves)},
                     losses=np.array(losses), seconds=seconds, epochs=epochs, code=code(),
                     samples=len(samples.images))
        temporary.replace(path)
        if report:
            report(f"epoch {epoch + 1}/{epochs}: {total:.3f}, held back {judged:.3f} nats")
    return nnx.merge(graph, weights), {"losses": losses, "seconds": seconds,
                                       "samples": len(samples.images)}


_judge = jax.jit(loss, static_argnames="graph")


def _optimiser(epochs, count):
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.cosine_onecycle_schedule(epochs * count, RATE), weight_decay=DECAY))


@lru_cache(maxsize=8)
def read(network):
    """The compiled network: log images (B, 128, 64) -> means and log variances (B, 17)."""
    compiled = jax.jit(lambda images: network(images))
    return lambda images: compiled(jnp.asarray(images, jnp.float32))


def load(folder: Path = dataset.FOLDER, report=None):
    """The trained network and its card, trained first where it is not there."""
    whole = _finished(Path(folder) / "network.npz")
    if whole:
        return whole
    samples = dataset.load(folder=folder, report=report)
    size = len(samples.images) // dataset.ROUNDS * TRAINED_ROUNDS
    trained, held = (dataset.Samples(*(field[part] for field in samples))
                     for part in (slice(None, size), slice(size, None)))
    return train(trained, held, folder, pretrained=models.load().vae, report=report)


def _finished(path: Path):
    """A network that was trained to the end by this code, without its data; None where not."""
    if not path.exists():
        return None
    with np.load(path) as file:
        if str(file["code"]) != code() or len(file["losses"]) != EPOCHS:
            return None
        graph, weights = nnx.split(untrained(0, models.load().vae))
        leaves, tree = jax.tree.flatten(weights)
        leaves = [jnp.asarray(file[f"leaf{k}"]) for k in range(len(leaves))]
        card = {"losses": file["losses"].tolist(), "seconds": float(file["seconds"]),
                "samples": int(file["samples"])}
    return nnx.merge(graph, jax.tree.unflatten(tree, leaves)), card


def code() -> str:
    """Digest of what the trained weights depend on, besides the package."""
    here = Path(__file__).parent
    return provenance.digest(*(here / f"{name}.py" for name in ("dataset", "network", "quality")))
