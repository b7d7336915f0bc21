"""Work over many devices and hosts, by JAX's own means.

Inside ``with jax.set_mesh(devices.mesh()):`` the candidates of EM, simulated frames and training
batches are dealt out to all devices, also to those of other hosts once
``jax.distributed.initialize`` has joined the processes. Without a mesh everything runs as it is.
Instruments need no communication: `share` and `each` deal them out whole.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from queue import SimpleQueue

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

AXIS = "batch"
# Options of jax.jit, for programs that are not traced into others, by which a CPU's older code
# generator halves the time to compile. Later versions of XLA were not tried with it.
LIGHT = {"xla_cpu_use_fusion_emitters": False} if jax.__version_info__[:2] == (0, 9) else {}


def mesh() -> Mesh:
    """All devices of all hosts along one axis."""
    return Mesh(np.array(jax.devices()), (AXIS,), axis_types=(AxisType.Auto,))


def count() -> int:
    """Devices of the mesh around the call, 1 without one."""
    here = jax.sharding.get_abstract_mesh()
    return here.shape[AXIS] if AXIS in here.axis_names else 1


def in_parts(function: Callable, batch, *whole):
    """``function(batch, *whole)``, its batch dealt out to the devices, its result on all of them.

    Args:
        function: of a pytree of (N, ...) and whatever is the same for all, to a pytree of
            (N, ...); row by row, so that parts can be evaluated apart.
        batch: any N; the last device repeats the last row where N is no multiple.
    """
    devices = count()
    if devices == 1:
        return function(batch, *whole)
    rows = len(jax.tree.leaves(batch)[0])
    size = -(-rows // devices)

    def part(batch, *whole):
        place = jax.lax.axis_index(AXIS) * size + jnp.arange(size)
        mine = jax.tree.map(lambda leaf: leaf[jnp.minimum(place, rows - 1)], batch)
        return jax.tree.map(
            lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True)[:rows], function(mine, *whole))

    # every device ends with the same result, which the checker of shard_map cannot see
    return jax.shard_map(part, in_specs=PartitionSpec(), out_specs=PartitionSpec(),
                         check_vma=False)(batch, *whole)


def share(items: Iterable) -> list:
    """What of the items this process takes: every n-th of n."""
    return list(items)[jax.process_index() :: jax.process_count()]


def each(function: Callable, items: Iterable) -> Iterator:
    """``function(item)`` of every item, in their order; each device of this host takes the next as
    soon as it is free."""
    local, free = jax.local_devices(), SimpleQueue()
    for device in local:
        free.put(device)

    def on(item):
        device = free.get()  # as many threads as devices: there is one
        try:
            with jax.default_device(device):
                return function(item)
        finally:
            free.put(device)

    if len(local) == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(len(local)) as pool:
        yield from pool.map(on, items)


def cores() -> int:
    """Cores that this process may use."""
    try:
        from os import sched_getaffinity
    except ImportError:  # not on every system
        return cpu_count()
    return len(sched_getaffinity(0))


def side_by_side(function: Callable, items: Iterable) -> list:
    """``function(item)`` of every item in threads, as many as there are cores, on the device of the
    caller.

    Compiled functions let go of Python. A thread does not know of itself which device was chosen,
    nor of the mesh: what is spread over that has to be called in turn.
    """
    device = jax.config.jax_default_device

    def on(item):
        with jax.default_device(device):
            return function(item)

    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(on, items))


def aside(function: Callable) -> Callable:
    """Start ``function()`` in a thread, on the device of the caller; what is returned waits for its
    result. XLA compiles without holding Python, so that the caller's work goes on meanwhile."""
    device = jax.config.jax_default_device

    def run():
        with jax.default_device(device):
            return function()

    pool = ThreadPoolExecutor(1)
    future = pool.submit(run)
    pool.shutdown(wait=False)
    return future.result
