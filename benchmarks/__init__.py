"""Measurements of jaxcal: speed beside plain NumPy, and how well it tunes.

    python -m benchmarks [--only NAME] [--json out.json] [--device cpu|gpu]   speed
    python -m benchmarks.closed_loop                                          tuning, simulated
    python -m benchmarks.reality --folder FOLDER                              another simulator

The last two write ``benchmarks/results/`` and their tables in ``docs/results.md``.
"""

import os

# Before the first import of NumPy: OpenBLAS's threads fight XLA's over the same cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
