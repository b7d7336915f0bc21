"""The wave aberration: names, basis functions and the surface itself.

One convention, Krivanek's, Cartesian, everywhere in jaxcal:

    W(x, y) = sum_nm r^(n+1)/(n+1) [ C_nm,a cos(m phi) + C_nm,b sin(m phi) ],  phi = atan2(y, x)

with x along the columns of a frame to the right and y along its rows *downward*.  A set of
coefficients is always a vector of 25 numbers in the order of `NAMES`.  The functions here know no
units: coefficients in nm with angles in rad give W in nm; phases at the aperture edge (see
`jaxcal.optics.edge_phases`) with positions in units of the aperture radius give chi in rad.

Source: O. L. Krivanek, N. Dellby, A. R. Lupini, Ultramicroscopy 78 (1999) 1-11.
"""

import difflib

import jax.numpy as jnp
import numpy as np

from jaxcal import circular_polynomials as circular

POLAR_NAMES = (
    "C10", "C12", "C21", "C23", "C30", "C32", "C34",
    "C41", "C43", "C45", "C50", "C52", "C54", "C56",
)  # fmt: skip
"""The 14 aberrations; those with m > 0 have two Cartesian coefficients."""

NAMES = tuple(
    name + part for name in POLAR_NAMES for part in (("",) if name[2] == "0" else ("a", "b"))
)
"""The 25 Cartesian coefficients, in the order every vector in jaxcal follows."""

ORDER = np.array([int(name[1]) for name in NAMES])
"""n of each coefficient, (25,): W grows as r^(n+1)."""

SYMMETRY = np.array([int(name[2]) for name in NAMES])
"""m of each coefficient, (25,): the multiplicity of the azimuth."""

PARITY = np.where((ORDER + 1) % 2 == 0, 1, -1)
"""+1 where W(-x, -y) = W(x, y) (C10, C12, C30 ...), -1 where the sign turns (C21, C23, C41 ...)."""

_IS_B = np.array([name.endswith("b") for name in NAMES])
_IS_A = np.array([name.endswith("a") for name in NAMES])
_PARTNER = np.arange(25) + _IS_A.astype(int) - _IS_B.astype(int)
_SIGN = _IS_B.astype(int) - _IS_A.astype(int)
_FIRST = np.flatnonzero(~_IS_B)
_POLAR_SYMMETRY = SYMMETRY[_FIRST]
_POLAR_OF = np.cumsum(~_IS_B) - 1


def index(name):
    """Place of a coefficient in a vector.

    Args:
        name: one of `NAMES`, such as "C12a".

    Returns:
        An int in 0..24.

    Raises:
        ValueError: the name is not one of the 25.

    Example:
        >>> index("C12a")
        1
    """
    try:
        return NAMES.index(name)
    except ValueError:
        pass
    if name in POLAR_NAMES:
        remedy = f"it has two Cartesian parts, write {name}a or {name}b"
    elif near := difflib.get_close_matches(str(name), NAMES, n=3):
        remedy = f"did you mean {', '.join(near)}?"
    else:
        remedy = f"the names are {', '.join(NAMES)}"
    raise ValueError(f"unknown aberration {name!r}: {remedy}")


def indices(names):
    """Places of several coefficients in a vector, (P,) int; names must be known and distinct.

    Raises:
        ValueError: a name is unknown or occurs twice, or a bare string came instead of a list.

    Example:
        >>> indices(["C10", "C12b"])
        array([0, 2])
    """
    if isinstance(names, str):
        raise ValueError(f"expected a sequence of names, got {names!r}: write [{names!r}]")
    places = [index(name) for name in names]
    for place in places:
        if places.count(place) > 1:
            raise ValueError(f"{NAMES[place]} is named twice in {list(names)}: name it once")
    return np.array(places, dtype=int)


def places(names) -> tuple[int, ...]:
    """The same as a tuple, static for JAX."""
    return tuple(indices(names).tolist())


def vector(coefficients):
    """Vector of 25 coefficients from a mapping of names to values; what is not named is 0.

    Args:
        coefficients: mapping such as {"C10": 12.0, "C12a": -3.0}; any one unit.

    Returns:
        (25,) float64 NumPy array in the same unit.

    Raises:
        ValueError: a name is unknown.
    """
    values = np.zeros(len(NAMES))
    for name, value in coefficients.items():
        values[index(name)] = value
    return values


def dictionary(coefficients, names=None):
    """Mapping of names to Python floats from a vector of 25 coefficients.

    Args:
        coefficients: (25,), any unit.
        names: the names wanted, in the order wanted; all 25 when None.

    Raises:
        ValueError: a name is unknown, or the vector has not 25 entries.
    """
    values = np.asarray(coefficients)
    _check(values)
    names = NAMES if names is None else tuple(names)
    return {name: float(values[place]) for name, place in zip(names, indices(names), strict=True)}


def basis(x, y):
    """Basis functions, W = basis(x, y) @ coefficients.

    With w = x + iy: basis_a = Re(w^p conj(w)^q)/(n+1) and basis_b = Im(w^p conj(w)^q)/(n+1),
    p = (n+1+m)/2, q = (n+1-m)/2.  Pure polynomials in x and y, hence smooth at the origin.

    Args:
        x, y: arrays of one dtype that broadcast against each other; rad for coefficients in nm.

    Returns:
        (..., 25), dtype of x and y.
    """
    terms = circular.polynomials(_powers(), x, y)
    return jnp.stack([term / (n + 1) for term, n in zip(terms, ORDER.tolist(), strict=True)], -1)


def edge_basis(x, y, places=tuple(range(25))):
    """Basis functions without the 1/(n+1): chi = edge_basis(x, y) @ edge phases.

    Each is r^(n+1) cos(m phi) or r^(n+1) sin(m phi), at most 1 within the unit disc.

    Args:
        x, y: position in units of the aperture radius; broadcast against each other.
        places: static tuple of the F terms wanted.

    Returns:
        (..., F), dtype of x and y.
    """
    return jnp.stack(circular.polynomials(_powers(places), x, y), -1)


def edge_gradient(x, y, places=tuple(range(25))):
    """First derivatives of `edge_basis` along x and y, each (F, ...)."""
    rows, powers = circular.derivatives_of(_powers(places), circular.SLOPES)
    return tuple(circular.combinations(rows, powers, x, y))


def edge_curvature(edge_phases, x, y, places=tuple(range(25))):
    """Second derivatives of `chi` along xx, xy and yy, rad, each of the broadcast shape of x and y.

    Args:
        edge_phases: (F,), rad, of the terms at ``places``, a static tuple; the others are zero.
        x, y: position in units of the aperture radius; broadcast against each other.
    """
    rows, powers = circular.derivatives_of(_powers(places), circular.BENDS)
    return tuple(circular.combinations(_summed(edge_phases, rows), powers, x, y))


def edge_derivatives(edge_phases, x, y, places=tuple(range(25))):
    """`edge_gradient` (2, F, ...) and `edge_curvature` (3, ...) at the same positions, cheaper than
    one after the other."""
    rows, powers = circular.derivatives_of(_powers(places), circular.SLOPES + circular.BENDS)
    first = jnp.asarray(rows[:2], edge_phases.dtype).reshape(-1, len(powers))
    found = circular.combinations(
        jnp.concatenate([first, _summed(edge_phases, rows[2:])]), powers, x, y)
    slopes, bends = jnp.split(found, [len(first)])
    return slopes.reshape(2, len(places), *slopes.shape[1:]), bends


def _summed(edge_phases, rows):
    """Rows (K, F, U) -> (K, U): over the aberrations first, as positions are many."""
    return jnp.tensordot(jnp.asarray(rows, edge_phases.dtype), edge_phases, (1, 0),
                         precision="highest")


def wave_aberration(coefficients, x, y):
    """Wave aberration W(x, y) = sum_k coefficients_k basis_k(x, y).

    The terms are summed one by one, so that no (..., 25) array is held in memory.

    Args:
        coefficients: (25,), nm.
        x, y: angles in rad that broadcast against each other.

    Returns:
        W, nm, of the broadcast shape of x and y.

    Raises:
        ValueError: coefficients is not a vector of 25.

    Example:
        >>> round(float(wave_aberration(vector({"C10": 100.0}), 0.02, 0.0)), 6)  # 100 * 0.02^2 / 2
        0.02
    """
    _check(coefficients)
    coefficients = _floating(coefficients)
    return chi(coefficients / jnp.asarray(ORDER + 1, coefficients.dtype), x, y)


def chi(edge_phases, x, y):
    """Phase of the wave aberration from the phases at the aperture edge.

        chi = sum_nm a_nm r^(n+1) [cos | sin](m phi)

    Args:
        edge_phases: (25,), rad: coefficient [nm] times `jaxcal.optics.edge_phases` [rad/nm].
        x, y: position in units of the aperture radius; broadcast against each other.

    Returns:
        chi, rad, of the broadcast shape of x and y.

    Raises:
        ValueError: edge_phases is not a vector of 25.
    """
    _check(edge_phases)
    edge_phases = _floating(edge_phases)
    return sum(edge_phases[k] * term for k, term in enumerate(
        circular.polynomials(_powers(), x, y)))


def rotate(coefficients, angle_rad):
    """Coefficients of the surface turned by an angle: W'(phi) = W(phi - angle).

    The pair of C_nm turns by m times the angle; the azimuth phi_nm grows by the angle.  Positive
    turns x towards y, which is clockwise on a screen whose y points down.

    Args:
        coefficients: (25,), any unit.
        angle_rad: scalar, rad.

    Returns:
        (25,), same unit.
    """
    _check(coefficients)
    coefficients = _floating(coefficients)
    dtype = coefficients.dtype
    turn = jnp.asarray(SYMMETRY, dtype) * jnp.asarray(angle_rad, dtype)
    return coefficients * jnp.cos(turn) + (
        jnp.asarray(_SIGN, dtype) * coefficients[_PARTNER] * jnp.sin(turn)
    )


def to_polar(coefficients):
    """Magnitudes and azimuths, C_nm,a = C cos(m phi_nm), C_nm,b = C sin(m phi_nm).

    Not differentiable where a magnitude is 0.

    Args:
        coefficients: (25,), any unit.

    Returns:
        magnitudes: (14,) in the order of `POLAR_NAMES`; signed and unchanged where m = 0.
        azimuths: (14,), rad in (-pi/m, pi/m]; 0 where m = 0.
    """
    _check(coefficients)
    coefficients = _floating(coefficients)
    a, b = coefficients[_FIRST], coefficients[_PARTNER[_FIRST]]
    symmetry = jnp.asarray(np.maximum(_POLAR_SYMMETRY, 1), coefficients.dtype)
    round_ = _POLAR_SYMMETRY == 0
    magnitudes = jnp.where(round_, a, jnp.hypot(a, b))
    azimuths = jnp.where(round_, jnp.zeros_like(a), jnp.arctan2(b, a) / symmetry)
    return magnitudes, azimuths


def from_polar(magnitudes, azimuths):
    """Cartesian coefficients from magnitudes and azimuths; the inverse of `to_polar`.

    Args:
        magnitudes: (14,), any unit, in the order of `POLAR_NAMES`.
        azimuths: (14,), rad; without effect where m = 0.

    Returns:
        (25,), unit of the magnitudes.

    Raises:
        ValueError: the arguments are not two vectors of 14.
    """
    if np.shape(magnitudes) != (14,) or np.shape(azimuths) != (14,):
        raise ValueError(
            f"expected magnitudes and azimuths of shape (14,) in the order of POLAR_NAMES, got "
            f"{np.shape(magnitudes)} and {np.shape(azimuths)}: give 0 for what is not known"
        )
    magnitudes = _floating(magnitudes)
    dtype = magnitudes.dtype
    turn = (jnp.asarray(_POLAR_SYMMETRY, dtype) * jnp.asarray(azimuths, dtype))[_POLAR_OF]
    return magnitudes[_POLAR_OF] * jnp.where(_IS_B, jnp.sin(turn), jnp.cos(turn))


def _powers(places=range(25)):
    """Names (p, q, b) of the polynomials r^(n+1) [cos | sin](m phi) at places."""
    return [((n + 1 + m) // 2, (n + 1 - m) // 2, bool(b)) for n, m, b in zip(
        ORDER[list(places)].tolist(), SYMMETRY[list(places)].tolist(), _IS_B[list(places)],
        strict=True)]


def _floating(values):
    return jnp.asarray(values, jnp.result_type(values, float))


def _check(coefficients):
    if np.shape(coefficients) != (len(NAMES),):
        raise ValueError(
            f"expected 25 coefficients in the order of jaxcal.aberrations.NAMES, got shape "
            f"{np.shape(coefficients)}: build them with vector({{name: value}}), batch with vmap"
        )


def flip(coefficients):
    """Coefficients of the surface mirrored at the x axis, W'(x, y) = W(x, -y): b changes sign.

    Args:
        coefficients: (25,), any unit.
    """
    _check(coefficients)
    coefficients = _floating(coefficients)
    return jnp.where(_IS_B, -coefficients, coefficients)


def transpose(coefficients):
    """Coefficients of the surface with x and y exchanged, W'(x, y) = W(y, x).

    The azimuth phi becomes pi/2 - phi: a mirror image turned by a quarter.

    Args:
        coefficients: (25,), any unit.
    """
    return rotate(flip(coefficients), np.pi / 2)
