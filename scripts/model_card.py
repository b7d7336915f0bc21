"""Write docs/model_card.md from what training left beside the weights.

    python scripts/model_card.py [--model jaxcal/models/default.safetensors] [--out FILE]
"""

import argparse
import json
from pathlib import Path

import numpy as np
import safetensors

from jaxcal import simulation, stream
from jaxcal.files import write_text

ROOT = Path(__file__).resolve().parents[1]
MODEL = ROOT / "jaxcal" / "models" / "default.safetensors"
CARD = ROOT / "docs" / "model_card.md"


def sizes(path) -> dict:
    """Parameters of each part of a weights file, and its size in MB."""
    counts = {}
    with safetensors.safe_open(path, "numpy") as file:
        for name in file.keys():
            part = ".".join(name.split(".")[:2]) if name.startswith("vae.") else name.split(".")[0]
            counts[part] = counts.get(part, 0) + int(np.prod(file.get_slice(name).get_shape()))
    return {"parameters": counts, "megabytes": Path(path).stat().st_size / 1e6}


def table(header, rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def architecture(card: dict, size: dict) -> str:
    """What the weights are."""
    shape, counts = card["config"]["architecture"], size["parameters"]
    rows = [
        ("encoder", f"{shape['rows']} x {shape['columns']} log spectrum -> {shape['latents']} "
         f"latents; patches of {shape['patch']} x {shape['patch']}, {shape['features']} features "
         f"each, {shape['hidden']} hidden units", f"{counts.get('vae.encoder', 0):,}"),
        ("decoder", "latents -> expected log spectrum", f"{counts.get('vae.decoder', 0):,}"),
        ("map", "seven aberrations (waves at the edge) -> mean, nuisance sensitivities and noise "
         f"of the latents; {card['config']['map_hidden']} hidden units",
         f"{counts.get('map', 0):,}"),
    ]
    return table(("part", "what it does", "parameters"), rows)


def ranges(card: dict) -> str:
    """What the training data cover."""
    given = card["ranges"]
    energies, angles = given["energies_keV"], given["semi_angles_mrad"]
    steepest = max(bucket["highest"] for bucket in given["buckets"])
    residual = ", ".join(f"{name} {value:g}" for name, value in simulation.RESIDUAL_NM.items())
    rows = [
        ("energy", f"{min(energies):g} to {max(energies):g} keV"),
        ("semi-angle", f"{angles[0]:g} to {angles[1]:g} mrad"),
        ("C10, C12 (and C21, C23) together", f"slopes up to those of {steepest:g} waves of defocus "
         "at the aperture's edge"),
        ("C21, C23", f"up to {given['coma_waves']:g} waves at the edge each"),
        ("fixed residuals, standard deviation (nm)", residual),
        ("film", "amorphous, 0.05 to 0.5 rad rms, thin or two slices up to 10 nm, random spectrum, "
         "Gaussian to clustered"),
        ("focal spread, standard deviation", "1.5 to 8 nm"),
        ("camera", "dose, MTF, pixel size, scintillator or direct; errors of the measured disc of "
         "0.4 % of its radius"),
    ]
    return table(("drawn at random", "range"), rows)


def losses(card: dict) -> str:
    """Held-back losses."""
    elbo, last = card["held_back_elbo"], card["map_losses"][-1]
    rows = [
        ("ELBO", f"{elbo['elbo']:.1f}"),
        ("its distortion (neg. log likelihood, up to a constant)", f"{elbo['distortion']:.1f}"),
        ("its divergence from the prior", f"{elbo['divergence']:.2f}"),
        ("map, negative log density of the latents", f"{last['held_back']:.3f} "
         f"(training {last['loss']:.3f})"),
    ]
    return table(("nats per held-back spectrum", "value"), rows)


def training(card: dict) -> str:
    """How long, on how much, with what."""
    config = card["config"]
    minutes = card["seconds"] / 60
    total = config["vae_rounds"] + config["map_rounds"]
    versions = ", ".join(f"{name} {value}" for name, value in card["versions"].items())
    return (f"{card['spectra']:,} simulated spectra in {total} rounds: {config['vae_rounds']} for "
            f"the autoencoder, each followed by {config['replays']} steps on recent ones, and "
            f"{config['map_rounds']} for the map. Seed {config['seed']}, {minutes:.0f} minutes"
            f" on two cores, simulation included. Versions: {versions}.")


def text(card: dict, size: dict) -> str:
    """The model card, Markdown."""
    fixed = ", ".join(sorted({name[:3] for name in stream.FIXED}))
    return f"""# Model card

The model that ships with jaxcal: an encoder and decoder of Ronchigram power spectra, and the
simulated map from aberrations to latents. {size['megabytes']:.1f} MB of safetensors. This page is
written by `scripts/model_card.py` from `jaxcal/models/default.json`; `scripts/train_model.py`
trains the model again from its seed.

## Use

Meant for estimating C10, C12, C21 and C23 of a STEM from Ronchigrams of a thin amorphous film
taken at known knob steps ([method](method.md)), with the other aberrations near what a corrector
leaves. It works in units of the aperture, so that one model serves every energy, aperture and
camera within the ranges below. Not meant for crystals, for films that scatter most of the beam, for
single frames without known steps, or for reading absolute values of C30 and higher orders.

## Parts

{architecture(card, size)}

The map is exactly symmetric under the sign changes that leave a full-frame power spectrum
unchanged: of all even aberrations together ({fixed} among them), and of all odd ones.

## Data

Simulated only, by `jaxcal.stream`: wave optics with partial coherence and a camera's faults, every
spectrum from an instrument of its own, in four orientations. No measured frame and no frame of
another simulator was used.

{ranges(card)}

## Training

{training(card)}

{losses(card)}

![Latents over C10 and C12a](latents.png)

Latents over C10 and C12a (200 keV, 20 mrad). Points: simulated spectra, each of another film and
camera; ground: the map's mean at average nuisances, in the same colours. On the left the first two
of these latents against each other, coloured by the spectrum's extent along x and y.

![Spectra and reconstructions](reconstruction.png)

Log spectra of simulated frames and the expected log power decoded from their latents, in the same
colours (nm at 200 keV, 20 mrad). A bin's power is exponential about its expectation: the grain
above is no error of the decoder. Figures: `scripts/figures.py`.

## Limits

- Full-frame spectra hardly tell the sign and size of C21 and C23; expect wide posteriors there.
- The map is a network fitted to a finite stream; far from focus and at the borders of the ranges
  its mean is least certain. The Gaussian process of the [method](method.md) is there to take up
  such gaps, as far as the frames at hand show them.
- Inelastic and thermal scattering, charging, contamination and distortion by the projector system
  are not in the data.
- How well it does on series from another simulator: [results](results.md).
"""


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--out", type=Path, default=CARD)
    options = parser.parse_args(arguments)
    beside = options.model.with_suffix(".json")
    for path in (options.model, beside):
        if not path.is_file():
            parser.error(f"{path}: no such file; train the model first: scripts/train_model.py")
    write_text(options.out, text(json.loads(beside.read_text()), sizes(options.model)))
    print(options.out)


if __name__ == "__main__":
    main()
