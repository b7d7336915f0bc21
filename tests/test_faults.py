"""What happens with faults, in closed loops in full; `python -m benchmarks.faults` draws two
hundred."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parent


@pytest.fixture
def session(tmp_path):
    """Function that gives what came of cases, see `fault_session`."""
    def told(*cases):
        paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
        done = subprocess.run(
            [sys.executable, TESTS / "fault_session.py", *cases, "--folder", tmp_path / "run"],
            env=os.environ | {"PYTHONPATH": paths, "JAX_ENABLE_X64": "0"},
            capture_output=True, text=True, timeout=290)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        for case in set(cases) - {"killed", "check", "gains", "others"}:  # whatever the fault
            one = found[case]
            assert one["stands"] and one["best"] and not one["beyond"], (case, one)
            assert one["verdict"] != "tuned" or one["left"] <= 1, (case, one)
        return found

    return told


CAMERA = "the camera sees the knobs mirrored and turned by 90 or 270"


def test_a_wrong_energy_is_named(session):
    """Told 131 keV for 200. By the energy that is proposed the loop looked for another scale."""
    reason = session("energy")["energy"]["reason"]
    proposed = re.search(r"energy_keV is wrong \((\d+) instead", reason)
    assert proposed and abs(int(proposed[1]) - 200) < 20, reason


def test_a_camera_that_is_turned_is_named_and_the_knobs_are_back(session):
    turned = session("turned")["turned"]
    assert CAMERA in turned["reason"] and turned["verdict"] == "not decided" and turned["back"]


def test_a_dead_knob_and_a_turned_camera_in_the_check(session):
    """The one in a calibration, after which the knobs are back."""
    told = session("dead knob", "check")
    dead, checked = told["dead knob"], told["check"]
    assert "C12a does not move" in dead["reason"]
    assert dead["verdict"] == "not decided" and dead["back"]
    assert checked["back"] and len(checked["failed"]) == 1, checked
    assert CAMERA in checked["findings"][0]


def test_frames_of_what_can_be_wrong_with_an_area_and_a_run_that_is_killed(session):
    """Of six frames three are set aside; that the others are too few to be sure is said, and the
    knobs are left nearer than they began, or back there (tried with the seeds 0 to 3). Killed in an
    estimate a run ends as if it had not been: the refinement goes on from where an earlier one
    ended."""
    told = session("frames", "killed")
    frames, killed = told["frames"], told["killed"]
    rejected = {int(number): why for number, why in frames["rejected"].items()}
    assert set(rejected) >= {1, 2, 4}
    assert "dark" in rejected[2] and "stale" in rejected[4]
    assert frames["verdict"] == "not decided" and "3 of 6 frames were set aside" in frames["reason"]
    assert frames["back"] or frames["left"] < 20  # it began some sixty limits off
    for name, (whole, again) in killed["same"].items():
        assert again == whole, name
    assert killed["largest_nm"] <= 300  # the steps are by the spectra, within the limits
    assert killed["left_sd"] < 4 and killed["sd_nm"] < 3


def test_series_with_what_no_loop_here_has(session):
    """A drift, a pixel or a semi-angle that is told wrong: named, and the setting that tunes is
    right. Hysteresis is named, leaves some of what there was, and is no answer by its widths."""
    told = session("others")["others"]
    for case, words in {
            "drift": "a drift, ", "pixel": "the aperture's image has a radius of",
            "angle": "by the knobs' steps they are 19.",
            "hysteresis": "of each move does not arrive"}.items():
        one = told[case]
        assert one["converged"] == (case != "hysteresis"), (case, one)
        assert words in one["message"], (case, one)
        within = 25.0 if case == "hysteresis" else 4 * np.array(one["sd_nm"])
        assert np.all(np.abs(one["left_nm"]) < within), (case, one)


def test_gains_far_from_told_are_found_gains_that_are_asked_for_and_a_wrong_energy(session):
    """40 % too far, 24 and 38 % short, cross-talk, and nobody asked (climbs from EM's modes end at
    gains of 1.17, 0.82 and 0.68 there, knobs that miss, and an answer three deviations off); 12 and
    -10 %, asked for; told 300 keV for 200: in each the setting that tunes is right."""
    told = session("gains")["gains"]
    far, asked, energy = (told[case] for case in ("far", "asked", "energy"))
    for one, within in ((far, 0.06), (asked, 0.03)):
        assert np.abs(np.diag(one["actuator"]) - np.diag(one["gains"])).max() < within, one
        assert np.all(np.abs(one["error_nm"]) < 4 * np.array(one["sd_nm"])), one
    assert "the knobs do not act as told: gains C10 1." in far["message"]
    assert "gains C10 1." in asked["message"]
    assert "do not act as told" not in asked["message"]
    proposed = re.search(r"energy_keV is wrong \((\d+) instead of 300", energy["message"])
    assert proposed and abs(int(proposed[1]) - 200) < 12, energy["message"]
    assert np.max(np.abs(energy["error_nm"])) < 2.0
