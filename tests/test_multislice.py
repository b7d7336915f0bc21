"""The series that anyone can make: the optics of the script, its camera, and what it writes."""

import json

import numpy as np
import pytest
from numpy.testing import assert_allclose
from test_benchmarks import ROOT, load

import jaxcal
from benchmarks import reality
from jaxcal import aperture
from jaxcal.optics import wavelength_nm
from jaxcal.reference import aberrations

made = load("jaxcal_multislice_script", ROOT / "scripts" / "multislice_series.py")
OPTICS = {"energy_keV": 200.0, "semi_angle_mrad": 20.0}
WAVELENGTH, APERTURE = wavelength_nm(200.0), 0.02
STEP_NM = 0.03  # of which two thirds hold the aperture


def film(along_x: bool, period_nm: float, strength=0.02):
    """A weak grating (1, N, N) on the cell."""
    side = round(made.CELL_NM / STEP_NM)
    line = strength * np.cos(2 * np.pi * np.arange(side) * STEP_NM / period_nm)
    return np.float32(np.broadcast_to(line if along_x else line[:, None], (1, side, side)))


def middle_row(intensity, angle, along_x: bool):
    """Contrast and angles (M,) of the middle line inside 0.8 of the aperture."""
    line = intensity[len(angle) // 2] if along_x else intensity[:, len(angle) // 2]
    inside = np.abs(angle) < 0.8 * APERTURE
    return line[inside] / line[inside].mean() - 1, angle[inside]


def test_a_state_is_counted_as_everywhere():
    random = np.random.default_rng(0)
    values, (x, y) = random.standard_normal(25), random.uniform(-0.02, 0.02, (2, 50))
    state = dict(zip(aberrations.NAMES, values.tolist(), strict=True))
    assert_allclose(made.waves(state, 1.0, x, y),
                    aberrations.wave_aberration(values, x, y), rtol=1e-10)


def test_without_a_film_the_disc_is_flat():
    side = round(made.CELL_NM / STEP_NM)
    intensity, angle = made.ronchigram(np.zeros((2, side, side), np.float32), 3.0,
                                       {"C10": 60.0, "C30": 1e3}, OPTICS, 3.0, 0.02,
                                       np.random.default_rng(0))
    rho = np.hypot(*np.meshgrid(angle, angle)) / APERTURE
    assert_allclose(intensity[rho < 0.6], 1.0, atol=0.05)  # further out the edge diffracts
    assert intensity[rho > 1.1].max() < 0.02


@pytest.mark.parametrize("along_x", [True, False])
def test_a_grating_is_magnified_by_defocus_and_astigmatism(along_x):
    """A grating of period p makes fringes of angular period p/(C10 +- C12a), + along x."""
    period = 0.5
    state = {"C10": 100.0, "C12a": 40.0}
    intensity, angle = made.ronchigram(film(along_x, period), 0.0, state, OPTICS, 1e-3, 1e-4,
                                       np.random.default_rng(0))
    contrast, angle = middle_row(intensity, angle, along_x)
    expected = (140.0 if along_x else 60.0) / period  # fringes a radian
    tried = np.linspace(20, 400, 1521)
    power = np.abs(np.exp(-2j * np.pi * tried[:, None] * angle) @ (contrast * np.hanning(
        angle.size))) ** 2
    assert tried[np.argmax(power)] == pytest.approx(expected, rel=0.03)


def test_a_thick_film_has_its_state_in_its_middle():
    """A grating in the middle slice of three shows the fringes of one in a thin film."""
    thick = np.concatenate([np.zeros_like(film(True, 0.4)), film(True, 0.4),
                            np.zeros_like(film(True, 0.4))])
    thin = film(True, 0.4)
    frames = [made.ronchigram(phases, thickness, {"C10": 80.0}, OPTICS, 1e-3, 1e-4,
                              np.random.default_rng(1))
              for phases, thickness in ((thick, 6.0), (thin, 0.0))]
    (first, angle), (second, _) = frames
    lines = [middle_row(frame, angle, True)[0] for frame in (first, second)]
    assert np.corrcoef(*lines)[0, 1] > 0.98


def test_the_camera_puts_the_disc_where_it_says():
    random = np.random.default_rng(2)
    true, optics, faults, _, _ = made.instrument(random, "A")
    angle = np.linspace(-0.04, 0.04, 801)
    within = np.hypot(*np.meshgrid(angle, angle)) < 1e-3 * true["semi_angle_mrad"]
    counts = made.camera(within.astype(float), angle, true, faults | {"dose": 200.0}, random)
    disc, quality = aperture.find_disc(counts, optics.radius_pixels)
    assert quality.fault is None and counts.dtype == np.uint16
    assert_allclose((disc.column, disc.row), faults["centre_col_row"], atol=0.1)
    pixel = np.mean(faults["pixel_mrad"])
    assert disc.radius == pytest.approx(true["semi_angle_mrad"] / pixel, abs=0.3)
    assert quality.outside == pytest.approx(faults["offset"], abs=10.0)


@pytest.fixture
def quick(monkeypatch):
    """No atoms, and a Ronchigram that only remembers its state."""
    states, angle = [], np.linspace(-0.03, 0.03, 401)
    monkeypatch.setattr(made.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(made, "film", lambda *_: (None, 3.0, {"film": "none"}))

    def ronchigram(phases, thickness, state, optics, *_):
        states.append(state)
        rho = np.hypot(*np.meshgrid(angle, angle)) / (1e-3 * optics["semi_angle_mrad"])
        return (rho < 1).astype(float), angle

    monkeypatch.setattr(made, "ronchigram", ronchigram)
    return states


def test_series_and_truth_are_what_the_benchmark_reads(quick, tmp_path):
    assert made.main([str(tmp_path), "--series", "3"]) == 0
    truth = reality.scored(tmp_path)
    assert [entry["tier"] for entry in truth.values()] == ["A", "C", "D"]
    last = truth["m02.h5"]
    series = jaxcal.read_series(tmp_path / "m02.h5")
    assert series.frames.shape == (16, 256, 256) and len(last["bad_frames"]) == 3
    right = np.array(list(reality.wanted(last).values()))
    left = [last["x0_nm"][name] for name in series.knob_names] + np.array(last["G"]) @ right
    assert_allclose(left + last["drift_nm"][-1], 0.0, atol=1e-9)
    shown = quick[-1]  # the state of the last frame that is not stale
    assert set(shown) == set(last["x0_nm"])
    count = len(quick)
    assert made.main([str(tmp_path), "--series", "3"]) == 0 and len(quick) == count
    json.loads((tmp_path / "truth.json").read_text())


def test_without_abtem_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(made.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        made.main([str(tmp_path)])
    assert "pip install '.[alternatives]'" in capsys.readouterr().err
