"""What the runs of the comparison come to: quantiles, promised orderings, tables and the figure."""

import io
from pathlib import Path

import numpy as np

from benchmarks import provenance
from jaxcal.figures import COLOURS, FAINT, INK, QUIET

OWN = ("jaxcal", "jaxcal_em", "jaxcal_loop")
LABELS = {
    "jaxcal": "jaxcal", "jaxcal_loop": "jaxcal, choosing its frames",
    "jaxcal_em": "jaxcal, EM over latents alone", "published": "published form (VAE-EM)",
    "particle_filter": "particle filter, simulated map", "regression": "supervised network",
    "scalar_em_variance": "EM, weighted variance", "scalar_em_emittance": "EM, emittance",
    "bayesopt_variance": "Bayesian optimisation, weighted variance",
    "bayesopt_emittance": "Bayesian optimisation, emittance",
    "package_variance": "bayesian-optimization, weighted variance",
    "package_emittance": "bayesian-optimization, emittance",
}
TENTH, QUARTER, HALF = 10, 0.25, 0.5
# In place of these in the small form, whose EM is short. In the table of the full one, three knobs,
# three and five frames, the ratios are at most 0.02, 0.02 (0.16 at ten times the frames) and 0.6.
QUICK = {"published": 0.5, "bayesopt_variance": 0.5, "particle_filter": 1.0}
STATISTICS = ("mean", "median", "90")
COUNTED = {"particle_filter": "the particle filter", "regression": "the supervised network"}
FRAMES_DRAWN = (3, 5, 10, 30, 100)
# One colour for each other method, none of them jaxcal's own.
MORE_COLOURS = (INK, "#d7899f", "#93a8b5", "#9bbf5a", "#e0a045")


def summarise(part) -> dict:
    """{method: {"frames": {n: quantiles}, "failed": count}} of runs {method: [run]}.

    A run that ended early (a loop that was content) counts with its last answer, one that failed
    with what it left untouched.
    """
    found = {}
    for method, runs in part.items():
        good = [run for run in runs if run.get("frames")]
        entry = {"instruments": len(good), "failed": sum("failed" in run for run in runs),
                 "frames": {}}
        for n in sorted({n for run in good for n in run["frames"]}):
            places = [max((k for k, m in enumerate(run["frames"]) if m <= n), default=None)
                      for run in good]
            chosen = [(run, k) for run, k in zip(good, places, strict=True) if k is not None]
            entry["frames"][str(n)] = {
                name: _quantiles([run[name][k] for run, k in chosen])
                for name in ("error_nm", "in_limits", "seconds") if name in chosen[0][0]}
            z = [run["z"][k] for run, k in chosen if run.get("z") and run["z"][k] is not None]
            if z:
                entry["frames"][str(n)]["rms_error_over_sd"] = float(
                    np.sqrt(np.mean(np.square(z))))
        found[method] = entry
    return found


def _quantiles(values) -> dict:
    return {"mean": float(np.mean(values)), "median": float(np.median(values)),
            "90": float(np.percentile(values, 90))}


def promised(made) -> list[dict]:
    """The `orderings` of a result, with the shares of its form."""
    return orderings(made["summary"], made["budget"], QUICK if made["quick"] else {})


def orderings(summaries, budget: int, shares=None) -> list[dict]:
    """The promises, each with its numbers and whether it was kept.

    jaxcal has at most `QUARTER` of the error of the best method by a scalar measure at a `TENTH`
    of its images, and at most `HALF` of that of every other method from as many; in the mean, in
    the median and in the 90th percentile over instruments. ``shares``: {method: share} that is
    promised in place of these.
    """
    found, shares = [], shares or {}
    for case, methods in summaries.items():
        own = methods.get("jaxcal", {}).get("frames", {})
        if not own:
            continue
        scalar = {m: e["frames"] for m, e in methods.items()
                  if m.startswith(("bayesopt", "package")) and str(budget) in e["frames"]}
        few = max((int(n) for n in own if int(n) * TENTH <= budget), default=None)
        for statistic in STATISTICS:
            if scalar and few:
                best = min(scalar, key=lambda m: _error(scalar[m], budget, statistic))
                found.append(_promise(case, statistic, own, few, scalar[best], budget, best,
                                      shares.get(best, QUARTER)))
            for method, entry in methods.items():
                if method in OWN:
                    continue
                found += [_promise(case, statistic, own, n, entry["frames"], n, method,
                                   shares.get(method, HALF)) for n in own if n in entry["frames"]]
    return found


def em_alone(summaries) -> list[dict]:
    """EM over the latents alone beside the particle filter, in the form of `orderings`.

    Both have the same latents and the same simulated map; the filter has no gap to it and no
    M-step. What EM and the Gaussian process gain by themselves is seen here. It is not among the
    promises, which are of jaxcal as a whole, and counted apart.
    """
    return [_promise(case, statistic, methods["jaxcal_em"]["frames"], n,
                     methods["particle_filter"]["frames"], n, "particle_filter", HALF)
            for case, methods in summaries.items()
            if {"jaxcal_em", "particle_filter"} <= methods.keys() for statistic in STATISTICS
            for n in methods["jaxcal_em"]["frames"] if n in methods["particle_filter"]["frames"]]


def _error(frames, n, statistic) -> float:
    return frames[str(n)]["error_nm"][statistic]


def _promise(case, statistic, own, own_frames, others, frames, method, share) -> dict:
    own_nm, other_nm = _error(own, own_frames, statistic), _error(others, frames, statistic)
    return {"case": case, "statistic": statistic, "own_frames": int(own_frames),
            "frames": int(frames), "method": method, "share": share, "own_nm": own_nm,
            "other_nm": other_nm, "ratio": own_nm / other_nm if other_nm else np.inf,
            "kept": bool(own_nm <= share * other_nm)}


def _cell(entry, name) -> str:
    q = entry[name]
    return " / ".join(f"{q[k]:.1f}" if q[k] < 100 else f"{q[k]:.0f}"
                      for k in ("mean", "median", "90"))


def table(part, counts, name) -> str:
    """Mean / median / 90th percentile of ``error_nm`` or ``in_limits`` by method and frames."""
    rows = []
    for method, entry in part.items():
        cells = [_cell(entry["frames"][n], name) if n in entry["frames"] else "" for n in counts]
        last = next((n for n in reversed(counts) if n in entry["frames"]), None)
        if last is None:
            continue
        seconds = entry["frames"][last]["seconds"]["median"]
        z = entry["frames"][last].get("rms_error_over_sd")
        rows.append((LABELS[method], entry["instruments"], *cells, f"{seconds:.1f}",
                     f"{z:.1f}" if z else ""))
    return provenance.markdown(
        ("method", "runs", *(f"{n} frames" for n in counts), "seconds", "error/sd"), rows)


def markdown(made) -> str:
    """Tables for the documentation and the promises under them."""
    counts, many = [str(n) for n in made["counts"]], ("50", str(made["budget"]))
    text = []
    for case, part in made["summary"].items():
        if case == "reality":
            text += ["Series of another simulator, C10 and C12 (nm): mean / median / 90 % over the "
                     "series that have so many frames.", table(part, counts, "error_nm")]
            continue
        shown = [*counts, *(n for n in dict.fromkeys(many) if n not in counts and any(
            n in entry["frames"] for entry in part.values()))]
        text += [f"{_place(case)}, root mean square error of C10, C12a, C12b (nm): mean / median / "
                 "90 %; seconds and error/sd at the most frames.",
                 table(part, shown, "error_nm"),
                 f"{_place(case)}, root mean square over all knobs in π/4 limits:",
                 table(part, shown, "in_limits")]
    return "\n\n".join([*text, promises(promised(made)), *_em_alone(made["summary"]),
                        _made_with(made)])


def promises(entries) -> str:
    """How many orderings were kept, in all and beside the nearest methods, and their table."""
    parts = {}
    for entry in entries:
        parts.setdefault(COUNTED.get(entry["method"], "all others"), []).append(entry)
    beside = ", ".join(f"{_kept(part)} beside {name}" for name, part in sorted(
        parts.items(), key=lambda item: [*COUNTED.values(), "all others"].index(item[0])))
    return (f"{_kept(entries)} orderings kept: {beside}.\n\n"
            f"{_ratios(entries, 'jaxcal')}")


def _em_alone(summaries) -> list[str]:
    entries = em_alone(summaries)
    return [f"EM over latents alone, without the refinement, not counted above: {_kept(entries)} "
            f"at most half of the error of the particle filter.\n\n"
            f"{_ratios(entries, 'EM over latents alone')}"] if entries else []


def _kept(entries) -> str:
    return f"{sum(entry['kept'] for entry in entries)} of {len(entries)}"


def _ratios(entries, own: str) -> str:
    """Orderings as a table: for each method how many were kept, the ratios, and where the largest
    is, which is nearest to (or farthest beyond) what was promised."""
    groups = {}
    for entry in entries:
        groups.setdefault((entry["case"], entry["method"], entry["share"]), []).append(entry)
    rows = []
    for (case, method, share), group in groups.items():
        least, worst = (pick(group, key=lambda e: e["ratio"]) for pick in (min, max))
        told = _kept(group)
        statistic = "90 %" if worst["statistic"] == "90" else worst["statistic"]
        rows.append((f"{_place(case)}, {LABELS[method]}", f"{share:g}",
                     told if all(e["kept"] for e in group) else f"**{told}**",
                     f"{least['ratio']:.2f} ... {worst['ratio']:.2f}",
                     f"{statistic}, {worst['own_frames']} and {worst['frames']} frames: "
                     f"{worst['own_nm']:.2f} and {worst['other_nm']:.2f} nm"))
    head = (f"error of {own} over that of", "at most", "kept", "ratio", "largest: where")
    return provenance.markdown(head, rows)


def _place(case: str) -> str:
    return {"reality": "other simulator", "wide": "3 knobs, wide steps"}.get(case, f"{case} knobs")


def _made_with(made) -> str:
    gaps = [f"gain error {100 * made['gain_error']:g} %"] if made["gain_error"] else []
    gaps += [f"drift {made['drift_nm']:g} nm per frame"] if made["drift_nm"] else []
    return (f"{made['instruments']} instruments, seeds {made['seeds'][0]} to {made['seeds'][1]}, "
            f"{', '.join(gaps) or 'knobs act as told'}. " + provenance.source(made))


def draw(summaries, path) -> None:
    """Error against frames: medians above, 90th percentiles below, one column for each set of
    knobs and for the series of the other simulator."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": QUIET,
             "axes.spines.top": False, "axes.spines.right": False, "xtick.color": QUIET,
             "ytick.color": QUIET, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
             "legend.frameon": False, "legend.fontsize": 7, "svg.hashsalt": "jaxcal",
             "figure.constrained_layout.use": True, "axes.titlelocation": "left"}
    others = [method for method in LABELS if method != "jaxcal"]
    colours = {"jaxcal": COLOURS[0]} | dict(zip(others, (*COLOURS[1:], *MORE_COLOURS), strict=True))
    with plt.rc_context(style):
        figure, axes = plt.subplots(2, len(summaries), figsize=(1 + 2.15 * len(summaries), 6.4),
                                    sharey=True, sharex="col", squeeze=False)
        lines = {}
        for column, (case, methods) in zip(axes.T, summaries.items(), strict=True):
            for one, (statistic, label) in zip(column, (("median", "median"), ("90", "90 %")),
                                               strict=True):
                for method, entry in methods.items():
                    frames = sorted(map(int, entry["frames"]))
                    own = method == "jaxcal"
                    dashed = method.startswith(("bayesopt", "package"))
                    lines[method], = one.plot(
                        frames, [_error(entry["frames"], n, statistic) for n in frames],
                        "--" if dashed else "-", marker="s" if dashed else "o", ms=2.5,
                        color=colours[method], lw=2.2 if own else 1.1, label=LABELS[method],
                        zorder=4 if own else 3)
                one.set(xscale="log", yscale="log")
                one.set_title(f"{_place(case)}, {label}")
                one.grid(color=FAINT, lw=0.4, which="both")
                ticks = [n for n in FRAMES_DRAWN if n <= max(
                    (int(m) for entry in methods.values() for m in entry["frames"]), default=0)]
                one.set_xticks(ticks, list(map(str, ticks)))
                one.minorticks_off()
            column[-1].set_xlabel("frames")
        for row in axes:
            row[0].set_ylabel("error of C10, C12 (nm)")
        shown = [lines[method] for method in LABELS if method in lines]
        figure.legend(shown, [line.get_label() for line in shown], loc="outside lower center",
                      ncols=3)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(drawn.getvalue())
