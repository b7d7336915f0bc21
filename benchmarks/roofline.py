"""The machine's limit: how fast it multiplies matrices and copies memory, measured.

A compiled function needs at least max(FLOP / rate of a large matrix product, bytes / rate of a
copy) seconds. FLOP and bytes are XLA's own estimate for the compiled program. That counts the body
of a loop once and what library calls do (FFT, LAPACK) not at all on some platforms: where the
estimate is missing there is no share.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from benchmarks import timing

SIZE = 2048  # side of the matrices
COPIED = 2**26  # floats, far more than a cache holds


def rates() -> tuple[float, float]:
    """FLOP/s of a matrix product and bytes/s of a copy (read and write both counted), by the lower
    quartile of ten: measured anew each time, a shared machine is not always as fast."""
    matrix = jnp.ones((SIZE, SIZE), timing.real())
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    flops = 2 * SIZE**3 / _usual(product, matrix)
    line = jnp.zeros(COPIED, timing.real())
    return flops, 2 * line.nbytes / _usual(jax.jit(lambda a: a + 1), line)


def _usual(function, argument) -> float:
    return timing.quartiles(timing.measure(function, argument, repetitions=10).seconds)[0]


class Share(NamedTuple):
    """Of the machine's limit that a program reaches: of its rate of FLOP, and of its bandwidth; the
    memory of the program, arguments and results included, MB; and what the limit is, FLOP/s and
    bytes/s."""

    flops: float
    traffic: float
    program_mb: float
    rate: float
    bandwidth: float

    @property
    def whole(self) -> float:
        """The larger of the two, which leaves the program the less to gain."""
        return max(self.flops, self.traffic)


def share(function, arguments, seconds: float) -> Share | None:
    """What a jitted function of ``arguments`` reaches in ``seconds``; None where XLA does not say
    what it does."""
    compiled = function.lower(*arguments).compile()
    cost = compiled.cost_analysis() or {}
    flops, traffic = cost.get("flops", 0.0), cost.get("bytes accessed", 0.0)
    if not flops > 0 or not traffic > 0:
        return None
    memory = compiled.memory_analysis()
    held = sum(getattr(memory, f"{part}_size_in_bytes", 0)
               for part in ("argument", "output", "temp"))
    rate, bandwidth = rates()
    return Share(flops / rate / seconds, traffic / bandwidth / seconds, held / 1e6,
                 rate, bandwidth)
