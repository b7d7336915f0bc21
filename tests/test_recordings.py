"""Frames from the files of the field: what was written is read, and what is wrong is named.

RosettaSciIO writes the .hspy and .tif here; the .dm3, .dm4, .emd, .mrc and .ser are made byte by
byte in `field_files`, as their makers' programs lay them out.
"""

import importlib
import os

import field_files
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcal import SeriesError, recordings
from jaxcal.optics import wavelength_nm

HEIGHT, WIDTH = 66, 80  # not square: an exchange of the axes would show
COUNTS = np.random.default_rng(3).integers(0, 4000, (3, HEIGHT, WIDTH))


@pytest.fixture(scope="module")
def rsciio():
    why = "reads the formats of the field; pip install '.[io]'"
    return pytest.importorskip("rsciio", reason=why)


def signal(frames, scale, unit, metadata=None):
    """What RosettaSciIO writes: frames (N, H, W) or one (H, W) with calibrated axes."""
    names = ("z", "y", "x")[-frames.ndim :]
    axes = [
        {"name": name, "size": size, "scale": 1.0 if name == "z" else scale, "offset": 0.0,
         "units": "" if name == "z" else unit, "navigate": name == "z"}
        for name, size in zip(names, frames.shape, strict=True)
    ]  # fmt: skip
    metadata = {"General": {"title": ""}, "Signal": {"signal_type": ""}, **(metadata or {})}
    return {
        "data": frames, "axes": axes, "metadata": metadata, "original_metadata": {},
        "package_info": {"package": "tests", "package_version": "1"}, "learning_results": {},
        "models": {}, "tmp_parameters": {}, "attributes": {"_lazy": False},
    }  # fmt: skip


def save(path, frames, scale=1.0, unit=""):
    """Write frames in the format of the ending."""
    if path.suffix == ".npy":
        np.save(path, frames)
    elif path.suffix in (".dm3", ".dm4"):
        field_files.dm(path, frames, scale, unit, version=int(path.suffix[-1]))
    elif path.suffix == ".emd":
        field_files.velox(path, [frames], scale, unit or "m")
    elif path.suffix == ".mrc":
        field_files.mrc(path, frames)
    elif path.suffix == ".ser":
        field_files.ser(path, frames)
    else:
        plugin = "hspy" if path.suffix == ".hspy" else "tiff"
        writer = importlib.import_module(f"rsciio.{plugin}").file_writer
        writer(str(path), signal(frames, scale, unit))
    return path


def test_numpy_needs_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(recordings, "import_module", missing("rsciio"))
    path = save(tmp_path / "a.npy", COUNTS.astype(np.uint16))
    recording = recordings.read(path)
    np.testing.assert_array_equal(recording.frames, COUNTS)
    assert recording.frames.dtype == np.uint16
    assert (recording.energy_keV, recording.semi_angle_mrad, recording.pixel_mrad) == (None,) * 3
    np.testing.assert_array_equal(
        recordings.read(save(tmp_path / "one.npy", COUNTS[1])).frames, COUNTS[1:2]
    )


@pytest.mark.parametrize("ending", [ending for ending in recordings.ENDINGS if ending != ".npy"])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "int16"])
def test_every_format_gives_its_counts(tmp_path, rsciio, ending, dtype):
    path = save(tmp_path / f"a{ending}", COUNTS.astype(dtype))
    frames = recordings.read(path).frames
    np.testing.assert_array_equal(frames, COUNTS)
    assert frames.dtype == ("float32" if dtype == "int16" else dtype)


@pytest.mark.parametrize("ending", [".DM4", ".emd", ".hspy", ".mrc", ".tif", ".ser"])
def test_one_frame_is_a_stack_of_one(tmp_path, rsciio, ending):
    one = COUNTS[:1] if ending in (".emd", ".mrc", ".ser") else COUNTS[0]
    path = save(tmp_path / f"a{ending.lower()}", one.astype(np.uint16))
    path = path.rename(path.with_suffix(ending))
    np.testing.assert_array_equal(recordings.read(path).frames, COUNTS[:1])


@pytest.mark.parametrize(
    ("dtype", "largest", "becomes"),
    [
        ("int8", 127, "float32"), ("int16", 2**15 - 1, "float32"), ("int32", 2**24, "float32"),
        ("int32", 2**24 + 1, "float64"), ("int64", 2**40 + 1, "float64"), ("uint8", 255, "uint8"),
        ("uint32", 2**32 - 1, "uint32"), (">u2", 2**16 - 1, "uint16"), (">i2", 300, "float32"),
        ("float16", 2048, "float32"), ("float64", 0.1, "float64"), (">f4", 0.5, "float32"),
    ],
)  # fmt: skip
def test_counts_keep_their_value_whatever_their_type(tmp_path, dtype, largest, becomes):
    frame = np.zeros((HEIGHT, WIDTH), dtype)
    frame[3, 5] = largest
    if frame.dtype.kind != "u":
        frame[7, 2] = -3  # dark-subtracted
    np.save(tmp_path / "a.npy", frame)
    frames = recordings.read(tmp_path / "a.npy").frames
    assert frames.dtype == np.dtype(becomes) and frames.dtype.isnative
    np.testing.assert_array_equal(frames[0].astype(np.float64), frame.astype(np.float64))


@pytest.mark.parametrize(
    ("scale", "unit", "mrad"),
    [
        (0.19, "mrad", 0.19), (1.9e-4, "rad", 0.19), (190.0, "µrad", 0.19),
        (0.01, "deg", np.pi / 18),
        (0.08, "1/nm", 0.08 * 2.5079340), (0.008, "1/Å", 0.08 * 2.5079340),
        (0.008, "A^-1", 0.08 * 2.5079340), (0.08, "$nm^{-1}$", 0.08 * 2.5079340),
        (0.08, "nm⁻¹", 0.08 * 2.5079340), (80.0, "1 / µm", 0.08 * 2.5079340),
        (0.08, "nm", None), (0.08, "", None), (0.08, "1/s", None), (0.08, "px", None),
        (1.0, "1/nm", None),  # never calibrated
    ],
)  # fmt: skip
def test_axes_in_angles_and_reciprocal_lengths(tmp_path, rsciio, scale, unit, mrad):
    tem = {"Acquisition_instrument": {"TEM": {"beam_energy": 200.0, "convergence_angle": 21.4}}}
    from rsciio.hspy import file_writer

    file_writer(str(tmp_path / "a.hspy"), signal(COUNTS[0], scale, unit, tem))
    recording = recordings.read(tmp_path / "a.hspy")
    assert (recording.energy_keV, recording.semi_angle_mrad) == (200.0, 21.4)
    assert recording.pixel_mrad == (None if mrad is None else pytest.approx(mrad, rel=1e-6))


def test_digital_micrograph_and_velox_say_their_energy(tmp_path, rsciio):
    angle = 1e3 * wavelength_nm(200.0) * 0.08
    field_files.dm(tmp_path / "a.dm3", COUNTS.astype(np.int32), 0.08, "1/nm", version=3)
    field_files.velox(tmp_path / "a.emd", [COUNTS.astype(np.uint16)], 0.08e9, "1/m")
    for name, semi_angle in (("a.dm3", None), ("a.emd", pytest.approx(21.4))):
        recording = recordings.read(tmp_path / name)
        assert recording.energy_keV == 200.0
        assert recording.semi_angle_mrad == semi_angle
        assert recording.pixel_mrad == pytest.approx(angle, rel=1e-6)


def test_a_microscope_that_was_not_connected_says_nothing(tmp_path, rsciio):
    field_files.dm(tmp_path / "a.dm4", COUNTS.astype(np.int32), 0.08, "1/nm", voltage=0.0)
    field_files.velox(tmp_path / "a.emd", [COUNTS.astype(np.uint16)], convergence="21.4")
    recording = recordings.read(tmp_path / "a.dm4")
    assert recording.energy_keV is None and recording.pixel_mrad is None
    assert recordings.read(tmp_path / "a.dm4", 200.0).pixel_mrad == pytest.approx(0.2006, rel=1e-3)
    assert recordings.read(tmp_path / "a.emd").semi_angle_mrad is None  # rad it cannot be


def test_pixels_that_are_not_square_have_no_angle(tmp_path, rsciio):
    from rsciio.hspy import file_writer

    stretched = signal(COUNTS[0], 0.19, "mrad")
    stretched["axes"][0]["scale"] = 0.2
    file_writer(str(tmp_path / "a.hspy"), stretched)
    assert recordings.read(tmp_path / "a.hspy").pixel_mrad is None


def test_pages_of_one_shape_are_a_stack(tmp_path, rsciio):
    import tifffile

    for frame in COUNTS:
        tifffile.imwrite(tmp_path / "a.tif", frame.astype(np.uint16), append=True)
    np.testing.assert_array_equal(recordings.read(tmp_path / "a.tif").frames, COUNTS)
    tifffile.imwrite(tmp_path / "a.tif", COUNTS[0, :64].astype(np.uint16), append=True)
    with pytest.raises(SeriesError, match="a.tif: holds 4 data sets of shape 66 x 80, "):
        recordings.read(tmp_path / "a.tif")


def test_images_that_are_not_counts(tmp_path, rsciio):
    import tifffile

    grey = COUNTS[0].astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([grey] * 3, -1), photometric="rgb")
    tifffile.imwrite(
        tmp_path / "planes.tif", np.stack([grey] * 3), photometric="rgb", planarconfig="separate"
    )
    colours = np.zeros((3, 256), np.uint16)
    tifffile.imwrite(tmp_path / "palette.tif", grey, photometric="palette", colormap=colours)
    field_files.dm(tmp_path / "c.dm4", COUNTS[0].astype(np.complex64))
    spectra = signal(COUNTS, 1.0, "")
    spectra["axes"][1]["navigate"] = True
    importlib.import_module("rsciio.hspy").file_writer(str(tmp_path / "s.hspy"), spectra)
    for name, words in (
        ("rgb.tif", "is a colour image"), ("planes.tif", "is a colour image, or a stack of three"),
        ("palette.tif", "is a colour image"), ("c.dm4", "counts, got dtype complex64"),
        ("s.hspy", "holds spectra"),
    ):  # fmt: skip
        with pytest.raises(SeriesError, match=f"{name}: .*{words}"):
            recordings.read(tmp_path / name)


def test_two_images_in_one_velox_file(tmp_path, rsciio):
    """Their order in the file is that of random names: none to count by."""
    field_files.velox(tmp_path / "a.emd", [COUNTS[:1].astype(np.uint16)] * 2)
    with pytest.raises(SeriesError, match="a.emd: holds 2 data sets"):
        recordings.read(tmp_path / "a.emd")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 66, 66)), r"is empty, of shape \(0, 66, 66\); record at least one frame"),
        (np.zeros(66), r"shape \(H, W\) or \(N, H, W\), got \(66,\)"),
        (np.float64(1.0), r"shape \(H, W\) or \(N, H, W\), got \(\)"),
        (np.zeros((2, 2, 66, 66)), r"\(N, H, W\), got \(2, 2, 66, 66\)"),
        (np.zeros((66, 66, 3), np.uint8), r"is a colour image, of shape \(66, 66, 3\)"),
        (np.zeros((66, 66), complex), "counts, got dtype complex128"),
        (np.zeros((66, 66), bool), "counts, got dtype bool"),
        (np.full((66, 66), "x"), "counts, got dtype <U1"),
        (np.array([np.zeros(2), np.zeros(3)], object), "NumPy cannot read it .*one array"),
        (np.full((2, 66, 66), np.nan), "frame 0: 4356 of 4356 pixels are NaN or infinite; leave"),
    ],
)
def test_arrays_that_are_no_frames(tmp_path, array, message):
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(SeriesError, match=f"a.npy: .*{message}") as caught:
        recordings.read(tmp_path / "a.npy")
    assert caught.value.remedy and "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    np.savez(tmp_path / "z.npz", COUNTS)
    os.rename(tmp_path / "z.npz", tmp_path / "z.npy")
    (tmp_path / "folder.dm4").mkdir()
    for name, message in (
        ("none.dm4", "no such file; check the path"),
        ("x" * 300 + ".dm4", "no such file"),
        ("a.jpg", "has the ending '.jpg', one of .npy, .dm3, .* can be read; export"),
        ("z.npy", "holds several arrays; save one"),
        ("folder.dm4", "is a folder"),
    ):
        with pytest.raises(SeriesError, match=f"{name}: {message}"):
            recordings.read(tmp_path / name)


def missing(name):
    def import_module(wanted):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    return import_module


@pytest.mark.parametrize("name", ["rsciio", "rsciio.emd", "tifffile"])
def test_without_rosettasciio_the_remedy_is_one_command(tmp_path, monkeypatch, name):
    monkeypatch.setattr(recordings, "import_module", missing(name))
    (tmp_path / "a.emd").write_bytes(b"")
    remedy = r"needed to read it .*; pip install '\.\[io\]' in jaxcal's folder$"
    with pytest.raises(SeriesError, match=remedy):
        recordings.read(tmp_path / "a.emd")


@pytest.fixture(scope="module")
def whole(rsciio, tmp_path_factory):
    """{ending: bytes} of one good file of each format."""
    folder = tmp_path_factory.mktemp("whole")
    paths = [save(folder / f"a{ending}", COUNTS.astype(np.uint16)) for ending in recordings.ENDINGS]
    return folder, {path.suffix: path.read_bytes() for path in paths}


@settings(max_examples=25)
@given(ending=st.sampled_from(recordings.ENDINGS), share=st.floats(0, 1))
def test_a_file_cut_off_is_an_error_or_whole(whole, ending, share):
    """What a copy stopped half way leaves is never taken for frames that it is not."""
    folder, contents = whole
    path = folder / f"cut{ending}"
    path.write_bytes(contents[ending][: int(share * len(contents[ending]))])
    try:
        frames = recordings.read(path).frames
    except SeriesError as error:
        assert str(error).startswith(str(path)) and error.remedy
    else:
        assert np.array_equal(frames, COUNTS)


@settings(max_examples=25)
@given(ending=st.sampled_from(recordings.ENDINGS), content=st.binary(max_size=400))
def test_bytes_of_any_kind_are_an_error(whole, ending, content):
    path = whole[0] / f"any{ending}"
    path.write_bytes(content)
    with pytest.raises(SeriesError, match="any"):
        recordings.read(path)


def test_rosettasciio_says_nothing_on_the_screen(tmp_path, rsciio, capfd):
    field_files.dm(tmp_path / "a.dm4", COUNTS.astype(np.int32))
    recordings.read(tmp_path / "a.dm4")
    (tmp_path / "bad.ser").write_bytes(b"no")
    with pytest.raises(SeriesError):
        recordings.read(tmp_path / "bad.ser")
    assert capfd.readouterr() == ("", "")
