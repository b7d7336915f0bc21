"""A training step of the VAE, and encoding: jaxcal beside the same network in PyTorch.

A step is what :func:`jaxcal.training.vae_step` does with a round of the stream: draw the latents,
ELBO, gradient, clipping, AdamW. ``torch`` is the same network from the same weights, eager, on the
same device, with as many threads as the machine has cores; without PyTorch its row is left out. The
deviation is that of the mean ELBO of the same images and draws, relative (of `encode`: of the
latents' means, largest, over their spread).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import pytorch, roofline, timing
from jaxcal import spectra, training, vae

CONFIG = training.Config()


def problem(count: int):
    """Graph, weights and optimiser's state of an untrained VAE, and log spectra (count, H, W)."""
    graph, weights = nnx.split(vae.Vae(CONFIG.architecture, rngs=nnx.Rngs(0)))
    rows = np.random.default_rng(0).exponential(size=(count, spectra.ROWS, spectra.COLUMNS))
    images = jnp.asarray(np.log(rows + 1e-3), timing.real())
    weights = jax.tree.map(lambda leaf: leaf.astype(timing.real()), weights)
    return graph, weights, training.vae_optimiser(CONFIG).init(weights), images


class Torch:
    """The network and its training step in PyTorch."""

    def __init__(self, weights):
        torch, self.device = pytorch.ready()
        if self.device.type == "cuda":  # as exact as JAX's own default is there
            torch.set_float32_matmul_precision("high")
        self.torch, self.shape = torch, CONFIG.architecture
        self.layers = {
            (half, name): {part: torch.tensor(np.array(value), requires_grad=True,
                                              device=self.device) for part, value in layer.items()}
            for half, layers in nnx.to_pure_dict(weights).items() for name, layer in layers.items()}
        self.weight = self.tensor(np.asarray(training.WEIGHT, timing.real()))
        every = [value for layer in self.layers.values() for value in layer.values()]
        self.parameters = every
        self.optimiser = torch.optim.AdamW(every, lr=1e-3, weight_decay=1e-4)

    def tensor(self, array):
        return self.torch.tensor(np.array(array), device=self.device)

    def dense(self, half: str, name: str, x):
        layer = self.layers[half, name]
        return x @ layer["kernel"] + layer["bias"]

    def gelu(self, x):
        return self.torch.nn.functional.gelu(x, approximate="tanh")

    def encode(self, image):
        """Images (B, H, W) -> means and log variances (B, latents)."""
        s, (down, across) = self.shape, self.shape.patches
        x = image.clip(vae.FLOOR, vae.CEILING) / 2
        x = x.reshape(-1, down, s.patch, across, s.patch).swapaxes(2, 3)
        x = self.gelu(self.dense("encoder", "embed", x.reshape(-1, down * across, s.patch**2)))
        x = self.gelu(self.dense("encoder", "mix", x.reshape(len(x), -1)))
        x = x + self.gelu(self.dense("encoder", "deep", x))
        mean, log_variance = self.dense("encoder", "out", x).chunk(2, -1)
        return mean, log_variance.clip(-12, 4)

    def decode(self, latents):
        s, (down, across) = self.shape, self.shape.patches
        x = self.gelu(self.dense("decoder", "enter", latents))
        x = x + self.gelu(self.dense("decoder", "deep", x))
        x = self.gelu(self.dense("decoder", "mix", x)).reshape(-1, down * across, s.features)
        x = self.dense("decoder", "out", x).reshape(-1, down, across, s.patch, s.patch)
        return x.swapaxes(2, 3).reshape(-1, s.rows, s.columns)

    def elbo(self, image, noise):
        """Mean ELBO, nats."""
        mean, log_variance = self.encode(image)
        expected = self.decode(mean + (0.5 * log_variance).exp() * noise)
        loss = (self.weight * (expected + (image - expected).exp())).sum((-2, -1))
        divergence = 0.5 * (log_variance.exp() + mean**2 - 1 - log_variance).sum(-1)
        return (-loss - divergence).mean()

    def step(self, image):
        """One step; the ELBO before it."""
        self.optimiser.zero_grad()
        noise = self.torch.randn(len(image), self.shape.latents, device=self.device)
        value = self.elbo(image, noise)
        (-value / 100).backward()
        self.torch.nn.utils.clip_grad_norm_(self.parameters, 0.2)
        self.optimiser.step()
        return value.item()

    def means(self, image):
        with self.torch.no_grad():
            return pytorch.done(self.encode(image)[0])[0]


def run(repetitions: int = timing.REPETITIONS, count: int | None = None) -> list[dict]:
    """Entries of a step and of encoding; ``count``: images, those of a round where None."""
    count = count or training.round_size()
    graph, weights, optimiser, images = problem(count)
    key = jax.random.key(0)
    step = jax.jit(lambda *a: training.vae_step(*a, graph, CONFIG))
    encode = jax.jit(lambda *a: training.encode(*a, graph))
    work = {"train": (step, (key, weights, optimiser, images)),
            "encode": (encode, (weights, images))}
    forms = {name: {"jaxcal": timing.Form(*part)} for name, part in work.items()}
    deviations = {"train": None, "encode": None}
    if pytorch.installed("train"):
        other = Torch(weights)
        noise = vae.draws(key, nnx.merge(graph, weights), images)
        there, ours = other.tensor(images), work["encode"][0](weights, images)
        mean = float(training.vae_loss(weights, graph, key, images)[1].value)
        off = np.abs(np.asarray(ours) - other.means(there).cpu().numpy()).max()
        theirs = other.elbo(there, other.tensor(noise)).item()
        deviations = {"train": abs(mean / theirs - 1), "encode": off / np.std(ours)}
        forms["encode"]["torch"] = timing.Form(other.means, (there,))
        forms["train"]["torch"] = timing.Form(other.step, (there,))
    timings = {name: timing.in_turn(part, repetitions) for name, part in forms.items()}
    case = {"images": count, "latents": CONFIG.architecture.latents}
    return [timing.entry(name, case, timings[name], count, "images", deviations[name],
                         roofline.share(f, arguments, timings[name]["jaxcal"].median))
            for name, (f, arguments) in work.items()]
