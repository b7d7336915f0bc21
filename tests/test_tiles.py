"""Spectra of windows: closed forms, white noise, symmetries, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from jaxcal import tiles
from jaxcal.spectra import Disc

SIZE, RADIUS = 192, 72.0
DISC = Disc(95.5, 95.5, RADIUS)


def grid():
    line = (np.arange(SIZE) - 95.5) / RADIUS
    return line[None, :], line[:, None]


@pytest.mark.parametrize("layout", tiles.LAYOUTS, ids=["tiles", "whole"])
def test_bins_hold_each_frequency_once(layout):
    f = layout.frequencies
    assert len(np.unique(f, axis=0)) == len(f) == len(layout.bins)
    both = np.concatenate([f, -f])
    assert len(np.unique(both, axis=0)) == 2 * len(f)
    size = np.hypot(*f.T)
    assert size.min() >= tiles.LOWEST and size.max() <= layout.highest
    fx, fy = layout.lines
    assert_allclose(f, np.stack([fx[layout.bins[:, 1]], fy[layout.bins[:, 0]]], 1))


@pytest.mark.parametrize("layout", tiles.LAYOUTS, ids=["tiles", "whole"])
def test_moments_are_those_of_the_windows(layout):
    """The taper pulls the outer windows inwards and narrows them; the middle one stays."""
    middles, widths = layout.moments
    assert_allclose(middles[0], 0.0, atol=1e-12)
    assert np.all(widths <= layout.width + 1e-9) and np.all(widths > 0.7 * layout.width)
    assert np.all(np.hypot(*middles.T) <= np.hypot(*layout.centres.T) + 1e-9)


@pytest.mark.parametrize("layout", tiles.LAYOUTS, ids=["tiles", "whole"])
def test_white_noise_gives_its_variance(layout):
    """P = v / (F0 R)^2 in every bin: the mean over many bins and frames."""
    random = np.random.default_rng(0)
    frames = 100 + 5 * random.standard_normal((40, SIZE, SIZE))
    spectra = jax.jit(lambda frame: tiles.power_spectra(frame, DISC, layout))
    power = np.mean([spectra(frame) for frame in frames], 0)
    assert_allclose(power.mean(1) * (100 * RADIUS) ** 2 / 25, 1.0, rtol=0.08)


def test_a_grating_appears_at_its_frequency_with_the_width_of_the_window():
    x, y = grid()
    frame = jnp.asarray(100 * (1 + 0.1 * np.cos(2 * np.pi * (6 * x + 4 * y))))
    # the theory's G is a Gaussian of the window's second moment; the common taper makes that of the
    # large window 0.06 wider in its flanks
    for layout, off in zip(tiles.LAYOUTS, (0.04, 0.07), strict=True):
        power = np.asarray(tiles.power_spectra(frame, DISC, layout)[0])
        assert_allclose(layout.frequencies[power.argmax()], [6.0, 4.0])
        width = layout.moments[1][0]
        away = layout.frequencies - [6.0, 4.0]
        near = np.hypot(*away.T) < 1.2
        variance = 1 / (8 * np.pi**2 * width**2)
        expected = np.exp(-0.5 * (away[near] ** 2).sum(1) / variance)
        assert_allclose(power[near] / power.max(), expected, atol=off)


def test_offset_scale_and_dtype_of_the_counts():
    x, y = grid()
    counts = (100 * (1 + 0.1 * np.cos(2 * np.pi * 6 * x) + 0 * y)).astype(np.uint16)
    one, many = tiles.tile_spectra(counts, DISC), tiles.tile_spectra(4.0 * counts, DISC)
    for a, b, layout in zip(one, many, tiles.LAYOUTS, strict=True):
        assert a.dtype == np.float32 and a.shape == (len(layout.centres), len(layout.bins))
        assert_allclose(a, b, rtol=1e-3, atol=1e-9)
        off = DISC._replace(column=DISC.column + 0.3)  # as exact for counts as for real numbers
        assert_allclose(np.asarray(tiles.power_spectra(counts, off, layout)),
                        np.asarray(tiles.power_spectra(counts.astype(np.float32), off, layout)),
                        rtol=1e-4, atol=1e-9)
    dark = tiles.tile_spectra(counts + np.uint16(300), DISC, 300.0)
    for a, b in zip(one, dark, strict=True):
        assert_allclose(a, b, rtol=1e-3, atol=1e-9)


def test_turning_the_frame_by_half_exchanges_opposite_tiles():
    frame = 100 + 5 * np.random.default_rng(1).standard_normal((SIZE, SIZE))
    power = np.asarray(tiles.power_spectra(jnp.asarray(frame), DISC, tiles.TILES))
    turned = np.asarray(tiles.power_spectra(jnp.asarray(frame[::-1, ::-1]), DISC, tiles.TILES))
    assert_allclose(turned, power[[0, 4, 5, 6, 1, 2, 3]], rtol=1e-6)


def test_jit_agrees():
    frame = jnp.asarray(100 + 5 * np.random.default_rng(1).standard_normal((SIZE, SIZE)))
    made = jax.jit(lambda f: tiles.power_spectra(f, DISC, tiles.WHOLE))(frame)
    assert_allclose(made, tiles.power_spectra(frame, DISC, tiles.WHOLE), rtol=1e-9)


def test_a_small_disc_is_refused():
    with pytest.raises(ValueError, match="radius of 40.0 pixels, its spectrum needs at least 64"):
        tiles.tile_spectra(np.ones((96, 96)), Disc(48.0, 48.0, 40.0))
