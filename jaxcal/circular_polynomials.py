"""The polynomials that make up a wave aberration, Re and Im of w^p conj(w)^q with w = x + iy, and
their derivatives, which are polynomials of the same kind.

Pure polynomials in x and y, hence smooth at the origin.  Each is named by (p, q, b) with p >= q:
the real part, or the imaginary one where b.
"""

import jax.numpy as jnp
import numpy as np

DEGREE = 6
POWERS = [(p, q, b) for p in range(DEGREE + 1) for q in range(min(p, DEGREE - p) + 1)
          for b in ((False, True) if p > q else (False,))]
"""The 28 polynomials to that degree."""


def polynomials(powers, x, y):
    """Each of ``powers`` at positions that broadcast against each other, a list of arrays.

    w^m = cosines[m] + i sines[m] and the rest is an integer power of r^2; real arithmetic keeps
    the dtype and spares the compiler complex products.
    """
    dtype = jnp.result_type(x, y, float)
    x, y = jnp.broadcast_arrays(jnp.asarray(x, dtype), jnp.asarray(y, dtype))
    cosines, sines, radial = _circular(x, y)
    return [(sines if b else cosines)[p - q] * radial[q] for p, q, b in powers]


def _derivative(along) -> np.ndarray:
    """Matrix (28, 28), each row the derivative of one of `POWERS`, in terms of `POWERS`, along x,
    ``along`` = 1, or y, i."""
    matrix = np.zeros((len(POWERS),) * 2)
    for row, (p, q, b) in enumerate(POWERS):
        # d(w^p conj(w)^q) = p w^(p-1) conj(w)^q dw + q w^p conj(w)^(q-1) conj(dw)
        for factor, up, down in ((p * along, p - 1, q), (q * np.conj(along), p, q - 1)):
            if min(up, down) < 0:
                continue
            turned = down > up  # the conjugate is in the table
            part = factor * (-1j if b else 1)  # Im z = Re(-i z)
            powers = max(up, down), min(up, down)
            matrix[row, POWERS.index((*powers, False))] += part.real
            if up != down:
                matrix[row, POWERS.index((*powers, True))] += part.imag if turned else -part.imag
    return matrix


SLOPES = _derivative(1 + 0j), _derivative(1j)
"""First derivatives along x and y, matrices as of `_derivative`."""
BENDS = SLOPES[0] @ SLOPES[0], SLOPES[0] @ SLOPES[1], SLOPES[1] @ SLOPES[1]
"""Second derivatives along xx, xy and yy."""


def derivatives_of(powers, matrices):
    """Derivatives of the F polynomials ``powers`` by each of ``matrices``, as rows (len(matrices),
    F, U) over the U polynomials that they combine, and these."""
    rows = np.stack(matrices)[:, [POWERS.index(one) for one in powers]]
    used = np.flatnonzero(np.any(rows, (0, 1)))
    return rows[..., used], [POWERS[place] for place in used]


def combinations(rows, powers, x, y):
    """Linear combinations (K, ..., U) of U polynomials -> (K, ..., shape of x and y).

    A table of the polynomials and small matrices of numbers: the compiler has little to do.
    """
    table = jnp.stack(polynomials(powers, x, y))
    return jnp.tensordot(jnp.asarray(rows, table.dtype), table, 1, precision="highest")


def _circular(x, y):
    """cos(m phi) r^m and sin(m phi) r^m for m to DEGREE, and r^(2k) for k to half of it, lists of
    arrays, by recurrence."""
    cosines, sines = [jnp.ones_like(x)], [jnp.zeros_like(x)]
    for _ in range(DEGREE):
        c, s = cosines[-1], sines[-1]
        cosines.append(c * x - s * y)
        sines.append(c * y + s * x)
    radial, square = [jnp.ones_like(x)], x * x + y * y
    for _ in range(DEGREE // 2):
        radial.append(radial[-1] * square)
    return cosines, sines, radial
