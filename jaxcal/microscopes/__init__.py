"""Microscopes: what turns knobs and takes frames."""

from jaxcal.microscopes.protocol import Microscope
from jaxcal.microscopes.replay import ReplayMicroscope
from jaxcal.microscopes.simulated import SimulatedMicroscope

__all__ = ["Microscope", "ReplayMicroscope", "SimulatedMicroscope"]
