"""Microscopes: the protocol, the simulated one's hidden state, and what a replay shows."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
import standins

from jaxcal import (
    Microscope,
    Optics,
    ReplayMicroscope,
    SimulatedMicroscope,
    ronchigram,
    specimen,
)
from jaxcal.aberrations import NAMES
from jaxcal.microscopes import FaultyMicroscope, InstrumentError, Past, camera
from jaxcal.microscopes.simulated import RESIDUALS_NM, draw_state, random_steps


class Bench:
    """The ten lines of the README: an instrument of one's own."""

    knob_names = ("C10",)
    optics = standins.optics()

    def set(self, knobs_nm):
        self.sent = knobs_nm

    def acquire(self):
        return standins.frames(1)[0]


@pytest.fixture
def seen(monkeypatch):
    """A simulation that draws nothing and remembers the states it was asked for."""
    states = []

    def acquire(key, drawn, coefficients_nm):
        states.append(np.array(coefficients_nm))
        return drawn + jax.random.normal(key, (256, 256), "float32")

    monkeypatch.setattr(camera, "acquire", acquire)
    monkeypatch.setattr(camera, "draw_camera", lambda seed, optics: np.float32(seed))
    return states


def test_the_protocol_is_four_members(seen):
    for microscope in (Bench(), SimulatedMicroscope(), ReplayMicroscope(standins.series())):
        assert isinstance(microscope, Microscope)
    assert not isinstance(SimpleNamespace(set=print, acquire=print), Microscope)


def test_state_is_hidden_plus_actuated_knobs_plus_drift(seen):
    actuator = np.array([[1.1, 0.02, 0.0], [0.0, 0.9, 0.0], [0.03, 0.0, 1.0]])
    drift = np.array([0.5, -0.25, 1.0])
    microscope = SimulatedMicroscope(
        hidden_nm={"C10": 100.0, "C12b": -40.0, "C30": 1e3}, actuator=actuator, drift_nm=drift
    )
    microscope.acquire()
    knobs = np.array([10.0, -20.0, 30.0])
    microscope.set(knobs)
    microscope.acquire()
    microscope.acquire()
    start = np.array([100.0, 0.0, -40.0])
    np.testing.assert_allclose(seen[0][:3], start)
    np.testing.assert_allclose(seen[1][:3], start + actuator @ knobs + drift)
    np.testing.assert_allclose(seen[2][:3], start + actuator @ knobs + 2 * drift)
    assert [state[NAMES.index("C30")] for state in seen] == [1e3] * 3
    assert microscope.truth_nm == {"C10": 100.0, "C12a": 0.0, "C12b": -40.0}
    assert microscope.hidden_nm["C30"] == 1e3 and len(microscope.hidden_nm) == 25


def test_the_seed_fixes_all_and_frames_differ(seen):
    first, second = SimulatedMicroscope(seed=4), SimulatedMicroscope(seed=4)
    assert first.hidden_nm == second.hidden_nm
    frames = [first.acquire(), first.acquire()]
    np.testing.assert_array_equal(frames[0], second.acquire())
    assert not np.array_equal(frames[0], frames[1])
    assert SimulatedMicroscope(seed=5).truth_nm != first.truth_nm


def test_drawn_states_have_the_stated_sizes():
    states = np.array([draw_state(seed, hidden_range_nm=150.0) for seed in range(4000)])
    low = states[:, :3]
    assert np.abs(low).max() <= 150.0 and np.abs(low).max() > 149.0
    # sd of a uniform mean over 4000 draws: 150 / sqrt(3 * 4000) = 1.4 nm
    np.testing.assert_allclose(low.mean(0), 0.0, atol=5 * 1.4)
    for name, median in RESIDUALS_NM.items():
        places = [k for k, other in enumerate(NAMES) if other[:3] == name]
        size = np.linalg.norm(states[:, places], axis=1)
        # The median of 4000 is off by less than 5 %: its sd is 0.79 to 1.3 % of it.
        assert np.median(size) == pytest.approx(median, rel=0.05)
    assert np.all(states[:, NAMES.index("C56a")] == 0)


def test_second_order_knobs_are_hidden_farther():
    states = np.array([draw_state(seed, ("C10", "C21a"), 100.0) for seed in range(500)])
    assert 400 < np.abs(states[:, NAMES.index("C21a")]).max() <= 500
    assert np.abs(states[:, NAMES.index("C21b")]).max() < 100


def test_random_steps_start_at_zero():
    knobs = random_steps(3, 50, ("C10", "C12a", "C23b"), step_nm=10.0)
    assert knobs.shape == (50, 3) and not knobs[0].any()
    reach = np.abs(knobs).max(0)
    assert np.all(reach <= [10, 10, 50]) and np.all(reach > [8, 8, 40])
    np.testing.assert_array_equal(knobs, random_steps(3, 50, ("C10", "C12a", "C23b"), step_nm=10.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"knob_names": ("C10", "C99")}, "unknown aberration 'C99'"),
        ({"knob_names": ("C10", "C10")}, "C10 is named twice"),
        ({"hidden_nm": {"C11": 1.0}}, "unknown aberration 'C11'"),
        ({"hidden_nm": np.zeros(3)}, r"hidden_nm should be finite and of shape \(25,\)"),
        ({"actuator": np.eye(2)}, r"actuator should be finite and of shape \(3, 3\)"),
        ({"drift_nm": [0, 0, np.nan]}, r"drift_nm should be finite"),
    ],
)
def test_what_a_simulated_microscope_cannot_be(seen, arguments, message):
    with pytest.raises(ValueError, match=message):
        SimulatedMicroscope(**arguments)


@pytest.mark.parametrize("knobs", [[1.0], [1, 2, 3, 4], [0, 0, np.inf], 0.0])
def test_settings_are_checked(seen, knobs):
    message = r"expected one finite setting in nm for each of C10, C12a, C12b"
    with pytest.raises(ValueError, match=message):
        SimulatedMicroscope().set(knobs)
    with pytest.raises(ValueError, match=message):
        ReplayMicroscope(standins.series()).set(knobs)


def test_replay_shows_the_nearest_and_says_where_it_is():
    series = standins.series(5)
    microscope = ReplayMicroscope(series)
    for number in (3, 0, 4):
        microscope.set(series.knobs_nm[number] + [0.4, -0.3, 0.2])
        np.testing.assert_array_equal(microscope.acquire(), series.frames[number])
        np.testing.assert_array_equal(microscope.knobs_nm, series.knobs_nm[number])
    assert microscope.remaining == 2


def test_replay_does_not_show_a_frame_twice_while_others_remain():
    series = standins.series(4)
    microscope = ReplayMicroscope(series)
    microscope.set(series.knobs_nm[2])
    shown = []
    for _ in range(4):
        frame = microscope.acquire()
        shown.append(microscope.frame_number)
        np.testing.assert_array_equal(frame, series.frames[microscope.frame_number])
        np.testing.assert_array_equal(microscope.knobs_nm, series.knobs_nm[shown[-1]])
    assert shown[0] == 2 and sorted(shown) == [0, 1, 2, 3]
    microscope.set(series.knobs_nm[1])
    np.testing.assert_array_equal(microscope.acquire(), series.frames[1])


def test_a_replay_that_was_used_before_goes_on_like_a_new_one():
    series, past = standins.series(4), Past(standins.series(4).knobs_nm[:2], None, None)
    used, fresh = ReplayMicroscope(series), ReplayMicroscope(series)
    for knobs in series.knobs_nm[::-1]:
        used.set(knobs)
        used.acquire()
    for microscope in (used, fresh):
        microscope.resume(past)
    assert used.remaining == fresh.remaining == 2


def test_a_run_is_not_gone_on_with_another_instrument(seen):
    bench, same, other = (SimulatedMicroscope(seed=seed) for seed in (3, 3, 4))
    past = Past(np.zeros((2, 3)), np.zeros(3), bench.origin)
    same.resume(past)
    assert same.frames_taken == 2
    with pytest.raises(InstrumentError, match="another simulated instrument"):
        other.resume(past)
    replay = ReplayMicroscope(standins.series(4))
    ReplayMicroscope(standins.series(4)).resume(past._replace(origin=replay.origin))
    with pytest.raises(InstrumentError, match="another series"):
        ReplayMicroscope(standins.series(5)).resume(past._replace(origin=replay.origin))


def test_a_replay_with_faults_still_says_where_its_frames_were_taken():
    series = standins.series(4)
    faulty = FaultyMicroscope(ReplayMicroscope(series))
    faulty.set(series.knobs_nm[1] + 0.4)
    np.testing.assert_array_equal(faulty.knobs_nm, series.knobs_nm[1])


def test_replay_measures_distance_in_quarter_pi_limits():
    """60 nm of C21 are a limit, 60 nm of C10 are many: the frame off by C21 is the nearer one."""
    made = standins.series(2, names=("C10", "C21a"))
    knobs = np.array([[20.0, 0.0], [0.0, 60.0]])
    series = type(made)(made.frames, knobs, made.knob_names, Optics(200.0, 25.0, 0.62), "r.h5")
    microscope = ReplayMicroscope(series)
    microscope.set([0.0, 0.0])
    assert microscope.frame_number == 1
    assert microscope.name == "r.h5"


def test_a_real_frame_shows_the_disc_where_and_as_wide_as_stated():
    """True angles are within 1.5 + 1 + 0.3 % of nominal and the middle within 3 pixels."""
    microscope = SimulatedMicroscope(hidden_nm={"C10": 60.0, "C12a": 20.0}, seed=2)
    frame = microscope.acquire()
    assert frame.shape == (256, 256) and frame.dtype == np.float32 and np.all(np.isfinite(frame))
    bright = frame > 0.5 * np.median(frame[100:156, 100:156])
    radius = np.sqrt(np.count_nonzero(bright) / np.pi)
    assert radius == pytest.approx(microscope.optics.radius_pixels, rel=0.035)
    middle = [axis.mean() for axis in np.nonzero(bright)]
    np.testing.assert_allclose(middle, 127.5, atol=3.5)
    # Fresh film and fresh noise each time; the disc stays where it is.
    again = microscope.acquire()
    inside = bright & (again > 0.5 * np.median(again[100:156, 100:156]))
    assert np.count_nonzero(inside) > 0.97 * np.count_nonzero(bright)
    assert np.corrcoef(frame[90:166, 90:166].ravel(), again[90:166, 90:166].ravel())[0, 1] < 0.5


def test_camera_pixels_average_what_they_cover():
    grid = camera.Grid(384, 120.0)
    edges = np.linspace(-1.2, 1.2, 257)
    weights = camera.overlap(edges, grid)
    np.testing.assert_allclose(weights.sum(1), 1.0, rtol=1e-12)
    line = (np.arange(384) - 192) / 120.0
    # Averages of a straight line are its values at the middles, up to the grid's own steps.
    np.testing.assert_allclose(weights @ line, (edges[1:] + edges[:-1]) / 2, atol=0.5 / 120.0)


def test_a_film_is_the_same_on_every_grid():
    """Its finest detail does not come and go with the defocus that chooses the grid."""
    limits = [specimen.band_limit(grid.size, grid.radius) for grid in camera.GRIDS]
    np.testing.assert_allclose(limits, 1.2, rtol=1e-6)


def test_states_too_steep_for_any_grid_are_refused():
    microscope = SimulatedMicroscope(hidden_nm={"C10": 5000.0})
    with pytest.raises(ValueError, match="sampling too coarse"):
        microscope.acquire()


def test_finer_grids_are_taken_where_they_are_needed(monkeypatch):
    chosen, nodes = [], []

    def expose(*arguments):
        chosen.append(arguments[-2].size)
        nodes.append(arguments[-1])

    monkeypatch.setattr(camera, "_expose", expose)
    drawn = camera.draw_camera(0, standins.optics(256))
    for defocus in (10.0, 500.0, 800.0):
        camera.acquire(jax.random.key(0), drawn, np.eye(25)[0] * defocus)
    assert chosen == sorted(chosen) and len(set(chosen)) == 3
    spread = float(drawn.instrument.focal_spread)
    assert set(nodes) == {ronchigram.enough_nodes(spread)}
