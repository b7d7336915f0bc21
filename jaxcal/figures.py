"""Figures of a calibration, each an SVG drawn without a screen.

Every function takes plain arrays and returns the bytes of an SVG file.  Ink is spared: one
accent for what was found, dashes for limits and truth, grey for frames and spectra.
"""

import io

import numpy as np

from jaxcal import thumbnails

WIDTH = 7.4  # inches; the text column of the report
INK, QUIET, FAINT = "#23272d", "#7b838c", "#d9dde1"
COLOURS = ("#2f5d8a", "#b4552d", "#5a7d3a", "#7a5195", "#a88a1e", "#3b8f8f", "#8a4b5f")

_STYLE = {
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": QUIET,
    "axes.linewidth": 0.6,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.3,
    "svg.hashsalt": "jaxcal",
}


def frames_with_spectra(frames, titles, optics):
    """Frames above, their power spectra below.

    Args:
        frames: list of (H, W) counts.
        titles: what each is.
        optics: nominal `jaxcal.Optics`.
    """
    side = 0.36 * WIDTH
    with _drawing(side * len(frames) + 0.5, 2 * side + 0.4) as (plt, save):
        figure, axes = plt.subplots(2, len(frames), squeeze=False)
        for column, (frame, title) in enumerate(zip(frames, titles, strict=True)):
            angles, image = thumbnails.in_disc(frame, optics)
            top, bottom = axes[:, column]
            _picture(top, image, angles * optics.semi_angle_mrad, (0.5, 99.8))
            reach, spectrum = thumbnails.display_spectrum(frame, optics)
            _picture(bottom, spectrum, reach, (20, 99.9))
            top.set_title(title)
            if column == 0:
                top.set_ylabel("angle (mrad)")
                bottom.set_ylabel("cycles per aperture radius")
        return save(figure)


def posterior_by_frame(history, limits_nm, truth_nm=None, limit="π/4 limit"):
    """Mean and two standard deviations of each knob's x0 after each frame, and the widths.

    Args:
        history: the estimates after each frame, `jaxcal.Estimate`.
        limits_nm: (P,) nm; limit: what they are called.
        truth_nm: {name: nm} or None.
    """
    names = history[-1].knob_names
    numbers = [estimate.frames_used + len(estimate.rejected_frames) for estimate in history]
    mean = np.array([estimate.x0_nm for estimate in history], float)
    spread = np.array([_sd(estimate.covariance_nm2) for estimate in history])
    columns = min(len(names), 4)
    rows = -(-len(names) // columns)
    with _drawing(WIDTH, 1.55 * rows + 2.0) as (plt, save):
        figure = plt.figure()
        grid = figure.add_gridspec(rows + 1, columns, height_ratios=[1.55] * rows + [2.0])
        for k, name in enumerate(names):
            axis = figure.add_subplot(grid[k // columns, k % columns])
            colour = COLOURS[k % len(COLOURS)]
            low, high = mean[:, k] - 2 * spread[:, k], mean[:, k] + 2 * spread[:, k]
            axis.fill_between(numbers, low, high, color=colour, alpha=0.18, linewidth=0)
            axis.plot(numbers, mean[:, k], color=colour, marker="o", markersize=2.5)
            if truth_nm is not None and name in truth_nm:
                axis.axhline(truth_nm[name], color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
            axis.set_title(name)
            _whole_numbers(axis)
            if k % columns == 0:
                axis.set_ylabel("x0 (nm), mean ± 2 sd")
        axis = figure.add_subplot(grid[rows, :])
        for k, name in enumerate(names):
            colour = COLOURS[k % len(COLOURS)]
            axis.plot(numbers, spread[:, k], color=colour, marker="o", markersize=2.5, label=name)
        for place, height in enumerate(np.unique(np.round(limits_nm, 9))):
            axis.axhline(
                height, color=QUIET, linewidth=0.8, linestyle=(0, (4, 3)),
                label=limit if place == 0 else None,
            )  # fmt: skip
        axis.set_yscale("log")
        axis.set_ylabel("sd (nm)")
        axis.set_xlabel("frames taken")
        _whole_numbers(axis)
        _plain_numbers(axis.yaxis)
        _legend_above(axis, len(names) + 1)
        return save(figure)


def states_by_frame(states_nm, names, limits_nm):
    """Estimated state of each frame: how far each knob's aberration was from zero.

    Args:
        states_nm: (T, P), nm.
        names: the P knobs.
        limits_nm: (P,) pi/4 limits, nm, in units of which it is drawn.
    """
    states = np.asarray(states_nm, float) / limits_nm
    with _drawing(WIDTH, 2.0) as (plt, save):
        figure, axis = plt.subplots()
        axis.axhline(0, color=QUIET, linewidth=0.6)
        for k, name in enumerate(names):
            axis.plot(
                np.arange(len(states)), states[:, k], color=COLOURS[k % len(COLOURS)],
                marker="o", markersize=2.5, linewidth=0.8, label=name,
            )  # fmt: skip
        axis.set_ylabel("state / limit")
        axis.set_xlabel("frame used")
        _whole_numbers(axis)
        _legend_above(axis, len(names))
        return save(figure)


def against_limits(names, before_nm, after_nm, limits_nm, true_after_nm=None, limit="π/4 limit"):
    """Size of each knob's aberration in units of its limit, before and after, on a log scale.

    Args:
        names: the P knobs.
        before_nm: (P,) magnitude of x0, nm.
        after_nm: (P,) rms magnitude that is left, nm, its uncertainty included.
        limits_nm: (P,) nm; limit: what they are called.
        true_after_nm: (P,) magnitude truly left, nm, or None.
    """
    before, after = np.abs(before_nm) / limits_nm, np.abs(after_nm) / limits_nm
    shown = [before, after]
    if true_after_nm is not None:
        shown.append(np.abs(true_after_nm) / limits_nm)
    values = np.concatenate(shown)
    values = values[np.isfinite(values) & (values > 0)]
    low = min(0.1, 10 ** np.floor(np.log10(max(values.min(initial=1.0), 1e-3))))
    high = max(3.0, 1.6 * values.max(initial=1.0))
    with _drawing(WIDTH, 0.75 + 0.27 * len(names)) as (plt, save):
        figure, axis = plt.subplots()
        place = np.arange(len(names))[::-1]
        axis.axvspan(low, 1.0, color="#5a7d3a", alpha=0.08, linewidth=0)
        axis.barh(place + 0.17, np.maximum(before, low) - low, 0.3, left=low, color=FAINT)
        axis.barh(place - 0.17, np.maximum(after, low) - low, 0.3, left=low, color=COLOURS[0])
        if true_after_nm is not None:
            axis.plot(
                np.maximum(shown[2], low), place - 0.17, linestyle="none", marker="D",
                markersize=4, markerfacecolor="white", markeredgecolor=INK, clip_on=False,
            )  # fmt: skip
        axis.axvline(1.0, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
        axis.set_xscale("log")
        axis.set_xlim(low, high)
        _plain_numbers(axis.xaxis)
        axis.set_yticks(place, names)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.set_xlabel(f"magnitude / {limit}")
        return save(figure)


def latents_by_frame(latents):
    """Latent vector of each frame as a map: one column a frame, one row a latent."""
    latents = np.asarray(latents, float)
    reach = np.nanmax(np.abs(latents), initial=1e-6)
    height = 0.9 + min(0.16 * latents.shape[1], 2.6)
    with _drawing(WIDTH, height) as (plt, save):
        figure, axis = plt.subplots()
        image = axis.imshow(
            latents.T, cmap="RdBu_r", vmin=-reach, vmax=reach, aspect="auto",
            interpolation="nearest",
            extent=(-0.5, len(latents) - 0.5, latents.shape[1] + 0.5, 0.5),
        )  # fmt: skip
        axis.set_xlabel("frame used")
        axis.set_ylabel("latent")
        _whole_numbers(axis)
        _whole_numbers(axis, "y")
        for spine in axis.spines.values():
            spine.set_visible(False)
        bar = figure.colorbar(image, ax=axis, pad=0.01, fraction=0.03)
        bar.outline.set_visible(False)
        return save(figure)


def mode_pairs(names, modes, truth_nm=None):
    """Two-standard-deviation ellipses of the posterior's modes, for pairs of the first knobs.

    Args:
        names: the P knobs, P at least 2.
        modes: `jaxcal.Mode` with weight, x0_nm (P,) and covariance_nm2 (P, P).
        truth_nm: {name: nm} or None.
    """
    count = min(len(names), 3)
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    turn = np.linspace(0, 2 * np.pi, 100)
    circle = 2 * np.stack([np.cos(turn), np.sin(turn)])
    with _drawing(WIDTH if len(pairs) > 1 else 0.4 * WIDTH, 2.5) as (plt, save):
        figure, axes = plt.subplots(1, len(pairs), squeeze=False)
        for axis, (i, j) in zip(axes[0], pairs, strict=True):
            for rank, mode in enumerate(modes):
                centre = np.asarray(mode.x0_nm, float)[[i, j]]
                covariance = np.asarray(mode.covariance_nm2, float)[np.ix_([i, j], [i, j])]
                values, vectors = np.linalg.eigh(covariance)
                outline = vectors @ (np.sqrt(np.clip(values, 0, None))[:, None] * circle)
                colour = COLOURS[rank % len(COLOURS)]
                strength = 0.1 + 0.5 * min(float(mode.weight), 1.0)
                axis.fill(*(centre[:, None] + outline), color=colour, alpha=strength, linewidth=0)
                axis.plot(*(centre[:, None] + outline), color=colour, linewidth=0.9)
                axis.plot(*centre, color=colour, marker=".", markersize=4)
            if truth_nm is not None and names[i] in truth_nm and names[j] in truth_nm:
                axis.plot(
                    truth_nm[names[i]], truth_nm[names[j]], marker="+", color=INK, markersize=9
                )
            axis.set_xlabel(f"{names[i]} (nm)")
            axis.set_ylabel(f"{names[j]} (nm)")
            axis.locator_params(nbins=4)
            axis.set_aspect("equal", adjustable="datalim")
        figure.draw_without_rendering()  # the limits move, and the room for the labels with them
        return save(figure)


def contact_sheet(frames, captions, set_aside=(), most=40):
    """All frames, small, in the order they were taken.

    Args:
        frames: (T, H, W) counts.
        captions: a line for each.
        set_aside: numbers of the frames that were not used; they are crossed out.
        most: how many are shown at the most.
    """
    frames, captions = frames[:most], captions[:most]
    columns = min(7, len(frames))
    rows = -(-len(frames) // columns)
    side = WIDTH / 7
    with _drawing(side * columns, (side + 0.16) * rows) as (plt, save):
        figure, axes = plt.subplots(rows, columns, squeeze=False)
        for axis in axes.flat[len(frames) :]:
            axis.set_visible(False)
        for number, (axis, frame, caption) in enumerate(
            zip(axes.flat[: len(frames)], frames, captions, strict=True)
        ):
            _picture(axis, thumbnails.smaller(frame, 128), None, (0.5, 99.8))
            axis.set_title(caption, fontsize=6, loc="center", pad=2, color=INK)
            if number in set_aside:
                axis.plot([0, 1], [0, 1], transform=axis.transAxes, color=COLOURS[1], linewidth=1)
        return save(figure)


class _drawing:
    """A figure of a size in inches, drawn in the house style without touching pyplot's state."""

    def __init__(self, width, height):
        self._size = (width, height)

    def __enter__(self):
        import matplotlib

        self._context = matplotlib.rc_context({**_STYLE, "figure.figsize": self._size})
        self._context.__enter__()
        return _Plain(), self._save

    def __exit__(self, *error):
        return self._context.__exit__(*error)

    @staticmethod
    def _save(figure):
        file = io.BytesIO()
        figure.savefig(file, format="svg", dpi=160, metadata={"Date": None})
        return file.getvalue()


class _Plain:
    """The two of pyplot's functions that are used here, without its registry of open windows."""

    @staticmethod
    def figure():
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        figure = Figure()
        FigureCanvasSVG(figure)
        return figure

    def subplots(self, *shape, **options):
        figure = self.figure()
        return figure, figure.subplots(*shape, **options)


def _picture(axis, image, reach, percentiles):
    """A grey image over [-reach, reach], contrast between two percentiles; bare without reach."""
    image = np.asarray(image, float)
    low, high = np.percentile(image, percentiles)
    extent = None if reach is None else (-reach, reach, reach, -reach)
    axis.imshow(
        image, cmap="gray", vmin=low, vmax=max(high, low + 1e-9), extent=extent,
        interpolation="nearest" if reach is None else "antialiased",
    )  # fmt: skip
    if reach is None:
        axis.set_xticks([])
        axis.set_yticks([])
    else:
        axis.locator_params(nbins=5)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _sd(covariance):
    return np.sqrt(np.clip(np.diag(np.asarray(covariance, float)), 0.0, None))


def _plain_numbers(axis):
    """0.1, 1, 10 rather than powers of ten; minor ticks unlabelled."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend_above(axis, columns):
    axis.legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)


def _whole_numbers(axis, which="x"):
    from matplotlib.ticker import MaxNLocator

    getattr(axis, f"{which}axis").set_major_locator(MaxNLocator(integer=True, nbins=8))
