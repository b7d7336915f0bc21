"""What a single frame is to an estimate: its aperture, whether it can be used, its spectra.

Frames of one series are seen by one camera: only the centre of the disc may move between them.
"""

from dataclasses import dataclass, replace

import numpy as np

from jaxcal import aperture, spectra, tiles, unknowns
from jaxcal.optics import Optics
from jaxcal.series import Series

MEASURED_SHARE = 0.8  # of the measured radius in the semi-angle: pixels are known better


@dataclass(frozen=True)
class Observation:
    """A frame and its disc, or the reason why it cannot be used; dark: level well outside the
    disc, counts, 0 where the frame does not show it."""

    frame: np.ndarray
    disc: spectra.Disc
    fault: str | None
    dark: float = 0.0


def observe(frame, optics: Optics) -> Observation:
    """Find the aperture in a frame (H, W) and judge the frame."""
    disc, quality = aperture.find_disc(frame, optics.radius_pixels)
    if quality.fault is None:
        disc = disc._replace(ellipticity=quality.ellipse[0])
    return Observation(np.asarray(frame), disc, quality.fault,
                       quality.outside if quality.dark_seen else 0.0)


def stale(frame, earlier) -> str | None:
    """Why a frame (H, W) is none of its own: an earlier one has the very same counts."""
    for number, other in enumerate(earlier):
        few = [np.asarray(image)[::16, ::16] for image in (other, frame)]  # tell most apart
        if np.array_equal(*few) and np.array_equal(other, frame):
            return (f"stale: the very counts of frame {number}, the camera gave an old frame: take "
                    f"one that is exposed after the knobs have moved")
    return None


def camera_of(observations) -> tuple[float, float]:
    """Radius, pixels, and ellipticity of the aperture's image: medians, one camera for all frames.

    Only the centre may move from frame to frame; what one frame's speckle does to its own radius
    would shift its C10 by twice the relative error.
    """
    discs = [seen.disc for seen in observations]
    return (float(np.median([disc.radius for disc in discs])),
            float(np.median([disc.ellipticity for disc in discs])))


def log_images(observations):
    """Log images (T, 128, 64) of frames on their common camera.

    Raises:
        ValueError: the disc is too small, see `jaxcal.spectra.check_disc`.
    """
    radius, ellipticity = camera_of(observations)
    return np.stack([
        np.asarray(spectra.log_spectrum(
            seen.frame, seen.disc._replace(radius=radius, ellipticity=ellipticity)))
        for seen in observations])


def measured(observations, series: Series, numbers) -> unknowns.Measured:
    """Spectra, knobs and times of the frames used, on their common camera."""
    radius, ellipticity = camera_of(observations)
    power = tuple(
        tiles.tile_spectra(seen.frame, seen.disc._replace(radius=radius, ellipticity=ellipticity),
                           seen.dark)
        for seen in observations)
    return unknowns.Measured(power, series.knobs_nm[numbers], np.asarray(numbers, float),
                           float(len(series) - 1))


def measured_optics(optics: Optics, radius: float) -> Optics:
    """Nominal optics with the semi-angle that the measured radius (pixels) makes most likely."""
    measured = optics.pixel_mrad * radius
    semi_angle = optics.semi_angle_mrad * (measured / optics.semi_angle_mrad) ** MEASURED_SHARE
    return replace(optics, semi_angle_mrad=semi_angle)


def radius_of(measured: Optics, nominal: Optics) -> float:
    """The radius, pixels, of which `measured_optics` made these of the nominal optics."""
    share = (measured.semi_angle_mrad / nominal.semi_angle_mrad) ** (1 / MEASURED_SHARE)
    return share * nominal.radius_pixels
