"""The same optimisation by the package that the field uses, ``bayesian-optimization``.

Its own Gaussian process, hyperparameters and acquisition; the box, the initial design and the
transform of the quality are those of :mod:`benchmarks.baselines.bayesopt`, chosen there. An
optional extra: ``pip install '.[evidence]'``.
"""

import math
import time
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np

from benchmarks.baselines import scalar_em
from benchmarks.baselines.bayesopt import TUNED, ZOOMS, Options, box, design
from benchmarks.baselines.interface import Answer

MISSING = "bayesian-optimization is not installed: pip install '.[evidence]'"
NOISE = 0.01  # variance of the quality over that of all frames; the default 1e-6 fits noise
TRIALS = 256


def installed() -> bool:
    """Whether ``bayesian-optimization`` can be imported."""
    return find_spec("bayes_opt") is not None


def tune(microscope, frames: int, seed: int, quality: str = "variance", trained=None,
         options: Options | None = None) -> Iterator[Answer]:
    """Yields the answer after each frame; nothing is stated of its width.

    Raises:
        ImportError: the package is not installed.
    """
    if not installed():
        raise ImportError(MISSING)
    from bayes_opt import BayesianOptimization
    from bayes_opt.acquisition import ExpectedImprovement, UpperConfidenceBound

    options = options or TUNED[quality]
    names, reach = tuple(microscope.knob_names), box(microscope.knob_names)
    acquisition = (ExpectedImprovement(xi=0.01) if options.acquisition == "ei"
                   else UpperConfidenceBound(kappa=options.kappa))
    optimiser = BayesianOptimization(
        None, dict.fromkeys(names, (-1.0, 1.0)), acquisition_function=acquisition,
        random_state=seed, verbose=0, allow_duplicate_points=True)
    optimiser.set_gp_params(alpha=NOISE, n_restarts_optimizer=1)
    start, random = design(len(names), options.start, seed), np.random.default_rng(seed)
    seconds = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of scikit-learn, about lengths at the ends of their range
        for number in range(frames):
            begin = time.perf_counter()
            if number < len(start):
                place = start[number]
            else:
                told = optimiser.suggest()
                place = np.array([told[name] for name in names])
            microscope.set(reach * place)
            seconds += time.perf_counter() - begin
            frame = microscope.acquire()
            begin = time.perf_counter()
            value = scalar_em.measure(frame, microscope.optics, trained)[quality]
            optimiser.register(dict(zip(names, place.tolist(), strict=True)),
                               -(value if options.transform == "log" else math.exp(value)))
            best = _highest(optimiser, names, random)
            seconds += time.perf_counter() - begin
            yield Answer(reach * best, None, seconds)


def _highest(optimiser, names, random) -> np.ndarray:
    """Setting (P,) of the highest mean of the process, sought about the settings so far."""
    def highest(trial, fit):
        told = [dict(zip(names, row.tolist(), strict=True)) for row in trial]
        return trial[np.argmax(optimiser.predict(told, fit_gp=fit))]

    seen = [[entry["params"][name] for name in names] for entry in optimiser.res]
    best = highest(np.array(seen), True)
    for zoom in ZOOMS:
        nearby = np.clip(best + zoom * random.standard_normal((TRIALS, len(names))), -1, 1)
        best = highest(np.concatenate([best[None], nearby]), False)
    return best
