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
STATISTICS = ("mean", "median")


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


def orderings(summaries, budget: int) -> list[dict]:
    """The promises, each with its numbers and whether it was kept.

    jaxcal has at most `QUARTER` of the error of the best method by a scalar measure at a `TENTH`
    of its images, and at most `HALF` of that of every other method from as many; in the mean and
    in the median over instruments.
    """
    found = []
    for case, methods in summaries.items():
        own = methods.get("jaxcal", {}).get("frames", {})
        if not own:
            continue
        scalar = {m: e["frames"] for m, e in methods.items()
                  if m.startswith(("bayesopt", "package")) and str(budget) in e["frames"]}
        few = max((int(n) for n in own if int(n) * TENTH <= budget), default=None)
        for statistic in STATISTICS:
            def error(frames, n, statistic=statistic):
                return frames[str(n)]["error_nm"][statistic]

            if scalar and few:
                best = min(scalar, key=lambda m: error(scalar[m], budget))
                found.append(_promise(case, statistic, few, budget, best, QUARTER,
                                      error(own, few), error(scalar[best], budget)))
            for method, entry in methods.items():
                if method in OWN:
                    continue
                for n in own:
                    if n in entry["frames"]:
                        found.append(_promise(case, statistic, n, n, method, HALF, error(own, n),
                                              error(entry["frames"], n)))
    return found


def _promise(case, statistic, own_frames, frames, method, share, own, other) -> dict:
    return {"case": case, "statistic": statistic, "own_frames": int(own_frames),
            "frames": int(frames), "method": method, "share": share, "own_nm": own,
            "other_nm": other, "ratio": own / other if other else np.inf,
            "kept": bool(own <= share * other)}


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
        text += [f"{case} knobs, root mean square error of C10, C12a, C12b (nm): mean / median / "
                 "90 %; seconds and error/sd at the most frames.",
                 table(part, shown, "error_nm"),
                 f"{case} knobs, root mean square over all knobs in π/4 limits:",
                 table(part, shown, "in_limits")]
    return "\n\n".join([*text, promises(made["orderings"]), _made_with(made)])


def promises(entries) -> str:
    """The orderings as a table: for each method how many were kept, and the one nearest to (or
    farthest beyond) what was promised."""
    groups = {}
    for entry in entries:
        groups.setdefault((entry["case"], entry["method"], entry["share"]), []).append(entry)
    rows = []
    for (case, method, share), group in groups.items():
        worst = max(group, key=lambda e: e["ratio"])
        kept = sum(e["kept"] for e in group)
        told = f"{kept} of {len(group)}"
        place = "other simulator" if case == "reality" else f"{case} knobs"
        rows.append((f"{place}, {LABELS[method]}", f"{share:g}",
                     told if kept == len(group) else f"**{told}**", f"{worst['ratio']:.2f}",
                     f"{worst['statistic']}, {worst['own_frames']} and {worst['frames']} frames: "
                     f"{worst['own_nm']:.2f} and {worst['other_nm']:.2f} nm"))
    kept = sum(entry["kept"] for entry in entries)
    head = ("jaxcal's error over that of", "at most", "kept", "largest ratio", "where")
    return f"{kept} of {len(entries)} orderings kept.\n\n{provenance.markdown(head, rows)}"


def _made_with(made) -> str:
    gaps = [f"gain error {100 * made['gain_error']:g} %"] if made["gain_error"] else []
    gaps += [f"drift {made['drift_nm']:g} nm per frame"] if made["drift_nm"] else []
    return (f"{made['instruments']} instruments, seeds {made['seeds'][0]} to {made['seeds'][1]}, "
            f"{', '.join(gaps) or 'knobs act as told'}. " + provenance.source(made))


def draw(summaries, path) -> None:
    """Error against frames, medians and 90th percentiles, one panel for each set of knobs."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    style = {"font.size": 8, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": QUIET,
             "axes.spines.top": False, "axes.spines.right": False, "xtick.color": QUIET,
             "ytick.color": QUIET, "xtick.labelcolor": INK, "ytick.labelcolor": INK,
             "legend.frameon": False, "legend.fontsize": 7, "svg.hashsalt": "jaxcal",
             "figure.constrained_layout.use": True, "axes.titlelocation": "left"}
    cases = [case for case in summaries if case != "reality"]
    others = [method for method in LABELS if method != "jaxcal"]
    colours = dict(zip(others, (*COLOURS[1:], *COLOURS), strict=False))
    with plt.rc_context(style):
        figure, axes = plt.subplots(1, len(cases), figsize=(7.4, 3.9), sharey=True, squeeze=False)
        for one, case in zip(axes[0], cases, strict=True):
            for method, entry in summaries[case].items():
                frames = sorted(map(int, entry["frames"]))
                if not frames:
                    continue
                median, high = ([entry["frames"][str(n)]["error_nm"][k] for n in frames]
                                for k in ("median", "90"))
                own = method == "jaxcal"
                dashed = method.startswith(("bayesopt", "package"))
                colour = COLOURS[0] if own else colours[method]
                one.plot(frames, median, "--" if dashed else "-", marker="o", ms=2.5,
                         color=colour, lw=2.2 if own else 1.1, label=LABELS[method], zorder=3)
                if own:
                    one.fill_between(frames, median, high, color=colour, alpha=0.15, lw=0)
            one.set(xscale="log", yscale="log", xlabel="frames", title=f"{case} knobs")
            one.grid(color=FAINT, lw=0.4, which="both")
            one.set_xticks([3, 5, 10, 30, 100], ["3", "5", "10", "30", "100"])
            one.minorticks_off()
        axes[0, 0].set_ylabel("error of C10, C12 (nm, median)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3)
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        plt.close(figure)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(drawn.getvalue())
