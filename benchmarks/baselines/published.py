"""The published form, and jaxcal itself with and without the refinement.

Published (VAE-EM, 2026): latents of an autoencoder, a symmetric Gaussian process as the whole map,
EM over it and the start state. jaxcal differs by the simulated mean of the map and by going on to
the spectra of windows. All three are `jaxcal.estimation.infer` with its options.
"""

import numpy as np

from benchmarks.baselines.interface import Answer, Seen
from jaxcal import estimation

OPTIONS = {
    "jaxcal": {},
    "jaxcal_em": {"refined": False},
    "published": {"published": True, "refined": False},
}


def estimate(seen: Seen, count: int, seed: int, model, form: str = "published",
             length: int | None = None, settings=None) -> Answer:
    """The answer from the first ``count`` frames by one of `OPTIONS`."""
    observations, series = seen.first(count)
    made = estimation.infer(observations, series, model, seed=seed, length=length,
                            settings=settings, **OPTIONS[form])
    return Answer(np.asarray(made.tuned_knobs_nm),
                  np.sqrt(np.diag(made.tuned_covariance_nm2)), made.seconds)
