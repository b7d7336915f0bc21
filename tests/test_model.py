"""The model's file: round trip, what it refuses; its symmetry and units."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import aberrations, model, stream, vae
from jaxcal.latent_map import FLAT_PRIOR, SIMULATED_PRIOR

SHAPE = vae.Architecture(features=2, hidden=8, latents=3)
HIDDEN = 6
COUNT = len(stream.NUISANCES)


def standard(seed=0):
    random = np.random.default_rng(seed)
    rows = random.normal(size=(400, COUNT)) @ random.normal(size=(COUNT, COUNT))
    return model.standardise(random.normal(size=(400, 3)) * [1.0, 2.0, 5.0], rows)


def save(path, **changes):
    """A model of random weights at ``path``; returns its modules."""
    autoencoder = vae.Vae(SHAPE, rngs=nnx.Rngs(0))
    network = model.map_network(3, HIDDEN, seed=0)
    weights = [nnx.to_pure_dict(nnx.split(module)[1]) for module in (autoencoder, network)]
    # float16 is what the file keeps of the autoencoder
    weights[0] = jax.tree.map(lambda w: np.asarray(w, np.float16), weights[0])
    parts = dict(architecture=SHAPE, map_hidden=HIDDEN, vae_weights=weights[0],
                 map_weights=weights[1], standard=standard(), card={"seed": 3})
    model.save(path, **(parts | changes))
    return weights


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def test_what_is_saved_is_loaded(path):
    weights = save(path)
    made = model.load(path)
    for module, expected in zip((made.vae, made.network), weights, strict=True):
        found = nnx.to_pure_dict(nnx.split(module)[1])
        jax.tree.map(lambda a, b: assert_array_equal(a, np.asarray(b, np.float32)), found, expected)
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}
    for name, value in vars(standard()).items():
        assert_array_equal(getattr(made.standard, name), np.asarray(value, np.float32))
    assert made.card == {"seed": 3}
    assert made.vae.shape == SHAPE
    assert not list(path.parent.glob("*.tmp"))


def test_a_model_without_its_card_works(path):
    save(path)
    path.with_suffix(".json").unlink()
    assert model.load(path).card == {}


def test_latents_come_in_units_of_their_spread(path):
    save(path)
    made = model.load(path)
    images = np.random.default_rng(0).normal(size=(4, 128, 64)).astype(np.float32)
    mean, _ = made.vae.encoder(images)
    assert_allclose(made.encode(images), mean / made.standard.latent_sd, rtol=1e-4, atol=1e-6)
    assert made.encode(images.astype(float)).dtype == np.float32
    latents = np.random.default_rng(1).normal(size=(2, 3)).astype(np.float32)
    expected = made.vae.decoder(latents * made.standard.latent_sd)
    assert_allclose(made.reconstruct(latents), expected, rtol=1e-5)


def test_maps_are_made_once(path):
    """They are constants of compiled functions, compared by identity."""
    save(path)
    made = model.load(path)
    assert made.map is made.map and made.flat_map is made.flat_map
    assert made.map.prior is SIMULATED_PRIOR and made.flat_map.prior is FLAT_PRIOR
    prediction = made.flat_map.predict(np.ones(7, np.float32))
    assert_array_equal(prediction.mean, np.zeros(3))
    assert prediction.sensitivity.shape == (COUNT, 3)
    prediction = made.map.predict(np.ones(7, np.float32))
    assert prediction.sensitivity.shape == (COUNT, 3)
    assert model.load(path) is made


def test_the_symmetry_is_that_of_even_and_odd_aberrations():
    """A group of four: all even terms change sign, all odd ones, both, none; C30 ... along."""
    group = model.symmetry()
    even = aberrations.PARITY[aberrations.indices(stream.KNOBS)] > 0
    assert_array_equal(even, [True] * 3 + [False] * 4)
    rows = set()
    for state, nuisance in zip(group.states, group.nuisances, strict=True):
        assert len(set(np.array(state)[even])) == len(set(np.array(state)[~even])) == 1
        named = dict(zip(stream.NUISANCES, nuisance, strict=True))
        assert {named[name] for name in stream.FIXED} == {state[0]}
        assert {sign for name, sign in named.items() if name not in stream.FIXED} == {1.0}
        rows.add((state[0], state[-1]))
    assert rows == {(1, 1), (1, -1), (-1, 1), (-1, -1)}
    assert group.states[0] == (1.0,) * 7
    assert all(aberrations.PARITY[aberrations.index(name)] > 0 for name in stream.FIXED)


def test_whitened_nuisances_are_independent_and_of_unit_variance():
    random = np.random.default_rng(2)
    mixing = random.normal(size=(COUNT, COUNT))
    rows = random.normal(size=(20000, COUNT)) @ mixing.T + 3.0
    changes = np.isin(stream.NUISANCES, stream.FIXED)
    rows[:, changes] = random.normal(size=(20000, changes.sum())) * 2.0
    made = model.standardise(random.normal(size=(20000, 3)), rows)
    white = made.whiten(rows)
    assert white.dtype == np.float32
    within = np.cov(white.T)
    block = changes[:, None] == changes[None, :]
    assert_allclose(within[block], np.eye(COUNT)[block], atol=0.02)
    assert_allclose(white[:, ~changes].mean(0), 0.0, atol=1e-3)
    # what changes sign keeps its zero and does not mix with the rest
    assert_array_equal(made.nuisance_mean[changes], 0.0)
    assert_array_equal(made.nuisance_factor[np.ix_(changes, ~changes)], 0.0)
    turned = np.where(changes, -rows, rows)
    assert_allclose(made.whiten(turned), np.where(changes, -white, white), atol=1e-4)


# What is no model


def test_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere\.safetensors: no such model file; train one"):
        model.load(tmp_path / "nowhere.safetensors")


def test_a_file_that_is_not_safetensors(path):
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(ValueError, match=r"model\.safetensors: not a jaxcal model .*jaxcal train"):
        model.load(path)


def test_an_empty_file_and_a_folder(path, tmp_path):
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a jaxcal model"):
        model.load(path)
    with pytest.raises(ValueError, match="no such model file"):
        model.load(tmp_path)


def test_somebody_elses_safetensors(path):
    safetensors.numpy.save_file({"weight": np.zeros(3)}, path)
    with pytest.raises(ValueError, match=r"not a jaxcal model .*architecture"):
        model.load(path)


def rewrite(path, tensors=None, **header):
    with safetensors.safe_open(path, "numpy") as file:
        old = {name: file.get_tensor(name) for name in file.keys()}
        head = file.metadata() | header
    safetensors.numpy.save_file(tensors(old) if tensors else old, path, metadata=head)


@pytest.mark.parametrize("header", [
    {"architecture": "no json"}, {"architecture": json.dumps({"sides": 3})},
    {"map_hidden": "many"}, {"map_hidden": "7"},
    {"architecture": json.dumps(vars(SHAPE) | {"hidden": 9})},
])  # fmt: skip
def test_a_header_that_does_not_fit(path, header):
    save(path)
    rewrite(path, **header)
    with pytest.raises(ValueError, match=r"model\.safetensors: not a jaxcal model"):
        model.load(path)


@pytest.mark.parametrize("lost", ["vae.encoder.embed.kernel", "map.first.bias",
                                  "standard.latent_sd"])  # fmt: skip
def test_a_tensor_is_missing(path, lost):
    save(path)
    rewrite(path, lambda tensors: {k: v for k, v in tensors.items() if k != lost})
    with pytest.raises(ValueError, match=rf"not a jaxcal model .*{lost}"):
        model.load(path)


def test_a_model_of_other_nuisances(path):
    """As after a change of the package: an old file is refused, not misread."""
    save(path)
    rewrite(path, lambda tensors: tensors | {"standard.nuisance_mean": np.zeros(COUNT + 1, "f4")})
    with pytest.raises(ValueError, match=r"not a jaxcal model .*nuisance_mean"):
        model.load(path)


def test_a_changed_file_is_read_again(path):
    save(path)
    assert model.load(path).card == {"seed": 3}
    save(path, card={"seed": 44})
    assert model.load(path).card == {"seed": 44}
