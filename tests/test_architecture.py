"""Data flows one way: the imports of the package against the arrows of the design.

    aberrations -> ronchigram -> detector -> spectra -> vae -> latent_map -> em -> calibration

A module may import what stands before it, never what stands after it.
"""

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "jaxcal"

NUMERICAL = {
    "circular_polynomials", "aberrations", "optics", "specimen", "ronchigram", "detector",
    "simulation", "stream", "disc_fit", "aperture", "spectra", "tiles", "gratings", "splatting",
    "hologram", "fisher", "vae", "latent_map", "em", "modes", "unknowns", "posterior", "laplace",
    "refine", "acquisition", "identification", "devices",
}  # fmt: skip
"""Pure functions of arrays: no files, no plots, no argument parsing."""

WAVE_OPTICS = {
    "circular_polynomials", "aberrations", "notations", "notation_reports", "optics", "specimen",
    "ronchigram", "simulation", "stream", "detector", "tiles", "gratings", "splatting", "hologram",
    "fisher",
}  # fmt: skip

OUTSIDE = {
    "os", "sys", "io", "pathlib", "shutil", "tempfile", "glob", "json", "csv", "pickle", "argparse",
    "h5py", "safetensors", "orbax", "matplotlib", "PIL", "rich", "tyro",
}  # fmt: skip
"""What touches files, screens and command lines."""

CORES = {"os.sched_getaffinity", "os.cpu_count"}
"""What `devices` may ask the system for: how many cores there are."""

SHELL = {
    "files", "series", "series_checks", "recordings", "recorded_optics", "knob_table", "results",
    "nexus", "microscopes", "observation", "inconsistency", "answers", "basins", "estimation",
    "verification", "diagnosis", "runs", "decisions", "course", "calibration", "tracking",
    "conformance", "report", "figures", "console",
    "inputs", "commands", "cli", "training", "model",
    "png", "thumbnails", "watched", "watch_figures", "watch_page", "watch",
}  # fmt: skip
"""What reads, writes, shows or drives: nothing numerical leans on it."""

# What must never import what; both sides are modules of the package.
FORBIDDEN = {
    "inputs": {"cli", "commands", "console", "report", "results", "calibration", "estimation"},
    "devices": (NUMERICAL | SHELL) - {"devices"},
    "circular_polynomials": NUMERICAL - {"circular_polynomials"},
    "aberrations": NUMERICAL - {"aberrations", "circular_polynomials"},
    "optics": NUMERICAL - {"aberrations", "optics"},
    "specimen": {"spectra", "vae", "latent_map", "em", "simulation", "ronchigram", "detector"},
    "ronchigram": {"detector", "spectra", "vae", "latent_map", "em", "simulation"},
    "detector": {"spectra", "vae", "latent_map", "em", "simulation", "ronchigram"},
    "spectra": {"vae", "latent_map", "em", "simulation", "stream"},
    "disc_fit": {"vae", "latent_map", "em", "simulation", "stream", "aperture"},
    "aperture": {"vae", "latent_map", "em", "simulation", "stream"},
    "simulation": {"vae", "latent_map", "em", "tiles", "hologram"},
    "tiles": {"vae", "latent_map", "em", "simulation", "stream", "hologram", "posterior",
              "refine"},
    "gratings": NUMERICAL - {"gratings", "aberrations"},
    "splatting": NUMERICAL - {"splatting", "tiles"},
    "hologram": {"vae", "latent_map", "em", "simulation", "spectra", "detector", "posterior",
                 "refine"},
    "fisher": {"vae", "latent_map", "em", "hologram", "posterior", "refine", "acquisition"},
    "unknowns": {"vae", "latent_map", "em", "posterior", "refine", "acquisition", "aperture",
                 "disc_fit"},
    "posterior": {"vae", "latent_map", "em", "laplace", "refine", "acquisition", "aperture",
                  "disc_fit"},
    "laplace": {"vae", "latent_map", "em", "hologram", "refine", "acquisition", "aperture",
                "disc_fit"},
    "refine": {"vae", "latent_map", "em", "acquisition", "aperture", "disc_fit"},
    "identification": {"vae", "latent_map", "em", "acquisition", "aperture", "disc_fit", "model"},
    "vae": WAVE_OPTICS | {"spectra", "latent_map", "em", "refine", "acquisition"},
    "latent_map": WAVE_OPTICS | {"spectra", "vae", "em", "refine", "acquisition"},
    "em": WAVE_OPTICS | {"spectra", "vae", "refine", "acquisition", "identification"},
    "series": {"estimation", "calibration", "report", "cli", "commands", "microscopes"},
    "series_checks": SHELL - {"series_checks"},
    "observation": {"estimation", "em", "vae", "latent_map", "model", "refine", "calibration"},
    "answers": {"estimation", "decisions", "calibration", "report", "cli", "commands"},
    "course": {"calibration", "decisions", "tracking", "report", "figures", "cli", "commands",
               "console"},
    "diagnosis": {"estimation", "calibration", "em", "vae", "latent_map", "model", "refine"},
    "decisions": {"calibration", "runs", "microscopes", "report", "cli", "commands"},
    "basins": {"refine", "posterior", "laplace", "estimation", "calibration", "decisions",
               "acquisition", "report", "figures", "cli", "commands", "console"},
    "estimation": {"calibration", "decisions", "acquisition", "report", "figures", "cli",
                   "commands", "console"},
    "verification": {"calibration", "acquisition", "report", "figures", "cli", "commands"},
    "microscopes": {"estimation", "calibration",
                    "report", "cli", "commands", "vae", "latent_map", "em"},
    "calibration": {"report", "figures", "cli", "commands", "console"},
    "report": {"cli", "commands", "console", "calibration", "em", "vae", "latent_map"},
    "figures": (NUMERICAL | SHELL) - {"thumbnails"},
    "thumbnails": NUMERICAL | SHELL,
    "results": {"cli", "commands", "report", "calibration"},
    "png": NUMERICAL | SHELL,
    **{
        name: NUMERICAL | SHELL - {"figures", "thumbnails", "png", "watched", "watch_figures",
                                   "watch_page"}
        for name in ("watched", "watch_figures", "watch_page", "watch")
    },
    "nexus": {"cli", "commands", "report", "calibration", "estimation", "recordings"},
    "recorded_optics": {"recordings", "knob_table", "series", "cli", "commands"},
    "recordings": {"knob_table", "estimation", "calibration", "report", "cli", "commands"},
    "knob_table": {"estimation", "calibration", "report", "cli", "commands", "microscopes"},
}


def module_name(path):
    """ "em" for jaxcal/em.py, "microscopes.replay", "reference.gp", "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


@cache
def imports(path, *, runtime_only=True):
    """Every module a file imports, also inside functions: absolute dotted names.

    What stands under ``if TYPE_CHECKING`` is never executed and does not count.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
    found = set()

    def visit(node):
        if runtime_only and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = node.module or ""
            if node.level:
                base = ("jaxcal", *path.relative_to(PACKAGE).parts[: -node.level])
                home = ".".join([*base, *([home] if home else [])])
            # "from jaxcal import em" imports jaxcal.em; "from jaxcal.em import step" jaxcal.em.
            found.update(f"{home}.{alias.name}" for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(tree)
    return found


def inside(names):
    """First component below the package of what is imported from it."""
    return {name.split(".")[1] for name in names if name.startswith("jaxcal.")}


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {name: path for name, path in FILES.items() if name}


def numerical(name):
    return name in NUMERICAL or name.split(".")[0] == "reference"


@pytest.mark.parametrize("name", [name for name in MODULES if numerical(name)])
def test_numerical_modules_touch_no_files_plots_or_arguments(name):
    found = imports(MODULES[name])
    outside = {module for module in found if module.split(".")[0] in OUTSIDE}
    if name == "devices":
        outside -= CORES
    assert not outside, f"{name} imports {sorted(outside)}: move that to the caller"
    assert not inside(found) & SHELL, f"{name} leans on {sorted(inside(found) & SHELL)}"
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input"}


@pytest.mark.parametrize("name", list(MODULES))
def test_no_arrow_points_back(name):
    wrong = inside(imports(MODULES[name])) & FORBIDDEN.get(name.split(".")[0], set())
    wrong -= {name.split(".")[0]}
    assert not wrong, f"{name} imports {sorted(wrong)}, which stands after it in the data flow"


def test_every_numerical_module_that_is_here_is_known():
    """A new module must be given its place, or it would escape these tests."""
    known = NUMERICAL | WAVE_OPTICS | SHELL | {"reference"}
    new = {name.split(".")[0] for name in MODULES} - known
    assert not new, f"add {sorted(new)} to NUMERICAL or SHELL in {Path(__file__).name}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("reference")])
def test_reference_is_numpy_alone(name):
    roots = {module.split(".")[0] for module in imports(MODULES[name])}
    assert not roots & {"jax", "jaxlib", "flax", "optax", "tinygp", "numpyro"}
    assert inside(imports(MODULES[name])) <= {"reference"}


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("reference")])
def test_nothing_imports_the_reference(name):
    assert "reference" not in inside(imports(MODULES[name]))


def test_no_import_runs_in_a_circle():
    graph = {
        name: {
            other for other in MODULES
            for found in imports(path)
            if found == f"jaxcal.{other}" or found.startswith(f"jaxcal.{other}.")
        } - {name}
        for name, path in MODULES.items()
    }  # fmt: skip
    packages = {name for name in MODULES if MODULES[name].name == "__init__.py"}
    state = {}

    def walk(name, trail):
        if state.get(name) == "done":
            return
        assert state.get(name) != "open", f"circle: {' -> '.join([*trail, name])}"
        state[name] = "open"
        for other in sorted(graph[name]):
            # A module of a package may name its own package: that is where it lives.
            if other in packages and name.startswith(f"{other}."):
                continue
            walk(other, [*trail, name])
        state[name] = "done"

    for name in graph:
        walk(name, [])


def loaded_after(code):
    """Top-level modules loaded by a fresh interpreter that ran ``code``."""
    program = f"{code}\nimport sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
    )  # fmt: skip
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "code", ["import jaxcal", "import jaxcal.cli", "dir(__import__('jaxcal'))"]
)
def test_importing_the_package_does_not_wait_for_jax(code):
    assert not loaded_after(code) & {"jax", "numpy", "flax", "h5py", "matplotlib"}


def test_numpy_only_after_openblas_is_told():
    assert "numpy" not in loaded_after("import jaxcal.cli")
    code = "import jaxcal.cli, os; assert os.environ['OPENBLAS_NUM_THREADS']"
    loaded_after(code)


def test_the_public_names_are_listed_and_found():
    import jaxcal

    assert set(jaxcal.__all__) == set(jaxcal._HOME)
    for name, home in jaxcal._HOME.items():
        if home.split(".")[1] in {module.split(".")[0] for module in MODULES}:
            assert getattr(jaxcal, name).__name__
    with pytest.raises(AttributeError, match="no attribute 'Ronchi'.*calibrate"):
        jaxcal.Ronchi  # noqa: B018


def test_the_checks_see_what_they_should(tmp_path):
    """The reader of imports itself: plain, from, relative, inside a function; not type hints."""
    source = (
        "from typing import TYPE_CHECKING\nimport jaxcal.em\nfrom jaxcal import vae\n"
        "def f():\n    from jaxcal.series import read\n"
        "if TYPE_CHECKING:\n    from jaxcal import report\n"
    )
    path = tmp_path / "x.py"
    path.write_text(source)
    assert inside(imports(path)) == {"em", "vae", "series"}
    assert "report" in inside(imports(path, runtime_only=False))
