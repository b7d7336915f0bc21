"""The adapter to copy is one: it passes the check, tunes, and goes on with an interrupted run."""

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import made_up
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcal import course, estimation, inputs, microscopes
from jaxcal.microscopes.protocol import InstrumentError

PATH = Path(__file__).parents[1] / "docs" / "adapter_template.py"


class Column:
    """Stands in metres, somewhere, and does not move ``stuck``."""

    def __init__(self):
        self.places, self.stuck = {"C10": 3e-7, "C12a": -2e-8, "C12b": 0.0}, None

    def position(self, name):
        return self.places[name]

    def move(self, name, value):
        if name == self.stuck:
            return False
        self.places[name] = value
        return True


class Camera:
    """Frames that carry the column's state, which the made-up estimate reads back."""

    def __init__(self, column):
        self.column, self.taken = column, 0

    def grab(self):
        frame = made_up.FRAMES[self.taken % len(made_up.FRAMES)].copy()
        self.taken += 1
        frame[0, :3] = [1e9 * value for value in self.column.places.values()]
        frame[0, 3] = self.taken
        return frame


@pytest.fixture
def template(monkeypatch):
    spec = importlib.util.spec_from_file_location("adapter_template", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module.MyMicroscope, "optics", made_up.standins.optics())
    return module.MyMicroscope


def test_the_command_line_finds_it(monkeypatch):
    """By the function at its end, which imports what the user has."""
    column = Column()
    institute = SimpleNamespace(column=lambda: column, camera=lambda: Camera(column))
    monkeypatch.setitem(sys.modules, "my_institute", institute)
    monkeypatch.setattr(sys, "path", list(sys.path))
    made = inputs.own(f"{PATH}:microscope")
    assert made.knob_names == ("C10", "C12a", "C12b") and made.acquire().ndim == 2


def test_it_passes_the_check(template, monkeypatch):
    def state_of(seen, names, optics, model, seed=0):
        return np.asarray(seen.frame[0, :3], float), np.full(3, 2.0)

    monkeypatch.setattr(estimation, "state_of", state_of)
    column = Column()
    column.places["C10"] = 2e-8
    told = microscopes.check(template(column, Camera(column)), beyond_limits=True, model="none")
    assert told.passed and all(check.passed for check in told.checks), str(told)
    assert_allclose(column.places["C10"], 2e-8)


def test_it_tunes_and_goes_on_after_an_interruption(template, monkeypatch, tmp_path):
    made_up.install(monkeypatch.setattr)
    column = Column()
    whole = made_up.calibrate(template(column, Camera(column)))
    assert whole.verdict == "tuned"
    assert_allclose(column.places["C10"], 3e-7 + 1e-9 * whole.applied_knobs_nm[0])
    column, usual, looked = Column(), course.infer, []

    def cut_off(*arguments, **options):
        looked.append(1)
        if len(looked) == 4:
            raise KeyboardInterrupt
        return usual(*arguments, **options)

    monkeypatch.setattr(course, "infer", cut_off)
    camera = Camera(column)
    with pytest.raises(KeyboardInterrupt):
        made_up.calibrate(template(column, camera), run=tmp_path)
    assert_allclose(column.places["C10"], 3e-7)
    column.places["C10"] += 5e-9  # somebody turned it meanwhile: settings count from the old start
    again = made_up.calibrate(template(column, camera), run=tmp_path, resume=True)
    assert again.verdict == "tuned"
    assert_allclose(again.applied_knobs_nm, whole.applied_knobs_nm, atol=1e-3)
    assert_allclose(column.places["C10"], 3e-7 + 1e-9 * whole.applied_knobs_nm[0])


def test_it_refuses_and_tells(template):
    column = Column()
    microscope = template(column, Camera(column))
    with pytest.raises(ValueError, match="C12a was asked beyond its limit"):
        microscope.set([0.0, 401.0, 0.0])
    assert column.places == Column().places
    column.stuck = "C12b"
    with pytest.raises(InstrumentError, match="C12b did not arrive"):
        microscope.set([1.0, 2.0, 3.0])
    assert_allclose(microscope.knobs_nm, [1.0, 2.0, 0.0], atol=1e-9)
