"""The Gaussian process of an E-step alone: log likelihoods of candidates, beside other libraries.

The work of a candidate: the symmetrised kernel between its frames' states, one Cholesky factor, the
log likelihood of every latent; no map network, no nuisances, which `scoring` has. ``jaxcal`` is
:func:`jaxcal.latent_map.log_likelihood` in the form without a simulated mean, in blocks as EM
scores them; ``tinygp_vmap`` its process and `log_probability`, vmapped over all candidates at once;
``numpy_loop`` the same algebra in NumPy, in float64 and one candidate a call; ``numpy_batch`` a
block a call in a thread for each core, in jaxcal's precision, as LAPACK takes such small matrices
one after the other on one (its triangular systems go through the general solver: NumPy has no
other); ``torch`` and ``gpytorch`` blocks in jaxcal's precision, on all cores, or all candidates at
once on the accelerator that JAX runs on. Blocks are of BLOCK candidates. ``scikit-learn`` has no
kernel with a symmetry and evaluates the plain one, a candidate at a time. ``candidates last`` is
what was tried beside, see `candidates_last`, with its own deviation and share of the limit. The
others get fewer candidates than jaxcal, tinygp and this; the rates are per candidate. The deviation
is the largest difference of a log likelihood from that of ``numpy_loop``, over their spread.

An entry more is one frame after `APPENDED`: ``jaxcal`` and ``candidates last`` score all frames
afresh, ``one row`` adds the frame's row to each factor that is there.
"""

from collections.abc import Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import tinygp

from benchmarks import candidates_last, pytorch, roofline, scoring, timing
from jaxcal import devices, em, latent_map
from jaxcal import model as models

LATENTS = 8
BLOCK = 512  # candidates at a time, by the other libraries
APPENDED = 16  # frames there are before one more
PARTS = 1 << devices.cores().bit_length() - 1  # threads of what XLA leaves to one; a power of 2
FEWER = {"numpy_batch": devices.cores() * BLOCK, "torch": BLOCK, "gpytorch": BLOCK,
         "numpy_loop": 1024, "scikit-learn": 64}  # candidates


def problem(frames: int, candidates: int):
    """The candidates' states (N, T, P), and latents (T, D)."""
    data, positions = scoring.problem(frames, candidates)
    parameters = em.Parameters(latent_map.FLAT_PRIOR.mean, jnp.zeros_like(data.actuator_sd))
    states = jax.vmap(lambda p: em.states(p, parameters, data))(positions)
    latents = np.random.default_rng(1).standard_normal((frames, LATENTS)).astype(timing.real())
    return states, jnp.asarray(latents)


def jaxcal_form(signs, scale):
    """Candidates' states (N, T, P), latents (T, D), log parameters -> log likelihoods (N,)."""
    predict = latent_map.flat_prediction(jnp.zeros(LATENTS), jnp.eye(LATENTS), 0)

    @jax.jit
    def score(states, latents, hyper):
        noise = jnp.ones(len(latents))
        return jax.lax.map(
            lambda x: latent_map.log_likelihood(hyper, predict, x, latents, signs, scale, noise),
            states, batch_size=em.block_of(len(latents)))

    return score


def tinygp_form(signs, scale):
    """The same by tinygp's own `log_probability`."""
    @jax.jit
    def score(states, latents, hyper):
        def one(x):
            process = tinygp.GaussianProcess(
                latent_map.gap_kernel(hyper, signs), latent_map.kernel_coordinates(x, scale),
                diag=jnp.exp(2 * hyper.log_noise))
            return jax.vmap(process.log_probability, in_axes=1)(latents).sum()
        return jax.vmap(one)(states)

    return score


def numpy_form(where, latents, hyper, signs):
    """The same in NumPy, of kernel coordinates (N, T, P)."""
    amplitude, length, noise = np.exp(np.asarray(hyper, where.dtype))
    images = where[:, None, :, None] * signs
    distance = ((where[:, :, None, None] - images) ** 2).sum(-1)
    kernel = amplitude**2 * np.exp(-0.5 * distance / length**2).mean(-1)
    kernel += noise**2 * np.eye(len(latents), dtype=where.dtype)
    factor = np.linalg.cholesky(kernel)
    white = np.linalg.solve(factor, np.broadcast_to(latents, (len(where), *latents.shape)))
    log_det = np.log(np.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    return -0.5 * (white**2).sum((1, 2)) - LATENTS * (
        log_det + 0.5 * len(latents) * np.log(2 * np.pi))


def in_threads(score):
    """The same of blocks, in a thread for each core."""
    def form(where, latents):
        blocks = np.split(where, range(BLOCK, len(where), BLOCK))
        return np.concatenate(devices.side_by_side(lambda part: score(part, latents), blocks))

    return form


def torch_form(hyper, signs):
    """The same in PyTorch, of tensors."""
    torch, device = pytorch.ready()
    amplitude, length, noise = (float(np.exp(h)) for h in hyper)
    signs = torch.tensor(np.asarray(signs, timing.real()), device=device)

    def score(where, latents):
        images = where[:, None, :, None] * signs
        distance = ((where[:, :, None, None] - images) ** 2).sum(-1)
        kernel = amplitude**2 * torch.exp(-0.5 * distance / length**2).mean(-1)
        kernel = kernel + noise**2 * torch.eye(len(latents), device=device)
        factor = torch.linalg.cholesky(kernel)
        white = torch.linalg.solve_triangular(factor, latents[None], upper=False)
        log_det = torch.log(torch.diagonal(factor, dim1=-2, dim2=-1)).sum(-1)
        return pytorch.done(-0.5 * (white**2).sum((1, 2)) - LATENTS * (
            log_det + 0.5 * len(latents) * np.log(2 * np.pi)))[0]

    return score


def gpytorch_form(hyper, signs):
    """The same by GPyTorch's kernel and multivariate normal, of tensors."""
    import gpytorch

    torch, device = pytorch.ready()
    amplitude, length, noise = (float(np.exp(h)) for h in hyper)
    kernel = gpytorch.kernels.RBFKernel().to(device)
    kernel.lengthscale = length
    signs = torch.tensor(np.asarray(signs, timing.real()), device=device)

    def score(where, latents):
        with torch.no_grad():
            dense = sum(kernel(where, sign * where).to_dense() for sign in signs) / len(signs)
            dense = amplitude**2 * dense + noise**2 * torch.eye(len(latents), device=device)
            zero = torch.zeros(len(where), 1, len(latents), device=device)
            normal = gpytorch.distributions.MultivariateNormal(zero, dense[:, None])
            return pytorch.done(normal.log_prob(latents.T[None]).sum(-1))[0]

    return score


def sklearn_form(hyper):
    """The log likelihood of the plain kernel by scikit-learn."""
    from sklearn.gaussian_process import GaussianProcessRegressor, kernels

    amplitude, length, noise = (float(np.exp(h)) for h in hyper)
    kernel = kernels.ConstantKernel(amplitude**2) * kernels.RBF(length)
    process = GaussianProcessRegressor(kernel, alpha=noise**2, optimizer=None)

    def score(where, latents):
        return [process.fit(x, latents).log_marginal_likelihood_value_ for x in where]

    return score


def run(repetitions: int = timing.REPETITIONS, frames=(8, 16, 32),
        candidates: int = 65_536) -> Iterator[dict]:
    """One entry a number of frames."""
    map_ = models.load().flat_map
    signs, scale = (np.asarray(part, timing.real()) for part in (map_.signs, map_.scale))
    hyper = jax.tree.map(timing.real().type, latent_map.FLAT_PRIOR.mean)
    for count in frames:
        states, latents = problem(count, candidates)
        where = np.asarray(latent_map.kernel_coordinates(states, scale))
        own, data = jaxcal_form(signs, scale), np.asarray(latents)
        double = where.astype(float)
        tried = candidates_last.form(signs, scale)
        parts = jnp.array_split(states, PARTS)
        forms = {"jaxcal": timing.Form(own, (states, latents, hyper)),
                 "tinygp_vmap": timing.Form(tinygp_form(signs, scale), (states, latents, hyper)),
                 "candidates last": timing.Form(tried, (parts, latents, hyper))}
        in_numpy = partial(numpy_form, hyper=hyper, signs=signs)
        others = {"numpy_batch": (where, in_threads(in_numpy)),
                  "numpy_loop": (double, lambda x, y, score=in_numpy: np.concatenate(
                      [score(one[None], y) for one in x]))}
        if pytorch.installed("e_step"):
            others["torch"] = where, torch_form(hyper, signs)
        if pytorch.installed("e_step", "gpytorch"):
            others["gpytorch"] = where, gpytorch_form(hyper, signs)
        if pytorch.installed("e_step", "sklearn"):
            others["scikit-learn"] = double, sklearn_form(hyper)
        for name, (points, form) in others.items():
            part, other = points[: FEWER[name]], data
            if name in ("torch", "gpytorch"):
                whole = jax.default_backend() != "cpu"  # an accelerator takes all at once
                part, other = pytorch.tensors(points if whole else part, data)
            forms[name] = timing.Form(form, (part, other), len(where) / len(part))
        timings = timing.in_turn(forms, repetitions)
        theirs = timings["numpy_loop"].value
        off = {name: np.abs(np.ravel(timings[name].value)[: len(theirs)] - theirs).max()
               / theirs.std() for name in ("jaxcal", "candidates last")}
        share = {name: roofline.share(  # of a block: XLA counts the body of the loop over them once
                     function, (states[:block], latents, hyper),
                     timings[name].median * block / candidates)
                 for name, function, block in (
                     ("jaxcal", own, em.block_of(count)),
                     ("candidates last", tried.args[0], candidates_last.BLOCK))}
        yield timing.entry(
            "e_step", {"frames": count, "candidates": candidates, "latents": LATENTS},
            timings, candidates, "candidates", off.pop("jaxcal"), share["jaxcal"],
            others={name: {"deviation": float(value), "share": share[name],
                           "compile_seconds": timings[name].compile}
                    for name, value in off.items()})
    yield one_more(repetitions, candidates, signs, scale, hyper)


def one_more(repetitions, candidates, signs, scale, hyper):
    """The entry of a frame after `APPENDED`: all afresh, or one row more."""
    states, latents = problem(APPENDED + 1, candidates)
    parts = jnp.array_split(states, PARTS)
    own, fresh = jaxcal_form(signs, scale), candidates_last.form(signs, scale)
    row = candidates_last.append_form(signs, scale)
    before = candidates_last.factors(signs, scale)
    known = [(jax.block_until_ready(before(part[:, :-1], latents[:-1], hyper)), part[:, -1])
             for part in parts]
    timings = timing.in_turn({
        "jaxcal": timing.Form(own, (states, latents, hyper)),
        "candidates last": timing.Form(fresh, (parts, latents, hyper)),
        "one row": timing.Form(row, (known, latents[-1], hyper))}, repetitions)
    added = np.concatenate([np.ravel(part[-1]) for part in timings["one row"].value])
    there = np.concatenate([np.ravel(jax.vmap(candidates_last.log_likelihood)(factor))
                            for factor, _ in known])
    whole = np.asarray(timings["jaxcal"].value)
    off = np.abs(there + added - whole).max() / whole.std()
    return timing.entry("one_frame_more", {"frames": APPENDED + 1, "candidates": candidates,
                                           "latents": LATENTS},
                        timings, candidates, "candidates", None,
                        others={"one row": {"deviation": float(off)}})
