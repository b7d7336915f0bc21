"""The unknowns of a series: what a vector stands for, its slopes by differences, the prior."""

import jax
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import aberrations, hologram, simulation, specimen, tiles, unknowns
from jaxcal.optics import Optics, edge_phases

OPTICS = Optics(200.0, 20.0, 0.19)
KNOBS = ("C10", "C12a", "C21b")
STEPS = np.array([[0.0, 0.0, 0.0], [50.0, -30.0, 200.0], [-80.0, 10.0, -400.0]])


def problem(names=KNOBS, steps=STEPS, optics=OPTICS):
    power = tuple(np.full((len(layout.centres), len(layout.bins)), 1e-6)
                  for layout in tiles.LAYOUTS)
    number = 2 * np.arange(float(len(steps)))
    measured = unknowns.Measured((power,) * len(steps), steps, number, 5.0)
    return unknowns.problem(measured, names, optics, 108.0)


def test_slopes_are_the_derivatives():
    """Phases and physics of every frame, by central differences in each unknown."""
    wide = unknowns.with_actuator(problem())
    z = 0.3 * np.random.default_rng(0).standard_normal(wide.active.size)

    def flat(z):
        phases, physics, _ = unknowns.frames_of(z, wide)
        return np.array([np.concatenate([p, *(np.ravel(part) for part in made)])
                         for p, made in zip(phases, physics, strict=True)])

    slopes = unknowns.frames_of(z, wide)[2]
    size = len(wide.free)
    for k in range(z.size):
        step = np.zeros(z.size)
        step[k] = 1e-2
        found = (flat(z + step) - flat(z - step)) / 2e-2
        assert_allclose(found[:, :size], slopes[:, :size, k], rtol=1e-4, atol=1e-6)
        assert_allclose(found[:, size:], slopes[:, size:, k], atol=2e-4)  # physics is float32


def test_states_are_those_of_the_knobs_the_actuator_and_the_drift():
    wide = unknowns.with_actuator(problem())
    part, z = unknowns.slices(wide), np.zeros(wide.active.size)
    z[part["gain"]] = np.ravel(np.diag([2.0, 0.0, -1.0]))  # 20 % too far, 10 % short
    z[part["drift"].start] = 1.0
    phases, _, _ = unknowns.frames_of(z, wide)
    places = aberrations.indices(wide.free)
    states = phases / edge_phases(OPTICS)[places]
    number = 2 * np.arange(3)
    assert_allclose(states[:, wide.free.index("C10")],
                    1.2 * STEPS[:, 0] + number * unknowns.DRIFT_SD_NM)
    assert_allclose(states[:, wide.free.index("C12a")], STEPS[:, 1], atol=1e-9)
    assert_allclose(states[:, wide.free.index("C21b")], 0.9 * STEPS[:, 2], atol=1e-9)


def test_the_mirror_image_turns_the_sign_of_all_phases():
    one = problem(steps=np.tile([20.0, -10.0, 300.0], (2, 1)))
    z = 0.3 * np.random.default_rng(0).standard_normal(one.active.size)
    z[unknowns.slices(one)["miss"].start :] = 0.0  # misses, gains and drift, as after one frame
    image = unknowns.mirrored(z, one)
    (phases, physics, _), (others, same, _) = (unknowns.frames_of(v, one) for v in (z, image))
    assert_allclose(others, -phases, rtol=1e-12, atol=1e-9)
    assert_array_equal(same[0].film, physics[0].film)
    assert_allclose(unknowns.mirrored(image, one), z, atol=1e-12)


def test_actuator_and_drift_wait_until_asked_for():
    plain = problem()
    part = unknowns.slices(plain)
    assert not plain.active[part["gain"]].any() and not plain.active[part["drift"]].any()
    assert plain.active[: part["miss"].start].all()
    wide = unknowns.with_actuator(plain)
    assert_array_equal(wide.active[part["gain"]].reshape(3, 3),
                       [[1, 1, 0], [1, 1, 0], [0, 0, 1]])  # orders do not mix
    assert_array_equal(wide.active[part["drift"]], [1, 1, 0])  # only the first order drifts
    assert not plain.active[part["miss"]].any() and not wide.active[part["miss"]].any()
    missing = unknowns.with_misses(plain)
    assert missing.active[part["miss"]].all() and not missing.active[part["drift"]].any()
    drifting = unknowns.with_drift(plain)
    assert_array_equal(drifting.active[part["drift"]], [1, 1, 0])
    assert_array_equal(drifting.active[: part["drift"].start], plain.active[: part["drift"].start])


def test_a_vector_in_the_units_of_a_wider_prior():
    plain = problem()
    wider = unknowns.with_scale(plain)
    z = 0.3 * np.random.default_rng(0).standard_normal(plain.active.size)
    moved = unknowns.rescaled(z, plain, wider)
    before, after = unknowns.decode(z, plain), unknowns.decode(moved, wider)
    for one, other in zip(before, after, strict=True):
        assert_allclose(other, one)
    part = unknowns.slices(plain)["log_scale"]
    assert_allclose(moved[part] * unknowns.WRONG_SCALE_SD, z[part] * unknowns.SCALE_SD)


def test_a_start_is_its_state():
    made = problem()
    z = unknowns.start(made, ("C10", "C23b"), [70.0, -300.0])
    found = unknowns.decode(z, made)
    state = dict(zip(made.free, found.state, strict=True))
    assert_allclose([state["C10"], state["C23b"]], [70.0, -300.0])
    assert_allclose(found.film, made.mean.film)
    assert found.log_scale == 0.0 and found.state.sum() == pytest.approx(-230.0)


def test_a_start_has_the_actuator_matrix_where_that_is_asked_for():
    plain = problem()
    wider, gain = unknowns.with_actuator(plain), np.eye(len(plain.knob_names))
    gain[0, 0], gain[0, 1] = 1.2, 0.05
    found = unknowns.decode(unknowns.start(wider, ("C10",), [70.0], gain), wider)
    free = plain.sd.gain > 0  # no cross-talk between orders
    assert_allclose(found.gain, np.where(free, gain - np.eye(len(gain)), 0.0))
    assert not unknowns.decode(unknowns.start(plain, ("C10",), [70.0], gain), plain).gain.any()


@pytest.mark.parametrize(("semi_angle", "names", "extra"), [
    (20.0, ("C10",), ()),
    (20.0, ("C10", "C45a", "C56b"), ("C45a", "C56b")),  # any coefficient may be a knob
    (30.0, ("C10",), ("C32a", "C34b")),  # wider apertures see more
])  # fmt: skip
def test_what_is_estimated_along(semi_angle, names, extra):
    free = unknowns.free_aberrations(names, Optics(200.0, semi_angle, 0.19))
    assert set(free) >= {"C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b", "C30", *extra}
    assert list(free) == [name for name in aberrations.NAMES if name in free]
    if not extra:
        assert "C45a" not in free and "C56b" not in free


def test_the_films_prior_is_that_of_the_simulated_films():
    """Mean and covariance of 400 other draws; FILM_SD is added for films that are not simulated."""
    unit = 1 / OPTICS.length_unit_nm
    mean, factor = unknowns.film_prior(unit)
    keys = jax.random.split(jax.random.key(9), 400)
    draw = jax.jit(jax.vmap(lambda key: simulation.film_spectrum(
        simulation.draw_film(key), np.float32(unit))))
    power = np.array([2 * np.interp(hologram.KNOTS, specimen.KNOTS, amplitude)
                      for amplitude in np.asarray(draw(keys))])
    sd = power.std(0)
    assert np.all(np.abs(power.mean(0) - mean) < 4 * sd * np.sqrt(2 / 400))
    assert_allclose(np.sqrt(np.diag(factor @ factor.T)), np.hypot(sd, unknowns.FILM_SD), rtol=0.15)
