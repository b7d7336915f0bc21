"""Microscopes: what turns knobs and takes frames.

Adapters to real instruments are imported where they are used: `jaxcal.microscopes.ceos`,
`jaxcal.microscopes.nion`.
"""


from jaxcal.microscopes.protocol import Microscope
from jaxcal.microscopes.replay import ReplayMicroscope
from jaxcal.microscopes.simulated import SimulatedMicroscope

__all__ = ["Microscope", "ReplayMicroscope", "SimulatedMicroscope"]
