"""docs/files.md keeps its word: its table, its commands and its code, in the order of the page."""

import re
import shlex
from pathlib import Path

import field_files
import h5py
import numpy as np
import pytest
import standins

from jaxcal import commands, nexus, read_series
from jaxcal.cli import main

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/files.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with the files that the page speaks of."""
    monkeypatch.chdir(tmp_path)
    frames = standins.frames(4, 256).astype(np.uint16)
    (tmp_path / "knobs.csv").write_text(blocks("csv")[0], encoding="utf-8")
    np.save(tmp_path / "stack.npy", frames[1:])
    return tmp_path, frames


def test_the_command_makes_the_series_of_the_table(place):
    pytest.importorskip("rsciio", reason="reads the page's files; pip install '.[io]'")
    import tifffile

    folder, frames = place
    field_files.dm(folder / "start.dm4", frames[0])
    tifffile.imwrite(folder / "stack.tif", frames[1:], photometric="minisblack")
    (line,) = [line for line in blocks("sh")[0].splitlines() if line.startswith("jaxcal series")]
    assert main(shlex.split(line)[1:]) == 0
    series = read_series("monday.h5")
    np.testing.assert_array_equal(series.frames, frames)
    assert series.knobs_nm.tolist() == [[0, 0, 0], [80, 0, 0], [0, 80, 0], [0, 0, 80]]


def test_all_commands_parse(monkeypatch):
    parsed = []
    monkeypatch.setattr(commands, "run", lambda command, arguments: parsed.append(arguments) or 0)
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    assert lines and all(line.startswith("jaxcal ") for line in lines)
    assert all(main(shlex.split(line)[1:]) == 0 for line in lines)
    assert len(parsed) == len(lines)


def test_the_code_runs(place, capsys):
    folder, frames = place
    table = blocks("csv")[0].replace("stack.tif", "stack.npy").replace("start.dm4", "start.npy")
    (folder / "knobs.csv").write_text(table, encoding="utf-8")
    np.save(folder / "start.npy", frames[0])
    nexus.write("out.nxs", {"monday.h5": (standins.estimate(), standins.optics())})
    for block in blocks("python"):
        exec(compile(block, "files.md", "exec"), {})
    assert len(read_series("monday.h5")) == 4
    with h5py.File("out.nxs") as file:
        assert list(file) == ["monday.h5"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "(3, 256, 256) None" and lines[1].startswith("monday.h5 -9.0")


def test_the_page_names_every_ending_and_real_options():
    from jaxcal.recordings import ENDINGS

    rows = "".join(line for line in PAGE.splitlines() if line.startswith("| `."))
    assert set(re.findall(r"`(\.\w+)`", rows)) == set(ENDINGS)
    options = set(re.findall(r"--[a-z][a-z-]+", PAGE)) - {"--from", "--to", "--json", "--table"}
    source = (ROOT / "jaxcal/cli.py").read_text(encoding="utf-8")
    for option in options:
        assert f"    {option[2:].replace('-', '_')}: " in source, option


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target
