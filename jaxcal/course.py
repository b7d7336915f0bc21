"""A closed loop as far as it has come: what is asked of it, the frames, settings and estimates."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from jaxcal import em
from jaxcal import model as models
from jaxcal.answers import Estimate, mostly_unlike
from jaxcal.basins import DECIDED
from jaxcal.estimation import infer
from jaxcal.observation import observe, stale
from jaxcal.runs import RecordedMicroscope
from jaxcal.series import Series

RESUMED = 4  # frames from which on the loop does not ask EM again before the verification


@dataclass(frozen=True)
class Plan:
    """What a run is to do: arguments of `calibrate`; limits, largest: (P,) nm, what may be left of
    each knob's aberration, and its largest setting; truth_nm: hidden state of a simulated one."""

    frames: int
    limits: np.ndarray
    largest: np.ndarray
    model: models.Model
    seed: int
    refined: bool
    settings: em.Settings | None
    report: Callable
    truth_nm: dict | None


class Course:
    """A run as far as it has come.

    Attributes:
        microscope: `RecordedMicroscope`.
        frames, settings_nm, observations: of each frame its counts (H, W), the knobs (P,), nm, and
            `jaxcal.observation.Observation`.
        history: the estimates so far.
        began: when, s.
    """

    def __init__(self, microscope: RecordedMicroscope):
        self.microscope = microscope
        self.frames, self.settings_nm, self.observations = [], [], []
        self.began = time.perf_counter()
        self.history: list[Estimate] = []

    def look(self, knobs_nm):
        """Take a frame at a setting (P,), nm."""
        self.microscope.set(knobs_nm)
        frame = self.microscope.acquire()
        seen = observe(frame, self.microscope.optics)
        self.observations.append(replace(seen, fault=seen.fault or stale(frame, self.frames)))
        self.frames.append(frame)
        self.settings_nm.append(self.microscope.knobs_nm.copy())

    def go(self, knobs_nm) -> np.ndarray:
        """Turn the knobs to (P,) nm; where they stand then."""
        self.microscope.set(knobs_nm)
        return self.standing(knobs_nm)

    def standing(self, sent_nm) -> np.ndarray:
        """Where the knobs say they stand, (P,) nm; of a microscope that never arrives, a recorded
        series, where they were sent."""
        microscope = self.microscope
        return microscope.knobs_nm.copy() if microscope.arrives else np.array(sent_nm, float)

    def stay(self, sent_nm) -> np.ndarray:
        """Leave the knobs where they were sent last, (P,) nm; where they stand then."""
        self.microscope.stay()
        return self.standing(sent_nm)

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.perf_counter() - self.began

    @property
    def fault(self) -> str | None:
        """Why the last frame cannot be used."""
        return self.observations[-1].fault

    def series(self) -> Series:
        return Series(np.stack(self.frames), np.stack(self.settings_nm),
                      self.microscope.knob_names, self.microscope.optics, self.microscope.name)

    def estimate(self, plan: Plan, place: str, fraction: float) -> Estimate:
        """The estimate from all frames so far; the run has come to the fraction."""
        answer = infer(self.observations, self.series(), plan.model, seed=plan.seed,
                       refined=plan.refined, settings=plan.settings, before=settled(self.history),
                       progress=lambda told, _: plan.report(f"{place}: {told}", fraction))
        self.microscope.step(answer)
        return answer


def settled(history) -> Estimate | None:
    """The last estimate where the next can go on from it: refined, in one mode that is decided and
    at its top, of enough frames, most of them like the training."""
    last = history[-1] if history else None
    if last is None or last.refinement is None or last.frames_used < RESUMED:
        return None
    at_top = last.modes[0].weight >= DECIDED and last.refinement.solutions[0].settled
    return last if at_top and not mostly_unlike(last) else None
