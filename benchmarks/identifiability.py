"""Is the state determined at all? With and without symmetry, with one frame and with two.

    python -m benchmarks.identifiability [--instruments 20] [--draws 6] [--quick]

Four things that docs/identifiability.md claims, measured. (1) The posterior of x0 where the map is
a Gaussian process without a simulated mean: flat along a shift without symmetry, peaked with it
where the frames are on both sides. The maps are drawn from the symmetric process. (2) The Fisher
information of x0 and a map of polynomials: singular where the class is closed under a shift,
regular where it has the symmetry, and what becomes of it with too few settings or settings along
one knob. (3) How nearly the mirror image of a state shows the same spectra in the wave-optical
simulator, by the strength of the film. (4) The log odds against the mirror image by the distance of
two settings. Writes ``benchmarks/results/identifiability.json``, the table in ``docs/results.md``
and ``docs/identifiability.png``; the exit status is 0 where all of it is as claimed (`as_claimed`).
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import jaxcal
from benchmarks import provenance
from jaxcal import basins, em, figures, latent_map, ronchigram, specimen, tiles
from jaxcal import model as models
from jaxcal.latent_map import Hyperparameters, Prior
from jaxcal.microscopes.simulated import SEVEN, simulated_optics
from jaxcal.optics import edge_phases
from jaxcal.spectra import Disc

RESULT = provenance.RESULTS / "identifiability.json"
PICTURE = provenance.ROOT / "docs" / "identifiability.png"
PAIR = ("C10", "C12a")
FRAMES, STEP_NM, REACH_NM, SPACING_NM = 12, 120.0, 300.0, 4.0  # two prior deviations, a grid
NOISE = 0.3  # of the latents, in units of their spread
LINEAR = 1e3  # unit of the kernel's coordinates that leaves arcsinh(x) = x
PLAIN = Hyperparameters(0.0, float(np.log(1.0 / LINEAR)), float(np.log(NOISE)))  # length 5 waves
CURVED = Hyperparameters(0.0, float(np.log(0.5)), float(np.log(NOISE)))
OPEN = 1.0  # nats: an instrument that learns less is as good as open
DEGREE, LATENTS, SETTINGS = 4, 3, 60  # of the polynomials; settings fill the plane
UNDETERMINED = 1e-8  # share of the information that is left once the map is free, zero but for
# rounding (1e-13 and less are seen; the smallest of a regular case is 1e-4)
STRENGTHS = (0.02, 0.1, 0.3)  # rad rms, of the film
DISTANCES_NM, DRAWS = (0.0, 2.0, 5.0, 10.0, 20.0, 60.0), 6  # of two settings, draws of all else


# 1. The posterior of x0 with a Gaussian process as the map


def maps(model):
    """The processes with and without the symmetry, in plain and in arcsinh coordinates; the last
    is the published form of the map."""
    flat, alone = model.flat_map, np.ones((1, len(SEVEN)), np.float32)
    return {name: em.Map(flat.predict, signs, scale, Prior(hyper, flat.prior.sd))
            for name, signs, scale, hyper in (
                ("stationary", alone, LINEAR * flat.scale, PLAIN),
                ("stationary, symmetric", flat.signs, LINEAR * flat.scale, PLAIN),
                ("arcsinh", alone, flat.scale, CURVED),
                ("arcsinh, symmetric", flat.signs, flat.scale, CURVED))}


def drawn(seed: int, frames=FRAMES):
    """State (2,) and random settings (frames, 2) of two knobs, nm, and the generator after them."""
    random = np.random.default_rng([seed, 3])
    x0 = random.uniform(-80, 80, 2)
    knobs = STEP_NM * random.uniform(-1, 1, (frames, 2))
    knobs[0] = 0.0
    return x0, knobs, random


def one_sided(seed: int) -> bool:
    """Whether a line through the centre has all states of an instrument's frames on one side."""
    directions = np.sort(np.arctan2(*np.add(*drawn(seed)[:2]).T))
    return bool(np.diff(directions, append=directions[0] + 2 * np.pi).max() > np.pi)


def series(model, map_, seed: int, frames=FRAMES):
    """State (2,) nm, and the experiment of frames at random settings of two knobs; the latents are
    drawn from the process of ``map_``, or from the simulated map without its gap."""
    x0, knobs, random = drawn(seed, frames)
    blank = np.zeros((frames, len(model.standard.latent_sd)))
    data = basins.experiment(blank, knobs, PAIR, simulated_optics())
    start = jnp.zeros(len(SEVEN) + 1).at[:2].set(x0)
    states = em.states(start, em.initial_parameters(model.map, data), data)
    normal = random.standard_normal((2, *blank.shape))
    if map_ is model.map:  # with its own noise
        mean, whitening = (np.asarray(part, float) for part in jax.vmap(
            lambda x: (map_.predict(x).mean, map_.predict(x).whitening))(states))
        latents = mean + np.linalg.solve(whitening, normal[0][..., None])[..., 0]
    else:
        places = latent_map.kernel_coordinates(states, jnp.asarray(map_.scale))
        kernel = latent_map.gap_kernel(map_.prior.mean, jnp.asarray(map_.signs))
        values, axes = np.linalg.eigh(np.asarray(kernel(places, places), float))
        latents = axes * np.sqrt(np.clip(values, 0.0, None)) @ normal[0] + NOISE * normal[1]
    return x0, data._replace(latents=jnp.asarray(latents, jnp.float32))


def grid():
    """Candidates (N, 8) over C10 and C12a, nm, and the lines of the grid."""
    line = np.arange(-REACH_NM, REACH_NM + 1, SPACING_NM)
    pairs = np.stack(np.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    return line, jnp.asarray(np.hstack([pairs, np.zeros((len(pairs), 6))]), jnp.float32)


@partial(jax.jit, static_argnames="map_")
def scores(candidates, data, map_):
    """Log likelihoods (N,) with the hyperparameters of the prior's mean."""
    return em.score_all(candidates, em.initial_parameters(map_, data), data, map_)


def posterior(map_, data):
    """Posterior and prior over the grid (n, n), and the range of the log likelihood."""
    line, candidates = grid()
    likelihood = np.asarray(scores(candidates, data, map_), float)
    prior = -0.5 * (np.asarray(candidates[:, :2]) ** 2).sum(1) / basins.PRIOR_SD_NM[1] ** 2
    both = []
    for log in (prior + likelihood, prior):
        weight = np.exp(log - log.max())
        both.append((weight / weight.sum()).reshape(len(line), -1))
    return *both, float(np.ptp(likelihood))


def of_process(model, processes, seed: int) -> dict:
    """What each process learns of x0 in nats, and its posterior deviations and errors, nm. The map
    is drawn from the symmetric process of the same coordinates."""
    line, found = grid()[0], {}
    for name, map_ in processes.items():
        x0, data = series(model, processes[f"{name.split(',')[0]}, symmetric"], seed)
        after, before, reach = posterior(map_, data)
        mean = [after.sum(1 - k) @ line for k in (0, 1)]
        found[name] = {
            "nats": float(np.sum(after * np.log(np.maximum(after, 1e-300) / before))),
            "sd_nm": [float(np.sqrt(after.sum(1 - k) @ (line - mean[k]) ** 2)) for k in (0, 1)],
            "error_nm": [float(mean[k] - x0[k]) for k in (0, 1)], "range": reach,
            "along_C10": after.sum(1).tolist()}
    found["prior"] = {"along_C10": before.sum(1).tolist()}
    return {"seed": seed, "x0_nm": x0.tolist(), **found}


# 2. The Fisher information of x0 and the map


def powers(symmetry: str) -> list[tuple[int, int]]:
    """Exponents (i, j) of the monomials v^i w^j of a class of maps.

    "none": all up to DEGREE, closed under every shift; "joint": those with f(-x) = f(x); "each":
    those that are even in v and in w.
    """
    pairs = [(i, j) for i in range(DEGREE + 1) for j in range(DEGREE + 1 - i)]
    kept = {"none": lambda i, j: True, "joint": lambda i, j: (i + j) % 2 == 0,
            "each": lambda i, j: i % 2 == j % 2 == 0}[symmetry]
    return [pair for pair in pairs if kept(*pair)]


def shares(symmetry: str, steps, x0, seed: int = 0, known: bool = False):
    """Rank and size of the Fisher information of (x0, coefficients), and for each part of x0 the
    share of its information that is left when all else is free, (2,).

    Args:
        steps: (T, 2); known: the map is known, x0 alone is not.
    """
    exponents = powers(symmetry)
    weights = np.random.default_rng(seed).standard_normal((len(exponents), LATENTS))
    v, w = (np.asarray(steps) + x0).T
    basis = np.stack([v**i * w**j for i, j in exponents], 1)
    by_v = np.stack([i * v ** max(i - 1, 0) * w**j for i, j in exponents], 1) @ weights
    by_w = np.stack([j * v**i * w ** max(j - 1, 0) for i, j in exponents], 1) @ weights
    moved = np.stack([by_v.ravel(), by_w.ravel()], 1)
    slopes = moved if known else np.hstack([moved, np.kron(basis, np.eye(LATENTS))])
    size = np.linalg.norm(slopes, axis=0)
    slopes = slopes / np.where(size > 0, size, 1.0)  # so that ranks compare like with like
    left = []
    for k in (0, 1):
        rest = np.delete(slopes, k, 1)
        away = slopes[:, k] - rest @ np.linalg.lstsq(rest, slopes[:, k], rcond=1e-10)[0]
        left.append(float(away @ away))
    return int(np.linalg.matrix_rank(slopes, tol=1e-8)), slopes.shape[1], left


def of_polynomials() -> list[dict]:
    """The cases of the table: class of maps, settings, and what is left of x0."""
    random = np.random.default_rng(5)
    plane = random.uniform(-1.5, 1.5, (SETTINGS, 2))
    line, x0 = plane * [1.0, 0.0], np.array([0.4, -0.3])
    cases = (("all polynomials", "plane", "none", plane, {}),
             ("f(-x) = f(x)", "plane", "joint", plane, {}),
             ("f(-x) = f(x)", "5 settings", "joint", plane[:5], {}),
             ("f(-x) = f(x)", "along v, w0 = -0.3", "joint", line, {}),
             ("f(-x) = f(x)", "along v, w0 = 0", "joint", line, {"x0": np.array([0.4, 0.0])}),
             ("even in v and in w", "along v, w0 = -0.3", "each", line, {}),
             ("known map", "1 setting", "none", plane[:1], {"known": True}))
    rows = []
    for name, where, symmetry, steps, options in cases:
        rank, size, left = shares(symmetry, steps, options.get("x0", x0),
                                  known=options.get("known", False))
        rows.append({"class": name, "settings": where, "rank": rank, "size": size, "left": left})
    return rows


# 3. The mirror image in the simulator


def of_simulator(size: int = 256, radius: float = 80.0) -> list[dict]:
    """1 - correlation of the windows' log spectra at x and -x, the film reflected at a point, its
    phase inverted or not; and of two films at x, for comparison."""
    state = np.zeros(25)
    state[[0, 1, 3, 5, 7]] = np.array([60.0, -45.0, 80.0, 60.0, 900.0])
    dtype = jnp.result_type(float)
    phases = jnp.asarray(state * edge_phases(simulated_optics()), dtype)
    ronchigram.check_sampling(phases, size, radius)
    disc, nodes = Disc(size // 2, size // 2, radius), ronchigram.quadrature(0.0, 0.0, 1, 1)

    @jax.jit
    def spectra(phases, phase):
        seen = ronchigram.ronchigram(phases, specimen.transmission(phase[None]), radius, nodes)
        return jnp.concatenate([jnp.log(tiles.power_spectra(seen, disc, layout)).ravel()
                                for layout in tiles.LAYOUTS])

    random, rows = np.random.default_rng(2), []
    noise = random.standard_normal((2, size, size))
    flat = jnp.zeros(len(specimen.KNOTS), dtype)
    films = [np.asarray(specimen.amorphous_phase(jnp.asarray(one[None], dtype), flat, radius)[0])
             for one in noise]
    for strength in STRENGTHS:
        one, two = (strength * film / film.std() for film in films)
        reflected = np.roll(one[::-1, ::-1], 1, (0, 1))
        here, *others = (np.asarray(spectra(p, jnp.asarray(film, dtype)), float) for p, film in (
            (phases, one), (-phases, -reflected), (-phases, reflected), (phases, two)))
        apart = [float(1 - np.corrcoef(here, other)[0, 1]) for other in others]
        rows.append({"strength": strength,
                     **dict(zip(("inverted", "mirror", "other_film"), apart, strict=True))})
    return rows


# 4. Two settings


def of_settings(draws: int) -> list[dict]:
    """Least log odds against the mirror image, by the distance of two settings of C10."""
    rows = []
    for distance in DISTANCES_NM:
        steps = np.zeros((2, len(SEVEN)))
        steps[1, 0] = distance
        told = jaxcal.identifiability(steps, SEVEN, simulated_optics(), draws=draws)
        rows.append({"distance_nm": distance, "log_odds": told.sign_log_odds,
                     "decided": told.sign_decided, "sd_nm": told.sd_nm.tolist()})
    return rows


def mirror_pictures(model):
    """Posteriors over the grid from the first and from the first two frames, and the state."""
    x0, data = series(model, model.map, 1, 2)
    first = data._replace(frame_noise=np.array([1.0, em.EXCLUDED], np.float32))
    return x0, [posterior(model.map, one)[0] for one in (first, data)]


# Table and figure


def picture(result, model, path) -> None:
    """Posteriors along C10 with the four processes; the mirror image with one frame and two."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    line, run = grid()[0], result["process"][0]
    x0, pictures = mirror_pictures(model)
    style = {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False,
             "axes.titlesize": 8.5, "axes.titlelocation": "left", "legend.frameon": False,
             "axes.edgecolor": figures.QUIET, "text.color": figures.INK}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(figures.WIDTH, 2.6), layout="constrained")
        FigureCanvasAgg(figure)
        left, *others = figure.subplots(1, 3, width_ratios=(1.35, 1, 1))
        names = [name for name in run if name not in ("seed", "x0_nm", "prior")]
        for k, name in enumerate(names):
            left.plot(line, run[name]["along_C10"], ("-", "-", ":", ":")[k], label=name,
                      color=figures.COLOURS[k], linewidth=1.3)
        left.plot(line, run["prior"]["along_C10"], "--", color=figures.QUIET, label="prior",
                  linewidth=0.9)
        left.axvline(run["x0_nm"][0], color=figures.INK, linewidth=0.6, linestyle="--")
        left.set(xlabel="C10 (nm)", ylabel="posterior", yticks=[],
                 title="The map unknown: a Gaussian process")
        left.legend(fontsize=6.5, loc="upper left")
        for axis, shown, title in zip(others, pictures, ("One frame", "Two frames"), strict=True):
            axis.imshow(np.sqrt(shown.T), origin="lower", cmap="Blues",
                        extent=(line[0], line[-1]) * 2, interpolation="nearest")
            axis.plot(*x0, "o", markersize=9, fillstyle="none", color=figures.COLOURS[1])
            axis.set(xlabel="C10 (nm)", xlim=(-200, 200), ylim=(-200, 200), title=title)
        others[0].set_ylabel("C12a (nm)")
        figure.savefig(path, dpi=150, metadata={"Software": None})


def summarise(result) -> dict:
    """Medians over the instruments, by process."""
    names = [name for name in result["process"][0] if name not in ("seed", "x0_nm", "prior")]
    return {name: {
        "nats": float(np.median([run[name]["nats"] for run in result["process"]])),
        "sd_nm": np.median([run[name]["sd_nm"] for run in result["process"]], 0).tolist(),
        "rms_error_nm": np.sqrt(np.mean(np.square(
            [run[name]["error_nm"] for run in result["process"]]), 0)).tolist(),
        "range": float(max(run[name]["range"] for run in result["process"]))} for name in names}


def as_claimed(result) -> dict[str, bool]:
    """The claims, and whether the numbers bear them out."""
    ranks = {(r["class"], r["settings"]): r["size"] - r["rank"] for r in result["polynomials"]}
    odds, runs = [row["log_odds"] for row in result["settings"]], result["process"]
    return {
        "without symmetry a stationary process learns nothing of x0, of no instrument":
            all(abs(run["stationary"]["nats"]) < 0.01 for run in runs),
        "with it, it does where the frames are on both sides of the centre":
            all(run["stationary, symmetric"]["nats"] > OPEN for run in runs
                if not one_sided(run["seed"])),
        "the published form learns more with symmetry than without, of every instrument":
            all(run["arcsinh, symmetric"]["nats"] > run["arcsinh"]["nats"] for run in runs),
        "a class of maps closed under shifts is singular": ranks["all polynomials", "plane"] > 0,
        "the symmetric class is regular": ranks["f(-x) = f(x)", "plane"] == 0,
        "the mirror image shows nearly the same spectra": all(
            row["inverted"] < row["mirror"] < row["other_film"] for row in result["simulator"]),
        "a second setting decides, the farther the better":
            odds == sorted(odds) and not result["settings"][0]["decided"]
            and result["settings"][-1]["decided"],
    }


def markdown(result) -> str:
    """Four tables for the documentation, each with what it was made of."""
    runs, process = result["process"], []
    for name, s in result["summary"].items():
        nats = [run[name]["nats"] for run in runs]
        process.append((
            name, f"{s['nats']:z.2f}", f"{min(nats):z.2f} to {max(nats):z.2f}",
            sum(one < OPEN for one in nats), f"{s['range']:.2g}",
            *(f"{sd:.0f} / {error:.0f}" for sd, error in zip(
                s["sd_nm"], s["rms_error_nm"], strict=True))))
    sided = [str(run["seed"]) for run in runs if one_sided(run["seed"])]
    fisher = [(row["class"], row["settings"], f"{row['rank']} of {row['size']}",
               *("none" if share < UNDETERMINED else f"{share:.2g}" for share in row["left"]))
              for row in result["polynomials"]]
    mirror = [(row["strength"], *(f"{row[name]:.1g}" for name in ("inverted", "mirror")),
               f"{row['other_film']:.2g}") for row in result["simulator"]]
    settings = [(f"{row['distance_nm']:g}", f"{row['log_odds']:.2g}",
                 "yes" if row["decided"] else "no") for row in result["settings"]]
    return "\n\n".join([
        f"{len(runs)} instruments, seeds {runs[0]['seed']} to {runs[-1]['seed']}, {FRAMES} frames "
        f"and one map drawn for each. All frames on one side: seeds {', '.join(sided) or 'none'}.",
        provenance.markdown((
            "Gaussian process as the map", "learnt of x0, median (nats)", "least to most",
            f"instruments below {OPEN:g} nat", "range of log likelihood, largest",
            "C10: median sd / rms error (nm)", "C12a: median sd / rms error (nm)"), process),
        f"One map of {LATENTS} latents with random coefficients, {SETTINGS} settings in the plane.",
        provenance.markdown(("class of maps", "settings", "rank of the Fisher information",
                             "left of v", "left of w"), fisher),
        "One state, two films.",
        provenance.markdown(("1 - correlation: film (rad rms)", "x, -x with the film inverted",
                             "x, -x with the same film", "x with two films"), mirror),
        f"Two frames, least of {result.get('draws', DRAWS)} draws of all that is unknown.",
        provenance.markdown(("C10 of the second frame (nm)", "log odds against the mirror image",
                             "decided"), settings), provenance.source(result)])


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instruments", type=int, default=20)
    parser.add_argument("--draws", type=int, default=DRAWS, help="of the state, for two settings")
    parser.add_argument("--quick", action="store_true", help="two instruments and one draw")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--document", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args(arguments)
    provenance.fill_in(options, json=RESULT, document=provenance.DOCUMENT, picture=PICTURE)
    if options.instruments < 1 or options.draws < 1:
        parser.error("--instruments and --draws should be at least 1")
    instruments, draws = (2, 1) if options.quick else (options.instruments, options.draws)
    model = models.load()
    processes = maps(model)
    result = {"benchmark": "identifiability", "provenance": provenance.provenance(),
              "process": [of_process(model, processes, seed) for seed in range(instruments)],
              "polynomials": of_polynomials(), "simulator": of_simulator(),
              "settings": of_settings(draws), "draws": draws}
    result["summary"] = summarise(result)
    if options.picture is not None:
        picture(result, model, options.picture)
    for run in result["process"][1:]:  # one is drawn, of the others the numbers are enough
        for name in (*processes, "prior"):
            del run[name]["along_C10"]
    provenance.publish(result, "identifiability", markdown(result), options.json, options.document)
    print(markdown(result))
    claims = as_claimed(result)
    print(*("NOT SO: " + claim for claim, so in claims.items() if not so), sep="\n")
    return 0 if all(claims.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
