"""Energy, aperture, dimensionless units: published values, equality with the reference."""

import dataclasses

import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcal import aberrations, optics
from jaxcal.optics import Optics
from jaxcal.reference import optics as reference

ENERGIES = (30, 60, 80, 100, 200, 300)


@pytest.mark.parametrize(
    ("energy", "picometres", "sigma"),
    [
        (60, 4.8661, 0.011357),
        (80, 4.1757, 0.010087),
        (100, 3.7014, 0.009244),
        (200, 2.5079, 0.007288),
        (300, 1.9687, 0.006526),
    ],
)
def test_tabulated_constants(energy, picometres, sigma):
    assert_allclose(1e3 * optics.wavelength_nm(energy), picometres, atol=5.1e-5)
    assert_allclose(optics.interaction_constant(energy), sigma, atol=5.1e-7)
    assert_allclose(optics.energy_of(optics.wavelength_nm(energy)), energy, rtol=1e-12)


@pytest.mark.parametrize(
    ("energy", "semi_angle", "limits"),
    [
        (200, 20, (1.57, 118, 7840)),
        (200, 25, (1.00, 60, 3210)),
        (200, 30, (0.70, 35, 1550)),
        (300, 30, (0.55, 27, 1220)),
    ],
)
def test_tabulated_quarter_pi_limits(energy, semi_angle, limits):
    found = optics.quarter_pi_limits_nm(Optics(energy, semi_angle, 0.2))
    for order, limit, last_digit in zip((1, 2, 3), limits, (0.01, 1, 10), strict=True):
        assert_allclose(found[aberrations.ORDER == order], limit, rtol=0, atol=last_digit / 2)


@pytest.mark.parametrize("energy", ENERGIES)
def test_constants_equal_the_reference(energy):
    """The mass in kg and the rest energy in eV agree to nine digits, not to ten."""
    assert_allclose(optics.wavelength_nm(energy), reference.wavelength_nm(energy), rtol=1e-9)
    assert_allclose(
        optics.interaction_constant(energy), reference.interaction_constant(energy), rtol=1e-9
    )


@pytest.mark.parametrize("function", ["edge_phases", "edge_waves", "quarter_pi_limits_nm"])
def test_edge_units_equal_the_reference(function):
    nominal = Optics(200.0, 21.4, 0.19)
    found, expected = (getattr(where, function)(nominal) for where in (optics, reference))
    assert found.shape == (25,) and found.dtype == np.float64
    assert_allclose(found, expected, rtol=1e-9)


def test_edge_phases_make_the_surface_dimensionless():
    nominal = Optics(80.0, 32.0, 0.3)
    rng = np.random.default_rng(3)
    x, y = rng.uniform(-1, 1, (2, 40))
    coefficients = rng.normal(size=25) / optics.edge_phases(nominal)
    alpha = 0.032
    surface = aberrations.wave_aberration(coefficients, alpha * x, alpha * y)
    expected = 2 * np.pi / nominal.wavelength_nm * np.asarray(surface)
    found = aberrations.chi(coefficients * optics.edge_phases(nominal), x, y)
    assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_defocus_at_the_edge_is_pi_alpha_squared_over_lambda():
    nominal = Optics(200.0, 20.0, 0.2)
    expected = np.pi * 0.02**2 / nominal.wavelength_nm
    assert_allclose(optics.edge_phases(nominal)[0], expected, rtol=1e-14)
    assert_allclose(optics.edge_waves(nominal)[0], expected / (2 * np.pi), rtol=1e-14)


def test_properties_and_freezing():
    nominal = Optics(200, 20, 0.25)
    assert nominal == Optics(200.0, 20.0, 0.25) and hash(nominal) == hash(Optics(200, 20, 0.25))
    assert nominal.radius_pixels == 80.0
    assert_allclose(nominal.length_unit_nm, 0.1254, rtol=1e-4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        nominal.energy_keV = 300.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((200000.0, 20.0, 0.2), r"30 to 300 keV, got 200000: .*keV \(200, not 200000\)"),
        ((20.0, 20.0, 0.2), "30 to 300 keV, got 20"),
        ((float("nan"), 20.0, 0.2), "30 to 300 keV, got nan"),
        ((200.0, 0.02, 0.2), "1 to 150 mrad, got 0.02: .*not in rad"),
        ((200.0, float("inf"), 0.2), "1 to 150 mrad"),
        ((200.0, 20.0, 0.0), "pixel_mrad must be positive"),
        ((200.0, 20.0, 20.0), "at most semi_angle_mrad/8 = 2.5, got 20"),
        ((200.0, 20.0, float("nan")), "pixel_mrad must be positive"),
    ],
)
def test_bad_input_is_told_what_to_do(arguments, message):
    with pytest.raises(ValueError, match=message):
        Optics(*arguments)


@pytest.mark.parametrize("function", [optics.wavelength_nm, optics.interaction_constant])
def test_energy_out_of_range(function):
    with pytest.raises(ValueError, match="energy_keV must lie within 30 to 300"):
        function(1000.0)
