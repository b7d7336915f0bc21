"""Results in NeXus: the classes, names and units of the definitions, and the numbers in metres.

What is asserted of the definitions (release v2026.01) was copied from their source by hand; beside
it stands the validator of pynxtools, which brings the definitions along.
"""

import subprocess
import sys

import h5py
import numpy as np
import pytest
import standins

from jaxcal import nexus
from jaxcal.aberrations import NAMES
from jaxcal.results import standard_deviation

TABLEAU = "measurement/event1/instrument/ebeam_column/corrector_cs1/tableau1"
NION = set(
    "c_1_0 c_1_2_a c_1_2_b c_2_1_a c_2_1_b c_2_3_a c_2_3_b c_3_0 c_3_2_a c_3_2_b c_3_4_a c_3_4_b "
    "c_4_1_a c_4_1_b c_4_3_a c_4_3_b c_4_5_a c_4_5_b c_5_0 c_5_2_a c_5_2_b c_5_4_a c_5_4_b c_5_6_a "
    "c_5_6_b".split()
)
"""The groups of NXcorrector_cs's tableauID for the model nion."""
CLASSES = {
    "": "NXentry", "measurement": "NXem_measurement", "measurement/event1": "NXem_event_data",
    "measurement/event1/instrument": "NXem_instrument",
    "measurement/event1/instrument/optics": "NXem_optical_system",
    "measurement/event1/instrument/ebeam_column": "NXebeam_column",
    "measurement/event1/instrument/ebeam_column/electron_source": "NXsource",
    "measurement/event1/instrument/ebeam_column/corrector_cs1": "NXcorrector_cs",
    TABLEAU: "NXprocess", f"{TABLEAU}/c_1_0": "NXaberration",
    f"{TABLEAU}/c_1_2_a": "NXaberration", f"{TABLEAU}/c_1_2_b": "NXaberration",
    "tuned_knobs": "NXdata", "jaxcal": "NXcollection",
}  # fmt: skip


def written(path, estimates):
    nexus.write(path, {name: (made, standins.optics()) for name, made in estimates.items()})
    return h5py.File(path)


def text(dataset):
    return dataset.asstr()[()]


def test_every_group_has_its_class(tmp_path):
    with written(tmp_path / "a.nxs", {"p01.h5": standins.estimate()}) as file:
        assert file.attrs["NX_class"] == "NXroot" and file.attrs["default"] == "p01.h5"
        entry = file["p01.h5"]
        found = {"": entry.attrs["NX_class"]}
        entry.visititems(lambda name, item: found.update(
            {name: item.attrs["NX_class"]} if isinstance(item, h5py.Group) else {}))  # fmt: skip
        assert found == CLASSES


def test_the_numbers_are_in_metres_with_their_deviations(tmp_path):
    made = standins.estimate(rejected=((2, "blank"),))
    with written(tmp_path / "a.nxs", {"p01.h5": made}) as file:
        tableau = file["p01.h5"][TABLEAU]
        assert text(tableau["model"]) == "nion"
        spread = standard_deviation(made.covariance_nm2)
        for knob, name, value, error in zip(
            made.knob_names, ("c_1_0", "c_1_2_a", "c_1_2_b"), made.x0_nm, spread, strict=True
        ):
            aberration = tableau[name]
            assert aberration["magnitude"][()] == pytest.approx(1e-9 * value, rel=1e-12)
            assert aberration["magnitude_errors"][()] == pytest.approx(1e-9 * error, rel=1e-12)
            assert aberration["magnitude"].attrs["units"] == "m"
            assert aberration["magnitude_errors"].attrs["units"] == "m"
            assert text(aberration["name"]) == knob
            assert "standard deviation" in text(aberration["magnitude_errors_model"])
        notes = file["p01.h5/jaxcal"]
        assert (notes["frames_used"][()], list(notes["rejected_frames"])) == (5, [2])
        assert notes["converged"][()] and text(notes["message"]) == made.message


def test_a_closed_loop_says_how_it_ended(tmp_path):
    run = standins.calibration()
    nexus.write(tmp_path / "a.nxs", {"simulated": (run.estimate, standins.optics())},
                {"simulated": run})
    with h5py.File(tmp_path / "a.nxs") as file:
        notes = file["simulated/jaxcal"]
        assert (text(notes["verdict"]), text(notes["reason"])) == (run.verdict, run.reason)
        assert list(notes["knob"].asstr()) == list(run.knob_names)
        np.testing.assert_allclose(notes["applied_knobs"], 1e-9 * run.applied_knobs_nm)
        np.testing.assert_allclose(notes["limits"], 1e-9 * run.limits_nm)
        assert {notes[name].attrs["units"] for name in ("limits", "applied_knobs")} == {"m"}
        assert TABLEAU in file["simulated"] and "tuned_knobs" in file["simulated"]


def test_a_closed_loop_without_an_estimate_says_why(tmp_path):
    run = standins.calibration()
    run.verdict, run.reason, run.applied_knobs_nm = "refused", "the camera is off\0", None
    nexus.write(tmp_path / "a.nxs", {"bench": (None, standins.optics())}, {"bench": run})
    with h5py.File(tmp_path / "a.nxs") as file:
        notes = file["bench/jaxcal"]
        assert (text(notes["verdict"]), text(notes["reason"])) == ("refused", "the camera is off")
        assert np.all(np.isnan(notes["applied_knobs"]))
        assert "tuned_knobs" not in file["bench"] and TABLEAU not in file["bench"]
        assert file["bench/measurement/event1/instrument/optics/semi_convergence_angle"][()] > 0


UNKNOWN_TO_JAXCAL = {
    f"WARNING: The required {kind} /bench/{name} hasn't been supplied."
    for kind, name in (
        ("group", "measurement/instrument"), ("group", "sampleID"), ("field", "start_time"))
}  # fmt: skip


def complaints(path, spoil=lambda tableau: None):
    """What the validator says against a file that would call itself NXem."""
    with h5py.File(path, "a") as file:
        file["bench/definition"] = "NXem"
        spoil(file["bench"][TABLEAU])
    code = ("import sys; from pynxtools.dataconverter.validate_file import validate; "
            "validate(sys.argv[1])")  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True,
                          check=True, timeout=120)  # fmt: skip
    said = (done.stdout + done.stderr).splitlines()
    return {line for line in said if line.startswith("WARN") and "is NOT valid" not in line}


@pytest.mark.parametrize("names", [("C10", "C12a", "C12b"), NAMES], ids=["three", "all"])
def test_a_validator_misses_only_what_jaxcal_does_not_know(tmp_path, names):
    run, made = standins.calibration(), standins.estimate(names=names)
    nexus.write(tmp_path / "a.nxs", {"bench": (made, standins.optics())}, {"bench": run})
    assert complaints(tmp_path / "a.nxs") == UNKNOWN_TO_JAXCAL


def test_the_validator_would_see_a_wrong_model_and_a_wrong_name(tmp_path):
    def spoil(tableau):
        tableau["model"][()] = "krivanek"
        tableau.move("c_1_0", "c_1_7")

    nexus.write(tmp_path / "a.nxs", {"bench": (standins.estimate(), standins.optics())})
    said = complaints(tmp_path / "a.nxs", spoil) - UNKNOWN_TO_JAXCAL
    assert any("krivanek" in message for message in said)
    assert any("c_1_7" in message for message in said)


def test_the_default_plot_is_the_setting_that_tunes(tmp_path):
    """What a NeXus viewer follows from the root: default, default, signal, axes, errors."""
    made = standins.estimate()
    with written(tmp_path / "a.nxs", {"p01.h5": made}) as file:
        data = file[file.attrs["default"]]
        data = data[data.attrs["default"]]
        signal = data[data.attrs["signal"]]
        np.testing.assert_allclose(signal, 1e-9 * made.tuned_knobs_nm)
        np.testing.assert_allclose(
            data[f"{data.attrs['signal']}_errors"],
            1e-9 * standard_deviation(made.tuned_covariance_nm2),
        )
        assert list(data[data.attrs["axes"][0]].asstr()) == ["C10", "C12a", "C12b"]
        assert signal.attrs["units"] == "m"


def test_the_optics_are_in_volts_and_radians(tmp_path):
    with written(tmp_path / "a.nxs", {"p01.h5": standins.estimate()}) as file:
        instrument = file["p01.h5/measurement/event1/instrument"]
        voltage = instrument["ebeam_column/electron_source/voltage"]
        angle = instrument["optics/semi_convergence_angle"]
        assert (voltage[()], voltage.attrs["units"]) == (200e3, "V")
        assert (angle[()], angle.attrs["units"]) == (pytest.approx(0.02), "rad")


def test_every_coefficient_has_the_name_of_the_definitions(tmp_path):
    assert {nexus.coefficient_name(name) for name in NAMES} == NION
    with written(tmp_path / "a.nxs", {"all": standins.estimate(names=NAMES)}) as file:
        tableau = file["all"][TABLEAU]
        assert {name for name, item in tableau.items() if isinstance(item, h5py.Group)} == NION
        assert text(tableau["c_2_3_b/alias"]) == "threefold astigmatism"


def test_names_of_files_become_names_of_nexus(tmp_path):
    names = ["p 01.h5", "p_01.h5", "../ä.h5", "..", "\udce4.h5"]
    with written(tmp_path / "a.nxs", {name: standins.estimate() for name in names}) as file:
        assert set(file) == {"p_01.h5", "p_01.h5_2", "__.h5", "entry", "_.h5"}
        assert text(file["p_01.h5/title"]) == "p 01.h5"
        assert text(file["p_01.h5_2/title"]) == "p_01.h5"


def test_what_is_not_known_is_nan_and_an_old_file_survives(tmp_path):
    path = tmp_path / "a.nxs"
    made = standins.estimate()
    made.x0_nm = np.array([np.nan, 1.0, 2.0])
    with written(path, {"a": made}) as file:
        assert np.isnan(file["a"][TABLEAU]["c_1_0/magnitude"][()])
    before = path.read_bytes()
    made.knob_names = ("C10", "C12a")  # one short of the values
    with pytest.raises(ValueError):
        written(path, {"a": made})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
