"""ronchigram_grid.png, reconstruction.png: frames, spectra and what the autoencoder keeps."""

import matplotlib.pyplot as plt
import numpy as np

import jaxcal
from jaxcal import aberrations, spectra
from jaxcal.microscopes.simulated import draw_state
from pictures.drawing import SPECTRUM, contrast, disc_only, observe, save, show, whole_plane


def ronchigram_grid(model, path, data=None, values=(-200.0, -100.0, 0.0, 100.0, 200.0), seed=4):
    """Frames on the left, spectra on the right; C10 along x, C12a along y (upwards)."""
    hidden = draw_state(seed)
    hidden[:3] = 0.0  # the other residuals stay, as in a corrected instrument
    microscope = jaxcal.SimulatedMicroscope(hidden_nm=hidden, seed=seed)
    figure = plt.figure(figsize=(10, 5.2))
    left, right = figure.subfigures(1, 2)
    count = len(values)
    frames, images = (part.subplots(count, count) for part in (left, right))
    for row, c12a in enumerate(reversed(values)):
        for column, c10 in enumerate(values):
            microscope.set([c10, c12a, 0.0])
            frame = microscope.acquire()
            disc, image = observe(frame, microscope.optics)
            show(frames[row, column], disc_only(frame, disc), "gray")
            show(images[row, column], whole_plane(image), SPECTRUM, contrast(image))
    for part, axes, title in ((left, frames, "Ronchigrams"), (right, images, "power spectra")):
        part.subplots_adjust(0.11, 0.09, 0.99, 0.94, 0.04, 0.04)
        part.suptitle(title, x=0.11, ha="left", y=0.99, fontsize=10.5, weight="bold")
        for axis, value in zip(axes[-1], values, strict=True):
            axis.set_xlabel(f"{value:+.0f}" if value else "0", labelpad=3)
        for axis, value in zip(axes[:, 0], reversed(values), strict=True):
            axis.set_ylabel(f"{value:+.0f}" if value else "0", labelpad=3)
        part.supxlabel("C10 (nm)", fontsize=9, x=0.55, y=0.005)
        part.supylabel("C12a (nm)", fontsize=9, x=0.005, y=0.515)
    save(figure, path, dpi=130)


RECONSTRUCTED_NM = (
    {"C10": 30.0}, {"C10": 150.0}, {"C10": 60.0, "C12a": 50.0}, {"C10": 40.0, "C12b": 120.0},
    {"C10": -180.0, "C12a": 60.0, "C12b": 60.0}, {"C10": 80.0, "C21a": 600.0, "C23b": 500.0},
)  # fmt: skip


def reconstruction(model, path, data=None, seed=21):
    """Measured log spectra above, the expected log power of their latents below."""
    figure, axes = plt.subplots(2, len(RECONSTRUCTED_NM), figsize=(10, 3.75))
    figure.subplots_adjust(0.03, 0.01, 0.995, 0.87, 0.04, 0.04)
    for column, extra in enumerate(RECONSTRUCTED_NM):
        state = draw_state(seed + column)
        state[:3] = 0.0
        microscope = jaxcal.SimulatedMicroscope(
            hidden_nm=state + aberrations.vector(extra), seed=seed + column)
        _, image = observe(microscope.acquire(), microscope.optics)
        again = np.asarray(model.reconstruct(model.encode(image[None])))[0]
        again = np.where(spectra.MASK, again, 0.0)
        limits = np.percentile(again[spectra.MASK], (2, 99.9))
        for axis, shown in zip(axes[:, column], (image, again), strict=True):
            show(axis, whole_plane(shown), SPECTRUM, limits)
        title = [f"{name} {value:+.0f}" for name, value in extra.items()]
        axes[0, column].set_title("\n".join([", ".join(title[:2]), *title[2:]]), fontsize=8.5)
    axes[0, 0].set_ylabel("spectrum of a frame")
    axes[1, 0].set_ylabel("from its latents")
    save(figure, path, dpi=176)
