"""broken_symmetry.png, telescope.png: what a hidden even aberration does; EM in another field."""

import json

import jax
import matplotlib.pyplot as plt
import numpy as np
import telescope as problem
import telescope_simulator as simulator

from pictures.drawing import COLOURS, INK, QUIET, SPECTRUM, save, show

FORMS = {"modelled": "#2f5d8a", "left out": "#c2622d", "EM alone": "#5a7d3a"}


def broken_symmetry(model, path, data):
    """How far C10 and C12 move with C30, C34a or C50: root mean square over the instruments."""
    parts = json.loads(data.read_text())["parts"]
    angle, part = max(parts.items(), key=lambda item: float(item[0]))
    names = list(dict.fromkeys(s["coefficient"] for s in part["summary"]))
    figure, axes = plt.subplots(2, len(names), figsize=(10, 4.6), sharey="row", squeeze=False,
                                layout="constrained")
    for row, knobs in zip(axes, ("three", "seven"), strict=True):
        for axis, name in zip(row, names, strict=True):
            for form, colour in FORMS.items():
                rows = [s for s in part["summary"] if (s["knobs"], s["coefficient"], s["form"])
                        == (knobs, name, form)]
                x = np.array([s["value_nm"] for s in rows]) / 1e3
                for values, style in (("moved_nm", "o-"), ("rms_error_nm", "s:")):
                    y = [np.sqrt(np.mean(np.square(s[values][:3]))) for s in rows]
                    axis.plot(x, y, style, color=colour, ms=4, lw=1.3, label=(
                        f"{form}: " + ("moved by" if values == "moved_nm" else "rms error")))
            axis.set_yscale("symlog", linthresh=1.0)
            axis.set_ylim(bottom=0)
            axis.set_title(f"{knobs} knobs")
            axis.set_xlabel(f"{name} (µm), {angle} mrad")
        row[0].set_ylabel("of C10 and C12 (nm)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=3, fontsize=8,
                  loc="outside upper center")
    save(figure, path, dpi=150)


def telescope_(model, path, data=None, instruments=8):
    """Images of one source at +- one aberration; what one image and what five leave; errors."""
    compress, map_ = problem.train()
    figure = plt.figure(figsize=(10, 4.6))
    left, right = figure.subfigures(1, 2, width_ratios=(4.4, 5.6))
    _mirrored(left)
    top, bottom = right.subfigures(2, 1, height_ratios=(1.15, 1.0))
    hidden, latents = problem.observe(0, compress)
    axes = top.subplots(1, 3, sharex=True, sharey=True)
    top.subplots_adjust(0.13, 0.2, 0.985, 0.88, 0.1)
    for axis, frames in zip(axes, (1, 2, 5), strict=True):
        cloud, _, _ = problem.estimate(0, latents, map_, frames)
        axis.plot(*cloud[:, [0, 1]].T, ".", ms=2.2, alpha=0.3, mew=0, color=COLOURS["C10"])
        axis.plot(*hidden[:2], "+", ms=11, mew=1.4, color=COLOURS["C12a"])
        axis.set_title(f"{frames} image{'s' if frames > 1 else ''}")
        axis.set(xlim=(-160, 160), ylim=(-160, 160), xticks=(-100, 0, 100), yticks=(-100, 0, 100))
        axis.set_xlabel("focus (nm rms)", labelpad=1)
        axis.set_aspect("equal")
    axes[0].set_ylabel("astigmatism 0 (nm rms)", labelpad=0)
    _errors(bottom, compress, map_, instruments)
    save(figure, path, dpi=160)


def _mirrored(figure):
    axes = figure.subplots(2, 3)
    figure.subplots_adjust(0.07, 0.02, 0.99, 0.87, 0.05, 0.06)
    source_key, noise_key = jax.random.split(jax.random.key(4))
    source = simulator.star_field(source_key)
    state, nothing = np.float32([0.22, 0.1, 0.0]), np.zeros(3, np.float32)
    for column, (sign, title) in enumerate(((0, "in focus"), (1, "+ x"), (-1, "− x"))):
        counts = np.asarray(simulator.image(noise_key, source, sign * state, nothing,
                                            simulator.REAL))
        otf = simulator.transfer(sign * state, 0.0, simulator.REAL)
        spread = np.fft.fftshift(np.real(np.fft.ifft2(otf)))
        show(axes[0, column], counts[32:96, 32:96], "gray", np.percentile(counts, (1, 99.5)))
        inset = axes[0, column].inset_axes((0.62, 0.0, 0.38, 0.38))
        show(inset, spread[52:77, 52:77], "inferno")
        log = np.asarray(simulator.log_spectrum(counts))
        half = log.reshape(simulator.SIZE // simulator.BINNED, -1)
        whole = np.concatenate([half[::-1, ::-1], half], axis=1)
        show(axes[1, column], whole, SPECTRUM, np.percentile(whole, (5, 99.5)))
        axes[0, column].set_title(title)
    axes[0, 0].set_ylabel("image; inset: point spread")
    axes[1, 0].set_ylabel("its power spectrum")


def _errors(figure, compress, map_, instruments):
    axis = figure.subplots()
    figure.subplots_adjust(0.13, 0.23, 0.985, 0.86)
    colours = list(COLOURS.values())
    for seed in range(instruments):
        hidden, latents = problem.observe(seed, compress)
        _, mean, sd = problem.estimate(seed, latents, map_)
        for k, name in enumerate(problem.KNOBS):
            axis.errorbar(seed + 0.18 * (k - 1), mean[k] - hidden[k], sd[k], fmt="o", ms=4, lw=1.1,
                          color=colours[k], label=name if seed == 0 else None)
    axis.axhline(0, color=QUIET, lw=0.8, zorder=0)
    axis.set(xticks=range(instruments), xlabel="instrument", ylabel="error ± sd (nm rms)")
    axis.legend(ncols=3, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 1.0),
                borderaxespad=0, handletextpad=0.2)
    axis.tick_params(axis="x", length=0, colors=INK)
