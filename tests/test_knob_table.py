"""Tables of knob settings: read as they were meant, or refused with the line and the remedy."""

import csv
import io

import field_files
import numpy as np
import pytest
import standins
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcal import SeriesError, knob_table, read_series
from jaxcal.aberrations import NAMES
from jaxcal.cli import main
from jaxcal.optics import wavelength_nm

SIDE = 64
OPTICS = {"energy_keV": 200.0, "semi_angle_mrad": 20.0, "pixel_mrad": 20 / (0.42 * SIDE)}
FRAMES = standins.frames(4, SIDE)


@pytest.fixture
def folder(tmp_path):
    for number, frame in enumerate(FRAMES):
        np.save(tmp_path / f"f{number}.npy", frame)
    np.save(tmp_path / "stack.npy", FRAMES)
    return tmp_path


def table(folder, text, encoding="utf-8"):
    (folder / "knobs.csv").write_bytes(text.encode(encoding))
    return knob_table.read(folder / "knobs.csv")


def assemble(folder, text, **optics):
    return knob_table.assemble(table(folder, text), "a.h5", **{**OPTICS, **optics})


def test_single_files_and_stacks(folder):
    series, remarks = assemble(
        folder,
        "file,frame,C10 (nm),C12a [um]\nf1.npy,,0,0\nstack.npy,3,50,-0.02\nf0.npy,0,-5,1e-3\n",
    )
    np.testing.assert_array_equal(series.frames, FRAMES[[1, 3, 0]])
    np.testing.assert_allclose(series.knobs_nm, [[0, 0], [50, -20], [-5, 1]], rtol=1e-15)
    assert (series.knob_names, series.name, remarks) == (("C10", "C12a"), "a.h5", ())
    assert (series.optics.energy_keV, series.optics.pixel_mrad) == (200.0, OPTICS["pixel_mrad"])
    series, _ = assemble(folder, "C10,file\n7,stack.npy:2\n-7,stack.npy:0\n")
    np.testing.assert_array_equal(series.frames, FRAMES[[2, 0]])
    assert series.knobs_nm.tolist() == [[7.0], [-7.0]]


@pytest.mark.parametrize(
    ("unit", "nm"), [("pm", 1e-3), ("nm", 1), ("um", 1e3), ("µm", 1e3), ("μm", 1e3), ("mm", 1e6),
                     ("m", 1e9), ("Å", 0.1), ("\u212b", 0.1), ("A", 0.1)]
)  # fmt: skip
@pytest.mark.parametrize("heading", ["C10 ({})", "C10 [{}]", "C10({})", "C10  [ {} ]"])
def test_units_of_the_heading(folder, heading, unit, nm):
    rows = table(folder, f"file,{heading.format(unit)}\na.tif,2.5\n").rows
    assert rows[0].knobs_nm[0] == pytest.approx(2.5 * nm, rel=1e-15)


def test_files_lie_beside_the_table(folder, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    series, _ = assemble(folder, f"file,C10\nf0.npy,0\n{folder / 'f1.npy'},1\n")
    np.testing.assert_array_equal(series.frames, FRAMES[:2])


def test_spreadsheets_of_all_countries(folder):
    plain = table(folder, "file,C10,C12a\na b.tif,1.5,-2\nc.tif,0,1000\n")
    for text in (
        "file;C10;C12a\na b.tif;1,5;-2\nc.tif;0;1000\n",
        "file\tC10\tC12a\na b.tif\t1.5\t−2\nc.tif\t0\t1e3\n",
        '"file","C10","C12a"\r\n"a b.tif","1.5","-2.0"\r\nc.tif,0,+1000.\r\n',
        "\ufeffFile,C10 (nm),C12a,,\n\na b.tif , 1.5 ,-2,,\n,,,,\nc.tif,0,1000\n\n",
    ):
        other = table(folder, text)
        assert other.knob_names == plain.knob_names
        assert [row[1:] for row in other.rows] == [row[1:] for row in plain.rows]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; write a heading"),
        ("\n \n", "is empty"),
        ("file,C10\n", "names no frame"),
        ("C10,C12a\n1,2\n", "has no column 'file', its heading is C10, C12a"),
        ("file\na.tif\n", "has no column of a knob"),
        ("file,C10,file\na,1,b\n", "has two columns 'file'"),
        ("file,C99\na.tif,1\n", "unknown knob 'C99'"),
        ("file,C12\na.tif,1\n", "unknown knob 'C12'.*C12a or C12b"),
        ("file,defocus\na.tif,1\n", "unknown knob 'defocus'"),
        ("file,C10,C10\na.tif,1,2\n", "C10 is named twice"),
        ("file,C10,C10 (um)\na.tif,1,2\n", "C10 is named twice"),
        ("file,C10 (parsec)\na.tif,1\n", "unknown unit 'parsec' in the heading 'C10 .parsec.'"),
        ("file,C10 ()\na.tif,1\n", "unknown unit ''"),
        ("file,C10 nm\na.tif,1\n", "cannot read the heading 'C10 nm'; write a knob and its unit"),
        ("file,,C10\na.tif,,1\n", "cannot read the heading ''"),
        ("file,C10,C12a\na.tif,1\n", "line 2 has 2 cells, the heading has 3"),
        ("file,C10\na.tif,1,2\n", "line 2 has 3 cells, the heading has 2"),
        ("file,C10\na.tif,1\n,2\n", "line 3 names no file"),
        ("file,C10\na.tif,\n", "line 2: the setting of C10 should be a number, got ''"),
        ("file,C10\na.tif,1 nm\n", "got '1 nm'; write it as 12.5, its unit in the heading"),
        ("file,C10\na.tif,nan\n", "should be a number, got 'nan'"),
        ("file,C10\na.tif,1_0\n", "should be a number, got '1_0'"),
        ("file,C10\na.tif,1e999\n", "should be a number, got '1e999'"),
        ("file;C10\na.tif;1.234,5\n", "should be a number, got '1.234,5'"),
        ("file\tC10\na.tif\t1,234\n", "should be a number, got '1,234'"),
        ('file,C10\na.tif,"1,5"\n', "should be a number, got '1,5'"),
        ("file,frame,C10\na.tif,x,1\n", "line 2: the frame should be a whole number, got 'x'"),
        ("file,frame,C10\na.tif,-1,1\n", "should be a whole number, got '-1'"),
        ("file,frame,C10\na.tif:3,3,1\n", "says twice which frame it means"),
        ("file,C10\na\0.tif,1\n", "line 2 names no file|line contains NUL"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(folder, text, message):
    with pytest.raises(SeriesError, match=f"knobs.csv: .*({message})") as caught:
        table(folder, text)
    assert caught.value.remedy and "\n" not in str(caught.value)


def test_tables_that_are_no_text(folder):
    with pytest.raises(SeriesError, match="is not text in UTF-8; save it as CSV in UTF-8"):
        table(folder, "file,C10 (µm)\na.tif,1\n", "utf-16")
    with pytest.raises(SeriesError, match=r"none\.csv: no such file"):
        knob_table.read(folder / "none.csv")
    with pytest.raises(SeriesError, match="is a folder"):
        knob_table.read(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,C10\nnone.npy,1\n", "none.npy: no such file"),
        ("file,C10\nstack.npy,1\n", "holds 4 frames, line 2 .* not say which; write stack.npy:0"),
        ("file,C10\nstack.npy:4,1\n", "holds 4 frames, line 2 .* asks for number 4; count from 0"),
        ("file,C10\nf0.npy:1,1\n", "holds 1 frames, line 2 .* asks for number 1"),
        ("file,C10\nf0.npy,1\nwide.npy,1\n", "wide.npy: frames of 64 x 70 .* f0.npy have 64 x 64"),
        ("file,C10\nf0.npy,1\nf0.npy:0,2\n", "f0.npy: line 3 .* names the frame of line 2 again"),
        ("file,C10\nsmall.npy,1\n", "8 x 8 pixels are too small"),
    ],
)
def test_files_that_do_not_fit_the_table(folder, text, message):
    np.save(folder / "wide.npy", np.zeros((64, 70)))
    np.save(folder / "small.npy", np.zeros((8, 8)))
    with pytest.raises(SeriesError, match=message):
        assemble(folder, text)


@pytest.mark.parametrize(
    ("item", "option"),
    [("energy_keV", "--energy-kev"), ("semi_angle_mrad", "--semi-angle-mrad"),
     ("pixel_mrad", "--pixel-mrad")],
)  # fmt: skip
def test_what_no_file_says_is_asked_for(folder, item, option):
    with pytest.raises(SeriesError, match=f"no file says .*; give it with {option}$"):
        assemble(folder, "file,C10\nf0.npy,0\n", **{item: None})


def test_optics_that_cannot_be(folder):
    with pytest.raises(SeriesError, match="within 30 to 300 keV, got 500"):
        assemble(folder, "file,C10\nf0.npy,0\n", energy_keV=500.0, pixel_mrad=None)
    with pytest.raises(SeriesError, match="not in rad"):
        assemble(folder, "file,C10\nf0.npy,0\n", semi_angle_mrad=0.02)


@pytest.fixture
def velox(tmp_path):
    """Two Velox files of one setting, and three of another pixel, energy and semi-angle."""
    pytest.importorskip("rsciio", reason="reads Velox files; pip install '.[io]'")
    counts = FRAMES.astype(np.uint16)
    per_metre = 1e-3 * OPTICS["pixel_mrad"] / 2.5079340e-12
    field_files.velox(tmp_path / "a.emd", [counts[:1]], per_metre, convergence="0.020")
    field_files.velox(tmp_path / "b.emd", [counts[1:]], per_metre, convergence="0.0201")
    field_files.velox(tmp_path / "far.emd", [counts[:1]], 1.1 * per_metre, convergence="0.020")
    field_files.velox(tmp_path / "wide.emd", [counts[:1]], per_metre, convergence="0.025")
    field_files.dm(tmp_path / "low.dm4", counts[0].astype(np.int32), 0.1, "1/nm", voltage=80e3)
    return tmp_path


def test_the_files_say_what_the_optics_are(velox):
    two = "file,C10\na.emd,0\nb.emd:2,5\n"
    series, remarks = knob_table.assemble(table(velox, two))
    np.testing.assert_array_equal(series.frames, FRAMES[[0, 3]])
    assert series.optics.energy_keV == 200.0
    assert series.optics.semi_angle_mrad == pytest.approx(20.0)
    assert series.optics.pixel_mrad == pytest.approx(OPTICS["pixel_mrad"], rel=1e-6)
    assert remarks == ()


def test_what_was_given_counts_more_than_the_files(velox):
    made = table(velox, "file,C10\na.emd,0\nb.emd:2,5\n")
    series, remarks = knob_table.assemble(made, semi_angle_mrad=22.0)
    assert series.optics.semi_angle_mrad == 22.0
    assert remarks == ("--semi-angle-mrad is 22, the files say 20; 22 is used",)
    assert knob_table.assemble(made, semi_angle_mrad=20.9)[1] == ()  # within 5 %


def test_the_energy_given_turns_reciprocal_pixels_into_angles(velox):
    series, remarks = knob_table.assemble(table(velox, "file,C10\na.emd,0\n"), energy_keV=185.0)
    longer = wavelength_nm(185.0) / wavelength_nm(200.0)
    assert series.optics.pixel_mrad == pytest.approx(OPTICS["pixel_mrad"] * longer, rel=1e-6)
    assert remarks == ("--energy-kev is 185, the files say 200; 185 is used",)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("far.emd", "far.emd: says the angle of one pixel is .* mrad, a.emd says .*; join frames"),
        ("wide.emd", "wide.emd: says the convergence semi-angle is 25 mrad, a.emd says 20 mrad"),
        ("low.dm4", "low.dm4: says the beam energy is 80 keV, a.emd says 200 keV"),
    ],
)
def test_files_of_different_optics_do_not_make_a_series(velox, other, message):
    made = table(velox, f"file,C10\na.emd,0\n{other},5\n")
    with pytest.raises(SeriesError, match=message):
        knob_table.assemble(made)
    with pytest.raises(SeriesError, match=message):  # both cannot be what was given
        knob_table.assemble(made, **OPTICS)


CELL = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: float(f"{value:.9g}"))


@settings(max_examples=150)
@given(data=st.data())
def test_what_a_spreadsheet_writes_is_read(tmp_path_factory, data):
    """Any knobs, order of columns, separator, quotes, line ends and units."""
    folder = tmp_path_factory.getbasetemp()
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    units = [data.draw(st.sampled_from(["", " (nm)", " [um]", "(Å)"])) for _ in names]
    scale = [{"": 1, " (nm)": 1, " [um]": 1e3, "(Å)": 0.1}[unit] for unit in units]
    rows = data.draw(st.lists(st.tuples(*[CELL] * len(names)), min_size=1, max_size=5))
    separator = data.draw(st.sampled_from(",;\t"))
    comma = separator == ";" and data.draw(st.booleans())
    place = data.draw(st.integers(0, len(names)))
    text = io.StringIO()
    writer = csv.writer(
        text,
        delimiter=separator,
        quoting=data.draw(st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL])),
        lineterminator=data.draw(st.sampled_from(["\n", "\r\n"])),
    )
    for number, cells in enumerate([names, *rows]):
        if number == 0:
            cells = [name + unit for name, unit in zip(names, units, strict=True)]
            cells.insert(place, "file")
        else:
            cells = [repr(cell).replace(".", "," if comma else ".") for cell in cells]
            cells.insert(place, f"frame, {number}.tif:{number}")
        writer.writerow(cells)
    read = table(folder, text.getvalue())
    assert read.knob_names == tuple(names)
    assert [row.frame for row in read.rows] == list(range(1, len(rows) + 1))
    assert [row.file.name for row in read.rows] == [
        f"frame, {number}.tif" for number in range(1, len(rows) + 1)
    ]
    np.testing.assert_allclose([row.knobs_nm for row in read.rows], np.multiply(rows, scale))


GOOD = "file,frame,C10 (nm),C12a\nf0.npy,,0,0\nstack.npy,1,50,-3.5\nf2.npy,,-20,1e2\n"


@st.composite
def mutated(draw):
    """A good table with a few characters deleted, doubled, exchanged or put in."""
    text = GOOD
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 3)))
        put = draw(st.one_of(
            st.sampled_from(["", *',;\t\n":0-e\0', "nan", "C10"]),
            st.text(max_size=3), st.just(2 * text[start:stop])))  # fmt: skip
        text = text[:start] + put + text[stop:]
    return text


@settings(max_examples=200)
@given(text=mutated())
def test_a_mutated_table_is_read_or_refused(tmp_path_factory, text):
    """No table leads to anything but frames with finite settings, or one clear line."""
    folder = tmp_path_factory.getbasetemp() / "mutated"
    folder.mkdir(exist_ok=True)
    for number, frame in enumerate(FRAMES):
        np.save(folder / f"f{number}.npy", frame)
    np.save(folder / "stack.npy", FRAMES)
    try:
        series, _ = knob_table.assemble(
            table(folder, text.encode("utf-8", "replace").decode()), **OPTICS
        )
    except SeriesError as error:
        assert error.remedy and str(error).startswith(str(folder))
        return
    # What was read is what an honest reader finds: as many frames as lines with something in them.
    lines = [line for line in text.splitlines() if line.strip(' ,;\t"')]
    assert len(series) <= len(lines) - 1
    assert set(series.knob_names) <= set(NAMES) and np.isfinite(series.knobs_nm).all()
    for frame in series.frames:
        assert any(np.array_equal(frame, known) for known in FRAMES)


def command(*arguments):
    return main([str(argument) for argument in arguments])


def given_optics():
    return ["--energy-kev", 200, "--semi-angle-mrad", 20, "--pixel-mrad", OPTICS["pixel_mrad"]]


def test_the_command_writes_a_series(folder, capsys):
    (folder / "knobs.csv").write_text(GOOD)
    out = folder / "out.h5"
    arguments = ["series", out, "--table", folder / "knobs.csv", *given_optics()]
    assert command(*arguments) == 0
    printed = capsys.readouterr()
    assert "3 frames of 64 x 64 pixels, knobs C10, C12a" in printed.out and printed.err == ""
    series = read_series(out)
    np.testing.assert_array_equal(series.frames, FRAMES[:3])
    assert series.knobs_nm.tolist() == [[0, 0], [50, -3.5], [-20, 100]]
    before = out.read_bytes()
    assert command(*arguments) == 2  # a measured series is not lost to a slip of the hand
    assert "jaxcal replaces only what it simulated" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_the_command_warns_where_option_and_files_differ(velox, capsys):
    (velox / "knobs.csv").write_text("file,C10\na.emd,0\n")
    arguments = ["series", velox / "o.h5", "--table", velox / "knobs.csv"]
    assert command(*arguments, "--semi-angle-mrad", 22) == 0
    error = capsys.readouterr().err
    assert error == "jaxcal: warning: --semi-angle-mrad is 22, the files say 20; 22 is used\n"


@pytest.mark.parametrize(
    ("text", "extra", "words"),
    [
        ("file,C10\nf0.npy,x\n", [], "knobs.csv: line 2: the setting of C10 should be a number"),
        ("file,C10\nnone.npy,1\n", [], "none.npy: no such file"),
        ("file,C10\nf0.npy,1\n", ["--pixel-mrad", "0"], "--pixel-mrad should be positive, got 0"),
        ("file,C10\nf0.npy,1\n", ["--pixel-mrad", "0.1"], "would be 400 pixels wide"),
    ],
)
def test_the_command_ends_with_one_line_and_status_2(folder, capsys, text, extra, words):
    (folder / "knobs.csv").write_text(text)
    out = folder / "out.h5"
    assert command("series", out, "--table", folder / "knobs.csv", *given_optics(), *extra) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and "Traceback" not in error
    assert not out.exists()
