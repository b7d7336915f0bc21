"""Weights of candidate states and what follows from them."""

import numpy as np


def log_weights(log_likelihood, log_prior, log_proposal):
    """log w_c = log likelihood + log prior - log proposal, normalised to sum w = 1; (C,)."""
    raw = np.asarray(log_likelihood) + np.asarray(log_prior) - np.asarray(log_proposal)
    largest = raw.max()
    return raw - largest - np.log(np.sum(np.exp(raw - largest)))


def log_evidence(log_likelihood, log_prior, log_proposal):
    """Log of the mean unnormalised weight, an estimate of the log marginal likelihood."""
    raw = np.asarray(log_likelihood) + np.asarray(log_prior) - np.asarray(log_proposal)
    largest = raw.max()
    return largest + np.log(np.mean(np.exp(raw - largest)))


def effective_sample_size(log_weights):
    """1 / sum w^2: C where all weights are equal, 1 where one candidate has them all."""
    return 1 / np.sum(np.exp(2 * np.asarray(log_weights)))


def moments(candidates, log_weights):
    """Weighted mean (P,) and covariance (P, P) of candidates (C, P)."""
    weights = np.exp(log_weights)
    mean = weights @ candidates
    deviation = candidates - mean
    return mean, (weights[:, None] * deviation).T @ deviation
