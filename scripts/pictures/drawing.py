"""What all figures of the documentation share: colours, style, pictures, files."""

import io

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402
from PIL.PngImagePlugin import PngInfo  # noqa: E402

from jaxcal import aperture, spectra  # noqa: E402

INPUTS = "jaxcal inputs"  # key of the digest in a PNG
INK, QUIET = "#23272d", "#8b939c"
COLOURS = {"C10": "#2f5d8a", "C12a": "#c2622d", "C12b": "#5a7d3a"}
SPECTRUM = "magma"
STYLE = {
    "figure.facecolor": "white", "savefig.facecolor": "white", "font.size": 9,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": QUIET, "axes.linewidth": 0.7,
    "axes.titlesize": 9.5, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "xtick.color": QUIET, "ytick.color": QUIET,
    "xtick.labelcolor": INK, "ytick.labelcolor": INK, "legend.frameon": False,
}  # fmt: skip


def whole_plane(image):
    """Log image (128, 64) of f_x >= 0 -> (127, 127), f_x and f_y from -31.5 to 31.5."""
    half = np.asarray(image)[1:]
    return np.concatenate([half[::-1, :0:-1], half], axis=1)


def observe(frame, optics):
    """Disc and log image (128, 64) of a frame."""
    disc, _ = aperture.find_disc(frame, optics.radius_pixels)
    return disc, np.asarray(spectra.log_spectrum(frame, disc))


def disc_only(frame, disc):
    """The disc of a frame, square, grey values from 0 to 1 and NaN outside."""
    radius = int(np.ceil(disc.radius)) + 1
    row, column = int(round(float(disc.row))), int(round(float(disc.column)))
    y, x = np.mgrid[row - radius : row + radius + 1, column - radius : column + radius + 1]
    height, width = frame.shape
    cut = np.asarray(frame, float)[np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)]
    inside = np.hypot(y - disc.row, x - disc.column) < disc.radius
    low, high = np.percentile(cut[inside], (0.5, 99.5))
    return np.where(inside, np.clip((cut - low) / (high - low), 0, 1), np.nan)


def show(axes, image, cmap, limits=(None, None), extent=None):
    """A picture without ticks."""
    axes.imshow(image, cmap=cmap, vmin=limits[0], vmax=limits[1], extent=extent,
                interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def save(figure, path, dpi, colours=256):
    """Write a PNG of so many colours (None: all, at three times the size) and close the figure."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi)
    plt.close(figure)
    image = Image.open(drawn).convert("RGB")
    if colours is not None:  # the median cut would lose rare colours
        image = image.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def stamp(path, inputs: str):
    """Write into a PNG what it was made from."""
    told = PngInfo()
    told.add_text(INPUTS, inputs)
    image = Image.open(path)
    image.load()
    image.save(path, optimize=True, pnginfo=told)


def stamped(path) -> str | None:
    """What a PNG says it was made from; None where it is not there or does not say."""
    if not path.is_file():
        return None
    with Image.open(path) as image:
        return image.info.get(INPUTS)


def contrast(image):
    """Colour limits of a log image that show the rings over the speckle."""
    seen = np.asarray(image)[spectra.MASK]
    return tuple(np.percentile(seen, (8, 99.7)))
