"""Wave aberration by the complex closed form; twin of `jaxcal.aberrations`."""

import numpy as np

_PAIRS = [
    (1, 0), (1, 2), (2, 1), (2, 3), (3, 0), (3, 2), (3, 4),
    (4, 1), (4, 3), (4, 5), (5, 0), (5, 2), (5, 4), (5, 6),
]  # fmt: skip
POLAR_NAMES = tuple(f"C{n}{m}" for n, m in _PAIRS)
_TERMS = [(n, m, part) for n, m in _PAIRS for part in ("ab" if m else " ")]
NAMES = tuple(f"C{n}{m}{part}".strip() for n, m, part in _TERMS)
ORDER = np.array([n for n, _, _ in _TERMS])
SYMMETRY = np.array([m for _, m, _ in _TERMS])
PARITY = (-1) ** (ORDER + 1)


def basis(x, y):
    """W = basis @ coefficients: Re or Im of w^p conj(w)^q / (n+1), (..., 25).

    With w = x + iy, p = (n+1+m)/2, q = (n+1-m)/2.
    """
    return edge_basis(x, y) / (ORDER + 1)


def edge_basis(x, y):
    """Re or Im of w^p conj(w)^q, (..., 25), at positions in units of the aperture radius."""
    w = np.asarray(x, float) + 1j * np.asarray(y, float)
    columns = []
    for n, m, part in _TERMS:
        power = w ** ((n + 1 + m) // 2) * np.conj(w) ** ((n + 1 - m) // 2)
        columns.append(power.imag if part == "b" else power.real)
    return np.stack(columns, axis=-1)


def wave_aberration(coefficients, x, y):
    """W in the unit of the coefficients (25,), at angles x, y in rad."""
    return basis(x, y) @ np.asarray(coefficients, float)


def chi(edge_phases, x, y):
    """Phase in rad from the phases at the aperture edge (25,), rad."""
    return edge_basis(x, y) @ np.asarray(edge_phases, float)


def rotate(coefficients, angle_rad):
    """Coefficients (25,) of W'(phi) = W(phi - angle): the complex C_nm times exp(i m angle)."""
    magnitudes, azimuths = to_polar(coefficients)
    return from_polar(magnitudes, azimuths + angle_rad)


def flip(coefficients):
    """Coefficients (25,) of W'(x, y) = W(x, -y): the complex C_nm conjugated."""
    magnitudes, azimuths = to_polar(coefficients)
    return from_polar(magnitudes, -azimuths)


def transpose(coefficients):
    """Coefficients (25,) of W'(x, y) = W(y, x): the azimuth becomes pi/2 minus itself."""
    magnitudes, azimuths = to_polar(coefficients)
    return from_polar(magnitudes, np.pi / 2 - azimuths)


def to_polar(coefficients):
    """Magnitudes (14,) and azimuths (14,) in rad; the magnitude is signed where m = 0."""
    value = dict(zip(NAMES, np.asarray(coefficients, float), strict=True))
    magnitudes, azimuths = [], []
    for (_, m), name in zip(_PAIRS, POLAR_NAMES, strict=True):
        pair = complex(value[name + "a"], value[name + "b"]) if m else 0
        magnitudes.append(abs(pair) if m else value[name])
        azimuths.append(np.angle(pair) / m if m else 0.0)
    return np.array(magnitudes), np.array(azimuths)


def from_polar(magnitudes, azimuths):
    """Cartesian coefficients (25,) from `to_polar`'s two vectors."""
    values = []
    for (_, m), size, azimuth in zip(_PAIRS, magnitudes, azimuths, strict=True):
        pair = size * np.exp(1j * m * azimuth)
        values.extend([pair.real, pair.imag] if m else [size])
    return np.array(values)
