"""The interface of all methods: series as everyone sees them, answers, and their errors."""

from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

import jaxcal
from jaxcal import aperture, observation, spectra
from jaxcal.aberrations import indices
from jaxcal.optics import quarter_pi_limits_nm


class Answer(NamedTuple):
    """knobs_nm: (P,) setting that tunes the instrument; sd_nm: (P,) stated, None where nothing is
    stated; seconds: the answer took, simulation of the frames not counted."""

    knobs_nm: np.ndarray
    sd_nm: np.ndarray | None
    seconds: float


@dataclass(frozen=True)
class Seen:
    """A series and the apertures found in its frames: the same for all methods."""

    series: jaxcal.Series

    @cached_property
    def observations(self):
        """Of every frame, see `jaxcal.observation.observe`."""
        return [observation.observe(frame, self.series.optics) for frame in self.series.frames]

    def first(self, count: int):
        """The first frames as (observations, series)."""
        part = replace(self.series, frames=self.series.frames[:count],
                       knobs_nm=self.series.knobs_nm[:count])
        return self.observations[:count], part

    def usable(self, count: int):
        """Numbers of the usable of the first frames, their log images (T, 128, 64), and optics
        with the measured semi-angle.

        Raises:
            ValueError: none can be used.
        """
        good = [k for k in range(count) if self.observations[k].fault is None]
        if not good:
            raise ValueError(f"none of the first {count} frames can be used: take others")
        chosen = [self.observations[k] for k in good]
        radius, _ = observation.camera_of(chosen)
        return good, observation.log_images(chosen), observation.measured_optics(
            self.series.optics, radius)


def acquire_series(microscope, knobs_nm) -> jaxcal.Series:
    """Frames of a microscope at settings (T, P) nm."""
    shots = []
    for knobs in knobs_nm:
        microscope.set(knobs)
        shots.append(np.asarray(microscope.acquire()))
    return jaxcal.Series(np.stack(shots), np.asarray(knobs_nm, float),
                         tuple(microscope.knob_names), microscope.optics, "simulated")


def power_of(frame, optics):
    """Power spectrum (128, 64) of a frame, less its dark level, and its log image; on the nominal
    disc if none is found."""
    disc, quality = aperture.find_disc(frame, optics.radius_pixels)
    dark = quality.outside if quality.fault is None and quality.dark_seen else 0.0
    if quality.fault is not None:
        height, width = np.shape(frame)
        disc = spectra.Disc((width - 1) / 2, (height - 1) / 2, optics.radius_pixels)
    disc = spectra.Disc(*(np.float32(place) for place in disc))
    counts = spectra.without_hot_pixels(jnp.asarray(frame, jnp.float32)) - np.float32(dark)
    power = spectra.power_spectrum(counts, disc)
    return power, spectra.log_image(power)


def residual_nm(microscope, knobs_nm, count: int):
    """What a setting leaves of the knobs' aberrations at the time of frame ``count``, (P,) nm.

    The hidden state of a `jaxcal.SimulatedMicroscope`, gains and drift included.
    """
    before, taken = microscope.knobs_nm, microscope.frames_taken
    microscope.set(knobs_nm)
    microscope.frames_taken = count - 1
    try:
        return microscope.state_nm()[indices(microscope.knob_names)]
    finally:
        microscope.frames_taken = taken
        microscope.set(before)


def errors(residual, knob_names, optics) -> tuple[float, float]:
    """Root mean square over C10, C12a, C12b in nm, and over all knobs in pi/4 limits."""
    residual = np.asarray(residual, float)
    first = [k for k, name in enumerate(knob_names) if name in ("C10", "C12a", "C12b")]
    limits = quarter_pi_limits_nm(optics, knob_names)
    return (float(np.sqrt(np.mean(residual[first] ** 2))),
            float(np.sqrt(np.mean((residual / limits) ** 2))))
