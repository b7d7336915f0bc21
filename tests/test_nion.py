"""Nion Swift's controller and camera, played by stand-ins and by the maker's simulator."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import standins
from nion_bench import Camera, Stem
from numpy.testing import assert_allclose

from jaxcal import Microscope
from jaxcal.microscopes import nion
from jaxcal.microscopes.nion import NionMicroscope
from jaxcal.microscopes.protocol import InstrumentError, Past


def microscope(stem=None, camera=None, **options):
    return NionMicroscope(stem or Stem(), camera or Camera(), standins.optics(), **options)


def test_it_is_a_microscope():
    assert isinstance(microscope(), Microscope)


@pytest.mark.parametrize("halves", [("a", "b"), ("x", "y")])
def test_settings_are_counted_from_where_the_controls_stood(halves):
    stem = Stem(halves)
    bench = microscope(stem, knob_names=("C10", "C12a", "C12b", "C23b"))
    assert_allclose(bench.knobs_nm, 0.0)
    bench.set([100.0, -20.0, 30.0, 500.0])
    bench.set([50.0, -20.0, 30.0, 500.0])
    assert_allclose(stem.values["C10"], 5.5e-7)
    assert_allclose(stem.values[f"C12.{halves[0]}"], -1e-8)
    assert_allclose(stem.values[f"C12.{halves[1]}"], 4e-8)
    assert_allclose(stem.values[f"C23.{halves[1]}"], 5.1e-7)
    assert_allclose(stem.values[f"C23.{halves[0]}"], 1e-8)
    assert_allclose(bench.knobs_nm, [50.0, -20.0, 30.0, 500.0])
    assert all(timeout == 20_000 for _, _, timeout in stem.asked)


def test_a_frame_is_one_that_starts_after_the_call():
    camera = Camera()
    assert microscope(camera=camera).acquire().shape == (96, 96)
    assert camera.asked == ["start", ("grab", 40.0), "stop"]
    camera = Camera(is_playing=True)  # what was running goes on
    microscope(camera=camera).acquire()
    assert camera.asked == [("grab", 40.0)]


def test_a_frame_of_before_is_not_taken(monkeypatch):
    """Where no new one comes, Nion Swift gives the last after the timeout; so it does where the
    camera was stopped meanwhile."""
    clock = iter([0.0, 39.0, 0.0, 41.0])
    monkeypatch.setattr(nion, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert microscope().acquire().ndim == 2  # waits for one exposure to end and for the next
    with pytest.raises(InstrumentError, match="no new frame within 40 s"):
        microscope().acquire()
    monkeypatch.undo()

    class Stopped(Camera):
        def grab_next_to_start(self, timeout):
            self.is_playing = False
            return super().grab_next_to_start(timeout)

    with pytest.raises(InstrumentError, match="no new frame"):
        microscope(camera=Stopped(is_playing=True)).acquire()


@pytest.mark.parametrize("frame, words", [
    (TimeoutError("too late"), "no frame within"), (np.zeros((2, 4, 4)), r"shape \(2, 4, 4\)"),
    (np.float32(1.0), r"shape \(\)"),
])
def test_frames_that_are_none(frame, words):
    camera = Camera(frame)
    with pytest.raises(InstrumentError, match=words):
        microscope(camera=camera).acquire()
    assert camera.asked[-1] == "stop"


def test_limits_are_kept_and_nothing_moves():
    stem = Stem()
    bench = microscope(stem, limits_nm={"C12a": 50.0})
    with pytest.raises(ValueError, match="C12a was asked to 51.0 nm, its limit is 50 nm"):
        bench.set([10.0, 51.0, 0.0])
    with pytest.raises(ValueError, match="one finite setting"):
        bench.set([np.inf, 0.0, 0.0])
    assert not stem.asked
    with pytest.raises(ValueError, match="positive limit"):
        microscope(limits_nm={"C30": 1.0})


def test_a_control_that_does_not_move_is_named_and_read_back():
    stem = Stem()
    bench = microscope(stem)
    stem.stuck = {"C12.a"}
    with pytest.raises(InstrumentError, match="C12.a was not confirmed at 2e-08 m within 20 s"):
        bench.set([100.0, 10.0, 10.0])
    assert_allclose(bench.knobs_nm, [100.0, 0.0, 10.0])  # the others go where they are sent


@pytest.mark.parametrize("told", [None, np.nan, "much"])
def test_controls_that_stand_nowhere(told):
    """Nothing is sent to a control that does not say where it stands."""
    stem = Stem()
    bench = microscope(stem)
    for origin in ([told, 0.0, 0.0], [0.0], told):
        with pytest.raises(InstrumentError, match="should stand at one finite number each"):
            bench.resume(Past(np.zeros((0, 3)), None, origin))
    assert_allclose(bench.knobs_nm, 0.0)
    stem.values["C12.a"] = told
    with pytest.raises(InstrumentError, match=r"controls C10, C12.a, C12.b should stand at one"):
        microscope(stem)
    with pytest.raises(InstrumentError, match="look at the instrument"):
        _ = bench.knobs_nm
    assert not stem.asked


def test_controls_that_are_not_there():
    with pytest.raises(InstrumentError, match=r"no control C56.a or C56.x for the knob C56a"):
        microscope(knob_names=("C56a",))
    with pytest.raises(ValueError, match="C99"):
        microscope(knob_names=("C99",))
    stem = Stem()
    bench = microscope(stem)
    del stem.values["C10"]
    with pytest.raises(InstrumentError, match="does not know C10 any more"):
        bench.knobs_nm  # noqa: B018


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nion") is None or find_spec("nion.usim_device") is None,
                    reason="pip install '.[nion]': the instrument simulator is not installed")
def test_the_makers_instrument_simulator(tmp_path):
    """Knobs arrive in metres from where they stood, frames are of the new setting and show it with
    our units and signs."""
    tests = Path(__file__).parent
    paths = os.pathsep.join([str(tests.parent), os.environ.get("PYTHONPATH", "")])
    session = subprocess.run([sys.executable, tests / "usim_session.py"], cwd=tmp_path, timeout=240,
                             env=os.environ | {"PYTHONPATH": paths, "JAX_ENABLE_X64": "0"},
                             capture_output=True, text=True)
    assert session.returncode == 0, session.stderr
    told = json.loads(session.stdout)
    assert_allclose(np.subtract(told["controls_nm"], 1e9 * told["start_m"]), [0, 300, -200])
    assert_allclose(told["read_nm"], [[0] * 5, [300, -100, 50, 400, -200], [-200, 0, 0, 0, 0]],
                    atol=1e-6)
    assert told["shapes"] == [[512, 512]] * 3
    same, moved, back = told["changed"]
    assert same < 1e-5 < 1e-4 < min(moved, back)  # its film is weak
    for knob, (right, wrong) in told["signs"].items():
        assert right > 0.9 and wrong < 0.5, knob
    assert "no control C56.a or C56.x" in told["unknown"]
    # its frames are no interference patterns: the estimate says so, however sharp it may be
    answer = told["estimate"]
    assert not answer["converged"]
    assert "no state explains the spectra" in answer["message"]


def test_nothing_of_a_vendor_or_of_an_extra_is_imported_before_it_is_used():
    """Every module of the package can be imported where no extra is installed."""
    code = ("import importlib, pkgutil, sys\n"
            "for name in ('nion', 'nionswift', 'rsciio', 'hyperspy', 'bayes_opt', 'numpyro',\n"
            "             'torch', 'abtem', 'sklearn', 'gpytorch', 'pdoc', 'pynxtools'):\n"
            "    sys.modules[name] = None  # an import of it fails\n"
            "import jaxcal\n"
            "names = [m.name for m in pkgutil.walk_packages(jaxcal.__path__, 'jaxcal.')]\n"
            "for name in names:\n"
            "    importlib.import_module(name)\n"
            "print(len(names))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60
