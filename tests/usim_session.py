"""A session with the maker's instrument simulator, in a process and a folder of its own.

`nionswift-usim` deletes ./test_data where it is started. Prints one JSON object.
"""

import json
import sys

import absl.logging  # noqa: F401 - keeps the streams that are there before the application's
import numpy as np
from nion.instrumentation.test import AcquisitionTestContext
from nion.swift.test import TestContext
from nion.usim_device.DeviceConfiguration import AcquisitionContextConfiguration

import jaxcal
from jaxcal import Optics
from jaxcal.microscopes.nion import NionMicroscope

KNOBS = ("C10", "C12a", "C12b", "C21a", "C23b")
SETTINGS_NM = [[0, 0, 0, 0, 0], [300, -100, 50, 400, -200], [-200, 0, 0, 0, 0.0]]


def calibrated(stem, camera):
    """How far a calibration gets with its own frames, geometrical shadows of some rectangles."""
    microscope = NionMicroscope(stem, camera, Optics(100.0, 30.0, 0.2), KNOBS[:3])
    run = jaxcal.calibrate(microscope, frames=6)
    return {"verdict": run.verdict, "reason": run.reason,
            "stands_nm": microscope.knobs_nm.tolist(),
            "applied_nm": None if run.applied_knobs_nm is None else run.applied_knobs_nm.tolist()}


def main():
    setup = TestContext.TestSetup()  # the application, kept until the end
    with AcquisitionTestContext.test_context(AcquisitionContextConfiguration()) as context:
        stem = context.instrument
        camera = context.camera_hardware_source
        parameters = camera.get_frame_parameters(0)
        parameters.exposure_ms, parameters.binning = 100.0, 4
        camera.set_current_frame_parameters(parameters)
        microscope = NionMicroscope(stem, camera, Optics(100.0, 30.0, 0.2), KNOBS)
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
        told["series"] = calibrated(stem, camera)
        try:
            NionMicroscope(stem, camera, Optics(100.0, 30.0, 0.2), ("C56a",))
        except RuntimeError as error:
            told["unknown"] = str(error)
    json.dump(told, sys.stdout)
    del setup


if __name__ == "__main__":
    main()
