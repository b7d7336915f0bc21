"""The gradient of a spectrum's misfit by 25 aberrations, through the simulator.

The frame of `benchmarks.simulate` without noise, the logarithm of its power spectrum (over the
mean, with a floor, as noise would set one), and the squared distance from another state's.
``jaxcal`` differentiates backwards through all of it; ``torch`` does the same through PyTorch's
version of the same sums; ``numpy`` takes central differences of the reference, 50 evaluations,
which is what one has without derivatives. The deviation is the largest of the components from those
differences, over the largest component.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import pytorch, roofline, simulate, timing
from jaxcal import detector, ronchigram, spectra
from jaxcal.reference import ronchigram as reference
from jaxcal.reference import spectra as reference_spectra

OFF = 0.3  # rad at the edge, by which the other state differs in each aberration
STEP = 1e-3  # rad, of the differences
FLOOR = 0.1  # of the mean power, added before the logarithm: dark bins have none


def compiled(size: int, radius: float):
    """The jitted function (phases, film, spread, wanted) -> misfit, gradient (25,)."""
    disc = spectra.Disc(size // 2, size // 2, radius)

    def misfit(phases, film, spread, wanted):
        nodes = ronchigram.quadrature(spread, 0.0, simulate.NODES, 1)
        intensity = ronchigram.ronchigram(phases, film, radius, nodes)
        frame = detector.expected(intensity, simulate.CAMERA)
        power = jnp.where(jnp.asarray(spectra.MASK), spectra.power_spectrum(frame, disc), 0.0)
        return jnp.sum((jnp.log(power / jnp.mean(power) + FLOOR) - wanted) ** 2)

    return jax.jit(jax.value_and_grad(misfit))


def logarithm(phases, film, spread, radius: float):
    """Of the power spectrum (ROWS, COLUMNS) of the frame without noise, by the reference."""
    size = film.shape[-1]
    intensity = reference.ronchigram(
        phases, film, radius, reference.quadrature(spread, 0.0, simulate.NODES, 1))
    mtf = simulate.transfer(intensity.shape)
    blurred = simulate.CAMERA.dose * np.fft.irfft2(
        np.fft.rfft2(intensity) * mtf, s=intensity.shape)
    power = reference_spectra.power_spectrum(blurred, (size // 2, size // 2, radius))
    power = np.where(reference_spectra.MASK, power, 0.0)
    return np.log(power / power.mean() + FLOOR)


def with_numpy(phases, film, spread, wanted, radius: float):
    """Misfit and gradient (25,) by central differences of the reference."""
    def misfit(phases):
        return float(((logarithm(phases, film, spread, radius) - wanted) ** 2).sum())

    steps = STEP * np.eye(len(phases))
    slopes = [(misfit(phases + step) - misfit(phases - step)) / (2 * STEP) for step in steps]
    return misfit(phases), np.array(slopes)


def with_torch(phases, film, spread, wanted, radius: float):
    """Misfit and gradient (25,) by PyTorch, of tensors."""
    torch, _ = pytorch.ready()
    size = film.shape[-1]
    table = simulate.torch_tables(size, radius, size)
    phases = phases.detach().requires_grad_()
    intensity = simulate.torch_intensity(phases, film[0], spread, radius, table)
    frame = torch.fft.irfft2(torch.fft.rfft2(intensity) * table.mtf, s=(size, size))
    power = torch.where(table.mask, simulate.torch_power(frame, radius, table), 0.0)
    image = torch.log(power / power.mean() + FLOOR)
    value = ((image - wanted) ** 2).sum()
    value.backward()
    return pytorch.done(value.detach(), phases.grad)


def run(repetitions: int = timing.REPETITIONS, cases=((256, 72.0),)) -> Iterator[dict]:
    """One entry a grid (size, radius in pixels)."""
    for size, radius in cases:
        phases, film, spread = simulate.problem(size, radius)
        wanted = logarithm(phases + OFF, film, spread, radius)
        given = (phases.astype(timing.real()), film.astype(timing.complex_()),
                 timing.real().type(spread), wanted.astype(timing.real()))
        single = tuple(jnp.asarray(part, part.dtype) for part in given)
        function = compiled(size, radius)
        forms = {"jaxcal": timing.Form(function, single),
                 "numpy": timing.Form(with_numpy, (phases, film, spread, wanted, radius))}
        if pytorch.installed("gradient"):
            there, plate, image = pytorch.tensors(given[0], given[1], given[3])
            forms["torch"] = timing.Form(
                with_torch, (there, plate, float(spread), image, radius))
        timings = timing.in_turn(forms, repetitions)
        ours, theirs = (np.asarray(timings[name].value[1]) for name in ("jaxcal", "numpy"))
        yield timing.entry(
            "gradient", {"size": size, "radius": radius, "aberrations": len(phases)}, timings, 1,
            "gradients", np.abs(ours - theirs).max() / np.abs(theirs).max(),
            roofline.share(function, single, timings["jaxcal"].median))
