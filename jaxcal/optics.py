"""Energy, aperture and angular grid; the dimensionless units in which everything else works.

In units of the aperture, rho = theta/alpha, the phase chi depends on the coefficients only through
their phases at the aperture edge, a_nm = (2 pi/lambda) C_nm alpha^(n+1)/(n+1), and lengths at the
specimen count in lambda/alpha.  One simulator and one model in these units serve every microscope.
"""

import math
from dataclasses import dataclass

import numpy as np

from jaxcal.aberrations import NAMES, ORDER, indices

# CODATA 2018; the first three are exact.
PLANCK_J_S = 6.62607015e-34
LIGHT_M_S = 299792458.0
CHARGE_C = 1.602176634e-19
REST_ENERGY_EV = 510998.950


def wavelength_nm(energy_keV):
    """Relativistic electron wavelength, nm.

        lambda = h c / sqrt(E (E + 2 m c^2))

    Args:
        energy_keV: beam energy, keV, 30 to 300.

    Returns:
        Wavelength, nm (float).

    Raises:
        ValueError: the energy is not within 30 to 300 keV.

    Example:
        >>> round(wavelength_nm(200.0), 7)
        0.0025079
    """
    energy_eV = 1e3 * _energy(energy_keV)
    momentum_eV = math.sqrt(energy_eV * (energy_eV + 2 * REST_ENERGY_EV))
    return 1e9 * PLANCK_J_S * LIGHT_M_S / CHARGE_C / momentum_eV


def energy_of(wavelength_nm):
    """Beam energy of a wavelength, keV; the inverse of `wavelength_nm`.

    Args:
        wavelength_nm: electron wavelength, nm.

    Example:
        >>> round(energy_of(0.0025079340), 3)
        200.0
    """
    momentum_eV = 1e9 * PLANCK_J_S * LIGHT_M_S / CHARGE_C / wavelength_nm
    return 1e-3 * (math.hypot(momentum_eV, REST_ENERGY_EV) - REST_ENERGY_EV)


def interaction_constant(energy_keV):
    """Interaction constant sigma: phase of a projected potential, rad/(V nm).

        sigma = 2 pi / (lambda E) * (m c^2 + E) / (2 m c^2 + E)

    Args:
        energy_keV: beam energy, keV, 30 to 300.

    Returns:
        sigma, rad/(V nm) (float).

    Raises:
        ValueError: the energy is not within 30 to 300 keV.

    Reference:
        E. J. Kirkland, Advanced Computing in Electron Microscopy, eq. 5.6.
    """
    energy_eV = 1e3 * _energy(energy_keV)
    relativistic = (REST_ENERGY_EV + energy_eV) / (2 * REST_ENERGY_EV + energy_eV)
    return 2 * math.pi / (wavelength_nm(energy_keV) * energy_eV) * relativistic


@dataclass(frozen=True)
class Optics:
    """Nominal optics of a series of frames.

    Attributes:
        energy_keV: beam energy, keV, 30 to 300.
        semi_angle_mrad: convergence semi-angle, mrad: the radius of the aperture.
        pixel_mrad: angular size of one pixel of the frame, mrad.

    Raises:
        ValueError: a value is out of range, or looks as if it came in another unit.
    """

    energy_keV: float
    semi_angle_mrad: float
    pixel_mrad: float

    def __post_init__(self):
        semi_angle, pixel = float(self.semi_angle_mrad), float(self.pixel_mrad)
        object.__setattr__(self, "energy_keV", _energy(self.energy_keV))
        object.__setattr__(self, "semi_angle_mrad", semi_angle)
        object.__setattr__(self, "pixel_mrad", pixel)
        if not 1.0 <= semi_angle <= 150.0:
            raise ValueError(
                f"semi_angle_mrad must lie within 1 to 150 mrad, got {semi_angle:g}: "
                f"give the convergence semi-angle (not the full angle) in mrad, not in rad"
            )
        if not 0.0 < pixel <= semi_angle / 8:
            raise ValueError(
                f"pixel_mrad must be positive and at most semi_angle_mrad/8 = {semi_angle / 8:g}, "
                f"got {pixel:g}: give the angle of one pixel of the frame as it is stored (after "
                f"binning) in mrad"
            )

    @property
    def wavelength_nm(self):
        """Electron wavelength, nm."""
        return wavelength_nm(self.energy_keV)

    @property
    def length_unit_nm(self):
        """lambda/alpha, nm: the unit of length at the specimen."""
        return self.wavelength_nm / (1e-3 * self.semi_angle_mrad)

    @property
    def radius_pixels(self):
        """Nominal radius of the aperture in the frame, pixels."""
        return self.semi_angle_mrad / self.pixel_mrad


def edge_phases(optics):
    """Phase at the aperture edge per nanometre of each coefficient.

        da_nm/dC_nm = (2 pi/lambda) alpha^(n+1) / (n+1)

    Args:
        optics: `Optics`.

    Returns:
        (25,) float64 NumPy array, rad/nm; chi(coefficients * edge_phases, rho) is in rad.

    Example:
        >>> float(edge_phases(Optics(200.0, 20.0, 0.2))[0].round(4))  # C10
        0.5011
    """
    alpha = 1e-3 * optics.semi_angle_mrad
    return 2 * np.pi / optics.wavelength_nm * alpha ** (ORDER + 1.0) / (ORDER + 1)


def edge_waves(optics):
    """Wave aberration at the aperture edge per nanometre, in wavelengths: `edge_phases` / 2 pi.

    Returns:
        (25,) float64 NumPy array, wavelengths/nm.
    """
    return edge_phases(optics) / (2 * np.pi)


def quarter_pi_limits_nm(optics, names=NAMES):
    """Size of each coefficient that alone brings the phase at the aperture edge to pi/4.

        |C_nm| = (lambda/8) (n+1) / alpha^(n+1)

    Args:
        names: P Krivanek names; all 25 where none are given.

    Returns:
        (P,) float64 NumPy array, nm.
    """
    return np.pi / 4 / edge_phases(optics)[indices(names)]


def _energy(energy_keV):
    energy = float(energy_keV)
    if not 30.0 <= energy <= 300.0:
        raise ValueError(
            f"energy_keV must lie within 30 to 300 keV, got {energy:g}: "
            f"give the beam energy in keV (200, not 200000)"
        )
    return energy
