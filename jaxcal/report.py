"""The report: one HTML file that needs nothing beside it.

For each instrument: the outcome in a sentence, the knobs in a table and against their pi/4 limits,
how they act where that is not as told, frames and spectra before and after, the posterior by frame,
the states that remain possible, the latents, the frames that were set aside, and what it was made
with.
"""

import base64
import html
import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from jaxcal import answers, figures
from jaxcal.files import write_text
from jaxcal.optics import quarter_pi_limits_nm
from jaxcal.results import limit_name, standard_deviation

MOST_MODES = 5
"""How many modes of the posterior the report lists."""


def write_report(path, runs, *, seed=None):
    """Write the report of one or more instruments as one HTML file.

    Args:
        path: file to write, whole or not at all.
        runs: a `jaxcal.Calibration`, or a list whose items are each a `Calibration` or a pair
            (`Series`, `Estimate`), or these two and the hidden state {name: nm} where it is known.
        seed: the seed of the run, for the record.

    Example:
        >>> write_report("tuned.html", calibrate(SimulatedMicroscope()))  # doctest: +SKIP
    """
    write_text(path, render(runs, seed=seed))


def render(runs, *, seed=None):
    """The report as a string of HTML; arguments as for `write_report`."""
    if hasattr(runs, "estimate"):
        runs = [runs]
    body = "\n".join(_refused(run) if hasattr(run, "estimate") and run.estimate is None else
                     _section(_Run(run), len(runs) > 1) for run in runs)
    if not runs:
        body = "<p>No series was answered.</p>"
    return _PAGE.format(style=_STYLE, body=body, foot=_foot(seed))


class _Run:
    """One instrument as the report needs it, from a Calibration or from (series, estimate)."""

    def __init__(self, run):
        if hasattr(run, "estimate"):
            self.series, self.estimate = run.series, run.estimate
            self.history, self.truth_nm = tuple(run.history), run.truth_nm
            self.verification = run.verification_frame
            self.applied_nm, self.verdict = run.applied_knobs_nm, run.verdict
            self.true_left_nm = run.true_left_nm
        else:
            self.series, self.estimate, *truth = run
            self.truth_nm = truth[0] if truth else None
            self.history, self.verification, self.applied_nm, self.verdict = (), None, None, None
            self.true_left_nm = None
        quarter_pi = quarter_pi_limits_nm(self.series.optics, self.series.knob_names)
        self.limits_nm = np.asarray(getattr(run, "limits_nm", quarter_pi), float)
        self.limit = limit_name(self.limits_nm, quarter_pi)
        self.names = self.estimate.knob_names
        self.x0_nm = np.asarray(self.estimate.x0_nm, float)
        self.sd_nm = standard_deviation(self.estimate.covariance_nm2)
        self.tuned_nm = np.asarray(self.estimate.tuned_knobs_nm, float)
        self.tuned_sd_nm = standard_deviation(self.estimate.tuned_covariance_nm2)
        self.set_aside = {int(number): str(reason) for number, reason in _rejected(self.estimate)}

    @property
    def left_nm(self):
        """What is left of the aberrations once the knobs are applied, rms, nm: expected and sd.

        Without an applied setting, what would be left at the tuned one: its uncertainty.
        """
        mean, covariance = answers.left(self.estimate, self.applied_nm)
        return np.hypot(mean, standard_deviation(covariance))


def _refused(run):
    """Of a calibration that has no estimate: why, and the frames it was refused after."""
    said = f'<section><p class="outcome open"><b>{run.verdict}</b> {html.escape(run.reason)}</p>'
    if run.series is not None:
        captions = [str(number) for number in range(len(run.series))]
        sheet = figures.contact_sheet(list(run.series.frames), captions, set())
        said += f"<h3>All frames</h3>{_figure(sheet, 'Number of the frame.')}"
    return said + "</section>"


def _rejected(estimate):
    return [(number, reason) for number, reason in estimate.rejected_frames]


def _section(run, several):
    parts = [_head(run, several), _outcome(run), _knob_table(run), _limits_figure(run)]
    parts += [_actuator_table(run), _before_after(run), _posterior(run), _modes(run)]
    parts += [_frame_states(run), _latents(run), _all_frames(run), _rejected_table(run)]
    parts += [_facts(run)]
    return "<section>" + "\n".join(part for part in parts if part) + "</section>"


def _head(run, several):
    name = html.escape((run.series.name or "series").encode("utf-8", "replace").decode())
    return f"<h2>{name}</h2>" if several else f'<p class="name">{name}</p>'


def _outcome(run):
    estimate = run.estimate
    state = run.verdict or ("converged" if estimate.converged else "not converged")
    below = int(np.count_nonzero(run.left_nm <= run.limits_nm))
    tuned = f"{below} of {len(run.names)} knobs within the {run.limit}"
    tense = "after the correction" if run.applied_nm is not None else "at the setting found"
    return (
        f'<p class="outcome {"good" if estimate.converged else "open"}"><b>{state}</b> '
        f"{html.escape(str(estimate.message).removeprefix(f'{state}: '))}</p>"
        f"<p>{_count(estimate.frames_used, 'frame')} used, "
        f"{_count(len(run.set_aside), 'frame')} set aside, {estimate.seconds:.1f} s. "
        f"{tuned} {tense}, uncertainty included.</p>"
    )


def _knob_table(run):
    applied, truth = run.applied_nm, run.truth_nm
    heads = ["knob", "x0", "tunes at"]
    heads += ["applied"] if applied is not None else []
    heads += ["left", run.limit, "left / limit"]
    heads += ["true x0", "error"] if truth is not None else []
    rows = []
    for k, name in enumerate(run.names):
        digits = _digits(run.sd_nm[k])
        row = [f"{_signed(run.x0_nm[k], digits)} ± {run.sd_nm[k]:.{digits}f}",
               f"{_signed(run.tuned_nm[k], digits)} ± {run.tuned_sd_nm[k]:.{digits}f}"]
        row += [_signed(applied[k], digits)] if applied is not None else []
        row += [f"{run.left_nm[k]:.{digits}f}", f"{run.limits_nm[k]:.2f}"]
        row += [f"{run.left_nm[k] / run.limits_nm[k]:.2f}"]
        if truth is not None and name in truth:
            row += [_signed(truth[name], digits), _signed(run.x0_nm[k] - truth[name], digits)]
        elif truth is not None:
            row += ["", ""]
        rows.append([name, *row])
    note = (
        "All in nm, ± one standard deviation. x0: state with the knobs at zero at the first frame. "
        "Tunes at: knob setting that tunes the instrument at the last frame. Left: rms of what "
        "remains "
        + ("of the correction applied" if applied is not None else "at that setting")
        + ", its uncertainty included."
    )
    return f"<h3>Final state</h3>{_table(heads, rows)}<p class=note>{note}</p>"


def _actuator_table(run):
    """Where the knobs were found not to act as told: by how much of a nm each moves what."""
    actuator, found = np.asarray(run.estimate.actuator, float), run.estimate.refinement
    spreads = np.zeros_like(actuator) if found is None else found.solutions[0].gain_sd
    if np.allclose(actuator, np.eye(len(actuator))) and not np.any(spreads):
        return ""
    tables = []
    for order in sorted({name[1] for name in run.names}):  # no knob moves what is of another order
        places = [k for k, name in enumerate(run.names) if name[1] == order]
        rows = [[run.names[row], *(_share(actuator[row, k], spreads[row, k]) for k in places)]
                for row in places]
        tables.append(_table(["", *(run.names[k] for k in places)], rows))
    note = ("nm of the aberration in the row for each nm of the knob in the column, as the frames "
            "tell it, ± one standard deviation; 1 where a knob acts as told.")
    return f"<h3>How the knobs act</h3>{''.join(tables)}<p class=note>{note}</p>"


def _share(value, sd):
    """A share of the actuator matrix; empty where it is none and was not asked for."""
    if sd == 0 and value == 0:
        return ""
    return _signed(value, 3) + (f" ± {sd:.3f}" if sd > 0 else "")


def _limits_figure(run):
    picture = figures.against_limits(
        run.names, np.abs(run.x0_nm), run.left_nm, run.limits_nm, run.true_left_nm, run.limit
    )
    after = "left after the correction" if run.applied_nm is not None else "left at the setting"
    caption = (f"Each knob's aberration in units of its {run.limit}: grey, at the start; blue, "
               f"{after}")
    caption += "; diamond, what is truly left." if run.true_left_nm is not None else "."
    return _figure(picture, caption)


def _before_after(run):
    frames, titles = [run.series.frames[0]], ["before: first frame"]
    if run.verification is not None:
        frames.append(run.verification)
        titles.append("after: verification")
    else:
        nearest = _nearest(run)
        if nearest != 0:
            frames.append(run.series.frames[nearest])
            titles.append(f"frame {nearest}: nearest to tuned")
    picture = figures.frames_with_spectra(frames, titles, run.series.optics)
    caption = "Ronchigrams, and the logarithm of their power spectra."
    return f"<h3>Frames and spectra</h3>{_figure(picture, caption)}"


def _nearest(run):
    distance = np.linalg.norm((run.series.knobs_nm - run.tuned_nm) / run.limits_nm, axis=1)
    distance[[number for number in run.set_aside if number < len(distance)]] = np.inf
    return int(np.argmin(distance))


def _posterior(run):
    history = [estimate for estimate in run.history if _finite(estimate)]
    if not history:
        return ""
    picture = figures.posterior_by_frame(history, run.limits_nm, run.truth_nm, run.limit)
    caption = "What was known of each knob after each frame; below, how well."
    caption += " Dashes in the upper panels: the truth." if run.truth_nm is not None else ""
    return f"<h3>Posterior by frame</h3>{_figure(picture, caption)}"


def _modes(run):
    modes = run.estimate.modes
    if not modes:
        return ""
    shown = modes[:MOST_MODES]
    rows = [["weight", *(f"{100 * mode.weight:.1f} %" for mode in shown)]]
    spreads = [standard_deviation(mode.covariance_nm2) for mode in shown]
    for k, name in enumerate(run.names):
        pairs = zip(shown, spreads, strict=True)
        rows.append([name, *(f"{_signed(m.x0_nm[k], _digits(sd[k]))} ± {sd[k]:.{_digits(sd[k])}f}"
                             for m, sd in pairs)])
    part = "<h3>States that remain possible</h3>"
    if len(modes) > 1:  # one alone stands in the final state
        part += _table(["x0 (nm)", *(f"mode {rank + 1}" for rank in range(len(shown)))], rows)
    if len(modes) > len(shown):
        rest = 100 * sum(float(mode.weight) for mode in modes[MOST_MODES:])
        part += f"<p class=note>{len(modes) - len(shown)} more share {rest:.1f} %.</p>"
    if len(run.names) > 1:
        cross = " Cross: the truth." if run.truth_nm is not None else ""
        part += _figure(
            figures.mode_pairs(run.names, modes, run.truth_nm),
            f"Two standard deviations of each mode of x0, the heavier the darker.{cross}",
        )
    return part


def _frame_states(run):
    states = getattr(run.estimate, "states_nm", None)
    if states is None or len(states) == 0:
        return ""
    picture = figures.states_by_frame(states, run.names, run.limits_nm)
    caption = (f"Aberration of each knob in units of its {run.limit}, estimated from all frames "
               f"together.")
    return f"<h3>State of each frame</h3>{_figure(picture, caption)}"


def _latents(run):
    latents = getattr(run.estimate, "latents", None)
    if latents is None or np.size(latents) == 0:
        return ""
    caption = "What the encoder made of each spectrum."
    return f"<h3>Latents</h3>{_figure(figures.latents_by_frame(latents), caption)}"


def _all_frames(run):
    frames = list(run.series.frames)
    captions = [
        f"{number}: " + "/".join(f"{u:+.0f}" for u in knobs[:3])
        for number, knobs in enumerate(run.series.knobs_nm)
    ]
    if run.verification is not None and run.verification.shape == frames[0].shape:
        captions.append(f"{len(frames)}: verification")
        frames.append(run.verification)
    sheet = figures.contact_sheet(frames, captions, set(run.set_aside))
    named = ", ".join(run.names[:3])
    caption = f"Number of the frame and its knob steps {named} in nm; crossed out: set aside."
    return f"<h3>All frames</h3>{_figure(sheet, caption)}"


def _rejected_table(run):
    if not run.set_aside:
        return ""
    rows = [[str(number), reason] for number, reason in sorted(run.set_aside.items())]
    return f"<h3>Frames set aside</h3>{_table(['frame', 'reason'], rows, words=True)}"


def _facts(run):
    optics, series = run.series.optics, run.series
    height, width = series.frames.shape[1:]
    verified = "" if run.verification is None else " and one to verify"
    taken = _count(len(series), "frame") + verified
    facts = [
        f"{optics.energy_keV:g} keV",
        f"{optics.semi_angle_mrad:g} mrad semi-angle",
        f"{optics.pixel_mrad:.4g} mrad a pixel",
        f"{taken}, {height} × {width} pixels",
    ]
    return f"<p class=note>{', '.join(facts)}.</p>"


def _foot(seed):
    made = [f"{name} {_version(name)}" for name in ("jaxcal", "jax", "flax", "numpy")]
    made.append(f"Python {platform.python_version()}")
    if seed is not None:
        made.append(f"seed {seed}")
    made.append(datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"))
    return html.escape(" · ".join(made))


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


def _finite(estimate):
    return np.all(np.isfinite(estimate.x0_nm)) and np.all(np.isfinite(estimate.covariance_nm2))


def _table(heads, rows, words=False):
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    kind = ' class="words"' if words else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f"<div class=wide>{table}</div>"


def _figure(svg, caption):
    data = base64.b64encode(svg).decode("ascii")
    text = html.escape(caption)
    return (
        f'<figure><img alt="{text}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{text}</figcaption></figure>"
    )


def _signed(value, digits=2):
    return f"{float(value):+.{digits}f}".replace("-", "−")


def _digits(sd):
    """Decimals that a standard deviation leaves worth printing: two of its own figures, two at
    most."""
    return int(np.clip(1 - np.floor(np.log10(sd)), 0, 2)) if 0 < sd < np.inf else 2


def _count(number, noun):
    return f"{number} {noun}" + ("" if number == 1 else "s")


_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #23272d;
  font: 15px/1.5 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 760px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 24px; font-weight: 600; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 20px; font-weight: 600; margin: 56px 0 8px; padding-top: 16px;
  border-top: 1px solid #d9dde1; }
h3 { font-size: 15px; font-weight: 600; margin: 36px 0 8px; }
p { margin: 8px 0; }
.name { margin: 0 0 16px; color: #7b838c; }
.outcome { margin: 16px 0; padding: 10px 14px; border-left: 3px solid #b4552d;
  background: #f7f8f9; }
.outcome.good { border-left-color: #5a7d3a; }
.outcome b { margin-right: 8px; }
.note, figcaption, footer { color: #5d656e; font-size: 13px; line-height: 1.45; }
figure { margin: 12px 0 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { margin-top: 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums;
  margin: 8px 0; }
th, td { padding: 4px 8px; text-align: right; white-space: nowrap; }
th { font-weight: 500; color: #5d656e; border-bottom: 1px solid #b9c0c7; }
td { border-bottom: 1px solid #eceef0; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.words td:last-child, table.words th:last-child { text-align: left; white-space: normal; }
footer { margin-top: 56px; padding-top: 12px; border-top: 1px solid #d9dde1; }
@media print { main { padding: 0; max-width: none; } figure, table { break-inside: avoid; } }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>jaxcal report</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>jaxcal report</h1>
{body}
<footer>{foot}</footer>
</main>
</body>
</html>
"""
