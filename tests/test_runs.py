"""Runs that are kept, interrupted and continued, and instruments that fail in the middle.

The estimate is made up, at no cost: what is tested is what the loop does around it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import made_up
import numpy as np
import pytest
import standins
from filelock import FileLock
from made_up import FRAMES, LONGEST, infer, next_step
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import (
    ReplayMicroscope,
    SimulatedMicroscope,
    calibration,
    course,
    em,
    read_series,
    runs,
)
from jaxcal.microscopes.guarded import GuardedMicroscope
from jaxcal.microscopes.protocol import InstrumentError
from jaxcal.series import SeriesError

GAIN = 0.9


class Bench:
    """A microscope that counts its calls, and does something else at one of them."""

    knob_names, optics, name = standins.KNOBS, standins.optics(), "bench"
    limits_nm = np.array([200.0, 150.0, 150.0])

    def __init__(self, at=None, fault=None):
        self.at, self.fault, self.calls = at, fault, []
        self.knobs, self.taken, self.began = np.zeros(3), 0, None

    def _call(self, what):
        self.calls.append(what)
        if len(self.calls) - 1 == self.at:
            return self.fault()
        return None

    def set(self, knobs_nm):
        assert np.all(np.abs(knobs_nm) <= self.limits_nm)
        self._call(np.array(knobs_nm))
        self.knobs = np.array(knobs_nm)

    def acquire(self):
        wrong = self._call("acquire")
        self.taken += 1
        return FRAMES[self.taken - 1] if wrong is None else wrong

    def resume(self, past):
        self.taken, self.began = len(past.asked_nm), past
        if past.knobs_nm is not None:
            self.knobs = past.knobs_nm


@pytest.fixture
def tune(monkeypatch):
    """`calibrate` with the made-up estimate."""
    made_up.install(monkeypatch.setattr)
    return made_up.calibrate


def same(one, other):
    assert one.verdict == other.verdict and one.reason == other.reason
    assert_array_equal(one.applied_knobs_nm, other.applied_knobs_nm)
    assert_array_equal(one.series.frames, other.series.frames)
    assert_array_equal(one.series.knobs_nm, other.series.knobs_nm)
    assert_array_equal(one.estimate.x0_nm, other.estimate.x0_nm)
    assert len(one.history) == len(other.history)


def test_what_a_run_keeps(tune, tmp_path):
    made = tune(Bench(), run=tmp_path / "run")
    told = json.loads((tmp_path / "run" / "run.json").read_text())
    assert told["state"] == made.verdict == "tuned" and told["message"] == made.reason
    assert told["microscope"] == "bench" and told["knob_names"] == list(standins.KNOBS)
    assert told["frames"] == LONGEST and told["seed"] == 0
    assert_allclose(list(told["limits_nm"].values()), made.limits_nm)
    assert_array_equal(list(told["standing_nm"].values()), made.applied_knobs_nm)
    assert [step["frame"] for step in told["steps"]] == list(range(len(made.history) + 1))
    assert told["steps"][-1]["x0_nm"]["C10"] == made.estimate.x0_nm[0]
    kept = read_series(tmp_path / "run" / "series.h5")
    assert len(kept) == len(made.series) + 1
    assert_array_equal(kept.frames[:-1], made.series.frames)
    assert_array_equal(kept.frames[-1], made.verification_frame)
    assert_array_equal(kept.knobs_nm[-1], made.applied_knobs_nm)


def test_a_run_is_not_overwritten(tune, tmp_path):
    tune(Bench(), run=tmp_path)
    with pytest.raises(SeriesError, match="holds a run already; go on with it, or name another"):
        tune(Bench(), run=tmp_path)


def test_a_series_that_is_not_of_a_run_is_left_alone(tune, tmp_path):
    """A folder made by hand, or by `jaxcal series`, with a series that was measured."""
    (tmp_path / "series.h5").write_bytes(b"measured")
    with pytest.raises(SeriesError, match="holds a series.h5 that is not of a run; name another"):
        tune(Bench(), run=tmp_path)
    assert (tmp_path / "series.h5").read_bytes() == b"measured"


class Killed(BaseException):
    """The end of the process, at this very call."""


def killed():
    raise Killed


def calls_of_a_run(tune):
    bench = Bench()
    tune(bench)
    return len(bench.calls)


def test_a_run_that_was_cut_off_at_any_call_comes_to_the_same_answer(tune, tmp_path, monkeypatch):
    """Killed there, nothing more is done: the knobs are not even brought back."""
    monkeypatch.setattr(calibration, "_bring_back", lambda course: (None, "killed"))
    whole = tune(Bench())
    number = calls_of_a_run(tune)
    assert number >= 10
    for at in range(number):
        folder = tmp_path / str(at)
        with pytest.raises(Killed):
            tune(Bench(at, killed), run=folder)
        told = json.loads((folder / "run.json").read_text())
        assert told["state"] == "running"
        assert (told["standing_nm"] is None) == (at % 2 == 0)  # calls are set, acquire, set ...
        bench = Bench()
        again = tune(bench, run=folder, resume=True)
        same(again, whole)
        assert len(bench.calls) == number - 2 * (at // 2)  # no recorded frame is taken again
        assert len(bench.began.asked_nm) == at // 2
        assert json.loads((folder / "run.json").read_text())["state"] == "tuned"


def cut_off_at(monkeypatch, place, name, at, error):
    """Let the call of a number of a function raise; the function before."""
    usual, calls = getattr(place, name), iter(range(10**6))

    def fails(*arguments, **options):
        if next(calls) == at:
            raise error
        return usual(*arguments, **options)

    monkeypatch.setattr(place, name, fails)
    return usual


@pytest.mark.parametrize(("place", "name", "first"), [
    (course, "infer", 0), (runs, "write_text", 1), (runs.series, "write", 0),
    (runs.results, "entry", 0)])  # fmt: skip
def test_a_run_that_was_cut_off_between_calls_comes_to_the_same_answer(
        tune, tmp_path, monkeypatch, place, name, first):
    """In an estimate, or before any of the files is written; what is recorded is not taken again.
    Without its first run.json there is no run yet."""
    monkeypatch.setattr(calibration, "_bring_back", lambda course: (None, "killed"))
    bench = Bench()
    whole, taken = tune(bench), bench.taken
    for at in range(first, 100):
        folder, bench = tmp_path / str(at), Bench()
        usual = cut_off_at(monkeypatch, place, name, at, Killed)
        try:
            tune(bench, run=folder)
            break  # it has no such call any more
        except Killed:
            monkeypatch.setattr(place, name, usual)
        kept = len(runs.read(folder)["settings_nm"])
        assert bench.taken - kept in ((0,) if name in ("infer", "entry") else (0, 1))
        again = Bench()
        same(tune(again, run=folder, resume=True), whole)
        assert again.taken == taken and len(again.began.asked_nm) == kept
        assert_array_equal(again.knobs, whole.applied_knobs_nm)
    assert at > 5


def test_a_run_interrupted_in_any_estimate_ends_where_it_says(tune, tmp_path, monkeypatch):
    """The knobs are brought back; gone on with, they are turned again to where the run leaves them,
    also where all its frames had been taken."""
    whole = tune(Bench())
    for at in range(len(whole.history) + 1):
        bench, folder = Bench(), tmp_path / str(at)
        usual = cut_off_at(monkeypatch, course, "infer", at, KeyboardInterrupt)
        with pytest.raises(KeyboardInterrupt):
            tune(bench, run=folder)
        monkeypatch.setattr(course, "infer", usual)
        assert_array_equal(bench.knobs, 0.0)
        bench = Bench()
        same(tune(bench, run=folder, resume=True), whole)
        assert_array_equal(bench.knobs, whole.applied_knobs_nm)
        assert_array_equal(list(runs.read(folder)["standing_nm"].values()), bench.knobs)


def test_a_knob_that_was_turned_after_the_last_frame_is_sent_back(tune, tmp_path, monkeypatch):
    """Killed in the last estimate, the run has all its frames; meanwhile somebody turned C10."""
    monkeypatch.setattr(calibration, "_bring_back", lambda course: (None, "killed"))
    whole = tune(Bench())
    usual = cut_off_at(monkeypatch, course, "infer", len(whole.history), Killed)
    with pytest.raises(Killed):
        tune(Bench(), run=tmp_path)
    monkeypatch.setattr(course, "infer", usual)

    class Turned(Bench):
        def resume(self, past):
            super().resume(past)
            self.knobs = self.knobs + [5.0, 0.0, 0.0]

    bench = Turned()
    same(tune(bench, run=tmp_path, resume=True), whole)
    assert_array_equal(bench.knobs, whole.applied_knobs_nm)


def test_bringing_back_is_tried_again(tune):
    """A link that is down for a moment: the call that failed, and the first that brings back."""
    class Down(Bench):
        last = 0

        def _call(self, what):
            super()._call(what)
            if 4 <= len(self.calls) - 1 <= self.last:
                raise OSError("no route to host")

    for last, back in ((5, True), (6, True), (7, False)):
        bench = Down()
        bench.last = last
        made = tune(bench)
        assert made.verdict == "refused" and "no route to host" in made.reason
        assert ("the knobs are back where they were" in made.reason) == back
        assert (made.applied_knobs_nm is None) != back and np.any(bench.knobs) != back


def test_a_run_that_goes_on_still_knows_where_the_knobs_are(tune, tmp_path, monkeypatch):
    """Also once the recorded frames are shown, before anything moved: it may be cut off again."""
    whole = tune(Bench())
    monkeypatch.setattr(calibration, "_bring_back", lambda course: (None, "killed"))
    with pytest.raises(Killed):
        tune(Bench(5, killed), run=tmp_path)  # at a frame; the knobs stand where it is taken
    told = runs.read(tmp_path)
    assert any(told["standing_nm"].values())
    again = runs.RecordedMicroscope(
        GuardedMicroscope(Bench()), tmp_path, limits_nm=list(told["limits_nm"].values()),
        call={name: told[name] for name in ("frames", "seed", "refined")}, resume=True)
    for asked in told["settings_nm"]:
        again.set(asked)
        again.acquire()
        again.step(infer([SimpleNamespace(fault=None)], whole.series, None, seed=0))
    assert runs.read(tmp_path)["standing_nm"] == told["standing_nm"]


def test_two_calibrations_do_not_share_a_folder(tune, tmp_path):
    """Not in one process either; the lock is gone with the run, however that ended."""
    class Within(Bench):
        def _call(self, what):
            super()._call(what)
            if len(self.calls) == 3:
                for resume in (False, True):
                    with pytest.raises(SeriesError, match="a calibration is at this run"):
                        tune(Bench(), run=tmp_path, resume=resume)

    assert tune(Within(), run=tmp_path).verdict == "tuned"
    with pytest.raises(SeriesError, match="holds a run already"):
        tune(Bench(), run=tmp_path)
    with pytest.raises(Killed):
        tune(Bench(5, killed), run=tmp_path / "other")
    assert tune(Bench(), run=tmp_path / "other", resume=True).verdict == "tuned"
    held = FileLock(tmp_path / "other" / "lock", timeout=0)
    with held:
        pass
    with pytest.raises(SeriesError, match="there is no run here"):
        tune(Bench(), run=tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


def test_a_full_disk_does_not_keep_the_knobs_where_they_are(tune, tmp_path, monkeypatch):
    bench, write = Bench(), runs.write_text

    def full(path, text):
        if bench.taken == 2:
            raise OSError("no space left on device")
        write(path, text)

    monkeypatch.setattr(runs, "write_text", full)
    made = tune(bench, run=tmp_path)
    assert made.verdict == "refused" and made.reason.startswith("no space left on device; the ")
    assert "could not be kept" in made.reason and made.estimate is not None
    assert_array_equal(made.applied_knobs_nm, 0.0)
    assert np.any(bench.calls[-2] != 0)
    assert_array_equal(bench.knobs, 0.0)


@pytest.mark.parametrize("doubt", ["unlike", "otherwise"])
def test_an_answer_that_is_not_to_be_relied_on_moves_nothing(tune, tmp_path, monkeypatch, doubt):
    """The last frame agrees with it, but most frames are unlike anything, or the frames one by one
    say that the knobs act otherwise."""
    sure = tune(Bench(), tolerance_nm=1e-9)
    assert "start again from here" in sure.reason and np.any(sure.applied_knobs_nm)
    if doubt == "unlike":
        monkeypatch.setattr(course, "infer", lambda *given, **options: replace(
            one := infer(*given, **options), unlike_frames=one.frame_numbers))
    else:
        monkeypatch.setattr(calibration, "_found", lambda *_: (["C10 does not move"], True))
    bench = Bench()
    made = tune(bench, run=tmp_path, tolerance_nm=1e-9)
    assert made.verdict == "not decided" and "verified with one more frame" in made.reason
    assert ("the knobs are back where they were" in made.reason
            and "start again from here" not in made.reason)
    assert ("C10 is tired" if doubt == "unlike" else "C10 does not move") in made.reason
    assert_array_equal(made.applied_knobs_nm, 0.0)
    assert_array_equal(bench.knobs, 0.0)


def test_knobs_that_were_turned_since_a_run_ended_are_turned_back(tune, tmp_path):
    class Reads(Bench):
        """One whose knobs can be read; somebody turned them before it is gone on with."""
        since = None
        knobs_nm = property(lambda self: self.knobs.copy())

        def resume(self, past):
            super().resume(past)
            if self.since is not None:
                self.knobs = np.array(self.since)

    whole = tune(Reads(), run=tmp_path)
    assert whole.verdict == "tuned"
    for since in (None, [5.0, 0.0, 0.0]):
        bench = Reads()
        bench.since = since
        same(tune(bench, run=tmp_path, resume=True), whole)
        assert len(bench.calls) == (since is not None)
        assert_array_equal(bench.knobs, whole.applied_knobs_nm)


def test_a_run_that_ended_can_be_asked_again(tune, tmp_path):
    whole = tune(Bench(), run=tmp_path)
    bench = Bench()
    same(tune(bench, run=tmp_path, resume=True), whole)
    assert bench.calls == []
    assert_array_equal(bench.knobs, whole.applied_knobs_nm)


@pytest.mark.parametrize(("options", "match"), [
    ({"seed": 1}, "was begun with seed 0, now it is 1; make the same call again"),
    ({"frames": 9}, "was begun with frames 10, now it is 9"),
    ({"tolerance_nm": 9.0}, "was begun with limits_nm .*now it is .*9.0"),
    ({"model": SimpleNamespace(digest="other")}, "was begun with model made up, now it is other"),
    ({"settings": em.Settings(candidates=9)}, "was begun with settings None, now it is .*9"),
])  # fmt: skip
def test_only_the_same_call_goes_on(tune, tmp_path, options, match):
    tune(Bench(), run=tmp_path)
    with pytest.raises(SeriesError, match=match):
        tune(Bench(), run=tmp_path, resume=True, **options)


def test_numbers_of_numpy_are_numbers(tune, tmp_path):
    settings = em.Settings(candidates=np.int64(9), effective=np.float64(0.5))
    whole = tune(Bench(), run=tmp_path, seed=np.int64(0), frames=np.int64(LONGEST),
                 settings=settings)
    same(tune(Bench(), run=tmp_path, resume=True, settings=settings), whole)


def test_a_camera_whose_mode_was_changed_meanwhile(tune, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "_bring_back", lambda course: (None, "killed"))
    with pytest.raises(Killed):
        tune(Bench(5, killed), run=tmp_path)
    monkeypatch.undo()
    made_up.install(monkeypatch.setattr)
    bench = Bench()
    bench.acquire = lambda: FRAMES[0][:48, :48]
    made = tune(bench, run=tmp_path, resume=True)
    assert made.verdict == "refused"
    assert "a frame of shape (48, 48), those before had (96, 96)" in made.reason


@pytest.mark.parametrize("wrong", [
    {"settings_nm": 3}, {"settings_nm": [[1.0, 2.0]]}, {"settings_nm": ["a", "b", "c"]},
    {"standing_nm": [0.0, 0.0, 0.0]}, {"standing_nm": {"C10": "far"}}, {"standing_nm": {"C10": 1}},
    {"standing_nm": {"C12a": 0.0, "C10": 0.0, "C12b": 0.0}}, {"settings_nm": [[10**400, 0, 0]]},
    {"knob_names": 5}])  # fmt: skip
def test_a_run_whose_record_is_none(tune, tmp_path, wrong):
    tune(Bench(), run=tmp_path)
    told = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(told | wrong))
    with pytest.raises(SeriesError, match="run.json|was begun with knob_names"):
        tune(Bench(), run=tmp_path, resume=True)


def test_a_run_that_was_made_otherwise_does_not_go_on(tune, tmp_path, monkeypatch):
    tuned = tune(Bench(), run=tmp_path).applied_knobs_nm
    monkeypatch.setattr(calibration, "next_step",
                        lambda *args: next_step(*args) + 1.0)
    bench, kept = Bench(), (tmp_path / "run.json").read_text()
    with pytest.raises(SeriesError, match="frame 1 of the run was taken at"):
        tune(bench, run=tmp_path, resume=True)
    assert_array_equal(bench.knobs, tuned)  # it had ended: what it left stands
    assert (tmp_path / "run.json").read_text() == kept
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        cut_off_at(patch, course, "infer", 0, KeyboardInterrupt)
        tune(bench, run=tmp_path, resume=True)
    assert_array_equal(bench.knobs, tuned)
    assert (tmp_path / "run.json").read_text() == kept
    (tmp_path / "run.json").write_text(kept.replace('"state": "tuned"', '"state": "running"'))
    made = tune(bench, run=tmp_path, resume=True)
    assert made.verdict == "refused"
    assert "frame 1 of the run was taken at" in made.reason
    assert_array_equal(bench.knobs, 0.0)


@pytest.mark.parametrize(("content", "match"), [
    (None, "there is no run here"), ("{", "run.json cannot be read"), ("[1]", "cannot be read"),
    ('{"microscope": "bench"}', "run.json lacks origin, settings_nm, standing_nm, started"),
])  # fmt: skip
def test_folders_that_hold_no_run(tune, tmp_path, content, match):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(SeriesError, match=match):
        tune(Bench(), run=tmp_path, resume=True)
    with pytest.raises(SeriesError, match="no folder to go on from"):
        tune(Bench(), resume=True)


def test_what_a_kill_left_half_written_is_swept(tune, tmp_path):
    """In the folder that is gone on with; the run's own files and others stay."""
    tune(Bench(), run=tmp_path)
    kept = {path.name for path in tmp_path.iterdir()} | {".notes", ".run.json.swp"}
    for name in (".series.h5.x1y2_z3w", ".run.json.abcdefgh", ".notes", ".run.json.swp"):
        (tmp_path / name).write_bytes(b"half")
    tune(Bench(), run=tmp_path, resume=True)
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_a_replay_goes_on_with_the_frames_that_were_not_shown(tune, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "_bring_back", lambda course: (None, "killed"))
    recorded = standins.series(12)
    whole = tune(ReplayMicroscope(recorded), frames=6)
    bench = ReplayMicroscope(recorded)
    acquire, count = bench.acquire, iter(range(99))
    bench.acquire = lambda: killed() if next(count) == 3 else acquire()
    with pytest.raises(Killed):
        tune(bench, frames=6, run=tmp_path)
    same(tune(ReplayMicroscope(recorded), frames=6, run=tmp_path, resume=True), whole)


# Instruments that fail


def rubbish():
    return np.full((5,), np.nan)


def raises():
    raise OSError("the network is down")


def hangs():
    released.wait(60.0)


released = threading.Event()


@pytest.mark.parametrize("fault", [raises, rubbish, hangs])
def test_a_fault_at_any_call_ends_in_a_stated_state(tune, tmp_path, fault):
    number = calls_of_a_run(tune)
    released.clear()
    told = {raises: "the network is down", rubbish: "should give an image", hangs: "did not answer"}
    for at in range(number):
        if fault is rubbish and at % 2 == 0:
            continue  # what set returns does not matter
        folder = tmp_path / str(at)
        bench = Bench(at, fault)
        made = tune(bench, run=folder, timeout_s=0.2 if fault is hangs else 10.0)
        assert made.verdict == "refused" and told[fault] in made.reason
        kept = json.loads((folder / "run.json").read_text())
        assert kept["state"] == "refused" and kept["message"] == made.reason
        if fault is hangs and at % 2 == 0:  # the knobs may still move: nothing else is asked
            assert f"{calibration.ASTRAY} (the call that moved the knobs still has not" \
                in made.reason
            assert made.applied_knobs_nm is None and kept["standing_nm"] is None
        else:
            assert made.reason.endswith("the knobs are back where they were")
            assert_array_equal(made.applied_knobs_nm, 0.0)
            assert_array_equal(bench.calls[-1], 0.0)
            assert_array_equal(list(kept["standing_nm"].values()), 0.0)
        if at > 1:
            assert len(read_series(folder / "series.h5")) == at // 2 == len(made.series)
        assert (made.estimate is None) == (at < 2)
    released.set()


def test_where_the_knobs_cannot_be_brought_back_it_is_said(tune):
    bench = Bench(4, raises)
    sent = bench.set
    bench.set = lambda knobs: sent(knobs) if len(bench.calls) <= 4 else raises()
    made = tune(bench)
    assert made.verdict == "refused" and made.applied_knobs_nm is None
    assert (f"{calibration.ASTRAY} (the microscope failed in set: the network is down)"
            in made.reason)


def test_an_interruption_brings_the_knobs_back_and_the_run_goes_on_from_there(tune, tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    whole = tune(Bench())
    bench = Bench(5, interrupted)
    with pytest.raises(KeyboardInterrupt) as told:
        tune(bench, run=tmp_path)
    assert told.value.__notes__ == ["the knobs are back where they were"]
    assert_array_equal(bench.knobs, 0.0)
    told = runs.read(tmp_path)
    assert told["state"] == "running" and set(told["standing_nm"].values()) == {0.0}
    bench = Bench()
    same(tune(bench, run=tmp_path, resume=True), whole)
    assert_array_equal(bench.began.knobs_nm, 0.0)


def test_interrupted_again_while_the_knobs_are_brought_back_is_said(tune):
    def interrupted():
        raise KeyboardInterrupt

    bench = Bench(5, interrupted)
    sent = bench.set
    bench.set = lambda knobs: sent(knobs) if len(bench.calls) <= 5 else interrupted()
    with pytest.raises(KeyboardInterrupt) as told:
        tune(bench)
    assert told.value.__notes__ == [f"{calibration.ASTRAY} (interrupted again: KeyboardInterrupt)"]


def test_interrupted_while_the_knobs_are_brought_back_after_an_error_is_said(tune):
    """Why the run ended is not lost, nor that nobody knows where the knobs stand."""
    def interrupted():
        raise KeyboardInterrupt

    def broken():
        raise InstrumentError("no light")

    bench = Bench(5, broken)
    sent = bench.set
    bench.set = lambda knobs: sent(knobs) if len(bench.calls) <= 5 else interrupted()
    with pytest.raises(KeyboardInterrupt) as told:
        tune(bench)
    [note] = told.value.__notes__
    assert "no light" in note and calibration.ASTRAY in note


def test_limits_bound_the_steps_and_the_correction(tune, monkeypatch):
    bench = Bench()
    bench.limits_nm = np.array([70.0, 60.0, 60.0])  # asserted in set; steps would go to 200
    assert tune(bench).verdict == "tuned"
    bench = Bench()
    bench.limits_nm = np.array([70.0, 30.0, 60.0])  # X0 asks for 40 nm of C12a
    made = tune(bench)
    assert made.verdict == "refused"
    assert "C12a would have to be turned to 40 nm, its limit is 30 nm" in made.reason
    monkeypatch.setattr(calibration, "knob_limit_nm", lambda order: 30.0)  # of the loop itself
    bench.limits_nm = np.array([70.0, 60.0, 60.0])
    assert "a calibration turns it to at most 30 nm" in tune(bench).reason
    assert_array_equal(bench.knobs, 0.0)
    assert made.estimate is not None and not made.estimate.converged


def test_a_loop_of_which_no_frame_can_be_used_ends_soon(tune):
    bench = Bench()
    bench.acquire = lambda: 0 * FRAMES[0]
    made = tune(bench)
    assert made.verdict == "refused" and len(made.series) == 3 and made.estimate is None
    assert made.reason.startswith("frame 2: no frame can be used, the last because: blank frame")


def test_out_of_reach_by_an_estimate_that_is_not_sure_is_not_decided(tune):
    """It is no setting to go to, and it is asked what is wrong: a dead knob, say."""
    bench = Bench()
    bench.limits_nm = np.array([30.0, 60.0, 60.0])
    made = tune(bench, frames=5)
    assert made.verdict == "not decided" and not made.estimate.converged
    assert ("by an estimate that is not sure C10 would have to be turned to -60 nm, its limit is "
            "30 nm; the knobs are back where they were") in made.reason
    assert "C10 is tired" in made.reason and made.verification_frame is None
    assert_array_equal(bench.knobs, 0.0)
    assert_array_equal(made.applied_knobs_nm, 0.0)
    assert len(made.history) == len(made.series) == 5


def test_frames_too_few_are_not_decided_and_say_what_to_do(tune):
    made = tune(Bench(), frames=2)
    assert made.verdict == "not decided"
    assert made.reason.startswith(
        "frame budget spent before the tolerance was reached, after 2 frames")
    assert "start again from here with more frames" in made.reason
    assert_array_equal(made.applied_knobs_nm, made.estimate.tuned_knobs_nm)  # with the last frame


@pytest.mark.parametrize(("frames", "refined"), [(3, True), (4, True), (5, True), (3, False)])
def test_a_budget_that_cannot_end_as_tuned_is_told_first_of_all(tune, frames, refined):
    """And does not, where the estimate is sure enough with any."""
    told = []
    made = tune(Bench(), frames=frames, refined=refined, tolerance_nm=100.0,
                progress=lambda message, _: told.append(message))
    doomed = "cannot end as tuned" in told[0]
    assert doomed == (made.verdict != "tuned") == (refined and frames < 5)
    assert not any("cannot end as tuned" in message for message in told[1:])


def test_a_verification_that_moves_the_answer_a_little_corrects_the_knobs(tune, monkeypatch):
    """By 1.3 nm, within what it may move, but the setting before would be outside too often."""
    plain = tune(Bench())
    stopped = len(plain.series)

    def moved(observations, *args, **options):
        answer = infer(observations, *args, **options)
        if len(observations) <= stopped:
            return answer
        return replace(answer, x0_nm=answer.x0_nm - [1.3, 0.0, 0.0],
                       tuned_knobs_nm=answer.tuned_knobs_nm + [1.3, 0.0, 0.0])

    monkeypatch.setattr(course, "infer", moved)
    bench = Bench()
    made = tune(bench)
    assert made.verdict == "tuned" and "corrected once more" in made.reason
    assert "corrected once more" not in plain.reason
    assert_array_equal(made.applied_knobs_nm, made.estimate.tuned_knobs_nm)
    assert_array_equal(bench.knobs, made.applied_knobs_nm)
    assert len(made.series) == stopped and made.applied_knobs_nm[0] > plain.applied_knobs_nm[0] + 1


@pytest.fixture
def jumps(tune, monkeypatch):
    """How many frames a plain run takes; from the next on the answer is 50 nm elsewhere in C10."""
    stopped = len(tune(Bench()).series)

    def moved(observations, *args, **options):
        answer = infer(observations, *args, **options)
        if len(observations) <= stopped:
            return answer
        return replace(answer, tuned_knobs_nm=answer.tuned_knobs_nm + [50.0, 0.0, 0.0])

    monkeypatch.setattr(course, "infer", moved)
    return stopped


def test_a_verification_that_disagrees_brings_the_knobs_back(tune, jumps):
    bench = Bench()
    made = tune(bench, frames=jumps)
    assert made.verdict == "not decided" and len(made.history) == jumps
    assert re.search(r"disagrees: with it \d+\.\d nm of C10 are left", made.reason)
    assert "the knobs are back where they were" in made.reason and "C10 is tired" in made.reason
    assert_array_equal(bench.knobs, 0.0)
    assert_array_equal(made.applied_knobs_nm, 0.0)


def test_where_frames_are_left_the_loop_goes_on_after_a_verification_that_disagrees(tune, jumps):
    """The frame counts as one more of the series; the next verification judges."""
    bench = Bench()
    made = tune(bench, frames=jumps + 2)
    assert made.verdict == "tuned"
    assert len(made.series) == len(made.history) == jumps + 2
    assert_array_equal(made.series.knobs_nm[jumps], made.history[jumps - 1].tuned_knobs_nm)
    assert_array_equal(bench.knobs, made.applied_knobs_nm)


def test_a_verification_that_shows_another_state_does_not_pass(tune, monkeypatch):
    """The map of the latents says so; the answer itself did not move."""
    refinement = SimpleNamespace(with_actuator=False, with_misses=False, explains=True,
                                 solutions=(SimpleNamespace(settled=True),))
    monkeypatch.setattr(course, "infer", lambda *args, **options: replace(
        infer(*args, **options), refinement=refinement))
    asked = []
    monkeypatch.setattr("jaxcal.verification.state_nm",
                        lambda answer, knobs_nm: asked.append(knobs_nm) or np.zeros(7))
    for odds, verdict in ((-3.0, "tuned"), (40.0, "not decided")):
        monkeypatch.setattr("jaxcal.verification.log_odds_elsewhere",
                            lambda *_, odds=odds, **__: odds)
        bench = Bench()
        made = tune(bench)
        assert made.verdict == verdict
        assert ("it shows another state" in made.reason) == (verdict == "not decided")
        assert_array_equal(asked[-1], made.history[-1].tuned_knobs_nm)  # where it was taken
    assert_array_equal(bench.knobs, 0.0)


def test_many_bad_frames_ask_for_a_better_area(tune):
    bench = Bench()
    shown = iter([FRAMES[0], *[0 * FRAMES[0]] * 3, *FRAMES[1:]])
    bench.acquire = lambda: next(shown)
    made = tune(bench, frames=5)
    assert made.verdict == "not decided"
    assert "3 of 6 frames were set aside, look for a better area" in made.reason


def test_an_adapter_that_cannot_go_on_says_so(tune, tmp_path):
    tune(Bench(), run=tmp_path)
    bench = Bench()
    with pytest.raises(InstrumentError, match="cannot take up an interrupted run"):
        calibration.GuardedMicroscope(
            type("Plain", (), {"knob_names": bench.knob_names, "optics": bench.optics})()).resume(
            None)


SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
import made_up
import test_runs as t
made_up.install()
bench = t.Bench()
acquire = bench.acquire
def slowly():
    print("acquire", bench.taken, flush=True)
    time.sleep(0.2)
    return acquire()
bench.acquire = slowly
made_up.calibrate(bench, run={folder!r})
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no kill -9 on this system")
def test_a_run_that_was_killed_is_continued(tune, tmp_path):
    """The same as above with a real process and a real kill, whenever it falls."""
    whole = tune(Bench())
    script = textwrap.dedent(SCRIPT.format(tests=str(Path(__file__).parent), folder=str(tmp_path)))
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True,
                               env=os.environ)
    for line in process.stdout:
        if line.strip() == "acquire 3":
            process.kill()
            break
    process.stdout.close()
    process.wait(60)
    assert runs.read(tmp_path)["state"] == "running"
    same(tune(Bench(), run=tmp_path, resume=True), whole)


ALL = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import made_up
import test_runs as t
made_up.install()
for at in range({number}):
    if os.fork() == 0:
        bench = t.Bench(at, lambda: os.kill(os.getpid(), signal.SIGKILL))
        made_up.calibrate(bench, run={folder!r} + str(at))
        os._exit(0)
    print(at, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are not forked on this system")
def test_a_run_that_was_killed_at_any_call_is_continued(tune, tmp_path):
    """kill -9 within every call of the microscope: in each, the run goes on to the same answer."""
    whole, number = tune(Bench()), calls_of_a_run(tune)
    script = ALL.format(tests=str(Path(__file__).parent), number=number, folder=f"{tmp_path}/")
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True,
                          text=True, timeout=300, check=True)
    assert done.stdout.split("\n")[:-1] == [f"{at} {-signal.SIGKILL}" for at in range(number)]
    for at in range(number):
        assert runs.read(tmp_path / str(at))["state"] == "running"
        same(tune(Bench(), run=tmp_path / str(at), resume=True), whole)


@pytest.mark.slow
def test_a_real_run_that_was_cut_off_comes_to_the_same_answer(tmp_path, monkeypatch):
    """With the real estimate of simulated frames, cut off before the second is there."""
    monkeypatch.setattr(calibration, "_bring_back", lambda course: (None, "killed"))

    def bench(stop=None):
        made = SimulatedMicroscope(seed=5)
        acquire, turn = made.acquire, made.set

        def stopping(member, what):
            def call(*arguments):
                if stop == (what, made.frames_taken):
                    raise Killed
                return member(*arguments)

            return call

        made.acquire = stopping(acquire, "acquire")
        made.set = stopping(turn, "set")
        return made

    options = {"frames": 2, "refined": False,
               "settings": em.Settings(candidates=512, iterations=2, climbs=10)}
    whole = calibration.calibrate(bench(), **options)
    with pytest.raises(Killed):
        calibration.calibrate(bench(("acquire", 1)), run=tmp_path / "run", **options)
    again = calibration.calibrate(bench(), run=tmp_path / "run", resume=True, **options)
    assert again.verdict == whole.verdict
    assert_array_equal(again.series.frames, whole.series.frames)
    assert_allclose(again.applied_knobs_nm, whole.applied_knobs_nm, atol=1e-3)
    assert_allclose(again.estimate.x0_nm, whole.estimate.x0_nm, atol=1e-3)
