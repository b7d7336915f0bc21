"""EM on toys whose posterior, evidence and M-step are known in closed form, and its parts."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toys
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import em, latent_map
from jaxcal.latent_map import Hyperparameters
from jaxcal.reference import e_step

LINEAR, FOLDED = toys.Linear(toys.held(sd=(0.1, 0.1, 0.1))), toys.Folded()
SETTINGS = em.Settings(candidates=1024, climbs=15)
STEPS = np.array([[3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0]])
UNEQUAL = np.array([[0.0, 0.0], [2.0, 0.5], [-1.0, 2.0], [-1.0, -2.0]])
SEEDS = range(20)


def counted(frames, total=4):
    """Noise factors that leave all but the first ``frames`` out."""
    return np.where(np.arange(total) < frames, 1.0, em.EXCLUDED)


def linear(seed, *, gains=(1.0, 1.0), log_scale=0.0, step=1.0, **options):
    """A truth drawn from the prior and its experiment: (x0, experiment)."""
    random = np.random.default_rng(seed)
    x0 = 3 * random.standard_normal(2)
    states = np.exp(log_scale) * (x0 + np.asarray(gains) * STEPS * step)
    latents = LINEAR.latents(random, states)
    return x0, toys.experiment(STEPS * step, latents, **options)


def folded(seed, frames, hyper=FOLDED.prior.mean, x0=None):
    random = np.random.default_rng(seed)
    x0 = 3 * random.standard_normal(2) if x0 is None else np.asarray(x0)
    latents = FOLDED.latents(random, x0 + UNEQUAL, hyper)
    return x0, toys.experiment(UNEQUAL, latents, frame_noise=counted(frames))


def e_step_only(seed, data, toy, parameters=None):
    """The posterior's candidates without any M-step."""
    first, later = jax.random.split(jax.random.key(seed))
    parameters = parameters or em.initial_parameters(toy.map, data)
    candidates = em.begin(first, parameters, data, toy.map, SETTINGS.candidates)
    for stage in range(100):
        candidates, info = em.temper(
            jax.random.fold_in(later, stage), candidates, parameters, data, toy.map, SETTINGS)
        assert 0.3 * SETTINGS.candidates < info.effective <= SETTINGS.candidates * (1 + 1e-12)
        if float(candidates.temperature) == 1.0:
            return candidates
    raise AssertionError("the temperature does not reach 1")


# The linear-Gaussian toy


def test_posterior_and_evidence_of_the_linear_gaussian_toy():
    """Means over seeds agree with the closed form within the error seen between the seeds.

    One run of N independent candidates would scatter by sd/sqrt(N) in the mean, by sqrt(2/N) in
    the variance; resampled and moved ones by less than three times that. The evidence is a product
    of means over the stages, each of a relative variance of about one over N.
    """
    _, data = linear(0)
    mean, covariance, evidence = LINEAR.posterior(data)
    factor = np.linalg.cholesky(covariance)
    means, covariances, evidences = [], [], []
    for seed in SEEDS:
        candidates = e_step_only(seed, data, LINEAR)
        white = np.linalg.solve(factor, (np.asarray(candidates.positions[:, :2]) - mean).T)
        means.append(white.mean(1))
        covariances.append(np.cov(white))
        evidences.append(float(candidates.log_evidence))
    count, seeds = SETTINGS.candidates, len(SEEDS)
    for values, expected, independent in (
        (means, 0.0, 1 / np.sqrt(count)),
        (covariances, np.eye(2), np.sqrt(2 / count)),
        (np.array(evidences)[:, None], evidence, np.sqrt(5 / count)),
    ):
        scatter = np.std(values, axis=0, ddof=1)
        assert np.all(scatter < 3 * independent)
        deviation = np.abs(np.mean(values, axis=0) - expected)
        assert np.all(deviation < 4 * np.maximum(scatter, independent) / np.sqrt(seeds))


def test_an_excluded_frame_tells_nothing():
    """Three of four frames: the closed form of the three, whatever the fourth holds."""
    _, data = linear(1, frame_noise=counted(3))
    wild = data._replace(latents=data.latents.at[3].set(100.0))
    mean, covariance, _ = LINEAR.posterior(wild)
    candidates = e_step_only(0, wild, LINEAR)
    error = 3 * np.sqrt(np.diag(covariance) / SETTINGS.candidates)
    assert np.all(np.abs(np.asarray(candidates.positions[:, :2]).mean(0) - mean) < 4 * error)


def test_weights_are_those_of_the_reference():
    """Candidates from the prior, reweighed at once: importance sampling with the prior."""
    _, data = linear(2)
    parameters = em.initial_parameters(LINEAR.map, data)
    candidates = em.begin(jax.random.key(0), parameters, data, LINEAR.map, 1024)
    prior = jax.vmap(lambda c: em.log_prior(c, data))(candidates.positions)
    expected = e_step.log_weights(candidates.log_likelihood, prior, prior)
    chosen, effective = em.reweigh(jax.random.key(1), candidates, candidates.log_likelihood)
    assert_allclose(effective, e_step.effective_sample_size(expected), rtol=1e-10)
    assert_allclose(chosen.log_evidence,
                    e_step.log_evidence(candidates.log_likelihood, prior, prior), rtol=1e-10)
    copies = (np.asarray(chosen.positions[:, 0])[:, None]
              == np.asarray(candidates.positions[:, 0])).sum(0)
    assert np.all(np.abs(copies - 1024 * np.exp(expected)) <= 1 + 1e-9)


# Resampling, tempering, proposals


def test_resampling_is_unbiased_and_systematic():
    """Each index comes floor or ceil of N w times, on average N w: sd of a mean < 0.5/sqrt(K)."""
    weights = jnp.asarray(np.random.default_rng(0).exponential(size=50) ** 3)
    draws = 4000
    chosen = jax.vmap(lambda k: em.resample(k, weights))(jax.random.split(jax.random.key(0), draws))
    counts = (np.asarray(chosen)[:, :, None] == np.arange(50)).sum(1)
    expected = 50 * np.asarray(weights / weights.sum())
    assert np.all((counts >= np.floor(expected)) & (counts <= np.ceil(expected)))
    assert_allclose(counts.mean(0), expected, atol=5 * 0.5 / np.sqrt(draws))


def test_the_next_temperature_keeps_what_was_asked():
    log_likelihood = jnp.asarray(-40 * np.random.default_rng(1).exponential(size=500))
    found = em.next_temperature(0.1, log_likelihood, 0.5)
    assert 0.1 < found < 1.0
    effective = em.effective_number((found - 0.1) * log_likelihood)
    assert_allclose(effective, 250, rtol=1e-4)
    shifted = em.next_temperature(0.1, log_likelihood - 1e4, 0.5)
    assert_allclose(shifted, found, rtol=1e-6)
    more = em.next_temperature(0.1, log_likelihood, 0.2)
    assert more > found


def test_flat_likelihoods_need_no_tempering_and_failures_do_not_count():
    assert em.next_temperature(0.0, jnp.zeros(10), 0.5) == 1.0
    assert em.next_temperature(0.9, jnp.linspace(0, 0.1, 10), 0.5) == 1.0
    some = jnp.where(jnp.arange(10) < 7, 0.0, -jnp.inf)
    assert em.next_temperature(0.0, some, 0.5) == 1.0  # 7 of 10 are enough
    few = em.next_temperature(0.0, some, 0.9)  # failures can only be dropped: a step all the same
    assert 0 < few < 1e-5


def test_effective_number_is_the_references():
    log_weights = np.random.default_rng(2).normal(scale=3, size=100)
    normalised = e_step.log_weights(log_weights, 0.0, 0.0)
    assert_allclose(em.effective_number(log_weights), e_step.effective_sample_size(normalised),
                    rtol=1e-12)
    assert_allclose(em.effective_number(jnp.zeros(7)), 7.0)


def test_proposals_mirror_one_frame_or_shift_by_differences():
    _, data = folded(0, 4)
    positions = em.draw(jax.random.key(0), data, 4000)
    signs = jnp.asarray(FOLDED.signs)
    data = data._replace(actuator_sd=jnp.full((2, 2), 0.1))
    parameters = em.initial_parameters(FOLDED, data)._replace(
        actuator=jnp.array([[-4.0, 0.5], [0.0, 2.0]]))  # knobs that act otherwise than told
    gain = np.asarray(em.actuator(parameters, data))
    trial = np.asarray(em.propose(jax.random.key(1), positions, parameters, data, signs))
    here = np.asarray(positions)
    images = np.stack([np.column_stack([s * (here[:, :2] + u) - u, here[:, 2]])
                       for s in FOLDED.signs for u in UNEQUAL @ gain.T])
    mirrored = np.any(np.all(np.abs(images - trial) < 1e-12, axis=-1), axis=0)
    # 1 of 8, of which 1 of 4 with the identity: binomial, three standard deviations
    assert abs(mirrored.mean() - 1 / 8) < 3 * np.sqrt(1 / 8 * 7 / 8 / 4000)
    moved = (trial - here)[~mirrored]
    assert np.all(np.abs(moved.mean(0)) < 4 * moved.std(0) / np.sqrt(len(moved)))


def test_moves_leave_the_posterior_as_it_is():
    """Exact draws from the closed form stay so after many moves."""
    _, data = linear(3)
    mean, covariance, _ = LINEAR.posterior(data)
    factor = np.linalg.cholesky(covariance)
    random = np.random.default_rng(0)
    exact = np.column_stack([mean + random.standard_normal((1024, 2)) @ factor.T,
                             1e-6 * random.standard_normal(1024)])
    parameters = em.initial_parameters(LINEAR.map, data)
    candidates = em.Candidates(
        jnp.asarray(exact), em.score_all(exact, parameters, data, LINEAR.map), jnp.asarray(1.0),
        jnp.asarray(0.0))
    for step in range(20):
        candidates, info = em.renew(
            jax.random.key(step), candidates, parameters, data, LINEAR.map, SETTINGS)
    assert 0.15 < np.mean(info.accepted) < 0.7
    assert_allclose(info.effective, 1024, rtol=1e-6)  # nothing changed: equal weights
    white = np.linalg.solve(factor, (np.asarray(candidates.positions)[:, :2] - mean).T)
    assert np.all(np.abs(white.mean(1)) < 4 / np.sqrt(1024))
    assert_allclose(np.cov(white), np.eye(2), atol=4 * np.sqrt(2 / 1024))


# Mirror images


def test_one_frame_keeps_every_mirror_image():
    """z shows neither sign: four equal quarters. Resampling and moves cost a factor on 1/sqrt(N).

    The mean over seeds must agree with 1/4 within the scatter between them.
    """
    _, data = folded(0, 1, x0=[3.0, -2.0])
    data = data._replace(knobs=jnp.zeros_like(data.knobs))
    shares = []
    for seed in SEEDS:
        x = np.asarray(e_step_only(seed, data, FOLDED).positions)[:, :2]
        quadrant = 2 * (x[:, 0] > 0) + (x[:, 1] > 0)
        shares.append(np.bincount(quadrant, minlength=4) / len(x))
        assert_allclose(np.abs(x).mean(0), [3.0, 2.0], atol=1.5)
    scatter = np.std(shares, axis=0, ddof=1)
    assert np.all(scatter < 3 * np.sqrt(0.25 * 0.75 / SETTINGS.candidates))
    assert_allclose(np.mean(shares, axis=0), 0.25, atol=4 * scatter.max() / np.sqrt(len(SEEDS)))


@pytest.mark.parametrize("seed", range(4))
def test_different_knob_steps_leave_the_true_image_alone(seed):
    x0, data = folded(seed, 4, x0=[[3.0, -2.0], [-3.0, -2.0], [-2.5, 3.0], [4.0, 2.5]][seed])
    x = np.asarray(e_step_only(seed, data, FOLDED).positions)[:, :2]
    assert np.mean(np.all(np.sign(x) == np.sign(x0), axis=1)) > 0.99


# Recovery


def covered(ranks):
    """Fractions of truths inside the central 68 % and 95 % of their posteriors."""
    ranks = np.asarray(ranks)
    return np.mean(np.abs(ranks - 0.5) < 0.34), np.mean(np.abs(ranks - 0.5) < 0.475)


@pytest.mark.parametrize(("with_m_step", "truths"), [(False, 120), (True, 60)])
def test_truths_lie_inside_the_stated_width_at_the_stated_rate(with_m_step, truths):
    """Truths from the prior, 1 to 4 frames: exact where the process is known (E-step alone).

    The M-step has the same hyperparameters' truth drawn from their prior, and settles on one value.
    Binomial errors of the truths, two states each, three standard deviations.
    """
    ranks = []
    for seed in range(truths):
        random = np.random.default_rng(1000 + seed)
        hyper = FOLDED.prior.mean
        if with_m_step:
            hyper = Hyperparameters(*(
                m + s * random.standard_normal()
                for m, s in zip(*FOLDED.prior, strict=True)))
        x0, data = folded(seed, 1 + seed % 4, hyper)
        if with_m_step:
            candidates = em.run(jax.random.key(seed), data, FOLDED.map, SETTINGS).candidates
        else:
            candidates = e_step_only(seed, data, FOLDED)
        ranks.append((np.asarray(candidates.positions)[:, :2] < x0).mean(0))
    for found, stated in zip(covered(ranks), (0.68, 0.95), strict=True):
        assert abs(found - stated) < 3 * np.sqrt(stated * (1 - stated) / (2 * truths))


def test_gains_that_are_ten_percent_off_are_found():
    """The maximum over the gains, x0 integrated out, is the mean of their Gaussian posterior.

    EM stops where no parameter moves by more than the tolerance (in units of its prior); the noise
    it estimates along is free by 10 %. So: within 0.3 posterior sd, and of the truth within 3.
    """
    for seed in range(6):
        x0, data = linear(seed, gains=(1.1, 0.9), step=4.0, actuator_sd=0.2 * np.eye(2))
        result = em.run(jax.random.key(seed), data, LINEAR.map, SETTINGS)
        mean, covariance, _ = LINEAR.posterior(data, actuator_sd=[0.2, 0.2])
        sd = np.sqrt(np.diag(covariance))
        gains = np.asarray(em.actuator(result.parameters, data))
        assert result.converged, result.message
        assert np.all(sd[2:] < 0.06)
        assert np.all(np.abs(np.diag(gains) - 1 - mean[2:]) < 0.3 * sd[2:])
        assert np.all(np.abs(np.diag(gains) - [1.1, 0.9]) < 3 * sd[2:])
        assert_array_equal(gains - np.diag(np.diag(gains)), 0.0)  # no crosstalk was asked for
        found = np.asarray(result.candidates.positions)[:, :2].mean(0)
        assert np.all(np.abs(found - x0) < 4 * sd[:2])


def test_the_scale_of_the_optics_is_found():
    """Truths from its prior, 10 %: each within the stated width at the stated rate."""
    ranks, widths = [], []
    for seed in range(60):
        truth = 0.1 * np.random.default_rng(seed + 500).standard_normal()
        _, data = linear(seed, log_scale=truth, step=4.0, scale_sd=0.1)
        scales = np.asarray(e_step_only(seed, data, LINEAR).positions)[:, 2]
        ranks.append(np.mean(scales < truth))
        widths.append(scales.std())
    assert max(widths) < 0.05
    for found, stated in zip(covered(ranks), (0.68, 0.95), strict=True):
        assert abs(found - stated) < 3 * np.sqrt(stated * (1 - stated) / 60)


# The M-step


@pytest.mark.parametrize("seed", range(6))
def test_evidence_never_falls(seed):
    """Stated evidences of every toy, with and without gains, rise or stay; none is infinite."""
    surprising = Hyperparameters(math.log(2.0), -0.5, math.log(1.6))
    gains = linear(seed, gains=(1.2, 0.8), step=2.0, actuator_sd=np.full((2, 2), 0.1))[1]
    for toy, data in ((LINEAR, linear(seed)[1]), (LINEAR, gains),
                      (FOLDED, folded(seed, 4, surprising)[1]), (FOLDED, folded(seed, 2)[1])):
        result = em.run(jax.random.key(seed), data, toy.map, SETTINGS)
        assert np.all(np.isfinite(result.evidences))
        assert np.all(np.diff(result.evidences) >= -1e-9)
        assert len(result.evidences) == result.iterations + 1
        assert ("settled" in result.message) == result.converged


@pytest.mark.parametrize("seed", range(3))
def test_the_true_evidence_rises_as_stated(seed):
    """The evidence by quadrature over a fine grid of x0, before and after each M-step.

    The stated rise is a mean over 128 candidates of ratios that differ by a few tenths: 0.1 nats.
    """
    line = np.linspace(-13, 8.9, 147)
    cell = (line[1] - line[0]) ** 2
    grid = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    grid = jnp.asarray(np.column_stack([grid, np.zeros(len(grid))]))
    random = np.random.default_rng(seed)
    hyper = Hyperparameters(math.log(3.0), 0.0, math.log(0.4))
    x0 = random.uniform(-4, 4, 2)
    _, data = folded(seed, 4, hyper, x0)
    log_prior = -0.5 * jnp.sum((grid[:, :2] / 3.0) ** 2, -1) - np.log(2 * np.pi * 9.0 / cell)
    values = jax.jit(lambda parameters: em.score_all(grid, parameters, data, FOLDED.map))

    def evidence(parameters):
        inside = jax.nn.logsumexp(values(parameters) + log_prior)
        return float(inside + latent_map.log_prior(parameters.process, FOLDED.prior))

    parameters = em.initial_parameters(FOLDED.map, data)
    candidates = e_step_only(seed, data, FOLDED, parameters)
    assert_allclose(candidates.log_evidence, evidence(parameters), atol=0.5)
    start = now = evidence(parameters)
    for iteration in range(5):
        parameters, rise = em.maximise(candidates, parameters, data, FOLDED.map, SETTINGS)
        before, now = now, evidence(parameters)
        assert now > before - 0.02
        assert_allclose(now - before, rise, atol=0.1 + 0.2 * float(rise))
        candidates, _ = em.renew(jax.random.key(iteration), candidates, parameters, data,
                                 FOLDED.map, SETTINGS)
    assert now > start + 0.1


# Failures


def test_a_failed_factorisation_is_minus_infinity():
    """Two frames in one state without noise: a singular covariance."""
    _, data = linear(0)
    parameters = em.initial_parameters(LINEAR.map, data)
    candidate = jnp.zeros(3)
    assert np.isfinite(em.score(candidate, parameters, data, LINEAR.map))
    singular = parameters._replace(process=Hyperparameters(0.0, 0.0, -1e3))
    still = data._replace(knobs=jnp.zeros_like(data.knobs))
    assert em.score(candidate, singular, still, LINEAR.map) == -jnp.inf


def test_candidates_that_fail_die_out():
    """The map of the folded toy breaks beyond x = 9, three standard deviations of the prior."""
    _, data = folded(0, 4, x0=[5.0, 1.0])
    parameters = em.initial_parameters(FOLDED.map, data)
    start = em.begin(jax.random.key(0), parameters, data, FOLDED.map, SETTINGS.candidates)
    broken = np.any(np.asarray(start.positions[:, :1]) + UNEQUAL[:, 0] > 9.0, axis=1)
    assert_array_equal(np.asarray(start.log_likelihood) == -np.inf, broken)
    assert broken.any() and not np.isnan(start.log_likelihood).any()
    result = em.run(jax.random.key(0), data, FOLDED.map, SETTINGS)
    assert np.all(np.isfinite(result.candidates.log_likelihood))
    assert np.all(np.isfinite(result.evidences))
    # they are counted at the first temperature; what EM's key draws is not what is drawn above
    [lost] = re.findall(r"without a finite likelihood, which weigh nothing: (\d+)", result.message)
    assert 0.5 * broken.sum() < int(lost) < 2 * broken.sum()
    assert "finite" not in em.run(jax.random.key(0), linear(0)[1], LINEAR.map, SETTINGS).message


def test_where_all_fail_the_message_says_so():
    _, data = folded(0, 4)
    data = data._replace(latents=jnp.full_like(data.latents, jnp.nan))
    result = em.run(jax.random.key(0), data, FOLDED.map, SETTINGS)
    assert not result.converged
    assert "no candidate has a finite likelihood" in result.message


# Compilation, types, progress


def test_compiled_is_eager_and_batched_is_a_loop(monkeypatch):
    """Seven candidates in blocks of two."""
    _, data = linear(0)
    monkeypatch.setattr(em, "BLOCK", 2 * len(data.latents))
    parameters = em.initial_parameters(LINEAR.map, data)
    positions = em.draw(jax.random.key(0), data, 7)
    eager = [em.score(c, parameters, data, LINEAR.map) for c in positions[:2]]
    batched = em.score_all(positions, parameters, data, LINEAR.map)
    assert_allclose(batched[:2], eager, rtol=1e-12)
    compiled = jax.jit(lambda c: em.score(c, parameters, data, LINEAR.map))
    assert_allclose(batched, [compiled(c) for c in positions], rtol=1e-12)


def test_one_trace_serves_every_series_of_a_size(monkeypatch):
    programs = em.draw, em.score_all, em._trial, em.accept, em.maximise
    em.run(jax.random.key(0), linear(0)[1], LINEAR.map, SETTINGS)
    sizes = [program._cache_size() for program in programs]
    em.run(jax.random.key(1), linear(1, frame_noise=counted(2))[1], LINEAR.map, SETTINGS)
    assert sizes == [program._cache_size() for program in programs]


def test_the_key_decides():
    _, data = linear(0)
    first, again, other = (e_step_only(seed, data, LINEAR) for seed in (0, 0, 1))
    assert_array_equal(first.positions, again.positions)
    assert not np.array_equal(first.positions, other.positions)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_types_are_kept(dtype):
    data = jax.tree.map(lambda a: a.astype(dtype), linear(0)[1])
    parameters = em.initial_parameters(LINEAR.map, data)
    key = jax.random.key(0)
    candidates = jax.eval_shape(lambda: em.begin(key, parameters, data, LINEAR.map, 64))
    out = jax.eval_shape(
        lambda c: (em.temper(key, c, parameters, data, LINEAR.map, SETTINGS)[0],
                   em.renew(key, c, parameters, data, LINEAR.map, SETTINGS)[0],
                   em.maximise(c, parameters, data, LINEAR.map, SETTINGS)), candidates)
    for leaf in jax.tree.leaves((candidates, out)):
        assert leaf.dtype == dtype


def test_progress_tells_what_is_done():
    told = []
    em.run(jax.random.key(0), linear(0)[1], LINEAR.map, SETTINGS,
           progress=lambda message, fraction: told.append((message, fraction)))
    assert told[0] == ("narrowing down the candidates, step 1", None)
    assert told[-1][0].startswith("fitting the map, step") and 0 < told[-1][1] <= 1


def test_states_follow_scale_and_gain():
    """x_t = unit exp(power s) (x0 + G u_t)."""
    _, data = linear(0, actuator_sd=np.array([[0.1, 0.05], [0.0, 0.1]]))
    data = data._replace(unit=jnp.array([0.5, 2.0]), scale_power=jnp.array([2.0, 3.0]))
    parameters = em.initial_parameters(LINEAR.map, data)._replace(actuator=jnp.ones((2, 2)))
    found = em.states(jnp.array([1.0, -2.0, 0.1]), parameters, data)
    gain = np.array([[1.1, 0.05], [0.0, 1.1]])
    unit = np.array([0.5, 2.0]) * np.exp([0.2, 0.3])
    assert_allclose(found, unit * ([1.0, -2.0] + STEPS @ gain.T), rtol=1e-12)


def test_without_iterations_the_parameters_stay_where_they_were_expected():
    """What is left is the E-step: the posterior of the same candidates under these parameters."""
    data = linear(0)[1]
    result = em.run(jax.random.key(0), data, LINEAR.map, SETTINGS._replace(iterations=0))
    assert result.iterations == 0 and result.converged and len(result.evidences) == 1
    jax.tree.map(assert_array_equal, result.parameters, em.initial_parameters(LINEAR.map, data))
    full = em.run(jax.random.key(0), data, LINEAR.map, SETTINGS)
    assert full.evidences[0] == result.evidences[0]


@pytest.mark.parametrize("settings", [em.Settings(candidates=1), em.Settings(iterations=-1)])
def test_settings_without_candidates_or_with_negative_iterations_are_refused(settings):
    with pytest.raises(ValueError, match="at least 2 candidates and no negative iterations"):
        em.run(jax.random.key(0), None, None, settings)
