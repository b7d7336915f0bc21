"""The methods that jaxcal is compared with do what they say, and the comparison judges fairly."""

import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_benchmarks  # noqa: F401  loads the package ``benchmarks`` of the checkout

import jaxcal
from benchmarks import comparison, comparison_summary, tuning
from benchmarks.baselines import (
    bayesopt,
    bayesopt_package,
    dataset,
    network,
    particle_filter,
    quality,
    regression,
    scalar_em,
)
from benchmarks.baselines.interface import Answer, errors, residual_nm
from jaxcal import aberrations, basins, em, latent_map, model, spectra, stream
from jaxcal.microscopes import simulated
from jaxcal.microscopes.simulated import FIRST_ORDER, simulated_optics
from jaxcal.series import Series
from jaxcal.simulation import Grid

TINY = (stream.Bucket(Grid(64, 18.0), 0.0, 3.0, 2, 1),)


# qualities ----------------------------------------------------------------------------------------


def test_emittance_is_the_rms_gradient_in_closed_form():
    # chi = a r^2: <4 a^2 r^2> = 2 a^2; a r^4: <16 a^2 r^6> = 4 a^2; both: 2 <2 r 4 r^3> = 16/3.
    form = quality.gradient_form()
    c10, c12a, c30 = aberrations.indices(("C10", "C12a", "C30"))
    np.testing.assert_allclose(
        [form[c10, c10], form[c12a, c12a], form[c30, c30], 2 * form[c10, c30], form[c10, c12a]],
        [2, 2, 4, 16 / 3, 0], atol=0.03)  # the grid's steps at the aperture's edge


def test_emittance_is_smallest_where_the_knobs_stand_right():
    random = np.random.default_rng(0)
    places = aberrations.indices(stream.KNOBS)
    for _ in range(20):
        waves = np.zeros(25)
        waves[places] = random.standard_normal(7)
        assert quality.log_emittance(waves) > quality.log_emittance(np.zeros(25))
        assert quality.log_emittance(2 * waves) > quality.log_emittance(waves)


def test_log_variance_is_that_of_gratings_by_their_frequency():
    for column in (10, 20):  # f_x = 5 and 10, f_y = 0: they and their mirror images
        power = np.zeros((spectra.ROWS, spectra.COLUMNS))
        power[spectra.ROWS // 2, column] = 3.0
        expected = np.log(2 * 3.0 * spectra.SPACING**2 * column * spectra.SPACING)
        np.testing.assert_allclose(quality.log_variance(jnp.asarray(power)), expected)


@pytest.mark.slow
def test_weighted_variance_of_a_ronchigram_has_its_minimum_where_it_is_tuned():
    microscope = jaxcal.SimulatedMicroscope(seed=20_010)
    truth = np.array(list(microscope.truth_nm.values()))

    def scan(knob, steps):
        values = []
        for step in steps:
            settings = -truth.copy()
            settings[knob] += step
            microscope.set(settings)
            frame = microscope.acquire()
            values.append(scalar_em.measure(frame, microscope.optics)["variance"])
        return np.array(values)

    for knob in (0, 1):
        values = scan(knob, (-100.0, -20.0, 0.0, 20.0, 100.0))
        assert values.argmin() == 2
        # how deep the well is depends on the dose: noise does not go away in focus
        assert values[0] > values[1] > values[2] + 0.1 and values[4] > values[3] > values[2] + 0.1


# network and regression ---------------------------------------------------------------------------


def test_products_do_not_change_under_the_symmetry_and_keep_the_rest():
    random = np.random.default_rng(1)
    waves = jnp.asarray(random.standard_normal(7))
    targets = network.products(waves)
    assert targets.shape == (16,)
    for signs in model.symmetry().states:
        np.testing.assert_allclose(network.products(jnp.asarray(signs) * waves), targets)
    mirrored = waves.at[1].multiply(-1)  # no element of the group
    assert np.abs(network.products(mirrored) - targets).max() > 0.1
    assert np.all(np.isfinite(jax.jacfwd(network.products)(jnp.zeros(7))))


@pytest.mark.slow
def test_the_data_set_and_the_training_go_on_where_they_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(network, "BATCH", 4)
    samples = dataset.load(2, tmp_path, seed=3, buckets=TINY)
    assert samples.images.shape == (16, 128, 64) and samples.waves.shape == (16, 25)
    assert np.all(np.isfinite(samples.variance))
    written = sorted((tmp_path / "rounds").glob("*.npz"))
    before = [path.stat().st_mtime_ns for path in written]
    again = dataset.load(2, tmp_path, seed=3, buckets=TINY)
    assert [path.stat().st_mtime_ns for path in written] == before
    np.testing.assert_array_equal(again.images, samples.images)

    class Stop(Exception):
        pass

    def stop(message):
        if message.startswith("epoch 2/"):
            raise Stop

    whole, card = network.train(samples, samples, tmp_path / "whole", epochs=3)
    with pytest.raises(Stop):
        network.train(samples, samples, tmp_path / "cut", epochs=3, report=stop)
    cut, _ = network.train(samples, samples, tmp_path / "cut", epochs=3)
    assert len(card["losses"]) == 3 and card["losses"][-1][0] < card["losses"][0][0]
    for one, other in zip(*(network.read(n)(samples.images) for n in (whole, cut)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def seen_at(frames=8, knob_names=FIRST_ORDER, seed=0):
    """What the methods read off a series, without frames: knobs, optics and numbers."""
    random = np.random.default_rng(seed)
    knobs = random.uniform(-100, 100, (frames, len(knob_names)))
    knobs[0] = 0
    optics = simulated_optics()
    shots = np.zeros((frames, 256, 256), np.float32)
    series = Series(shots, knobs, knob_names, optics, "toy")
    return SimpleNamespace(
        series=series,
        usable=lambda count: (list(range(count)), np.zeros((count, 128, 64)), optics))


def states_of(seen, truth):
    """Edge phases (T, 7), waves, of the frames of `seen_at`."""
    data = basins.experiment(np.zeros((len(seen.series), 1)), seen.series.knobs_nm,
                             seen.series.knob_names, seen.series.optics)
    state = np.zeros(8)
    state[: len(truth)] = truth
    zero = em.Parameters(None, jnp.zeros((7, 7)))
    return np.asarray(em.states(jnp.asarray(state, jnp.float32), zero, data))


def test_regression_finds_the_start_from_what_a_perfect_network_says(monkeypatch):
    truth = np.array([60.0, -35.0, 80.0])
    seen = seen_at()
    targets = jax.vmap(network.products)(jnp.asarray(states_of(seen, truth), jnp.float32))

    def read(trained):
        told = np.column_stack([np.asarray(targets), np.zeros(8)])
        return lambda images: (told[: len(images)], np.full((len(images), 17), 2 * np.log(0.05)))

    monkeypatch.setattr(network, "read", read)
    answer = regression.estimate(seen, 8, 0, None, length=10)
    np.testing.assert_allclose(-answer.knobs_nm, truth, atol=2.0)
    assert np.all(answer.sd_nm > 0.1) and np.all(answer.sd_nm < 10.0)
    one = regression.estimate(seen, 1, 0, None, length=10)
    assert np.all(one.sd_nm > answer.sd_nm)


# scalar EM and particle filter --------------------------------------------------------------------


def toy_map(size, spread=0.05):
    """A map of latents that are even functions of C10 and C12."""
    def predict(state):
        latents = jnp.stack([state[0] ** 2, state[0] * state[1], state[0] * state[2],
                             state[1] ** 2, state[1] * state[2], state[2] ** 2])[:size]
        return latent_map.Prediction(jnp.arcsinh(latents), jnp.zeros((1, size), latents.dtype),
                                     jnp.eye(size, dtype=latents.dtype) / spread)

    return em.Map(predict, np.asarray(model.symmetry().states, np.float32),
                  np.asarray(model.STATE_SCALE, np.float32), latent_map.SIMULATED_PRIOR)


def test_particles_end_at_the_truth_and_see_no_gap(monkeypatch):
    monkeypatch.setattr(particle_filter, "PARTICLES", 256)
    truth, map_ = np.array([60.0, -35.0, 80.0]), toy_map(6)
    seen = seen_at()
    latents = np.stack([np.asarray(map_.predict(x).mean) for x in states_of(seen, truth)])
    stub = SimpleNamespace(map=map_, encode=lambda images: latents[: len(images)])
    found = particle_filter.filter_(seen, (1, 8), 0, stub, particles=256)
    np.testing.assert_allclose(-found[8].knobs_nm, truth, atol=4.0)
    assert np.all(found[8].sd_nm < found[1].sd_nm)
    hyper = particle_filter.without_gap(map_).prior.mean
    assert np.exp(hyper.log_amplitude) < 0.01 and hyper.log_noise == 0.0


@pytest.mark.slow
def test_em_runs_on_one_number_a_frame():
    truth, map_ = np.array([60.0, -35.0, 80.0]), toy_map(1)
    seen = seen_at(frames=4)
    values = np.array([float(map_.predict(x).mean[0]) for x in states_of(seen, truth)])
    settings = em.Settings(candidates=256, iterations=1, climbs=2, climbing=8)
    answer = scalar_em.estimate(seen, 4, 0, (map_, 2.0, 1.0), 2 * values + 1, 4, settings)
    assert answer.knobs_nm.shape == (3,) and np.all(answer.sd_nm > 0)
    plain = scalar_em.estimate(seen, 4, 0, (map_, 1.0, 0.0), values, 4, settings)
    np.testing.assert_allclose(answer.knobs_nm, plain.knobs_nm, atol=0.1)  # whatever the unit
    turned = scalar_em.estimate(seen, 4, 0, (map_, 1.0, 0.0), -values, 4, settings)
    assert np.abs(turned.knobs_nm - plain.knobs_nm).max() > 1.0  # the values count


@pytest.mark.slow
def test_the_map_of_a_scalar_learns_it():
    random = np.random.default_rng(2)
    count = 4096  # the first 768 judge
    waves = random.standard_normal((count, 25)).astype(np.float32)
    samples = dataset.Samples(None, waves, random.standard_normal(
        (count, len(stream.NUISANCES))).astype(np.float32), None)
    scalars = 3 + 2 * np.log(np.sum(waves[:, :3] ** 2, 1))
    made, spread, middle = scalar_em.fit(scalars, samples, epochs=20)
    told = jax.vmap(lambda x: made.predict(x).mean[0])(jnp.asarray(waves[:200, :7]))
    assert np.corrcoef(told * spread + middle, scalars[:200])[0, 1] > 0.5


# Bayesian optimisation ----------------------------------------------------------------------------


class Bowl:
    """A microscope whose frames are its distance from the tuned setting."""

    knob_names, optics = FIRST_ORDER, simulated_optics()

    def __init__(self):
        self.truth, self.random = np.array([60.0, -35.0, 80.0]), np.random.default_rng(0)

    def set(self, knobs_nm):
        self.left = self.truth + knobs_nm

    def acquire(self):
        return np.log(0.3 + np.linalg.norm(self.left) / 100) + 0.02 * self.random.normal()


@pytest.fixture
def bowl(monkeypatch):
    monkeypatch.setattr(scalar_em, "measure",
                        lambda frame, optics, trained=None: {"variance": frame})
    return Bowl()


@pytest.mark.parametrize("acquisition", ["ei", "ucb"])
def test_optimisation_finds_the_bottom_of_a_bowl(bowl, acquisition):
    options = bayesopt.Options(acquisition=acquisition, start=5)
    answers = list(bayesopt.tune(bowl, 30, 1, "variance", options=options))
    assert len(answers) == 30
    off = [np.linalg.norm(bowl.truth + answer.knobs_nm) for answer in answers]
    assert off[-1] < 15.0 < off[1]
    assert np.all(np.diff([answer.seconds for answer in answers]) > 0)


def test_padding_of_the_process_does_not_move_its_hyperparameters():
    places, values = np.random.default_rng(3).uniform(-1, 1, (2, 6, 3))
    values, options = values[:, 0], bayesopt.Options()
    hyper = bayesopt.initial(3, options)

    def rise(padding, moved):
        padded = (np.concatenate([places, np.zeros((padding, 3))]),
                  np.concatenate([values, np.zeros(padding)]), 6, options)
        return (bayesopt.negative_log_posterior(moved, *padded)
                - bayesopt.negative_log_posterior(hyper, *padded))

    moved = bayesopt.Hyper(hyper.length + 0.3, hyper.amplitude - 0.2, hyper.noise + 0.4,
                           hyper.mean + 0.1)
    # the padding's variance of 1e6 adds a constant and hides amplitudes of about 1
    np.testing.assert_allclose(rise(4, moved), rise(0, moved), atol=1e-4)


def test_the_package_is_optional(bowl, monkeypatch, capsys):
    monkeypatch.setattr(bayesopt_package, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"\.\[evidence\]"):
        next(bayesopt_package.tune(bowl, 3, 0))
    assert comparison.available(["jaxcal", "package_emittance"]) == ["jaxcal"]
    assert "bayesian-optimization" in capsys.readouterr().err


@pytest.mark.skipif(not bayesopt_package.installed(), reason=bayesopt_package.MISSING)
def test_the_package_finds_the_bottom_too(bowl):
    options = bayesopt.Options(start=5)
    answers = list(bayesopt_package.tune(bowl, 20, 1, options=options))
    assert np.linalg.norm(bowl.truth + answers[-1].knobs_nm) < 30.0


# the comparison -----------------------------------------------------------------------------------


def test_what_a_perfect_answer_leaves_is_nothing_with_gains_and_drift_too():
    microscope = comparison.instrument(5, "7", gain_error=0.1, drift_nm=1.0)
    places = aberrations.indices(microscope.knob_names)
    hidden = np.array(list(microscope.hidden_nm.values()))[places]
    gain, drift = microscope._actuator, microscope._drift
    assert np.abs(gain - np.eye(7)).max() > 0.01 and np.abs(drift).max() > 0.1
    right = -np.linalg.solve(gain, hidden + 4 * drift)
    np.testing.assert_allclose(residual_nm(microscope, right, 5), 0, atol=1e-9)
    assert np.abs(residual_nm(microscope, right, 9)).max() > 0.1
    assert microscope.frames_taken == 0 and not microscope.knobs_nm.any()


def test_errors_are_in_nm_and_in_limits():
    nm, limits = errors([3.0, 4.0, 0.0], FIRST_ORDER, simulated_optics())
    np.testing.assert_allclose(nm, 5 / np.sqrt(3))
    np.testing.assert_allclose(limits, nm / 1.5674, rtol=1e-3)  # lambda / 4 alpha^2


def runs(errors_by_method, frames):
    return {method: [{"seed": k, "frames": list(frames), "error_nm": list(row),
                      "in_limits": list(row), "seconds": [1.0] * len(frames),
                      "z": [1.0] * len(frames)} for k, row in enumerate(rows)]
            for method, rows in errors_by_method.items()}


def test_orderings_are_kept_or_not():
    part = runs({"jaxcal": [(4, 1), (4, 1)], "published": [(5, 3), (5, 3)]}, (5, 15))
    part |= runs({"bayesopt_emittance": [(30, 5), (30, 3)]}, (15, 150))
    found = comparison_summary.orderings({"3": comparison_summary.summarise(part)}, 150)
    kept = {(e["method"], e["own_frames"], e["frames"]): e["kept"] for e in found}
    assert kept == {("bayesopt_emittance", 15, 150): True, ("bayesopt_emittance", 15, 15): True,
                    ("published", 5, 5): False, ("published", 15, 15): True}
    ratio = next(e["ratio"] for e in found if e["frames"] == 150)
    np.testing.assert_allclose(ratio, 0.25)
    wide = comparison_summary.orderings(
        {"3": comparison_summary.summarise(part)}, 150, {"published": 0.9})
    assert all(e["kept"] for e in wide) and {e["share"] for e in wide} == {0.25, 0.5, 0.9}


def test_what_is_promised_is_promised_of_the_worst_instruments_too():
    """Eight of ten instruments at a tenth of the error, two nearly as bad: mean and median are
    kept, the 90th percentile is not."""
    rows = [(1.0,)] * 8 + [(9.0,)] * 2
    part = runs({"jaxcal": rows, "published": [(10.0,)] * 10}, (5,))
    found = comparison_summary.orderings({"3": comparison_summary.summarise(part)}, 150)
    assert {e["statistic"]: e["kept"] for e in found} == {
        "mean": True, "median": True, "90": False}


def test_em_alone_is_shown_beside_the_particle_filter_and_counted_apart():
    part = runs({"jaxcal": [(1, 1)] * 2, "jaxcal_em": [(8, 3)] * 2,
                 "particle_filter": [(10, 10)] * 2, "regression": [(10, 1)] * 2}, (5, 15))
    summaries = {"7": comparison_summary.summarise(part)}
    alone = comparison_summary.em_alone(summaries)
    assert [e["ratio"] for e in alone] == [0.8, 0.3] * 3 and sum(e["kept"] for e in alone) == 3
    assert not any(e["own_nm"] > 1 for e in comparison_summary.orderings(summaries, 150))
    made = {"summary": summaries, "counts": [5, 15], "budget": 150, "quick": False, "drift_nm": 0,
            "gain_error": 0, "instruments": 2, "seeds": [1, 2], "provenance": {
                "commit": "", "model": "", "versions": {"jax": "", "python": ""}, "cores": 2,
                "device": ""}}
    page = comparison_summary.markdown(made)
    assert ("9 of 12 orderings kept: 6 of 6 beside the particle filter, 3 of 6 beside the "
            "supervised network.") in page
    assert "not counted above: 3 of 6 at most half of the error of the particle filter" in page
    assert "| 7 knobs, particle filter, simulated map | 0.5 | **3 of 6** | 0.30 ... 0.80 |" in page
    del part["jaxcal_em"]
    assert not comparison_summary.em_alone({"7": comparison_summary.summarise(part)})


def test_every_method_is_drawn_in_a_colour_of_its_own(tmp_path):
    """Medians and 90th percentiles, also of the series of the other simulator."""
    part = runs({method: [(9, 4), (5, 1)] for method in comparison_summary.LABELS}, (3, 15))
    summaries = {case: comparison_summary.summarise(part) for case in ("3", "7", "reality")}
    comparison_summary.draw(summaries, tmp_path / "drawn.svg")
    drawn = (tmp_path / "drawn.svg").read_text()
    assert len(re.findall(r'id="axes_\d+"', drawn)) == 6
    for title in ("7 knobs, median", "other simulator, 90 %", "error of C10, C12"):
        assert f"<!-- {title}" in drawn
    strokes = re.findall(r'id="line2d_\d+">\s*<path d="[^"]*" clip-path[^>]*style="[^"]*'
                         r"stroke: (#\w{6}); stroke-width: (?:1.1|2.2)", drawn)
    colours = {c: strokes.count(c) for c in strokes}
    assert set(colours.values()) == {6} and len(colours) == len(comparison_summary.LABELS)


def test_a_run_that_ended_early_counts_with_its_last_answer():
    part = {"jaxcal_loop": [
        {"seed": 0, "frames": [1, 2], "error_nm": [9.0, 1.0], "in_limits": [9.0, 1.0],
         "seconds": [1.0, 2.0], "z": [1.0, 1.0]},
        {"seed": 1, "frames": [1, 2, 3], "error_nm": [9.0, 5.0, 3.0],
         "in_limits": [9.0, 5.0, 3.0], "seconds": [1.0, 2.0, 3.0], "z": [1.0, 1.0, 1.0]},
        {"seed": 2, "failed": "no frame", "frames": [1, 2, 3], "error_nm": [80.0] * 3,
         "in_limits": [50.0] * 3, "seconds": [0.0] * 3, "z": [None] * 3}]}
    entry = comparison_summary.summarise(part)["jaxcal_loop"]
    assert entry["failed"] == 1 and entry["frames"]["3"]["error_nm"]["mean"] == 28.0


def test_a_method_that_fails_leaves_the_instrument_as_it_is(monkeypatch):
    def refuse(*_):
        raise ValueError("nothing found")

    monkeypatch.setattr(comparison, "ask", refuse)
    options = SimpleNamespace(counts=(3, 5), gain_error=0.0, drift=0.0, quick=False, budget=9)
    run = comparison.one("jaxcal", 7, "3", options)
    truth = list(comparison.instrument(7, "3").truth_nm.values())
    assert run["failed"] == "nothing found" and run["frames"] == [3, 5]
    np.testing.assert_allclose(run["error_nm"], np.sqrt(np.mean(np.square(truth))))
    monkeypatch.setattr(comparison, "chosen", refuse)
    run = comparison.one("bayesopt_variance", 7, "3", options)
    assert run["frames"] == sorted({*comparison.ASKED, 3, 5, 9})


@pytest.fixture
def stubs(monkeypatch):
    """Methods that are off by a known amount, ``off``, and the calls they got."""
    class Calls(list):
        def __init__(self):
            self.off = {"jaxcal": 1.0, "published": 10.0}

    calls = Calls()

    def ask(method, seen, counts, seed, settings=None):
        calls.append((method, seed))
        off = calls.off[method]
        names = seen.series.knob_names
        truth = np.array([seen.truth[name] for name in names])
        return {n: Answer(-truth + off, np.full(len(names), off), 0.5) for n in counts}

    def chosen(method, microscope, frames, seed):
        calls.append((method, seed))
        truth = np.array(list(microscope.truth_nm.values()))
        for _ in range(frames):
            yield Answer(-truth + 8.0, None, 0.1)

    def series(seed, knobs, frames, gain_error, drift_nm):
        microscope = comparison.instrument(seed, knobs)
        made = SimpleNamespace(knob_names=microscope.knob_names)
        return SimpleNamespace(series=made, truth=microscope.truth_nm), microscope

    monkeypatch.setattr(comparison, "ask", ask)
    monkeypatch.setattr(comparison, "chosen", chosen)
    monkeypatch.setattr(comparison, "series", series)
    return calls


def test_comparison_writes_its_tables_and_goes_on_where_it_stopped(tmp_path, stubs, capsys):
    page = tmp_path / "results.md"
    page.write_text("<!-- comparison -->\n<!-- end comparison -->\n")
    arguments = ["--instruments", "2", "--cases", "3,7", "--no-reality", "--budget", "50",
                 "--methods", "jaxcal,published,bayesopt_variance", "--counts", "5",
                 "--lines", str(tmp_path / "lines.jsonl"), "--json", str(tmp_path / "out.json"),
                 "--figure", str(tmp_path / "figure.svg"), "--document", str(page)]
    assert comparison.main(arguments) == 0
    assert len(stubs) == 2 * 2 * 3
    made = json.loads((tmp_path / "out.json").read_text())
    np.testing.assert_allclose(
        made["summary"]["7"]["published"]["frames"]["5"]["error_nm"]["mean"], 10.0)
    assert made["seeds"] == [15_000, 15_001] and made["provenance"]["versions"]["jax"]
    orderings = comparison_summary.promised(made)
    assert orderings and all(entry["kept"] for entry in orderings)
    assert "published form" in page.read_text() and "kept" in page.read_text()
    assert (tmp_path / "figure.svg").read_text().count("<svg") == 1
    capsys.readouterr()
    assert comparison.main(arguments) == 0 and len(stubs) == 2 * 2 * 3
    again = [a if a != "5" else "6" for a in arguments]
    assert comparison.main(again) == 0 and len(stubs) == 2 * 2 * 2 * 3


def test_wide_steps_are_for_the_methods_that_take_a_series(tmp_path, stubs):
    narrow, wide = (np.ptp(simulated.random_steps(5, 9, step_nm=comparison.STEPS_NM[case]), axis=0)
                    for case in ("3", "wide"))
    np.testing.assert_allclose(wide, 2.5 * narrow)
    np.testing.assert_array_equal(*(list(comparison.instrument(5, case).truth_nm.values())
                                    for case in ("3", "wide")))
    page = tmp_path / "results.md"
    page.write_text("<!-- comparison -->\n<!-- end comparison -->\n")
    assert comparison.main([
        "--instruments", "1", "--cases", "wide", "--no-reality", "--counts", "5", "--budget", "50",
        "--methods", "jaxcal,published,bayesopt_variance", "--lines", str(tmp_path / "lines"),
        "--json", str(tmp_path / "out.json"), "--figure", str(tmp_path / "figure.svg"),
        "--document", str(page)]) == 0
    assert {method for method, _ in stubs} == {"jaxcal", "published"}
    assert "3 knobs, wide steps, root mean square" in page.read_text()


def test_the_prior_of_a_method_is_about_the_best_of_those_tried(tmp_path, monkeypatch, capsys):
    """By errors that are made up; where another is better the exit status says so."""
    right = tuning.used("published")
    calls = []

    def errors(method, medians, options):
        calls.append(medians)
        return [1.0 + 10 * float(np.sum(np.abs(np.log(np.divide(medians, right)))))] * 4

    page = tmp_path / "results.md"
    page.write_text("<!-- tuning -->\n<!-- end tuning -->\n")
    arguments = ["--instruments", "2", "--methods", "published", "--lines",
                 str(tmp_path / "lines"), "--json", str(tmp_path / "out.json"), "--document",
                 str(page)]
    monkeypatch.setattr(tuning, "errors", errors)
    assert tuning.main(arguments) == 0
    count = len(tuning.OPTIONS["published"])
    assert len(calls) == count and "**" in page.read_text()
    assert tuning.main(arguments) == 0 and len(calls) == count  # all were kept
    monkeypatch.setattr(tuning, "used", lambda method: tuple(2 * value for value in right))
    assert tuning.main(arguments) == 1


def test_a_prior_that_is_tried_is_the_one_that_em_sees(monkeypatch):
    made = model.load()
    tried = tuning.with_medians(made.flat_map, (2.0, 0.25, 0.1))
    np.testing.assert_allclose(np.exp(tried.prior.mean), (2.0, 0.25, 0.1))
    assert tried.prior.sd == made.flat_map.prior.sd and tried.predict is made.flat_map.predict
    seen = []
    monkeypatch.setattr(tuning.published, "estimate", lambda *arguments: seen.append(
        np.exp(arguments[3].flat_map.prior.mean)))
    tuning._answers("published", (2.0, 0.25, 0.1))(None, 0)
    np.testing.assert_allclose(seen, [(2.0, 0.25, 0.1)])
    assert made.flat_map.prior is latent_map.FLAT_PRIOR  # afterwards as before


def test_a_broken_promise_is_told_by_the_exit_status(tmp_path, stubs, capsys, monkeypatch):
    monkeypatch.setattr(comparison_summary, "HALF", 0.05)
    page = tmp_path / "results.md"
    page.write_text("<!-- comparison -->\n<!-- end comparison -->\n")
    assert comparison.main([
        "--instruments", "1", "--cases", "3", "--no-reality", "--methods", "jaxcal,published",
        "--counts", "5", "--lines", str(tmp_path / "lines.jsonl"), "--json",
        str(tmp_path / "out.json"), "--figure", str(tmp_path / "figure.svg"), "--document",
        str(page)]) == 1
    assert "**0 of 3**" in capsys.readouterr().out


def test_the_small_form_asks_for_the_smaller_error_of_the_near_method_and_for_half_of_others(
        tmp_path, stubs, monkeypatch):
    """Four methods that need no training at three and five frames; published's 10 nm, and 8 of
    Bayesian optimisation, beside 1 of jaxcal's."""
    def main():
        return comparison.main(["--quick", "--lines", str(tmp_path / "lines.jsonl"), "--json",
                                str(tmp_path / "out.json")])

    stubs.off["particle_filter"] = 1.3
    assert main() == 0
    made = json.loads((tmp_path / "out.json").read_text())
    shares = {e["method"]: e["share"] for e in comparison_summary.promised(made)}
    assert shares == {"published": 0.5, "particle_filter": 1.0, "bayesopt_variance": 0.5}
    assert made["counts"] == [3, 5] and set(made["summary"]) == {"3"}
    for method, off, status in (("particle_filter", 0.9, 1), ("particle_filter", 1.3, 0),
                                ("published", 1.9, 1)):
        (tmp_path / "lines.jsonl").unlink()
        stubs.off[method] = off
        assert main() == status


def test_methods_and_knobs_that_there_are_not_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        comparison.main(["--methods", "guessing"])
    assert "particle_filter" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        comparison.main(["--cases", "wide", "--methods", "bayesopt_variance"])
    assert "for methods that take a series" in capsys.readouterr().err
