"""A frame as an estimate sees it: on its camera, without what the camera adds."""

from dataclasses import replace

import numpy as np
import pytest
import standins
from numpy.testing import assert_allclose

from jaxcal import observation


@pytest.fixture(scope="module")
def series():
    return standins.series(2, size=192)


@pytest.mark.parametrize("offset", [0.0, 5000.0])
def test_the_dark_level_does_not_lessen_the_contrast(series, offset):
    """The spectra of the refinement have absolute power; those of the latents do not."""
    plain = [observation.observe(frame, series.optics) for frame in series.frames]
    raised = [observation.observe(frame + np.float32(offset), series.optics)
              for frame in series.frames]
    for before, after in zip(plain, raised, strict=True):
        assert after.fault is None and after.dark == pytest.approx(before.dark + offset, abs=1.0)
    numbers = list(range(len(series)))
    expected = observation.measured(plain, series, numbers).power
    found = observation.measured(raised, series, numbers).power
    for one, other in zip(expected, found, strict=True):
        for a, b in zip(one, other, strict=True):
            assert_allclose(np.log(b), np.log(a), atol=0.05)
    assert_allclose(observation.log_images(raised), observation.log_images(plain), atol=0.05)
    if offset:  # left in, it would
        kept = [replace(seen, dark=0.0) for seen in raised]
        left_in = observation.measured(kept, series, numbers)
        assert np.median(left_in.power[0][0] / expected[0][0]) < 0.5
