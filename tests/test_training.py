"""Training: resumable after a kill at any moment with bitwise the same result; what it writes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import model, stream, training, vae

PROGRAM = Path(__file__).parent / "tiny_training.py"
MOMENTS = ["VAE, round 1/", "save", "VAE, round 4/", "map, round 2/", "map, epoch 1"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Runs the tiny training in a fresh process, compiled once for all: (directory, moment)."""
    cache = tmp_path_factory.mktemp("compiled")
    environment = {
        **os.environ, "PYTHONPATH": str(PROGRAM.parents[1]),
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "XLA_FLAGS": "--xla_backend_optimization_level=0",  # to compile quickly
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }  # fmt: skip

    def run(directory, moment=""):
        with open(directory.with_suffix(".log"), "a") as log:
            done = subprocess.run(
                [sys.executable, PROGRAM, directory, moment], env=environment, timeout=200,
                stdout=subprocess.PIPE, stderr=log, text=True)  # fmt: skip
        return done

    return run


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """A run that nobody disturbed: (its directory, what it printed)."""
    directory = tmp_path_factory.mktemp("whole") / "run"
    done = start(directory)
    assert done.returncode == 0, directory.with_suffix(".log").read_text()[-2000:]
    return directory, done.stdout


@pytest.fixture(scope="module")
def killed(start, whole, tmp_path_factory):
    """A run that was killed at every one of MOMENTS, and then left to end."""
    directory = tmp_path_factory.mktemp("killed") / "run"
    codes = [start(directory, moment).returncode for moment in MOMENTS]
    assert codes == [-signal.SIGKILL] * len(MOMENTS)
    assert not (directory / "model.safetensors").exists()
    done = start(directory)
    assert done.returncode == 0, directory.with_suffix(".log").read_text()[-2000:]
    return directory, done.stdout


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_weights(whole, killed):
    contents = []
    for directory, _ in (whole, killed):
        with safetensors.safe_open(directory / "model.safetensors", "numpy") as file:
            tensors = {name: file.get_tensor(name).tobytes() for name in file.keys()}
            contents.append((file.metadata(), tensors))
    assert contents[0] == contents[1]
    assert len(contents[0][1]) > 20


@pytest.mark.slow
def test_every_round_is_logged_once_with_the_same_losses(whole, killed):
    lines = [(directory / "losses.jsonl").read_text() for directory, _ in (whole, killed)]
    assert lines[0] == lines[1]
    entries = [json.loads(line) for line in lines[0].splitlines()]
    assert [entry["round"] for entry in entries] == list(range(5))
    for entry in entries:
        assert_allclose(entry["elbo"], -entry["distortion"] - entry["divergence"], rtol=1e-5)
    assert "held_back" in entries[0] and "held_back" in entries[-1]


@pytest.mark.slow
def test_the_last_process_only_did_what_was_left(whole, killed):
    rounds = [re.findall(r"(VAE|map), round (\d)", printed) for _, printed in (whole, killed)]
    assert len(rounds[0]) == 9
    assert rounds[1] == []  # killed after the last checkpoint, in the epochs of the map
    fractions = [float(line.split()[0]) for line in whole[1].splitlines()]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0


@pytest.mark.slow
def test_the_card_says_where_the_weights_come_from(whole):
    card = json.loads((whole[0] / "model.json").read_text())
    assert card["config"]["seed"] == 0 and card["config"]["vae_rounds"] == 5
    assert card["config"] == json.loads((whole[0] / "config.json").read_text())
    assert card["spectra"] == 9 * 4
    assert len(card["map_losses"]) == 2
    assert {"jax", "flax", "optax", "numpy"} == set(card["versions"])
    assert card["ranges"]["energies_keV"] == stream.ENERGIES_KEV.tolist()


@pytest.mark.slow
def test_the_trained_model_loads(whole):
    made = model.load(whole[0] / "model.safetensors")
    latents = made.encode(np.zeros((2, 128, 64)))
    assert latents.shape == (2, 3)
    assert made.card["spectra"] == 36


@pytest.mark.slow
def test_another_configuration_is_refused(whole):
    other = training.Config(seed=1, vae_rounds=7)
    with pytest.raises(ValueError, match=r"other settings \(.*seed, vae_rounds differ\): "
                                         "give an empty directory"):
        training.train(other, whole[0])


# Without a process of its own


def test_what_a_configuration_cannot_be():
    for name in ("vae_rounds", "map_rounds", "buffer", "map_epochs", "save_every"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            training.Config(**{name: 0})


def test_losses_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "losses.jsonl"
    path.write_text("".join(json.dumps({"round": k}) + "\n" for k in range(5)) + '{"round": 5, "el')
    training._keep_losses(tmp_path, 3)
    assert [json.loads(line)["round"] for line in path.read_text().splitlines()] == [0, 1, 2]
    training._keep_losses(tmp_path / "nowhere", 3)  # a run that has not logged yet


def test_the_schedule_warms_up_and_ends_at_zero():
    rate = training.schedule(1e-3, 1000)
    values = np.array([rate(step) for step in (0, 50, 101, 500, 1000)])
    assert values[0] == 0 and values[-1] == pytest.approx(0, abs=1e-9)
    assert values[2] == pytest.approx(1e-3, rel=1e-3)
    assert values[1] < values[2] > values[3]


def test_held_back_rounds_are_never_trained_on(monkeypatch):
    """Rounds -6 to -1 and 0 on draw from different keys."""
    seen = []
    monkeypatch.setattr(training, "_batch", lambda key, bucket: seen.append(
        jax.random.key_data(key).tolist()) or stream.Batch(*np.zeros((3, 1))))
    for index in range(-training.HELD_BACK, 20):
        training.simulate_round(0, index)
    assert len({tuple(key) for key in seen}) == len(seen)


def test_the_map_learns_a_linear_dependence():
    """Latents that are a symmetric function of the state, plus a nuisance and noise of 0.1.

    The density of the truth is log N(0, 0.1): 0.88 nats each; what knows nothing has -1.4 or less.
    """
    random = np.random.default_rng(0)
    count = 3000
    waves = np.zeros((count, 25), np.float32)
    waves[:, : model.STATES] = random.normal(size=(count, 7)) * model.STATE_SCALE
    nuisances = random.normal(size=(count, len(stream.NUISANCES))).astype(np.float32)
    expected = np.stack([np.arcsinh(np.abs(waves[:, 0]) / 5), np.tanh(waves[:, 3] ** 2)], 1)
    expected[:, 0] += 0.5 * nuisances[:, 0]
    latents = (expected + 0.1 * random.normal(size=expected.shape)).astype(np.float32)
    standard = model.Standardisation(
        np.ones(2, np.float32), np.zeros(nuisances.shape[1], np.float32),
        np.eye(nuisances.shape[1], dtype=np.float32))
    config = training.Config(map_hidden=24, map_batch=128, map_epochs=12, map_rate=1e-2,
                             architecture=vae.Architecture(latents=2))
    told = []
    weights, losses = training.fit_map(
        config, standard, {"waves": waves, "nuisances": nuisances, "latents": latents},
        lambda message, fraction: told.append(fraction))
    assert len(losses) == 12 and told[-1] == pytest.approx(1.0)
    assert losses[-1]["held_back"] < -0.5
    assert losses[-1]["held_back"] < losses[0]["held_back"] - 1
    graph, _ = nnx.split(model.map_network(2, 24))
    network = nnx.merge(graph, weights)
    sensitivity = network(np.ones(7, np.float32)).sensitivity
    assert abs(sensitivity[0, 0] - 0.5) < 0.15
    assert np.abs(sensitivity[0, 1]) < 0.15


def test_masked_bins_have_no_weight():
    assert_array_equal(training.WEIGHT[0], 0.0)
    assert training.WEIGHT.max() == training.BIN_WEIGHT
