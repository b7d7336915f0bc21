"""Where numbers come from: versions, commit, model, machine; and the tables in the docs."""

import contextlib
import hashlib
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import jax

from jaxcal.files import write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "results.md"
MODEL = ROOT / "jaxcal" / "models" / "default.safetensors"
# Modules that no measured number depends on, but for those of a benchmark that measures one of them
# and adds it to its own digest (benchmarks/tracking.py).
NO_NUMBERS = {"report", "figures", "console", "cli", "commands", "inputs", "notations",
              "notation_reports", "ceos", "nion", "replay", "runs", "tracking", "conformance",
              "nexus", "recordings", "recorded_optics", "knob_table", "png", "thumbnails", "watch",
              "watched", "watch_page", "watch_figures"}
SERIES = ROOT.parent / "shared" / "reality"  # of another simulator, where they are there
PACKAGES = ("jax", "jaxlib", "flax", "optax", "tinygp", "numpy", "scipy")
# What single benchmarks measure beside or sample with, where it is installed.
BESIDE = ("torch", "abtem", "gpytorch", "scikit-learn", "numpyro", "bayesian-optimization")


def digest(*paths) -> str:
    """First twelve digits of the SHA-256 of the files' contents, in order."""
    total = hashlib.sha256()
    for path in paths:
        total.update(Path(path).read_bytes())
    return total.hexdigest()[:12]


def code(*scripts) -> str:
    """Digest of the package's sources, and of scripts: what the numbers depend on besides the
    model."""
    return digest(*sorted(file for file in (ROOT / "jaxcal").rglob("*.py")
                          if file.stem not in NO_NUMBERS), *scripts)


def commit() -> str:
    """The checkout's commit, "+changes" where the package or the benchmarks differ from it;
    "unknown" outside."""
    def git(*arguments):
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True,
                              check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--",
                      "jaxcal", "benchmarks/*.py")
        return git("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def installed(packages) -> dict[str, str]:
    """Versions of those packages that are there, by name."""
    versions = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def processor(told: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model name; what Python knows of it where the system does not tell."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", told.read_text(), re.M)
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def memory_gb() -> float | None:
    """Main memory of the machine, 10^9 bytes; None where the system does not tell."""
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)
    except (AttributeError, OSError, ValueError):
        return None


def provenance(model=None) -> dict:
    """What to keep beside every result; ``model``: path of the weights, the shipped where None."""
    device = jax.devices()[0]
    return {
        "commit": commit(),
        "code": code(),
        "model": digest(model or MODEL) if Path(model or MODEL).is_file() else None,
        "versions": {"python": platform.python_version(),
                     **{name: metadata.version(name) for name in PACKAGES}},
        "beside": installed(BESIDE),
        "device": f"{device.platform} ({device.device_kind})",
        "cores": os.cpu_count(),
        "processor": processor(),
        "memory_gb": memory_gb(),
    }


def write(path, result) -> None:
    """Write a result as JSON, whole or not at all; its folder is made."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1) + "\n")


def fill_in(options, **places) -> None:
    """Where a full run writes if nothing else was said; a quick one writes only where told to."""
    for name, place in places.items():
        if getattr(options, name) is None and not options.quick:
            setattr(options, name, place)


def publish(result, name: str, text: str, json_path, document) -> None:
    """Write a result and put its table ``name`` into a document; None: nowhere."""
    if json_path is not None:
        write(json_path, result)
    if document is not None:
        put(name, text, document)


def markdown(header, rows) -> str:
    """A markdown table; the first column is text, the others are numbers."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def put(name: str, text: str, document=DOCUMENT) -> None:
    """Replace what stands between ``<!-- NAME -->`` and ``<!-- end NAME -->`` in a document.

    Raises:
        ValueError: the document lacks the two marks.
    """
    document = Path(document)
    old = document.read_text(encoding="utf-8")
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.S)
    if not pattern.search(old):
        raise ValueError(f"{document}: no place for the table: put the lines '<!-- {name} -->' and "
                         f"'<!-- end {name} -->' where it belongs")
    new = pattern.sub(lambda m: m.group(1) + text.strip() + "\n" + m.group(2), old)
    write_text(document, new)


def span(seeds) -> str:
    """Seeds in words: "0 to 63", or one by one where some are left out."""
    seeds = sorted(seeds)
    if len(seeds) > 1 and seeds == list(range(seeds[0], seeds[-1] + 1)):
        return f"{seeds[0]} to {seeds[-1]}"
    return ", ".join(map(str, seeds))


def sampled(what: str, seeds, each: str) -> str:
    """A sentence on what a table was made from: how many of what, their seeds, how much of each."""
    return f"{len(seeds)} {what}, seed{'s' * (len(seeds) > 1)} {span(seeds)}, {each}."


def source(result, *beside) -> str:
    """One line under a table: what it was made with.

    ``beside``: packages that count besides `PACKAGES`, told where the result knows of them. Of the
    machine older results know the number of cores alone.
    """
    made = result["provenance"]
    known = made.get("beside", {})
    versions = made["versions"] | {name: known[name] for name in beside if name in known}
    processor, memory = made.get("processor"), made.get("memory_gb")
    return ", ".join([
        f"Commit {made['commit']}", f"model {made['model']}",
        *(f"{'Python' if name == 'python' else name} {number}"
          for name, number in versions.items()),
        f"{made['cores']} cores" + (f" of {processor}" if processor else ""),
        *([f"{memory:g} GB"] if memory else []), made["device"]]) + "."
