"""A session with the maker's instrument simulator, in a process and a folder of its own.

`nionswift-usim` deletes ./test_data where it is started. Prints one JSON object.

Its Ronchigrams are geometrical: pixel theta shows the film at the gradient of W. So they tell units
and signs of the controls, by the film that it draws from and the W of jaxcal's reference.
"""

import json
import sys

import absl.logging  # noqa: F401 - keeps the streams that are there before the application's
import numpy as np
from nion.instrumentation.test import AcquisitionTestContext
from nion.swift.test import TestContext
from nion.usim_device.DeviceConfiguration import AcquisitionContextConfiguration
from nion.utils.Geometry import FloatPoint, FloatSize, IntSize
from scipy import ndimage

import jaxcal
from jaxcal import Optics, aberrations
from jaxcal.microscopes.guarded import GuardedMicroscope
from jaxcal.microscopes.nion import NionMicroscope
from jaxcal.microscopes.simulated import random_steps
from jaxcal.reference.aberrations import wave_aberration

KNOBS = ("C10", "C12a", "C12b", "C21a", "C23b")
SETTINGS_NM = [[0, 0, 0, 0, 0], [300, -100, 50, 400, -200], [-200, 0, 0, 0, 0.0]]
HIDDEN_NM, FRAMES = (120.0, -45.0, 30.0), 8
SIDE, BINNED = 512, 4  # pixels of a frame
FAR_NM = 2000.0  # defocus at which a shadow shows enough of the film
PARTS_NM = {"C10": FAR_NM, "C12a": 500.0, "C12b": 500.0, "C21a": 15e3, "C23b": 15e3}
HALVES = {"C12a": "C12.x", "C12b": "C12.y", "C21a": "C21.x", "C23b": "C23.y"}


def film_of(stem):
    """The film (SIDE, SIDE) as it is imaged, and the nm of its pixels."""
    drawn = np.zeros((BINNED * SIDE,) * 2, np.float32)
    field = FloatSize(stem.stage_size_nm, stem.stage_size_nm)
    stem.scan_data_generator.sample.plot_features(drawn, stem.stage_position_m, field, FloatPoint(),
                                                  FloatPoint(), IntSize(*drawn.shape))
    return -drawn.reshape(SIDE, BINNED, SIDE, BINNED).mean((1, 3)), stem.stage_size_nm / SIDE


def shadow(film, pixel_nm, state_nm, optics):
    """What the pixels (SIDE, SIDE) show of the film: the places r = grad W(theta), x first."""
    angles = (np.arange(SIDE) - (SIDE - 1) / 2) * optics.pixel_mrad * 1e-3
    across_y, across_x = np.gradient(
        wave_aberration(state_nm, *np.meshgrid(angles, angles)), angles, angles)
    return ndimage.map_coordinates(
        film, [across_y / pixel_nm + SIDE / 2, across_x / pixel_nm + SIDE / 2], order=1)


def likeness(one, other):
    """Correlation well within the aperture."""
    inside = np.hypot(*np.mgrid[-1:1:SIDE * 1j, -1:1:SIDE * 1j]) < 0.35
    return float(np.corrcoef(one[inside], other[inside])[0, 1])


def signs(stem, camera, optics):
    """{knob: likeness of a frame, taken beside C10 with this knob turned, to the shadow by W, and
    to the one by W with the sign of this knob turned}."""
    for control in ("C10", *HALVES.values()):
        stem.SetVal(control, 0.0)
    microscope = NionMicroscope(stem, camera, optics, KNOBS)
    film, pixel_nm = film_of(stem)
    found = {}
    for knob, part in PARTS_NM.items():
        turned = {"C10": FAR_NM, knob: part}
        microscope.set([turned.get(name, 0.0) for name in KNOBS])
        frame = np.asarray(microscope.acquire(), float)
        found[knob] = [likeness(frame, shadow(film, pixel_nm, aberrations.vector(
            turned | {knob: sign * part}), optics)) for sign in (1, -1)]
    return found


def estimated(stem, camera, optics):
    """How far an estimate gets with such frames, as many as suffice where they interfere; they are
    taken as a loop takes them, each call in a thread."""
    for control, nm in zip(("C10", "C12.x", "C12.y"), HIDDEN_NM, strict=True):
        stem.SetVal(control, 1e-9 * nm)
    microscope = GuardedMicroscope(NionMicroscope(stem, camera, optics, KNOBS[:3]), 60.0)
    knobs_nm, frames = random_steps(0, FRAMES, KNOBS[:3]), []
    for setting in knobs_nm:
        microscope.set(setting)
        frames.append(microscope.acquire())
    series = jaxcal.Series(np.stack(frames), knobs_nm, KNOBS[:3], optics, "usim")
    try:
        answer = jaxcal.estimate(series)
    except (ValueError, np.linalg.LinAlgError) as error:  # no state explains the spectra
        return {"converged": False, "message": str(error)}
    return {"converged": answer.converged, "message": answer.message,
            "off_nm": (answer.x0_nm - HIDDEN_NM).tolist(),
            "sd_nm": np.sqrt(np.diag(answer.covariance_nm2)).tolist()}


def main():
    setup = TestContext.TestSetup()  # the application, kept until the end
    amorphous = AcquisitionContextConfiguration(sample_index=1)
    with AcquisitionTestContext.test_context(amorphous) as context:
        stem = context.instrument
        camera = context.camera_hardware_source
        parameters = camera.get_frame_parameters(0)
        parameters.exposure_ms, parameters.binning = 100.0, BINNED
        camera.set_current_frame_parameters(parameters)
        stem.SetVal("S_VOA", 1.0)  # the aperture is in
        stem.SetVal("BeamCurrent", 1e-6)  # its film is so weak that a usual beam shows noise alone
        optics = Optics(100.0, 1e3 * stem.GetVal("ConvergenceAngle"),
                        1e3 * np.arcsin(stem.stage_size_nm / (stem.max_defocus * 1e9)) / SIDE)
        microscope = NionMicroscope(stem, camera, optics, KNOBS)
        told = {"start_m": stem.GetVal("C10"), "controls_nm": [], "read_nm": [], "shapes": [],
                "changed": []}
        before = microscope.acquire()
        for setting in SETTINGS_NM:
            microscope.set(setting)
            frame = microscope.acquire()
            told["read_nm"].append(microscope.knobs_nm.tolist())
            told["controls_nm"].append(stem.GetVal("C10") * 1e9)
            told["shapes"].append(list(frame.shape))
            told["changed"].append(float(np.std(frame - before) / np.std(before)))
        told["signs"] = signs(stem, camera, optics)
        told["estimate"] = estimated(stem, camera, optics)
        try:
            NionMicroscope(stem, camera, optics, ("C56a",))
        except RuntimeError as error:
            told["unknown"] = str(error)
    json.dump(told, sys.stdout)
    del setup


if __name__ == "__main__":
    main()
