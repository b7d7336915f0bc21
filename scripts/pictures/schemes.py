"""pipeline.png, architecture.png: the way of a frame in pictures, and the autoencoder's layers."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

import jaxcal
from jaxcal import aberrations, spectra
from jaxcal.microscopes.simulated import draw_state
from pictures import inference
from pictures.drawing import COLOURS, INK, QUIET, SPECTRUM, observe, save, show, whole_plane

ARROW = {"arrowstyle": "-|>", "mutation_scale": 11, "lw": 1.1, "color": QUIET}
BOX = {"boxstyle": "round,pad=0.006,rounding_size=0.012", "lw": 0.8, "ec": QUIET, "fc": "#f3f5f8"}


def arrow(figure, start, end, bend=0.0, text=None):
    """An arrow between two points of the figure, with a word over its middle."""
    figure.add_artist(FancyArrowPatch(start, end, transform=figure.transFigure,
                                      connectionstyle=f"arc3,rad={bend}", **ARROW))
    if text:
        figure.text((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.012, text, ha="center",
                    va="bottom", fontsize=8)


def titled(figure, place, title, below=None):
    """Axes at (left, bottom, width, height) with a title over and a note below."""
    axis = figure.add_axes(place)
    axis.set_title(title, fontsize=9, loc="center", weight="bold", pad=4)
    if below:
        figure.text(place[0] + place[2] / 2, place[1] - 0.018, below, ha="center", va="top",
                    fontsize=7.5, linespacing=1.25)
    return axis


# the pipeline ---------------------------------------------------------------------------------


def pipeline(model, path, data=None, number=0):
    """Above, whole frames to EM's candidates; below, windows to the refined state."""
    microscope, series, answer = inference.refined_series(model)
    figure = plt.figure(figsize=(10, 5.3))
    height, wide = 0.275, 0.275 * 5.3 / 10
    top, bottom = 0.625, 0.155
    frame = titled(figure, (0.015, 0.39, wide, height), "Ronchigrams",
                   "at known knob steps")
    inference.frame_with_windows(frame, series, answer.frame_numbers[number],
                                 answer.refinement.problem)
    image = titled(figure, (0.235, top, wide, height), "power spectrum", "spectra.py")
    log = np.asarray(answer.spectra[number])
    show(image, whole_plane(log), SPECTRUM, np.percentile(log[spectra.MASK], (8, 99.7)))
    bars = titled(figure, (0.455, top, 0.155, height), "latents", "encoder of the VAE, vae.py")
    bars.bar(range(1, len(answer.latents[number]) + 1), answer.latents[number],
             color=COLOURS["C10"], width=0.7)
    bars.axhline(0, color=QUIET, lw=0.6)
    bars.set(xticks=[], yticks=[])
    bars.spines[["left", "bottom"]].set_visible(False)
    first = replace(series, frames=series.frames[:1], knobs_nm=series.knobs_nm[:1])
    first = jaxcal.estimate(first, model, refined=False)  # later ones leave but a dot
    cloud = np.asarray(first.posterior[0].candidates.positions)
    basins = titled(figure, (0.685, top, wide, height), "EM: basins",
                    "candidates of C10, C12a, one frame\nmap + Gaussian process, em.py")
    basins.plot(*cloud[:, :2].T, ".", ms=2.2, alpha=0.3, mew=0, color=COLOURS["C10"])
    basins.plot(*(microscope.truth_nm[k] for k in ("C10", "C12a")), "+", ms=11, mew=1.4,
                color=COLOURS["C12a"])
    _small(basins, cloud)
    for row, (label, values) in enumerate(_window_spectra(answer, number)):
        for column, (picture, limits) in enumerate(values):
            axis = figure.add_axes((0.235 + 0.094 * column, bottom + 0.148 * (1 - row), 0.072,
                                    0.072 * 10 / 5.3))
            show(axis, picture, SPECTRUM, limits)
            if column == 0:
                axis.set_ylabel(label, fontsize=8)
    figure.text(0.235 + 0.177, bottom + 0.3, "spectra of windows", ha="center", fontsize=9,
                weight="bold")
    figure.text(0.235 + 0.177, bottom - 0.018, "wave optics of a film, likelihood climbed\n"
                "tiles.py, hologram.py, refine.py", ha="center", va="top", fontsize=7.5)
    last = titled(figure, (0.725, bottom + 0.005, 0.115, 0.27), "x0 ± sd (nm)",
                  "points: errors,\nin units of sd")
    _answer(last, microscope, answer)
    figure.text(0.935, bottom + 0.14, "tuned?\nelse the\nnext step", ha="center",
                va="center", fontsize=8.5, bbox={"boxstyle": "round,pad=0.5", "fc": BOX["fc"],
                                                 "ec": QUIET, "lw": 0.8})
    middle_top, middle_bottom = top + height / 2, bottom + 0.14
    arrow(figure, (0.17, 0.57), (0.225, middle_top - 0.04))
    arrow(figure, (0.17, 0.47), (0.215, middle_bottom + 0.06))
    arrow(figure, (0.388, middle_top), (0.447, middle_top))
    arrow(figure, (0.618, middle_top), (0.677, middle_top))
    arrow(figure, (0.675, top + 0.03), (0.6, bottom + 0.335), -0.1)
    figure.text(0.6, 0.57, "starts", fontsize=8, ha="left")
    arrow(figure, (0.605, middle_bottom), (0.642, middle_bottom))
    arrow(figure, (0.845, middle_bottom), (0.885, middle_bottom))
    figure.add_artist(plt.Line2D((0.94, 0.94, 0.09), (bottom + 0.07, 0.04, 0.04), lw=1.1,
                                 color=QUIET, transform=figure.transFigure))
    arrow(figure, (0.09, 0.0385), (0.09, 0.33))
    figure.text(0.42, 0.04, " turn the knobs by known steps, look again ", ha="center", va="center",
                fontsize=8, backgroundcolor="white")
    save(figure, path, dpi=170)


def _small(axis, cloud):
    reach = 1.15 * np.abs(cloud[:, :2]).max()
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    axis.spines[:].set_visible(True)


def _window_spectra(answer, number, shown=(1, 3, 5)):
    """Measured and fitted spectra of some small windows and the large one, with colour limits."""
    problem = answer.refinement.problem
    theory = inference.fitted(answer.refinement.solutions[0], problem, number)
    rows = {"measured": [], "fitted": []}
    for which, window in [(0, k) for k in shown] + [(1, 0)]:
        layout, expected = problem.layouts[which], theory[which][window]
        power = problem.measured.power[number][which][window]
        limits = np.percentile(expected, (3, 99.7)) + np.array([-1.0, 0.4])
        for label, values in (("measured", np.log(np.maximum(power, 1e-30))), ("fitted", expected)):
            rows[label].append((inference.plane(values, layout), limits))
    return rows.items()


def _answer(axis, microscope, answer):
    truth = np.array([microscope.truth_nm[name] for name in answer.knob_names])
    sd = np.sqrt(np.diag(answer.covariance_nm2))
    places = np.arange(len(truth))[::-1]
    axis.errorbar((answer.x0_nm - truth) / sd, places, xerr=1.0, fmt="o", ms=4, lw=1.2,
                  color=COLOURS["C10"])
    axis.axvline(0, color=COLOURS["C12a"], lw=1)
    axis.set(yticks=places, xticks=[], xlim=(-3.4, 3.4), ylim=(-0.6, len(truth) - 0.4))
    axis.set_yticklabels([f"{name} ±{s:.2g}" for name, s in
                          zip(answer.knob_names, sd, strict=True)], fontsize=7)
    axis.spines[["left", "bottom"]].set_visible(False)
    axis.tick_params(length=0)


# the autoencoder ------------------------------------------------------------------------------


def architecture(model, path, data=None, seed=33):
    """Layers of encoder and decoder with their sizes, between a spectrum and its reconstruction."""
    shape = model.vae.shape
    down, across = shape.patches
    microscope = jaxcal.SimulatedMicroscope(
        hidden_nm=np.where(aberrations.ORDER == 1, 0, draw_state(seed))
        + aberrations.vector({"C10": 90.0, "C12a": 45.0, "C12b": -50.0}), seed=seed)
    _, image = observe(microscope.acquire(), microscope.optics)
    latents = np.asarray(model.encode(image[None]))
    again = np.where(spectra.MASK, np.asarray(model.reconstruct(latents))[0], 0.0)
    limits = np.percentile(again[spectra.MASK], (2, 99.9))
    figure = plt.figure(figsize=(10, 2.9))
    wide, height = 0.155, 0.155 * 10 / 2.9
    show(titled(figure, (0.01, 0.2, wide, height), "log spectrum",
                f"{shape.rows} × {shape.columns}, f$_x$ ≥ 0"), whole_plane(image), SPECTRUM, limits)
    show(titled(figure, (0.835, 0.2, wide, height), "expected log power",
                f"{shape.rows} × {shape.columns}"), whole_plane(again), SPECTRUM, limits)
    texts = (f"patches\n{down} × {across} of\n{shape.patch} × {shape.patch}",
             f"embed, shared\n{shape.patch**2} → {shape.features}",
             f"mix\n{down * across * shape.features} → {shape.hidden}",
             f"deep, residual\n{shape.hidden} → {shape.hidden}")
    heights, xs = (0.53, 0.45, 0.34, 0.34), (0.192, 0.262, 0.332, 0.402)
    for text, tall, x in zip(texts, heights, xs, strict=True):
        _layer(figure, x, tall, text)
    back = (f"deep, residual\n{shape.hidden} → {shape.hidden}",
            f"mix\n{shape.hidden} → {down * across * shape.features}",
            f"out, shared\n{shape.features} → {shape.patch**2}", "patches\njoined")
    for text, tall, x in zip(back, heights[::-1], (0.558, 0.628, 0.698, 0.768), strict=True):
        _layer(figure, x, tall, text)
    bars = figure.add_axes((0.482, 0.29, 0.04, 0.35))
    bars.barh(range(shape.latents), latents[0], color=COLOURS["C10"], height=0.7)
    bars.axvline(0, color=QUIET, lw=0.6)
    bars.set(xticks=[], yticks=[])
    bars.spines[:].set_visible(False)
    figure.text(0.502, 0.67, f"{shape.latents} latents", ha="center", fontsize=9, weight="bold")
    figure.text(0.502, 0.26, "mean, variance", ha="center", va="top", fontsize=7.5)
    figure.text(0.32, 0.86, "encoder", ha="center", fontsize=10, weight="bold", color=INK)
    figure.text(0.686, 0.86, "decoder", ha="center", fontsize=10, weight="bold", color=INK)
    figure.text(0.502, 0.03, "bins are exponential about the expected power, that is the "
                "likelihood of the ELBO; no convolutions", ha="center", fontsize=8, color=INK)
    save(figure, path, dpi=170)


def _layer(figure, left, tall, text, width=0.046):
    """A box about the middle of the pictures, its text turned."""
    figure.add_artist(FancyBboxPatch((left, 0.467 - tall / 2), width, tall,
                                     transform=figure.transFigure, **BOX))
    figure.text(left + width / 2, 0.467, text, rotation=90, ha="center", va="center", fontsize=7.5,
                linespacing=1.3)
