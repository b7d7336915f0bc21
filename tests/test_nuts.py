"""EM beside the No-U-Turn sampler on toys; where the process is known they are the same."""

import json
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
from benchmarks import nuts, provenance  # noqa: E402

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


def compared(mean=(1.0, 2.0, 3.0), correlation=0.5, **told) -> dict:
    """A case as it is kept: EM with these means, beside draws of mean (1, 2, 3) and deviation 2."""
    def by(values, r):
        size = len(values)
        matrix = np.eye(size)
        matrix[0, 1] = matrix[1, 0] = r
        return {"mean": np.array(values), "sd": np.full(size, 2.0),
                "mean_error": np.full(size, 0.05), "sd_error": np.full(size, 0.03),
                "correlation": matrix, "correlation_error": np.where(np.eye(size), 0.0, 0.03)}

    em_ = by(mean, correlation) | {"process": np.zeros(3), "weight": 1.0}
    sampled = by([1.0, 2.0, 3.0, 0.0, 0.0, 0.0], 0.5) | {
        "rhat": np.full(6, 1.001), "effective": np.full(6, 1600.0)} | told
    ratio, error = nuts.narrow(em_, sampled)
    return {"seed": 3, "frames": 6, "names": ["a", "b", "c"], "diverged": 0, "em": em_,
            "nuts": sampled, "ratio": ratio, "ratio_error": error, "seconds": 1.0,
            "settings": {"chains": 4, "warmup": 2, "samples": 400, "runs": 4},
            **nuts.apart(em_, sampled)}


def test_differences_are_told_in_their_monte_carlo_errors():
    """A mean off by 0.3 where each is known to 0.05, a correlation off by 0.4, known to 0.03."""
    made = compared((1.0, 2.3, 3.0), 0.1)
    assert_allclose(made["mean_off"], [0, 0.3 / math.hypot(0.05, 0.05), 0], atol=1e-12)
    off = made["correlation_off"]
    assert_allclose(off[0, 1], -0.4 / math.hypot(0.03, 0.03))
    assert off[1, 0] == off[0, 1] and np.count_nonzero(off) == 2  # the diagonal is no difference
    said = nuts.correlated(made)
    assert "Of 3 correlations 1 differs by more than 3" in said
    assert said.count("a with b (0.10 by EM, 0.50 by NUTS, -9.4 errors)") == 2  # beyond, largest
    page = nuts.markdown({"cases": [made], "provenance": provenance.provenance()})
    assert "| 3, 6 frames | 1.00 (1.00 ... 1.00) | 0.15 | b | 1 of 3 | 1.001 |" in page
    assert "| **+4.2** |" in page and page.count("| +0.0 |") == 2
    assert "none differs" in nuts.correlated(compared())


def test_what_is_asked_is_that_a_difference_does_not_matter():
    """Many Monte Carlo errors are borne, a quarter of a deviation is not; nor chains that differ,
    a mean that is not known, a deviation that is too small."""
    assert nuts.agreed(compared()) and nuts.agreed(compared((1.0, 2.4, 3.0)))
    assert not nuts.agreed(compared((1.0, 2.45, 3.0)))  # with its error
    assert not nuts.agreed(compared(rhat=np.array([1.0] * 5 + [1.03])))
    assert not nuts.agreed(compared(mean_error=np.full(6, 0.6)))
    assert not nuts.agreed(compared(sd=np.full(6, 2.3)))


def test_every_microscope_is_asked_at_six_frames_and_what_is_kept_is_the_new_form(
        tmp_path, monkeypatch, capsys):
    """Two of them, six frames and three of each; one that disagrees at three changes nothing."""
    bad = {}

    def compare(data, map_, **_):
        made = compared(**bad.get(data, {}))
        return made["em"], made["nuts"], 0

    monkeypatch.setattr(nuts, "experiment", lambda model, seed, frames: (seed, frames))
    monkeypatch.setattr(nuts, "compare", compare)
    monkeypatch.setattr(nuts, "SEVEN", ("a", "b"))
    page = tmp_path / "page.md"
    page.write_text("<!-- nuts -->\n<!-- end nuts -->\n")
    arguments = ["--seeds", "2", "--json", str(tmp_path / "nuts.json"), "--document", str(page)]
    bad[3, 3] = {"mean": (9.0, 2.0, 3.0)}
    assert nuts.main(arguments) == 0
    cases = json.loads((tmp_path / "nuts.json").read_text())["cases"]
    assert [(one["seed"], one["frames"]) for one in cases] == [(3, 6), (3, 3), (4, 6), (4, 3)]
    assert {"mean_off", "correlation_off", "ratio", "ratio_error"} <= cases[0].keys()
    assert "| 4, 3 frames |" in page.read_text()
    bad[4, 6] = bad[3, 3]
    assert nuts.main(arguments) == 1
