"""Microscopes: what turns knobs and takes frames.

Adapters to real instruments are imported where they are used: `jaxcal.microscopes.ceos`,
`jaxcal.microscopes.nion`.
"""

from importlib import import_module

from jaxcal.microscopes.faulty import FaultyMicroscope
from jaxcal.microscopes.protocol import InstrumentError, Microscope, Past
from jaxcal.microscopes.replay import ReplayMicroscope
from jaxcal.microscopes.simulated import SimulatedMicroscope

__all__ = [
    "FaultyMicroscope", "InstrumentError", "Microscope", "Past", "ReplayMicroscope",
    "SimulatedMicroscope", "check",
]


def check(microscope, **options):
    """Ask an adapter whether it does what a calibration needs: see :mod:`jaxcal.conformance`."""
    # by name: that module stands after the microscopes in the flow of data
    return import_module("jaxcal.conformance").check(microscope, **options)
