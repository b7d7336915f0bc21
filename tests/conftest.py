"""Settings that every test runs under; they come before the first import of NumPy and JAX."""

import atexit
import os
import shutil
import tempfile

# OpenBLAS's threads fight XLA's over the same few cores and slow batched solves many times over.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

# Workers and the commands that tests start share what is compiled, within one run of the tests.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxcal-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import hypothesis  # noqa: E402
import jax  # noqa: E402

# Equality with the NumPy reference is stated in float64; tests of float32 ask for it by dtype.
jax.config.update("jax_enable_x64", True)

# Examples are drawn from a fixed seed: a run that fails fails again.
hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None)
hypothesis.settings.load_profile("seeded")


def pytest_collection_modifyitems(items):
    """Files with slow tests first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
