"""The same answers on a CPU and on an accelerator?

    python -m benchmarks.platforms SERIES.h5 ... --json here.json
    python -m benchmarks.platforms SERIES.h5 ... --beside here.json   # on the other machine

Each series is estimated in this process where JAX runs by its own choice, and the answers are kept;
with ``--beside`` they are compared with those kept elsewhere. Asked for is that the knob settings
that tune differ by less than a tenth of what they are stated to be sure to, and that these standard
deviations agree to a tenth, from as many
frames: the exit status is 1 where they do not. Seconds are with compilation
where a series is the first of its size. Prints a table.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

import jaxcal
from benchmarks import provenance

ALIKE = 0.1


def answers(files) -> Iterator[dict]:
    """{name: the setting that tunes, its standard deviations, the frames used, seconds}, of the
    first series, then of the first two, and so on."""
    found = {}
    for file in files:
        answer = jaxcal.estimate(jaxcal.read_series(file))
        sd = np.sqrt(np.diag(answer.tuned_covariance_nm2))
        found[Path(file).name] = {
            "tuned_knobs_nm": answer.tuned_knobs_nm.tolist(), "sd_nm": sd.tolist(),
            "frames_used": answer.frames_used, "seconds": answer.seconds}
        print(f"{file}: {answer.seconds:.0f} s, {answer.message}", file=sys.stderr, flush=True)
        yield found


def compared(here: dict, there: dict) -> list[dict]:
    """For each series of both: the largest difference of a knob in standard deviations of
    ``there``, the ratio of these that is farthest from one, and the seconds of both."""
    rows = []
    for name in here.keys() & there.keys():
        ours, theirs = (one[name] for one in (here, there))
        sd = np.array(theirs["sd_nm"])
        off = np.subtract(ours["tuned_knobs_nm"], theirs["tuned_knobs_nm"]) / sd
        ratio = np.array(ours["sd_nm"]) / sd
        rows.append({"series": name, "off": float(np.abs(off).max()),
                     "sd_ratio": float(ratio[np.argmax(np.abs(np.log(ratio)))]),
                     "frames_used": [ours["frames_used"], theirs["frames_used"]],
                     "seconds": [ours["seconds"], theirs["seconds"]]})
    return sorted(rows, key=lambda row: row["series"])


def markdown(result) -> str:
    """Table for the documentation."""
    rows = [(row["series"], f"{row['off']:.3f}", f"{row['sd_ratio']:.3f}",
             *row["frames_used"], *(f"{seconds:.0f}" for seconds in row["seconds"]))
            for row in result["compared"]]
    head = ("series", "largest difference / sd", "ratio of the sd", "frames used here", "there",
            "seconds here", "there")
    return "\n\n".join([provenance.markdown(head, rows), f"Here: {provenance.source(result)}",
                        f"There: {provenance.source(result['beside'])}"])


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("series", nargs="+", type=Path)
    parser.add_argument("--json", type=Path, help="keep the answers here")
    parser.add_argument("--beside", type=Path, help="answers kept on another machine")
    options = parser.parse_args(arguments)
    beside = json.loads(options.beside.read_text()) if options.beside else None
    names = {file.name for file in options.series}
    if len(names) < len(options.series):
        parser.error("two series have the same file name, by which answers are told apart")
    if beside and (lacking := sorted(names - beside["answers"].keys())):
        parser.error(f"{options.beside} has no answer for {', '.join(lacking)}")
    result = {"benchmark": "platforms", "provenance": provenance.provenance()}
    for found in answers(options.series):
        result["answers"] = found
        if beside:
            result |= {"beside": {"provenance": beside["provenance"]},
                       "compared": compared(found, beside["answers"])}
        if options.json:  # kept as soon as there is one
            provenance.write(options.json, result)
    if beside:
        print(markdown(result))
    print(f"estimated on {jax.default_backend()}")
    alike = all(row["off"] < ALIKE and abs(row["sd_ratio"] - 1) < ALIKE
                and row["frames_used"][0] == row["frames_used"][1]
                for row in result.get("compared", []))
    return 0 if alike else 1


if __name__ == "__main__":
    sys.exit(main())
