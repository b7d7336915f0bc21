"""Measurements of jaxcal: speed beside plain NumPy, and how well it tunes.

    python -m benchmarks [--only NAME] [--json out.json] [--device cpu|gpu]   speed
    python -m benchmarks.closed_loop                                          tuning, simulated
    python -m benchmarks.coverage                                             widths, bound
    python -m benchmarks.steps                                                choosing steps
    python -m benchmarks.bound                                                theory and simulator
    python -m benchmarks.identifiability                                      what can be known
    python -m benchmarks.nuts                                                 EM and a sampler
    python -m benchmarks.reality --folder FOLDER                              another simulator
    python -m benchmarks.comparison                                           other methods

All but the first write ``benchmarks/results/`` and their tables in ``docs/results.md``.
"""

import os

# Before the first import of NumPy: OpenBLAS's threads fight XLA's over the same cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
