"""What knob steps can decide: against the refinement itself, on series made by the theory."""

import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxcal
from jaxcal import (
    aberrations,
    decisions,
    hologram,
    identification,
    laplace,
    latent_map,
    posterior,
    refine,
    tiles,
    unknowns,
)
from jaxcal.microscopes.simulated import SEVEN
from jaxcal.optics import Optics, quarter_pi_limits_nm

sys.path.append(str(Path(__file__).parent.parent))
from benchmarks import identifiability as claims  # noqa: E402

PAGE = Path(__file__).parents[1] / "docs" / "identifiability.md"
OPTICS = Optics(200.0, 20.0, 0.19)
KNOBS = ("C10", "C12a", "C12b")
STATE = {"C10": 60.0, "C12a": -45.0, "C12b": 30.0, "C21a": 80.0, "C23b": -60.0, "C30": 900.0}
LIMITS = quarter_pi_limits_nm(OPTICS)[:3]


def at_state(steps, names=KNOBS):
    """A planned problem of float64 steps and z of STATE."""
    problem = identification.planned(np.asarray(steps, float), names, OPTICS)
    return problem, unknowns.start(problem, tuple(STATE), list(STATE.values()))


def odds_of(steps):
    problem, z = at_state(steps)
    return identification.one_draw(z, problem)[1]


@partial(jax.jit, static_argnames=("places", "layout"))
def windows(phases, physics, places, layout):
    """Expected spectra (K, B) of the windows of one frame."""
    def one(window):
        points = hologram.lay_out(phases, places, physics, *window, layout)
        return hologram.spectrum(phases, physics, points, layout)

    return jax.lax.map(one, tuple(jnp.float32(m) for m in layout.moments))


def expected(z, problem):
    """Expected spectra of every frame."""
    phases, physics, _ = unknowns.frames_of(z, problem)
    places = aberrations.places(problem.free)
    return tuple(tuple(np.asarray(windows(np.float32(p), made, places, layout))
                       for layout in tiles.LAYOUTS)
                 for p, made in zip(phases, physics, strict=True))


def mirrored(z, problem):
    """All aberrations of the opposite sign."""
    place = unknowns.slices(problem)["state"]
    return np.concatenate([-z[place], z[place.stop :]])


def test_widths_are_those_of_the_refinement():
    problem, z = at_state([[0, 0, 0], [60, 40, -50]])
    covariance, _ = identification.one_draw(z, problem)
    same = laplace.solution(posterior.evaluate(z, problem), problem, True)
    assert_allclose(covariance, same.covariance_nm2, rtol=1e-5)


@pytest.mark.slow
def test_log_odds_are_what_the_climb_from_the_mirror_image_is_left_with():
    """Value at the mirror image's top less that at the truth's, spectra with noise.

    It scatters by at most sqrt(2 m) between draws of the noise: four of that, for a mean of two.
    """
    step = np.array([0.0, 2.0, -2.5])
    problem, z = at_state([[0.0] * 3, step])
    _, odds = identification.one_draw(z, problem)
    clean, left = expected(z, problem), []
    for here, there in zip(clean[0], expected(mirrored(z, problem), problem)[0], strict=True):
        assert_allclose(here, there, rtol=1e-3)  # the same; float32 phases, minima of the rings
    for seed in range(2):
        random = np.random.default_rng(seed)
        power = tuple(tuple((p * random.exponential(size=p.shape)).astype(np.float32)
                            for p in frame) for frame in clean)
        noisy = replace(problem, measured=problem.measured._replace(power=power))
        start = mirrored(z, problem)
        start[:3] -= step / problem.sd.state[:3]  # about the mean setting
        truth, image = (refine.climb(noisy, posterior.evaluate(at, noisy), 10)[0]
                        for at in (z, start))
        left.append(image.value - truth.value)
    assert 10.0 < odds < 100.0
    assert abs(np.mean(left) - odds) < 4 * np.sqrt(2 * odds / 2)


def test_equal_settings_tell_nothing_of_the_sign_and_repeats_add_up():
    once = odds_of([[0, 0, 0], [3, 0, 0]])
    again = odds_of([[0, 0, 0], [3, 0, 0]] * 2)
    moved = odds_of([[3, 0, 0], [0, 0, 0]])
    still = odds_of([[50, 20, 10]] * 3)
    assert_allclose(still, 0.0, atol=1e-8)
    assert_allclose(moved, once, rtol=1e-6)  # the order of the frames does not matter
    assert 1.7 < again / once < 2.3  # but for what the priors of the nuisances hold


def test_pairs_about_one_point_decide():
    """Settings c + d and c - d: the frames change places in the mirror, but each is known by its
    setting."""
    told = jaxcal.identifiability([[90.0, 20.0, 0.0], [-30.0, 20.0, 0.0]], KNOBS, OPTICS, draws=2)
    assert told.sign_decided and told.sign_log_odds > 100


def test_messages_say_what_to_do():
    one = jaxcal.identifiability([[0.0, 0.0, 0.0]], KNOBS, OPTICS, draws=1)
    assert not one.sign_decided and not one.decides
    assert one.message.startswith("not decided: one frame, where a state and its mirror image")
    assert "take a frame at another, for instance C10 by 63 nm" in one.message
    equal = jaxcal.identifiability([[5.0, 0.0, 0.0]] * 2, KNOBS, OPTICS, draws=1)
    assert equal.message.startswith("not decided: all frames at one knob setting")
    close = jaxcal.identifiability([[0.0] * 3, [1.0, 0.0, 0.0]], KNOBS, OPTICS, draws=1)
    assert "so close that the log odds against the mirror image are 0." in close.message
    few = jaxcal.identifiability([[0.0] * 3, [60.0, 0.0, 0.0]], KNOBS, OPTICS, draws=1)
    assert few.sign_decided and not few.decides
    assert few.message.startswith("the sign is decided, but not to half the pi/4 limit: C1")
    assert_array_equal(few.ratio, few.sd_nm / LIMITS)
    lines = str(few).splitlines()
    assert len(lines) == 4 and lines[0].startswith("C10 ") and lines[-1] == few.message


def test_many_frames_decide_and_a_knob_without_phase_is_named():
    steps = 80 * np.random.default_rng(0).uniform(-1, 1, (30, 3))
    many = jaxcal.identifiability(steps, KNOBS, OPTICS, draws=1, electrons=2e7,
                                  x0_nm=[60.0, -45.0, 30.0], sd_nm=1.0)
    assert many.decides and many.message.startswith("decided: the sign, and every knob")
    blind = identification.Identifiability(
        ("C10", "C12a"), np.array([1.0, 149.0]), np.array([1.0, 150.0]), LIMITS[:2], 500.0, True,
        False, "")
    told = identification._message(blind, np.array([[0.0, 0.0], [60.0, 0.0]]), np.zeros(2))
    assert "the sign is decided, but these frames tell nothing of C12a: the aperture" in told


def test_how_many_frames_would_do_does_not_count_on_less_than_the_theory_s_own_error():
    """A limit wide with two frames: eight have half of that, and more where 0.3 stay."""
    wide = identification.Identifiability(
        ("C10", "C12a"), LIMITS[:2] * [0.2, 1.0], LIMITS[:2], LIMITS[:2], 500.0, True, False, "")
    knobs = np.array([[0.0, 0.0], [60.0, 0.0]])
    assert "about 8 frames" in identification._message(wide, knobs, np.zeros(2))
    assert "about 12 frames" in identification._message(wide, knobs, np.array([0.0, 0.3]))


def test_the_guess_says_where_to_look():
    """At 40 waves of defocus the rings are too fine: C10 is known worse than at 8."""
    steps = [[0.0] * 3, [40.0, 0.0, 0.0]]
    near, far = (jaxcal.identifiability(steps, KNOBS, OPTICS, x0_nm=[c, 0, 0], sd_nm=1.0, draws=2)
                 for c in (100.0, 500.0))
    assert near.sd_nm[0] < far.sd_nm[0]
    again = jaxcal.identifiability(steps, KNOBS, OPTICS, x0_nm=[100, 0, 0], sd_nm=1.0, draws=2)
    assert_array_equal(near.sd_nm, again.sd_nm)


def test_settings_count_as_one_below_a_tenth_of_the_limits():
    assert unknowns.one_setting(np.zeros((1, 3)), KNOBS, OPTICS)
    assert unknowns.one_setting([[0.0] * 3, 0.09 * LIMITS], KNOBS, OPTICS)
    assert not unknowns.one_setting([[0.0] * 3, [0.0, 0.0, 0.2 * LIMITS[2]]], KNOBS, OPTICS)


@pytest.mark.parametrize(("frames", "largest", "names", "match"), [
    (1, [400.0], ("C10",), "frames should be at least 2, got 1: .*mirror image"),
    (5, [], (), "at least one knob, got none"),
    (5, [0.0, 0.0], ("C10", "C12a"), "room for a step, got C10 0 nm, C12a 0 nm: .*C10 by 63 nm"),
])  # fmt: skip
def test_loops_that_cannot_decide_are_refused(frames, largest, names, match):
    with pytest.raises(ValueError, match=match):
        identification.check_loop(frames, largest, names, OPTICS)
    identification.check_loop(2, [0.0, 400.0], ("C10", "C12a"), OPTICS)


def test_a_loop_whose_steps_are_too_short_is_refused():
    """By the same log odds that `identifiability` gives; from 1.5 to 12 nm they come to suffice."""
    with pytest.raises(ValueError, match=r"from limit to limit the log odds against it are \d"):
        identification.check_loop(5, [1.5], ("C10",), OPTICS)
    identification.check_loop(5, [12.0], ("C10",), OPTICS)


@pytest.mark.parametrize(("names", "semi_angle", "hidden"), [
    (SEVEN, 10.0, ()),  # a small aperture
    ((*KNOBS, "C30"), 20.0, ()),
    (("C10", "C32a", "C41b", "C50", "C56a"), 20.0, ("C32a", "C41b", "C50", "C56a")),
    (("C10", "C32a", "C56a"), 40.0, ("C56a",)),  # wider apertures see more
])  # fmt: skip
def test_knobs_of_which_no_frame_tells_anything_are_told(names, semi_angle, hidden, monkeypatch):
    """They are those of which even frames without noise, by a theory that is off by no more than
    usual, leave the prior's width; the loop says so without simulating a frame."""
    optics = replace(OPTICS, semi_angle_mrad=semi_angle)
    perfect = np.diag(laplace.theory_sd_nm(names, optics) ** 2)
    monkeypatch.setattr(identification, "one_draw", lambda z, problem: (perfect, 500.0))
    told = jaxcal.identifiability(np.zeros((2, len(names))), names, optics, draws=1)
    learnt = told.sd_nm < identification.KEPT * unknowns.state_sd_nm(names)
    assert hidden == identification.unseen(names, optics) == tuple(np.array(names)[~learnt])
    assert told.decides != bool(hidden)
    assert (f"no frame can tell anything of {', '.join(hidden)}: " in told.message) == bool(hidden)

    monkeypatch.setattr(identification, "identifiability", None)  # not asked
    assert decisions.beforehand(10, names, optics, True) == [told.message] * bool(hidden)


def test_the_page_names_the_knobs_that_no_frame_shows():
    def hidden(semi_angle):
        return identification.unseen(
            aberrations.NAMES, replace(OPTICS, semi_angle_mrad=semi_angle))

    names = aberrations.NAMES
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert "20 mrad these are C32, C34 and all from C41 on, at 40 mrad those from C52 on" in text
    assert hidden(20.0) == names[names.index("C32a"):]
    assert hidden(40.0) == names[names.index("C52a"):]
    assert "of C10 to C23 none from 5.5 mrad on" in text
    assert not set(SEVEN) & set(hidden(5.5)) and set(SEVEN) & set(hidden(5.0))


@pytest.mark.parametrize(("steps", "options", "match"), [
    (np.zeros((2, 2)), {}, r"shape \(frames, 3\), got \(2, 2\): one row of settings"),
    (np.zeros((0, 3)), {}, r"shape \(frames, 3\), got \(0, 3\)"),
    ([[0.0, np.nan, 0.0]], {}, "should be finite"),
    (np.zeros((1, 3)), {"draws": 0}, "at least 1 and electrons positive, got 0"),
    (np.zeros((1, 3)), {"electrons": 0.0}, "electrons positive"),
    (np.zeros((1, 3)), {"x0_nm": [1.0, 2.0]}, "x0_nm should be one finite number of nm for each"),
])  # fmt: skip
def test_bad_input_is_named(steps, options, match):
    with pytest.raises(ValueError, match=match):
        jaxcal.identifiability(steps, KNOBS, OPTICS, **options)


# What docs/identifiability.md claims


@pytest.mark.slow
def test_the_page_s_example_says_what_it_says(capsys):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    exec(block, {})
    said = " ".join(line.strip("# ").strip() for line in block.splitlines() if line[:1] == "#")
    assert said.removeprefix("... ") in " ".join(capsys.readouterr().out.split())


SIGNS = jnp.array([[1.0, 1.0], [-1.0, -1.0]])


def process_likelihood(x0, signs, scale):
    """Of latents of a process without a mean, settings on both sides of the centre."""
    random = np.random.default_rng(0)
    steps = random.uniform(-3, 3, (30, 2))
    states = steps + np.array([0.5, -0.8])
    hyper = latent_map.Hyperparameters(0.0, np.log(2.0 / scale), np.log(0.1))
    unit = jnp.full(2, scale)
    places = latent_map.kernel_coordinates(states, unit)
    covariance = np.asarray(latent_map.gap_kernel(hyper, SIGNS)(places, places))
    noise = 0.1 * random.standard_normal((30, 3))
    latents = np.linalg.cholesky(covariance + 1e-10 * np.eye(30)) @ random.standard_normal((30, 3))
    predict = latent_map.flat_prediction(jnp.zeros(3), jnp.eye(3), 1)
    return np.array([latent_map.log_likelihood(
        hyper, predict, jnp.asarray(steps + x), jnp.asarray(latents + noise), signs, unit,
        jnp.ones(30)) for x in x0])


def test_a_stationary_process_leaves_the_state_open_and_a_symmetric_one_does_not():
    """Coordinates that are linear: arcsinh(x/1e4) differs from x/1e4 by 1e-9 of it."""
    line = np.array([[0.5, -0.8], [1.5, 0.2], [-0.5, 0.8], [4.0, 4.0]])
    flat = process_likelihood(line, SIGNS[:1], 1e4)
    assert_allclose(flat, flat[0], atol=1e-4)
    peaked = process_likelihood(line, SIGNS, 1e4)
    assert peaked.argmax() == 0 and np.all(peaked[0] - peaked[1:] > 5.0)


def test_information_is_singular_along_the_shift_and_regular_with_the_symmetry():
    found = {(row["class"], row["settings"]): row for row in claims.of_polynomials()}
    free = claims.UNDETERMINED
    everything = found["all polynomials", "plane"]
    assert everything["size"] - everything["rank"] == 2 and max(everything["left"]) < free
    even = found["f(-x) = f(x)", "plane"]
    assert even["size"] == even["rank"] and min(even["left"]) > 1e-3
    assert max(found["f(-x) = f(x)", "5 settings"]["left"]) < free
    assert found["f(-x) = f(x)", "along v, w0 = -0.3"]["left"][0] < free
    assert min(found["f(-x) = f(x)", "along v, w0 = 0"]["left"]) > 1e-3
    along = np.random.default_rng(5).uniform(-1.5, 1.5, (60, 2)) * [1.0, 0.0]
    assert max(claims.shares("joint", along, np.array([0.4, 1e-3]))[2]) < free  # of w0 = 0 alone
    v, w = found["even in v and in w", "along v, w0 = -0.3"]["left"]
    assert v > 1e-3 and w < free
    known = found["known map", "1 setting"]
    assert known["rank"] == 2 and min(known["left"]) > 1e-3


def test_the_null_direction_is_the_shift():
    """df/dx0 = sum of coefficients times derivatives of monomials, which are monomials: moving the
    coefficients along keeps what is seen."""
    random = np.random.default_rng(3)
    exponents = claims.powers("none")
    weights = random.standard_normal(len(exponents))
    v, w = random.uniform(-1, 1, (2, 50))
    shift = 0.01

    def seen(v):
        return sum(c * v**i * w**j for c, (i, j) in zip(weights, exponents, strict=True))

    basis = np.stack([v**i * w**j for i, j in exponents], 1)
    again = np.linalg.lstsq(basis, seen(v - shift), rcond=None)[0]
    moved = np.stack([(v + shift) ** i * w**j for i, j in exponents], 1) @ again
    assert_allclose(moved, seen(v), atol=1e-10)
    assert np.abs(again - weights).max() > 1e-3

    slope = sum(c * i * v ** max(i - 1, 0) * w**j
                for c, (i, j) in zip(weights, exponents, strict=True))
    change = np.linalg.lstsq(basis, -slope, rcond=None)[0]  # of theta: (s, -s df/dv) is null
    assert_allclose(slope + basis @ change, 0.0, atol=1e-10)
    even = [k for k, (i, j) in enumerate(exponents) if (i + j) % 2 == 0]
    slope = sum(weights[k] * exponents[k][0] * v ** max(exponents[k][0] - 1, 0)
                * w ** exponents[k][1] for k in even)
    change = np.linalg.lstsq(basis[:, even], -slope, rcond=None)[0]  # odd: none in the class
    assert np.abs(slope + basis[:, even] @ change).max() > 0.1


def test_a_second_centre_is_ambiguous_although_the_information_is_regular():
    """Cosines shifted by half a period are cosines again, with other signs."""
    x, weights = np.linspace(-4, 4, 200), np.array([0.7, -0.4, 0.3])
    order = np.arange(1, 4)
    shifted = np.cos(np.multiply.outer(x - np.pi, order)) @ weights
    assert_allclose(shifted, np.cos(np.multiply.outer(x, order)) @ (weights * (-1.0) ** order),
                    atol=1e-12)


def test_the_simulator_has_the_mirror_image_exactly_with_the_film_inverted():
    rows = claims.of_simulator(192, 64.0)
    assert all(row["inverted"] < 1e-5 for row in rows)
    assert rows[0]["mirror"] < 0.01 < 0.1 < rows[0]["other_film"]
    assert rows[0]["mirror"] < rows[1]["mirror"] < rows[2]["mirror"]
