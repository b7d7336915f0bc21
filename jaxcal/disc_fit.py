"""Finds a bright disc in an image and fits its edge to a few hundredths of a pixel.

A coarse match with an annulus finds the disc anywhere in the frame; then a circle is fitted to its
edge. In small steps of azimuth the counts near the edge are taken as
``outside + step * fall((r - r_edge) / width)``, linear in the levels and, for a small error, in the
edge's place; the places are fitted by a circle with a slight ellipse, azimuths that do not agree
(hot pixels, a shadow, the frame's border) losing their weight. Speckle inside the disc cancels,
because each azimuth has its own levels.

NumPy on the host: frames come in any size and type, and large ones are binned by an integer first.
"""

import functools
from typing import NamedTuple

import numpy as np

from jaxcal.spectra import Disc, binned

_COARSE, _MIDDLE, _FINE = 14, 40, 200  # radii, in binned pixels, of search and two fits
_SECTORS = 24  # in which the edge must be seen
_ELLIPSE = 0.015  # largest relative ellipticity; more would follow a shadow's edge
SOUND = 0.8  # fraction of them that makes a disc
SIGNIFICANT = 8.0  # least step at the edge, in units of its error


def _unbinned(disc, factor):
    return Disc(*(factor * place + 0.5 * (factor - 1) for place in disc[:2]), factor * disc.radius)


def median3(image):
    """3 x 3 median of an image, to clear it of hot pixels."""
    padded = np.pad(image, 1, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, (3, 3)), axis=(2, 3))


@functools.lru_cache(maxsize=64)
def _template(shape, radius):
    """Spectrum of an annulus of sum 1 (0.7 to 1 radius) minus another (1 to 1.3), cyclic.

    Centred on pixel (0, 0), hence real: a product with it is a correlation.
    """
    y, x = (np.minimum(np.arange(side), side - np.arange(side)) for side in shape)
    distance = np.hypot(y[:, None], x[None, :]) / radius
    inner = (distance > 0.7) & (distance <= 1.0)
    outer = (distance > 1.0) & (distance <= 1.3)
    return np.fft.rfft2(inner / inner.sum() - outer / max(outer.sum(), 1)).real


def search(frame, nominal_radius, radii):
    """Disc whose annuli on both sides of the edge differ most in counts.

    Args:
        frame: (H, W) counts.
        nominal_radius: pixels; sets the binning and the share of the frame that is bright.
        radii: (K,) to be tried, pixels.

    Returns:
        Disc, pixels, to about 1/20 of its radius.
    """
    factor = max(1, min(int(nominal_radius / _COARSE), min(frame.shape) // 8))
    image = median3(binned(frame, factor))
    # Clipped between the typical levels outside and inside: specks and streaks count no more.
    share = min(np.pi * nominal_radius**2 / frame.size, 0.8)
    low, high = np.quantile(image, [(1 - share) / 2, 1 - share / 4])
    image = np.clip(image, low, max(high, low + 1e-30)) - low
    reach = int(2.6 * max(radii) / factor)
    shape = tuple(_smooth_size(side + reach) for side in image.shape)
    spectrum = np.fft.rfft2(image, shape)
    best = (-np.inf, 0, None)
    for radius in radii / factor:
        score = np.fft.irfft2(spectrum * _template(shape, float(radius)), shape)
        score = score[: image.shape[0], : image.shape[1]]  # the centre lies in the frame
        place = int(np.argmax(score))
        best = max(best, (score.flat[place], place, radius), key=lambda entry: entry[0])
    row, column = divmod(best[1], image.shape[1])
    return _unbinned(Disc(float(column), float(row), float(best[2])), factor)


def _smooth_size(size):
    """Smallest even number of at least ``size`` without prime factors above 5."""
    size += size % 2
    while True:
        rest = size
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return size
        size += 2


# The edge


class Edge(NamedTuple):
    """A fitted edge.

    disc: half-level circle, pixels; ellipse: amplitudes of cos 2 phi and sin 2 phi over the radius;
    scatter: rms of the azimuths' places about the fit, radii; coverage: fraction of wide sectors at
    which the counts fall; significance: the fall over its error.
    """

    disc: Disc
    ellipse: tuple[float, float]
    scatter: float
    coverage: float
    significance: float

    @property
    def sound(self):
        return self.coverage >= SOUND and self.significance > SIGNIFICANT


def locate(frame, disc):
    """Fit the edge around a rough disc (1/10 of the radius), first coarsely, then finely.

    Args:
        frame: (H, W) counts.
        disc: Disc, pixels.

    Returns:
        `Edge`; with coverage 0 and a disc of NaN where there is nothing to fit.
    """
    shape = np.zeros(5)  # column, row, radius, ellipse's cosine and sine, in pixels
    width = None
    for resolution, reaches in ((_MIDDLE, (0.13, 0.08, 0.05)), (_FINE, (0.04, 0.03))):
        factor = max(1, min(int(disc.radius / resolution), min(frame.shape) // 8))
        image = binned(frame, factor)
        radius = disc.radius / factor
        shape[:3] = [(place - 0.5 * (factor - 1)) / factor for place in disc[:2]] + [radius]
        shape[3:] = 0.0
        for reach in reaches:
            window = max(reach * radius, 4.0 if width is None else 4.0 * width)
            shape, scatter, width = _fit(image, shape, window)
            shape[3:] = np.clip(shape[3:], -_ELLIPSE * radius, _ELLIPSE * radius)
            if not np.isfinite(shape).all() or not 0.5 < shape[2] / radius < 2:
                return Edge(Disc(np.nan, np.nan, np.nan), (np.nan, np.nan), np.inf, 0.0, 0.0)
        disc = _unbinned(Disc(*shape[:3].tolist()), factor)
        width = None
    coverage, significance = _coverage(image, shape)
    ellipse = tuple((shape[3:] / shape[2]).tolist())
    return Edge(disc, ellipse, scatter / shape[2], coverage, significance)


def _annulus(image, shape, window):
    """Counts, distance from the edge and azimuth of the pixels within ``window`` of the edge."""
    column, row, radius, cos2, sin2 = shape
    x = np.arange(image.shape[1], dtype=np.float32) - np.float32(column)
    y = np.arange(image.shape[0], dtype=np.float32) - np.float32(row)
    square = y[:, None] ** 2 + x[None, :] ** 2
    inner = max(radius - window, 0.0)
    chosen = np.flatnonzero((square > inner**2) & (square < (radius + window) ** 2))
    rows, columns = np.divmod(chosen, image.shape[1])
    x, y = columns - column, rows - row
    azimuth = np.arctan2(y, x)
    edge = radius + cos2 * np.cos(2 * azimuth) + sin2 * np.sin(2 * azimuth)
    return image.ravel()[chosen].astype(float), np.hypot(x, y) - edge, azimuth


def _fit(image, shape, window):
    """One Gauss-Newton step of the edge: new shape, rms of the edge's places, width of the edge."""
    counts, distance, azimuth = _annulus(image, shape, window)
    sectors = int(np.clip(2 * np.pi * shape[2] / 5, 24, 480))
    sector = np.minimum(((azimuth / (2 * np.pi) + 0.5) * sectors).astype(int), sectors - 1)
    width = window / 3.5

    def total(values):
        return np.bincount(sector, values, sectors)

    for _ in range(2):
        fall = 1 / (1 + np.exp(np.clip(1.702 / width * distance, -30, 30)))
        slope = 1.702 / width * fall * (1 - fall)
        # Least squares of counts = level + step * fall + moved * slope in each sector.
        terms = (np.ones_like(fall), fall, slope)
        matrix = np.empty((sectors, 3, 3))
        for i in range(3):
            for j in range(i, 3):
                matrix[:, i, j] = matrix[:, j, i] = total(terms[i] * terms[j])
        right = np.stack([total(term * counts) for term in terms], -1)
        full = (total(distance < -0.4 * window) > 2) & (total(distance > 0.4 * window) > 2)
        regular = matrix + 1e-6 * np.eye(3) * np.trace(matrix, axis1=1, axis2=2)[:, None, None]
        regular[~full] = np.eye(3)
        inverse = np.linalg.inv(regular)
        level, step, moved = np.einsum("kij,kj->ik", inverse, right)
        typical = np.median(step[full]) if full.any() else np.nan
        if not typical > 0:
            return np.full(5, np.nan), np.inf, width
        seen = full & (step > 0.2 * typical)
        narrower = _measured_width(counts, distance, sector, level, step, seen, width, window)
        if narrower > 0.8 * width:
            break
        width = narrower
    place = np.clip(moved / np.maximum(step, 0.2 * typical), -window, window)
    spread = 1 / np.maximum(inverse[:, 2, 2], 1e-30)
    weight = seen * spread * step**2 / (step**2 + typical**2)
    angle = (np.arange(sectors) + 0.5) * (2 * np.pi / sectors) - np.pi
    design = np.stack([np.cos(angle), np.sin(angle), np.ones(sectors),
                       np.cos(2 * angle), np.sin(2 * angle)], -1)
    change, scatter = _robust(design, place, weight)
    return shape + change, scatter, width


def _measured_width(counts, distance, sector, level, step, seen, width, window):
    """Standard deviation of the edge's slope, from the profile pooled over the sectors."""
    use = seen[sector]
    strength = step[sector][use]
    bins = np.clip(((distance[use] + window) / (2 * window) * 40).astype(int), 0, 39)
    profile = np.bincount(bins, (counts[use] - level[sector][use]) * strength, 40)
    profile = profile / np.maximum(np.bincount(bins, strength**2, 40), 1e-30)
    centre = (np.arange(40) + 0.5) * (window / 20) - window
    # The distance between the levels 1/4 and 3/4 of a normal edge is 1.349 standard deviations.
    falling = np.maximum.accumulate(profile[::-1])
    low, high = np.interp([0.25, 0.75], falling, centre[::-1])
    return float(np.clip((low - high) / 1.349, 0.5, width))


def _robust(design, place, weight):
    """Weighted least squares with Tukey's biweight: coefficients (5,), rms of the residuals."""
    trust = weight
    for _ in range(8):
        normal = (design * trust[:, None]).T @ design
        normal += 1e-9 * np.trace(normal) * np.eye(5) + 1e-30 * np.eye(5)
        change = np.linalg.solve(normal, design.T @ (trust * place))
        residual = place - design @ change
        scale = 1.4826 * np.median(np.abs(residual[weight > 0])) + 1e-3
        trust = weight * np.clip(1 - (residual / (4.7 * scale)) ** 2, 0, None) ** 2
    return change, float(np.sqrt(np.sum(trust * residual**2) / max(np.sum(trust), 1e-30)))


def _coverage(image, shape):
    """Fraction of wide sectors in which the counts fall at the edge; mean fall over its error."""
    window = max(0.09 * shape[2], 3.0)
    counts, distance, azimuth = _annulus(image, shape, window)
    sector = np.minimum(((azimuth / (2 * np.pi) + 0.5) * _SECTORS).astype(int), _SECTORS - 1)
    levels, sizes = [], []
    for chosen in (distance < -0.2 * window, distance > 0.2 * window):
        sizes.append(np.bincount(sector[chosen], minlength=_SECTORS))
        levels.append(np.bincount(sector[chosen], counts[chosen], _SECTORS))
    full = np.minimum(*sizes) > 0.5 * np.max(sizes)
    if not full.any():
        return 0.0, 0.0
    step = levels[0][full] / sizes[0][full] - levels[1][full] / sizes[1][full]
    typical = np.quantile(step, 0.75)
    error = noise(image) * np.sqrt((1 / sizes[0][full] + 1 / sizes[1][full]).mean() / full.sum())
    return float(np.mean(step > 0.3 * typical)), float(typical / max(error, 1e-30))


def noise(image):
    """Noise of a pixel: rms of differences between neighbours, without the largest hundredth."""
    difference = np.abs(np.diff(image, axis=1)).ravel()[:: max(1, image.size // 100_000)]
    usual = difference[difference <= np.quantile(difference, 0.99)]
    if not usual.any():  # single counts here and there
        usual = difference
    return float(np.sqrt(np.mean(usual.astype(float) ** 2) / 2)) * 1.07
