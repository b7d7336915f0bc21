"""The aperture's image in a frame, and whether the frame can be used.

`find_disc` needs only the nominal radius. It gives centre and radius of the disc (see
`jaxcal.disc_fit` for the method) and a `Quality` whose ``fault`` says in a sentence why a frame
cannot be used: blank, saturated, aperture not found, cut or in shadow.
"""

from typing import NamedTuple

import numpy as np

from jaxcal import disc_fit
from jaxcal.spectra import END, OFF_NOMINAL, Disc, binned

LARGEST = 1e15
"""Counts of a pixel; larger numbers are none, and their squares overflow in single precision."""

_TABLE = "check semi_angle_mrad and pixel_mrad, and that the aperture is inserted"


class Quality(NamedTuple):
    """What a frame looks like around its aperture.

    fault: why the frame cannot be used and what to do, one sentence; None where it can;
    inside: median counts in the disc; outside: median counts well outside it, the dark level;
    dark_seen: False where nothing lies well outside, ``outside`` then being the darkest counts;
    saturated: fraction of the disc on a plateau at the top of the counts;
    coverage: fraction of the azimuths (within the frame) at which the edge is seen;
    shadowed: fraction of the disc that is dark; edge_scatter: rms of the edge's place about the
    fitted line over the radius; contrast: the disc's upper decile minus ``outside`` over the
    noise of a pixel;
    ellipse: (2,) relative amplitudes of cos 2 phi and sin 2 phi of the edge, (x - y)/(x + y) of
    the radii along x and y being the first.
    """

    fault: str | None
    inside: float
    outside: float
    dark_seen: bool
    saturated: float
    coverage: float
    shadowed: float
    edge_scatter: float
    contrast: float
    ellipse: tuple[float, float]


_NOTHING = Quality(None, *(np.nan,) * 2, False, *(np.nan,) * 5, (np.nan, np.nan))


def find_disc(frame, nominal_radius):
    """The aperture's image in a frame, and what the frame looks like.

    Args:
        frame: (H, W) counts of any real type.
        nominal_radius: expected radius, pixels (``Optics.radius_pixels``). A disc of half to twice
            that is found, but further off than OFF_NOMINAL it is a fault.

    Returns:
        (Disc, Quality): centre and radius of the half-level edge, pixels (centres at integers).
        Where ``Quality.fault`` is not None the disc is the best guess, or NaN where there is none.

    Raises:
        ValueError: not an image of real numbers, or no sensible nominal radius.

    Example:
        >>> rows, columns = np.indices((128, 128))
        >>> within = np.hypot(columns - 60, rows - 66) < 48
        >>> frame = np.random.default_rng(0).poisson(100 * within)
        >>> disc, quality = find_disc(frame, 50.0)
        >>> round(disc.column), round(disc.row), round(disc.radius), quality.fault
        (60, 66, 48, None)
    """
    frame, nominal_radius = _checked(frame, nominal_radius)
    nowhere = Disc(np.nan, np.nan, np.nan)
    broken = frame.size - np.count_nonzero(np.isfinite(frame))
    if broken:
        return nowhere, _NOTHING._replace(fault=(
            f"{broken} of {frame.size} pixels are not finite: replace dead pixels by the median "
            f"of their neighbours before the frame is stored"))
    low, high = float(frame.min()), float(frame.max())
    if (largest := max(-low, high)) > LARGEST:
        return nowhere, _NOTHING._replace(fault=(
            f"counts of up to {largest:.0e} are none: look at the camera, or at how the frame was "
            f"stored"))
    if low == high:
        return nowhere, _NOTHING._replace(fault=_blank(f"every pixel has {frame.flat[0]:g} counts"))
    edges = []
    for spread in (np.linspace(0.84, 1.16, 9), np.geomspace(0.5, 2.0, 25)):
        disc = disc_fit.search(frame, nominal_radius, nominal_radius * spread)
        edges.append(disc_fit.locate(frame, disc))
        if edges[-1].sound:
            break

    def trust(edge):
        close = abs(edge.disc.radius / nominal_radius - 1) < OFF_NOMINAL
        return edge.sound, edge.coverage * (1.0 if close else 0.5)

    best = max(edges, key=trust)
    return best.disc, _judge(frame, nominal_radius, best)


def assess(frame, nominal_radius):
    """Why a frame cannot be used, a sentence with a remedy; None where it can.

    Args and errors: as of `find_disc`, which returns the same sentence as ``Quality.fault``.
    """
    return find_disc(frame, nominal_radius)[1].fault


def _checked(frame, nominal_radius):
    frame, nominal_radius = np.asarray(frame), float(nominal_radius)
    if frame.ndim != 2 or frame.dtype.kind not in "buif" or min(frame.shape) < 16:
        raise ValueError(
            f"a frame should be an image (H, W) of real counts with at least 16 x 16 pixels, got "
            f"shape {frame.shape} of {frame.dtype}: pass one frame at a time, without colours"
        )
    if not 4.0 <= nominal_radius <= 2 * max(frame.shape):
        raise ValueError(
            f"nominal_radius should be between 4 pixels and twice the frame's side "
            f"{max(frame.shape)}, got {nominal_radius:g}: give semi_angle_mrad/pixel_mrad with the "
            f"pixel angle of the frame as stored"
        )
    return frame.astype(np.uint8) if frame.dtype.kind == "b" else frame, nominal_radius


# The judgement


def _judge(frame, nominal_radius, edge):
    """Quality of a frame whose best edge is given."""
    disc = edge.disc
    if not edge.coverage > 0 or edge.significance < disc_fit.SIGNIFICANT:
        return _NOTHING._replace(fault=_nothing(frame, nominal_radius), coverage=edge.coverage)
    factor = max(1, int(max(frame.shape) / 512))
    sample, step = binned(frame, 1)[::factor, ::factor], factor
    y = (np.arange(sample.shape[0]) * step - disc.row)[:, None] / disc.radius
    x = (np.arange(sample.shape[1]) * step - disc.column)[None, :] / disc.radius
    rho = np.sqrt(y**2 + x**2)
    within = sample[rho < 0.92]
    inside = float(np.median(within))
    beyond = sample[rho > 1.15]
    dark_seen = beyond.size >= max(16, 0.002 * sample.size)
    outside = float(np.median(beyond) if dark_seen else np.quantile(sample, 0.001))
    quality = Quality(
        fault=None, inside=inside, outside=outside, dark_seen=bool(dark_seen),
        saturated=_plateau(within), coverage=edge.coverage,
        shadowed=_shadow(sample, rho, disc.radius / step, outside),
        edge_scatter=float(edge.scatter),
        contrast=float(np.quantile(within, 0.9) - outside) / max(disc_fit.noise(sample), 1e-30),
        ellipse=edge.ellipse,
    )  # fmt: skip
    return quality._replace(fault=_fault(frame.shape, nominal_radius, disc, quality))


def _nothing(frame, nominal_radius):
    """The sentence for a frame without an edge: blank, or lit but not by an aperture that fits."""
    if 2 * END * nominal_radius > min(frame.shape):
        return _cut(f"its nominal radius is {nominal_radius:.0f} pixels", frame.shape)
    factor = max(1, int(nominal_radius / 6))
    low, high = np.quantile(disc_fit.median3(binned(frame, factor)), [0.1, 0.9])
    noise = disc_fit.noise(binned(frame, 1)) / factor
    if high - low > 10 * noise:  # of noise alone it would be at most 2.6
        return f"no aperture found near the nominal radius of {nominal_radius:.0f} pixels: {_TABLE}"
    return _blank("nothing stands out of the noise")


def _plateau(within):
    """Fraction of the disc at one value at the top of its counts, few being higher."""
    values, numbers = np.unique(within, return_counts=True)
    above = np.cumsum(numbers[::-1])[::-1] - numbers
    top = int(np.argmax(above <= 0.005 * within.size))  # lowest value with few above it
    below = numbers[top - 1] if top else 0
    # The tail of ordinary counts thins out; a plateau is a spike at its end.
    return float(numbers[top] / within.size) if numbers[top] > 2 * below else 0.0


def _shadow(sample, rho, radius, outside):
    """Fraction of the disc whose neighbourhood, a sixth of a radius, is darker than a third."""
    factor = max(1, min(int(radius / 6), min(sample.shape)))
    share = binned(rho < 0.92, factor)
    total = binned(np.where(rho < 0.92, sample - outside, 0.0), factor)
    level = total[share > 0.5] / share[share > 0.5]
    return float(np.mean(level < np.quantile(level, 0.8) / 3)) if level.size else 1.0


def _fault(shape, nominal_radius, disc, quality):
    sound = quality.coverage >= disc_fit.SOUND and quality.shadowed <= 0.15
    if quality.saturated > 0.02:
        return (
            f"saturated: {100 * quality.saturated:.0f} % of the disc have the same highest counts: "
            f"shorten the exposure or lower the beam current and take the frame again"
        )
    if not sound and 2 * END * nominal_radius > min(shape):
        return _cut(f"its nominal radius is {nominal_radius:.0f} pixels", shape)
    if quality.coverage < 0.3 or (not sound and quality.contrast < 2.5):
        return f"no aperture found near the nominal radius of {nominal_radius:.0f} pixels: {_TABLE}"
    reach = END * disc.radius  # what the spectrum uses
    beyond = max(reach - disc.column, reach - disc.row, disc.column + reach - shape[1] + 1,
                 disc.row + reach - shape[0] + 1)
    if beyond > 1.0:
        return _cut(f"its centre is at column {disc.column:.0f}, row {disc.row:.0f}, its radius is "
                    f"{disc.radius:.0f} pixels", shape)
    if not sound:
        return (
            f"part of the aperture is dark: its edge is seen at {100 * quality.coverage:.0f} % of "
            f"the azimuths and {100 * quality.shadowed:.0f} % of the disc are in shadow: move what "
            f"blocks the beam, or leave the thick or crystalline area"
        )
    if abs(disc.radius / nominal_radius - 1) > OFF_NOMINAL:
        return (
            f"no aperture found near the nominal radius of {nominal_radius:.0f} pixels, but one of "
            f"{disc.radius:.0f} pixels: {_TABLE}"
        )
    return None


def _cut(what, shape):
    return (
        f"the aperture is cut by the frame of {shape[1]} x {shape[0]} pixels, {what}: centre it on "
        f"the camera or shorten the camera length"
    )


def _blank(what):
    return f"blank frame, {what}: check that the beam is on and the camera inserted"
