"""Microscopes: what turns knobs and takes frames.

Adapters to real instruments are imported where they are used: `jaxcal.microscopes.ceos`,
`jaxcal.microscopes.nion`.
"""

from jaxcal.microscopes.faulty import FaultyMicroscope
from jaxcal.microscopes.protocol import InstrumentError, Microscope
from jaxcal.microscopes.replay import ReplayMicroscope
from jaxcal.microscopes.simulated import SimulatedMicroscope

__all__ = [
    "FaultyMicroscope", "InstrumentError", "Microscope", "ReplayMicroscope", "SimulatedMicroscope",
    "check",
]


def check(microscope, **options):
    """Ask an adapter whether it does what a calibration needs: see `jaxcal.conformance.check`."""
    from jaxcal import conformance

    return conformance.check(microscope, **options)
