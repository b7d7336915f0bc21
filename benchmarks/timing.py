"""Timing in one way for all benchmarks: compilation apart, medians, results waited for."""

import contextlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from benchmarks import provenance

REPETITIONS = 20
UNCACHED = {"JAX_ENABLE_COMPILATION_CACHE": "false"}
LIBRARIES = ("torch", "abtem", "gpytorch", "scikit-learn")  # that are measured beside


class Timing(NamedTuple):
    """Seconds of the first call less a usual one (compilation), and of each of the others.

    ``value`` is what the last call returned.
    """

    compile: float
    seconds: tuple[float, ...]
    value: object

    @property
    def median(self) -> float:
        return quartiles(self.seconds)[1]

    def scaled(self, times: float) -> "Timing":
        """Of so many times the work."""
        return self._replace(seconds=tuple(times * spent for spent in self.seconds))


class Form(NamedTuple):
    """What is timed: ``function(*arguments)``, of which the whole work is so many ``times``."""

    function: Callable
    arguments: tuple = ()
    times: float = 1.0


def real() -> np.dtype:
    """Of the real numbers that are timed: float32, or float64 where JAX is told to have it."""
    return np.dtype(np.float64 if jax.config.jax_enable_x64 else np.float32)


def complex_() -> np.dtype:
    """Of the complex numbers that go with them."""
    return np.result_type(real(), np.complex64)


def quartiles(values) -> list[float]:
    """The first, the median, the third."""
    return [float(q) for q in np.percentile(values, (25, 50, 75))]


def measure(function, *arguments, repetitions: int = REPETITIONS) -> Timing:
    """Time ``function(*arguments)``: once to compile and warm up, then ``repetitions`` times."""
    return in_turn({"": Form(function, arguments)}, repetitions)[""]


def in_turn(forms: dict[str, Form], repetitions: int = REPETITIONS) -> dict[str, Timing]:
    """Time forms of the same work: each once to compile and warm up, then one after the other, so
    that an hour in which the machine is slow is the same for all of them. Every other turn goes
    backwards: what one leaves behind, in caches and threads, is not always left to the same."""

    def once(form):
        start = time.perf_counter()
        value = jax.block_until_ready(form.function(*form.arguments))
        return time.perf_counter() - start, value

    first = {name: once(form)[0] for name, form in forms.items()}
    seconds, values = {name: [] for name in forms}, {}
    for number in range(repetitions):
        for name in list(forms)[:: -1 if number % 2 else 1]:
            spent, values[name] = once(forms[name])
            seconds[name].append(spent)
    return {name: Timing(max(first[name] - quartiles(seconds[name])[1], 0.0),
                         tuple(seconds[name]), values[name]).scaled(form.times)
            for name, form in forms.items()}


def process(*arguments, environment=None) -> str:
    """What Python with these arguments prints, in a process of its own, with these variables of the
    environment besides.

    Raises:
        RuntimeError: it failed; the message has the end of what it said.
    """
    told = subprocess.run([sys.executable, *map(str, arguments)], cwd=provenance.ROOT,
                          env=os.environ | (environment or {}), capture_output=True, text=True,
                          check=False)
    if told.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: {told.stderr.strip()[-300:]}")
    return told.stdout


def apart(module: str, *arguments, environment=None):
    """What ``python -m module arguments`` prints last, JSON; see `process`."""
    told = process("-m", module, *arguments, environment=environment)
    return json.loads(told.splitlines()[-1])


def entry(benchmark: str, case: dict, timings: dict, items: int, unit: str, deviation, share=None,
          dtype=None, others=None, peak_mb: float | None = None) -> dict:
    """One entry of the results: what was timed, on how many items, and how far the values differ.

    Args:
        timings: implementation -> :class:`Timing`, "jaxcal" among them.
        items: how many of ``unit`` one call does.
        deviation: of jaxcal's values from those of a reference; the module says which and how;
            None where there is none.
        share: what jaxcal reaches of the machine's limit, :class:`benchmarks.roofline.Share`.
        dtype: of jaxcal's numbers, `real` where None.
        others: implementation -> what is known of it besides, by name: deviation, share,
            compile_seconds.
        peak_mb: highest memory of the process that did the work; of this one where None.
    """
    own = timings["jaxcal"]
    return {
        "benchmark": benchmark,
        "case": case,
        "dtype": str(dtype or real()),
        "seconds": {name: t.median for name, t in timings.items()},
        "quartiles": {name: quartiles(t.seconds)[::2] for name, t in timings.items()},
        # of each repetition by itself: the forms of a turn had the same machine
        "ratios": {name: quartiles([one / ours for one, ours in zip(t.seconds, own.seconds,
                                                                   strict=True)])
                   for name, t in timings.items()},
        "compile_seconds": own.compile,
        "per_second": {name: items / t.median for name, t in timings.items()},
        "unit": unit,
        "repetitions": len(own.seconds),
        "deviation": None if deviation is None else float(deviation),
        **_limit(share),
        "others": {name: {key: value for key, value in known.items() if key != "share"}
                   | _limit(known.get("share")) for name, known in (others or {}).items()},
        "peak_memory_mb": peak_memory_mb() if peak_mb is None else peak_mb,
    }


def _limit(share) -> dict:
    if share is None:
        return {"roofline_fraction": None}
    return {"roofline_fraction": share.whole, "flops_fraction": share.flops,
            "traffic_fraction": share.traffic, "program_mb": share.program_mb,
            "machine": {"flops_per_second": share.rate, "bytes_per_second": share.bandwidth}}


STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")  # of Linux


def forget_peak() -> bool:
    """Let `peak_memory_mb` count from now on; whether the system can."""
    try:
        FORGET.write_text("5")
    except OSError:
        return False
    return True


def peak_memory_mb() -> float:
    """Highest memory of this process since `forget_peak`, or of the accelerator where there is one,
    MB."""
    statistics = jax.devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in statistics:
        return statistics["peak_bytes_in_use"] / 1e6
    with contextlib.suppress(OSError):
        highest = re.search(r"VmHWM:\s*(\d+) kB", STATUS.read_text())
        if highest:
            return int(highest[1]) * 1024 / 1e6
    scale = 1.0 if sys.platform == "darwin" else 1024.0  # macOS counts bytes, Linux kilobytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 1e6


def table(entries) -> str:
    """The entries as a table: medians, what is done in a second, and ratios to jaxcal."""
    lines = [f"{'benchmark':10} {'case':40} {'by':14} {'median':>10} {'per second':>18} "
             f"{'time/jaxcal':>11}  deviation"]
    for one in entries:
        case = ", ".join(f"{name} {value}" for name, value in one["case"].items())
        for name, seconds in one["seconds"].items():
            rate = f"{one['per_second'][name]:.3g} {one['unit']}"
            ratio = one["ratios"][name][1]
            last = _figure(_own(one, name).get("deviation"), ".1e")
            lines.append(f"{one['benchmark']:10} {case:40} {name:14} {1e3 * seconds:7.1f} ms "
                         f"{rate:>18} {ratio:11.2f}  {last}")
        lines.append(f"{'':10} {'':40} (jaxcal compiles in {one['compile_seconds']:.1f} s)")
    return "\n".join(lines)


def markdown(entries) -> str:
    """The same for the documentation."""
    rows = []
    for one in entries:
        case = ", ".join(f"{name} {value}" for name, value in one["case"].items())
        for name, seconds in one["seconds"].items():
            own = _own(one, name)
            rows.append((f"`{one['benchmark']}` {case}".strip(), name, f"{1e3 * seconds:.1f}",
                         f"{one['per_second'][name]:.3g} {one['unit']}",
                         _ratio(one, name),
                         _figure(own.get("compile_seconds"), ".1f"),
                         _figure(own.get("deviation"), ".0e"),
                         _figure(own.get("flops_fraction"), ".0%"),
                         _figure(own.get("traffic_fraction"), ".0%"),
                         _figure(own.get("program_mb"), ".0f"),
                         _figure(own.get("peak_memory_mb"), ".0f")))
    header = ("case", "by", "ms", "per second", "time/jaxcal (quartiles)", "compile (s)",
              "deviation", "of the FLOP rate", "of the bandwidth", "program (MB)",
              "process, all forms (MB)")
    types = " and ".join(sorted({one["dtype"] for one in entries}))
    sources = " ".join(dict.fromkeys(provenance.source(one, *LIBRARIES) for one in entries))
    return f"{provenance.markdown(header, rows)}\n\n{types}. {sources}"


def _own(entry, name: str) -> dict:
    """What an entry tells of one implementation beside its time."""
    return entry if name == "jaxcal" else entry["others"].get(name, {})


def _ratio(entry, name: str) -> str:
    if name == "jaxcal":
        return "1"
    lower, median, upper = entry["ratios"][name]
    return f"{median:.2g} ({lower:.2g} ... {upper:.2g})"


def _figure(value, form: str) -> str:
    return "" if value is None else format(value, form)
