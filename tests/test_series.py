"""The series file: what is written is read, and each thing that can be wrong has its message."""

import h5py
import numpy as np
import pytest
import standins

from jaxcal import Optics, Series, SeriesError, read_series, write_series
from jaxcal.files import replacing, write_text
from jaxcal.series import is_simulated, read_truth
from jaxcal.series_checks import SMALLEST_FRAME


@pytest.fixture
def path(tmp_path):
    write_series(tmp_path / "bench.h5", standins.series())
    return tmp_path / "bench.h5"


def edit(path, change):
    with h5py.File(path, "r+") as file:
        change(file)


def replace(name, data):
    def change(file):
        del file[name]
        file[name] = data

    return change


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "float32", "float64"])
def test_what_is_written_is_read(tmp_path, dtype):
    made = standins.series()
    series = Series(made.frames.astype(dtype), made.knobs_nm, made.knob_names, made.optics)
    write_series(tmp_path / "a.h5", series)
    back = read_series(tmp_path / "a.h5")
    np.testing.assert_array_equal(back.frames, series.frames)
    np.testing.assert_array_equal(back.knobs_nm, series.knobs_nm)
    assert back.frames.dtype == np.dtype(dtype)
    assert back.knobs_nm.dtype == np.float64
    assert (back.knob_names, back.optics, back.name) == (series.knob_names, series.optics, "a.h5")


def test_layout_is_the_one_others_rely_on(path):
    with h5py.File(path) as file:
        assert file["frames"].ndim == 3 and file["knobs"].dtype == np.float64
        assert list(file.attrs["knob_names"]) == ["C10", "C12a", "C12b"]
        assert {"energy_keV", "semi_angle_mrad", "pixel_mrad"} <= set(file.attrs)


def test_truth_travels_along_and_is_optional(tmp_path, path):
    write_series(tmp_path / "s.h5", standins.series(), truth_nm={"C10": 3.5, "C30": -2e3})
    assert read_truth(tmp_path / "s.h5") == {"C10": 3.5, "C30": -2e3}
    assert read_truth(path) is None


def test_mark_of_a_simulation(tmp_path, path):
    write_series(tmp_path / "s.h5", standins.series(), simulated=True)
    assert is_simulated(tmp_path / "s.h5")
    assert not is_simulated(path)
    assert not is_simulated(tmp_path / "none.h5")


@pytest.mark.parametrize(
    "names",
    [np.array([b"C10", b"C12a", b"C12b"]), "C10,C12a,C12b", "C10, C12a, C12b"],
    ids=["bytes", "one string", "one string with blanks"],
)
def test_names_are_understood_in_the_forms_programs_write(path, names):
    edit(path, attribute("knob_names", names))
    assert read_series(path).knob_names == ("C10", "C12a", "C12b")


def test_one_element_arrays_pass_as_numbers(path):
    edit(path, attribute("energy_keV", np.array([300.0])))
    assert read_series(path).optics.energy_keV == 300.0


def test_frames_need_not_be_square():
    made = standins.series()
    wide = np.pad(made.frames, [(0, 0), (0, 0), (5, 7)])
    assert Series(wide, made.knobs_nm, made.knob_names, made.optics).frames.shape == wide.shape


def test_first_and_select():
    made = standins.series(5)
    assert len(made.first(3)) == 3 and len(made.first(99)) == 5
    np.testing.assert_array_equal(made.select([4, 0]).knobs_nm, made.knobs_nm[[4, 0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.__delitem__("frames"), "has no dataset 'frames', it holds knobs; add it"),
        (lambda f: f.__delitem__("knobs"), "has no dataset 'knobs'"),
        (lambda f: f.attrs.__delitem__("energy_keV"), "has no attribute 'energy_keV'"),
        (lambda f: f.attrs.__delitem__("knob_names"), "has no attribute 'knob_names'"),
        (attribute("energy_keV", "high"), "'energy_keV' should be one number, got .*high"),
        (attribute("energy_keV", [1.0, 2.0]), "'energy_keV' should be one number"),
        (attribute("energy_keV", np.nan), "'energy_keV' should be finite and positive, got nan"),
        (attribute("energy_keV", -200.0), "'energy_keV' should be finite and positive, got -200"),
        (attribute("energy_keV", 200e3), "within 30 to 300 keV, got 200000; .*not 200000"),
        (attribute("energy_keV", 20.0), "within 30 to 300 keV, got 20"),
        (attribute("semi_angle_mrad", np.inf), "'semi_angle_mrad' should be finite"),
        (attribute("semi_angle_mrad", 0.02), "semi_angle_mrad must lie .* not in rad"),
        (attribute("pixel_mrad", 0.0), "'pixel_mrad' should be finite and positive"),
        (attribute("pixel_mrad", 0.1), "would be 400 pixels wide .* the frames are 96 x 96"),
        (attribute("knob_names", ["C10", "C12a", "C99"]), "unknown knob name 'C99'"),
        (attribute("knob_names", ["C10", "C12", "C23a"]), "unknown knob name 'C12'.*C12a or C12b"),
        (attribute("knob_names", ["C10", "C12a", "C10"]), "knob C10 is named twice"),
        (attribute("knob_names", ["C10", "C12a"]), r"knobs should have shape \(5, 2\)"),
        (attribute("knob_names", ""), "names no knob"),
        (replace("knobs", np.zeros((4, 3))), r"should have shape \(5, 3\).*got \(4, 3\)"),
        (replace("knobs", np.zeros(5)), r"should have shape \(5, 3\).*got \(5,\)"),
        (replace("knobs", np.full((5, 3), np.nan)), "frame 0: the setting of knob C10 is nan"),
        (replace("knobs", np.full((5, 3), b"x")), "knobs should be numbers"),
        (replace("frames", np.zeros((0, 96, 96))), "holds zero frames"),
        (replace("frames", np.zeros((96, 96))), r"should have shape \(T, H, W\), got \(96, 96\)"),
        (replace("frames", np.zeros((5, 8, 96))), f"8 x 96 pixels are too small.*{SMALLEST_FRAME}"),
        (replace("frames", np.zeros((5, 96, 96), complex)), "float counts, got dtype complex128"),
        (replace("frames", np.zeros((5, 96, 96), bool)), "float counts, got dtype bool"),
        (lambda f: (f.__delitem__("frames"), f.create_group("frames")), "'frames' is a group"),
        (lambda f: (f.__delitem__("knobs"), f.__setitem__("knobs", h5py.SoftLink("/gone"))),
         "has no dataset 'knobs'|HDF5 cannot read it"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(path, change, message):
    edit(path, change)
    with pytest.raises(SeriesError, match=f"bench.h5: {message}|bench.h5: .*{message}") as caught:
        read_series(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_frame_that_is_not_finite_is_named(path, value):
    frames = standins.frames(5)
    frames[3, 10:12, 7] = value
    edit(path, replace("frames", frames))
    with pytest.raises(SeriesError, match="frame 3: 2 of 9216 pixels are NaN or infinite; leave"):
        read_series(path)


def test_files_that_are_no_series(tmp_path):
    with pytest.raises(SeriesError, match=r"none\.h5: no such file; check the path"):
        read_series(tmp_path / "none.h5")
    with pytest.raises(SeriesError, match="is a folder"):
        read_series(tmp_path)
    for name, content in (("text.h5", b"not HDF5"), ("empty.h5", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SeriesError, match=f"{name}: is not an HDF5 file"):
            read_series(tmp_path / name)


def test_a_file_cut_off_is_an_error_not_a_crash(path):
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(SeriesError, match="HDF5 cannot read it"):
        read_series(path)


def test_a_series_made_in_memory_is_checked_too():
    made = standins.series()
    with pytest.raises(SeriesError, match=r"^frames should have shape"):
        Series(made.frames[0], made.knobs_nm, made.knob_names, made.optics)
    with pytest.raises(SeriesError, match="one string 'C10'"):
        Series(made.frames, made.knobs_nm[:, :1], "C10", made.optics)
    with pytest.raises(SeriesError, match="would be 400 pixels wide"):
        Series(made.frames, made.knobs_nm, made.knob_names, Optics(200.0, 20.0, 0.1))


def test_replacing_keeps_the_old_file_when_writing_fails(tmp_path):
    path = tmp_path / "out.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), replacing(path) as scratch:
        scratch.write_text("ne")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_follows_links_and_keeps_the_mode(tmp_path):
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "real.json").chmod(0o640)
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    write_text(tmp_path / "link.json", "new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"
    assert (tmp_path / "real.json").stat().st_mode & 0o777 == 0o640
