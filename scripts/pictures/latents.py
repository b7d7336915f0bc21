"""latents.png, latent_space.png: where simulated spectra and real series lie among the latents."""

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import jaxcal
from jaxcal import aberrations, basins, observation, simulation, spectra
from jaxcal import model as models
from jaxcal.microscopes.simulated import simulated_optics
from jaxcal.optics import edge_phases, edge_waves
from pictures.drawing import save


def latents(model, path, data=None, count=640, reach=9.0):
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
    """States (N, 7), waves, with C10 and C12a within +-reach, and the latents (N, D) they show."""
    state = np.zeros((count, 25), np.float32)
    state[:, :2] = np.random.default_rng(seed).uniform(-reach, reach, (count, 2))
    return state[:, aberrations.indices(basins.STATES)], latents_of(model, state, seed)


def latents_of(model, waves, seed):
    """Latents (N, D) of simulated spectra at states (N, 25), waves at the edge.

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

    keys = jax.random.split(jax.random.key(seed), len(waves))
    images = np.concatenate([image(keys[k : k + 16], jnp.asarray(waves[k : k + 16]))
                             for k in range(0, len(waves), 16)])
    return np.asarray(model.encode(images))


def _map_mean(model, states):
    predict = jax.jit(jax.vmap(lambda state: model.map.predict(state).mean))
    return np.asarray(predict(jnp.asarray(states, jnp.float32)))


def best_explained(encoded, mean):
    """Numbers of the latents, those first of which the map explains the largest share."""
    return np.argsort(((encoded - mean) ** 2).mean(0) / encoded.var(0))


# regions, and series of another simulator -----------------------------------------------------

NEAR_NM = 25.0  # half width of the region that is called near focus
REGIONS = (("near focus", "#7a5195"), ("defocus", "#8b939c"), ("line focus along x", "#c2622d"),
           ("line focus along y", "#5a7d3a"), ("line focus, rising", "#2f5d8a"),
           ("line focus, falling", "#c9a227"))
MARKS = "os^Dv*"


def region(c10, c12a, c12b):
    """Number in REGIONS of each state (N,), nm, by what makes its spectrum look as it does.

    Spectra do not tell a state from its mirror image: line foci are named by the axis or diagonal
    along which the spectrum is longest, where C10 and C12 add; "rising" as seen, with y down.
    """
    c12, sign = np.hypot(c12a, c12b), np.where(c10 < 0, -1, 1)
    oblique = np.abs(c12b) > np.abs(c12a)
    line = np.where(oblique, np.where(sign * c12b > 0, 5, 4), np.where(sign * c12a > 0, 2, 3))
    far = np.where(c12 < 0.5 * np.abs(c10), 1, line)
    return np.where(np.hypot(c10, c12) < NEAR_NM, 0, far)


def latent_space(model, path, data, count=1200, seed=12):
    """The two linear discriminants of the regions among simulated latents: by region, and grey
    under the latents of the series of another simulator, in the order of their names; the first
    frame of each is drawn large."""
    random = np.random.default_rng(seed)
    per_nm = edge_waves(simulated_optics())
    state = np.zeros((count, 25))
    state[:, :3] = 130.0 * random.standard_normal((count, 3)) * random.uniform(0.05, 1, (count, 1))
    numbers = region(*state[:, :3].T)
    simulated = latents_of(model, np.float32(state * per_nm), seed)
    directions, share = discriminants(simulated, numbers)
    mean = simulated.mean(0)

    def project(latents):
        return (latents - mean) @ directions[:2].T

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.1), sharex=True, sharey=True,
                                         layout="constrained")
    points = project(simulated)
    for number, (name, colour) in enumerate(REGIONS):
        left.plot(*points[numbers == number].T, ".", ms=5, mew=0, alpha=0.75, color=colour,
                  label=name)
    left.set_title("simulated spectra, by region")
    right.plot(*points.T, ".", ms=5, mew=0, color="#d5dade")
    for mark, file in zip(MARKS, sorted(data.glob("p0?.h5")), strict=False):
        shown = project(series_latents(file, model))
        line, = right.plot(*shown.T, mark, ms=8 if mark == "*" else 5, mew=0.4, mec="white",
                           label=file.stem)
        right.plot(*shown[0], mark, ms=2.2 * line.get_markersize(), mew=0.8, mec="white",
                   color=line.get_color())
    right.set_title("series of another simulator; large: the first frame")
    for axis, columns in ((left, 3), (right, 6)):
        axis.set_xlabel(f"first discriminant, {100 * share[0]:.0f} % of what parts the regions")
        axis.legend(fontsize=8, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.12),
                    markerscale=1.3, handletextpad=0.2, columnspacing=1.0)
    left.set_ylabel(f"second, {100 * share[1]:.0f} %")
    save(figure, path, dpi=160)


def discriminants(latents, numbers):
    """Fisher's linear discriminants of latents (N, D) in classes of these numbers (N,).

    Directions (K, D) that part the means of the classes most, in units of the scatter within them,
    K one less than the classes or D, and each one's share of how far the means are apart.
    """
    classes, counts = np.unique(numbers, return_counts=True)
    weight = counts / counts.sum()
    means = np.array([latents[numbers == one].mean(0) for one in classes])
    scatter = sum(w * np.cov(latents[numbers == one].T, bias=True)
                  for w, one in zip(weight, classes, strict=True))
    whiten = np.linalg.inv(np.linalg.cholesky(scatter))
    apart = np.sqrt(weight)[:, None] * (means - weight @ means) @ whiten.T
    _, sizes, rows = np.linalg.svd(apart, full_matrices=False)
    count = min(len(classes) - 1, latents.shape[1])
    return rows[:count] @ whiten, sizes[:count] ** 2 / np.sum(sizes**2)


def series_latents(file, model):
    """Latents (T, D) of the frames of a series file that can be used."""
    series = jaxcal.read_series(file)
    seen = [observation.observe(frame, series.optics) for frame in series.frames]
    return np.asarray(model.encode(observation.log_images([s for s in seen if s.fault is None])))
