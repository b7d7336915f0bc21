"""One command makes all tables and figures: what it calls, what it skips, what it tells."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
spec = importlib.util.spec_from_file_location("jaxcal_evidence", ROOT / "scripts" / "evidence.py")
evidence = importlib.util.module_from_spec(spec)
spec.loader.exec_module(evidence)


@pytest.fixture
def calls(monkeypatch, tmp_path):
    """Calls instead of measurements: the commands, with the status that each is to end with."""
    made, status = [], {}

    def run(command, folder):
        made.append((command, folder))
        return status.get(command, 0)

    monkeypatch.setattr(evidence, "run", run)
    return made, status, ["--ledger", str(tmp_path / "evidence.json"), "--folder", str(tmp_path)]


def test_every_table_of_the_documentation_is_made_by_a_step():
    """The places for tables in docs/results.md against the names that the steps' scripts put."""
    places = set(re.findall(r"<!-- (?!end )(\w+) -->", (ROOT / "docs/results.md").read_text()))
    scripts = {step.command[1] for step in evidence.STEPS.values() if step.command[0] == "-m"}
    sources = "".join((ROOT / (f"{script.replace('.', '/')}.py" if "." in script
                               else f"{script}/__main__.py")).read_text() for script in scripts)
    named = {place for place in places if f'"{place}"' in sources}
    assert places - named <= {"reality_command", "reality_published"}
    assert 'f"reality_{name}"' in sources


def test_a_step_that_was_measured_with_this_code_is_left_alone(calls, capsys, monkeypatch):
    made, status, options = calls
    two = ["--only", "nuts", "telescope", *options]
    status[evidence.STEPS["nuts"].command] = 1
    assert evidence.main(two) == 1
    assert "nuts             a promise is NOT KEPT" in capsys.readouterr().out
    assert [command for command, _ in made] == [
        evidence.STEPS["nuts"].command, evidence.STEPS["telescope"].command]
    assert evidence.main(two) == 1 and len(made) == 2  # still not kept
    assert evidence.main([*two, "--again"]) == 1 and len(made) == 4
    monkeypatch.setattr(evidence, "made_from", lambda step: "other code")
    assert evidence.main(two) == 1 and len(made) == 6


def test_a_step_that_fails_is_tried_again_and_stops_no_other(calls, capsys):
    made, status, options = calls
    status[evidence.STEPS["nuts"].command] = 2
    two = ["--only", "nuts", "telescope", *options]
    assert evidence.main(two) == 1 and len(made) == 2
    assert "FAILED, status 2" in capsys.readouterr().out
    status.clear()
    assert evidence.main(two) == 0 and len(made) == 3  # the telescope was done


def test_a_ledger_that_was_torn_is_made_anew(calls):
    made, _, options = calls
    Path(options[1]).write_text('{"nuts": {')
    assert evidence.main(["--only", "nuts", *options]) == 0 and len(made) == 1
    assert json.loads(Path(options[1]).read_text())["nuts"]["status"] == 0


def test_series_of_the_other_simulator_are_passed_on_or_missed(calls, capsys, tmp_path):
    made, _, options = calls
    assert evidence.main(["--only", "reality", *options]) == 0
    assert made[-1][1] == tmp_path.resolve()
    options[-1] = str(tmp_path / "nowhere")
    assert evidence.main(["--only", "reality", *options, "--again"]) == 0 and len(made) == 1
    assert "skipped" in capsys.readouterr().out


def test_quick_forms_write_no_ledger(calls):
    made, _, options = calls
    assert evidence.main(["--quick", *options]) == 0
    assert [command for command, _ in made] == [
        step.quick for step in evidence.STEPS.values() if step.quick]
    assert not Path(options[1]).exists()


def test_a_command_that_ends_badly_is_told_by_its_status():
    assert evidence.run(("-c", "import sys, benchmarks; sys.exit(3)"), None) == 3


@pytest.mark.slow
def test_the_claims_hold_on_a_few_instruments(tmp_path, capfd):
    """The orderings that the documentation claims, in their smallest form, without training."""
    status = evidence.main(["--quick", "--ledger", str(tmp_path / "none.json")])
    assert status == 0, capfd.readouterr().out[-3000:]
