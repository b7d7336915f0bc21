"""PyTorch set up as JAX is: the same device, the same precision, all cores."""

import importlib.util
import sys
from functools import cache

import jax
import numpy as np

from benchmarks import timing
from jaxcal import devices


@cache
def ready():
    """The module torch with its defaults set, and the device to work on.

    That is the accelerator JAX runs on where it can be. Real numbers are of the same width.

    Raises:
        ImportError: it is not installed.
    """
    import torch

    accelerated = jax.default_backend() == "gpu" and torch.cuda.is_available()
    torch.set_num_threads(devices.cores())
    torch.set_default_dtype(torch.float64 if timing.real() == "float64" else torch.float32)
    return torch, torch.device("cuda" if accelerated else "cpu")


def installed(benchmark: str, name: str = "torch") -> bool:
    """Whether a package is there that a benchmark measures beside; where not, that is said."""
    there = importlib.util.find_spec(name) is not None
    if not there:
        print(f"{benchmark}: {name} is not installed, its row is left out", file=sys.stderr)
    return there


def tensors(*arrays) -> tuple:
    """The arrays on that device."""
    torch, device = ready()
    return tuple(torch.as_tensor(np.array(array), device=device) for array in arrays)


def done(*values):
    """The values, once the accelerator, if there is one, has computed them."""
    torch, device = ready()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return values


def in_threads(function, items) -> list:
    """``function(item)`` in threads, as many as there are cores, each of which uses one."""
    torch, _ = ready()
    torch.set_num_threads(1)
    try:
        return devices.side_by_side(function, items)
    finally:
        torch.set_num_threads(devices.cores())
