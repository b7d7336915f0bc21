"""PyTorch set up as JAX is: the same device, the same precision, all cores."""

import os
from functools import cache

import jax

from benchmarks import timing


@cache
def ready():
    """The module torch with its defaults set, and the device to work on.

    That is the accelerator JAX runs on where it can be; there matrix products are as fast and as
    exact as JAX's own default is. Real numbers are of the same width.

    Raises:
        ImportError: it is not installed.
    """
    import torch

    accelerated = jax.default_backend() == "gpu" and torch.cuda.is_available()
    torch.set_num_threads(os.cpu_count())
    torch.set_default_dtype(torch.float64 if timing.real() == "float64" else torch.float32)
    torch.set_float32_matmul_precision("high" if accelerated else "highest")
    return torch, torch.device("cuda" if accelerated else "cpu")


def wait() -> None:
    """Until the accelerator, if there is one, has done what it was given."""
    torch, device = ready()
    if device.type == "cuda":
        torch.cuda.synchronize()
