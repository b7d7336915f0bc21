"""overview.png: a simulated microscope being tuned."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import patheffects

import jaxcal
from jaxcal import em
from jaxcal.optics import quarter_pi_limits_nm
from pictures import drawing
from pictures.drawing import COLOURS, INK, SPECTRUM, contrast, disc_only, save, show, whole_plane


def overview(model, path, data=None, seed=5):
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
        disc, image = drawing.observe(frame, run.series.optics)
        show(top, disc_only(frame, disc), "gray")
        show(bottom, whole_plane(image), SPECTRUM, contrast(image))
        c10, c12a, c12b = truth + knobs
        top.set_title(f"$\\bf{{{label.replace(' ', '~')}}}$\n"
                      f"C10 {c10:+.1f}, C12 {np.hypot(c12a, c12b):.1f} nm")
    axes[0, 0].set_ylabel("Ronchigram")
    axes[1, 0].set_ylabel("its power spectrum")


def _posteriors(figure, run, truth):
    history = run.history
    chosen = sorted({0, 1, *_last_of_em(history)})
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


def _last_of_em(history):
    """The last estimate with an EM of its own: later ones go on from the refinement before."""
    frames = [int(np.sum(np.asarray(one.posterior[1].frame_noise) < em.EXCLUDED))
              for one in history]
    return [number for number, count in enumerate(frames) if count == number + 1][-1:]


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
