"""EM and the latent map in another field: a telescope, its simulator and its small form."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))

import telescope  # noqa: E402
import telescope_simulator as simulator  # noqa: E402

WAVES, SPHERICAL = np.float32([0.2, 0.1, -0.05]), np.float32(0.03)


@pytest.mark.parametrize("instrument", [simulator.SIMULATED, simulator.REAL])
def test_even_aberrations_change_sign_together(instrument):
    """|OTF| is the same to rounding, eps32 times the phase of 2 rad, and not with one left out."""
    def modulation(sign, spherical):
        return np.abs(simulator.transfer(sign * WAVES, spherical, instrument))

    here = modulation(1, SPHERICAL)
    assert here[0, 0] == pytest.approx(1.0, abs=1e-5)
    np.testing.assert_allclose(modulation(-1, -SPHERICAL), here, atol=1e-6)
    assert np.abs(modulation(-1, SPHERICAL) - here).max() > 0.02


def test_a_clear_pupil_has_the_known_transfer_function():
    """(2/pi)(arccos v - v sqrt(1 - v^2)) of a circle, v = f/cutoff; the rim is cut to pixels."""
    found = np.real(np.asarray(simulator.transfer(0 * WAVES, 0.0, simulator.SIMULATED)))[0]
    share = np.arange(40) / (2 * simulator.RADIUS)
    expected = 2 / np.pi * (np.arccos(share) - share * np.sqrt(1 - share**2))
    np.testing.assert_allclose(found[:40], expected, atol=1 / simulator.RADIUS)
    np.testing.assert_allclose(found[2 * simulator.RADIUS + 1 : 64], 0.0, atol=1e-5)


def test_brightness_does_not_show_in_the_spectrum_but_defocus_does():
    source = simulator.star_field(jax.random.key(0))
    sharp, bright, soft = (np.asarray(simulator.log_spectrum(simulator.image(
        jax.random.key(1), source, waves * np.float32([1, 0, 0]), np.float32([0, 0, light]))))
        for waves, light in ((0, 0), (0, 2), (0.3, 0)))
    middle = slice(14 * 16, 18 * 16)  # rows about zero frequency
    assert np.abs(bright - sharp)[middle].max() < 0.5 < np.abs(soft - sharp)[middle].max()


@pytest.mark.slow
def test_state_of_a_telescope_that_the_simulation_only_resembles():
    """Each of three instruments: all within four standard deviations and 20 nm of rms wavefront
    (prior 50 nm). Together their rms is at most a fifth of the prior, and twice what is stated: of
    nine numbers, where the script asks 36 for 1.5. One image leaves the state and its mirror image.
    """
    compress, map_ = telescope.train(samples=3000, epochs=30)
    errors, z = [], []
    for seed in range(3):
        hidden, latents = telescope.observe(seed, compress)
        _, mean, sd = telescope.estimate(seed, latents, map_)
        errors.append(np.abs(mean - hidden))
        z.append(errors[-1] / sd)
        assert np.all(z[-1] < 4) and np.all(errors[-1] < 20)
    assert np.sqrt(np.mean(np.square(errors))) < telescope.PRIOR_NM / 5
    assert np.sqrt(np.mean(np.square(z))) < 2
    cloud, _, _ = telescope.estimate(0, telescope.observe(0, compress)[1], map_, frames=1)
    assert 0.3 < np.mean(cloud @ telescope.observe(0, compress)[0] > 0) < 0.7
