"""posterior.png, map.png, windows.png: what EM and the refinement do with a few frames."""

from functools import lru_cache

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxcal
from jaxcal import aberrations, basins, em, hologram, latent_map, observation, unknowns
from jaxcal.microscopes.simulated import SEVEN, draw_state, random_steps
from pictures.drawing import (
    COLOURS,
    QUIET,
    SPECTRUM,
    disc_only,
    save,
    show,
)

SHADE = "#dfe6ee"


def series_of(microscope, knobs_nm) -> jaxcal.Series:
    """Frames of a microscope at knob settings (T, P) nm."""
    shots = []
    for step in knobs_nm:
        microscope.set(step)
        shots.append(microscope.acquire())
    return jaxcal.Series(np.stack(shots), np.asarray(knobs_nm, float), microscope.knob_names,
                         microscope.optics, "simulated")


def experiment_of(series, model) -> em.Experiment:
    """The latents of a series, as `jaxcal.estimate` hands them to EM."""
    seen = [observation.observe(frame, series.optics) for frame in series.frames]
    radius, _ = observation.camera_of(seen)
    return basins.experiment(
        np.asarray(model.encode(observation.log_images(seen))), series.knobs_nm, series.knob_names,
        observation.measured_optics(series.optics, radius))


# candidates -----------------------------------------------------------------------------------


def stages(key, data, map_, settings):
    """Candidates, parameters and a title after every step of EM, as `em.run` makes them."""
    parameters = em.initial_parameters(map_, data)
    first, later = jax.random.split(key)
    candidates = em.begin(first, parameters, data, map_, settings.candidates)
    found, stage = [(candidates, parameters, "prior")], 0
    while float(candidates.temperature) < 1:
        candidates, _ = em.temper(
            jax.random.fold_in(later, stage), candidates, parameters, data, map_, settings)
        stage += 1
        power = float(candidates.temperature)
        title = f"likelihood$^{{{power:.2g}}}$" if power < 1 else "posterior"
        found.append((candidates, parameters, title))
    for iteration in range(1, settings.iterations + 1):
        parameters, _ = em.maximise(candidates, parameters, data, map_, settings)
        candidates, _ = em.renew(
            jax.random.fold_in(later, 100 + iteration), candidates, parameters, data, map_,
            settings)
        found.append((candidates, parameters, f"after M-step {iteration}"))
    return found


def posterior(model, path, data=None, seed=3):
    """Candidates of C10 and C12a from the prior over two powers of the likelihood to the posterior,
    and after each M-step: of one frame above, which leaves mirror images, of four below; coloured
    by log likelihood below the best. The cross is the hidden state."""
    microscope = jaxcal.SimulatedMicroscope(seed=seed, hidden_range_nm=150.0)
    series = series_of(microscope, random_steps(seed, 4, step_nm=100.0))
    everything = experiment_of(series, model)
    settings = em.Settings(candidates=1024, iterations=3)
    figure, axes = plt.subplots(2, 4 + settings.iterations, figsize=(11, 3.75), sharex=True,
                                sharey=True)
    figure.subplots_adjust(0.075, 0.125, 0.925, 0.925, 0.07, 0.24)
    truth = [microscope.truth_nm[name] for name in ("C10", "C12a")]
    for row, frames in zip(axes, (1, 4), strict=True):
        noise = jnp.where(jnp.arange(4) < frames, 1.0, em.EXCLUDED).astype(jnp.float32)
        history = stages(jax.random.key(seed), everything._replace(frame_noise=noise), model.map,
                         settings)
        tempered = len(history) - 1 - settings.iterations  # the posterior before any M-step
        chosen = [0, max(1, tempered // 3), max(2, 2 * tempered // 3),
                  *range(tempered, len(history))]
        for axis, number in zip(row, chosen, strict=True):
            candidates, _, title = history[number]
            cloud = np.asarray(candidates.positions)
            below = np.asarray(candidates.log_likelihood)
            below = below - np.asarray(history[tempered][0].log_likelihood).max()
            points = axis.scatter(*cloud[:, :2].T, c=np.clip(below, -30, 0), s=5, lw=0,
                                  cmap="viridis", vmin=-30, vmax=0)
            axis.plot(*truth, "+", color=COLOURS["C12a"], ms=12, mew=1.5)
            axis.set_title(title)
            axis.set(xlim=(-460, 460), ylim=(-460, 460), xticks=(-300, 0, 300),
                     yticks=(-300, 0, 300))
            axis.set_aspect("equal")
            if cloud[:, 0].std() < 15:
                _closer(axis, cloud, np.clip(below, -30, 0), truth)
        row[0].set_ylabel(f"{'one frame' if frames == 1 else f'{frames} frames'}\nC12a (nm)")
    for axis in axes[1]:
        axis.set_xlabel("C10 (nm)")
    bar = figure.colorbar(points, cax=figure.add_axes((0.94, 0.2, 0.01, 0.64)), extend="min")
    bar.set_label("log likelihood below the best")
    save(figure, path, dpi=160)


def _closer(axis, cloud, colours, truth, reach=25.0):
    inset = axis.inset_axes((0.52, 0.5, 0.48, 0.48))
    inset.scatter(*cloud[:, :2].T, c=colours, s=4, lw=0, cmap="viridis", vmin=-30, vmax=0)
    inset.plot(*truth, "+", color=COLOURS["C12a"], ms=9, mew=1.3)
    inset.set(xlim=truth[0] + np.array([-reach, reach]), ylim=truth[1] + np.array([-reach, reach]),
              xticks=[], yticks=[])
    inset.spines[:].set(visible=True, linewidth=0.6)
    inset.set_xlabel(f"{2 * reach:.0f} nm wide", fontsize=7, labelpad=2)


# the map --------------------------------------------------------------------------------------


def conditional(map_, process, states, latents, at):
    """Mean and standard deviation (N, D) of the map at states ``at`` (N, P), given the latents
    (T, D) at ``states`` (T, P): nuisances and gap conditioned on the frames. Also the mean (N, D)
    before, and the covariance (T, D, D) of the frames' noise."""
    signs, scale = (jnp.asarray(part, jnp.float32) for part in (map_.signs, map_.scale))
    everywhere = jnp.concatenate([states, at])
    mean, sensitivity, whitening = (
        np.asarray(part, float) for part in jax.vmap(map_.predict)(everywhere))
    coordinates = jax.vmap(lambda x: latent_map.kernel_coordinates(x, scale))(everywhere)
    kernel = np.asarray(latent_map.gap_kernel(process, signs)(coordinates, coordinates), float)
    (count, size), total = np.shape(latents), len(mean)
    unwhiten = np.linalg.inv(whitening)
    covariance = (np.einsum("tij,ts,skj->tisk", unwhiten, kernel, unwhiten, optimize=True)
                  + np.einsum("tri,srk->tisk", sensitivity, sensitivity))
    noise = np.exp(2 * float(process.log_noise)) * np.einsum("tij,tkj->tik", unwhiten, unwhiten)
    flat = covariance.reshape(total * size, total * size)
    seen = flat[: count * size, : count * size].copy()
    for t in range(count):
        part = slice(t * size, (t + 1) * size)
        seen[part, part] += noise[t]
    across = flat[count * size :, : count * size]
    residual = (np.asarray(latents, float) - mean[:count]).ravel()
    found = mean[count:].ravel() + across @ np.linalg.solve(seen, residual)
    left = np.diag(flat)[count * size :] - np.einsum(
        "ij,ji->i", across, np.linalg.solve(seen, across.T))
    return (found.reshape(-1, size), np.sqrt(np.maximum(left, 0)).reshape(-1, size),
            mean[count:], noise[:count])


def map_(model, path, data=None, seed=6, reach=260.0):
    """The map along C10 through the estimated state, before and after the M-steps: above with the
    simulated mean, below in the published form, where the process is the whole map."""
    hidden = draw_state(seed)
    hidden[:3] = 60.0, -25.0, 15.0
    knobs = np.zeros((10, 3))
    knobs[:, 0] = [0, -170, -120, -80, -45, 25, 60, 95, 130, 165]
    series = series_of(jaxcal.SimulatedMicroscope(hidden_nm=hidden, seed=seed), knobs)
    experiment = experiment_of(series, model)
    settings = em.Settings(candidates=1024, iterations=4)
    figure, axes = plt.subplots(2, 4, figsize=(10, 5.0), sharex=True)
    figure.subplots_adjust(0.075, 0.1, 0.99, 0.87, 0.24, 0.32)
    line = np.linspace(-reach, reach, 131)
    spread = np.asarray(experiment.latents).std(0)
    chosen = np.sort(np.argsort(-spread)[:2])
    for row, one, label in ((axes[0], model.map, "simulated mean"),
                            (axes[1], model.flat_map, "published form")):
        history = stages(jax.random.key(seed), experiment, one, settings)
        before = next(h for h in history if float(h[0].temperature) == 1)
        candidate = jnp.mean(history[-1][0].positions, 0)
        if one is model.map:
            steady = candidate  # both forms are drawn at the state that the better one finds
        for number, (stage, title) in enumerate(((before, "before"), (history[-1], "after"))):
            parameters = stage[1]
            states = em.states(steady, parameters, experiment)
            at = np.tile(np.asarray(states[0]), (line.size, 1))
            unit = float(states[1, 0] - states[0, 0]) / (knobs[1, 0] - knobs[0, 0])
            at[:, 0] = line * unit
            mean, sd, simulated, noise = conditional(
                one, parameters.process, states, experiment.latents, jnp.asarray(at))
            shown = np.asarray(states[:, 0]) / unit
            for column, latent in enumerate(chosen):
                axis = row[2 * column + number]
                axis.fill_between(line, *(mean[:, latent] + k * 2 * sd[:, latent]
                                          for k in (-1, 1)), color=SHADE, lw=0, label="map ± 2 sd")
                axis.plot(line, simulated[:, latent], color=QUIET, ls=(0, (4, 3)), lw=1,
                          label="mean of the prior")
                axis.plot(line, mean[:, latent], color=COLOURS["C10"], lw=1.4, label="map")
                axis.errorbar(shown, experiment.latents[:, latent],
                              np.sqrt(noise[:, latent, latent]), fmt="o", ms=3.5, lw=0.9,
                              color=COLOURS["C12a"], label="frames ± noise")
                amplitude, length, sigma = (np.exp(float(v)) for v in parameters.process)
                axis.set_title(f"latent {latent + 1}, {title}\n"
                               f"a {amplitude:.2f}, l {length:.2f}, σ {sigma:.2f}", fontsize=8.5)
                low, high = np.percentile(experiment.latents[:, latent], (0, 100))
                axis.set_ylim(low - 0.45 * (high - low), high + 0.45 * (high - low))
        row[0].set_ylabel(label, weight="bold")
    for axis in axes[1]:
        axis.set(xlabel="C10 (nm)", xlim=(-reach, reach), xticks=(-200, 0, 200))
    axes[0, 0].legend(fontsize=7, ncols=4, loc="lower left", bbox_to_anchor=(0.0, 1.22),
                      borderaxespad=0, handlelength=1.6)
    save(figure, path, dpi=160)


# windows --------------------------------------------------------------------------------------


def plane(values, layout):
    """Values (B,) at the layout's bins -> the whole plane, both halves, NaN where no bin is."""
    fx, fy = layout.lines
    half = np.full((fy.size, fx.size), np.nan)
    inside = np.hypot(*layout.frequencies.T) < layout.highest - 0.1 * layout.spacing  # no spikes
    half[tuple(layout.bins[inside].T)] = values[inside]
    mirrored = half[::-1, ::-1]
    half[:, 0] = np.where(np.isnan(half[:, 0]), mirrored[:, -1], half[:, 0])
    return np.concatenate([mirrored[:, :-1], half], axis=1)


def fitted(solution, problem, frame: int):
    """Log power (K, B) that the theory expects of a frame's windows, for each layout."""
    phases, physics, _ = unknowns.frames_of(solution.point.z, problem)
    places = tuple(aberrations.indices(problem.free).tolist())
    phases, physics, found = jnp.asarray(phases[frame], jnp.float32), physics[frame], []
    for layout in problem.layouts:
        rows = []
        for centre, width in zip(*layout.moments, strict=True):
            centre, width = jnp.asarray(centre, jnp.float32), jnp.float32(width)
            points = hologram.lay_out(phases, places, physics, centre, width, layout)
            rows.append(np.log(np.asarray(hologram.spectrum(phases, physics, points, layout))))
        found.append(np.array(rows))
    return found


@lru_cache(maxsize=1)
def refined_series(model, seed=8):
    """A seven-knob microscope, its series of eight frames and the estimate from them."""
    hidden = draw_state(seed)
    hidden[:7] = 70.0, -30.0, 20.0, 350.0, -200.0, 150.0, 100.0
    microscope = jaxcal.SimulatedMicroscope(hidden_nm=hidden, knob_names=SEVEN, seed=seed)
    series = series_of(microscope, random_steps(seed, 8, SEVEN, step_nm=80.0))
    return microscope, series, jaxcal.estimate(series, model, seed=seed)


def windows(model, path, data=None):
    """One frame with its windows, their spectra, and what the theory expects after the fit."""
    _, series, answer = refined_series(model)
    found, frame = answer.refinement, 0
    problem, best = found.problem, found.solutions[0]
    number = answer.frame_numbers[frame]
    theory = fitted(best, problem, frame)
    figure = plt.figure(figsize=(10, 2.75))
    left, right = figure.subfigures(1, 2, width_ratios=(2.35, 7.65))
    axis = left.subplots()
    left.subplots_adjust(0.02, 0.02, 0.98, 0.9)
    frame_with_windows(axis, series, number, problem)
    axis.set_title("a frame and its windows")
    axes = right.subplots(2, 8)
    right.subplots_adjust(0.045, 0.02, 0.995, 0.9, 0.05, 0.02)
    order = [(0, k) for k in range(7)] + [(1, 0)]
    for column, (which, window) in enumerate(order):
        layout = problem.layouts[which]
        measured = np.log(np.maximum(problem.measured.power[frame][which][window], 1e-30))
        limits = np.percentile(theory[which][window], (3, 99.7)) + np.array([-1.0, 0.4])
        reach = 1.03 * layout.highest
        for axis, values in zip(axes[:, column], (measured, theory[which][window]), strict=True):
            show(axis, plane(values, layout), SPECTRUM, limits, (-reach, reach, reach, -reach))
        axes[0, column].set_title("large" if which else str(window + 1), loc="center")
    axes[0, 0].set_ylabel("measured")
    axes[1, 0].set_ylabel("theory, fitted")
    save(figure, path, dpi=176)


def frame_with_windows(axis, series, number, problem):
    """A frame's disc with circles of one standard deviation of the windows' weight."""
    seen = observation.observe(series.frames[number], series.optics)
    show(axis, disc_only(seen.frame, seen.disc), "gray", extent=(-1, 1, 1, -1))
    angle = np.linspace(0, 2 * np.pi, 200)
    for which, layout in enumerate(problem.layouts):
        middles, widths = layout.moments
        for window, ((x, y), width) in enumerate(zip(middles, widths, strict=True)):
            colour = COLOURS["C12a"] if which else "#7fb2e5"
            axis.plot(x + width * np.cos(angle), y + width * np.sin(angle), color=colour, lw=1.1)
            if not which:
                axis.annotate(str(window + 1), (x, y), color="white", ha="center", va="center",
                              fontsize=9, weight="bold")
