"""A calibration series from loose files and a table of the knob settings.

    file,frame,C10 (nm),C12a (nm)
    focus.dm4,,0,0
    stack.tif,0,50,0
    stack.tif,1,0,50

One row a frame: its file, relative to the table's folder, the number of the frame inside it where
it is a stack (from 0, in a column ``frame`` or as ``stack.tif:1``), and the setting of each knob,
counted from where the knobs stood at the start.  Cells are parted by commas, semicolons or tabs;
between semicolons a decimal comma is understood.  A unit stands in the heading, nm where none does.
"""

import csv
import io
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxcal import recordings
from jaxcal.recorded_optics import LENGTHS_NM
from jaxcal.series import Series, SeriesError

SAME = {"energy_keV": 1e-3, "semi_angle_mrad": 0.01, "pixel_mrad": 0.01}
"""Share by which what two files say of the optics may differ."""
CLOSE = 0.05
"""Share by which a file may differ from what was given before it is worth a word."""

_OPTIONS = {
    "energy_keV": ("the beam energy", "--energy-kev"),
    "semi_angle_mrad": ("the convergence semi-angle", "--semi-angle-mrad"),
    "pixel_mrad": ("the angle of one pixel", "--pixel-mrad"),
}
_HEADING = re.compile(r"(?P<name>\w+)\s*(?:\((?P<round>[^()]*)\)|\[(?P<square>[^][]*)\])?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_INSIDE = re.compile(r"(?P<file>.+):(?P<frame>\d+)", re.ASCII | re.DOTALL)


class Row(NamedTuple):
    """One frame of a table: line of the file, path, number inside it or None, settings in nm."""

    line: int
    file: Path
    frame: int | None
    knobs_nm: tuple[float, ...]


class Table(NamedTuple):
    """A table of knob settings: the names of the knobs and one `Row` a frame."""

    knob_names: tuple[str, ...]
    rows: tuple[Row, ...]


def read(path):
    """Read a table of knob settings.

    Args:
        path: text file in UTF-8 in the layout at the head of this module.

    Returns:
        `Table`, its files as paths from where the program runs.

    Raises:
        SeriesError: the table cannot be read; the message names the line and says what to write.
    """
    try:
        return _parse(_text(path), Path(path).parent)
    except SeriesError as error:
        raise error.at(path) from None


def assemble(table, name="", *, energy_keV=None, semi_angle_mrad=None, pixel_mrad=None):
    """Read the frames of a table and join them to a series.

    Args:
        table: `Table`.
        name: what results call the series.
        energy_keV, semi_angle_mrad, pixel_mrad: nominal optics; what is None is taken from the
            files.

    Returns:
        (`Series`, remarks): remarks is a tuple of sentences about what was given and is more than
        5 % from what a file says.

    Raises:
        SeriesError: a file cannot be read, the files do not fit together, something of the optics
            is not known, or the series cannot be used; the message says which and what to do.
    """
    given = {
        "energy_keV": energy_keV, "semi_angle_mrad": semi_angle_mrad, "pixel_mrad": pixel_mrad
    }  # fmt: skip
    if energy_keV is not None:
        _optics(energy_keV, 20.0, 0.1)  # before it turns pixels in 1/nm into angles
    read, frames = {}, []
    for row in table.rows:
        if row.file not in read:
            read[row.file] = recordings.read(row.file, energy_keV)
        frames.append(_frame(read[row.file].frames, row))
    _check_shapes(table.rows, frames)
    told = {item: _told(read, item) for item in _OPTIONS}
    numbers = {item: told[item] if given[item] is None else given[item] for item in _OPTIONS}
    for item, (what, option) in _OPTIONS.items():
        if numbers[item] is None:
            raise SeriesError(f"no file says {what}", f"give it with {option}")
    remarks = tuple(
        f"{option} is {given[item]:g}, the files say {told[item]:.4g}; {given[item]:g} is used"
        for item, (_, option) in _OPTIONS.items()
        if None not in (given[item], told[item]) and abs(given[item] / told[item] - 1) > CLOSE
    )
    knobs = np.array([row.knobs_nm for row in table.rows])
    return Series(np.stack(frames), knobs, table.knob_names, _optics(**numbers), name), remarks


def _text(path):
    path = Path(path)
    if path.is_dir():
        raise SeriesError("is a folder", "give the table in it")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise SeriesError("is not text in UTF-8", "save it as CSV in UTF-8") from None
    except FileNotFoundError:
        raise SeriesError("no such file", "check the path") from None
    except OSError as error:
        raise SeriesError(f"cannot be read ({error.strerror})", "check the path") from None


def _parse(text, folder):
    heading, *lines = _cells(text)
    separator, (_, names) = heading
    file, frame, knobs = _columns(names)
    rows = []
    for line, cells in lines:
        if len(cells) < len(names) or any(cells[len(names) :]):
            raise SeriesError(
                f"line {line} has {len(cells)} cells, the heading has {len(names)}",
                "give every frame its file and all settings",
            )
        path, number = _place(cells[file], "" if frame is None else cells[frame], line)
        settings = tuple(
            scale * _number(cells[column], separator, line, name) for name, column, scale in knobs
        )
        rows.append(Row(line, folder / path, number, settings))
    if not rows:
        raise SeriesError("names no frame", "write one line for each below the heading")
    return Table(tuple(name for name, _, _ in knobs), tuple(rows))


def _cells(text):
    """((separator, heading), row, row ...), each (line number, stripped cells); no empty lines."""
    first = next((line for line in io.StringIO(text, newline="") if line.strip()), "")
    separator = next((mark for mark in "\t;" if mark in first), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    rows = []
    try:
        for cells in reader:
            cells = [cell.strip() for cell in cells]
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise SeriesError(
            f"line {reader.line_num}: {error}", "save the table as plain CSV"
        ) from None
    if not rows:
        raise SeriesError("is empty", "write a heading such as file,C10,C12a")
    return [(separator, rows[0]), *rows[1:]]


def _columns(names):
    """Column of the file, column of the number inside it or None, (name, column, nm) of knobs."""
    places, knobs = {}, []
    while names and not names[-1]:
        names.pop()  # spreadsheets leave empty columns
    for column, heading in enumerate(names):
        if heading.lower() in ("file", "frame"):
            if heading.lower() in places:
                raise SeriesError(f"has two columns {heading!r}", "keep one of them")
            places[heading.lower()] = column
            continue
        found = _HEADING.fullmatch(heading)
        if not found:
            raise SeriesError(
                f"cannot read the heading {heading!r}", "write a knob and its unit: C10 (nm)"
            )
        unit = found["round"] if found["round"] is not None else found["square"]
        unit = "nm" if unit is None else unit.strip()
        if unit not in LENGTHS_NM:
            raise SeriesError(
                f"unknown unit {unit!r} in the heading {heading!r}",
                f"use one of {', '.join(dict.fromkeys(LENGTHS_NM))}",
            )
        knobs.append((found["name"], column, LENGTHS_NM[unit]))
    if "file" not in places:
        raise SeriesError(
            f"has no column 'file', its heading is {', '.join(names)[:80]}",
            "write a heading such as file,C10,C12a",
        )
    _check_names(tuple(name for name, _, _ in knobs))
    return places["file"], places.get("frame"), knobs


def _check_names(names):
    from jaxcal.aberrations import indices

    if not names:
        raise SeriesError("has no column of a knob", "add one for each knob: C10 (nm)")
    try:
        indices(names)
    except ValueError as error:
        problem, _, remedy = str(error).partition(": ")
        raise SeriesError(problem.replace("aberration", "knob"), remedy or "correct it") from None


def _place(cell, number, line):
    inside = _INSIDE.fullmatch(cell)
    if inside and number:
        raise SeriesError(
            f"line {line} says twice which frame it means, {cell!r} and {number!r}", "say it once"
        )
    if inside:
        cell, number = inside["file"], inside["frame"]
    if not cell:
        raise SeriesError(f"line {line} names no file", "give the file of the frame")
    if "\0" in cell:
        raise SeriesError(f"line {line} names no file", "save the table as plain CSV")
    if number and not re.fullmatch(r"\d{1,9}", number, re.ASCII):
        raise SeriesError(
            f"line {line}: the frame should be a whole number, got {number!r}", "count from 0"
        )
    return cell, int(number) if number else None


def _number(cell, separator, line, name):
    plain = cell.replace("−", "-")
    if separator == ";" and "." not in plain:
        plain = plain.replace(",", ".")
    value = float(plain) if _NUMBER.fullmatch(plain) else np.nan
    if not np.isfinite(value):
        raise SeriesError(
            f"line {line}: the setting of {name} should be a number, got {cell[:40]!r}",
            "write it as 12.5, its unit in the heading",
        )
    return value


def _frame(frames, row):
    if row.frame is None and len(frames) > 1:
        raise SeriesError(
            f"holds {len(frames)} frames, line {row.line} of the table does not say which",
            f"write {row.file.name}:0 for the first",
            file=row.file,
        )
    number = row.frame or 0
    if number >= len(frames):
        raise SeriesError(
            f"holds {len(frames)} frames, line {row.line} of the table asks for number {number}",
            "count from 0",
            file=row.file,
        )
    return frames[number]


def _check_shapes(rows, frames):
    seen = {}
    for row, frame in zip(rows, frames, strict=True):
        if frame.shape != frames[0].shape:
            raise SeriesError(
                f"frames of {frame.shape[0]} x {frame.shape[1]} pixels, those of "
                f"{rows[0].file.name} have {frames[0].shape[0]} x {frames[0].shape[1]}",
                "join frames of one shape and binning",
                file=row.file,
            )
        first = seen.setdefault((row.file, row.frame or 0), row.line)
        if first != row.line:
            raise SeriesError(
                f"line {row.line} of the table names the frame of line {first} again",
                "delete one of them",
                file=row.file,
            )


def _told(read, item):
    """What the files say of one item of the optics: the value of the first that says it."""
    values = {file: getattr(recording, item) for file, recording in read.items()}
    values = {file: value for file, value in values.items() if value is not None}
    first = next(iter(values), None)
    for file, value in values.items():
        if abs(value / values[first] - 1) > SAME[item]:
            raise SeriesError(
                f"says {_OPTIONS[item][0]} is {value:.4g} {_unit(item)}, {first.name} says "
                f"{values[first]:.4g} {_unit(item)}",
                "join frames of one setting of the optics",
                file=file,
            )
    return values.get(first)


def _unit(item):
    return item.rpartition("_")[2]


def _optics(energy_keV, semi_angle_mrad, pixel_mrad):
    from jaxcal.optics import Optics

    try:
        return Optics(energy_keV, semi_angle_mrad, pixel_mrad)
    except ValueError as error:
        problem, _, remedy = str(error).partition(": ")
        raise SeriesError(problem, remedy or "correct it") from None
