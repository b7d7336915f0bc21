"""What is answered: an estimate, with the solutions that the frames allow, their widths and the
frames behind; a calibration, with how it ended; and what is left of the aberrations by them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from jaxcal import em, refine
    from jaxcal.series import Series

TUNED, NOT_DECIDED, REFUSED = "tuned", "not decided", "refused"
DRAWS = 4096  # that tell with which probability knobs are within their limits


@dataclass(frozen=True)
class Mode:
    """One solution the data allow: its weight, mean x0 (P,) in nm and covariance (P, P) in nm^2."""

    weight: float
    x0_nm: np.ndarray
    covariance_nm2: np.ndarray


@dataclass(frozen=True)
class Estimate:
    """What a series says about its instrument. P knobs, T frames used.

    Attributes:
        knob_names: the P knobs.
        x0_nm, covariance_nm2: (P,), (P, P) state with the knobs at zero: mean of the largest mode,
            second moment of the whole posterior about it.
        tuned_knobs_nm, tuned_covariance_nm2: the knob setting -G^-1 (x0 + drift) that tunes the
            instrument at the time of the last frame.
        modes: solutions the data allow, largest weight first.
        frames_used, rejected_frames: how many; (number, reason) of the others.
        converged: one mode holds DECIDED of the weight, the climb, or EM, settled, the frames are
            of several knob settings, no gain is beyond belief, and the answer is `reliable`.
        message: why it stopped. iterations: of EM. seconds: it took.
        actuator: (P, P) matrix G, the identity where it was not estimated.
        frame_numbers: (T,) of the frames used; latents (T, D); spectra (T, 128, 64), log images;
        states_nm: (T, P) state of each frame.
        posterior: of the last EM, what :mod:`jaxcal.acquisition` needs to choose the next step;
            where a refinement went on from an earlier one, of the frames that were there then.
        refinement: of the spectra, or None where EM's answer stands.
        unlike_frames: numbers of those whose spectra are unlike anything the model was trained on.
    """

    knob_names: tuple[str, ...]
    x0_nm: np.ndarray
    covariance_nm2: np.ndarray
    tuned_knobs_nm: np.ndarray
    tuned_covariance_nm2: np.ndarray
    modes: tuple[Mode, ...]
    frames_used: int
    rejected_frames: tuple[tuple[int, str], ...]
    converged: bool
    message: str
    iterations: int
    seconds: float
    actuator: np.ndarray
    frame_numbers: tuple[int, ...]
    latents: np.ndarray
    spectra: np.ndarray
    states_nm: np.ndarray
    posterior: "tuple[em.Result, em.Experiment]"
    refinement: "refine.Refinement | None" = None
    unlike_frames: tuple[int, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """A closed-loop run: how it ended, the estimates, and where the knobs were left.

    Attributes:
        knob_names: the P knobs.
        verdict: "tuned": the tolerance was reached and a frame there bore it out, or corrected it
            by so little that it holds (the reason says so); "not decided":
            the frames did not suffice; "refused": the instrument failed, showed nothing that could
            be used, or cannot be turned to the setting that tunes it.
        reason: of the verdict, and what to do, one sentence after the other.
        estimate: the last, with the verification frame, and with the seconds of the whole run; None
            where there is none.
        history: the estimates after each frame.
        series: the frames before the verification and their knob settings; None where there are
            none. The verification was taken at the setting that tunes by the last of ``history``.
        applied_knobs_nm: (P,) where the knobs were left, nm, as they say themselves: at the setting
            that tunes as far as is known; back at zero where refused or where the verification
            disagrees; None where the instrument failed to move and it is not known.
        limits_nm: (P,) the tolerance aimed at.
        truth_nm: the hidden state where the microscope is simulated.
        seconds: of the whole run.
        true_left_nm: (P,) the knobs' aberrations where they were left, where it is simulated.
    """

    knob_names: tuple[str, ...]
    verdict: str
    reason: str
    estimate: Estimate | None
    history: tuple[Estimate, ...]
    series: "Series | None"
    verification_frame: np.ndarray | None
    applied_knobs_nm: np.ndarray | None
    limits_nm: np.ndarray
    truth_nm: dict | None
    seconds: float
    true_left_nm: np.ndarray | None = None


def left(answer: Estimate, applied_nm=None):
    """What is left of the knobs' aberrations at a setting (P,), nm, at the time of the last frame,
    or at the one that tunes: mean (P,), nm, and covariance (P, P), nm^2. A knob that acts by G
    leaves G times what its setting is off."""
    off = 0.0 if applied_nm is None else np.asarray(applied_nm, float) - answer.tuned_knobs_nm
    gain = np.asarray(answer.actuator, float)
    return (gain @ np.broadcast_to(off, len(gain)),
            gain @ np.asarray(answer.tuned_covariance_nm2, float) @ gain.T)


def inside(left_nm, covariance_nm2, limits_nm) -> float:
    """Probability that all of what is left (P,), nm, normal with covariance (P, P), nm^2, is within
    limits (P,), nm; by DRAWS draws."""
    left = np.random.default_rng(0).multivariate_normal(
        left_nm, covariance_nm2, DRAWS, method="eigh")
    return float(np.mean(np.all(np.abs(left) <= limits_nm, axis=1)))


def reliable(answer: Estimate) -> bool:
    """Whether frames of such an instrument were seen at all: most of those used are like what the
    model was trained on, and by the refinement some state explains them."""
    explained = answer.refinement is None or answer.refinement.explains
    return bool(explained and not mostly_unlike(answer))


def many_set_aside(answer: Estimate, frames: int) -> bool:
    """Whether more than a third of so many frames were set aside."""
    return 3 * len(answer.rejected_frames) > frames


def mostly_unlike(answer: Estimate) -> bool:
    """Whether half and more of the frames used are unlike anything the model was trained on."""
    unlike = set(answer.unlike_frames) & set(answer.frame_numbers)
    return bool(unlike) and 2 * len(unlike) >= answer.frames_used
