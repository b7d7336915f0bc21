"""Modes of a posterior that is given by candidates: which belong together, and how they spread."""

import numpy as np
from scipy.cluster import hierarchy
from scipy.spatial import distance

JOINED = 1.0  # a gap of fewer standard deviations of the larger group parts no modes


def members(positions, sample: int = 1024):
    """Indices of the candidates of each mode, largest first.

    Single linkage in units of the candidates' own spacing, so that modes are what no chain of
    neighbours connects; stragglers belong to the mode whose member is nearest. With few knobs the
    chain breaks in the thin tails too: what is nearer than JOINED belongs together all the same.
    """
    scaled = positions / np.maximum(_spacing(positions), 1e-9)
    chosen = np.arange(0, len(scaled), max(1, len(scaled) // sample))
    core = scaled[chosen]
    labels = hierarchy.fcluster(hierarchy.linkage(core, "single"), 12.0, "distance")
    large = [k for k in np.unique(labels) if np.mean(labels == k) > 0.005]
    kept = np.isin(labels, large)
    core, labels = core[kept], labels[kept]
    nearest = np.concatenate([
        np.argmin(((part[:, None] - core[None]) ** 2).sum(-1), axis=1)
        for part in np.array_split(scaled, max(1, len(scaled) // 256))])
    groups = [np.flatnonzero(labels[nearest] == k) for k in large]
    return _joined(positions, [g for g in groups if len(g)])


def _joined(positions, groups):
    """Groups, largest first, of which those that no gap parts are one."""
    kept = []
    for group in sorted(groups, key=len, reverse=True):
        for number, other in enumerate(kept):
            if _gap(positions[other], positions[group]) < JOINED:
                kept[number] = np.sort(np.concatenate([other, group]))
                break
        else:
            kept.append(group)
    return kept if len(kept) == len(groups) else _joined(positions, kept)


def _gap(large, small, sample: int = 512):
    """Least distance between two groups in standard deviations of the larger."""
    spread = np.atleast_2d(np.cov(large.T))
    scale = np.sqrt(np.maximum(np.diag(spread), 1e-18))
    factor = np.linalg.cholesky(spread / np.outer(scale, scale) + 1e-9 * np.eye(len(scale)))
    first, second = (np.linalg.solve(factor, (group[:: max(1, len(group) // sample)] / scale).T).T
                     for group in (large, small))
    return distance.cdist(first, second).min()


def _spacing(positions):
    """Typical distance along each axis to the nearest candidate, (P,)."""
    sample = np.unique(positions, axis=0)  # resampling leaves copies
    sample = sample[:: max(1, len(sample) // 512)]
    if len(sample) < 2:
        return np.zeros(positions.shape[1])
    scale = np.maximum(sample.std(0), 1e-9)
    distance = (((sample[:, None] - sample[None]) / scale) ** 2).sum(-1)
    np.fill_diagonal(distance, np.inf)
    neighbour = distance.argmin(1)
    return np.median(np.abs(sample - sample[neighbour]), axis=0)


def covariance(positions):
    """Covariance (P, P) of candidates (N, P); NaN where one alone has none."""
    if len(positions) < 2:
        return np.full((positions.shape[1],) * 2, np.nan)
    return np.atleast_2d(np.cov(positions.T))
