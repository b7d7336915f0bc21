"""Wavelength, interaction constant and edge phases; twin of `jaxcal.optics`.

`optics` is anything with energy_keV and semi_angle_mrad.
"""

import numpy as np

from .aberrations import NAMES, ORDER

_PLANCK = 6.62607015e-34  # J s
_CHARGE = 1.602176634e-19  # C
_MASS = 9.1093837015e-31  # kg, CODATA 2018
_LIGHT = 299792458.0  # m/s


def wavelength_nm(energy_keV):
    """lambda = h/p with p from (p c)^2 = (E + m c^2)^2 - (m c^2)^2, nm."""
    rest = _MASS * _LIGHT**2
    energy = energy_keV * 1e3 * _CHARGE
    momentum = np.sqrt((energy + rest) ** 2 - rest**2) / _LIGHT
    return 1e9 * _PLANCK / momentum


def interaction_constant(energy_keV):
    """sigma = 2 pi gamma m e lambda / h^2, rad/(V nm)."""
    gamma = 1 + energy_keV * 1e3 * _CHARGE / (_MASS * _LIGHT**2)
    wavelength = wavelength_nm(energy_keV) * 1e-9
    return 1e-9 * 2 * np.pi * gamma * _MASS * _CHARGE * wavelength / _PLANCK**2


def edge_phases(optics):
    """(2 pi/lambda) alpha^(n+1)/(n+1), (25,), rad/nm."""
    alpha = optics.semi_angle_mrad / 1000
    return 2 * np.pi / wavelength_nm(optics.energy_keV) * alpha ** (ORDER + 1.0) / (ORDER + 1)


def edge_waves(optics):
    """alpha^(n+1)/(n+1)/lambda, (25,), wavelengths/nm."""
    alpha = optics.semi_angle_mrad / 1000
    return alpha ** (ORDER + 1.0) / (ORDER + 1) / wavelength_nm(optics.energy_keV)


def quarter_pi_limits_nm(optics, names=NAMES):
    """(lambda/8)(n+1)/alpha^(n+1), (P,), nm."""
    order = ORDER[[NAMES.index(name) for name in names]]
    alpha = optics.semi_angle_mrad / 1000
    return wavelength_nm(optics.energy_keV) / 8 * (order + 1) / alpha ** (order + 1.0)
