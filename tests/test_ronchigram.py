"""Probe, far field and coherence: closed forms, equality with the reference, symmetries, faults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import aberrations as ab
from jaxcal import ronchigram as rg
from jaxcal.reference import ronchigram as reference

SIZE, RADIUS = 64, 12.0
SHARP = rg.Quadrature(np.zeros((1, 3)), np.ones(1))
NODES = rg.quadrature(0.5, 0.1, 3, 2)


COARSE = jax.jit(rg.steepest_slope)


def phases(**named):
    return ab.vector(named)


def draw(seed, largest=3.0):
    return largest * np.random.default_rng(seed).normal(size=25)


def film(seed, slices=1, strength=0.3, size=SIZE):
    """Phase objects band-limited to a third of the grid, (slices, size, size)."""
    frequency = np.abs(np.fft.fftfreq(size))
    low = (frequency[:, None] < 0.16) & (frequency[None, :] < 0.16)
    noise = np.random.default_rng(seed).normal(size=(slices, size, size))
    noise = np.fft.ifft2(np.fft.fft2(noise) * low).real
    return np.exp(1j * strength * noise / noise.std())


@jax.jit
def compiled(values, transmission, nodes, slice_defocus):
    return rg.ronchigram(values, transmission, RADIUS, nodes, slice_defocus=slice_defocus)


def frame(values, transmission, nodes=SHARP, slice_defocus=0.0):
    return np.asarray(compiled(values, transmission, nodes, slice_defocus))


def reflected(image):
    """The image at the opposite pixels, without the first row and column that have none."""
    return image[:0:-1, :0:-1]


# Closed forms


@pytest.mark.parametrize("slices", [1, 3])
def test_no_specimen_is_a_disc_whatever_the_aberrations(slices):
    empty = np.ones((slices, SIZE, SIZE), complex)
    found = frame(draw(0), empty, NODES, slice_defocus=0.7)
    assert_allclose(found, rg.amplitude(*rg.lines(SIZE, RADIUS), RADIUS) ** 2, atol=1e-12)
    assert_allclose([found[SIZE // 2, SIZE // 2], found[0, 0]], [1, 0], atol=1e-12)


def test_phase_objects_keep_the_electrons():
    """Parseval: |t| = 1 moves intensity about but makes and loses none."""
    found = frame(draw(1), film(1, 3, 0.8), NODES, slice_defocus=0.3)
    empty = rg.amplitude(*rg.lines(SIZE, RADIUS), RADIUS) ** 2
    assert_allclose(found.sum(), empty.sum(), rtol=1e-12)
    assert np.abs(found - empty).max() > 0.1


def test_without_aberrations_the_plate_is_the_aperture():
    plate = rg.phase_plate(np.zeros(25), SIZE, RADIUS)
    assert_allclose(np.fft.fftshift(plate), rg.amplitude(*rg.lines(SIZE, RADIUS), RADIUS))


def test_defocus_is_a_parabola_of_phase():
    """The plate's argument along a line through the centre is -a rho^2."""
    line = np.fft.fftshift(rg.phase_plate(phases(C10=3.0), SIZE, RADIUS))[SIZE // 2]
    rho = (np.arange(SIZE) - SIZE // 2) / RADIUS
    inside = np.abs(rho) < 0.95
    assert_allclose(np.angle(line[inside]), -3.0 * rho[inside] ** 2, atol=1e-12)


def test_a_defocused_probe_is_as_wide_as_geometry_says():
    """W = a rho^2 / 2 pi waves displaces rays to |grad W| = (a/pi) rho: an even disc of a/pi."""
    radius, size, defocus = 48.0, 256, 60.0
    probe = np.abs(np.fft.ifft2(rg.phase_plate(phases(C10=defocus), size, radius))) ** 2
    place = np.fft.fftfreq(size, 1 / size) * radius / size
    distance = np.hypot(place[:, None], place[None, :])
    mean_square = (probe * distance**2).sum() / probe.sum()
    assert_allclose(np.sqrt(2 * mean_square), defocus / np.pi, rtol=0.03)


def test_weak_phase_contrast_of_defocus_is_a_sine():
    """At the centre the contrast of e cos(2 pi q x) is 2 e sin(a q^2): zero in focus, odd in a."""
    strength, step = 1e-4, 4
    phase = strength * np.cos(2 * np.pi * step * np.arange(SIZE) / SIZE)
    weak = np.broadcast_to(np.exp(1j * phase), (1, SIZE, SIZE))
    for defocus in (-3.0, 0.0, 3.0):
        contrast = frame(phases(C10=defocus), weak)[SIZE // 2, SIZE // 2] - 1
        expected = 2 * strength * np.sin(defocus * (step / RADIUS) ** 2)
        assert_allclose(contrast, expected, atol=10 * strength**2)


def test_focal_spread_damps_by_its_envelope():
    """sin(a q^2) averages to sin(a q^2) exp(-(s q^2)^2/2)."""
    strength, step, defocus, spread = 1e-4, 8, 2.0, 1.5
    phase = strength * np.cos(2 * np.pi * step * np.arange(SIZE) / SIZE)
    weak = np.broadcast_to(np.exp(1j * phase), (1, SIZE, SIZE))
    found = frame(phases(C10=defocus), weak, rg.quadrature(spread, 0.0, 9, 1))
    square = (step / RADIUS) ** 2
    expected = 2 * strength * np.sin(defocus * square) * np.exp(-((spread * square) ** 2) / 2)
    assert_allclose(found[SIZE // 2, SIZE // 2] - 1, expected, atol=10 * strength**2)


def test_quadrature_has_the_moments_of_a_normal_distribution():
    nodes = rg.quadrature(1.7, 0.3, 5, 4)
    assert nodes.shifts.shape == (80, 3)
    assert_allclose(nodes.weights.sum(), 1)
    second = np.einsum("m,mi,mj->ij", nodes.weights, nodes.shifts, nodes.shifts)
    assert_allclose(second, np.diag([1.7, 0.3, 0.3]) ** 2, atol=1e-14)


# Equality with the reference


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_frames_equal_the_reference(slices):
    transmission = film(slices, slices)
    arguments = (draw(2, 20.0), transmission, RADIUS)
    found = rg.ronchigram(*arguments, NODES, slice_defocus=0.4)
    expected = reference.ronchigram(
        *arguments, reference.quadrature(0.5, 0.1, 3, 2), slice_defocus=0.4
    )
    assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def test_parts_equal_the_reference():
    assert_allclose(rg.lines(SIZE, RADIUS)[0], reference.lines(SIZE, RADIUS)[0])
    x, y = rg.lines(SIZE, RADIUS)
    assert_allclose(
        rg.amplitude(x, y, RADIUS), reference.amplitude(x, y, RADIUS), rtol=0, atol=1e-13
    )
    for found, expected in zip(NODES, reference.quadrature(0.5, 0.1, 3, 2), strict=True):
        assert_allclose(found, expected, rtol=1e-10, atol=1e-15)
    values = draw(3, 50.0)
    plate = rg.phase_plate(values, SIZE, RADIUS)
    assert_allclose(plate, reference.phase_plate(values, SIZE, RADIUS), rtol=0, atol=1e-10)
    shift = np.array([2.0, -0.7, 1.3])
    line_x, line_y = rg.defocus_and_shift(shift, SIZE, RADIUS)
    expected = reference.defocus_and_shift(shift, SIZE, RADIUS)
    assert_allclose(line_x * line_y, expected, atol=1e-12)
    far = rg.far_field(plate, film(3, 2), RADIUS, 0.3)
    expected = reference.far_field(np.asarray(plate), film(3, 2), RADIUS, 0.3)
    assert_allclose(far, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size, radius, side", [(64, 20.0, 44), (64, 20.0, 64), (63, 31.0, 40)])
def test_the_middle_of_a_frame_alone(size, radius, side):
    """Also where the aperture is as wide as the grid, and where the grid is odd."""
    layers, values = film(5, 2, size=size), draw(2, 5.0)
    whole = rg.ronchigram(values, layers, radius, NODES, slice_defocus=0.3)
    assert_allclose(whole, reference.ronchigram(
        values, np.asarray(layers), radius, NODES, slice_defocus=0.3), atol=1e-10)
    first = size // 2 - side // 2
    found = rg.ronchigram(values, layers, radius, NODES, slice_defocus=0.3, side=side)
    assert_allclose(found, whole[first : first + side, first : first + side], atol=1e-12)


@pytest.mark.parametrize("largest", [76.0, 764.0])
def test_float32_error_is_that_of_the_phase(largest):
    """Relative L2 error of a frame at most eps32 max|chi|: a whole frame of 128 pixels."""
    size, radius = 128, 36.0
    values = draw(4)
    x, y = rg.lines(size, radius)
    disc = np.hypot(x, y) <= 1
    values *= largest / np.abs(np.asarray(ab.chi(values, x, y))[disc]).max()
    values = np.float32(values)
    transmission = film(4, 1, 0.3, size).astype(np.complex64)
    nodes = rg.quadrature(np.float32(0.5), np.float32(0.0), 3, 1)
    found = rg.ronchigram(values, transmission, radius, nodes)
    assert found.dtype == jnp.float32
    expected = reference.ronchigram(
        values, transmission, radius, reference.quadrature(0.5, 0.0, 3, 1)
    )
    error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert error < np.finfo(np.float32).eps * largest


@pytest.mark.parametrize("seed", range(6))
def test_the_needed_radius_equals_the_reference(seed):
    """From 360 azimuths and 20 circles; the training stream's coarse ones read up to 2 % low."""
    values = draw(seed, 10.0**seed / 100)
    need = reference.required_radius(values)
    assert_allclose(rg.required_radius(values), need, rtol=1e-5)
    assert 0.97 * need < 2 * COARSE(values) <= need * 1.001


def test_steepest_slope_of_one_term_is_by_hand():
    assert_allclose(rg.steepest_slope(phases(C10=2 * np.pi * 3)), 6, rtol=1e-12)
    assert_allclose(rg.steepest_slope(phases(C30=-2 * np.pi)), 4, rtol=1e-12)


# Symmetries


@pytest.mark.parametrize("slices", [1, 2])
def test_transposed_instrument_and_film_give_the_transposed_frame(slices):
    values, transmission = draw(5), film(5, slices)
    found = frame(ab.transpose(values), transmission.swapaxes(1, 2), NODES, slice_defocus=0.5)
    assert_allclose(found.T, frame(values, transmission, NODES, slice_defocus=0.5), atol=1e-12)


def test_mirrored_instrument_and_film_give_the_mirrored_frame():
    values, transmission = draw(6), film(6)
    mirror = np.roll(transmission[:, ::-1], 1, axis=1)
    found, expected = frame(ab.flip(values), mirror), frame(values, transmission)
    assert_allclose(found[:0:-1], expected[1:], atol=1e-12)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_odd_terms_flipped_is_the_specimen_point_reflected(seed):
    """chi(-rho) is chi with the odd terms' sign turned: exact for any film, thick or thin."""
    values, transmission = draw(seed), film(seed, 2)
    opposite = np.roll(transmission[:, ::-1, ::-1], (1, 1), axis=(1, 2))
    found = frame(ab.PARITY * values, opposite, NODES, slice_defocus=0.5)
    expected = frame(values, transmission, NODES, slice_defocus=0.5)
    assert_allclose(found[1:, 1:], reflected(expected), atol=1e-11)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_even_terms_flipped_is_the_conjugate_specimen_point_reflected(seed):
    """-chi(-rho) is chi with the even terms' sign turned: the probe becomes its conjugate."""
    values, transmission = draw(seed), film(seed)
    found = frame(-ab.PARITY * values, transmission.conj(), NODES)
    assert_allclose(found[1:, 1:], reflected(frame(values, transmission, NODES)), atol=1e-11)


def test_of_a_weak_film_flipping_the_even_terms_inverts_and_reflects_the_contrast():
    """Hence the full-frame power spectrum cannot tell the two apart."""
    values, transmission = draw(7), film(7, strength=1e-4)
    disc = np.hypot(*np.broadcast_arrays(*rg.lines(SIZE, RADIUS)))[1:, 1:] < 0.9
    first = frame(values, transmission)[1:, 1:] - 1
    second = reflected(frame(-ab.PARITY * values, transmission)) - 1
    assert np.abs(first[disc]).max() > 1e-5
    assert_allclose(second[disc], -first[disc], atol=1e-6)


def test_a_displaced_probe_sees_the_specimen_displaced():
    columns, rows = 5, -3  # of the real-space grid, whose pixel is RADIUS/SIZE wide
    shifts = np.array([[0.0, columns * RADIUS / SIZE, rows * RADIUS / SIZE]])
    found = frame(draw(8), film(8), rg.Quadrature(shifts, np.ones(1)))
    rolled = np.roll(film(8), (-rows, -columns), axis=(1, 2))
    assert_allclose(found, frame(draw(8), rolled), atol=1e-12)


def test_c10_counts_at_the_middle_plane():
    """Of two slices one is empty: a film half a spacing before or behind the middle."""
    values, spacing = draw(9), 0.8
    for occupied, sign in ((0, -1), (1, 1)):
        transmission = np.ones((2, SIZE, SIZE), complex)
        transmission[occupied] = film(9)[0]
        found = frame(values, transmission, slice_defocus=spacing)
        moved = values + phases(C10=sign * spacing / 2)
        assert_allclose(found, frame(moved, transmission[[occupied]]), atol=1e-12)


# Derivatives, compilation


def test_gradients_by_finite_differences():
    transmission, weights = film(10, 2), np.random.default_rng(10).normal(size=(SIZE, SIZE))

    def projection(values, spread, source, spacing):
        nodes = rg.quadrature(spread, source, 3, 2)
        image = rg.ronchigram(values, transmission, RADIUS, nodes, slice_defocus=spacing)
        return jnp.sum(weights * image)

    arguments = (jnp.asarray(draw(10)), 0.5, 0.1, 0.4)
    gradient = jax.grad(projection, argnums=(0, 1, 2, 3))(*arguments)
    direction = np.random.default_rng(11).normal(size=25)
    fast, step = jax.jit(projection), 1e-5
    for place, along in enumerate((direction, 1.0, 1.0, 1.0)):
        ends = [
            fast(*(a + sign * step * along if k == place else a
                   for k, a in enumerate(arguments)))
            for sign in (1, -1)
        ]  # fmt: skip
        assert_allclose(
            np.sum(gradient[place] * along), (ends[0] - ends[1]) / (2 * step), rtol=1e-6
        )


NODES32 = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), NODES)
TABLE = {
    "steepest_slope": (rg.steepest_slope, lambda s, d: (draw(s).astype(d),)),
    "amplitude": (
        lambda x, y: rg.amplitude(x, y, RADIUS),
        lambda s, d: tuple(np.random.default_rng(s).uniform(-1, 1, (2, 5)).astype(d)),
    ),
    "quadrature": (
        lambda spread: rg.quadrature(spread, 0.1, 3, 2).shifts,
        lambda s, d: (jnp.asarray(0.3 + s, d),),
    ),
    "phase_plate": (
        lambda values: rg.phase_plate(values, SIZE, RADIUS), lambda s, d: (draw(s).astype(d),)
    ),
    "defocus_and_shift": (
        lambda shift: rg.defocus_and_shift(shift, SIZE, RADIUS),
        lambda s, d: (draw(s)[:3].astype(d),),
    ),
    "ronchigram": (
        lambda values, t: rg.ronchigram(
            values, t, RADIUS, NODES if values.dtype == np.float64 else NODES32, slice_defocus=0.3
        ),
        lambda s, d: (
            draw(s).astype(d), film(s, 2).astype(np.complex64 if d == np.float32 else complex)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", TABLE)
def test_compiled_batched_traced_once_dtype_kept(name, dtype):
    function, make = TABLE[name]
    traces = []

    def counted(*arguments):
        traces.append(1)
        return function(*arguments)

    compiled, samples = jax.jit(counted), [make(seed, dtype) for seed in (1, 2)]
    samples = [tuple(jnp.asarray(a) for a in sample) for sample in samples]
    tolerance = 1e-12 if dtype == np.float64 else 2e-5
    eager = [function(*sample) for sample in samples]
    for found, sample in zip(eager, samples, strict=True):
        for a, b in zip(jax.tree.leaves(compiled(*sample)), jax.tree.leaves(found), strict=True):
            assert_allclose(a, b, rtol=tolerance, atol=10 * tolerance)
            assert np.real(b).dtype == dtype
    assert len(traces) == 1
    together = jax.vmap(function)(*(jnp.stack(column) for column in zip(*samples, strict=True)))
    for k, found in enumerate(eager):
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(found), strict=True):
            assert_allclose(a[k], b, rtol=tolerance, atol=10 * tolerance)


# Faults


def test_too_coarse_a_grid_is_told_which_would_do():
    values = phases(C10=2 * np.pi * 25.0)  # 2 * 2 * 25 = 100 pixels
    match = (
        "sampling too coarse: .* an aperture radius of 10[01] pixels, the 256 x 256 grid has 72; "
        "use a grid of at least 512 x 512 with a radius of 10[01] pixels or smaller aberrations"
    )
    with pytest.raises(ValueError, match=match):
        rg.check_sampling(values, 256, 72.0)
    rg.check_sampling(values, 512, 101.0)
    rg.check_sampling(phases(C10=2 * np.pi * 17.9), 256, 72.0)


def test_what_the_message_says_does_suffice():
    for seed in range(5):
        values = draw(seed, 60.0)
        with pytest.raises(ValueError, match="too coarse") as caught:
            rg.check_sampling(values, 128, 40.0)
        words = str(caught.value).split()
        radius, size = int(words[words.index("pixels,") - 1]), int(words[words.index("x", 20) + 1])
        rg.check_sampling(values, size, radius)


def test_states_that_are_no_numbers_are_refused():
    with pytest.raises(ValueError, match="not finite: check the state and the knobs, in nm"):
        rg.check_sampling(np.full(25, np.nan), 256, 72.0)
    with pytest.raises(ValueError, match="expected 25 coefficients"):
        rg.check_sampling(np.zeros(24), 256, 72.0)


def test_an_undersampled_frame_is_wrong_and_a_sampled_one_right():
    """Against a wider piece of the film on a grid of twice the side, which holds the whole probe.

    The real-space cell is RADIUS wide in units of wavelength/semi-angle; a probe that is wider
    comes round on the other side.
    """
    size, radius = 192, 48.0
    wide = film(12, 1, 0.3, 2 * size)
    piece = np.fft.fftshift(wide, axes=(1, 2))[:, size // 2 : -size // 2, size // 2 : -size // 2]
    piece = np.fft.ifftshift(piece, axes=(1, 2))
    inner = np.hypot(*np.broadcast_arrays(*rg.lines(size, radius))) < 0.9
    errors = []
    for defocus in (8.0, 24.0):  # waves; the limit of this radius is 12
        values = phases(C10=2 * np.pi * defocus)
        coarse = np.asarray(rg.ronchigram(values, piece, radius, SHARP))
        fine = np.asarray(rg.ronchigram(values, wide, 2 * radius, SHARP))[::2, ::2]
        errors.append(np.std((coarse - fine)[inner]) / np.std(fine[inner]))
    assert errors[0] < 0.1 and errors[1] > 0.5, errors


def test_lines_are_centred_on_the_middle_pixel():
    x, y = rg.lines(8, 2.0)
    assert_array_equal(x[0], [-2, -1.5, -1, -0.5, 0, 0.5, 1, 1.5])
    assert_array_equal(x[0], y[:, 0])


@pytest.mark.parametrize("spread", [1.0, 2.3, 4.4, 9.0])
def test_enough_focal_nodes_damp_every_fringe_as_a_gaussian_does(spread):
    """And one choice fewer does not: a fringe between the middle and the edge comes back."""
    part = np.linspace(0.0, 1.0, 401)[:, None]  # of the edge's phase, between two angles

    def off(count):
        nodes = rg.quadrature(spread, 0.0, count, 1)
        shift, weight = np.asarray(nodes.shifts, float)[:, 0], np.asarray(nodes.weights, float)
        return np.abs(np.cos(part * shift) @ weight - np.exp(-0.5 * (part[:, 0] * spread) ** 2)
                      ).max()

    count = rg.enough_nodes(spread)
    assert off(count) < rg.UNDAMPED + 1e-3
    fewer = [n for n in rg.ENOUGH if n < count]
    assert all(off(n) > rg.UNDAMPED for n in fewer)
    assert rg.enough_nodes(100.0) == rg.ENOUGH[-1]
