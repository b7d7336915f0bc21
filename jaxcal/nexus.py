"""The results as a NeXus file, for databases and archives of electron microscopy.

    /<name> (NXentry)                              one for each series
        title, program_name
        measurement/event1                         NXem_measurement, NXem_event_data
            instrument/ebeam_column                NXem_instrument, NXebeam_column
                electron_source                    NXsource: voltage (V)
                corrector_cs1/tableau1             NXcorrector_cs, NXprocess: model "nion"
                    c_1_0, c_1_2_a ...             NXaberration: magnitude, magnitude_errors (m)
            instrument/optics                      NXem_optical_system: semi_convergence_angle (rad)
        tuned_knobs (NXdata)                       setting, setting_errors (m), knob (P,)
        jaxcal (NXcollection)                      frames_used, rejected_frames, unlike_frames,
                                                   converged, message; of a closed loop verdict,
                                                   reason, limits, applied_knobs (m), knob (P,)

Names, nesting and units follow the NeXus definitions v2026.01; the tests have the files read by
the validator of pynxtools, which misses of the application NXem the sample, the description of the
microscope and the time of the start, none of which jaxcal knows.  So no ``definition`` is set.
The magnitudes are x0, the state with the knobs at zero, in Krivanek's Cartesian coefficients, x to
the right and y down, for which those definitions have the model "nion".  The tuning setting is no
aberration and has no class of its own; it stands as data.  A magnitude that is not known is NaN.
A closed loop that came to no estimate has the verdict and its reason, no tableau and no
tuned_knobs.
"""

import re
from datetime import UTC, datetime

import numpy as np

from jaxcal.files import replacing
from jaxcal.results import standard_deviation

RELEASE = "v2026.01"
"""Release of the NeXus definitions that is followed."""

_NM = 1e-9
_CLASSES = (
    ("measurement", "NXem_measurement"),
    ("event1", "NXem_event_data"),
    ("instrument", "NXem_instrument"),
)
_CORRECTOR = (
    ("corrector_cs1", "NXcorrector_cs"),
    ("tableau1", "NXprocess"),
)
_COMMON = {
    "C10": "defocus", "C12": "twofold astigmatism", "C21": "axial coma",
    "C23": "threefold astigmatism", "C30": "spherical aberration", "C32": "axial star aberration",
    "C34": "fourfold astigmatism", "C41": "fourth-order axial coma",
    "C43": "three-lobe aberration", "C45": "fivefold astigmatism",
    "C50": "fifth-order spherical aberration", "C52": "fifth-order star aberration",
    "C54": "rosette aberration", "C56": "sixfold astigmatism",
}  # fmt: skip


def write(path, entries, calibrations=None):
    """Write results as one NeXus file, whole or not at all.

    Args:
        path: HDF5 file to write, usually ``.nxs``.
        entries: mapping of each series' name to (`jaxcal.Estimate` or None, `jaxcal.Optics`).
        calibrations: mapping of a name to the `jaxcal.Calibration` that the estimate is of; its
            verdict and where it left the knobs are written along.
    """
    import h5py

    from jaxcal import __version__ as version

    with replacing(path) as scratch, h5py.File(scratch, "w") as file:
        file.attrs["NX_class"] = "NXroot"
        file.attrs["creator"], file.attrs["creator_version"] = "jaxcal", version
        file.attrs["NeXus_release"] = RELEASE
        file.attrs["file_time"] = _now()
        for name, (estimate, optics) in entries.items():
            entry = _group(file, _free(file, name), "NXentry")
            file.attrs.setdefault("default", entry.name[1:])
            _write_entry(entry, name, optics, version)
            notes = _group(entry, "jaxcal", "NXcollection")
            if estimate is not None:
                _write_tableau(entry, estimate, version)
                _write_tuned(entry, estimate)
                _write_notes(notes, estimate)
            if name in (calibrations or {}):
                _write_verdict(notes, calibrations[name])


def coefficient_name(name):
    """NeXus's name of a coefficient.

    Example:
        >>> coefficient_name("C12a"), coefficient_name("C10")
        ('c_1_2_a', 'c_1_0')
    """
    return "_".join(name.lower())


def _write_entry(entry, name, optics, version):
    entry["title"] = _plain(name)  # a file's name can be any bytes
    entry["program_name"] = "jaxcal"
    entry["program_name"].attrs["version"] = version
    instrument = _path(entry, _CLASSES)
    _field(_group(instrument, "optics", "NXem_optical_system"), "semi_convergence_angle",
           1e-3 * optics.semi_angle_mrad, "rad")  # fmt: skip
    column = _group(instrument, "ebeam_column", "NXebeam_column")
    source = _group(column, "electron_source", "NXsource")
    source["probe"] = "electron"
    _field(source, "voltage", 1e3 * optics.energy_keV, "V")


def _write_tableau(entry, estimate, version):
    tableau = _path(entry["measurement/event1/instrument/ebeam_column"], _CORRECTOR)
    tableau["program"], tableau["version"], tableau["date"] = "jaxcal", version, _now()
    tableau["model"] = "nion"
    tableau["description"] = (
        "Estimated from Ronchigrams at known knob steps: the state with the knobs at zero at the "
        "first frame. Krivanek's Cartesian coefficients, x along the columns of a frame to the "
        "right, y along its rows downward."
    )
    x0, spread = np.asarray(estimate.x0_nm, float), standard_deviation(estimate.covariance_nm2)
    for knob, value, error in zip(estimate.knob_names, x0, spread, strict=True):
        aberration = _group(tableau, coefficient_name(knob), "NXaberration")
        _field(aberration, "magnitude", _NM * value, "m")
        _field(aberration, "magnitude_errors", _NM * error, "m")
        aberration["magnitude_errors_model"] = "standard deviation of the posterior"
        aberration["name"], aberration["alias"] = knob, _COMMON[knob[:3]]


def _write_notes(notes, estimate):
    notes["frames_used"] = int(estimate.frames_used)
    notes["rejected_frames"] = np.array([int(k) for k, _ in estimate.rejected_frames], np.int64)
    notes["unlike_frames"] = np.array([int(k) for k in estimate.unlike_frames], np.int64)
    notes["converged"] = bool(estimate.converged)
    notes["actuator"] = np.asarray(estimate.actuator, float)  # [aberration, knob], nm per nm
    notes["message"] = _plain(estimate.message)


def _write_verdict(notes, calibration):
    unknown = np.full(len(calibration.knob_names), np.nan)
    applied = calibration.applied_knobs_nm
    notes["verdict"], notes["reason"] = calibration.verdict, _plain(calibration.reason)
    notes["knob"] = list(calibration.knob_names)
    _field(notes, "limits", _NM * np.asarray(calibration.limits_nm, float), "m")
    _field(notes, "applied_knobs", _NM * (unknown if applied is None else np.asarray(applied)), "m")


def _plain(text):
    """A text as HDF5 can hold it, whatever an instrument said."""
    return str(text).replace("\0", "").encode("utf-8", "replace").decode()


def _write_tuned(entry, estimate):
    tuned = _group(entry, "tuned_knobs", "NXdata")
    tuned.attrs["signal"], tuned.attrs["axes"] = "setting", ["knob"]
    tuned["title"] = "knob setting that tunes the instrument at the time of the last frame"
    spread = standard_deviation(estimate.tuned_covariance_nm2)
    _field(tuned, "setting", _NM * np.asarray(estimate.tuned_knobs_nm, float), "m")
    _field(tuned, "setting_errors", _NM * spread, "m")
    tuned["knob"] = list(estimate.knob_names)
    entry.attrs["default"] = "tuned_knobs"


def _path(group, classes):
    for name, nexus_class in classes:
        group = _group(group, name, nexus_class)
    return group


def _group(parent, name, nexus_class):
    group = parent.create_group(name)
    group.attrs["NX_class"] = nexus_class
    return group


def _field(group, name, value, unit):
    group[name] = value
    group[name].attrs["units"] = unit


def _free(file, name):
    """A name that NeXus allows and the file does not have yet."""
    plain = re.sub(r"[^A-Za-z0-9_.]", "_", name).strip(".") or "entry"
    number, free = 1, plain
    while free in file:
        number += 1
        free = f"{plain}_{number}"
    return free


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")
