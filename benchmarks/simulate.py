"""Aberrations to log spectra: jaxcal (float32) beside the NumPy reference and beside SciPy's FFT.

One spectrum is a partially coherent Ronchigram of a thin film (five focal nodes) and its log power
spectrum. ``numpy`` is :mod:`jaxcal.reference` (complex128, written to be read), ``scipy`` the same
sums in complex64 with SciPy's FFT on all cores and prepared tables, closer to what one would write
for speed without JAX: the basis of chi and the window are prepared beforehand.
The deviation is the largest difference of a frame's intensity from the reference, over its mean
in the disc.
"""

import os
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from benchmarks import timing
from jaxcal import ronchigram, simulation, specimen, spectra
from jaxcal.aberrations import edge_basis, vector
from jaxcal.optics import Optics, edge_phases
from jaxcal.reference import ronchigram as reference
from jaxcal.reference import spectra as reference_spectra

STATE_NM = {"C10": 90.0, "C12a": 40.0, "C12b": -30.0, "C21a": 200.0, "C30": 2000.0}
FOCAL_SPREAD_NM = 4.0
NODES = 5


def problem(size: int, radius: float):
    """Edge phases (25,), film (1, N, N) and focal spread (rad) of the case; float64 NumPy."""
    per_nm = edge_phases(Optics(200.0, 20.0, 20.0 / radius))
    key = jax.random.key(0)
    unit = 1 / Optics(200.0, 20.0, 0.2).length_unit_nm
    film = specimen.amorphous_phase(
        jax.random.normal(key, (1, size, size)), simulation.film_spectrum(key, unit), radius)
    return vector(STATE_NM) * per_nm, np.exp(1j * np.asarray(film)), FOCAL_SPREAD_NM * per_nm[0]


def compiled(size: int, radius: float):
    """The jitted function (phases, film, spread) -> frame (N, N), log spectrum."""
    disc = spectra.Disc(size // 2, size // 2, radius)

    @jax.jit
    def function(phases, film, spread):
        nodes = ronchigram.quadrature(spread, 0.0, NODES, 1)
        frame = ronchigram.ronchigram(phases, film, radius, nodes)
        return frame, spectra.log_image(spectra.power_spectrum(frame, disc))

    return function


def with_numpy(phases, film, spread, radius: float):
    """Frame and log spectrum by the reference."""
    size = film.shape[-1]
    frame = reference.ronchigram(phases, film, radius, reference.quadrature(spread, 0.0, NODES, 1))
    power = reference_spectra.power_spectrum(frame, (size // 2, size // 2, radius))
    return frame, reference_spectra.log_image(power)


@lru_cache(maxsize=4)
def tables(size: int, radius: float):
    """Of the grid: basis of chi (25, N, N) and pupil (N, N) in FFT order, window (N, N), and the
    two factors of the Fourier sum, (ROWS, N) and (N, COLUMNS)."""
    x, y = reference.lines(size, radius)
    basis = np.moveaxis(np.asarray(edge_basis(*np.broadcast_arrays(x, y))), -1, 0)
    basis = np.fft.ifftshift(basis, axes=(1, 2)).astype(np.float32)
    pupil = np.fft.ifftshift(reference.amplitude(x, y, radius)).astype(np.float32)
    along_y = np.exp(-2j * np.pi * reference_spectra.FREQUENCY_Y[:, None] * y.T)
    along_x = np.exp(-2j * np.pi * x.T * reference_spectra.FREQUENCY_X)
    weight = reference_spectra.window(np.hypot(x, y)).astype(np.float32)
    return basis, pupil, weight, along_y.astype(np.complex64), along_x.astype(np.complex64)


def with_scipy(phases, film, spread, radius: float):
    """Frame and log spectrum with complex64 and SciPy's FFT."""
    size, workers = film.shape[-1], os.cpu_count()
    basis, pupil, inside, along_y, along_x = tables(size, radius)
    chi = np.tensordot(np.asarray(phases, np.float32), basis, 1)
    plate = pupil * np.exp(-1j * chi)
    film = film[0].astype(np.complex64)
    x, y = (np.fft.ifftshift(line) for line in reference.lines(size, radius))
    total = np.zeros((size, size), np.float32)
    for shift, weight in zip(*reference.quadrature(spread, 0.0, NODES, 1), strict=True):
        lines = [np.exp(-1j * shift[0] * line**2).astype(np.complex64) for line in (x, y)]
        wave = scipy.fft.ifft2(plate * lines[0] * lines[1], workers=workers)
        far = scipy.fft.fft2(wave * film, workers=workers)
        total += np.float32(weight) * (far.real**2 + far.imag**2)
    frame = np.fft.fftshift(total)
    contrast = inside * (frame / ((inside * frame).sum() / inside.sum()) - 1)
    power = np.abs(along_y @ contrast.astype(np.complex64) @ along_x) ** 2
    power /= (inside**2).sum() * radius**2
    return frame, reference_spectra.log_image(power)


def run(repetitions: int = timing.REPETITIONS, cases=((256, 72.0), (512, 180.0))) -> list[dict]:
    """One entry a grid (size, radius in pixels)."""
    entries = []
    for size, radius in cases:
        phases, film, spread = problem(size, radius)
        single = (jnp.asarray(phases, jnp.float32), jnp.asarray(film, jnp.complex64),
                  jnp.float32(spread))
        timings = {"jaxcal": timing.measure(
            compiled(size, radius), *single, repetitions=repetitions)}
        for name, function in (("numpy", with_numpy), ("scipy", with_scipy)):
            timings[name] = timing.measure(
                function, phases, film, spread, radius, repetitions=repetitions)
        ours, theirs = (np.asarray(timings[name].value[0]) for name in ("jaxcal", "numpy"))
        entries.append(timing.entry(
            "simulate", {"size": size, "radius": radius, "focal_nodes": NODES, "batch": 1},
            timings, 1, "spectra", np.abs(ours - theirs).max() / theirs[theirs > 0.1].mean(),
            repetitions))
    return entries
