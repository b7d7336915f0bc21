"""EM beside the No-U-Turn sampler on toys; where the process is known they are the same."""

import math
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import toys
from numpy.testing import assert_allclose

from jaxcal import em
from jaxcal.latent_map import Hyperparameters, Prior

pytest.importorskip("numpyro", reason="pip install '.[evidence]'")
sys.path.append(str(Path(__file__).parent.parent))
from benchmarks import nuts  # noqa: E402

STEPS = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
SHORT = {"chains": 2, "warmup": 120, "samples": 300, "runs": 3}
SETTINGS = em.Settings(candidates=768, climbs=10)


def linear(toy, seed=0):
    random = np.random.default_rng(seed)
    x0 = 3 * random.standard_normal(2)
    return toys.experiment(STEPS, toy.latents(random, x0 + STEPS))


@pytest.fixture(scope="module")
def known():
    """The linear toy whose process is known within 2 %: EM, sampler, closed form."""
    toy = toys.Linear()
    data = linear(toy)
    return *nuts.compare(data, toy.map, settings=SETTINGS, **SHORT), toy.posterior(data)


def test_the_sampler_has_the_closed_form(known):
    """Mean and deviation within four Monte Carlo errors, chains that agree, none diverged."""
    _, told, diverged, (mean, covariance, _) = known
    sd = np.sqrt(np.diag(covariance))
    assert diverged == 0 and np.all(told["rhat"] < 1.05) and np.all(told["effective"] > 100)
    assert np.all(np.abs(told["mean"][:2] - mean) < 4 * told["mean_error"][:2])
    assert np.all(np.abs(told["sd"][:2] - sd) < 4 * told["sd_error"][:2] + 0.01 * sd)
    assert np.all(told["sd_error"][:2] < 0.1 * sd)  # else the test could not fail


def test_em_agrees_where_the_process_is_known(known):
    found, told, _, _ = known
    error = np.hypot(found["mean_error"], told["mean_error"][:3])
    assert np.all(np.abs(found["mean"] - told["mean"][:3])[:2] < 4 * error[:2])
    ratio, error = nuts.narrow(found, told)
    assert np.all(np.abs(ratio - 1)[:2] < 4 * error[:2] + 0.02)
    assert found["weight"] == 1.0
    error = np.hypot(found["correlation_error"], told["correlation_error"][:3, :3])
    off = found["correlation"] - told["correlation"][:3, :3]
    assert np.abs(off)[0, 1] < 4 * error[0, 1] < 0.4


@pytest.mark.slow
def test_em_is_too_narrow_where_the_noise_is_not_known():
    """A noise free within a factor: the sampler's x0 follows it, a Student's t, EM's does not."""
    free = Prior(Hyperparameters(math.log(1e-3), 0.0, math.log(0.5)),
                 Hyperparameters(0.02, 0.02, 1.5))
    toy = toys.Linear(free)
    data = linear(toy)
    data = data._replace(frame_noise=jnp.array([1.0, 1.0, em.EXCLUDED, em.EXCLUDED]))
    # a tenth too narrow, with a Monte Carlo error of a sixtieth
    long = SHORT | {"warmup": 200, "samples": 4000, "runs": 10}
    found, told, _ = nuts.compare(data, toy.map, settings=SETTINGS, **long)
    assert told["sd"][-1] > 0.15  # the noise is not settled by two frames
    ratio, error = nuts.narrow(found, told)
    assert np.any(ratio[:2] < 1 - 3 * error[:2]) and np.all(error[:2] < 0.03)
    result = {"names": ["a", "b"], "ratio": ratio[:2], "ratio_error": error[:2]}
    assert "too narrow in " in nuts.verdict(result)
    assert "none is narrower" in nuts.verdict(result | {"ratio": np.ones(2)})


def test_the_density_is_that_of_em():
    """The sampler's log density less EM's: the prior of the hyperparameters alone."""
    toy = toys.Linear()
    data = linear(toy)
    candidate = jnp.array([0.5, -1.0, 1e-7])
    process = toy.map.prior.mean
    found = nuts.log_density(jnp.concatenate([candidate, jnp.array(process)]), toy.map, data)
    parameters = em.initial_parameters(toy.map, data)
    assert_allclose(found, em.score(candidate, parameters, data, toy.map)
                    + em.log_prior(candidate, data), rtol=1e-12)
    away = jnp.array(process) + jnp.array([0.02, 0.0, 0.0])  # one prior deviation
    moved = nuts.log_density(jnp.concatenate([candidate, away]), toy.map, data)
    parameters = parameters._replace(process=Hyperparameters(*away))
    assert_allclose(moved, em.score(candidate, parameters, data, toy.map)
                    + em.log_prior(candidate, data) - 0.5, rtol=1e-12)


def test_moments_of_independent_draws():
    """Their Monte Carlo errors are sd/sqrt(N) and sd/sqrt(2 N)."""
    drawn = 3.0 * np.random.default_rng(0).standard_normal((4, 1000, 2)) + [1.0, -2.0]
    told = nuts.moments(drawn)
    assert_allclose(told["mean_error"], 3 / np.sqrt(4000), rtol=0.2)
    assert_allclose(told["sd_error"], 3 / np.sqrt(8000), rtol=0.2)
    assert np.all(np.abs(told["mean"] - [1.0, -2.0]) < 4 * told["mean_error"])
    assert_allclose(told["correlation_error"][0, 1], 1 / np.sqrt(4000), rtol=0.2)
    assert abs(told["correlation"][0, 1]) < 4 * told["correlation_error"][0, 1]


def test_the_correlation_that_differs_most_is_named():
    def by(r):
        return {"correlation": [[1.0, r, 0.1], [r, 1.0, 0.2], [0.1, 0.2, 1.0]],
                "correlation_error": np.full((3, 3), 0.03).tolist()}

    said = nuts.correlated({"names": ["a", "b", "c"], "em": by(0.5), "nuts": by(0.1)})
    assert "Of 3 correlations 1 differ" in said and "a with b: 0.50 by EM, 0.10" in said
