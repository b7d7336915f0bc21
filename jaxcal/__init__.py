"""jaxcal: the aberration state of an electron microscope from a few Ronchigrams.

The public names are listed one by one below. They are imported on first use, so that
``import jaxcal`` and ``jaxcal --help`` do not wait for JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING

_HOME = {
    "Optics": "jaxcal.optics",
    "quarter_pi_limits_nm": "jaxcal.optics",
    "wave_aberration": "jaxcal.aberrations",
    "convert": "jaxcal.notations",
    "Series": "jaxcal.series",
    "SeriesError": "jaxcal.series",
    "read_series": "jaxcal.series",
    "write_series": "jaxcal.series",
    "Estimate": "jaxcal.answers",
    "Calibration": "jaxcal.calibration",
    "Mode": "jaxcal.answers",
    "estimate": "jaxcal.estimation",
    "calibrate": "jaxcal.calibration",
    "Identifiability": "jaxcal.identification",
    "identifiability": "jaxcal.identification",
    "Microscope": "jaxcal.microscopes",
    "SimulatedMicroscope": "jaxcal.microscopes",
    "ReplayMicroscope": "jaxcal.microscopes",
    "write_report": "jaxcal.report",
}

__all__ = [
    "Calibration",
    "Estimate",
    "Identifiability",
    "Microscope",
    "Mode",
    "Optics",
    "ReplayMicroscope",
    "Series",
    "SeriesError",
    "SimulatedMicroscope",
    "calibrate",
    "convert",
    "estimate",
    "identifiability",
    "quarter_pi_limits_nm",
    "read_series",
    "wave_aberration",
    "write_report",
    "write_series",
]

if TYPE_CHECKING:
    from jaxcal.aberrations import wave_aberration
    from jaxcal.answers import Estimate, Mode
    from jaxcal.calibration import Calibration, calibrate
    from jaxcal.estimation import estimate
    from jaxcal.identification import Identifiability, identifiability
    from jaxcal.microscopes import Microscope, ReplayMicroscope, SimulatedMicroscope
    from jaxcal.notations import convert
    from jaxcal.optics import Optics, quarter_pi_limits_nm
    from jaxcal.report import write_report
    from jaxcal.series import Series, SeriesError, read_series, write_series


def __getattr__(name):
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name == "__version__":
        from importlib.metadata import version

        return version("jaxcal")
    raise AttributeError(f"module 'jaxcal' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__():
    return sorted([*__all__, "__version__"])
