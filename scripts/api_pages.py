"""Make the API pages: every public name, and the modules that an adapter or a study needs.

    pip install '.[docs]'
    python scripts/api_pages.py [--out build/api]

The pages are made by pdoc from signatures and docstrings; open ``build/api/index.html``.
"""

import argparse
import contextlib
from pathlib import Path

import pdoc

import jaxcal

MODULES = (
    "jaxcal", "jaxcal.answers", "jaxcal.microscopes", "jaxcal.microscopes.protocol",
    "jaxcal.microscopes.ceos", "jaxcal.microscopes.nion", "jaxcal.microscopes.faulty",
    "jaxcal.series", "jaxcal.recordings", "jaxcal.knob_table",
    "jaxcal.notations", "jaxcal.results", "jaxcal.nexus", "jaxcal.runs", "jaxcal.watch",
    "jaxcal.calibration", "jaxcal.estimation", "jaxcal.conformance", "jaxcal.diagnosis",
    "jaxcal.inconsistency", "jaxcal.tracking", "jaxcal.identification", "jaxcal.aberrations",
    "jaxcal.optics", "jaxcal.specimen", "jaxcal.ronchigram", "jaxcal.detector", "jaxcal.simulation",
    "jaxcal.spectra", "jaxcal.tiles", "jaxcal.vae", "jaxcal.latent_map", "jaxcal.em",
    "jaxcal.modes", "jaxcal.hologram", "jaxcal.unknowns", "jaxcal.refine", "jaxcal.fisher",
    "jaxcal.acquisition",
)  # fmt: skip


def build(folder: Path) -> None:
    """Write the pages into a folder."""
    for name in jaxcal.__all__:  # imported on first use, pdoc looks for what is there
        setattr(jaxcal, name, getattr(jaxcal, name))
    pdoc.render.configure(docformat="google", show_source=True)
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder):  # pdoc warns of a package that is installed and also at hand
        pdoc.pdoc(*MODULES, output_directory=folder)


def main(arguments=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/api"))
    options = parser.parse_args(arguments)
    build(options.out)
    print(options.out / "index.html")


if __name__ == "__main__":
    main()
