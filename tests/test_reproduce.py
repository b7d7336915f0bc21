"""One command makes all tables and figures: what it calls, what it skips, what it tells."""

import ast
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
spec = importlib.util.spec_from_file_location("jaxcal_reproduce", ROOT / "scripts" / "reproduce.py")
reproduce = importlib.util.module_from_spec(spec)
spec.loader.exec_module(reproduce)

from benchmarks import provenance, reality, tracking  # noqa: E402

TWO = ("nuts", "telescope")


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Calls instead of measurements: which steps were called, with the statuses to end with."""
    made, status = [], {}

    def run(arguments):
        name = next(name for name, step in reproduce.STEPS.items()
                    if arguments[: len(step.script)] == step.script
                    and (arguments[len(step.script):][: len(step.arguments)] == step.arguments
                         or step.quick))
        made.append((name, arguments))
        return status.get(name, 0)

    monkeypatch.setattr(reproduce, "run", run)
    return made, status, ["--out", str(tmp_path / "out"), "--folder", str(tmp_path)]


def test_every_table_and_figure_of_the_documentation_is_made_by_a_step():
    """The places for tables in docs/results.md against the names that the steps' scripts put, and
    the pictures in docs/ against what the steps draw."""
    places = set(re.findall(r"<!-- (?!end )(\w+) -->", (ROOT / "docs/results.md").read_text()))
    modules = {step.script[1] for step in reproduce.STEPS.values() if step.script[0] == "-m"}
    sources = "".join((ROOT / (f"{module.replace('.', '/')}.py" if "." in module
                               else f"{module}/__main__.py")).read_text() for module in modules)
    sources += "".join((ROOT / step.script[0]).read_text() for step in reproduce.STEPS.values()
                       if step.script[0] != "-m")
    named = {place for place in places if f'"{place}"' in sources}
    scored = {place for name in ("reality", "multislice") for place in reality.tables(
        json.loads((ROOT / f"benchmarks/results/{name}.json").read_text()), name)}
    assert places - named == scored | {"speed_gpu",  # that takes a GPU
                                       "by_one_command"}  # of these very steps, see below
    drawn = {name for step in reproduce.STEPS.values() for kind, name in step.writes.items()
             if kind in ("picture", "figure")}
    drawn |= {f"{name}.png" for name in re.findall(
        r'^    "(\w+)": Figure', (ROOT / "scripts/figures.py").read_text(), re.M)}
    shown = {path.name for path in (ROOT / "docs").iterdir() if path.suffix in (".png", ".svg")}
    assert shown and shown <= drawn


def test_everything_is_meant_to_take_less_than_three_hours():
    """With a margin for a machine that is slower than was thought: the minutes are expected."""
    assert sum(step.minutes for step in reproduce.STEPS.values()) <= 165


def test_the_page_says_how_many_are_documented_and_how_many_are_measured_here():
    page = (ROOT / "docs" / "results.md").read_text()
    shown = re.search("<!-- by_one_command -->\n(.*?)\n<!-- end by_one_command -->", page, re.S)[1]
    assert shown == reproduce.sizes(), 'old: provenance.put("by_one_command", reproduce.sizes())'
    assert all(0 < reproduce.taken(name) <= reproduce.documented(where)
               for name, (_, where, _) in reproduce.SIZES.items())


def test_no_step_takes_fewer_than_documented_without_saying_so():
    """A step with an argument that is no option of form is in the table of sizes."""
    form = {"--float64", "--frames", "--published", "--folder", "--name", "--drift", "--no-refine"}
    said = {"speed_float64": {"--repetitions"},  # five, as its table has it
            "scaling": {"--repeats"}, "comparison": {"--counts"}}  # below the table
    for name, step in reproduce.STEPS.items():
        options = {a for a in step.arguments if a.startswith("--")} - form - said.get(name, set())
        assert options == ({reproduce.SIZES[name][-1]} if name in reproduce.SIZES else set()), name
    made = json.loads((provenance.RESULTS / "speed_float64.json").read_text())
    assert {str(entry["repetitions"]) for entry in made} == {
        reproduce.STEPS["speed_float64"].arguments[-1]}


def test_outputs_go_to_the_folder(tmp_path):
    step = reproduce.STEPS["closed_loop"]
    arguments = reproduce.command(step, tmp_path)
    for flag, path in (("--json", "results/closed_loop.json"), ("--document", "results.md"),
                       ("--lines", "runs/closed_loop.jsonl")):
        assert arguments[arguments.index(flag) + 1] == str(tmp_path / path)


def test_a_new_folder_has_no_old_tables(calls, tmp_path):
    _, _, options = calls
    assert reproduce.main(["--only", *TWO, *options]) == 0
    text = (tmp_path / "out" / "results.md").read_text()
    assert "<!-- nuts -->\n<!-- end nuts -->" in text and "EM beside a sampler" in text
    assert reproduce.sizes() in text  # that is no measurement
    assert reproduce.without_tables(text) == text


def test_a_step_that_was_measured_with_this_code_is_left_alone(calls, capsys, monkeypatch):
    made, status, options = calls
    two = ["--only", *TWO, *options]
    status["nuts"] = 1
    assert reproduce.main(two) == 1
    assert re.search(r"^nuts +a promise is NOT KEPT", capsys.readouterr().out, re.M)
    assert [name for name, _ in made] == list(TWO)
    assert reproduce.main(two) == 1 and len(made) == 2  # still not kept
    assert reproduce.main([*two, "--again"]) == 1 and len(made) == 4
    monkeypatch.setattr(reproduce, "made_from", lambda *_: "other code")
    assert reproduce.main(two) == 1 and len(made) == 6


def imported(path):
    """Modules of the package that a script imports, by their last names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jaxcal":
            names |= {alias.name for alias in node.names} | {node.module.split(".")[-1]}
        elif isinstance(node, ast.Import):
            names |= {alias.name.split(".")[-1] for alias in node.names}
    return names


def test_a_step_depends_on_the_module_that_it_measures():
    """Also where the digest of all other numbers leaves the module out: nothing but drawing is."""
    for name, step in reproduce.STEPS.items():
        script = (f"{step.script[1].replace('.', '/')}.py" if step.script[1:] and
                  "." in step.script[1] else "benchmarks/__main__.py" if step.script[1:]
                  else step.script[0])
        missed = imported(ROOT / script) & provenance.NO_NUMBERS - {"figures"}
        assert missed == set(step.measures), name
    assert reproduce.STEPS["tracking"].measures


def test_a_followed_instrument_is_measured_anew_where_its_module_changed(monkeypatch, tmp_path):
    """Of a checkout with other bytes in jaxcal/tracking.py the digests of that step differ, in the
    ledger and in the benchmark's lines, and those of no other step and no other benchmark."""
    def digests():
        wanted = []
        monkeypatch.setattr(tracking.kept, "each",
                            lambda lines, settings, *_: wanted.append(settings) or [
                                {"failed": "not run"}])
        assert tracking.main(["--lines", str(tmp_path / "lines")]) == 1
        return {name: reproduce.made_from((), step.measures)
                for name, step in reproduce.STEPS.items()}, wanted, provenance.code()

    ledger, (settings,), package = digests()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (
        path == ROOT / "jaxcal" / "tracking.py"))
    other, (changed,), same = digests()
    assert {name for name in ledger if ledger[name] != other[name]} == {"tracking"}
    assert changed["code"] != settings["code"] and same == package


def test_a_step_that_fails_is_tried_again_and_stops_no_other(calls, capsys):
    made, status, options = calls
    status["nuts"] = 2
    two = ["--only", *TWO, *options]
    assert reproduce.main(two) == 1 and len(made) == 2
    assert "FAILED, status 2" in capsys.readouterr().out
    status.clear()
    assert reproduce.main(two) == 0 and len(made) == 3  # the telescope was done


def test_a_ledger_that_was_torn_is_made_anew(calls, tmp_path):
    made, _, options = calls
    ledger = tmp_path / "out" / "reproduce.json"
    ledger.parent.mkdir()
    ledger.write_text('{"nuts": {')
    assert reproduce.main(["--only", "nuts", *options]) == 0 and len(made) == 1
    assert json.loads(ledger.read_text())["nuts"]["status"] == 0


def test_series_of_the_other_simulator_are_passed_on_or_missed(calls, capsys, tmp_path):
    made, _, options = calls
    assert reproduce.main(["--only", "reality", "comparison", "figures", *options]) == 0
    assert [arguments[-2:] for _, arguments in made] == [
        (flag, str(tmp_path.resolve())) for flag in ("--folder", "--folder", "--reality")]
    options[-1] = str(tmp_path / "nowhere")
    assert reproduce.main(["--only", "reality", *options, "--again"]) == 0 and len(made) == 3
    assert "skipped" in capsys.readouterr().out


def test_quick_takes_the_small_forms(calls, tmp_path):
    made, _, options = calls
    assert reproduce.main(["--quick", *options]) == 0
    small = [name for name, step in reproduce.STEPS.items() if step.quick]
    ledger = json.loads((tmp_path / "out" / "reproduce.json").read_text())
    assert list(ledger) == small and all(entry["minutes"] >= 0 for entry in ledger.values())
    assert [name for name, _ in made] == small
    for name, arguments in made:
        step = reproduce.STEPS[name]
        assert arguments[len(step.script):][: len(step.quick)] == step.quick


def test_a_command_that_ends_badly_is_told_by_its_status():
    assert reproduce.run(("-c", "import sys, benchmarks; sys.exit(3)")) == 3


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_claims_hold_on_a_few_instruments(tmp_path, capfd):
    """Of what the documentation claims: identifiability; the telescope; and of the comparison
    three knobs, three and five frames, the methods that need no training, at wider shares
    (`comparison_summary.QUICK`)."""
    status = reproduce.main(["--quick", "--out", str(tmp_path)])
    assert status == 0, capfd.readouterr().out[-3000:]
    text = (tmp_path / "results.md").read_text()
    for name in ("identifiability", "comparison", "telescope"):
        assert f"<!-- {name} -->\n<!-- end" not in text
        assert (tmp_path / "results" / f"{name}.json").is_file()
    assert (tmp_path / "windows.png").is_file() and (tmp_path / "identifiability.png").is_file()
