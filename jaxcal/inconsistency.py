"""What speaks against the optics as told: the image of the aperture, and how far the knobs move.

The radius of the aperture's image, in pixels, is the semi-angle over the pixel. A step of a knob
moves the phases by so many radians as energy and semi-angle say; the scale between the two,
estimated along, tells where they say it wrong.
"""

import numpy as np

from jaxcal.aberrations import ORDER, indices
from jaxcal.observation import measured_optics
from jaxcal.optics import Optics, energy_of
from jaxcal.refine import OFF_SCALE, Refinement, enough, off_scale
from jaxcal.unknowns import SCALE_SD, decode

BESIDE = 1.05  # factor by which a semi-angle may be outside those that a model was trained for
CROOKED = 0.035  # log of measured over told radius, from which on something is told wrong


def findings(optics: Optics, radius_pixels: float, found: Refinement | None) -> str:
    """What is told wrong, a sentence with what would explain it; empty where nothing is.

    Args:
        optics: as told; radius_pixels: measured, of the aperture's image;
        found: what the spectra say; None where they were not asked.
    """
    told_pixels = optics.semi_angle_mrad / optics.pixel_mrad
    crooked = abs(np.log(radius_pixels / told_pixels)) > CROOKED
    # knobs that do not act as told say nothing of the optics, and are told of by themselves
    asked = found is not None and enough(found.problem) and not (
        found.with_actuator or found.with_misses)
    log_scale = _log_scale(found) if asked else 0.0
    if crooked:
        told = (f"the aperture's image has a radius of {radius_pixels:.1f} pixels, where "
                f"semi_angle_mrad/pixel_mrad is {told_pixels:.1f}: one of them is wrong")
        if not asked:
            return told
        semi = measured_optics(optics, radius_pixels).semi_angle_mrad * np.exp(log_scale)
        off = np.log([semi / optics.semi_angle_mrad, semi / radius_pixels / optics.pixel_mrad])
        both = ("" if np.abs(off).min() < CROOKED else
                "; that would be both of them: look at energy_keV and the knobs' unit too")
        return (f"{told}, by the knobs' steps they are {semi:.1f} (told {optics.semi_angle_mrad:g})"
                f" and {semi / radius_pixels:.3f} (told {optics.pixel_mrad:g}){both}")
    if asked and found.with_scale:
        if abs(log_scale) < OFF_SCALE * SCALE_SD:  # more frames have brought it back
            return ""
        power = 1 + ORDER[indices(found.problem.knob_names)].min()
        waves = np.exp(power * log_scale)  # of phase, where one is expected
        energy = energy_of(optics.wavelength_nm / waves)
        explained = ("" if not 30 <= energy <= 300 else
                     f" ({energy:.0f} instead of {optics.energy_keV:g} explains it)")
        return (f"all knobs move the phases by {waves:.2f} of what they should: energy_keV is "
                f"wrong{explained}, or semi_angle_mrad and pixel_mrad both "
                f"({100 * np.expm1(log_scale):+.0f} %), or the knobs' unit")
    off = abs(off_scale(found.solutions[0].point, found.problem)) if asked else 0.0
    return "" if off < OFF_SCALE else (
        f"the scale between knobs and optics is {off:.1f} standard deviations off: look at "
        f"energy_keV, semi_angle_mrad, pixel_mrad and the knobs' unit")


def untrained(optics: Optics, card: dict) -> str:
    """A sentence where the semi-angle is none that the model with this card was trained for; empty
    where it is."""
    least, most = card.get("ranges", {}).get("semi_angles_mrad", (0.0, np.inf))
    if least / BESIDE <= optics.semi_angle_mrad <= most * BESIDE:
        return ""
    return (f"the aperture has a semi-angle of {optics.semi_angle_mrad:.1f} mrad, the model was "
            f"trained from {least:g} to {most:g}: EM may have missed the state, compare with "
            f"another aperture")


def _log_scale(found: Refinement) -> float:
    return float(decode(found.solutions[0].point.z, found.problem).log_scale)
