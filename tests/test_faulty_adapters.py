"""A corrector, a controller and a camera that fail in the middle of a closed loop.

What is asked of each run: a stated end, the knobs where it says, no limit exceeded.
"""

import time
from types import SimpleNamespace

import ceos_server
import made_up
import numpy as np
import pytest
import standins
from nion_bench import Camera, Stem
from numpy.testing import assert_allclose

import jaxcal
from jaxcal.microscopes.ceos import CeosCorrector, CeosMicroscope
from jaxcal.microscopes.nion import NionMicroscope

LIMIT_NM = 130.0
LIMITS = dict.fromkeys(standins.KNOBS, LIMIT_NM)


@pytest.fixture(autouse=True)
def estimates_at_no_cost(monkeypatch):
    made_up.install(monkeypatch.setattr)


class KilledError(BaseException):
    """In place of kill -9: nothing is brought back."""


def killed(*_):
    raise KilledError


# A corrector


class Server(ceos_server.Server):
    """Remembers the farthest that anything was turned to, m."""

    farthest = 0.0

    def _do(self, request):
        answer = super()._do(request)
        self.farthest = max(self.farthest, *np.abs(np.concatenate([*self.state.values(), [0.0]])))
        return answer

    def stands_nm(self):
        return 1e9 * np.array([*self.state.get("C1", [0.0]), *self.state.get("A1", [0.0, 0.0])])


def over_corrector(fault=None, at=0):
    """A loop in which the request of a number meets a fault; its answer and the server."""
    server, frames = Server(), iter(made_up.FRAMES)

    def acquire():
        time.sleep(0.05)  # of exposure, in which a connection's end becomes known
        return next(frames)

    server.faults = [None] * at + [fault]
    try:
        with CeosCorrector("127.0.0.1", server.port,
                           timeout_s=0.3 if fault == "silent" else 10.0) as corrector:
            run = made_up.calibrate(CeosMicroscope(
                corrector, acquire, standins.optics(), limits_nm=LIMITS))
    finally:
        server.close()
    assert server.farthest <= 1.001e-9 * LIMIT_NM
    assert server.farthest > 0 or at == 0
    return run, server


def requests_of_a_run():
    run, server = over_corrector()
    assert run.verdict == "tuned"
    assert_allclose(server.stands_nm(), run.applied_knobs_nm, atol=1e-2)
    return len(server.requests)


@pytest.mark.parametrize("fault", ["stale", "split", "null error"])
def test_answers_that_are_odd_but_right_change_nothing(fault):
    whole, server = over_corrector()
    for at in (0, 3, len(server.requests) - 1):
        run, server = over_corrector(fault, at)
        assert (run.verdict, run.reason) == (whole.verdict, whole.reason)
        assert_allclose(server.stands_nm(), run.applied_knobs_nm, atol=1e-2)


def test_a_connection_that_ends_between_two_settings_is_made_anew():
    run, server = over_corrector("drop after", 1)  # A1, the last of the first setting
    assert server.requests[1]["params"]["name"] == "A1"
    assert run.verdict == "tuned"
    assert_allclose(server.stands_nm(), run.applied_knobs_nm, atol=1e-2)


def test_what_was_not_begun_ends_the_loop_with_all_knobs_back():
    for at in (0, 3, requests_of_a_run() - 1):
        run, server = over_corrector("invalid", at)
        assert run.verdict == "refused" and "A1 is not enabled" in run.reason
        assert "the knobs are back where they were" in run.reason
        assert_allclose(run.applied_knobs_nm, 0.0)
        assert_allclose(server.stands_nm(), 0.0, atol=1e-2)


@pytest.mark.parametrize("fault", ["refuse", "half way", "drop", "silent", "broken", "length",
                                   "not json", "binary", "list", "huge"])
def test_where_it_is_not_known_what_was_done_the_rest_goes_back_and_the_loop_says_so(fault):
    for at in (0, 3, requests_of_a_run() - 1):
        run, server = over_corrector(fault, at)
        lost = server.requests[at]["params"]["name"]
        assert run.verdict == "refused" and run.applied_knobs_nm is None
        assert f"where {lost} of the corrector stands is not known" in run.reason
        assert "could not be brought back" in run.reason
        others = server.stands_nm()[1:] if lost == "C1" else server.stands_nm()[:1]
        assert_allclose(others, 0.0, atol=1e-2)


def test_a_run_over_a_corrector_goes_on_after_an_interruption_between_two_settings(
        tmp_path, monkeypatch):
    """The corrector cannot say where it stands: the run knows."""
    whole, _ = over_corrector()
    monkeypatch.setattr("jaxcal.calibration._bring_back", lambda course: (None, "killed"))
    server, shown = Server(), []

    def acquire():
        if len(shown) == 3:
            shown.append(None)
            raise KilledError
        shown.append(made_up.FRAMES[len([one for one in shown if one is not None])])
        return shown[-1]

    def tune(corrector, **options):
        return made_up.calibrate(CeosMicroscope(corrector, acquire, standins.optics(),
                                                limits_nm=LIMITS), run=tmp_path, **options)

    try:
        with CeosCorrector("127.0.0.1", server.port) as corrector:
            with pytest.raises(KilledError):
                tune(corrector)
            assert np.any(server.stands_nm())
            again = tune(corrector, resume=True)
    finally:
        server.close()
    assert again.verdict == "tuned" and server.farthest <= 1.001e-9 * LIMIT_NM
    assert_allclose(server.stands_nm(), whole.applied_knobs_nm, atol=1e-2)


# A controller and its camera


class FailingStem(Stem):
    """Does something else at one of its calls, and remembers the farthest step, nm."""

    def __init__(self, at=None, fault=None):
        super().__init__()
        self.at, self.fault, self.began, self.farthest = at, fault, self.values.copy(), 0.0

    def SetValAndConfirm(self, name, value, tolerance_factor, timeout_ms):
        self.farthest = max(self.farthest, 1e9 * abs(value - self.began[name]))
        if len(self.asked) != self.at:
            return super().SetValAndConfirm(name, value, tolerance_factor, timeout_ms)
        self.asked.append(name)
        return self.fault(self, name, value)

    def stands_nm(self):
        return 1e9 * np.array([self.values[name] - self.began[name]
                               for name in ("C10", "C12.a", "C12.b")])


class FilmCamera(Camera):
    """Shows one frame after the other, and something else at one of them."""

    def __init__(self, at=None, fault=None):
        super().__init__()
        self.at, self.fault, self.shown = at, fault, 0

    def grab_next_to_start(self, timeout):
        self.shown += 1
        if self.shown - 1 == self.at:
            return self.fault()
        return [SimpleNamespace(data=made_up.FRAMES[self.shown - 1])]


def over_controller(stem=None, camera=None):
    stem = stem or FailingStem()
    run = made_up.calibrate(NionMicroscope(stem, camera or FilmCamera(), standins.optics(),
                                           limits_nm=LIMITS, timeout_s=2.0))
    assert stem.farthest <= 1.001 * LIMIT_NM
    return run, stem


def moves_without_a_word(stem, name, value):
    stem.values[name] = value
    return False


def refuses(stem, name, value):
    return False


def raises(*_):
    raise RuntimeError("the link to the lenses is gone")


def test_a_control_that_fails_once_ends_the_loop_with_all_knobs_back():
    whole, stem = over_controller()
    assert whole.verdict == "tuned"
    assert_allclose(stem.stands_nm(), whole.applied_knobs_nm, atol=1e-3)
    for fault, words in ((moves_without_a_word, "was not confirmed"),
                         (refuses, "was not confirmed"), (raises, "the link to the lenses")):
        for at in (0, 4, len(stem.asked) - 1):
            run, failed = over_controller(FailingStem(at, fault))
            assert run.verdict == "refused" and words in run.reason
            assert_allclose(run.applied_knobs_nm, 0.0, atol=1e-3)
            assert_allclose(failed.stands_nm(), 0.0, atol=1e-3)


def test_a_run_over_a_controller_that_was_killed_goes_on(tmp_path, monkeypatch):
    """In a set, in a frame; the controls stand somewhere, and settings count from the old start."""
    whole, _ = over_controller()
    monkeypatch.setattr("jaxcal.calibration._bring_back", lambda course: (None, "killed"))
    for number, (stem, camera) in enumerate((
            (FailingStem(7, killed), FilmCamera()), (FailingStem(), FilmCamera(3, killed)))):
        options = {"run": tmp_path / str(number)}
        with pytest.raises(KilledError):
            made_up.calibrate(NionMicroscope(stem, camera, standins.optics(), limits_nm=LIMITS),
                              **options)
        taken = len(list((tmp_path / str(number)).glob("series.h5"))) and len(
            jaxcal.read_series(tmp_path / str(number) / "series.h5"))
        assert taken >= 2 and np.any(stem.stands_nm())
        stem.fault, camera.at, camera.shown = Stem.SetValAndConfirm, None, taken
        again = made_up.calibrate(NionMicroscope(stem, camera, standins.optics(),
                                                 limits_nm=LIMITS), resume=True, **options)
        assert again.verdict == "tuned" and stem.farthest <= 1.001 * LIMIT_NM
        assert_allclose(again.applied_knobs_nm, whole.applied_knobs_nm, atol=1e-3)
        assert_allclose(stem.stands_nm(), whole.applied_knobs_nm, atol=1e-3)


def test_a_control_that_stays_where_it_is_is_told():
    stem = FailingStem(4, lambda stem, name, value: bool(stem.stuck.add(name)))
    run, _ = over_controller(stem)
    assert run.verdict == "refused" and run.applied_knobs_nm is None
    assert "the knobs could not be brought back" in run.reason
    assert_allclose(stem.stands_nm()[[0, 2]], 0.0, atol=1e-3)


@pytest.mark.parametrize(("fault", "words"), [
    (raises, "the link to the lenses is gone"),
    (lambda: None, "got nothing"),
    (lambda: [None], "got nothing"),
    (lambda: [SimpleNamespace(data=np.zeros((3, 96, 96)))], r"shape (3, 96, 96)"),
    (lambda: [SimpleNamespace(data=np.zeros((48, 48)))], "shape (48, 48), those before had"),
    (lambda: [SimpleNamespace(data=np.full((96, 96), "x"))], "acquire should give an image"),
])  # fmt: skip
def test_what_is_no_frame_ends_the_loop_with_all_knobs_back(fault, words):
    for at in (1, 4):
        run, stem = over_controller(camera=FilmCamera(at, fault))
        assert run.verdict == "refused" and words in run.reason
        assert_allclose(run.applied_knobs_nm, 0.0, atol=1e-3)
        assert_allclose(stem.stands_nm(), 0.0, atol=1e-3)


@pytest.mark.parametrize(("fault", "words"), [
    (lambda: [SimpleNamespace(data=made_up.FRAMES[0])], "stale"),
    (lambda: [SimpleNamespace(data=0 * made_up.FRAMES[0])], "blank"),
])  # fmt: skip
def test_a_frame_that_shows_nothing_new_is_set_aside(fault, words):
    run, stem = over_controller(camera=FilmCamera(2, fault))
    (number, why), = run.estimate.rejected_frames
    assert run.verdict == "tuned" and number == 2 and words in why
    assert_allclose(stem.stands_nm(), run.applied_knobs_nm, atol=1e-3)
