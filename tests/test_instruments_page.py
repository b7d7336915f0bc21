"""The page for people at instruments: its code runs, and what it quotes is what jaxcal says."""

import re
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import create_autospec

import numpy as np
import pytest

import jaxcal
from jaxcal import (
    aperture,
    basins,
    calibration,
    conformance,
    diagnosis,
    estimation,
    identification,
    inconsistency,
    observation,
    refine,
    runs,
    spectra,
    tracking,
)
from jaxcal.microscopes import ceos, guarded, nion, replay, simulated

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "instruments.md").read_text(encoding="utf-8")


def block(name):
    return re.search(rf"<!-- {name} -->\n```python\n(.*?)```", PAGE, re.S)[1]


def test_the_code_runs(monkeypatch, tmp_path, capsys):
    """With an instrument and an estimate that cost nothing: names and arguments are real, as
    stand-ins for functions take what these take."""
    microscope = SimpleNamespace(sent=[], acquire=lambda: "frame", limits_nm=400.0)
    microscope.set = lambda knobs: microscope.sent.append(np.array(knobs))
    made = SimpleNamespace(
        verdict="tuned", reason="verified", applied_knobs_nm=np.ones(3), estimate="estimate",
        series=SimpleNamespace(optics="optics"))
    asked = {}
    def instead(module, name, does):
        stand_in = create_autospec(getattr(module, name), side_effect=does)
        monkeypatch.setitem(vars(module), name, stand_in)

    instead(conformance, "check", lambda bench: f"asked {bench is microscope}")
    instead(jaxcal, "calibrate", lambda bench, **options: asked.update(options) or made)
    instead(tracking, "start", lambda answer, optics, walk_nm, limits_nm: [walk_nm])
    instead(tracking, "wait", lambda state, seconds: [*state, seconds])
    instead(tracking, "probe_nm", lambda state: np.full(3, 9.0))
    instead(tracking, "look", lambda state, frame, knobs: [*state, frame, float(knobs[0])])
    instead(tracking, "judge", lambda state, knobs: tracking.Judgement(
        0.4, True, np.full(3, 2.0), f"{state} at {knobs[0]}"))
    monkeypatch.setitem(vars(jaxcal), "SimulatedMicroscope", lambda seed: microscope)
    names = {}
    for name in ("check", "run", "track"):
        exec(block(name), names)
    told = capsys.readouterr().out
    assert "asked True" in told and "tuned verified" in told
    assert "[1.0, 600, 'frame', 9.0] at 1.0" in told
    assert [sent[0] for sent in microscope.sent] == [9.0, 1.0, 2.0]
    assert asked == {"frames": 10, "run": "monday"}


SAID = "\n".join(Path(module.__file__).read_text(encoding="utf-8")
                 for module in (aperture, basins, calibration, ceos, diagnosis, estimation,
                                guarded, identification, inconsistency, nion, observation, refine,
                                replay, runs, simulated, spectra, tracking))


@pytest.mark.parametrize("row", re.findall(r"^\| ([^|]+) \|", PAGE.split("what it says")[1], re.M))
def test_what_the_table_quotes_is_said(row):
    """Each piece of a message stands in the code that says it."""
    if set(row) <= {"-"} or row == "what it says":
        return
    text = re.sub(r'"\s*\n\s*f?"', "", SAID)  # strings that go on in the next line
    for piece in row.split("..."):
        assert piece.strip() in text, f"nothing says {piece!r}"
