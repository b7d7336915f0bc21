"""Training: simulated stream -> VAE -> simulated map. Resumable after a kill at any moment.

Two phases. First the VAE learns from the stream, each simulated batch followed by steps on
batches drawn from a buffer of recent ones. Then the encoder is frozen and rounded to the
precision it is stored in, and the stream becomes rows (state, nuisances, latents) to which the
map is fitted. Everything is a function of the seed and the round, and a checkpoint holds all that
the next round needs; a run that was killed ends with the same weights as one that was not.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx

from jaxcal import devices, latent_map, model, spectra, stream, vae
from jaxcal.files import write_text

BIN_WEIGHT = 0.5  # neighbouring bins share the window's width: they count half
WEIGHT = spectra.MASK * BIN_WEIGHT
HELD_BACK = 6  # rounds that are never trained on


@dataclass(frozen=True)
class Config:
    """Sizes of a training run; written beside the weights.

    rounds: of the stream, for the VAE and for the map; replays: VAE steps on the buffer per
    round, besides the one on the fresh batch; buffer: rounds it holds; epochs: over the rows of
    the map; save_every: rounds between checkpoints.
    """

    seed: int = 0
    vae_rounds: int = 1500
    map_rounds: int = 1200
    replays: int = 2
    buffer: int = 64
    vae_rate: float = 3e-3
    map_rate: float = 3e-3
    map_hidden: int = 128
    map_batch: int = 512
    map_epochs: int = 30
    save_every: int = 50
    architecture: vae.Architecture = field(default_factory=vae.Architecture)

    def __post_init__(self):
        for name in ("vae_rounds", "map_rounds", "buffer", "map_epochs", "save_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


class State(NamedTuple):
    """All that the next round needs: weights, optimiser, buffer and rows; ``round`` comes next."""

    round: np.ndarray
    weights: dict
    optimiser: tuple
    buffer: np.ndarray
    rows: dict


def round_size() -> int:
    """Spectra in one round of the stream."""
    return 4 * sum(bucket.frames for bucket in stream.BUCKETS)


_batch = jax.jit(stream.batch, static_argnums=1)


def simulate_round(seed: int, index: int) -> stream.Batch:
    """Round ``index`` of the stream: a batch of every bucket. Held-back rounds are negative.

    The buckets are simulated side by side: one alone does not keep several cores busy. Where each
    is spread over several devices, they take turns.
    """
    key = jax.random.fold_in(jax.random.key(seed), index + 2**20)

    def part(number):
        made = _batch(jax.random.fold_in(key, number), stream.BUCKETS[number])
        return jax.tree.map(np.asarray, made)

    run = map if devices.count() > 1 else devices.side_by_side
    parts = list(run(part, reversed(range(len(stream.BUCKETS)))))  # the costly ones first
    return jax.tree.map(lambda *a: np.concatenate(a), *reversed(parts))


def schedule(rate: float, steps: int):
    """Warm-up and cosine decay to zero."""
    return optax.warmup_cosine_decay_schedule(0.0, rate, min(200, steps // 10 + 1), steps)


def vae_optimiser(config: Config):
    """AdamW on clipped gradients: bright bins of an unlearnt spectrum would drown the rest."""
    steps = config.vae_rounds * (1 + config.replays)
    return optax.chain(
        optax.clip_by_global_norm(0.2),
        optax.adamw(schedule(config.vae_rate, steps), weight_decay=1e-4))


def vae_loss(weights, graph, key, images):
    """Negative ELBO of images (B, rows, columns), in hundreds of nats, and its parts' means."""
    def part(rows, weights):
        noise, images = rows
        return vae.elbo(noise, nnx.merge(graph, weights), images, jnp.asarray(WEIGHT, images.dtype))

    noise = vae.draws(key, nnx.merge(graph, weights), images)
    terms = devices.in_parts(part, (noise, images), weights)
    terms = jax.tree.map(jnp.mean, terms)
    return -terms.value / 100.0, terms


@partial(jax.jit, static_argnames=("graph", "config"))
def vae_step(key, weights, optimiser, images, graph, config: Config):
    """One gradient step; returns weights, optimiser state and the ELBO's parts."""
    gradient, terms = jax.grad(vae_loss, has_aux=True)(
        weights, graph, key, images.astype(jnp.float32))
    update, optimiser = vae_optimiser(config).update(gradient, optimiser, weights)
    return optax.apply_updates(weights, update), optimiser, terms


@partial(jax.jit, static_argnames=("graph",))
def encode(weights, images, graph):
    """Latent means (B, D) of images."""
    return nnx.merge(graph, weights).encoder(images.astype(jnp.float32))[0]


@partial(jax.jit, static_argnames=("graph",))
def held_back_elbo(weights, images, graph):
    """The ELBO's parts on held-back images, with a fixed draw of the latents."""
    return vae_loss(weights, graph, jax.random.key(1), images.astype(jnp.float32))[1]


def map_loss(weights, graph, states, nuisances, latents):
    """Mean negative log density of the latents, nats."""
    network = nnx.merge(graph, weights)
    each = jax.vmap(lambda x, n, z: latent_map.log_density(network(x), z, n))
    return -jnp.mean(each(states, nuisances, latents))


def fit_map(config: Config, standard: model.Standardisation, rows: dict, report):
    """Fit the map network to the rows; returns weights and the losses by epoch."""
    network = model.map_network(config.architecture.latents, config.map_hidden, config.seed)
    graph, weights = nnx.split(network)
    states, latents = rows["waves"][:, : model.STATES], rows["latents"] / standard.latent_sd
    nuisances = standard.whiten(rows["nuisances"])
    held = round_size() * HELD_BACK
    count = len(states) - held
    batch = min(config.map_batch, count)
    steps = config.map_epochs * max(1, count // batch)
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule(config.map_rate, steps), weight_decay=1e-3))
    state = optimiser.init(weights)

    @jax.jit
    def epoch(weights, state, order):
        def step(carry, chosen):
            weights, state = carry
            loss, gradient = jax.value_and_grad(map_loss)(
                weights, graph, *(a[chosen] for a in data))
            update, state = optimiser.update(gradient, state, weights)
            return (optax.apply_updates(weights, update), state), loss

        (weights, state), losses = jax.lax.scan(step, (weights, state), order)
        return weights, state, jnp.mean(losses)

    data = [jnp.asarray(a, jnp.float32) for a in (states, nuisances, latents)]
    test = [a[:held] for a in data]
    data = [a[held:] for a in data]
    evaluate = jax.jit(lambda w: map_loss(w, graph, *test))
    losses = []
    for number in range(config.map_epochs):
        order = np.random.default_rng((config.seed, number)).permutation(count)
        order = order[: count // batch * batch].reshape(-1, batch)
        weights, state, loss = epoch(weights, state, order)
        losses.append({"epoch": number, "loss": float(loss), "held_back": float(evaluate(weights))})
        report(f"map, epoch {number + 1}: {losses[-1]['held_back']:.3f} nats held back",
               0.95 + 0.05 * (number + 1) / config.map_epochs)
    return weights, losses


def train(config: Config, directory, progress: Callable | None = None) -> Path:
    """Train a model into ``directory``; picks up where an earlier run of it stopped.

    Writes ``model.safetensors`` (weights), ``model.json`` (configuration, seed, ranges, losses,
    versions) and, while running, ``checkpoints/`` and ``losses.jsonl``.

    Args:
        progress: called with (message, fraction of the whole).

    Returns:
        The path of ``model.safetensors``.

    Raises:
        ValueError: the directory holds a run of another configuration.
    """
    report = progress or (lambda message, fraction: None)
    directory = Path(directory).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    _claim(directory, config)
    since = time.time()
    graph, weights = nnx.split(vae.Vae(config.architecture, rngs=nnx.Rngs(config.seed)))
    held = [simulate_round(config.seed, -1 - i) for i in range(HELD_BACK)]
    held = jax.tree.map(lambda *a: np.concatenate(a), *held)
    shape = (config.buffer * round_size(), spectra.ROWS, spectra.COLUMNS)
    capacity = (HELD_BACK + config.map_rounds) * round_size()
    pure = nnx.to_pure_dict(weights)
    empty = State(
        np.zeros((), np.int64), pure, vae_optimiser(config).init(nnx.State(pure)),
        np.zeros(shape, np.float16),
        {"waves": np.zeros((capacity, 25), np.float32),
         "nuisances": np.zeros((capacity, len(stream.NUISANCES)), np.float32),
         "latents": np.zeros((capacity, config.architecture.latents), np.float32)})
    total = config.vae_rounds + config.map_rounds
    with ocp.CheckpointManager(
        directory / "checkpoints", options=ocp.CheckpointManagerOptions(max_to_keep=2)
    ) as manager:
        state = _restore(manager, empty)
        _keep_losses(directory, int(state.round))
        first = int(state.round)
        for index in range(first, total):
            batch = simulate_round(config.seed, index)
            if index < config.vae_rounds:
                state, losses = _vae_round(config, graph, state, batch, index, held)
                message = f"VAE, round {index + 1}/{config.vae_rounds}: ELBO {losses['elbo']:.1f}"
            else:
                if index == config.vae_rounds:
                    state = _freeze(graph, state, held)
                state, losses = _map_round(config, graph, state, batch, index), None
                message = f"map, round {index + 1 - config.vae_rounds}/{config.map_rounds}"
            state = state._replace(round=np.asarray(index + 1, np.int64))
            if losses is not None:
                with open(directory / "losses.jsonl", "a") as lines:
                    lines.write(json.dumps(losses) + "\n")
            report(message, 0.95 * (index + 1) / total)
            if (index + 1) % config.save_every == 0 or index + 1 == total:
                manager.save(index + 1, args=ocp.args.StandardSave(state._asdict()))
                spent = _seconds(directory) + time.time() - since
                write_text(directory / "seconds.txt", f"{spent}")
                since = time.time()
        manager.wait_until_finished()
    standard = model.standardise(state.rows["latents"], state.rows["nuisances"])
    map_weights, map_losses = fit_map(config, standard, state.rows, report)
    path = model.save(
        directory / "model.safetensors", config.architecture, config.map_hidden,
        state.weights, nnx.to_pure_dict(map_weights), standard,
        card={
            "config": asdict(config),
            "ranges": {"buckets": [b._asdict() for b in stream.BUCKETS],
                       "energies_keV": stream.ENERGIES_KEV.tolist(),
                       "semi_angles_mrad": stream.SEMI_ANGLES_MRAD,
                       "coma_waves": stream.COMA_WAVES},
            "spectra": int(total * round_size()),
            "held_back_elbo": _terms(held_back_elbo(
                _weights(state), held.spectra[: 2 * round_size()], graph)),
            "map_losses": map_losses,
            "versions": model.versions(),
            "vae_losses": _logged(directory),
            "seconds": round(_seconds(directory) + time.time() - since, 1),
        })
    report("done", 1.0)
    return path


def _vae_round(config, graph, state, batch, index, held):
    """Fresh batch into the buffer, one step on it, ``replays`` steps on the buffer."""
    size = round_size()
    slot = index % config.buffer
    state.buffer[slot * size : (slot + 1) * size] = batch.spectra
    filled = min(index + 1, config.buffer) * size
    choose = np.random.default_rng((config.seed, index))
    weights, optimiser = _weights(state), state.optimiser
    key = jax.random.fold_in(jax.random.key(config.seed + 1), index)
    for replay in range(config.replays + 1):
        images = batch.spectra if replay == 0 else state.buffer[choose.integers(0, filled, size)]
        weights, optimiser, terms = vae_step(
            jax.random.fold_in(key, replay), weights, optimiser, images, graph, config)
        if replay == 0:
            losses = {"round": index, **_terms(terms)}
    if index % 50 == 0 or index + 1 == config.vae_rounds:
        losses["held_back"] = _terms(
            held_back_elbo(weights, held.spectra[: 2 * size], graph))["elbo"]
    return state._replace(weights=nnx.to_pure_dict(weights), optimiser=optimiser), losses


def _freeze(graph, state, held):
    """Round the weights to the stored precision; encode the held-back rounds as the first rows."""
    state = state._replace(
        weights=jax.tree.map(lambda w: np.asarray(w, np.float16).astype(np.float32), state.weights))
    _fill(state.rows, 0, held, encode(_weights(state), held.spectra, graph))
    return state


def _map_round(config, graph, state, batch, index):
    place = (HELD_BACK + index - config.vae_rounds) * round_size()
    _fill(state.rows, place, batch, encode(_weights(state), batch.spectra, graph))
    return state


def _fill(rows, place, batch, latents):
    here = slice(place, place + len(batch.waves))
    rows["waves"][here], rows["nuisances"][here] = batch.waves, batch.nuisances
    rows["latents"][here] = latents


def _weights(state):
    return nnx.State(state.weights)


def _terms(terms):
    return {"elbo": float(terms.value), "distortion": float(terms.distortion),
            "divergence": float(terms.divergence)}


def _restore(manager, empty: State) -> State:
    latest = manager.latest_step()
    if latest is None:
        return empty
    restored = manager.restore(latest, args=ocp.args.StandardRestore(empty._asdict()))
    writable = jax.tree.map(np.array, {"buffer": restored["buffer"], "rows": restored["rows"]})
    return State(**{**restored, **writable})


def _claim(directory: Path, config: Config):
    """Write the configuration, or check that the directory belongs to the same one."""
    path, wanted = directory / "config.json", json.loads(json.dumps(asdict(config)))
    if path.exists():
        there = json.loads(path.read_text())
        if there != wanted:
            differing = sorted(k for k in wanted if there.get(k) != wanted[k])
            raise ValueError(
                f"{directory} holds a run with other settings ({', '.join(differing)} differ): "
                "give an empty directory, or the same settings to continue it")
        return
    write_text(path, json.dumps(wanted, indent=1))


def _seconds(directory: Path) -> float:
    """Time spent up to the last checkpoint, of all the runs it took, s."""
    path = directory / "seconds.txt"
    return float(path.read_text()) if path.exists() else 0.0


def _logged(directory: Path) -> list[dict]:
    """The rounds at which the held-back ELBO was taken."""
    lines = (directory / "losses.jsonl").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if "held_back" in entry]


def _keep_losses(directory: Path, rounds: int):
    """Drop the losses of rounds after the checkpoint: they will be written again."""
    path = directory / "losses.jsonl"
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:  # the line a kill cut off
            continue
        if entry["round"] < rounds:
            kept.append(line + "\n")
    write_text(path, "".join(kept))
