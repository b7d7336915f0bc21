"""Speed beside plain NumPy: python -m benchmarks [--only NAME] [--json out.json] [--device ...]."""

import argparse
import importlib
import os
import sys

BENCHMARKS = ("simulate", "gradient", "e_step", "scoring", "stream", "train", "parts", "startup",
              "estimate")
PLATFORMS = {"cpu": "cpu", "gpu": "cuda"}


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", choices=BENCHMARKS, help="run one benchmark")
    parser.add_argument("--json", help="write the entries here")
    parser.add_argument("--document", help="put the table into this document, docs/results.md")
    parser.add_argument("--device", choices=PLATFORMS, help="where JAX runs (default: its choice)")
    parser.add_argument("--float64", action="store_true", help="in place of float32")
    parser.add_argument("--repetitions", type=int, default=20)
    options = parser.parse_args(arguments)
    if options.repetitions < 1:
        parser.error("--repetitions should be at least 1; medians want 20")
    if options.device:
        os.environ["JAX_PLATFORMS"] = PLATFORMS[options.device]  # before the first import of JAX
    if options.float64:
        os.environ["JAX_ENABLE_X64"] = "1"

    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # the latter where no plugin knows the device
        reason = (str(error).splitlines() or ["no such device, or jax is installed without it"])[0]
        parser.error(f"JAX cannot run on {options.device}: {reason}")
    from benchmarks import aims, provenance, timing

    entries = []
    for name in [options.only] if options.only else BENCHMARKS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        module = importlib.import_module(f"benchmarks.{name}")
        made = provenance.provenance()
        timing.forget_peak()
        for one in module.run(options.repetitions):
            timing.forget_peak()  # each has its own
            entries.append(one | {"provenance": made})
            if options.json:  # kept as soon as there is one, apart from an older whole
                provenance.write(f"{options.json}.part", entries)
    print(timing.table(entries))
    if options.json:
        os.replace(f"{options.json}.part", options.json)
    if options.document:
        place = "speed_float64" if options.float64 else "speed"
        place = place if jax.default_backend() == "cpu" else f"{place}_gpu"
        provenance.put(place, timing.markdown(entries), options.document)
        if place == "speed" and not options.only:  # what is asked is asked of this
            provenance.put("speed_aims", aims.markdown(entries), options.document)
    return 0


if __name__ == "__main__":
    sys.exit(main())
