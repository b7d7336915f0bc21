"""Measurements of jaxcal: speed beside plain NumPy, and how well it tunes.

    python -m benchmarks [--only NAME] [--device cpu|gpu] [--float64]         speed
    python -m benchmarks.scaling                                              cost against size
    python -m benchmarks.platforms SERIES.h5 ...                              CPU beside GPU
    python -m benchmarks.closed_loop                                          tuning, simulated
    python -m benchmarks.coverage                                             widths, bound
    python -m benchmarks.steps                                                choosing steps
    python -m benchmarks.bound                                                theory and simulator
    python -m benchmarks.identifiability                                      what can be known
    python -m benchmarks.nuts                                                 EM and a sampler
    python -m benchmarks.reality --folder FOLDER                              another simulator
    python -m benchmarks.comparison                                           other methods
    python -m benchmarks.faults                                               loops with faults
    python -m benchmarks.verification                                         the last frame
    python -m benchmarks.broken_symmetry                                      fixed C30, C34, C50
    python -m benchmarks.tracking                                             a drift, followed
    python -m benchmarks.unexplained                                          what no state explains
    python -m benchmarks.unlike                                               never trained on

The first and `platforms` write where they are told to, all others ``benchmarks/results/`` and their
tables in ``docs/results.md``.
"""

import os

# Before the first import of NumPy: OpenBLAS's threads fight XLA's over the same cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
