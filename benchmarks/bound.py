"""Does the theory know how much a frame tells? Its Fisher information against the simulator's.

    python -m benchmarks.bound [--cases 12] [--draws 64]

Instruments and states are drawn at random. For each, the standard deviations that one frame's
spectra leave of C10 ... C23b are computed twice: from the wave-optical simulator, debiased
(`jaxcal.fisher`), and from the theory that the refinement uses (`jaxcal.hologram`). C30, focal
spread, film and noise are unknown in both, with the same priors. The coverage benchmark's bound is
the theory's, so that this tells how far it can be taken for the truth. Writes
``benchmarks/results/bound.json`` and the table in ``docs/results.md``.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import provenance
from jaxcal import aberrations, fisher, hologram, ronchigram, simulation, specimen, tiles, unknowns
from jaxcal.microscopes.simulated import SEVEN, simulated_optics
from jaxcal.optics import edge_phases
from jaxcal.simulation import Grid

RESULT = provenance.RESULTS / "bound.json"
FREE = (*SEVEN, "C30")
GRID = Grid(320, 110.0)
SPREAD_SD, FILM_SD, NOISE_SD = 0.5, 0.5, 0.3  # of focal spread (relative), log amplitude, log noise


def case(seed: int):
    """An instrument with a thin film and a state (25,), rad, that the grid samples."""
    optics = simulated_optics()
    per_nm = edge_phases(optics)
    for attempt in range(100):
        key = jax.random.fold_in(jax.random.key(seed), attempt)
        made = simulation.draw_instrument(key, per_nm, 1 / optics.length_unit_nm)
        made = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32),
                            made._replace(tail=0.0, thickness=1e-3))
        normal = np.random.default_rng([seed, attempt]).standard_normal(len(FREE))
        state = np.zeros(25)
        state[aberrations.indices(FREE)] = normal * unknowns.state_sd_nm(FREE) * 0.6
        if ronchigram.required_radius(state * per_nm) <= GRID.radius:
            return made, jnp.asarray(state * per_nm, jnp.float32)
    raise ValueError("no state in a hundred that the grid samples: give a finer grid")


def by_simulator(seed, made, phases, draws):
    """Standard deviations (7,), rad."""
    found = np.asarray(fisher.of_frame(jax.random.key(seed), made, phases,
                                       aberrations.places(FREE), GRID, draws=draws), float)
    spread = 1 / (SPREAD_SD * float(made.focal_spread)) ** 2
    knots = len(made.log_amplitude)
    return _deviations(found, [spread, *[1 / FILM_SD**2] * knots, 1 / NOISE_SD**2])


def by_theory(made, phases):
    """The same from the theory."""
    places = aberrations.places(FREE)
    film = 2 * np.interp(hologram.KNOTS, specimen.KNOTS, np.asarray(made.log_amplitude))
    physics = hologram.Physics(*(jnp.asarray(value, jnp.float32) for value in (
        film, [jnp.log(jnp.pi / made.electrons), 0.0, 0.0], jnp.log(made.focal_spread),
        jnp.log(made.thickness), jnp.log(made.blur), np.log(1e-3))))
    state, total = phases[np.asarray(places)], 0.0
    for layout in tiles.LAYOUTS:
        for centre, width in zip(*(np.float32(m) for m in layout.moments), strict=True):
            slopes = np.asarray(_slopes(state, physics, centre, width, places, layout), float)
            total = total + layout.weight * slopes.T @ slopes
    first, knots = len(places), len(film)
    kept = [*range(first), first + knots + 3, *range(first, first + knots + 1)]
    priors = [1 / SPREAD_SD**2, *[1 / (2 * FILM_SD) ** 2] * knots, 1 / NOISE_SD**2]
    return _deviations(total[np.ix_(kept, kept)], priors)


@partial(jax.jit, static_argnames=("places", "layout"))
def _slopes(state, physics, centre, width, places, layout):
    points = hologram.lay_out(state, places, physics, centre, width, layout)
    return hologram.log_spectrum_and_slopes(state, physics, points, layout)[1]


def _deviations(information, priors):
    """Of the seven, with the prior of the state and of the nuisances."""
    per_nm = edge_phases(simulated_optics())[aberrations.indices(FREE)]
    state = 1 / (unknowns.state_sd_nm(FREE) * per_nm) ** 2
    covariance = np.linalg.inv(information + np.diag([*state, *priors]))
    return np.sqrt(np.diag(covariance))[:7]


def markdown(result) -> str:
    """Table for the documentation."""
    simulator, theory = (np.array([row[name] for row in result["cases"]])
                         for name in ("simulator_nm", "theory_nm"))
    ratio = theory / simulator
    rows = [(name, f"{np.median(s):.2g}", f"{np.median(t):.2g}",
             f"{np.median(r):.2f} ({r.min():.2f} ... {r.max():.2f})")
            for name, s, t, r in zip(SEVEN, simulator.T, theory.T, ratio.T, strict=True)]
    head = ("one frame", "simulator, median (nm)", "theory, median (nm)",
            "theory/simulator: median (range)")
    sampled = provenance.sampled("instruments and states", [row["seed"] for row in result["cases"]],
                                 f"one frame and {result['settings']['draws']} films each")
    return f"{provenance.markdown(head, rows)}\n\n{sampled} {provenance.source(result)}"


def main(arguments=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--draws", type=int, default=64, help="of films, even")
    parser.add_argument("--json", type=Path, default=RESULT)
    parser.add_argument("--document", type=Path, default=provenance.DOCUMENT)
    options = parser.parse_args(arguments)
    if options.cases < 2 or options.draws < 4 or options.draws % 2:
        parser.error("--cases should be at least 2, --draws even and at least 4")
    per_nm = edge_phases(simulated_optics())[:7]
    rows = []
    for seed in range(options.cases):
        start = time.perf_counter()
        made, phases = case(seed)
        rows.append({
            "seed": seed,
            "state_nm": (np.asarray(phases)[aberrations.indices(FREE)]
                         / edge_phases(simulated_optics())[aberrations.indices(FREE)]).tolist(),
            "simulator_nm": (by_simulator(seed, made, phases, options.draws) / per_nm).tolist(),
            "theory_nm": (by_theory(made, phases) / per_nm).tolist()})
        print(f"{seed + 1} of {options.cases}: {time.perf_counter() - start:.0f} s",
              file=sys.stderr, flush=True)
    result = {"benchmark": "bound", "settings": {"draws": options.draws},
              "provenance": provenance.provenance(), "cases": rows}
    provenance.write(options.json, result)
    provenance.put("bound", markdown(result), options.document)
    print(markdown(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
