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


def log_likelihood_of_latents(latents, means, sensitivities, whitenings, matrix):
    """log p of the latents of T frames, nuisances and process integrated out, without a shortcut.

    With y_t = W_t (z_t - m_t) and N_t = W_t S_t', the entries of y are normal with covariance
    cov(y_td, y_ue) = K_tu [d = e] + sum_r N_tdr N_uer, hence
    log p = -1/2 [y' C^-1 y + log det C + T D log 2 pi] + sum_t log |det W_t|.

    Args:
        latents, means: (T, D).
        sensitivities: (T, R, D), of the latents to nuisances of unit variance.
        whitenings: (T, D, D).
        matrix: (T, T) covariance K of a whitened latent, the noise on its diagonal.
    """
    frames, dimensions = np.shape(latents)
    each = list(zip(whitenings, latents - means, sensitivities, strict=True))
    white = np.concatenate([whitening @ residual for whitening, residual, _ in each])
    nuisance = np.concatenate([whitening @ sensitivity.T for whitening, _, sensitivity in each])
    covariance = np.kron(matrix, np.eye(dimensions)) + nuisance @ nuisance.T
    _, log_determinant = np.linalg.slogdet(covariance)
    squares = white @ np.linalg.solve(covariance, white)
    density = -0.5 * (squares + log_determinant + frames * dimensions * np.log(2 * np.pi))
    return density + sum(np.linalg.slogdet(w)[1] for w in whitenings)


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
