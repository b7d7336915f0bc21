"""Modes of made-up clouds: how many, who belongs, how they spread."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from jaxcal import modes


def clouds(*parts, seed=0):
    """Normal clouds in random order: parts of (count, centre, sd); and the part of each point."""
    random = np.random.default_rng(seed)
    points = np.concatenate([
        np.asarray(centre) + np.asarray(sd) * random.standard_normal((count, len(centre)))
        for count, centre, sd in parts])
    labels = np.repeat(np.arange(len(parts)), [part[0] for part in parts])
    order = random.permutation(len(points))
    return points[order], labels[order]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [256, 1024, 2048])
def test_one_cloud_is_one_mode(seed, count):
    """Of one, two, three and seven knobs; the tails of few knobs are the thinnest."""
    for sd in ([1.0], [1.0, 30.0], [0.01, 1.0, 100.0], [1.0] * 7):
        points, _ = clouds((count, np.arange(len(sd)) * 10.0, sd), seed=seed)
        found = modes.members(points)
        assert len(found) == 1
        assert_array_equal(np.sort(found[0]), np.arange(count))


@pytest.mark.parametrize("seed", range(5))
def test_mirror_images_are_told_apart_and_sorted_by_weight(seed):
    points, labels = clouds((300, (40.0, 10.0, -5.0), 1.0), (700, (-40.0, -10.0, 5.0), 1.0),
                            (200, (40.0, -10.0, 5.0), 1.0), seed=seed)  # fmt: skip
    found = modes.members(points)
    assert [len(group) for group in found] == [700, 300, 200]
    for group, label in zip(found, (1, 0, 2), strict=True):
        assert set(labels[group]) == {label}
    assert_array_equal(np.sort(np.concatenate(found)), np.arange(1200))


def test_a_long_bent_cloud_is_one_mode():
    random = np.random.default_rng(1)
    angle = random.uniform(0, 4.0, 2000)
    ring = 50 * np.column_stack([np.cos(angle), np.sin(angle)])
    assert len(modes.members(ring + random.standard_normal(ring.shape))) == 1


def test_copies_left_by_resampling_do_not_shrink_the_scale():
    points, _ = clouds((256, (0.0, 0.0), 1.0), (256, (200.0, 0.0), 1.0))
    found = modes.members(np.repeat(points, 4, axis=0))
    assert [len(group) for group in found] == [1024, 1024]


def test_a_straggler_joins_the_nearest():
    points, _ = clouds((500, (0.0, 0.0), 1.0), (500, (300.0, 0.0), 1.0), (1, (0.0, 140.0), 0.0))
    found = modes.members(points)
    assert sorted(len(group) for group in found) == [500, 501]
    lost = int(np.argmax(points[:, 1]))
    assert any(lost in group and np.mean(points[group, 0]) < 100 for group in found)


def test_all_in_one_point():
    found = modes.members(np.full((100, 3), 7.0))
    assert len(found) == 1 and len(found[0]) == 100


def test_one_knob():
    points, _ = clouds((400, (-20.0,), 1.0), (600, (20.0,), 2.0))
    assert [len(group) for group in modes.members(points)] == [600, 400]


def test_covariance_is_numpys_and_nan_of_one():
    points, _ = clouds((50, (1.0, 2.0), 3.0))
    assert_allclose(modes.covariance(points), np.cov(points.T))
    assert modes.covariance(points[:, :1]).shape == (1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.all(np.isnan(modes.covariance(points[:1])))
