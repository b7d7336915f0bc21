"""The wave aberration: closed forms, equality with the reference, symmetries, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import aberrations as ab
from jaxcal.reference import aberrations as reference

RNG = np.random.default_rng(7)
X, Y = RNG.uniform(-1, 1, (2, 5, 9))
SCALE = 10.0 ** RNG.uniform(-1, 2, 25)
COEFFICIENTS = SCALE * RNG.normal(size=25)

coefficient_vectors = st.lists(st.floats(-100, 100, allow_nan=False), min_size=25, max_size=25).map(
    np.array
)
azimuths = st.floats(-7, 7, allow_nan=False)


def alone(name, value=1.0):
    return ab.vector({name: value})


# Names


def test_the_order_is_the_one_every_file_relies_on():
    expected = (
        "C10 C12a C12b C21a C21b C23a C23b C30 C32a C32b C34a C34b C41a C41b C43a C43b C45a C45b "
        "C50 C52a C52b C54a C54b C56a C56b"
    )
    assert " ".join(ab.NAMES) == expected
    assert ab.NAMES == reference.NAMES
    assert ab.POLAR_NAMES == reference.POLAR_NAMES


@pytest.mark.parametrize("table", ["ORDER", "SYMMETRY", "PARITY"])
def test_tables_equal_the_reference(table):
    assert_array_equal(getattr(ab, table), getattr(reference, table))


def test_vector_and_dictionary_are_inverse():
    named = {"C10": 1.0, "C23b": -2.0, "C56b": 3.0}
    assert ab.dictionary(ab.vector(named), named) == named
    assert_array_equal(ab.vector(ab.dictionary(COEFFICIENTS)), COEFFICIENTS)
    assert_array_equal(ab.indices(["C12b", "C10"]), [2, 0])


# Closed forms


@pytest.mark.parametrize(
    ("name", "surface"),
    [
        ("C10", lambda x, y: (x**2 + y**2) / 2),
        ("C12a", lambda x, y: (x**2 - y**2) / 2),
        ("C12b", lambda x, y: x * y),
        ("C21a", lambda x, y: (x**2 + y**2) * x / 3),
        ("C21b", lambda x, y: (x**2 + y**2) * y / 3),
        ("C23a", lambda x, y: (x**3 - 3 * x * y**2) / 3),
        ("C23b", lambda x, y: (3 * x**2 * y - y**3) / 3),
        ("C30", lambda x, y: (x**2 + y**2) ** 2 / 4),
        ("C34b", lambda x, y: x**3 * y - x * y**3),
        ("C50", lambda x, y: (x**2 + y**2) ** 3 / 6),
    ],
)
def test_polynomials_by_hand(name, surface):
    assert_allclose(ab.wave_aberration(alone(name), X, Y), surface(X, Y), atol=1e-15)


@pytest.mark.parametrize("name", ab.NAMES)
def test_the_definition_in_polar_coordinates(name):
    n, m = int(name[1]), int(name[2])
    radius, azimuth = np.hypot(X, Y), np.arctan2(Y, X)
    wave = np.sin(m * azimuth) if name.endswith("b") else np.cos(m * azimuth)
    expected = radius ** (n + 1) / (n + 1) * wave
    assert_allclose(ab.wave_aberration(alone(name), X, Y), expected, atol=1e-14)
    assert_allclose(ab.chi(alone(name), X, Y), (n + 1) * expected, atol=1e-14)


def test_no_aberration_is_flat_and_edge_terms_are_at_most_one():
    assert_array_equal(ab.chi(np.zeros(25), X, Y), np.zeros_like(X))
    angle = np.linspace(0, 2 * np.pi, 721)
    peaks = np.abs(ab.edge_basis(np.cos(angle), np.sin(angle))).max(0)
    assert_allclose(peaks, 1, atol=1e-12)


def test_curvature_at_the_origin_is_defocus_and_astigmatism():
    hessian = jax.hessian(lambda p: ab.wave_aberration(COEFFICIENTS, p[0], p[1]))(jnp.zeros(2))
    c10, c12a, c12b = COEFFICIENTS[:3]
    assert_allclose(hessian, [[c10 + c12a, c12b], [c12b, c10 - c12a]], rtol=1e-12)


def test_y_points_down_the_rows():
    rows, columns = np.indices((3, 3)) - 1.0
    surface = ab.wave_aberration(alone("C21b", 3.0), columns, rows)
    assert surface[2, 1] > 0 > surface[0, 1]


# Equality with the reference


@pytest.mark.parametrize("function", ["basis", "edge_basis"])
def test_basis_equals_the_reference(function):
    found = getattr(ab, function)(X, Y)
    assert_allclose(found, getattr(reference, function)(X, Y), rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("function", ["wave_aberration", "chi"])
def test_surface_equals_the_reference(function):
    found = getattr(ab, function)(COEFFICIENTS, X, Y)
    expected = getattr(reference, function)(COEFFICIENTS, X, Y)
    assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_float32_is_within_its_rounding():
    """Each of the 25 terms carries a few roundings, so the error scales with their sizes."""
    found = ab.chi(np.float32(COEFFICIENTS), np.float32(X), np.float32(Y))
    expected = reference.chi(np.float32(COEFFICIENTS), np.float32(X), np.float32(Y))
    largest = (np.abs(reference.edge_basis(X, Y)) @ np.abs(COEFFICIENTS)).max()
    assert_allclose(found, expected, rtol=0, atol=4 * np.finfo(np.float32).eps * largest)


def test_turns_mirrors_and_polar_equal_the_reference():
    assert_allclose(
        ab.rotate(COEFFICIENTS, 0.7), reference.rotate(COEFFICIENTS, 0.7), rtol=1e-10, atol=1e-10
    )
    for function in ("flip", "transpose"):
        found, expected = (getattr(where, function)(COEFFICIENTS) for where in (ab, reference))
        assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    for found, expected in zip(
        ab.to_polar(COEFFICIENTS), reference.to_polar(COEFFICIENTS), strict=True
    ):
        assert_allclose(found, expected, rtol=1e-10)
    assert_allclose(
        ab.from_polar(*reference.to_polar(COEFFICIENTS)), COEFFICIENTS, rtol=1e-10, atol=1e-10
    )


# Properties


@settings(deadline=None, max_examples=50)
@given(coefficient_vectors, azimuths)
def test_rotating_the_coefficients_rotates_the_surface(coefficients, angle):
    cosine, sine = np.cos(angle), np.sin(angle)
    turned = ab.wave_aberration(ab.rotate(coefficients, angle), X, Y)
    expected = ab.wave_aberration(coefficients, cosine * X + sine * Y, cosine * Y - sine * X)
    assert_allclose(turned, expected, atol=1e-10)


@settings(deadline=None, max_examples=50)
@given(coefficient_vectors, azimuths)
def test_rotation_turns_the_pair_by_m_times_the_angle(coefficients, angle):
    before, after = np.asarray(coefficients), np.asarray(ab.rotate(coefficients, angle))
    for name in ab.POLAR_NAMES:
        m = int(name[2])
        if m:
            a, b = ab.index(name + "a"), ab.index(name + "b")
            expected = (before[a] + 1j * before[b]) * np.exp(1j * m * angle)
            assert_allclose(after[a] + 1j * after[b], expected, atol=1e-10)
        else:
            assert_allclose(after[ab.index(name)], before[ab.index(name)], atol=1e-300)


@settings(deadline=None, max_examples=50)
@given(coefficient_vectors)
def test_polar_and_cartesian_are_the_same_surface(coefficients):
    magnitudes, directions = (np.asarray(part) for part in ab.to_polar(coefficients))
    radius, azimuth = np.hypot(X, Y), np.arctan2(Y, X)
    surface = sum(
        size * radius ** (int(name[1]) + 1) / (int(name[1]) + 1)
        * np.cos(int(name[2]) * (azimuth - direction))
        for name, size, direction in zip(ab.POLAR_NAMES, magnitudes, directions, strict=True)
    )  # fmt: skip
    assert_allclose(ab.wave_aberration(coefficients, X, Y), surface, atol=1e-10)
    back = ab.from_polar(magnitudes, directions)
    assert_allclose(ab.wave_aberration(back, X, Y), surface, atol=1e-10)


@settings(deadline=None, max_examples=50)
@given(coefficient_vectors)
def test_point_reflection_flips_the_odd_terms(coefficients):
    reflected = ab.wave_aberration(coefficients, -X, -Y)
    assert_allclose(ab.wave_aberration(ab.PARITY * coefficients, X, Y), reflected, atol=1e-12)
    mirrored = ab.wave_aberration(-coefficients, X, Y)
    assert_allclose(mirrored, -ab.wave_aberration(coefficients, X, Y), atol=1e-12)


@settings(deadline=None, max_examples=50)
@given(coefficient_vectors)
def test_mirror_images(coefficients):
    flipped = ab.wave_aberration(ab.flip(coefficients), X, Y)
    assert_allclose(flipped, ab.wave_aberration(coefficients, X, -Y), atol=1e-12)
    exchanged = ab.wave_aberration(ab.transpose(coefficients), X, Y)
    assert_allclose(exchanged, ab.wave_aberration(coefficients, Y, X), atol=1e-10)


# Gradients


@pytest.mark.parametrize("seed", range(3))
def test_gradients_by_finite_differences(seed):
    rng = np.random.default_rng(seed)
    weights, direction = rng.normal(size=X.shape), rng.normal(size=25)

    def projection(coefficients, x, y):
        return jnp.sum(weights * jnp.sin(ab.chi(ab.rotate(coefficients, 0.4), x, y)))

    point = (COEFFICIENTS / 30, X, Y)
    steps = (direction, rng.normal(size=X.shape), rng.normal(size=X.shape))
    gradients = jax.grad(projection, argnums=(0, 1, 2))(*point)
    for argument in range(3):

        def along(h, argument=argument):
            moved = list(point)
            moved[argument] = moved[argument] + h * steps[argument]
            return projection(*moved)

        difference = (along(1e-5) - along(-1e-5)) / 2e-5
        exact = jnp.sum(gradients[argument] * steps[argument])
        assert_allclose(exact, difference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ab.NAMES)
def test_gradients_are_finite_at_the_origin(name):
    gradient = jax.grad(lambda p: ab.wave_aberration(alone(name), p[0], p[1]))(jnp.zeros(2))
    assert_array_equal(gradient, np.zeros(2))


@pytest.mark.parametrize("places", [tuple(range(25)), (0, 1, 2), (0, 5, 7, 24)])
def test_slopes_and_curvature_are_the_derivatives_of_the_phase(places):
    phases = COEFFICIENTS[list(places)]

    def phase(x, y):
        return jnp.sum(phases * ab.edge_basis(x, y, places))

    slopes = [jax.vmap(jax.grad(phase, k))(X.ravel(), Y.ravel()) for k in (0, 1)]
    for found, expected in zip(ab.edge_gradient(X, Y, places), slopes, strict=True):
        assert_allclose(np.tensordot(phases, found, 1).ravel(), expected, rtol=1e-10, atol=1e-9)
    (xx, xy), (_, yy) = jax.vmap(jax.hessian(phase, (0, 1)))(X.ravel(), Y.ravel())
    for found, expected in zip(ab.edge_curvature(phases, X, Y, places), (xx, xy, yy), strict=True):
        assert_allclose(found.ravel(), expected, rtol=1e-10, atol=1e-9)
    slopes, bends = ab.edge_derivatives(phases, X, Y, places)
    assert_allclose(slopes, ab.edge_gradient(X, Y, places), rtol=1e-12, atol=1e-12)
    assert_allclose(bends, ab.edge_curvature(phases, X, Y, places), rtol=1e-12, atol=1e-9)


# One table over all numerical functions

TABLE = {
    "basis": (ab.basis, lambda rng: rng.uniform(-1, 1, (2, 6))),
    "edge_basis": (ab.edge_basis, lambda rng: rng.uniform(-1, 1, (2, 6))),
    "edge_gradient": (  # up to six, and differences of terms of that size
        lambda x, y: jax.tree.map(lambda one: 0.1 * one, ab.edge_gradient(x, y)),
        lambda rng: rng.uniform(-1, 1, (2, 6))),
    "edge_curvature": (
        ab.edge_curvature, lambda rng: (0.02 * rng.normal(size=25), *rng.uniform(-1, 1, (2, 6)))),
    "edge_derivatives": (
        ab.edge_derivatives, lambda rng: (0.02 * rng.normal(size=25), *rng.uniform(-1, 1, (2, 6)))),
    "wave_aberration": (
        ab.wave_aberration, lambda rng: (rng.normal(size=25), *rng.uniform(-1, 1, (2, 6)))),
    "chi": (ab.chi, lambda rng: (rng.normal(size=25), *rng.uniform(-1, 1, (2, 6)))),
    "rotate": (ab.rotate, lambda rng: (rng.normal(size=25), rng.normal())),
    "flip": (ab.flip, lambda rng: (rng.normal(size=25),)),
    "transpose": (ab.transpose, lambda rng: (rng.normal(size=25),)),
    "to_polar": (ab.to_polar, lambda rng: (rng.normal(size=25),)),
    "from_polar": (ab.from_polar, lambda rng: rng.normal(size=(2, 14))),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TABLE)
def test_compiled_batched_traced_once_dtype_kept(name, dtype):
    function, draw = TABLE[name]
    traces = []

    def counted(*arguments):
        traces.append(1)
        return function(*arguments)

    compiled = jax.jit(counted)
    samples = [
        tuple(jnp.asarray(part, dtype) for part in draw(np.random.default_rng(k))) for k in range(3)
    ]
    tolerance = {"rtol": 20 * np.finfo(dtype).eps, "atol": 20 * np.finfo(dtype).eps}
    eager = [function(*sample) for sample in samples]
    for sample, expected in zip(samples, eager, strict=True):
        found = compiled(*sample)
        jax.tree.map(lambda a, b: assert_allclose(a, b, **tolerance), found, expected)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(found))
    assert len(traces) == 1
    batch = jax.vmap(function)(*(jnp.stack(parts) for parts in zip(*samples, strict=True)))
    loop = jax.tree.map(lambda *leaves: jnp.stack(leaves), *eager)
    jax.tree.map(lambda a, b: assert_allclose(a, b, **tolerance), batch, loop)


def test_integers_become_floats():
    assert jnp.issubdtype(ab.wave_aberration(np.ones(25, int), 1, 0).dtype, jnp.floating)
    assert_allclose(ab.rotate(np.arange(25), np.pi)[3], -3.0)


# Bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ab.index("C12"), "write C12a or C12b"),
        (lambda: ab.index("C12c"), "did you mean C12"),
        (lambda: ab.index("defocus"), "the names are C10, C12a"),
        (lambda: ab.indices("C10"), r"write \['C10'\]"),
        (lambda: ab.indices(["C10", "C10"]), "C10 is named twice"),
        (lambda: ab.vector({"A1": 1.0}), "unknown aberration 'A1'"),
        (lambda: ab.dictionary(np.zeros(7)), r"expected 25 coefficients.*got shape \(7,\)"),
        (lambda: ab.wave_aberration(np.zeros((3, 25)), X, Y), "batch with vmap"),
        (lambda: ab.chi(np.zeros(24), X, Y), "expected 25 coefficients"),
        (lambda: ab.rotate(np.zeros(3), 0.1), "expected 25 coefficients"),
        (lambda: ab.to_polar(np.zeros(14)), "expected 25 coefficients"),
        (lambda: ab.from_polar(np.zeros(25), np.zeros(14)), r"shape \(14,\).*got \(25,\)"),
    ],
)
def test_bad_input_is_told_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()
