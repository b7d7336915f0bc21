"""Gaussian process with the symmetry of the optics: kernel, likelihood, prediction.

The group is given by its diagonal elements, signs (G, P): one row for each g, which turns the
state x into signs[g] * x.
"""

import numpy as np


def squared_exponential(first, second, amplitude, lengthscales):
    """k(x, x') = amplitude^2 exp(-|(x - x')/l|^2 / 2) of two states (P,)."""
    distance = (np.asarray(first) - np.asarray(second)) / lengthscales
    return amplitude**2 * np.exp(-0.5 * np.sum(distance**2))


def symmetrised(first, second, amplitude, lengthscales, signs):
    """k_G(x, x') = sum_g k(x, g x'): the covariance of a function that is the same at x and g x."""
    return sum(
        squared_exponential(first, sign * np.asarray(second), amplitude, lengthscales)
        for sign in np.asarray(signs)
    )


def covariance(states, others, amplitude, lengthscales, signs):
    """Matrix (T, U) of `symmetrised` between states (T, P) and others (U, P)."""
    return np.array(
        [[symmetrised(a, b, amplitude, lengthscales, signs) for b in others] for a in states]
    )


def log_likelihood(residuals, matrix):
    """log N summed over the columns: sum_d -1/2 [r_d' K^-1 r_d + log det K + T log 2 pi].

    Args:
        residuals: (T, D), the whitened latents minus the mean of the process.
        matrix: (T, T) covariance of a column, the noise on its diagonal.
    """
    residuals = np.asarray(residuals, float)
    frames, latents = residuals.shape
    _, log_determinant = np.linalg.slogdet(matrix)
    squares = np.sum(residuals * np.linalg.solve(matrix, residuals))
    return -0.5 * (squares + latents * (log_determinant + frames * np.log(2 * np.pi)))


def predict(residuals, matrix, cross, prior):
    """Mean (U, D) and covariance (U, U) of the process at new states.

    Args:
        residuals: (T, D).
        matrix: (T, T) covariance of the data, noise included.
        cross: (U, T) covariance of new states and data.
        prior: (U, U) covariance of the new states.
    """
    gain = np.linalg.solve(matrix, np.transpose(cross)).T
    return gain @ residuals, prior - gain @ np.transpose(cross)
