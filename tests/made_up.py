"""A closed loop at no cost: its estimates are made up, what is around them is as it is."""

from types import SimpleNamespace

import numpy as np
import standins

from jaxcal import calibration, course, estimation, runs
from jaxcal.answers import Estimate, Mode

X0 = np.array([60.0, -40.0, 25.0])
FRAMES = standins.frames(12)
LONGEST = 10
MODEL = SimpleNamespace(digest="made up")


def infer(observations, series, model, *, seed, before=None, **_):
    """An estimate that closes in on X0 as frames come, from their counts."""
    good = [k for k, seen in enumerate(observations) if seen.fault is None]
    sd = np.full(3, 100.0 / len(good) ** 3)
    off = sum(float(series.frames[k].mean()) for k in good) % 1.0
    x0 = X0 + sd * off
    return Estimate(
        knob_names=series.knob_names, x0_nm=x0, covariance_nm2=np.diag(sd**2),
        tuned_knobs_nm=-x0, tuned_covariance_nm2=np.diag(sd**2),
        modes=(Mode(1.0, x0, np.diag(sd**2)),), frames_used=len(good),
        rejected_frames=tuple((k, seen.fault) for k, seen in enumerate(observations) if seen.fault),
        converged=True, message="made up", iterations=1, seconds=0.0, actuator=np.eye(3),
        frame_numbers=tuple(good), latents=np.zeros((len(good), 1)),
        spectra=np.zeros((len(good), 2, 2)), states_nm=x0 + series.knobs_nm[good], posterior=None)


def next_step(key, answer, limits, model, largest):
    return np.clip(answer.tuned_knobs_nm + 30.0 * answer.frames_used, -largest, largest)


def install(put=setattr):
    """Let `jaxcal.calibrate` use the above; ``put(object, name, value)``, monkeypatch's say."""
    put(course, "infer", infer)
    put(calibration, "next_step", next_step)
    put(runs, "PAUSE_S", 0.0)
    put(calibration.identification, "check_loop", lambda *_: None)
    put(calibration.spectra, "check_optics", lambda _: None)  # the frames are small
    put(estimation, "state_of", lambda *_: (np.zeros(3), np.ones(3)))
    put(estimation.diagnosis, "response",
        lambda *_: SimpleNamespace(findings=("C10 is tired",), actuator=np.eye(3),
                                   sd=np.zeros((3, 3))))


def calibrate(microscope, **options):
    return calibration.calibrate(microscope, **({"frames": LONGEST, "model": MODEL} | options))
