"""Aberrations to log spectra: jaxcal beside what else one would take.

One spectrum is a partially coherent Ronchigram of a thin film (three focal nodes), seen by a camera
with its MTF, shot and readout noise, and its log power spectrum. ``numpy`` is
:mod:`jaxcal.reference` (complex128, written to be read). ``scipy`` and ``torch`` are the same sums
in jaxcal's precision with those libraries' FFT on all cores, or PyTorch's on the accelerator that
JAX runs on; the basis of chi and the window are prepared beforehand: what one would write for speed
without JAX. All three compute the pupil, and what
follows the far field, on the squares about the disc alone, as the training stream does; the
reference makes whole frames. ``abtem`` makes the Ronchigram of the same phase object with abTEM's
`Probe` and diffraction pattern, one for each focal node; its aperture has a hard edge, the rest is
the same, with a correlation of 0.99.
``ffts alone`` are two transforms for each focal node, by the fastest of SciPy, PyTorch and JAX: the
floor; ``ffts in JAX`` what they take where jaxcal has to make them. A batch is of as many states
and one film: on a CPU in as many threads as there are cores, in each one after the other, so that a
cache holds what one takes (``torch in threads`` and ``scipy in threads`` are these libraries' so,
and the transforms are tried so too); ``vmapped`` and ``torch`` take all at once, as jaxcal on an
accelerator; ``numpy`` and ``abtem``, which take one after the other, are timed on the first and
multiplied. Libraries that are not installed are left out, with a message. The deviation is the
largest difference of the first frame's intensity, before the camera, from the reference, over its
mean in the disc.
"""

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft

from benchmarks import pytorch, roofline, timing
from jaxcal import detector, devices, ronchigram, simulation, specimen, spectra
from jaxcal.aberrations import dictionary, edge_basis, vector
from jaxcal.optics import Optics, edge_phases
from jaxcal.reference import ronchigram as reference
from jaxcal.reference import spectra as reference_spectra

STATE_NM = {"C10": 90.0, "C12a": 40.0, "C12b": -30.0, "C21a": 200.0, "C30": 2000.0}
ENERGY_KEV, SEMI_ANGLE_MRAD = 200.0, 20.0
FOCAL_SPREAD_NM = 4.0
NODES = 3
CAMERA = detector.Detector(dose=200.0, blur=0.6, readout=2.0)
CASES = ((256, 72.0, 1), (512, 180.0, 1), (256, 72.0, 64))  # grid, radius in pixels, batch
BATCHED_NM = 10.0  # by which each state of a batch differs from the one before, in C10


def problem(size: int, radius: float):
    """Edge phases (25,), film (1, N, N) and focal spread (rad) of the case; float64 NumPy."""
    optics = Optics(ENERGY_KEV, SEMI_ANGLE_MRAD, SEMI_ANGLE_MRAD / radius)
    per_nm, key = edge_phases(optics), jax.random.key(0)
    film = specimen.amorphous_phase(
        jax.random.normal(key, (1, size, size)),
        simulation.film_spectrum(simulation.draw_film(key), 1 / optics.length_unit_nm), radius)
    return vector(STATE_NM) * per_nm, np.exp(1j * np.asarray(film)), FOCAL_SPREAD_NM * per_nm[0]


def compiled(size: int, radius: float):
    """The jitted function (key, phases, film, spread) -> intensity (N, N), log spectrum."""
    side = exposed_side(size, radius)
    disc = spectra.Disc(side // 2, side // 2, radius)

    @jax.jit
    def function(key, phases, film, spread):
        nodes = ronchigram.quadrature(spread, 0.0, NODES, 1)
        intensity = ronchigram.ronchigram(phases, film, radius, nodes, side=side)
        frame = detector.expose(key, intensity, CAMERA)
        return intensity, spectra.log_image(spectra.power_spectrum(frame, disc))

    return function


def exposed(intensity, fft, random):
    """Counts (N, N) of an intensity, as `detector.expose` makes them; fft: a module with rfft2."""
    mtf = transfer(intensity.shape)
    blurred = np.maximum(fft.irfft2(fft.rfft2(intensity) * mtf, s=intensity.shape), 0)
    dtype = intensity.dtype
    shot = np.sqrt(CAMERA.dose * blurred) * random.standard_normal(intensity.shape, dtype)
    noise = shot + CAMERA.readout * random.standard_normal(intensity.shape, dtype)
    return CAMERA.dose * blurred + noise


@lru_cache(maxsize=4)
def transfer(shape):
    """MTF of the camera."""
    return np.array(detector.transfer_function(shape, CAMERA.blur, CAMERA.pixel), timing.real())


def with_numpy(phases, film, spread, radius: float):
    """Intensity and log spectrum by the reference."""
    size = film.shape[-1]
    intensity = reference.ronchigram(
        phases, film, radius, reference.quadrature(spread, 0.0, NODES, 1))
    frame = exposed(intensity, np.fft, np.random.default_rng(0))
    power = reference_spectra.power_spectrum(frame, (size // 2, size // 2, radius))
    return intensity, reference_spectra.log_image(power)


def exposed_side(size: int, radius: float) -> int:
    """Side of the middle of a grid that is exposed and transformed, as the training stream does."""
    return simulation.Grid(size, radius).side


def aperture_side(size: int, radius: float) -> int:
    """Side of the square that holds the aperture."""
    return min(size, 2 * math.ceil(radius + 1) + 2)


def middle(size: int, side: int):
    """Places of the middle ``side`` of N pixels: a slice of lines in their order, and (side,) in
    FFT order."""
    first = size // 2 - side // 2
    return slice(first, first + side), (np.arange(side) - side // 2) % size


@lru_cache(maxsize=4)
def tables(size: int, radius: float, side: int):
    """Basis of chi (25, n, n) and pupil (n, n) on the square that holds the aperture; window (S, S)
    and the two factors of the Fourier sum, (ROWS, S) and (S, COLUMNS), on the middle S = side."""
    x, y = reference.lines(size, radius)
    box, _ = middle(size, aperture_side(size, radius))
    basis = np.moveaxis(np.asarray(edge_basis(*np.broadcast_arrays(x[:, box], y[box]))), -1, 0)
    pupil = reference.amplitude(x[:, box], y[box], radius)
    seen, _ = middle(size, side)
    x, y = x[:, seen], y[seen]
    along_y = np.exp(-2j * np.pi * reference_spectra.FREQUENCY_Y[:, None] * y.T)
    along_x = np.exp(-2j * np.pi * x.T * reference_spectra.FREQUENCY_X)
    weight = reference_spectra.window(np.hypot(x, y))
    return (*(part.astype(timing.real()) for part in (basis, pupil, weight)),
            *(part.astype(timing.complex_()) for part in (along_y, along_x)))


def focal_lines(shift, size: int, radius: float):
    """exp(-i a rho^2) of a focal node over the aperture as two lines, (1, n) and (n, 1)."""
    box, _ = middle(size, aperture_side(size, radius))
    return [np.exp(-1j * shift[0] * line.ravel()[box].reshape(shape) ** 2).astype(timing.complex_())
            for line, shape in zip(reference.lines(size, radius), ((1, -1), (-1, 1)), strict=True)]


def log_spectrum(frame, size: int, radius: float):
    """Log spectrum of the counts (S, S) of a grid's middle, with the prepared tables."""
    _, _, inside, along_y, along_x = tables(size, radius, len(frame))
    contrast = inside * (frame / ((inside * frame).sum() / inside.sum()) - 1)
    power = np.abs(along_y @ contrast.astype(along_x.dtype) @ along_x) ** 2
    return reference_spectra.log_image(power / ((inside**2).sum() * radius**2))


def with_scipy(phases, film, spread, radius: float, workers: int | None = None):
    """Intensity and log spectrum with SciPy's FFT, by so many threads, all cores where None."""
    size, workers = film.shape[-1], workers or devices.cores()
    side = exposed_side(size, radius)
    basis, pupil, *_ = tables(size, radius, side)
    plate = pupil * np.exp(-1j * np.tensordot(phases, basis, 1))
    film = film[0]
    lit, seen = (np.ix_(places, places) for _, places in (
        middle(size, len(pupil)), middle(size, side)))
    total, wave = np.zeros((side, side), timing.real()), np.zeros_like(film)
    for shift, weight in zip(*reference.quadrature(spread, 0.0, NODES, 1), strict=True):
        line_x, line_y = focal_lines(shift, size, radius)
        wave[lit] = plate * line_x * line_y
        far = scipy.fft.fft2(scipy.fft.ifft2(wave, workers=workers) * film, workers=workers)[seen]
        total += float(weight) * (far.real**2 + far.imag**2)
    with scipy.fft.set_workers(workers):
        frame = exposed(total, scipy.fft, np.random.default_rng(0))
    return total, log_spectrum(frame, size, radius)


def with_torch(phases, film, spread, radius: float):
    """Intensity (..., S, S) and log spectrum of states (..., 25) of one film (1, N, N), all of them
    PyTorch's tensors."""
    torch, _ = pytorch.ready()
    size, side = film.shape[-1], exposed_side(film.shape[-1], radius)
    table = torch_tables(size, radius, side)
    intensity = torch_intensity(phases, film[0], spread, radius, table)
    blurred = torch.fft.irfft2(torch.fft.rfft2(intensity) * table.mtf, s=(side, side)).clip(min=0)
    frame = CAMERA.dose * blurred + torch.sqrt(CAMERA.dose * blurred) * torch.randn_like(blurred)
    frame = frame + CAMERA.readout * torch.randn_like(blurred)
    log = torch.log(torch_power(frame, radius, table).clip(min=1e-30))
    mean = (log * table.mask).sum((-2, -1), keepdim=True) / table.mask.sum()
    return pytorch.done(intensity, torch.where(table.mask, log - mean, 0.0))


def torch_intensity(phases, film, spread, radius: float, table):
    """Intensity (..., S, S) of the middle by PyTorch, of phases (..., 25) and film (N, N)."""
    torch, _ = pytorch.ready()
    size = len(film)
    angle = torch.tensordot(phases, table.basis, 1)
    plate = torch.polar(table.pupil.expand_as(angle), -angle)
    lit, seen, total = table.lit, table.seen, 0.0
    for shift, weight in zip(*reference.quadrature(spread, 0.0, NODES, 1), strict=True):
        line_x, line_y = (torch.polar(torch.ones_like(square), -float(shift[0]) * square)
                          for square in (table.square_x, table.square_y))
        wave = film.new_zeros(*phases.shape[:-1], size, size)
        wave[..., lit[:, None], lit] = plate * line_x * line_y
        far = torch.fft.fft2(torch.fft.ifft2(wave) * film)[..., seen[:, None], seen]
        total = total + float(weight) * (far.real**2 + far.imag**2)
    return total


def torch_power(frame, radius: float, table):
    """Power spectrum (..., ROWS, COLUMNS) of counts (..., S, S) by PyTorch."""
    mean = (table.inside * frame).sum((-2, -1), keepdim=True) / table.inside.sum()
    contrast = table.inside * (frame / mean - 1)
    power = (table.along_y @ contrast.to(table.along_x.dtype) @ table.along_x).abs() ** 2
    return power / ((table.inside**2).sum() * radius**2)


class TorchTables(NamedTuple):
    """`tables`, the squared lines and the places of the aperture and of what is seen, the MTF and
    the bins that count, as tensors."""

    basis: object
    pupil: object
    inside: object
    along_y: object
    along_x: object
    square_x: object
    square_y: object
    lit: object
    seen: object
    mtf: object
    mask: object


@lru_cache(maxsize=4)
def torch_tables(size: int, radius: float, side: int) -> TorchTables:
    """All that is prepared beforehand for frames of which the middle ``side`` is exposed."""
    parts = tables(size, radius, side)
    box, lit = middle(size, len(parts[1]))
    x, y = (line.ravel()[box] ** 2 for line in reference.lines(size, radius))
    squares = (square.astype(timing.real()) for square in (x[None], y[:, None]))
    return TorchTables(*pytorch.tensors(*parts, *squares, lit, middle(size, side)[1],
                                        transfer((side, side)), reference_spectra.MASK))


def with_abtem(phases, film, spread, radius: float):
    """Intensity and log spectrum with abTEM's probe, diffraction pattern and focal series."""
    import abtem

    abtem.config.set({"precision": str(timing.real())})
    optics, size = Optics(ENERGY_KEV, SEMI_ANGLE_MRAD, SEMI_ANGLE_MRAD / radius), film.shape[-1]
    per_nm = edge_phases(optics)
    extent = 10 * radius * optics.length_unit_nm  # A
    state = dictionary(10 * np.asarray(phases) / per_nm)  # A
    a, b = state["C12a"], state["C12b"]
    aberrations = {"C12": np.hypot(a, b), "phi12": np.arctan2(b, a) / 2, "C21": state["C21a"],
                   "C30": state["C30"]}
    total = 0.0
    for shift, weight in zip(*reference.quadrature(spread, 0.0, NODES, 1), strict=True):
        probe = abtem.Probe(
            energy=1e3 * ENERGY_KEV, semiangle_cutoff=SEMI_ANGLE_MRAD, extent=extent, gpts=size,
            soft=False, device="cpu",
            aberrations=aberrations | {"C10": state["C10"] + 10 * shift[0] / per_nm[0]})
        waves = probe.build(scan=(0.0, 0.0), lazy=False)
        waves.array[...] *= film[0].T.astype(np.complex64)  # abTEM's first axis is x
        pattern = waves.diffraction_patterns(max_angle="full", fftshift=True)
        total = total + weight * np.asarray(pattern.array).T
    seen, _ = middle(size, exposed_side(size, radius))
    intensity = (total / total.sum() * disc_pixels(size, radius)).astype(np.float32)[seen, seen]
    frame = exposed(intensity, scipy.fft, np.random.default_rng(0))
    return intensity, log_spectrum(frame, size, radius)


def disc_pixels(size: int, radius: float) -> float:
    """Sum of the intensity over a frame, that of the empty aperture."""
    return float((reference.amplitude(*reference.lines(size, radius), radius) ** 2).sum())


def ffts_alone(*batch_and_size: int) -> dict:
    """The functions that do two transforms of (..., N) grids, by library."""
    *batch, size = batch_and_size
    wave = np.random.default_rng(0).standard_normal((*batch, size, size, 2), timing.real())
    wave = wave.view(timing.complex_())[..., 0]
    here, workers = jnp.asarray(wave), devices.cores()
    pair = jax.jit(lambda wave: jnp.fft.fft2(jnp.fft.ifft2(wave)))
    pairs = {"fft scipy": lambda: scipy.fft.fft2(scipy.fft.ifft2(wave, workers=workers),
                                             workers=workers),
             "fft jax": lambda: pair(here)}
    if pytorch.installed("simulate"):
        torch, _ = pytorch.ready()
        [there] = pytorch.tensors(wave)

        def by_torch(wave):
            return pytorch.done(torch.fft.fft2(torch.fft.ifft2(wave)))

        pairs["fft torch"] = lambda: by_torch(there)
        if batch and jax.default_backend() == "cpu":
            pairs["fft torch in threads"] = lambda: pytorch.in_threads(by_torch, there)
    if batch and jax.default_backend() == "cpu":
        in_turn = jax.jit(lambda waves: jax.lax.map(pair, waves))
        pairs["fft scipy in threads"] = lambda: devices.side_by_side(
            lambda wave: scipy.fft.fft2(scipy.fft.ifft2(wave)), wave)
        pairs["fft jax in threads"] = lambda: devices.side_by_side(
            lambda part: jax.block_until_ready(in_turn(part)),
            jnp.array_split(here, devices.cores()))
    return pairs


def prepared(name: str, phases, film, spread):
    """The same as an implementation takes it: nothing is converted, nor sent to a device, on the
    clock."""
    if name == "numpy":
        return phases, film, spread
    single = phases.astype(timing.real()), film.astype(timing.complex_())
    if name == "jaxcal":
        return *map(jnp.asarray, single), timing.real().type(spread)
    return *(pytorch.tensors(*single) if name.startswith("torch") else single), float(spread)


def batched(function):
    """Of keys (B,), phases (B, 25), film and spread: intensities and log spectra, by parts. On a
    CPU a thread for each core takes one after the other, an accelerator all at once."""
    if jax.default_backend() != "cpu":
        return lambda *given: [vmapped(function)(*given)]
    in_turn = jax.jit(lambda keys, phases, film, spread: jax.lax.map(
        lambda row: function(*row, film, spread), (keys, phases)))

    def form(keys, phases, film, spread):
        parts = zip(jnp.array_split(keys, devices.cores()),
                    jnp.array_split(phases, devices.cores()), strict=True)
        return devices.side_by_side(
            lambda part: jax.block_until_ready(in_turn(*part, film, spread)), parts)

    return form


@lru_cache(maxsize=4)
def vmapped(function):
    """The same of all at once."""
    return jax.jit(jax.vmap(function, in_axes=(0, 0, None, None)))


def torch_in_threads(phases, film, spread, radius: float):
    """`with_torch` of each state of (B, 25), in threads of one core each."""
    return pytorch.in_threads(lambda one: with_torch(one, film, spread, radius), phases)


def scipy_in_threads(phases, film, spread, radius: float):
    """`with_scipy` of each state of (B, 25), in threads of one core each."""
    return devices.side_by_side(
        lambda one: with_scipy(one, film, spread, radius, workers=1), phases)


def each_of(function):
    """``function`` of each state of (B, 25), one after the other."""
    return lambda phases, *rest: [function(one, *rest) for one in phases]


OTHERS = {"numpy": with_numpy, "scipy": with_scipy, "torch": with_torch, "abtem": with_abtem}


def run(repetitions: int = timing.REPETITIONS, cases=CASES) -> Iterator[dict]:
    """One entry a grid (size, radius in pixels) and batch."""
    for size, radius, batch in cases:
        phases, film, spread = problem(size, radius)
        first, single = phases, compiled(size, radius)
        others = {name: (other, 1) for name, other in OTHERS.items()}
        function, key, on_cpu = single, jax.random.key(0), jax.default_backend() == "cpu"
        if batch > 1:
            function, phases = batched(single), np.tile(phases, (batch, 1))
            phases[:, 0] *= 1 + np.arange(batch) * BATCHED_NM / STATE_NM["C10"]
            key, others = jax.random.split(key, batch), {"torch": (with_torch, batch)}
            if on_cpu:  # of NumPy and abTEM, one after the other, the first is enough
                others |= {"torch in threads": (torch_in_threads, batch),
                           "scipy in threads": (scipy_in_threads, batch),
                           "numpy": (each_of(with_numpy), 1), "abtem": (each_of(with_abtem), 1)}
        given = key, *prepared("jaxcal", phases, film, spread)
        forms = {"jaxcal": timing.Form(function, given)}
        if batch > 1 and on_cpu:
            forms["vmapped"] = timing.Form(vmapped(single), given)
        for name, (other, some) in others.items():
            library = name.split()[0]
            if library in ("numpy", "scipy") or pytorch.installed("simulate", library):
                taken = prepared(library, phases[:some] if batch > 1 else phases, film, spread)
                forms[name] = timing.Form(other, (*taken, radius), batch / some)
        pairs = ffts_alone(*[batch] * (batch > 1), size)
        taken = timing.in_turn(
            forms | {name: timing.Form(pair, times=NODES) for name, pair in pairs.items()},
            repetitions)
        timings = {name: taken[name] for name in forms}
        for name, of in (("ffts alone", "fft"), ("ffts in JAX", "fft jax")):
            timings[name] = min((taken[pair] for pair in pairs if pair.startswith(of)),
                                key=lambda one: one.median)
        value = timings["jaxcal"].value
        ours = np.asarray(value[0][0][0] if batch > 1 else value[0])
        theirs = with_numpy(first, film, spread, radius)[0]
        seen, _ = middle(size, len(ours))
        theirs = theirs[seen, seen]
        one = (key, *given[1:]) if batch == 1 else (key[0], given[1][0], *given[2:])
        yield timing.entry(
            "simulate", {"size": size, "radius": radius, "focal_nodes": NODES, "batch": batch},
            timings, batch, "spectra", np.abs(ours - theirs).max() / theirs[theirs > 0.1].mean(),
            roofline.share(single, one, timings["jaxcal"].median / batch))
