"""Where the time goes: a core, and parts of its work by themselves, timed in turn.

Part of ``python -m benchmarks``; what stands in the way where an aim is missed. ``jaxcal`` is the
whole. Parts overlap with the rest where they are compiled together, so that they need not add up.

- `parts of simulate`, one frame: the intensity, the camera, its noise alone, the spectrum.
- `parts of gradient`: the misfit without its derivatives.
- `parts of e_step`: of the form with the candidates last, as many exponentials as its kernel takes,
  and as many inverse hyperbolic sines as its coordinates.
- `parts of stream`, one frame of the smallest grid: its film, which is drawn anew for each and
  could be shared; and a frame's share of a batch, all at once or one after the other.
- `parts of train`: the ELBO forwards, its gradient, and the optimiser's update.
- `parts of compilation`: a first estimate of 16 frames in a process of its own: what XLA takes for
  each program, and what lowering takes, in seconds of the threads, which overlap.
"""

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

import jaxcal
from benchmarks import candidates_last, e_step, estimate, gradient, simulate, timing, train
from benchmarks.baselines.interface import acquire_series
from jaxcal import (
    detector,
    devices,
    latent_map,
    ronchigram,
    simulation,
    spectra,
    stream,
    training,
)
from jaxcal import model as models
from jaxcal.microscopes import simulated

SIZE, RADIUS = 256, 72.0
FRAMES, CANDIDATES = 8, 65_536
SHOWN = 6  # programs that take longest to compile
EVENTS = {"/jax/core/compile/backend_compile_duration": "compiled",
          "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowered"}


def of_simulate():
    """Forms of one frame."""
    phases, film, spread = simulate.prepared("jaxcal", *simulate.problem(SIZE, RADIUS))
    side, key = simulate.exposed_side(SIZE, RADIUS), jax.random.key(0)
    disc = spectra.Disc(side // 2, side // 2, RADIUS)
    intensity = jax.jit(lambda phases, film, spread: ronchigram.ronchigram(
        phases, film, RADIUS, ronchigram.quadrature(spread, 0.0, simulate.NODES, 1), side=side))
    camera = jax.jit(lambda key, seen: detector.expose(key, seen, simulate.CAMERA))
    noise = jax.jit(lambda key: jax.random.normal(key, (2, side, side), timing.real()))
    spectrum = jax.jit(lambda frame: spectra.log_image(spectra.power_spectrum(frame, disc)))
    seen = intensity(phases, film, spread)
    return {"jaxcal": timing.Form(simulate.compiled(SIZE, RADIUS), (key, phases, film, spread)),
            "intensity": timing.Form(intensity, (phases, film, spread)),
            "camera": timing.Form(camera, (key, seen)), "its noise": timing.Form(noise, (key,)),
            "spectrum": timing.Form(spectrum, (camera(key, seen),))}


def of_gradient():
    """Forms of a gradient."""
    phases, film, spread = simulate.problem(SIZE, RADIUS)
    wanted = gradient.logarithm(phases + gradient.OFF, film, spread, RADIUS)
    given = *simulate.prepared("jaxcal", phases, film, spread), wanted.astype(timing.real())
    whole = gradient.compiled(SIZE, RADIUS)
    return {"jaxcal": timing.Form(whole, given),
            "misfit alone": timing.Form(jax.jit(lambda *a: whole(*a)[0]), given)}


def elementwise(function, operands: int):
    """``function`` of so many numbers for each of (N,) candidates, in blocks and threads as
    `candidates_last` has them."""
    places = np.arange(1.0, operands + 1.0, dtype=timing.real())[:, None] / operands

    @jax.jit
    def part(rows):
        blocks = rows.reshape(-1, candidates_last.BLOCK)
        return jax.lax.map(lambda row: function(places * row).sum(0), blocks)

    def form(parts):
        return devices.side_by_side(lambda rows: jax.block_until_ready(part(rows)), parts)

    return form


def of_e_step():
    """Forms of a Gaussian process over CANDIDATES, the candidates last."""
    map_ = models.load().flat_map
    signs, scale = (np.asarray(part, timing.real()) for part in (map_.signs, map_.scale))
    hyper = jax.tree.map(timing.real().type, latent_map.FLAT_PRIOR.mean)
    states, latents = e_step.problem(FRAMES, CANDIDATES)
    images = sum(len(np.unique(column)) for column in np.unique(signs, axis=1).T)
    rows = np.linspace(0.1, 1.0, CANDIDATES, dtype=timing.real())
    parts = jnp.array_split(rows, e_step.PARTS)
    return {"jaxcal": timing.Form(candidates_last.form(signs, scale),
                                  (jnp.array_split(states, e_step.PARTS), latents, hyper)),
            "exponentials": timing.Form(
                elementwise(jnp.exp, FRAMES * (FRAMES + 1) // 2 * images), (parts,)),
            "inverse hyperbolic sines": timing.Form(
                elementwise(jnp.arcsinh, FRAMES * states.shape[-1]), (parts,))}


def of_stream():
    """Forms of a frame of the training stream, its optics, instrument, state and film drawn."""
    bucket, key = stream.BUCKETS[0], jax.random.key(0)
    keys = jax.random.split(key, bucket.frames)
    instrument = simulation.draw_instrument(key, *stream.draw_optics(key))
    one = jax.jit(lambda key: stream.simulate(key, bucket))
    film = jax.jit(lambda key, instrument: simulation.film(
        key, instrument, bucket.grid, bucket.slices))
    share = 1 / bucket.frames
    return {"jaxcal": timing.Form(one, (key,)), "film": timing.Form(film, (key, instrument)),
            "by vmap of a batch": timing.Form(jax.jit(jax.vmap(one)), (keys,), share),
            "one after the other": timing.Form(
                jax.jit(lambda keys: jax.lax.map(one, keys)), (keys,), share)}


def of_train():
    """Forms of a training step."""
    graph, weights, optimiser, images = train.problem(training.round_size())
    key = jax.random.key(0)
    forward = jax.jit(lambda w, key, images: training.vae_loss(w, graph, key, images)[0])
    slope = jax.jit(jax.grad(lambda w, key, images: training.vae_loss(w, graph, key, images)[0]))
    update = jax.jit(lambda gradient, state, weights: training.vae_optimiser(train.CONFIG).update(
        gradient, state, weights))
    return {"jaxcal": timing.Form(
                jax.jit(lambda *a: training.vae_step(*a, graph, train.CONFIG)),
                (key, weights, optimiser, images)),
            "ELBO": timing.Form(forward, (weights, key, images)),
            "its gradient": timing.Form(slope, (weights, key, images)),
            "optimiser": timing.Form(update, (slope(weights, key, images), optimiser, weights))}


def compiled_by(function) -> dict:
    """What JAX compiles while ``function()`` runs: {"compiled" or "lowered": [(program, seconds)]}.
    """
    told = {"compiled": [], "lowered": []}

    def listen(event, seconds, fun_name="", **_):
        if event in EVENTS:
            told[EVENTS[event]].append((fun_name, seconds))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        function()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return told


def compilation() -> dict:
    """`compiled_by` a first estimate in this process."""
    bench = jaxcal.SimulatedMicroscope(seed=estimate.FIRST_SEED, hidden_range_nm=150.0)
    series = acquire_series(bench, simulated.random_steps(0, estimate.FRAMES))
    return compiled_by(lambda: jaxcal.estimate(series))


CORES = {"simulate": (of_simulate, lambda: 1, "spectra"),
         "gradient": (of_gradient, lambda: 1, "gradients"),
         "e_step": (of_e_step, lambda: CANDIDATES, "candidates"),
         "stream": (of_stream, lambda: 1, "frames"),
         "train": (of_train, training.round_size, "images")}
"""Forms, how many items of which unit a call does."""


def run(repetitions: int = timing.REPETITIONS, cores=tuple(CORES)) -> Iterator[dict]:
    """One entry a core, and one of the compilation."""
    for name in cores:
        forms, items, unit = CORES[name]
        yield timing.entry(f"parts of {name}", {}, timing.in_turn(forms(), repetitions), items(),
                           unit, None)
    if jax.config.jax_enable_x64:
        print("parts: an estimate is made in single precision, its row is left out",
              file=sys.stderr)
        return
    told = timing.apart("benchmarks.parts", environment=timing.UNCACHED)
    programs = Counter()
    for name, spent in told["compiled"]:
        programs[name] += spent
    seconds = {"jaxcal": programs.total(), **dict(programs.most_common(SHOWN)),
               "lowering": sum(spent for _, spent in told["lowered"])}
    once = {name: timing.Timing(0.0, (spent,), None) for name, spent in seconds.items()}
    yield timing.entry("parts of compilation", {"programs": len(programs)}, once, 1,
                       "estimates", None)


def main(arguments=None) -> int:
    """The compilation of a first estimate in this process, for `run`."""
    argparse.ArgumentParser(prog="python -m benchmarks.parts").parse_args(arguments)
    print(json.dumps(compilation()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
