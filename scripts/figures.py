"""Draw the figures of the README and the documentation.

    python scripts/figures.py [--only NAME ...] [--again] [--out docs]
                              [--reality FOLDER] [--results benchmarks/results]

A figure whose PNG was made from the same package, scripts, model and data is left as it is, so that
after an interruption the same command goes on; ``--again`` draws in any case. A figure that needs
data which are not there is skipped, and says so. Everything is seeded. The figures:
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse  # noqa: E402
import hashlib  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent))  # where this is loaded from elsewhere

import matplotlib.pyplot as plt  # noqa: E402
from pictures import drawing, elsewhere, inference, latents, loop, schemes, spectra_of  # noqa: E402

import jaxcal  # noqa: E402
from jaxcal import model as models  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
DOCS, RESULTS = ROOT / "docs", ROOT / "benchmarks" / "results"
REALITY = ROOT.parent / "shared" / "reality"
SHIPPED = ROOT / "jaxcal" / "models" / "default.safetensors"


@dataclass(frozen=True)
class Figure:
    """draw: (model, path, data) -> None; tells: what is to be seen; data: what it is drawn from:
    REALITY, the folder of series, or a file among the results of the benchmarks."""

    draw: Callable
    tells: str
    data: Path | str | None = None


FIGURES = {
    "overview": Figure(loop.overview, "a simulated microscope being tuned"),
    "ronchigram_grid": Figure(spectra_of.ronchigram_grid, "Ronchigrams, spectra over C10, C12a"),
    "pipeline": Figure(schemes.pipeline, "from a frame to the answer, in pictures"),
    "architecture": Figure(schemes.architecture, "the autoencoder and a reconstruction"),
    "reconstruction": Figure(spectra_of.reconstruction, "what the autoencoder makes of spectra"),
    "latents": Figure(latents.latents, "latents over C10 and C12a, and the map's mean"),
    "latent_space": Figure(latents.latent_space, "latents by region, with series of another "
                           "simulator", REALITY),
    "posterior": Figure(inference.posterior, "candidates from the prior to the posterior"),
    "map": Figure(inference.map_, "the map before and after the M-step"),
    "windows": Figure(inference.windows, "spectra of windows beside the theory's"),
    "broken_symmetry": Figure(elsewhere.broken_symmetry, "bias by a fixed even aberration",
                              "broken_symmetry.json"),
    "telescope": Figure(elsewhere.telescope_, "the same EM on a telescope"),
}
__doc__ += "\n" + "\n".join(f"    {name:16s} {f.tells}" for name, f in FIGURES.items()) + "\n"


def inputs(figure: Figure, weights: Path, data: Path | None) -> str:
    """Digest of all that a figure is drawn from."""
    folders = (Path(jaxcal.__file__).parent, Path(__file__).resolve().parent)
    files = sorted(file for folder in folders for file in folder.rglob("*.py"))
    files.append(weights)
    if data is not None:
        files += sorted(data.glob("*.json")) if data.is_dir() else [data]
    total = hashlib.sha256()
    for file in files:
        total.update(file.read_bytes())
    return total.hexdigest()[:16]


def draw(name: str, out: Path, weights=None, reality: Path = REALITY, again=False,
         results: Path = RESULTS) -> str:
    """Draw one figure where that is needed; what was done."""
    figure = FIGURES[name]
    data = reality if figure.data == REALITY else figure.data and results / figure.data
    if data is not None and not data.exists():
        return f"skipped, {data} is not there"
    path = out / f"{name}.png"
    made_from = inputs(figure, Path(weights or SHIPPED), data)
    if not again and drawing.stamped(path) == made_from:
        return "up to date"
    start = time.perf_counter()
    part = path.with_name(f".{name}.png")  # a kill leaves the old figure
    with plt.rc_context(drawing.STYLE):
        figure.draw(models.load(weights), part, data)
    drawing.stamp(part, made_from)
    part.replace(path)
    return f"drawn in {time.perf_counter() - start:.0f} s"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--again", action="store_true", help="draw also what is up to date")
    parser.add_argument("--model", help="weights (default: the shipped model)")
    parser.add_argument("--reality", type=Path, default=REALITY, help="series of another simulator")
    parser.add_argument("--results", type=Path, default=RESULTS, help="of the benchmarks")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(options.only, 1):
        print(f"{number}/{len(options.only)} {name} ...", flush=True)
        told = draw(name, options.out, options.model, options.reality.resolve(), options.again,
                    options.results)
        print(f"    {told}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
