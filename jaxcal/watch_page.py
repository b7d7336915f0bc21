"""The page on which one watches a calibration: a `View` in, HTML out.

It is one document with its style and its script in it; the only other things it asks for are the
pictures of the frames and /status.json, both from where it came itself. Whatever stands in a file
of the run is escaped.
"""

import hashlib
import html
from base64 import b64encode
from time import localtime, strftime

from jaxcal import watch_figures

MORE_THAN = 300
"""Seconds without any change after which the page says so of a run that counts as running."""

# What a state is called in large, and how it is coloured.
_STATES = {
    "running": ("running", "busy"),
    "tuned": ("tuned", "good"),
    "not decided": ("not decided", "open"),
    "refused": ("refused", "bad"),
}


def render(view, now):
    """The whole page.

    Args:
        view: `jaxcal.watched.View`.
        now: s since 1970, against which the age of the last change is told.
    """
    return _PAGE.format(
        title=html.escape(title(view)),
        style=_STYLE,
        script=_SCRIPT,
        version=version(view),
        age=html.escape(age(view, now)),
        body=_body(view),
        folder=html.escape(view.folder),
    )


def status(view, now):
    """The same in a few words for the page's script and other programs; plain Python values."""
    return {
        "version": version(view),
        "title": title(view),
        "state": view.run.state if view.run else None,
        "message": view.run.message if view.run else None,
        "frames": len(view.frames),
        "steps": len(view.run.steps) if view.run else 0,
        "problems": list(view.problems),
        "age": age(view, now),
    }


def version(view):
    """A name for what the page shows, another one as soon as it shows anything else."""
    body = _body(view).encode("utf-8", "replace")
    return hashlib.blake2b(body, digest_size=8).hexdigest()


def title(view):
    """What the browser's tab says."""
    return f"jaxcal: {_state(view)[0]}"


def age(view, now):
    """When a file last changed and how long ago that is, as one phrase."""
    if view.changed is None:
        return ""
    seconds = max(0, int(now - view.changed))
    ago = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
    phrase = f"last change {strftime('%H:%M:%S', localtime(view.changed))}, {ago} ago"
    if view.run and view.run.state == "running" and seconds > MORE_THAN:
        phrase += ": the program may have ended without saying so"
    return phrase


def policy():
    """The Content-Security-Policy: this page's own style, script and origin, nothing else."""
    script, style = (b64encode(hashlib.sha256(part.encode()).digest()).decode()
                     for part in (_SCRIPT, _STYLE))  # fmt: skip
    return (
        f"default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; "
        "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _body(view):
    parts = [("state", _head(view)), ("knobs", _knobs(view)), ("posterior", _posterior(view)),
             ("frames", _frames(view))]  # fmt: skip
    return "\n".join(f'<section id="{name}">{part}</section>' for name, part in parts)


def _state(view):
    if view.run is None:
        return ("no run.json yet", "idle") if view.frames else ("waiting", "idle")
    return _STATES.get(view.run.state, (view.run.state or "unknown state", "idle"))


def _head(view):
    word, kind = _state(view)
    if view.run is not None:
        message = view.run.message
    elif view.frames:
        message = f"there are frames in {view.folder}, but nothing is told of the run"
    else:
        message = f"for a run in {view.folder}"
    parts = [f'<p class="state {kind}"><b>{html.escape(word)}</b> {html.escape(message)}</p>']
    parts += [f'<p class="problem">{html.escape(problem)}</p>' for problem in view.problems]
    return "".join(parts) + _facts(view)


def _facts(view):
    run = view.run
    if run is None:
        start = "The page goes on by itself once jaxcal calibrate --run writes to this folder."
        return "" if view.frames else f'<p class="note">{start}</p>'
    facts = [f"{run.microscope} microscope"] if run.microscope else []
    number = view.frames[-1].number + 1 if view.frames else 0  # of a long run the last are shown
    taken = f"{_count(number, 'frame')} taken"
    facts += [taken + (f", {run.frames} at most and one to verify" if run.frames else "")]
    facts += [_count(len(run.steps), "estimate")]
    if run.steps and run.steps[-1].seconds is not None:
        facts += [f"the last took {run.steps[-1].seconds:.1f} s"]
    facts += [f"seed {run.seed}"] if run.seed is not None else []
    facts += [f"started {run.started}"] if run.started else []
    return f'<p class="note">{html.escape(" · ".join(facts))}</p>'


def _knobs(view):
    run = view.run
    if run is None or not run.knob_names:
        return ""
    last = run.steps[-1] if run.steps else None
    rows = "".join(_knob(run, last, name) for name in run.knob_names)
    heads = ["knob", "stands at", "x0", "x0 by frame", "tunes at", "left now", "tolerance",
             "left, in tolerances"]  # fmt: skip
    head = "".join(f"<th>{text}</th>" for text in heads)
    moving = ""
    if run.standing_nm is None and run.asked_nm:
        told = ("The knobs are moving." if run.state == "running" else
                "It is not known where the knobs stand.")
        moving = f'<p class="moving">{told}</p>'
    note = (
        "In nm, ± one standard deviation. x0: aberration with the knobs at zero; its band by "
        "frame: ± 2 sd. Left now: what the knobs leave where they stand, which is much while the "
        "loop looks, as it turns them away on purpose. On the right, in tolerances, the green "
        "ground being one: dot, left now ± 2 sd (an arrow: further out than shown); blue bar "
        "below, ± 2 sd of what the setting that tunes would leave."
    )
    return (
        f"<h2>Knobs</h2>{moving}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        f'<p class="note">{note}</p>'
    )


def _knob(run, last, name):
    standing = None if run.standing_nm is None else run.standing_nm.get(name)
    asked, limit = run.asked_nm.get(name), run.limits_nm.get(name)
    x0, sd = _at(last, "x0_nm", name), _at(last, "sd_nm", name)
    tuned, tuned_sd = _at(last, "tuned_knobs_nm", name), _at(last, "tuned_sd_nm", name)
    left, left_sd = _left(run, last, name), _at(last, "left_sd_nm", name) or tuned_sd
    stands = _signed(standing)
    if standing is None and asked is not None:
        stands = f"→ {_signed(asked)}" if run.state == "running" else "?"
    elif None not in (standing, asked) and abs(standing - asked) >= 0.05:
        stands += f'<span class="quiet"> asked {_signed(asked)}</span>'
    path = [(step.x0_nm.get(name), step.sd_nm.get(name)) for step in run.steps]
    cells = [stands, _with_sd(x0, sd), watch_figures.course(path), _with_sd(tuned, tuned_sd),
             _with_sd(left, left_sd), "–" if limit is None else f"{limit:.2f}",
             watch_figures.against_limit(left, left_sd, limit)]  # fmt: skip
    inner = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><th scope=row>{html.escape(name)}</th>{inner}</tr>"


def _left(run, last, name):
    """What the knobs leave of an aberration where they stand, nm; None where it is not known."""
    if last is None or run.standing_nm is None:
        return None
    acting = last.actuator.get(name) or {name: 1.0}
    places = [(run.standing_nm.get(knob), last.tuned_knobs_nm.get(knob), gain)
              for knob, gain in acting.items()]
    if any(None in place for place in places):
        return None
    return sum(gain * (standing - tuned) for standing, tuned, gain in places)


def _posterior(view):
    run = view.run
    if run is None or not run.steps:
        return ""
    lines = {
        name: [
            (step.frame, _ratio(step.left_sd_nm.get(name) or step.tuned_sd_nm.get(name),
                                run.limits_nm.get(name)))
            for step in run.steps
        ]
        for name in run.knob_names
    }
    picture = watch_figures.widths_by_frame(lines)
    return (
        f"<h2>Posterior by frame</h2>{picture}"
        '<p class="note">Standard deviation of what the setting that tunes leaves, in tolerances, '
        "after each frame. Below the dashed line it is smaller than the tolerance.</p>"
    )


def _frames(view):
    if not view.frames:
        return ""
    rejected = view.run.steps[-1].rejected if view.run and view.run.steps else {}
    used = view.run.steps[-1].frame if view.run and view.run.steps else -1
    cards = "".join(_card(frame, rejected, used) for frame in reversed(view.frames))
    return (
        f"<h2>Frames and spectra, newest first</h2><ul>{cards}</ul>"
        '<p class="note">Left the Ronchigram, right the logarithm of its power spectrum to 32 '
        "cycles per aperture radius; below, the knobs at which it was taken, nm.</p>"
    )


def _card(frame, rejected, used):
    number, mark, kind = frame.number, "", ""
    if number in rejected:
        kind = ' class="aside"'
        reason = rejected[number]
        mark = f'<span class="why">set aside{": " + html.escape(reason) if reason else ""}</span>'
    elif number > used:
        mark = '<span class="quiet">not in the estimate yet</span>'
    knobs = " ".join(
        f"<span>{html.escape(name)} {_signed(value)}</span>"
        for name, value in frame.knobs_nm.items()
    )
    pictures = "".join(
        f'<img src="/{kind_}/{number}.png?{frame.digest}" width="146" height="146" '
        f'alt="{kind_} {number}">'
        for kind_ in ("frame", "spectrum")
    )
    return (
        f'<li id="frame-{number}"{kind}><p><b>frame {number}</b> {mark}</p>'
        f'<div class="pair">{pictures}</div><p class="setting">{knobs}</p></li>'
    )


def _at(step, what, name):
    return None if step is None else getattr(step, what).get(name)


def _ratio(sd, limit):
    return None if sd is None or not limit or limit < 0 else sd / limit


def _signed(value, digits=1):
    return "–" if value is None else f"{value:+.{digits}f}".replace("-", "−")


def _with_sd(value, sd):
    if value is None:
        return "–"
    if sd is None:
        return _signed(value)
    digits = 2 if sd < 10 else 0
    return f'{_signed(value, digits)} <span class="quiet">± {sd:.{digits}f}</span>'


def _count(number, noun):
    return f"{number} {noun}" + ("" if number == 1 else "s")


_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #23272d;
  font: 15px/1.45 system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 16px 20px 40px; }
header { display: flex; justify-content: space-between; gap: 24px; color: #5d656e;
  font-size: 13px; }
header b { color: #23272d; }
h2 { font-size: 15px; font-weight: 600; margin: 22px 0 6px; }
p { margin: 6px 0; }
.state { margin: 10px 0; padding: 12px 18px; border-left: 8px solid #7b838c; background: #f4f5f7;
  font-size: 20px; overflow-wrap: anywhere; }
.state b { font-size: 30px; font-weight: 650; margin-right: 12px; }
.busy { border-color: #2f5d8a; background: #edf3f9; } .busy b { color: #2f5d8a; }
.good { border-color: #4d7030; background: #eef5e8; } .good b { color: #4d7030; }
.open { border-color: #8a6d00; background: #fbf5dd; } .open b { color: #7a6000; }
.bad { border-color: #a3401b; background: #fbeee8; } .bad b { color: #a3401b; }
.problem, #lost { margin: 8px 0; padding: 8px 18px; border-left: 8px solid #a3401b;
  background: #fbeee8; overflow-wrap: anywhere; }
.note, .quiet { color: #5d656e; font-size: 13px; }
.moving { color: #2f5d8a; font-weight: 600; }
#live { display: grid; grid-template-columns: minmax(0, 1fr) 372px; column-gap: 28px; }
#state, #frames { grid-column: 1 / -1; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 3px 7px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid #eceef0; }
thead th { font-weight: 500; font-size: 13px; color: #5d656e; border-bottom-color: #b9c0c7; }
th:first-child { text-align: left; padding-left: 0; }
th:last-child { text-align: center; }
td span.quiet { display: inline-block; }
svg { display: block; } td svg { margin-left: auto; }
svg text { font: 11px system-ui, "Segoe UI", "Helvetica Neue", Arial, sans-serif;
  fill: #23272d; }
ul { list-style: none; margin: 0; padding: 0; display: grid; gap: 14px;
  grid-template-columns: repeat(auto-fill, minmax(296px, 1fr)); }
li { border: 1px solid #d9dde1; padding: 6px 8px; border-radius: 3px; }
li p { margin: 0 0 4px; }
li.aside { border-color: #a3401b; background: #fbeee8; }
li.aside img { opacity: 0.55; }
.why { color: #a3401b; font-weight: 600; overflow-wrap: anywhere; }
.pair { display: flex; gap: 4px; }
.pair img { background: #000; flex: 1 1 0; min-width: 0; max-width: 50%; height: auto;
  aspect-ratio: 1; object-fit: contain; }
.setting { font-size: 12.5px; margin: 4px 0 0; font-variant-numeric: tabular-nums; }
.setting span { display: inline-block; margin-right: 10px; }
@media (max-width: 1100px) { #live { grid-template-columns: minmax(0, 1fr); } }
"""

# The new page is fetched whole and parsed without being run; only sections that differ change.
_SCRIPT = """
"use strict";
const find = (name, page = document) => page.getElementById(name);
let version = find("live").dataset.version;
async function look() {
  try {
    const answer = await fetch("/status.json", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.status);
    const status = await answer.json();
    if (status.version !== version) {
      const text = await (await fetch("/", {cache: "no-store"})).text();
      const page = new DOMParser().parseFromString(text, "text/html");
      for (const section of document.querySelectorAll("#live > section")) {
        const other = find(section.id, page);
        if (section.innerHTML !== other.innerHTML) section.replaceWith(other);
      }
      version = find("live", page).dataset.version;
    }
    document.title = status.title;
    find("age").textContent = status.age;
    find("lost").hidden = true;
  } catch (error) {
    find("lost").hidden = false;
    document.title = "jaxcal: no contact";
  }
  setTimeout(look, 1500);
}
setTimeout(look, 1500);
"""

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<noscript><meta http-equiv="refresh" content="3"></noscript>
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<header><span><b>jaxcal watch</b> {folder}</span><span id="age">{age}</span></header>
<p id="lost" hidden>No contact with jaxcal watch: what is shown is old. Start it again to go on.</p>
<div id="live" data-version="{version}">
{body}
</div>
</main>
<script>{script}</script>
</body>
</html>
"""
