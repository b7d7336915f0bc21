"""Draw the figures of the README and the documentation.

    python scripts/figures.py [--only overview] [--model PATH] [--out docs]

overview.png: a simulated microscope being tuned; ronchigram_grid.png: Ronchigrams and their spectra
over C10 and C12a; latents.png: latents against aberrations, simulated data on the map's prediction;
reconstruction.png: spectra and what the autoencoder makes of them. Everything is seeded.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import argparse  # noqa: E402
import io  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from matplotlib import patheffects  # noqa: E402
from PIL import Image  # noqa: E402

import jaxcal  # noqa: E402
from jaxcal import aberrations, aperture, estimation, simulation, spectra  # noqa: E402
from jaxcal import model as models  # noqa: E402
from jaxcal.microscopes.simulated import draw_state, simulated_optics  # noqa: E402
from jaxcal.optics import edge_phases, edge_waves, quarter_pi_limits_nm  # noqa: E402

DOCS = Path(__file__).resolve().parents[1] / "docs"
INK, QUIET = "#23272d", "#8b939c"
COLOURS = {"C10": "#2f5d8a", "C12a": "#c2622d", "C12b": "#5a7d3a"}
SPECTRUM = "magma"
STYLE = {
    "figure.facecolor": "white", "savefig.facecolor": "white", "font.size": 9,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": QUIET, "axes.linewidth": 0.7,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "xtick.color": QUIET, "ytick.color": QUIET,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False,
}  # fmt: skip


def whole_plane(image):
    """Log image (128, 64) of f_x >= 0 -> (127, 127), f_x and f_y from -31.5 to 31.5."""
    half = np.asarray(image)[1:]
    return np.concatenate([half[::-1, :0:-1], half], axis=1)


def observe(frame, optics):
    """Disc and log image (128, 64) of a frame."""
    disc, _ = aperture.find_disc(frame, optics.radius_pixels)
    return disc, np.asarray(spectra.log_spectrum(frame, disc))


def disc_only(frame, disc):
    """The disc of a frame, square, grey values from 0 to 1 and NaN outside."""
    radius = int(np.ceil(disc.radius)) + 1
    row, column = int(round(float(disc.row))), int(round(float(disc.column)))
    y, x = np.mgrid[row - radius : row + radius + 1, column - radius : column + radius + 1]
    height, width = frame.shape
    cut = np.asarray(frame, float)[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    inside = np.hypot(y - disc.row, x - disc.column) < disc.radius
    low, high = np.percentile(cut[inside], (0.5, 99.5))
    return np.where(inside, np.clip((cut - low) / (high - low), 0, 1), np.nan)


def show(axes, image, cmap, limits=(None, None), extent=None):
    """A picture without ticks."""
    axes.imshow(image, cmap=cmap, vmin=limits[0], vmax=limits[1], extent=extent,
                interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def save(figure, path, dpi, colours=256):
    """Write a PNG of so many colours (None: all, at three times the size) and close the figure."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    plt.close(figure)
    image = Image.open(drawn).convert("RGB")
    if colours is not None:  # the median cut would lose rare colours
        image = image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def contrast(image):
    """Colour limits of a log image that show the rings over the speckle."""
    seen = np.asarray(image)[spectra.MASK]
    return tuple(np.percentile(seen, (8, 99.7)))


# overview -----------------------------------------------------------------------------------------


def overview(model, path, seed=5):
    """Before and after, spectra, posterior by frame, error by frame."""
    microscope = jaxcal.SimulatedMicroscope(seed=seed)
    run = jaxcal.calibrate(microscope, frames=10, model=model, seed=seed)
    truth = np.array([run.truth_nm[name] for name in run.estimate.knob_names])
    figure = plt.figure(figsize=(10, 4.95))
    pictures, curves = figure.subfigures(1, 2, width_ratios=(4.45, 5.55))
    _before_and_after(pictures, run, truth)
    upper, lower = curves.subfigures(2, 1, height_ratios=(1.0, 1.12))
    _posteriors(upper, run, truth)
    _errors(lower, run, truth)
    save(figure, path, dpi=176, colours=None)  # smooth greys would tint


def _before_and_after(figure, run, truth):
    axes = figure.subplots(2, 2)
    figure.subplots_adjust(0.055, 0.015, 0.985, 0.915, 0.05, 0.04)
    shots = (("before", run.series.frames[0], run.series.knobs_nm[0]),
             (f"after {len(run.series.frames)} frames", run.verification_frame,
              run.applied_knobs_nm))
    for (top, bottom), (label, frame, knobs) in zip(axes.T, shots, strict=True):
        disc, image = observe(frame, run.series.optics)
        show(top, disc_only(frame, disc), "gray")
        show(bottom, whole_plane(image), SPECTRUM, contrast(image))
        c10, c12a, c12b = truth + knobs
        top.set_title(f"$\\bf{{{label.replace(' ', '~')}}}$\n"
                      f"C10 {c10:+.1f}, C12 {np.hypot(c12a, c12b):.1f} nm")
    axes[0, 0].set_ylabel("Ronchigram")
    axes[1, 0].set_ylabel("its power spectrum")


def _posteriors(figure, run, truth):
    history = run.history
    chosen = sorted({0, 1, len(history) - 1})
    axes = np.atleast_1d(figure.subplots(1, len(chosen), sharex=True, sharey=True))
    figure.subplots_adjust(0.11, 0.21, 0.98, 0.83, 0.1)
    for one, number in zip(axes, chosen, strict=True):
        cloud = np.asarray(history[number].posterior[0].candidates.positions)
        one.plot(*cloud[:, :2].T, ".", color=COLOURS["C10"], ms=2.2, alpha=0.25, mew=0)
        one.plot(*truth[:2], "+", color=COLOURS["C12a"], ms=11, mew=1.4)
        one.set_title(f"frame {number + 1}" if number else "known after frame 1")
        one.set(xlim=(-460, 460), ylim=(-460, 460), xticks=(-300, 0, 300), yticks=(-300, 0, 300))
        one.set_aspect("equal")
        one.set_xlabel("C10 (nm)", labelpad=1)
    axes[0].set_ylabel("C12a (nm)", labelpad=0)
    _closer(axes[-1], cloud, truth)


def _closer(axes, cloud, truth, reach=9.0):
    """The last posterior again, in an inset in the corner across from it."""
    left, bottom = (0.06 if truth[0] > 0 else 0.5), (0.06 if truth[1] > 0 else 0.5)
    inset = axes.inset_axes((left, bottom, 0.44, 0.44))
    inset.plot(*cloud[:, :2].T, ".", color=COLOURS["C10"], ms=2.2, alpha=0.3, mew=0)
    inset.plot(*truth[:2], "+", color=COLOURS["C12a"], ms=11, mew=1.4)
    inset.set(xlim=truth[0] + np.array([-reach, reach]), ylim=truth[1] + np.array([-reach, reach]),
              xticks=[], yticks=[])
    inset.spines[:].set(visible=True, linewidth=0.6)
    inset.set_title(f"{2 * reach:.0f} nm wide", fontsize=7.5, pad=2)


def _errors(figure, run, truth):
    axes = figure.subplots()
    figure.subplots_adjust(0.11, 0.17, 0.98, 0.9)
    error = np.array([np.asarray(e.x0_nm) - truth for e in run.history])
    sd = np.array([np.sqrt(np.diag(e.covariance_nm2)) for e in run.history])
    numbers = np.arange(1, len(error) + 1)
    axes.fill_between(numbers, 1e-4, sd.max(1), color="#dfe6ee", lw=0,
                      label="stated sd (largest of the three)")
    for column, (name, colour) in enumerate(COLOURS.items()):
        axes.plot(numbers, np.abs(error[:, column]), "o-", color=colour, ms=4, lw=1.4, label=name)
    limit = quarter_pi_limits_nm(run.series.optics)[0]
    axes.axhline(limit, color=INK, lw=0.9, ls=(0, (4, 3)))
    label = axes.annotate("π/4 limit", (1, limit), (0, -11), textcoords="offset points", fontsize=8)
    label.set_path_effects([patheffects.withStroke(linewidth=2.5, foreground="#dfe6ee")])
    axes.set_yscale("log")
    axes.set(ylim=(0.05, 600), xlim=(0.9, len(error) + 0.1), xticks=numbers, xlabel="frames taken")
    axes.set_ylabel("error (nm)", labelpad=0)
    axes.legend(ncols=4, fontsize=8, loc="upper right", handlelength=1.2, columnspacing=1.0,
                borderaxespad=0)


# Ronchigrams and spectra over C10 and C12a --------------------------------------------------------


def ronchigram_grid(path, values=(-200.0, -100.0, 0.0, 100.0, 200.0), seed=4):
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


# latents ------------------------------------------------------------------------------------------


def latents(model, path, count=640, reach=9.0):
    """Latents over C10 and C12a: points are simulated spectra, the ground is the map's mean."""
    states, encoded = simulated_latents(model, count, reach)
    line = np.linspace(-reach, reach, 121)
    ground = np.zeros((line.size, line.size, models.STATES))
    ground[..., 0], ground[..., 1] = line[None, :], line[:, None]
    mean = _map_mean(model, ground.reshape(-1, models.STATES)).reshape(line.size, line.size, -1)
    at_points = _map_mean(model, states)
    chosen = best_explained(encoded, at_points)[:6]
    per_nm = edge_waves(simulated_optics())[0]
    edge = reach / per_nm
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.3), layout="constrained")
    _pair(axes[:, 0], encoded[:, chosen[:2]], chosen[:2], states / per_nm)
    for axis, latent in zip(axes[:, 1:].ravel(), chosen, strict=True):
        low, high = np.percentile(encoded[:, latent], (2, 98))
        colour = {"cmap": "RdYlBu_r", "vmin": low, "vmax": high}
        axis.imshow(mean[..., latent], origin="lower", extent=(-edge, edge, -edge, edge), **colour)
        axis.scatter(*(states[:, :2] / per_nm).T, c=encoded[:, latent], s=11, lw=0.35,
                     edgecolors=(0.13, 0.15, 0.18, 0.7), **colour)
        axis.set(title=f"latent {latent + 1}", xlim=(-edge, edge), ylim=(-edge, edge),
                 xlabel="C10 (nm)", ylabel="C12a (nm)")
    save(figure, path, dpi=160)


def _pair(axes, encoded, numbers, states_nm):
    c10, c12a = states_nm[:, 0], states_nm[:, 1]
    colours = (("|C10 + C12a| (nm)", np.abs(c10 + c12a)),  # the spectrum's extent along x
               ("|C10 - C12a| (nm)", np.abs(c10 - c12a)))  # and along y
    for axis, (label, values) in zip(axes, colours, strict=True):
        points = axis.scatter(*encoded.T, c=values, cmap="viridis", s=9, lw=0)
        axis.set(xlabel=f"latent {numbers[0] + 1}", ylabel=f"latent {numbers[1] + 1}",
                 title=label)
        axis.figure.colorbar(points, ax=axis, shrink=0.75, pad=0.02)


def simulated_latents(model, count, reach, seed=11):
    """States (N, 7), waves, with C10 and C12a within +-reach, and the latents (N, D) they show.

    Every spectrum comes from an instrument of its own: film, dose, coherence and residual
    aberrations are drawn anew, which is the scatter of the points.
    """
    optics, grid = simulated_optics(), simulation.Grid(256, 72.0)
    per_nm = jnp.asarray(edge_phases(optics), jnp.float32)
    disc = spectra.Disc(grid.size // 2, grid.size // 2, grid.radius)

    @jax.jit
    @jax.vmap
    def image(key, waves):
        instrument_key, frame_key = jax.random.split(key)
        instrument = simulation.draw_instrument(instrument_key, per_nm, 1 / optics.length_unit_nm)
        phases = instrument.residual + 2 * jnp.pi * waves
        frame = simulation.frame(frame_key, instrument, phases, grid)
        return spectra.log_image(spectra.power_spectrum(frame, disc))

    state = np.zeros((count, 25), np.float32)
    state[:, :2] = np.random.default_rng(seed).uniform(-reach, reach, (count, 2))
    keys = jax.random.split(jax.random.key(seed), count)
    images = np.concatenate([image(keys[k : k + 16], jnp.asarray(state[k : k + 16]))
                             for k in range(0, count, 16)])
    knobs = aberrations.indices(estimation.STATES)
    return state[:, knobs], np.asarray(model.encode(images))


def _map_mean(model, states):
    predict = jax.jit(jax.vmap(lambda state: model.map.predict(state).mean))
    return np.asarray(predict(jnp.asarray(states, jnp.float32)))


def best_explained(encoded, mean):
    """Numbers of the latents, those first of which the map explains the largest share."""
    return np.argsort(((encoded - mean) ** 2).mean(0) / encoded.var(0))


# reconstructions ----------------------------------------------------------------------------------

RECONSTRUCTED_NM = (
    {"C10": 30.0}, {"C10": 150.0}, {"C10": 60.0, "C12a": 50.0}, {"C10": 40.0, "C12b": 120.0},
    {"C10": -180.0, "C12a": 60.0, "C12b": 60.0}, {"C10": 80.0, "C21a": 600.0, "C23b": 500.0},
)  # fmt: skip


def reconstruction(model, path, seed=21):
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


FIGURES = ("overview", "ronchigram_grid", "latents", "reconstruction")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=FIGURES)
    parser.add_argument("--model", help="weights (default: the shipped model)")
    parser.add_argument("--out", type=Path, default=DOCS)
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        for name in [options.only] if options.only else FIGURES:
            path = options.out / f"{name}.png"
            if name == "ronchigram_grid":
                ronchigram_grid(path)
            else:
                globals()[name](models.load(options.model), path)
            print(path)


if __name__ == "__main__":
    main()
