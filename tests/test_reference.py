"""The NumPy reference itself: closed forms that need no second implementation."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import jaxcal.reference
from jaxcal.reference import (
    aberrations,
    e_step,
    gaussian_process,
    optics,
    ronchigram,
    spectra,
)

SIZE, RADIUS = 64, 12.0
SHARP = ronchigram.Quadrature(np.zeros((1, 3)), np.ones(1))


def phases(**named):
    values = np.zeros(25)
    for name, value in named.items():
        values[aberrations.NAMES.index(name)] = value
    return values


def film(rng, slices=1, strength=0.3):
    """Phase objects band-limited to a third of the grid, (slices, SIZE, SIZE)."""
    frequency = np.abs(np.fft.fftfreq(SIZE))
    low = (frequency[:, None] < 0.16) & (frequency[None, :] < 0.16)
    noise = np.fft.ifft2(np.fft.fft2(rng.normal(size=(slices, SIZE, SIZE))) * low).real
    return np.exp(1j * strength * noise / noise.std())


def test_the_reference_imports_nothing_but_numpy():
    allowed = {"numpy", "typing"}
    for path in Path(jaxcal.reference.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.split(".")[0] in allowed, path


# Aberrations and optics


def test_every_term_by_the_definition():
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, (2, 30))
    radius, azimuth = np.hypot(x, y), np.arctan2(y, x)
    for column, name in enumerate(aberrations.NAMES):
        n, m = int(name[1]), int(name[2])
        wave = np.sin(m * azimuth) if name.endswith("b") else np.cos(m * azimuth)
        expected = radius ** (n + 1) / (n + 1) * wave
        assert_allclose(aberrations.basis(x, y)[:, column], expected, atol=1e-14)


def test_turns_and_mirrors_of_the_surface():
    rng = np.random.default_rng(1)
    x, y = rng.uniform(-1, 1, (2, 30))
    values, angle = rng.normal(size=25), 0.3
    turned = aberrations.wave_aberration(aberrations.rotate(values, angle), x, y)
    back = (np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x)
    assert_allclose(turned, aberrations.wave_aberration(values, *back), atol=1e-12)
    for function, place in ((aberrations.flip, (x, -y)), (aberrations.transpose, (y, x))):
        found = aberrations.wave_aberration(function(values), x, y)
        assert_allclose(found, aberrations.wave_aberration(values, *place), atol=1e-12)


def test_optics_by_hand():
    nominal = SimpleNamespace(energy_keV=200.0, semi_angle_mrad=20.0)
    wavelength = optics.wavelength_nm(200.0)
    assert_allclose(wavelength, 2.5079e-3, atol=5e-8)
    assert_allclose(optics.interaction_constant(200.0), 0.007288, atol=5e-7)
    assert_allclose(optics.edge_phases(nominal)[0], np.pi * 4e-4 / wavelength)
    assert_allclose(optics.edge_phases(nominal) * optics.quarter_pi_limits_nm(nominal), np.pi / 4)
    assert_allclose(optics.edge_waves(nominal) * 2 * np.pi, optics.edge_phases(nominal))


# Ronchigram


def test_no_specimen_is_a_disc_whatever_the_aberrations():
    rng = np.random.default_rng(2)
    flat = np.ones((1, SIZE, SIZE))
    frame = ronchigram.ronchigram(3 * rng.normal(size=25), flat, RADIUS, SHARP)
    x, y = ronchigram.lines(SIZE, RADIUS)
    assert_allclose(frame, ronchigram.amplitude(x, y, RADIUS) ** 2, atol=1e-12)
    assert_allclose(frame[SIZE // 2, SIZE // 2], 1)
    assert_allclose(frame[0, 0], 0, atol=1e-12)


def test_phase_objects_scatter_but_keep_the_electrons():
    rng = np.random.default_rng(3)
    nodes = ronchigram.quadrature(0.5, 0.1, 3, 2)
    frame = ronchigram.ronchigram(
        rng.normal(size=25), film(rng, 3), RADIUS, nodes, slice_defocus=0.2
    )
    x, y = ronchigram.lines(SIZE, RADIUS)
    assert_allclose(frame.sum(), (ronchigram.amplitude(x, y, RADIUS) ** 2).sum(), rtol=1e-12)


def test_a_weak_cosine_makes_two_displaced_discs_interfere():
    """t = 1 + i e cos(2 pi q x): FT[t psi] = D(rho) + i e/2 [D(rho - q) + D(rho + q)]."""
    strength, step = 0.2, 5
    values = phases(C10=2.0, C12a=0.7, C21b=-1.1, C30=0.8)
    column = np.arange(SIZE)
    wave = strength * np.cos(2 * np.pi * step * column / SIZE)
    transmission = np.broadcast_to(1 + 1j * wave, (1, SIZE, SIZE))

    def disc(shift):
        x, y = ronchigram.lines(SIZE, RADIUS)
        x = x - shift / RADIUS
        chi = aberrations.chi(values, *np.broadcast_arrays(x, y))
        return ronchigram.amplitude(x, y, RADIUS) * np.exp(-1j * chi)

    expected = np.abs(disc(0) + 0.5j * strength * (disc(step) + disc(-step))) ** 2
    frame = ronchigram.ronchigram(values, transmission, RADIUS, SHARP)
    assert_allclose(frame, expected, atol=1e-12)


def test_weak_phase_contrast_of_defocus_is_a_sine():
    """At the centre the contrast of e cos(2 pi q x) is 2 e sin(a q^2): zero in focus, odd in a."""
    strength, step = 1e-4, 4
    phase = strength * np.cos(2 * np.pi * step * np.arange(SIZE) / SIZE)
    transmission = np.broadcast_to(np.exp(1j * phase), (1, SIZE, SIZE))
    for defocus in (-3.0, 0.0, 3.0):
        frame = ronchigram.ronchigram(phases(C10=defocus), transmission, RADIUS, SHARP)
        contrast = frame[SIZE // 2, SIZE // 2] - 1
        expected = 2 * strength * np.sin(defocus * (step / RADIUS) ** 2)
        assert_allclose(contrast, expected, atol=10 * strength**2)


def test_a_displaced_probe_sees_the_specimen_displaced():
    rng = np.random.default_rng(4)
    values, transmission = rng.normal(size=25), film(rng)
    columns, rows = 5, -3  # of the real-space grid, whose pixel is RADIUS/SIZE wide
    shifts = np.array([[0.0, columns * RADIUS / SIZE, rows * RADIUS / SIZE]])
    frame = ronchigram.ronchigram(
        values, transmission, RADIUS, ronchigram.Quadrature(shifts, np.ones(1))
    )
    rolled = np.roll(transmission, (-rows, -columns), axis=(1, 2))
    expected = ronchigram.ronchigram(values, rolled, RADIUS, SHARP)
    assert_allclose(frame, expected, atol=1e-12)


@pytest.mark.parametrize(("occupied", "sign"), [(0, -1), (1, 1)])
def test_c10_counts_at_the_middle_plane(occupied, sign):
    """Of two slices one is empty: a film half a spacing before or behind the middle."""
    rng = np.random.default_rng(5)
    values, spacing = rng.normal(size=25), 0.8
    transmission = np.ones((2, SIZE, SIZE), complex)
    transmission[occupied] = film(rng)[0]
    frame = ronchigram.ronchigram(values, transmission, RADIUS, SHARP, slice_defocus=spacing)
    moved = values + phases(C10=sign * spacing / 2)
    expected = ronchigram.ronchigram(moved, transmission[[occupied]], RADIUS, SHARP)
    assert_allclose(frame, expected, atol=1e-12)


def test_quadrature_has_the_moments_of_the_normal_distribution():
    nodes = ronchigram.quadrature(1.7, 0.3, 5, 4)
    assert nodes.shifts.shape == (80, 3)
    assert_allclose(nodes.weights.sum(), 1)
    assert_allclose(nodes.weights @ nodes.shifts, 0, atol=1e-14)
    second = np.einsum("m,mi,mj->ij", nodes.weights, nodes.shifts, nodes.shifts)
    assert_allclose(second, np.diag([1.7, 0.3, 0.3]) ** 2, atol=1e-14)
    assert_allclose(nodes.weights @ nodes.shifts[:, 0] ** 4, 3 * 1.7**4)


def test_focal_spread_damps_by_its_envelope():
    """Weak contrast at the centre: sin(a q^2) averages to sin(a q^2) exp(-(s q^2)^2 / 2)."""
    strength, step, defocus, spread = 1e-4, 8, 2.0, 1.5
    phase = strength * np.cos(2 * np.pi * step * np.arange(SIZE) / SIZE)
    transmission = np.broadcast_to(np.exp(1j * phase), (1, SIZE, SIZE))
    nodes = ronchigram.quadrature(spread, 0.0, 9, 1)
    frame = ronchigram.ronchigram(phases(C10=defocus), transmission, RADIUS, nodes)
    square = (step / RADIUS) ** 2
    expected = 2 * strength * np.sin(defocus * square) * np.exp(-((spread * square) ** 2) / 2)
    assert_allclose(frame[SIZE // 2, SIZE // 2] - 1, expected, atol=10 * strength**2)


def test_steepest_slope_of_one_term_is_by_hand():
    assert_allclose(ronchigram.steepest_slope(phases(C10=2 * np.pi * 3)), 6, rtol=1e-6)
    assert_allclose(ronchigram.steepest_slope(phases(C30=-2 * np.pi)), 4, rtol=1e-6)
    assert_allclose(ronchigram.required_radius(phases(C10=2 * np.pi * 3)), 12, rtol=1e-6)


# Spectra

DISC = (105.3, 98.6, 75.0)  # more than 64, or the highest frequencies are aliases


def pixels():
    rows, columns = np.indices((200, 210))
    return (columns - DISC[0]) / DISC[2], (rows - DISC[1]) / DISC[2]


def test_spectrum_of_a_cosine_is_the_window_s_at_its_frequency():
    """c = e w cos(2 pi f.rho) gives P(f) = (e/2)^2 (sum w)^2 / sum(w^2) / R^2."""
    x, y = pixels()
    strength, row, column = 0.1, 64 + 9, 12
    frequency = (spectra.FREQUENCY_X[column], spectra.FREQUENCY_Y[row])
    frame = 500 * (1 + strength * np.cos(2 * np.pi * (frequency[0] * x + frequency[1] * y)))
    power = spectra.power_spectrum(frame, DISC)
    weight = spectra.window(np.hypot(x, y))
    expected = (strength / 2) ** 2 * weight.sum() ** 2 / (weight**2).sum() / DISC[2] ** 2
    assert np.unravel_index(power.argmax(), power.shape) == (row, column)
    assert_allclose(power[row, column], expected, rtol=1e-3)


def test_spectrum_is_the_plain_double_sum():
    rng = np.random.default_rng(6)
    frame = rng.uniform(1, 2, (200, 210))
    x, y = pixels()
    weight = spectra.window(np.hypot(x, y))
    contrast = weight * (frame * weight.sum() / (weight * frame).sum() - 1)
    power = spectra.power_spectrum(frame, DISC)
    for row, column in ((1, 0), (20, 33), (64, 2), (127, 63)):
        f_x, f_y = 0.5 * column, 0.5 * (row - 64)
        total = np.sum(contrast * np.exp(-2j * np.pi * (f_x * x + f_y * y)))
        expected = abs(total) ** 2 / (weight**2).sum() / DISC[2] ** 2
        assert_allclose(power[row, column], expected, rtol=1e-10)


def test_white_noise_gives_its_variance_per_aperture():
    rng = np.random.default_rng(7)
    frame = rng.normal(100, 5, (200, 210))
    power = spectra.power_spectrum(frame, DISC)[spectra.MASK]
    expected = (5 / 100 / DISC[2]) ** 2
    # about 4000 exponential bins, about 4 of which share one independent number
    assert_allclose(power.mean(), expected, rtol=4 / np.sqrt(power.size / 4))


def test_what_the_spectrum_does_not_see():
    rng = np.random.default_rng(8)
    frame = rng.uniform(1, 2, (200, 210))
    power = spectra.power_spectrum(frame, DISC)
    assert_allclose(spectra.power_spectrum(7 * frame, DISC), power, rtol=1e-9, atol=1e-20)
    x, y = pixels()
    weight = spectra.window(np.hypot(x, y))
    inverted = 2 * (weight * frame).sum() / weight.sum() - frame
    assert_allclose(spectra.power_spectrum(inverted, DISC), power, rtol=1e-9, atol=1e-20)
    turned = (209 - DISC[0], 199 - DISC[1], DISC[2])
    found = spectra.power_spectrum(frame[::-1, ::-1], turned)
    assert_allclose(found, power, rtol=1e-9, atol=1e-20)
    mirrored = (DISC[0], 199 - DISC[1], DISC[2])
    found = spectra.power_spectrum(frame[::-1], mirrored)
    assert_allclose(found, spectra.flip(power), rtol=1e-9, atol=1e-20)


def test_log_image_is_centred_over_its_mask():
    rng = np.random.default_rng(9)
    power = rng.exponential(size=(128, 64))
    image = spectra.log_image(power)
    assert_allclose(image[spectra.MASK].mean(), 0, atol=1e-14)
    assert_array_equal(image[~spectra.MASK], 0)
    assert_allclose(spectra.log_image(5 * power), image, atol=1e-13)
    assert not spectra.MASK[64, 0] and not spectra.MASK[0].any() and spectra.MASK[64, 2]


def test_window_is_flat_then_falls_to_zero():
    middle = (spectra.FLAT + spectra.END) / 2
    values = spectra.window(np.array([0.0, spectra.FLAT, middle, spectra.END, 2.0]))
    assert_allclose(values, [1, 1, 0.5, 0, 0], atol=1e-15)


# Gaussian process

SIGNS = np.array([[1.0, 1.0], [-1.0, -1.0]])
SETTINGS = (1.3, np.array([2.0, 0.7]))


def test_likelihood_of_two_points_by_hand():
    variance, correlation, residual = 2.0, 0.6, np.array([[1.0], [-0.5]])
    matrix = variance * np.array([[1, correlation], [correlation, 1]])
    determinant = variance**2 * (1 - correlation**2)
    square = (1 + 0.25 - 2 * correlation * 1.0 * -0.5) / (variance * (1 - correlation**2))
    expected = -0.5 * (square + np.log(determinant) + 2 * np.log(2 * np.pi))
    assert_allclose(gaussian_process.log_likelihood(residual, matrix), expected)
    twice = np.hstack([residual, residual])
    assert_allclose(gaussian_process.log_likelihood(twice, matrix), 2 * expected)


def test_kernel_carries_the_symmetry():
    rng = np.random.default_rng(10)
    states, others = rng.normal(size=(4, 2)), rng.normal(size=(3, 2))
    matrix = gaussian_process.covariance(states, others, *SETTINGS, SIGNS)
    mirrored = gaussian_process.covariance(-states, others, *SETTINGS, SIGNS)
    assert_allclose(matrix, mirrored, rtol=1e-12)
    own = gaussian_process.covariance(states, states, *SETTINGS, SIGNS)
    assert_allclose(own, own.T)
    assert np.linalg.eigvalsh(own).min() > -1e-12
    alone = gaussian_process.covariance(states, states, *SETTINGS, SIGNS[:1])
    assert_allclose(np.diag(alone), SETTINGS[0] ** 2)
    zero = np.zeros((1, 2))
    assert_allclose(gaussian_process.covariance(zero, zero, *SETTINGS, SIGNS), 2 * 1.3**2)


def test_prediction_interpolates_and_mirrors():
    rng = np.random.default_rng(11)
    states, latents = rng.normal(size=(4, 2)), rng.normal(size=(4, 3))

    def kernel(first, second):
        return gaussian_process.covariance(first, second, *SETTINGS, SIGNS)

    matrix = kernel(states, states) + 1e-10 * np.eye(4)
    for places in (states, -states):
        mean, variance = gaussian_process.predict(
            latents, matrix, kernel(places, states), kernel(places, places)
        )
        assert_allclose(mean, latents, atol=1e-6)
        assert_allclose(variance, 0, atol=1e-6)


# E-step


def test_weights_of_a_linear_gaussian_model_give_its_posterior():
    """y = x + noise, x normal: the posterior is normal with known mean, variance and evidence."""
    prior_sd, noise_sd, data = 2.0, 0.5, 1.2

    def log_normal(value, sd):
        return -0.5 * (value / sd) ** 2 - np.log(sd * np.sqrt(2 * np.pi))

    candidates = np.linspace(-6, 6, 4001)[:, None]
    proposal = np.full(4001, -np.log(12.0))
    terms = (
        log_normal(data - candidates[:, 0], noise_sd), log_normal(candidates[:, 0], prior_sd),
        proposal,
    )  # fmt: skip
    weights = e_step.log_weights(*terms)
    mean, covariance = e_step.moments(candidates, weights)
    variance = 1 / (1 / prior_sd**2 + 1 / noise_sd**2)
    assert_allclose(np.exp(weights).sum(), 1)
    assert_allclose(mean, variance * data / noise_sd**2, rtol=1e-6)
    assert_allclose(covariance, variance, rtol=1e-6)
    expected = log_normal(data, np.hypot(prior_sd, noise_sd))
    assert_allclose(e_step.log_evidence(*terms), expected, atol=1e-3)
    assert_allclose(e_step.log_weights(terms[0] + 1e4, *terms[1:]), weights, atol=1e-10)


def test_effective_sample_size_at_its_limits():
    assert_allclose(e_step.effective_sample_size(np.full(50, -np.log(50))), 50)
    assert_allclose(e_step.effective_sample_size(np.array([0.0, -np.inf, -np.inf])), 1)


def test_weights_correct_for_the_proposal():
    proposal = np.log([0.5, 0.25, 0.25])
    weights = e_step.log_weights(np.zeros(3), np.log([0.2, 0.2, 0.6]), proposal)
    assert_allclose(np.exp(weights), np.array([0.4, 0.8, 2.4]) / 3.6)
