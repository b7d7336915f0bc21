"""Modes of a posterior that is given by candidates: which belong together, and how they spread."""

import numpy as np
from scipy.cluster import hierarchy


def members(positions, sample: int = 1024):
    """Indices of the candidates of each mode, largest first.

    Single linkage in units of the candidates' own spacing, so that modes are what no chain of
    neighbours connects; stragglers belong to the mode whose member is nearest.
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
    return sorted((g for g in groups if len(g)), key=len, reverse=True)


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
