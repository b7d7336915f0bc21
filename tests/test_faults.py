"""What happens with faults, in closed loops in full; `python -m benchmarks.faults` draws two
hundred."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent


def session(tmp_path, *cases):
    """What came of the cases, see `fault_session`."""
    paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, TESTS / "fault_session.py", ",".join(cases), "--folder", tmp_path / "run"],
        env=os.environ | {"PYTHONPATH": paths, "JAX_ENABLE_X64": "0"}, capture_output=True,
        text=True, timeout=290)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    for case in set(cases) - {"killed", "check"}:  # what holds whatever the fault
        one = told[case]
        assert one["stands"] and one["best"] and not one["beyond"], (case, one)
        assert one["verdict"] != "tuned" or one["left"] <= 1, (case, one)
    return told


def test_a_dead_knob_and_frames_of_all_that_can_be_wrong_with_an_area(tmp_path):
    told = session(tmp_path, "dead knob", "frames")
    dead, frames = told["dead knob"], told["frames"]
    assert "C12a does not move" in dead["reason"]
    assert dead["verdict"] == "not decided" and dead["back"]
    rejected = {int(number): why for number, why in frames["rejected"].items()}
    assert {3, 5} <= set(rejected)
    assert "dark" in rejected[3] and "stale" in rejected[5]
    assert 0 in {*rejected, *frames["unlike"]}
    assert frames["left"] < 10


def test_a_wrong_energy_and_a_run_killed_in_an_estimate(tmp_path):
    """The refinement goes on from where an earlier one ended, also where a kill was in between."""
    told = session(tmp_path, "energy", "killed")
    assert "energy_keV is wrong" in told["energy"]["reason"]
    for name, (whole, again) in told["killed"].items():
        assert again == whole, name


def test_the_check_of_an_adapter_with_real_frames(tmp_path):
    right, turned = session(tmp_path, "check")["check"]
    assert right["passed"] and not right["beyond"], right["told"]
    assert not turned["passed"] and "turned by" in turned["told"], turned["told"]
