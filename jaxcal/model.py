"""The trained model: encoder, decoder, simulated map, and the file they are kept in."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib import metadata, resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import nnx

from jaxcal import aberrations, em, latent_map, spectra, stream, vae

STATES = len(stream.KNOBS)
#: Units of the states, waves at the edge: C10 and C12 range farther than C21 and C23.
STATE_SCALE = (5.0, 5.0, 5.0, 0.7, 0.7, 0.7, 0.7)


def symmetry() -> latent_map.Symmetry:
    """The group Z2 x Z2 of the full-frame power spectrum (physics of a weak film).

    Flipping all even aberrations, or all odd ones, changes nothing; the fixed even residuals among
    the nuisances change sign along.
    """
    even = aberrations.PARITY[aberrations.indices(stream.KNOBS)] > 0
    fixed = np.array([name in stream.FIXED for name in stream.NUISANCES])
    states, nuisances = [], []
    for flip_even in (1.0, -1.0):
        for flip_odd in (1.0, -1.0):
            states.append(tuple(np.where(even, flip_even, flip_odd).tolist()))
            nuisances.append(tuple(np.where(fixed, flip_even, 1.0).tolist()))
    return latent_map.Symmetry(tuple(states), tuple(nuisances))


@dataclass(frozen=True)
class Standardisation:
    """Units of latents and nuisances: latent_sd (D,); nuisances = mean + factor @ N(0, 1)."""

    latent_sd: np.ndarray
    nuisance_mean: np.ndarray
    nuisance_factor: np.ndarray

    def whiten(self, nuisances):
        """Nuisances (N, R) -> independent, of unit variance."""
        centred = (nuisances - self.nuisance_mean).T
        return np.linalg.solve(self.nuisance_factor, centred).T.astype(np.float32)


def standardise(latents, nuisances) -> Standardisation:
    """Units from samples (N, D) and (N, R); what changes sign keeps mean 0 and its own block."""
    changes = np.asarray(symmetry().nuisances).min(0) < 0
    mean = np.where(changes, 0.0, nuisances.mean(0))
    centred = np.asarray(nuisances - mean, float)
    covariance = centred.T @ centred / len(centred)
    covariance = np.where(changes[:, None] == changes[None, :], covariance, 0.0)
    covariance += 1e-6 * np.diag(np.diag(covariance))
    return Standardisation(latents.std(0), mean.astype(np.float32),
                           np.linalg.cholesky(covariance).astype(np.float32))


def map_network(latents: int, hidden: int, seed: int = 0) -> latent_map.MapNetwork:
    """An untrained map of the project's states, nuisances and symmetry."""
    return latent_map.MapNetwork(symmetry(), STATE_SCALE, latents, hidden, rngs=nnx.Rngs(seed))


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model. ``card`` is what training wrote about it, ``digest`` tells its file from
    others.

    encode: log images (B, 128, 64) -> latents (B, D) in units of their spread;
    look: the same, and (B,) how far each is from anything trained on;
    reconstruct: latents -> expected log images; map: for :mod:`jaxcal.em`;
    """

    vae: vae.Vae
    network: latent_map.MapNetwork
    standard: Standardisation
    card: dict
    digest: str

    def encode(self, images):
        """Log images (B, rows, columns) -> latents (B, D) in units of their spread."""
        return self.look(images)[0]

    def look(self, images):
        """Log images (B, rows, columns) -> latents (B, D), and `vae.misfit` of the reconstruction
        (B,), nats a bin: how far each is from anything trained on."""
        return _look(self)(jnp.asarray(images, jnp.float32))

    def reconstruct(self, latents):
        """Latents (B, D) -> expected log images (B, rows, columns)."""
        return self.vae.decoder(latents * self.standard.latent_sd)

    @property
    def map(self) -> em.Map:
        """The simulated map with the gap's prior."""
        return _map(self)

    @property
    def flat_map(self) -> em.Map:
        """The published form: no simulated mean, the symmetric process alone."""
        return _flat_map(self)


@lru_cache(maxsize=8)
def _map(model):
    return em.Map(model.network, np.asarray(model.network.symmetry.states, np.float32),
                  np.asarray(STATE_SCALE, np.float32), latent_map.SIMULATED_PRIOR)


@lru_cache(maxsize=8)
def _flat_map(model):
    dimensions = len(model.standard.latent_sd)
    predict = latent_map.flat_prediction(
        jnp.zeros(dimensions), jnp.eye(dimensions), len(stream.NUISANCES))
    return em.Map(predict, np.asarray(model.network.symmetry.states, np.float32),
                  np.asarray(STATE_SCALE, np.float32), latent_map.FLAT_PRIOR)


@lru_cache(maxsize=8)
def _look(model):
    """Log images -> latents and misfit, one program."""
    def look(images):
        latents = model.vae.encoder(images)[0]
        explained = model.vae.decoder(latents)
        return (latents / model.standard.latent_sd,
                vae.misfit(images, explained, spectra.MASK.astype(np.float32)))

    return jax.jit(look)


def versions() -> dict:
    """Versions of what determines the numbers."""
    return {name: metadata.version(name) for name in ("jax", "flax", "optax", "numpy")}


def save(path, architecture, map_hidden, vae_weights, map_weights, standard, card) -> Path:
    """Write weights (of the autoencoder float16, of the map float32) to ``path`` and the card
    beside it as .json, each atomically."""
    path = Path(path)
    tensors = {f"vae.{k}": np.asarray(v, np.float16) for k, v in _flatten(vae_weights).items()}
    tensors |= {f"map.{k}": np.asarray(v, np.float32) for k, v in _flatten(map_weights).items()}
    tensors |= {f"standard.{k}": np.asarray(v, np.float32) for k, v in asdict(standard).items()}
    header = {"architecture": json.dumps(asdict(architecture)), "map_hidden": str(map_hidden)}
    temporary = path.with_suffix(".tmp")
    safetensors.numpy.save_file(tensors, temporary, metadata=header)
    temporary.replace(path)
    temporary.write_text(json.dumps(card, indent=1))
    temporary.replace(path.with_suffix(".json"))
    return path


def load(path=None) -> Model:
    """Load a model; the one that ships with the package where no path is given.

    The same file, unchanged, gives the same object, and what was compiled for it.

    Raises:
        ValueError: the file is missing or no jaxcal model.
    """
    shipped = resources.files("jaxcal") / "models" / "default.safetensors"
    path = Path(path or str(shipped))
    if not path.is_file():
        raise ValueError(f"{path}: no such model file; train one with 'jaxcal train' or leave the "
                         "option out to use the model that ships with jaxcal")
    return _load(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _load(path, modified):
    try:
        with safetensors.safe_open(path, "numpy") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        architecture = vae.Architecture(**json.loads(header["architecture"]))
        network = nnx.eval_shape(  # no weights are drawn only to be overwritten
            lambda: map_network(architecture.latents, int(header["map_hidden"])))
        autoencoder = nnx.eval_shape(lambda: vae.Vae(architecture, rngs=nnx.Rngs(0)))
        size, count = architecture.latents, len(stream.NUISANCES)
        shapes = {"latent_sd": (size,), "nuisance_mean": (count,),
                  "nuisance_factor": (count, count)}
        model = (_filled(autoencoder, tensors, "vae."), _filled(network, tensors, "map."),
                 Standardisation(*(
                     _tensor(tensors, f"standard.{n}", shape) for n, shape in shapes.items())))
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a jaxcal model ({error}); give the model.safetensors that "
                         "'jaxcal train' wrote") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return Model(*model, _card(path.with_suffix(".json")), digest)


def _card(path) -> dict:
    """What training wrote beside the weights; nothing where there is no such file."""
    try:
        return json.loads(path.read_text()) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{path}: not the JSON that training wrote ({error}); copy it again or "
                         "remove it, the weights do without") from error


def _tensor(tensors, name, shape):
    """The tensor of a name, whose shape must be the one expected."""
    found = tensors[name].shape
    if found != tuple(shape):
        raise ValueError(f"{name} has the shape {found} instead of {tuple(shape)}")
    return tensors[name]


def _flatten(tree, prefix=""):
    flat = {}
    for name, value in tree.items():
        where = f"{prefix}{name}"
        flat.update(_flatten(value, where + ".") if isinstance(value, dict) else {where: value})
    return flat


def _filled(module, tensors, prefix):
    graph, state = nnx.split(module)
    values = nnx.to_pure_dict(state)

    def fill(tree, where):
        return {name: fill(value, f"{where}{name}.") if isinstance(value, dict)
                else jnp.asarray(_tensor(tensors, where + name, value.shape), jnp.float32)
                for name, value in tree.items()}

    nnx.replace_by_pure_dict(state, fill(values, prefix))
    return nnx.merge(graph, state)
