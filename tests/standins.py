"""Made-up answers for the tests of what shows them: the shapes of the real ones, at no cost."""

from types import SimpleNamespace

import numpy as np

from jaxcal.optics import Optics
from jaxcal.series import Series

KNOBS = ("C10", "C12a", "C12b")


def frames(count, size=96, seed=0):
    """(count, size, size) float32 counts: a disc full of smooth speckle on a dark ground."""
    random = np.random.default_rng(seed)
    line = np.arange(size) - size / 2
    radius = np.hypot(*np.meshgrid(line, line)) / (0.42 * size)
    speckle = np.fft.ifft2(
        np.fft.fft2(random.standard_normal((count, size, size)))
        * np.exp(-((np.hypot(*np.meshgrid(*2 * [np.fft.fftfreq(size)])) / 0.15) ** 2))
    ).real
    speckle /= speckle.std()
    mean = 100 * (1 + 0.2 * speckle) * (radius < 1)
    return random.poisson(np.clip(mean, 0, None)).astype(np.float32)


def optics(size=96):
    """Optics whose disc fills 84 % of a frame of ``size`` pixels."""
    return Optics(200.0, 20.0, 20.0 / (0.42 * size))


def series(count=5, size=96, names=KNOBS, name="bench.h5"):
    random = np.random.default_rng(1)
    knobs = random.uniform(-100, 100, (count, len(names)))
    return Series(frames(count, size), knobs, names, optics(size), name)


def mode(weight, x0, sd):
    return SimpleNamespace(
        weight=weight, x0_nm=np.array(x0, float), covariance_nm2=np.diag(np.array(sd, float) ** 2)
    )


def estimate(used=5, names=KNOBS, sd=0.5, converged=True, rejected=()):
    count = len(names)
    x0 = np.linspace(-90, 120, count)
    covariance = sd**2 * (np.eye(count) + 0.2)
    random = np.random.default_rng(used)
    modes = (mode(0.9, x0, [sd] * count), mode(0.1, x0 + 8 * sd, [2 * sd] * count))
    return SimpleNamespace(
        knob_names=tuple(names),
        x0_nm=x0 + sd * random.standard_normal(count),
        covariance_nm2=covariance,
        tuned_knobs_nm=-x0,
        tuned_covariance_nm2=covariance,
        actuator=np.eye(count),
        refinement=SimpleNamespace(
            misfit=0.01, solutions=[SimpleNamespace(gain_sd=np.zeros((count, count)))]),
        modes=modes,
        frames_used=used,
        unlike_frames=(),
        rejected_frames=tuple(rejected),
        converged=converged,
        message="every knob is known to its pi/4 limit",
        iterations=7,
        seconds=1.25,
        latents=random.standard_normal((used, 8)),
        spectra=random.standard_normal((used, 128, 64)),
        states_nm=random.uniform(-100, 100, (used, count)),
    )


def calibration(names=KNOBS, count=6, rejected=((2, "saturated: 40 % of the disc"),)):
    run = series(count, names=names, name="simulated")
    history = tuple(
        estimate(k, names, sd=100.0 / k**3) for k in range(1, count + 1 - len(rejected))
    )
    final = estimate(count - len(rejected), names, rejected=rejected)
    return SimpleNamespace(
        knob_names=tuple(names),
        verdict="tuned",
        reason="within the tolerance, verified with one more frame",
        estimate=final,
        history=history,
        series=run,
        verification_frame=frames(1, seed=9)[0],
        applied_knobs_nm=final.tuned_knobs_nm + 0.2,
        true_left_nm=np.full(len(names), 0.3),
        seconds=9.5,
        limits_nm=np.linspace(1.57, 60.0, len(names))
        if len(names) > 3
        else np.full(len(names), 1.57),
        truth_nm=dict(zip(names, np.linspace(-90, 120, len(names)), strict=True)),
    )
