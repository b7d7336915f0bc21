"""The tutorial keeps its word: its commands parse, and the maker's simulator ends up tuned."""

import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from jaxcal import cli, commands
from jaxcal.optics import Optics, quarter_pi_limits_nm

PAGE = (Path(__file__).parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")


def block(name):
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.S)[1]


def test_every_block_is_known():
    marked = {"instrument", "camera", "tune"}
    assert len(re.findall(r"^```python", PAGE, re.M)) == len(marked)
    assert set(re.findall(r"<!-- (\w+) -->", PAGE)) == marked


def test_commands_parse(monkeypatch):
    parsed = []
    monkeypatch.setattr(commands, "run", lambda command, arguments: parsed.append(arguments) or 0)
    lines = re.findall(r"^\.venv/bin/(jaxcal .*)$", PAGE, re.M)
    assert lines and all(cli.main(shlex.split(line)[1:]) == 0 for line in lines)
    assert parsed[0].knobs == "C10,C12a,C12b"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(find_spec("nion") is None or find_spec("nion.usim_device") is None,
                    reason="pip install '.[nion]': the instrument simulator is not installed")
def test_the_makers_simulator_is_tuned(tmp_path):
    """All blocks in a process and folder of their own; its controls end within the limits."""
    code = "\n".join(map(block, ("instrument", "camera", "tune")))
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, timeout=560,
                           capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("tuned - "), ended.stdout
    left = [float(value) for value in re.findall(r"stands at ([+-][\d.]+) nm", ended.stdout)]
    limits = quarter_pi_limits_nm(Optics(100.0, 30.0, 0.1))[:3]
    assert len(left) == 3 and np.all(np.abs(left) <= limits), (left, limits)
    assert (tmp_path / "usim.html").stat().st_size > 0
