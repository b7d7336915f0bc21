"""The README keeps its word: commands that parse, code that runs, links that lead somewhere."""

import re
import shlex
import socket
from pathlib import Path
from types import SimpleNamespace

import ceos_server
import pytest
import standins

import jaxcal
from jaxcal import cli, commands

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def marked(name):
    return re.search(rf"<!-- {name} command -->\n```sh\n(.*?)\n```", README).group(1)


def jaxcal_lines():
    """Every call of the command in the shell blocks and between backticks in the text."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    spans = [" ".join(span.split()) for span in re.findall(r"`(jaxcal [^`]+)`", prose)]
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    calls = [line for line in lines if line.startswith("jaxcal ")]
    calls += [line.split(".venv/bin/")[-1] for line in lines if ".venv/bin/jaxcal" in line]
    return calls + [span for span in spans if "--help" not in span]


@pytest.mark.parametrize("line", jaxcal_lines())
def test_commands_parse(line, monkeypatch):
    parsed = []
    monkeypatch.setattr(commands, "run", lambda command, arguments: parsed.append(arguments) or 0)
    assert cli.main(shlex.split(line, comments=True)[1:]) == 0
    assert len(parsed) == 1


def test_the_two_commands_are_one_line_each_and_need_only_python():
    for name, last in (("main", ".venv/bin/jaxcal calibrate"), ("test", ".venv/bin/pytest")):
        command = marked(name)
        assert "\n" not in command
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install ")
        assert last in command.split("&&")[-1]


def test_python_blocks_run(tmp_path, monkeypatch):
    """As they stand, the instrument and the long calibration stood in for."""
    monkeypatch.chdir(tmp_path)
    corrector, connect = ceos_server.Server(), socket.create_connection
    monkeypatch.setattr(socket, "create_connection", lambda place, timeout: connect(
        ("127.0.0.1", corrector.port), timeout))
    moves, asked = [], []

    def calibrate(microscope, *, frames, progress=None):
        asked.append(frames)
        assert isinstance(microscope, jaxcal.Microscope)
        microscope.set([1.0, 2.0, 3.0])
        if not hasattr(microscope, "truth_nm"):
            assert microscope.acquire().shape == (96, 96)
        return standins.calibration()

    monkeypatch.setitem(vars(jaxcal), "calibrate", calibrate)
    monkeypatch.setitem(vars(jaxcal), "estimate", lambda series: standins.calibration().estimate)
    surroundings = {
        "frames": standins.frames(3, 256),
        "knobs_nm": [[0.0, 0.0, 0.0], [50.0, 0.0, 0.0], [0.0, 50.0, 0.0]],
        "my_column": SimpleNamespace(move_to=moves.append),
        "my_camera": SimpleNamespace(grab=lambda: standins.frames(1)[0]),
    }
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), dict(surroundings))
    corrector.close()
    assert asked == [10, 10, 10]
    assert corrector.state == {"C1": [1e-9], "A1": pytest.approx([2e-9, 3e-9])}
    assert moves == [{"C10": 1.0, "C12a": 2.0, "C12b": 3.0}]
    assert len(jaxcal.read_series("monday.h5")) == 3
    assert Path("tuned.html").stat().st_size > 0


def test_a_microscope_and_the_interface_take_ten_lines():
    _, _, microscope, _, interface = blocks("python")
    for block in (microscope, interface):
        lines = [line for line in block.splitlines() if line.strip()]
        assert len(lines) <= 11, "ten lines and the import"


def test_links_lead_somewhere():
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")):
        for target in re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+)\)", text):
            assert target.startswith("https://") or (ROOT / target).exists(), target


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in set(re.findall(r"`(\w+\.py)`", text)):
        assert any((ROOT / "jaxcal").rglob(name)), name
