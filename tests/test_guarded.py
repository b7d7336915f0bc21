"""Microscopes that raise, hang or give rubbish: what the guard makes of it."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import standins

from jaxcal.microscopes.guarded import GuardedMicroscope
from jaxcal.microscopes.protocol import InstrumentError, Past

FRAME = np.arange(64.0 * 64).reshape(64, 64)


class Bench:
    """Three knobs, limits on two of them, and whatever frame it is told to show."""

    knob_names, optics = ("C10", "C12a", "C12b"), standins.optics()
    limits_nm = np.array([100.0, 50.0, np.inf])

    def __init__(self, frame=FRAME):
        self.frame, self.sent = frame, []

    def set(self, knobs_nm):
        self.sent.append(np.array(knobs_nm))

    def acquire(self):
        if isinstance(self.frame, BaseException):
            raise self.frame
        return self.frame


def test_what_goes_well_goes_through():
    guarded = GuardedMicroscope(bench := Bench())
    np.testing.assert_array_equal(guarded.standing_nm, 0.0)
    guarded.set([100.0, -50.0, 7e3])
    np.testing.assert_array_equal(bench.sent, [[100.0, -50.0, 7e3]])
    np.testing.assert_array_equal(guarded.standing_nm, [100.0, -50.0, 7e3])
    np.testing.assert_array_equal(guarded.knobs_nm, guarded.standing_nm)
    np.testing.assert_array_equal(guarded.acquire(), FRAME)


def test_a_frame_is_the_callers_own():
    guarded = GuardedMicroscope(bench := Bench(FRAME.copy()))
    frame = guarded.acquire()
    bench.frame[:] = -1.0
    np.testing.assert_array_equal(frame, FRAME)


@pytest.mark.parametrize("knobs", [[101.0, 0, 0], [0, -50.1, 0], [0, 0], [np.nan, 0, 0]])
def test_a_setting_beyond_the_limits_moves_nothing(knobs):
    guarded = GuardedMicroscope(bench := Bench())
    with pytest.raises(ValueError, match="its limit is|expected one finite setting"):
        guarded.set(knobs)
    assert bench.sent == []
    np.testing.assert_array_equal(guarded.standing_nm, 0.0)


def test_after_a_failed_move_it_is_not_known_where_the_knobs_are():
    bench = Bench()
    guarded = GuardedMicroscope(bench)
    bench.set = lambda knobs: 1 / 0
    with pytest.raises(InstrumentError, match="the microscope failed in set: division by zero"):
        guarded.set([1.0, 2.0, 3.0])
    assert guarded.standing_nm is None


@pytest.mark.parametrize(("frame", "match"), [
    (None, r"should give an image \(H, W\) of real counts, got shape \(\) of object"),
    ("frame", "of real counts, got shape"),
    (np.zeros((64, 64, 3)), r"got shape \(64, 64, 3\)"),
    (np.zeros((64, 64), complex), "of complex128"),
    ([[1, 2], [3]], "gave no image"),
    (np.where(FRAME == 5, np.nan, FRAME), "counts that are not finite"),
    (RuntimeError("no beam"), "the microscope failed in acquire: no beam"),
    (ValueError(), "the microscope failed in acquire: ValueError"),
])  # fmt: skip
def test_rubbish_in_place_of_a_frame(frame, match):
    with pytest.raises(InstrumentError, match=match):
        GuardedMicroscope(Bench(frame)).acquire()


def test_frames_keep_their_shape():
    guarded = GuardedMicroscope(bench := Bench())
    guarded.acquire()
    bench.frame = FRAME[:, :60]
    with pytest.raises(InstrumentError, match=r"shape \(64, 60\), those before had \(64, 64\)"):
        guarded.acquire()


@pytest.mark.parametrize("told", [None, "there", [1.0, 2.0], [1.0, np.nan, 2.0]])
def test_a_setting_that_is_none(told):
    bench = Bench()
    bench.knobs_nm = told
    with pytest.raises(InstrumentError, match="knobs_nm tells no setting"):
        GuardedMicroscope(bench).set([1.0, 2.0, 3.0])


def test_a_call_that_does_not_end_is_given_up():
    bench, end = Bench(), threading.Event()
    bench.acquire = end.wait
    try:
        with pytest.raises(InstrumentError, match="did not answer to acquire within 0.05 s"):
            GuardedMicroscope(bench, 0.05).acquire()
    finally:
        end.set()


def test_while_the_knobs_may_still_move_nothing_else_is_asked():
    bench, end, sent = Bench(), threading.Event(), []

    def slow(knobs):
        end.wait()
        sent.append(knobs)

    bench.set = slow
    guarded = GuardedMicroscope(bench, 0.05)
    try:
        with pytest.raises(InstrumentError, match="did not answer to set within 0.05 s"):
            guarded.set([1.0, 2.0, 3.0])
        for ask in (guarded.acquire, lambda: guarded.set([0.0, 0.0, 0.0])):
            with pytest.raises(InstrumentError, match="moved the knobs still has not ended"):
                ask()
        assert sent == [] and guarded.standing_nm is None
    finally:
        end.set()
    guarded.set([0.0, 0.0, 0.0])  # the one before is waited for
    np.testing.assert_array_equal(sent, [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])


def test_a_frame_that_does_not_come_leaves_the_knobs_free():
    bench, end = Bench(), threading.Event()
    bench.acquire = end.wait
    guarded = GuardedMicroscope(bench, 0.05)
    try:
        with pytest.raises(InstrumentError, match="did not answer to acquire"):
            guarded.acquire()
        guarded.set([0.0, 0.0, 0.0])
        assert len(bench.sent) == 1
    finally:
        end.set()


def test_a_setting_that_cannot_be_read_is_an_error_of_the_instrument():
    class Lost(Bench):
        @property
        def knobs_nm(self):
            raise ConnectionError("the controller is gone")

    with pytest.raises(InstrumentError, match="failed in knobs_nm: .*the controller is gone"):
        GuardedMicroscope(Lost()).set([1.0, 2.0, 3.0])


@pytest.mark.parametrize(("stated", "limits"), [
    (70, [70.0, 70.0, 70.0]), ([0.0, 1.0, np.inf], [0.0, 1.0, np.inf]),
    ({"C12a": 30.0}, [np.inf, 30.0, np.inf]),
])  # fmt: skip
def test_limits_are_one_number_one_for_each_knob_or_by_name(stated, limits):
    bench = Bench()
    bench.limits_nm = stated
    np.testing.assert_array_equal(GuardedMicroscope(bench).limits_nm, limits)


@pytest.mark.parametrize("stated", [[1.0, 2.0], "far", {"C30": 1.0}, -1.0, [1.0, np.nan, 2.0]])
def test_limits_that_are_none_are_refused(stated):
    bench = Bench()
    bench.limits_nm = stated
    with pytest.raises(ValueError, match="limits_nm should"):
        GuardedMicroscope(bench)


def test_what_is_no_error_of_the_instrument_goes_through():
    with pytest.raises(KeyboardInterrupt):
        GuardedMicroscope(Bench(KeyboardInterrupt())).acquire()


def test_only_an_adapter_that_can_takes_up_a_run():
    past = Past(np.zeros((1, 3)), np.ones(3), [0.5])
    with pytest.raises(InstrumentError, match=r"microscope cannot take up an interrupted run"):
        GuardedMicroscope(Bench()).resume(past)
    bench, seen = Bench(), []
    bench.resume = seen.append
    guarded = GuardedMicroscope(bench)
    guarded.resume(past)
    assert seen == [past] and guarded.origin == [0.5]
    np.testing.assert_array_equal(guarded.standing_nm, 1.0)


def test_a_name_and_limits_are_not_needed():
    plain = SimpleNamespace(knob_names=["C10"], optics=standins.optics(), set=lambda knobs: None)
    guarded = GuardedMicroscope(plain)
    guarded.set([1e6])
    assert guarded.name == "microscope" and guarded.knob_names == ("C10",)


def test_an_exposure_that_still_runs_is_waited_for_before_the_knobs_move():
    bench, seen = Bench(), []

    end = threading.Event()

    def slow():
        end.wait()
        seen.append("frame")
        return FRAME

    bench.acquire, bench.set = slow, lambda knobs: seen.append("set")
    guarded = GuardedMicroscope(bench, 0.2)
    with pytest.raises(InstrumentError, match="did not answer to acquire"):
        guarded.acquire()
    guarded.timeout_s = 30.0
    threading.Timer(0.3, end.set).start()
    guarded.set([0.0, 0.0, 0.0])
    assert seen == ["frame", "set"]


def test_members_that_are_none_are_errors_of_the_instrument():
    def broken(self):
        raise ConnectionError("the host is down")

    for members, words in (
            ({"knob_names": property(broken)}, "failed in knob_names: the host is down"),
            ({"optics": (200.0, 20.0, 0.2)}, "optics should be a jaxcal.Optics, got tuple"),
            ({"limits_nm": property(lambda self: time.sleep(1.0))}, "not answer to limits_nm"),
            ({"origin": object()}, "origin should be what JSON can hold")):
        with pytest.raises(InstrumentError, match=words):
            GuardedMicroscope(type("Odd", (Bench,), members)(), 0.2)
    given = type("Plain", (Bench,), {"origin": [np.float32(0.5), np.arange(2)]})
    assert GuardedMicroscope(given()).origin == [0.5, [0, 1]]


@pytest.mark.parametrize("name", ["limits_nm", "name", "arrives", "origin"])
def test_a_member_that_is_there_but_fails_is_not_absent(name):
    """A limit that cannot be read is not no limit."""
    class Failing(Bench):
        pass

    for fails, words in ((lambda self: self.colum, "colum"), (lambda self: 1 / 0, "division")):
        setattr(Failing, name, property(fails))
        with pytest.raises(InstrumentError, match=f"{name} cannot be read: .*{words}"):
            GuardedMicroscope(Failing())


def test_a_setting_that_cannot_be_read_is_not_the_one_asked_for():
    Mistyped = type("Mistyped", (Bench,), {"knobs_nm": property(lambda self: self.colum)})
    with pytest.raises(InstrumentError, match="failed in knobs_nm: knobs_nm cannot be read"):
        GuardedMicroscope(Mistyped()).set([1.0, 2.0, 3.0])


def test_a_hung_call_is_known_to_the_next_run_of_the_microscope():
    bench, ends = Bench(), threading.Event()
    send, bench.set = bench.set, lambda knobs: ends.wait(10)
    first = GuardedMicroscope(bench, timeout_s=0.05)
    with pytest.raises(InstrumentError, match="did not answer to set"):
        first.set([1.0, 2.0, 3.0])
    bench.set = send
    then = GuardedMicroscope(bench, timeout_s=0.05)
    assert then.hangs
    with pytest.raises(InstrumentError, match="the call that moved the knobs still has not ended"):
        then.set([4.0, 5.0, 6.0])
    assert bench.sent == []
    ends.set()
    then.timeout_s = 10.0
    then.set([4.0, 5.0, 6.0])
    assert len(bench.sent) == 1 and not then.hangs
