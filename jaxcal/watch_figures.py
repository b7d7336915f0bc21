"""Small drawings for the page of `jaxcal watch`: SVG that stands in the HTML itself.

Numbers in, text out. Only attributes are used, no styles, as the page forbids those.
"""

import html
import math

from jaxcal.figures import COLOURS, FAINT, INK, QUIET

SHOWN = 3.0  # tolerances to either side of zero
GOOD, OUTSIDE, WITHIN = "#4d7030", "#a3401b", "#dcebd0"


def against_limit(left_nm, sd_nm, limit_nm):
    """What a knob leaves, with two standard deviations, on a scale of its tolerance.

    Above, where the knob stands; below, where it would tune: zero with the same width.

    Args:
        left_nm: nm, signed, or None where it is not known.
        sd_nm: nm, or None.
        limit_nm: tolerance, nm, or None; without it there is no scale and nothing is drawn.
    """
    if limit_nm is None or limit_nm <= 0:
        return ""
    width, height, middle, below = 172, 24, 9, 18
    scale = (width / 2 - 4) / SHOWN

    def place(tolerances):
        return width / 2 + scale * min(max(tolerances, -SHOWN), SHOWN)

    parts = [
        f'<rect x="{place(-1):.1f}" y="2" width="{2 * scale:.1f}" height="{height - 4}" '
        f'fill="{WITHIN}"/>',
        _line((4, middle), (width - 4, middle), FAINT),
        _line((width / 2, 2), (width / 2, height - 2), QUIET),
    ]
    spread = 2 * (sd_nm or 0.0) / limit_nm
    if sd_nm is not None:
        parts.append(_line((place(-spread), below), (place(spread), below), COLOURS[0], 4))
    if left_nm is not None:
        at = left_nm / limit_nm
        colour = INK if abs(at) <= 1 < abs(at) + spread else GOOD if abs(at) <= 1 else OUTSIDE
        low, high = place(at - spread), place(at + spread)
        parts.append(_line((low, middle), (high, middle), colour, 2))
        if abs(at) <= SHOWN:
            parts.append(f'<circle cx="{place(at):.1f}" cy="{middle}" r="4" fill="{colour}"/>')
        else:
            tip, side = place(at), math.copysign(9, at)
            parts.append(f'<path d="M{tip:.1f} {middle}l{-side:g} -5v10z" fill="{colour}"/>')
    known = "not known" if left_nm is None else f"{left_nm / limit_nm:+.1f} tolerances"
    return _svg(width, height, parts, known)


def course(path):
    """How an estimate came to be: its mean and two standard deviations, frame after frame.

    Args:
        path: (mean, sd) in order, nm; None in a pair is left out.
    """
    path = [pair for pair in path if None not in pair]
    if len(path) < 2:
        return ""
    width, height = 96, 22
    edges = [mean + sign * 2 * sd for mean, sd in path[1:] for sign in (-1, 1)]
    low, high = min(edges), max(edges)
    low, high = (low, high) if high > low else (low - 1, high + 1)

    def place(number, value):
        value = min(max(value, low), high)  # the first width, mostly the prior's, is cut
        x = 3 + (width - 6) * number / (len(path) - 1)
        return f"{x:.1f},{height - 2 - (height - 4) * (value - low) / (high - low):.1f}"

    upper = [place(number, mean + 2 * sd) for number, (mean, sd) in enumerate(path)]
    lower = [place(number, mean - 2 * sd) for number, (mean, sd) in enumerate(path)]
    means = [place(number, mean) for number, (mean, _) in enumerate(path)]
    parts = [
        f'<polygon points="{" ".join(upper + lower[::-1])}" fill="{COLOURS[0]}" '
        f'fill-opacity="0.22"/>',
        f'<polyline points="{" ".join(means)}" fill="none" stroke="{COLOURS[0]}" '
        f'stroke-width="1.3"/>',
    ]
    return _svg(width, height, parts, "x0 by frame")


def widths_by_frame(lines):
    """Width of each knob by frame on a log axis, with a dashed line where it is 1.

    Args:
        lines: {knob: [(frame, width in tolerances or None), ...]}.
    """
    points = [point for line in lines.values() for point in line if _drawable(point)]
    if not points:
        return '<p class="note">no width is known yet</p>'
    width, height, left, right, bottom = 372, 300, 40, 10, 36
    per_row = 5
    top = 10 + 16 * -(-len(lines) // per_row)
    decades = [math.log10(value) for _, value in points]
    low, high = math.floor(min(*decades, -1.0)), math.ceil(max(*decades, 0.5))
    first, last = min(frame for frame, _ in points), max(frame for frame, _ in points)

    def x(frame):
        return left + (width - left - right) * (frame - first + 0.5) / (last - first + 1)

    def y(value):
        share = (math.log10(value) - low) / (high - low)
        return height - bottom - share * (height - top - bottom)

    parts = []
    for decade in range(low, high + 1):
        at = y(10.0**decade)
        parts += [_line((left, at), (width - right, at), FAINT)]
        parts += [_words(left - 6, at + 4, f"{10.0**decade:g}", "end")]
    every = -(-(last - first + 1) // 12)
    parts += [_words(x(n), height - bottom + 16, n, "middle")
              for n in range(first, last + 1, every)]  # fmt: skip
    parts += [_words((left + width - right) / 2, height - 4, "frame", "middle")]
    parts += [_line((left, y(1)), (width - right, y(1)), INK, 1, dashed=True)]
    for k, (name, line) in enumerate(lines.items()):
        colour = COLOURS[k % len(COLOURS)]
        dots = [(x(frame), y(value)) for frame, value in filter(_drawable, line)]
        track = " ".join(f"{a:.1f},{b:.1f}" for a, b in dots)
        parts += [f'<polyline points="{track}" fill="none" stroke="{colour}" stroke-width="1.6"/>']
        parts += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.6" fill="{colour}"/>' for a, b in dots]
        at, row = left + 66 * (k % per_row), 12 + 16 * (k // per_row)
        parts += [_line((at, row - 4), (at + 14, row - 4), colour, 3), _words(at + 18, row, name)]
    return _svg(width, height, parts, "standard deviation in tolerances by frame")


def _drawable(point):
    return point[1] is not None and point[1] > 0


def _svg(width, height, parts, label):
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(label)}">{"".join(parts)}</svg>'
    )


def _line(start, end, colour, thick=1, dashed=False):
    dashes = ' stroke-dasharray="5 4"' if dashed else ""
    return (
        f'<line x1="{start[0]:.1f}" y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}" '
        f'stroke="{colour}" stroke-width="{thick}"{dashes}/>'
    )


def _words(x, y, text, anchor="start"):
    text = html.escape(str(text))
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
