"""The jaxcal command: exit status, streams and files, with the numerical work stood in for."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import standins

import jaxcal
from jaxcal import commands, console, decisions, results
from jaxcal.cli import main
from jaxcal.conformance import Check, Conformance
from jaxcal.series import probe, read, read_truth, write

ROOT = Path(__file__).parent.parent


@pytest.fixture
def calls(monkeypatch):
    """Stands in for the calibration and the model; what they were asked for is kept."""
    made = []

    def estimate(series, model=None, *, seed=0, actuator=False, published=False, refined=True,
                 progress=None):
        made.append(("estimate", series.name, model, seed))
        progress("looking", 0.5)
        if np.all(series.frames[0] == 0):
            raise ValueError("no frame can be used; record frames with the aperture in view")
        if series.name == "fault.h5":
            raise TypeError("unexpected")
        return standins.estimate(len(series), series.knob_names, converged=len(series) > 3)

    def calibrate(microscope, **options):
        name = getattr(microscope, "name", "microscope")
        made.append(("calibrate", name, microscope.knob_names, options))
        run = standins.calibration(microscope.knob_names)
        run.truth_nm = getattr(microscope, "truth_nm", None)
        if options["seed"] == 13:  # this one fails in its first frame
            run.verdict, run.reason = "refused", "the microscope failed in acquire: no beam"
            run.estimate, run.history, run.series = None, (), None
        if options["seed"] == 14:  # and this one later
            run.verdict, run.reason = "refused", "the microscope failed in set: no current"
        return run

    def load(path=None):
        if path is not None and path.suffix == ".txt":
            raise ValueError("no weights in it")
        return "model" if path is None else str(path)

    for name, stub in (
        ("calibration", SimpleNamespace(estimate=estimate, calibrate=calibrate,
                                        beforehand=decisions.beforehand, REFUSED="refused")),
        ("model", SimpleNamespace(load=load)),
    ):
        monkeypatch.setitem(sys.modules, f"jaxcal.{name}", stub)
        monkeypatch.setitem(vars(jaxcal), name, stub)
    return made


@pytest.fixture
def fake_simulation(monkeypatch):
    from jaxcal.microscopes import camera

    frames = standins.frames(1, 256)
    monkeypatch.setattr(camera, "draw_camera", lambda seed, optics: None)
    monkeypatch.setattr(camera, "acquire", lambda key, drawn, state: frames[0])


def bench(folder, name="p01.h5", count=5):
    write(folder / name, standins.series(count))
    return folder / name


def run(*arguments):
    return main([str(argument) for argument in arguments])


def test_estimate_writes_the_contract(tmp_path, calls, capsys):
    out = tmp_path / "out.json"
    paths = [bench(tmp_path), bench(tmp_path, "p02.h5", 3)]
    assert run("estimate", *paths, "--json", out, "--seed", 5) == 0
    answers = json.loads(out.read_text())
    assert list(answers) == ["p01.h5", "p02.h5"]
    for answer in answers.values():
        assert set(answer) == {
            "x0_nm", "sd_nm", "tuned_knobs_nm", "tuned_sd_nm", "frames_used", "rejected_frames",
            "converged", "message", "seconds",
        }  # fmt: skip
        for part in ("x0_nm", "sd_nm", "tuned_knobs_nm", "tuned_sd_nm"):
            assert list(answer[part]) == ["C10", "C12a", "C12b"]
            assert all(type(value) is float for value in answer[part].values())
    assert answers["p01.h5"]["converged"] is True
    assert answers["p02.h5"]["converged"] is False  # and still status 0
    assert [call[3] for call in calls] == [5, 5]
    printed = capsys.readouterr()
    assert "p01.h5" in printed.out and "C12b" in printed.out and "not converged" in printed.out
    assert printed.err == ""


def test_where_the_truth_is_known_it_stands_beside_the_estimate(tmp_path, calls, capsys):
    write(tmp_path / "made.h5", standins.series(5), truth_nm={"C10": 31.25, "C30": 2e3})
    page = tmp_path / "page.html"
    assert run("estimate", tmp_path / "made.h5", "--report", page) == 0
    printed = capsys.readouterr().out
    assert "true x0" in printed and "+31.25" in printed
    assert "true x0" in page.read_text()
    assert run("estimate", bench(tmp_path)) == 0
    assert "true x0" not in capsys.readouterr().out


def test_a_truth_that_cannot_be_is_an_error_of_its_series_alone(tmp_path, calls, capsys):
    broken, good = bench(tmp_path, "bad.h5"), bench(tmp_path)
    with h5py.File(broken, "a") as file:
        file.attrs["truth_names"], file.attrs["truth_nm"] = ["C10", "C12a"], [1.0]
    assert run("estimate", broken, good) == 2
    printed = capsys.readouterr()
    assert "bad.h5" in printed.err and "do not belong together" in printed.err
    assert "p01.h5" in printed.out


def test_options_may_stand_before_the_files(tmp_path, calls):
    out = tmp_path / "out.json"
    assert run("estimate", "--json", out, bench(tmp_path)) == 0
    assert list(json.loads(out.read_text())) == ["p01.h5"]


@pytest.mark.parametrize(("arguments", "words"), [
    (("estimate", "--json", "a.h5", "b.h5"), "a.h5: holds a series of frames; choose another"),
    (("estimate", "a.h5", "--nexus", "a.h5"), "a.h5: is named twice, to be written and as a.h5"),
    (("estimate", "a.h5", "--json", "x", "--report", "./x"), "is named twice, to be written and"),
    (("calibrate", "--microscope", "replay:a.h5", "--json", "a.h5"), "is named twice, to be"),
    (("calibrate", "--run", "r", "--json", "r/run.json"), "to be written and as r/run.json"),
    (("calibrate", "--run", "r", "--nexus", "./r/series.h5"), "to be written and as r/series.h5"),
    (("calibrate", "--run", "r", "--report", "r/lock"), "to be written and as r/lock"),
    (("calibrate", "--nexus", "b.h5"), "b.h5: holds a series of frames"),
])  # fmt: skip
def test_what_was_measured_is_never_written_over(tmp_path, calls, capsys, monkeypatch, arguments,
                                                 words):
    files = bench(tmp_path, "a.h5"), bench(tmp_path, "b.h5")
    before = [file.read_bytes() for file in files]
    (tmp_path / "r").mkdir()
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    assert words in capsys.readouterr().err and calls == []
    assert [file.read_bytes() for file in files] == before


def test_a_path_that_cannot_be_reached_does_not_stop_the_others(tmp_path, calls, capsys):
    long = tmp_path / ("x" * 300)
    assert run("estimate", long, bench(tmp_path)) == 2
    printed = capsys.readouterr()
    assert "cannot be reached" in printed.err and "p01.h5" in printed.out


def test_a_name_that_is_no_text_does_not_stop_the_others(tmp_path, calls):
    odd = bench(tmp_path, os.fsdecode(b"caf\xe9.h5"))
    report = tmp_path / "r.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
        assert run("estimate", odd, bench(tmp_path), "--report", report) == 0
        sys.stdout.flush()
        told = sys.stdout.buffer.getvalue().decode()
    assert "caf?.h5" in told and "p01.h5" in told and "caf?.h5" in report.read_text()


def test_modules_in_the_folder_of_the_data_are_not_run(tmp_path, monkeypatch):
    (tmp_path / "h5py.py").write_text("open('run', 'w')")
    monkeypatch.chdir(tmp_path)
    probe(bench(tmp_path))
    assert not (tmp_path / "run").exists()


def test_one_unreadable_series_does_not_stop_the_others(tmp_path, calls, capsys):
    good, last = bench(tmp_path), bench(tmp_path, "p09.h5")
    (tmp_path / "text.h5").write_text("no")
    out = tmp_path / "out.json"
    status = run("estimate", tmp_path / "none.h5", good, tmp_path / "text.h5", last, "--json", out)
    assert status == 2
    assert list(json.loads(out.read_text())) == ["p01.h5", "p09.h5"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[0].endswith("none.h5: no such file; check the path")
    assert "text.h5: is not an HDF5 file; convert it" in lines[1]


def damage(name, value):
    def change(file):
        if name in file.attrs:
            if value is None:
                del file.attrs[name]
            else:
                file.attrs[name] = value
        else:
            del file[name]
            if value is not None:
                file[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (damage("frames", None), "has no dataset 'frames'"),
        (damage("energy_keV", None), "has no attribute 'energy_keV'"),
        (damage("energy_keV", 500.0), "within 30 to 300 keV"),
        (damage("semi_angle_mrad", -20.0), "finite and positive"),
        (damage("knob_names", ["C10", "C12a", "Q7"]), "unknown knob name 'Q7'"),
        (damage("knob_names", ["C10", "C12a", "C12a"]), "named twice"),
        (damage("knobs", np.zeros((2, 3))), "knobs should have shape (5, 3)"),
        (damage("frames", np.zeros((0, 96, 96))), "zero frames"),
        (damage("frames", np.zeros((5, 20, 20))), "too small"),
        (damage("frames", np.full((5, 96, 96), np.nan)), "frame 0: 9216 of 9216 pixels are NaN"),
        (damage("frames", np.zeros((5, 96, 96))), "no frame can be used"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path, calls, capsys, change, words):
    path = bench(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    out = tmp_path / "out.json"
    assert run("estimate", path, "--json", out) == 2
    printed = capsys.readouterr()
    assert words in printed.err and "p01.h5" in printed.err
    assert printed.err.count("\n") == 1 and "Traceback" not in printed.err
    assert json.loads(out.read_text()) == {}


def test_a_fault_of_our_own_is_told_apart(tmp_path, calls, capsys, monkeypatch):
    bad, good = bench(tmp_path, "fault.h5"), bench(tmp_path)
    out = tmp_path / "out.json"
    assert run("estimate", bad, good, "--json", out) == 1
    assert list(json.loads(out.read_text())) == ["p01.h5"]
    assert "a fault of jaxcal, please report it: TypeError: unexpected" in capsys.readouterr().err
    monkeypatch.setenv("JAXCAL_DEBUG", "1")
    with pytest.raises(TypeError):
        run("estimate", bad)


def test_results_survive_from_series_to_series(tmp_path, calls, monkeypatch):
    """Stopped in the second series, the answer of the first is there."""
    paths = [bench(tmp_path), bench(tmp_path, "p02.h5")]
    out = tmp_path / "out.json"
    real = sys.modules["jaxcal.calibration"].estimate

    def stopped(series, *arguments, **options):
        if series.name == "p02.h5":
            raise KeyboardInterrupt
        return real(series, *arguments, **options)

    monkeypatch.setattr(sys.modules["jaxcal.calibration"], "estimate", stopped)
    assert run("estimate", *paths, "--json", out) == 130
    assert list(json.loads(out.read_text())) == ["p01.h5"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_calibration_that_is_asked_to_end_brings_the_knobs_back(calls, monkeypatch, capsys, name):
    """As by Ctrl-C; asked again meanwhile it does not stop. Afterwards signals are as before."""
    if not hasattr(signal, name):
        pytest.skip(f"there is no {name} on this system")
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # these tests may be started by nohup

    def calibrate(microscope, **options):
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        except KeyboardInterrupt as error:
            for again in (signal.SIGTERM, number):
                os.kill(os.getpid(), again)
            error.add_note("the knobs are back where they were")
            raise

    try:
        monkeypatch.setattr(sys.modules["jaxcal.calibration"], "calibrate", calibrate)
        assert run("calibrate") == 130
        assert "interrupted; the knobs are back where they were" in capsys.readouterr().err
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)  # as nohup does: it is not heard then
        monkeypatch.setattr(sys.modules["jaxcal.calibration"], "calibrate", lambda *_, **__: (
            os.kill(os.getpid(), number), standins.calibration(("C10",)))[1])
        assert run("calibrate", "--knobs", "C10") == 0
    finally:
        signal.signal(number, before)


def test_two_series_of_one_name_are_not_mixed_up(tmp_path, calls, capsys):
    (tmp_path / "other").mkdir()
    first, second = bench(tmp_path), bench(tmp_path / "other")
    out = tmp_path / "out.json"
    assert run("estimate", first, first, second, "--json", out) == 2
    assert len(calls) == 1
    assert "another series of this run is called p01.h5 too" in capsys.readouterr().err


def test_results_in_nexus(tmp_path, calls, fake_simulation):
    out, tuned = tmp_path / "out.nxs", tmp_path / "tuned.nxs"
    paths = [bench(tmp_path), tmp_path / "none.h5", bench(tmp_path, "p02.h5", 3)]
    assert run("estimate", *paths, "--nexus", out) == 2
    assert run("calibrate", "--knobs", "C10,C12b", "--nexus", tuned) == 0
    with h5py.File(out) as file, h5py.File(tuned) as other:
        assert list(file) == ["p01.h5", "p02.h5"] and list(other) == ["simulated"]
        assert len(other["simulated/tuned_knobs/setting"]) == 2


def test_a_model_that_is_none(tmp_path, calls, capsys):
    path = bench(tmp_path)
    assert run("estimate", path, "--model", tmp_path / "gone") == 2
    (tmp_path / "a.txt").write_text("")
    assert run("estimate", path, "--model", tmp_path / "a.txt") == 2
    lines = capsys.readouterr().err.splitlines()
    assert "no such model" in lines[0] and "is not a model of jaxcal (no weights" in lines[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["estimate"], "no series given"),
        (["estimate", "a.h5", "--json", "/no/such/folder/out.json"], "there is no folder"),
        (["estimate", "a.h5", "--report", "."], "is a folder; name a file"),
        (["estimate", "a.h5", "--nexus", "."], "is a folder; name a file"),
        (["series", "x.h5", "--table", "none.csv"], "none.csv: no such file"),
        (["series", "x.h5", "--table", "t", "--pixel-mrad", "nan"], "--pixel-mrad should be"),
        (["calibrate", "--microscope", "titan"], "unknown microscope 'titan'"),
        (["calibrate", "--microscope", "replay:"], "unknown microscope"),
        (["calibrate", "--microscope", "replay:none.h5"], "none.h5: no such file"),
        (["calibrate", "--knobs", "C10,C99"], "--knobs C10,C99: unknown aberration 'C99'"),
        (["calibrate", "--knobs", "C10,C10"], "C10 is named twice"),
        (["calibrate", "--knobs", ","], "names no knob"),
        (["calibrate", "--resume"], "name its folder with --run"),
        (["calibrate", "--run", __file__], "is a file; name a folder for the run"),
        (["calibrate", "--frames", "0"], "--frames should be positive, got 0"),
        (["calibrate", "--seed", "-1"], "--seed should be 0 or more"),
        (["calibrate", "--tolerance", "nan"], "--tolerance should be positive"),
        (["calibrate", "--hidden-range", "-5"], "--hidden-range should be 0 or more"),
        (["calibrate", "--energy-kev", "500"], "within 30 to 300 keV, got 500"),
        (["calibrate", "--semi-angle-mrad", "0.02"], "not in rad"),
        (["simulate", "x.h5", "--frames", "0"], "--frames should be positive"),
        (["convert", "none.txt", "--from", "ceos"], "none.txt: No such file"),
    ],
)
def test_arguments_that_cannot_be(tmp_path, calls, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_unknown_options_end_with_status_2(capsys):
    with pytest.raises(SystemExit) as ended:
        run("estimate", "--wrong", "1")
    assert ended.value.code == 2


def test_calibrate_the_simulated_microscope(tmp_path, calls, fake_simulation, capsys):
    out, page = tmp_path / "out.json", tmp_path / "tuned.html"
    status = run(
        "calibrate", "--knobs", "C10,C12b", "--frames", 7, "--seed", 3, "--tolerance", 0.8,
        "--json", out, "--report", page,
    )  # fmt: skip
    assert status == 0
    answers = json.loads(out.read_text())
    assert list(answers) == ["simulated"]
    answer = answers["simulated"]
    assert set(answer["truth_nm"]) == set(answer["x0_nm"]) == {"C10", "C12b"}
    assert answer["actuator"]["C10"] == {"C10": 1.0, "C12b": 0.0}
    assert answer["misfit"] == 0.01 and answer["unlike_frames"] == []
    name, microscope, knobs, options = calls[0]
    assert (name, microscope, knobs) == ("calibrate", "simulated", ("C10", "C12b"))
    assert (options["frames"], options["tolerance_nm"], options["seed"]) == (7, 0.8, 3)
    assert "jaxcal report" in page.read_text()
    printed = capsys.readouterr().out
    assert "simulated microscope" in printed and "true x0" in printed and "applied" in printed


@pytest.mark.parametrize(("options", "warned"), [
    (("--frames", 4), True), (("--frames", 5), False), (("--frames", 4, "--no-refine"), False)])
def test_a_budget_too_small_to_end_as_tuned_is_warned_of(
        calls, fake_simulation, capsys, options, warned):
    """And taken all the same: what is left of it is an estimate."""
    assert run("calibrate", "--knobs", "C10,C12b", *options) == 0 and len(calls) == 1
    told = capsys.readouterr().err
    assert warned == told.startswith("jaxcal: warning: a budget of 4 frames and one to verify "
                                     "cannot end as tuned: ") and warned == bool(told)


@pytest.mark.parametrize(("seed", "reason", "known"), [(13, "no beam", False),
                                                         (14, "no current", True)])
def test_a_refused_calibration_is_one_line_and_still_written(
        tmp_path, calls, fake_simulation, capsys, seed, reason, known):
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    page.write_text("tuned yesterday")
    assert run("calibrate", "--knobs", "C10,C12b", "--seed", seed, "--json", out, "--report",
               page) == 2
    assert "yesterday" not in page.read_text() and (known or reason in page.read_text())
    told = capsys.readouterr()
    assert told.err.splitlines() == [told.err.strip()] and reason in told.err
    assert "simulated: refused: the microscope failed" in told.err
    answer = json.loads(out.read_text())["simulated"]
    assert answer["verdict"] == "refused" and reason in answer["reason"]
    assert answer.keys() >= {"x0_nm", "sd_nm", "tuned_knobs_nm", "tuned_sd_nm", "frames_used",
                             "rejected_frames", "converged", "message", "seconds"}
    assert set(answer["x0_nm"]) == set(answer["truth_nm"]) == {"C10", "C12b"}
    assert (answer["x0_nm"]["C10"] is not None) == known and answer["seconds"] > 0
    assert ("simulated microscope" in told.out) == known


def test_a_run_is_kept_and_continued(tmp_path, calls, fake_simulation):
    folder = tmp_path / "monday"
    assert run("calibrate", "--run", folder) == 0
    assert run("calibrate", "--run", folder, "--resume") == 0
    assert [(made[3]["run"], made[3]["resume"]) for made in calls] == [
        (folder, False), (folder, True)]


def test_calibrate_a_replay(tmp_path, calls, capsys):
    path = bench(tmp_path, count=5)
    out = tmp_path / "out.json"
    assert run("calibrate", "--microscope", f"replay:{path}", "--json", out) == 0
    assert list(json.loads(out.read_text())) == ["p01.h5"]
    assert "truth_nm" not in json.loads(out.read_text())["p01.h5"]
    assert calls[0][3]["frames"] == 4  # as many as were recorded, one of them to verify
    assert run("calibrate", "--microscope", f"replay:{path}", "--knobs", "C10") == 2
    assert run("calibrate", "--microscope", f"replay:{path}", "--energy-kev", 200) == 2
    errors = capsys.readouterr().err.splitlines()
    assert "cannot end as tuned" in errors[0]
    assert "leave --knobs out" in errors[1] and "leave --energy-kev" in errors[2]


OWN = """
import jaxcal
from beside import KNOBS

class Mine:
    knob_names = KNOBS
    optics = jaxcal.Optics(energy_keV=200.0, semi_angle_mrad=20.0, pixel_mrad=0.19)

    def set(self, knobs_nm):
        pass

    def acquire(self):
        return None

def made():
    return Mine()

ready = Mine()
ready.name = "column"
nothing = {}

def broken():
    raise RuntimeError("the column is off\\nfor today")

class Silent(Mine):
    @property
    def optics(self):
        raise OSError("no answer")
"""


@pytest.fixture
def adapter(tmp_path, monkeypatch):
    """A user's file, and one beside it that it imports."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside.py").write_text('KNOBS = ("C10", "C12a", "C12b")')
    path = tmp_path / "my scope.py"
    path.write_text(OWN)
    return path


def test_an_instrument_of_ones_own_is_tuned_by_the_file_of_its_adapter(adapter, calls, tmp_path):
    out, page = tmp_path / "out.json", tmp_path / "out.html"
    for name, called in (("Mine", "microscope"), ("made", "microscope"), ("ready", "column")):
        assert run("calibrate", "--microscope", f"{adapter}:{name}", "--json", out, "--report",
                   page, "--run", tmp_path / "run") == 0
        entry, = json.loads(out.read_text()).items()
        assert entry[0] == called and set(entry[1]["x0_nm"]) == {"C10", "C12a", "C12b"}
    assert [made[1] for made in calls] == ["microscope", "microscope", "column"]


@pytest.mark.parametrize("command", [["calibrate", "--microscope"], ["check"]])
@pytest.mark.parametrize("name, told", [
    ("other", "has no 'other'; there are KNOBS, Mine, Silent, broken, jaxcal, made, nothing, re"),
    ("Silent", "OSError: no answer; JAXCAL_DEBUG=1"),
    ("nothing", "is no microscope, it has no knob_names, optics, set, acquire"),
    ("broken", "RuntimeError: the column is off; JAXCAL_DEBUG=1"),
])
def test_an_adapter_that_cannot_be_made_is_told(adapter, calls, capsys, command, name, told):
    assert run(*command, f"{adapter}:{name}") == 2
    error, = capsys.readouterr().err.splitlines()
    assert told in error and not calls


def test_a_file_that_holds_no_adapter_is_told(adapter, calls, capsys):
    adapter.write_text("import what_there_is_not")
    assert run("calibrate", "--microscope", f"{adapter}:Mine") == 2
    assert run("calibrate", "--microscope", f"{adapter.parent / 'no.py'}:Mine") == 2
    assert run("check", "simulated") == 2
    for option, value in (("--knobs", "C10"), ("--energy-kev", 300), ("--semi-angle-mrad", 30)):
        assert run("calibrate", "--microscope", f"{adapter}:Mine", option, value) == 2
    assert run("calibrate", "--microscope", f"{adapter}:Mine", "--json", adapter) == 2
    errors = capsys.readouterr().err.splitlines()
    for told, error in zip((
            "ModuleNotFoundError: No module named 'what_there_is_not'", "no.py: there is no such",
            "write FILE.py:NAME", "leave --knobs out", "leave --energy-kev out",
            "leave --semi-angle-mrad out", "is named twice, to be written"), errors, strict=True):
        assert told in error


@pytest.mark.parametrize("passed", [True, False])
def test_the_check_of_an_adapter_says_each_point_and_whether_all_passed(
        adapter, calls, capsys, monkeypatch, passed):
    asked = []

    def conformance(microscope, **options):
        asked.append((type(microscope).__name__, options["beyond_limits"], options["model"]))
        options["progress"]("looking", 0.5)
        return Conformance((Check("a frame can be used", passed, "yes"),), object())

    monkeypatch.setattr("jaxcal.microscopes.check", conformance)
    assert run("check", f"{adapter}:made", "--beyond-limits") == (0 if passed else 2)
    assert asked == [("Mine", True, "model")]
    told = capsys.readouterr()
    assert "a frame can be used: yes" in told.out
    assert ("not ready to be tuned: a frame can be used" in told.err) != passed


def test_simulate_writes_a_series_with_its_truth(tmp_path, fake_simulation, capsys):
    path = tmp_path / "made.h5"
    arguments = ["simulate", path, "--frames", 4, "--seed", 2, "--hidden-range", 50, "--step", 30]
    assert run(*arguments) == 0
    series, truth = read(path), read_truth(path)
    assert series.frames.shape == (4, 256, 256) and not series.knobs_nm[0].any()
    assert np.abs(series.knobs_nm).max() <= 30
    assert len(truth) == 25 and abs(truth["C10"]) <= 50
    assert "4 frames of 256 x 256" in capsys.readouterr().out
    assert run(*arguments, "--no-truth") == 0  # its own simulation may be made anew
    assert read_truth(path) is None


def test_simulate_never_replaces_a_measured_series(tmp_path, fake_simulation, capsys):
    path = bench(tmp_path)
    before = path.read_bytes()
    assert run("simulate", path) == 2
    assert path.read_bytes() == before
    assert "jaxcal replaces only what it simulated" in capsys.readouterr().err


def test_convert_reads_files_and_pipes(tmp_path, capsys, monkeypatch):
    (tmp_path / "ceos.txt").write_text("C1 -3nm\nB2 10 nm / 30 deg\n")
    assert run("convert", tmp_path / "ceos.txt", "--from", "ceos", "--form", "json") == 0
    converted = json.loads(capsys.readouterr().out)
    assert converted["C10"] == pytest.approx(-3.0)
    assert np.hypot(converted["C21a"], converted["C21b"]) == pytest.approx(30.0)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(read=lambda: "O2 5 nm"))
    assert run("convert", "--from", "JEOL", "--to=Nion") == 0
    assert "C10" in capsys.readouterr().out
    (tmp_path / "bad.txt").write_text("C1 -3 parsec\n")
    assert run("convert", tmp_path / "bad.txt", "--from", "ceos") == 2
    (tmp_path / "empty.txt").write_text("\n")
    assert run("convert", tmp_path / "empty.txt", "--from", "ceos") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "bad.txt" in lines[0] and "is empty" in lines[1]


def test_train_hands_over_what_was_given(tmp_path, capsys, monkeypatch):
    asked = []

    def train(config, directory, progress):
        progress("round 1", 0.5)
        asked.append((config, directory))
        return directory / "model.safetensors"

    stub = SimpleNamespace(Config=lambda **options: options, train=train)
    monkeypatch.setitem(sys.modules, "jaxcal.training", stub)
    monkeypatch.setitem(vars(jaxcal), "training", stub)
    assert run("train", tmp_path / "run", "--vae-rounds", 3, "--seed", 5) == 0
    assert asked == [({"seed": 5, "vae_rounds": 3}, tmp_path / "run")]
    assert "--model " in capsys.readouterr().out
    (tmp_path / "file").write_text("")
    assert run("train", tmp_path / "file") == 2
    assert run("train", tmp_path / "run", "--map-rounds", 0) == 2
    lines = capsys.readouterr().err.splitlines()
    assert "is a file" in lines[0] and "--map-rounds should be positive" in lines[1]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    estimate = standins.estimate()
    estimate.x0_nm = np.array([np.nan, 1.0, np.inf])
    results.write(tmp_path / "o.json", {"a": results.entry(estimate)})
    values = json.loads((tmp_path / "o.json").read_text())["a"]["x0_nm"]
    assert values == {"C10": None, "C12a": 1.0, "C12b": None}


def test_json_may_go_to_a_pipe(tmp_path, calls):
    path = bench(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    results.write(pipe, {"p01.h5": 1})
    assert json.loads(reader.communicate(timeout=20)[0]) == {"p01.h5": 1}
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    assert run("estimate", path, "--json", pipe) == 0  # written once, at the end
    assert list(json.loads(reader.communicate(timeout=20)[0])) == ["p01.h5"]


class Stream(io.StringIO):
    def __init__(self, terminal):
        super().__init__()
        self.isatty = lambda: terminal


def test_progress_keeps_quiet_for_two_seconds_then_speaks_now_and_then(monkeypatch):
    clock = iter([0.0, 1.0, 3.0, 4.0, 9.0])
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    stream = Stream(terminal=False)
    with console.Progress("p01.h5", stream) as progress:
        for fraction in (0.1, 0.3, 0.4, 0.9):
            progress("candidates\n of frame 3", fraction)
    lines = stream.getvalue().splitlines()
    assert lines == [
        "p01.h5: 30 % candidates of frame 3 (3 s)",
        "p01.h5: 90 % candidates of frame 3 (9 s)",
    ]


def test_progress_draws_a_bar_in_a_terminal(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = Stream(terminal=True)
    with console.Progress("p01.h5", stream) as progress:
        progress("compiling")
        progress("candidates", 0.5)
        time.sleep(0.15)
    assert "p01.h5" in stream.getvalue()


def jaxcal_command(*arguments):
    code = (
        "import sys; from jaxcal.cli import main\n"
        "try:\n    status = main()\n"
        "except SystemExit as ended:\n    status = ended.code\n"
        "heavy = {'jax', 'numpy', 'matplotlib'} & set(sys.modules)\n"
        "print('LOADED', *sorted(heavy)); sys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["estimate", "--help"], ["calibrate", "--microscope", "x"], ["estimate"],
     ["series", "--help"], ["series", "x.h5", "--table", "t.csv", "--energy-kev", "0"]],
    ids=" ".join,
)  # fmt: skip
def test_help_and_slips_of_the_hand_load_nothing_heavy(arguments):
    assert jaxcal_command(*arguments).stdout.splitlines()[-1] == "LOADED"


def test_a_file_that_is_not_there_costs_no_jax(tmp_path):
    done = jaxcal_command("estimate", tmp_path / "none.h5")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "jax" not in done.stdout.splitlines()[-1].split()


@pytest.mark.parametrize("error, status", [(KeyboardInterrupt(), 130), (TypeError("x"), 1)])
def test_where_the_knobs_were_left_is_said_with_any_error(error, status, capsys):
    def command(arguments):
        error.add_note("the knobs are back where they were")
        raise error

    assert commands.run(command, None) == status
    assert "; the knobs are back where they were" in capsys.readouterr().err
