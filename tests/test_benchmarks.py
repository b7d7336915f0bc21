"""The benchmarks and the scripts of the documentation run, in their smallest form."""

import doctest
import importlib.util
import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import standins

import jaxcal
from jaxcal import em, estimation, latent_map, model, observation, spectra
from jaxcal.simulation import Grid

ROOT = Path(__file__).parent.parent


def load(name, path):
    """A module, or a package with its folder, from a file of the checkout."""
    folder = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=folder)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


load("benchmarks", ROOT / "benchmarks" / "__init__.py")

from benchmarks import __main__ as speed  # noqa: E402
from benchmarks import (  # noqa: E402
    aims,
    bound,
    broken_symmetry,
    candidates_last,
    closed_loop,
    coverage,
    e_step,
    faults,
    gradient,
    kept,
    parts,
    platforms,
    provenance,
    pytorch,
    reality,
    roofline,
    scaling,
    scoring,
    simulate,
    startup,
    steps,
    stream,
    timing,
    train,
    unexplained,
    unlike,
    verification,
)
from benchmarks import estimate as whole  # noqa: E402
from benchmarks import tracking as followed  # noqa: E402

figures = load("jaxcal_figures_script", ROOT / "scripts" / "figures.py")
drawing = figures.drawing
model_card = load("jaxcal_model_card_script", ROOT / "scripts" / "model_card.py")


ALTERNATIVE = "what jaxcal is measured beside; pip install '.[alternatives]'"


@pytest.fixture
def document(tmp_path):
    """A copy of docs/results.md to write tables into."""
    copy = tmp_path / "results.md"
    copy.write_text((ROOT / "docs" / "results.md").read_text(encoding="utf-8"), encoding="utf-8")
    return copy


# timing -------------------------------------------------------------------------------------------


def test_measure_times_the_first_call_apart():
    calls = []
    timed = timing.measure(lambda x: calls.append(x) or len(calls), 7, repetitions=5)
    assert calls == [7] * 6 and timed.value == 6
    assert len(timed.seconds) == 5 and 0 <= min(timed.seconds) <= timed.median
    assert timed.compile >= 0
    assert timed.scaled(3.0).median == pytest.approx(3 * timed.median)


def test_forms_of_the_same_work_are_timed_in_turn():
    calls = []
    forms = {"jaxcal": timing.Form(calls.append, ("a",)),
             "other": timing.Form(calls.append, ("b",), times=4.0)}
    timed = timing.in_turn(forms, 3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"  # there and back
    made = timing.entry("any", {}, timed, 8, "calls", None)
    assert made["repetitions"] == 3
    assert made["ratios"]["jaxcal"] == [1.0] * 3
    pairs = [one / ours for one, ours in zip(timed["other"].seconds, timed["jaxcal"].seconds,
                                             strict=True)]
    assert made["ratios"]["other"] == timing.quartiles(pairs)
    assert made["per_second"]["other"] == pytest.approx(8 / timed["other"].median)


def test_aims_are_ratios_of_the_entries():
    """Against the fastest of the rivals that are there; what is not there has no row."""
    def timed(benchmark, case, seconds, **more):
        return {"benchmark": benchmark, "case": case, "seconds": seconds,
                "per_second": {name: 1 / spent for name, spent in seconds.items()},
                "others": {}} | more

    entries = [
        timed("simulate", {"size": 256, "batch": 1},
              {"jaxcal": 2.0, "scipy": 5.0, "torch": 2.8, "ffts alone": 1.0}),
        timed("e_step", {"frames": 8},
              {"jaxcal": 4.0, "candidates last": 0.5, "tinygp_vmap": 8.0, "numpy_batch": 30.0},
              flops_fraction=0.1, others={"candidates last": {"flops_fraction": 0.3}}),
        timed("import", {}, {"jaxcal": 0.2}),
        timed("jaxcal estimate", {"knobs": 3}, {"jaxcal": 16.0})]
    made = {aim.what: aim for aim in aims.aims(entries)}
    assert made["one, 256²: as the best of SciPy and PyTorch"].reached == pytest.approx(1.4)
    assert not made["one, 256²: as the best of SciPy and PyTorch"].kept
    assert made["one, 256²: time over that of its transforms, by any"].kept  # 2 of at most 2.5
    assert made["E-step of 8 frames, the package: as tinygp"].reached == 2
    assert made["E-step of 8 frames, candidates last: as tinygp"].reached == 16
    assert made["E-step of 8 frames, candidates last: as LAPACK in batches"].reached == 60
    assert [made[f"E-step of 8 frames, {form}: of the FLOP rate"].kept
            for form in ("the package", "candidates last")] == [False, True]
    assert made["import jaxcal"].kept
    assert not made["first `jaxcal estimate` of 16 frames, 3 knobs"].kept
    assert len(made) == 10 and not any("NumPy" in what for what in made)
    page = aims.markdown(entries)
    assert "| import jaxcal | at most 1 s | 0.2 s | yes |" in page and "5 of 10 kept" in page


def test_starts_are_those_of_processes_with_a_cache_and_without(monkeypatch):
    """With a stand-in for the command, which tells of its memory."""
    asked = []

    def process(*arguments, environment=None):
        asked.append(environment)
        if environment is None:
            assert arguments[0] == "-c" and arguments[1] in startup.IMPORTS.values()
            return
        found = re.search(r"'estimate', '(.*?)'.*Path\('(.*?)'\)", arguments[1])
        assert Path(found[1]).is_file()
        Path(found[2]).write_text("1234.5")

    monkeypatch.setattr(timing, "process", process)
    monkeypatch.setattr(startup, "FRAMES", 2)
    with jax.enable_x64(False):
        imports, three, seven = startup.run(2)
    assert set(imports["seconds"]) == set(startup.IMPORTS)
    cached = {"JAX_COMPILATION_CACHE_DIR"}
    alone, first, *rest = [one for one in asked if one is not None][:5]
    assert set(alone) == cached and [first, *rest] == [timing.UNCACHED, alone] * 2
    for entry in (three, seven):
        assert entry["repetitions"] == 2 and entry["peak_memory_mb"] == 1234.5
        assert set(entry["seconds"]) == {"jaxcal", "cache filled"}
    assert list(startup.run(2)) == []  # in double precision


def test_a_process_tells_why_it_failed():
    assert timing.process("-c", "print(2 + 2)") == "4\n"
    with pytest.raises(RuntimeError, match="(?s)-c import nothing_there: .*ModuleNotFoundError"):
        timing.process("-c", "import nothing_there")


def test_what_is_compiled_is_listened_to():
    @jax.jit
    def anew(x):
        return jnp.cosh(x) ** 3 + x

    told = parts.compiled_by(lambda: anew(jnp.ones(3)))
    [seconds] = [spent for name, spent in told["compiled"] if name == "jit(anew)"]
    assert seconds > 0 and any(name == "jit(anew)" for name, _ in told["lowered"])
    anew(jnp.ones(4))
    assert len([name for name, _ in told["compiled"] if name == "jit(anew)"]) == 1  # no longer


def test_parts_are_of_the_whole(monkeypatch):
    """As many numbers as the kernel and its coordinates take; a program's name and its seconds.
    The other cores take half a minute to compile."""
    cores = "simulate", "e_step"
    assert set(cores) < set(parts.CORES)
    monkeypatch.setattr(parts, "CANDIDATES", 2 * candidates_last.BLOCK)
    monkeypatch.setattr(timing, "apart", lambda module, environment: {
        "compiled": [("f", 1.0), ("g", 1.0), ("f", 2.0)], "lowered": [("f", 0.5)]})
    with jax.enable_x64(False):
        made = {entry["benchmark"].split()[-1]: entry for entry in parts.run(1, cores)}
    assert set(made) == {*cores, "compilation"}
    assert all("jaxcal" in entry["seconds"] for entry in made.values())
    assert made["compilation"]["seconds"] == {
        "jaxcal": 4.0, "f": 3.0, "g": 1.0, "lowering": 0.5}
    rows = jnp.split(jnp.ones(2 * candidates_last.BLOCK), 2)
    sums = parts.elementwise(lambda x: x, 4)(rows)
    np.testing.assert_allclose(np.concatenate(sums), (1 + 2 + 3 + 4) / 4, rtol=1e-6)


def test_highest_memory_is_counted_from_where_it_was_forgotten():
    if not timing.forget_peak():
        pytest.skip("this system does not forget how much memory a process had")
    before = timing.peak_memory_mb()
    held = np.ones(20_000_000)
    assert timing.peak_memory_mb() - before > 100
    del held
    timing.forget_peak()
    assert timing.peak_memory_mb() - before < 100


def test_scoring_agrees_with_numpy():
    [entry] = scoring.run(1, (3,), 8, model.map_network(scoring.LATENTS, 16))
    assert entry["benchmark"] == "scoring" and entry["case"]["candidates"] == 8
    assert set(entry["seconds"]) == {
        "jaxcal", "network alone", "factors alone", "numpy_batch", "numpy_loop"}
    assert entry["deviation"] < 1e-4  # float32 over the spread of the log likelihoods
    json.dumps(entry)


def test_a_hundred_and_twenty_eight_frames_are_scored_as_numpy_does():
    """In single precision, in blocks of eight of the 16 candidates."""
    with jax.enable_x64(False):
        [entry] = scoring.run(1, (128,), 16, model.map_network(scoring.LATENTS, 16))
    assert entry["dtype"] == "float32" and em.block_of(128) == 8
    assert entry["deviation"] < 1e-3


@pytest.mark.filterwarnings("ignore:.torch.jit.script.")  # GPyTorch's own
def test_e_step_follows_the_contract_and_agrees_with_every_library_that_has_its_kernel(
        monkeypatch):
    monkeypatch.setattr(e_step, "APPENDED", 2)
    entry, one_more = e_step.run(1, (4,), 64)
    assert entry["benchmark"] == "e_step" and entry["case"]["candidates"] == 64
    assert set(entry["seconds"]) >= {
        "jaxcal", "tinygp_vmap", "numpy_batch", "numpy_loop", "candidates last"}
    assert {"roofline_fraction", "peak_memory_mb", "compile_seconds"} <= set(entry)
    assert max(entry["deviation"], entry["others"]["candidates last"]["deviation"]) < 1e-4
    assert set(one_more["seconds"]) == {"jaxcal", "candidates last", "one row"}
    assert one_more["others"]["one row"]["deviation"] < 1e-4
    json.dumps([entry, one_more])
    states, latents = e_step.problem(4, 64)
    map_ = model.load().flat_map
    hyper = jax.tree.map(jnp.float32, map_.prior.mean)
    where = np.asarray(latent_map.kernel_coordinates(states, map_.scale))
    expected = e_step.numpy_form(where.astype(float), np.asarray(latents), hyper,
                                           map_.signs)
    single = e_step.tinygp_form(map_.signs, map_.scale)(states, latents, hyper)
    np.testing.assert_allclose(single, expected, rtol=1e-4)
    plain = e_step.numpy_form(  # of the kernel without a symmetry
        where.astype(float), np.asarray(latents), hyper, np.ones_like(map_.signs[:1]))
    pytest.importorskip("sklearn", reason=ALTERNATIVE)
    fitted = e_step.sklearn_form(hyper)(where.astype(float), np.asarray(latents))
    np.testing.assert_allclose(fitted, plain, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:.torch.jit.script.")  # GPyTorch's own
@pytest.mark.parametrize("name", ["torch", "gpytorch"])
def test_e_step_of_other_libraries_is_the_same(name):
    pytest.importorskip(name, reason=ALTERNATIVE)
    states, latents = e_step.problem(4, 64)
    map_ = model.load().flat_map
    hyper = jax.tree.map(jnp.float32, map_.prior.mean)
    where, latents = np.asarray(latent_map.kernel_coordinates(states, map_.scale)), np.asarray(
        latents)
    form = getattr(e_step, f"{name}_form")(hyper, map_.signs)
    np.testing.assert_allclose(
        form(*pytorch.tensors(where, latents)).cpu(),
        e_step.numpy_form(where.astype(float), latents, hyper, map_.signs), rtol=1e-4)


def test_candidates_last_are_scored_as_by_numpy_and_a_frame_adds_a_row():
    map_ = model.load().flat_map
    states, latents = (np.asarray(part, float) for part in e_step.problem(5, 8))
    hyper = jax.tree.map(float, map_.prior.mean)
    where = np.asarray(latent_map.kernel_coordinates(states, map_.scale))
    [blocks] = candidates_last.blocks(states, map_.scale)
    whole = candidates_last.factorise(blocks, latents, hyper, map_.signs)
    expected = e_step.numpy_form(where, latents, hyper, map_.signs)
    np.testing.assert_allclose(candidates_last.log_likelihood(whole), expected, rtol=1e-9)
    before = candidates_last.factorise(blocks[:-1], latents[:-1], hyper, map_.signs)
    row, white, more = candidates_last.append(before, blocks[-1], latents[-1], hyper, map_.signs)
    np.testing.assert_allclose(candidates_last.log_likelihood(before) + more, expected, rtol=1e-9)
    np.testing.assert_allclose(white, whole.white[-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(row, [column[-1] for column in whole.columns], rtol=1e-9, atol=1e-12)
    together = np.array([[1.0] * 7, [-1.0] * 3 + [1.0] * 4, [1.0] * 3 + [-1.0] * 4])
    with pytest.raises(ValueError, match="independently"):
        candidates_last.factorise(blocks, latents, hyper, together)


@pytest.mark.parametrize("name", ["scipy", "torch", "abtem"])
def test_simulate_agrees_with_numpy(monkeypatch, name):
    pytest.importorskip(name, reason=ALTERNATIVE)
    bright_camera = simulate.CAMERA._replace(dose=1e15, readout=0.0)  # each draws its own noise
    monkeypatch.setattr(simulate, "CAMERA", bright_camera)
    phases, film, spread = case = simulate.problem(256, 72.0)
    frame, image = simulate.with_numpy(*case, 72.0)
    seen, _ = simulate.middle(256, simulate.exposed_side(256, 72.0))
    frame = frame[seen, seen]
    assert frame.shape == (160, 160)
    bright = spectra.MASK & (image > 0)  # bins near zero have large logarithms of small errors
    fast, fast_image = (np.asarray(part) for part in simulate.OTHERS[name](
        *simulate.prepared(name, *case), 72.0))
    if name == "abtem":  # its aperture has a hard edge
        assert np.corrcoef(fast.ravel(), frame.ravel())[0, 1] > 0.99
    else:
        np.testing.assert_allclose(fast, frame, atol=1e-9 * frame.max())
        np.testing.assert_allclose(fast_image[bright], image[bright], atol=0.05)


def test_simulate_measures_what_it_says():
    single, batch = simulate.run(1, ((192, 64.0, 1), (192, 64.0, 3)))
    assert {"jaxcal", "numpy", "scipy"} <= set(single["seconds"])
    assert {"jaxcal", "vmapped", "numpy", "scipy in threads"} <= set(batch["seconds"])
    assert single["dtype"] == "float64" and single["deviation"] < 1e-10
    assert batch["deviation"] < 1e-10  # of the first of a batch, the same state
    assert batch["per_second"]["jaxcal"] == 3 / batch["seconds"]["jaxcal"]


def test_simulate_is_measured_in_single_precision_unless_told_otherwise():
    with jax.enable_x64(False):
        [entry] = simulate.run(1, ((160, 50.0, 1),))
    assert entry["dtype"] == "float32" and 1e-9 < entry["deviation"] < 1e-3


def test_gradient_is_that_of_differences():
    [entry] = gradient.run(1, ((96, 24.0),))
    assert entry["deviation"] < 1e-3 and {"jaxcal", "numpy"} <= set(entry["seconds"])


def test_gradient_by_pytorch_is_the_same():
    pytest.importorskip("torch", reason=ALTERNATIVE)
    case = simulate.problem(96, 24.0)
    wanted = gradient.logarithm(case[0] + gradient.OFF, *case[1:], 24.0)
    phases, film, goal = pytorch.tensors(*case[:2], wanted)
    value, slopes = gradient.with_torch(phases, film, case[2], goal, 24.0)
    expected, differences = gradient.with_numpy(*case, wanted, 24.0)
    np.testing.assert_allclose(value, expected, rtol=1e-3)
    np.testing.assert_allclose(slopes, differences, atol=1e-3 * np.abs(differences).max())


def test_scaling_lays_a_power_law_and_judges_it(monkeypatch, tmp_path, document, capsys):
    """Each case once, the usual one shared by all curves; what is too steep or large is told."""
    for power, peak_mb, status in ((1.5, 800.0, 0), (3.0, 800.0, 1), (1.5, 1200.0, 1)):
        asked = []

        def apart(*arguments, power=power, peak_mb=peak_mb, asked=asked):
            case = json.loads(arguments[2])
            asked.append(case)
            if not case:
                return {"candidates": 10, "frames": 8, "before_mb": 400.0, "peak_mb": peak_mb,
                        "seconds": 2.0, "failed": 0}
            return [case["frames"] * case["candidates"] / 1024 * (case["pixels"] / 256) ** power]

        monkeypatch.setattr(scaling.timing, "apart", apart)
        assert scaling.main(["--json", str(tmp_path / "made.json"),
                             "--document", str(document)]) == status
        assert len(asked) == len({json.dumps(case) for case in asked}) == 12
        made = json.loads((tmp_path / "made.json").read_text())
        found = {name: curve["exponent"] for name, curve in made["curves"].items()}
        np.testing.assert_allclose(
            [found[name] for name in scaling.CURVES], [1.0, 1.0, 0.0, power], atol=1e-9)
        assert "| pixels |" in document.read_text(encoding="utf-8")


def test_scaling_scores_in_blocks_and_makes_finer_frames():
    told = scaling.memory(1500)
    assert told["candidates"] == 1500 and told["failed"] == 0
    assert 0 < told["before_mb"] <= told["peak_mb"]
    made = scaling.series(2, 3, 512, 1)
    assert made.frames.shape == (2, 512, 512) and made.knob_names == ("C10", "C12a", "C12b")
    usual = scaling.series(2, 3, 256, 1)
    assert made.optics.radius_pixels == pytest.approx(2 * usual.optics.radius_pixels)


def test_train_has_a_step_and_an_encoding():
    entries = train.run(1, 8)
    assert [entry["benchmark"] for entry in entries] == ["train", "encode"]
    for entry in entries:
        assert entry["seconds"]["jaxcal"] > 0 and entry["roofline_fraction"] > 0
    pytest.importorskip("torch", reason=ALTERNATIVE)
    for entry in entries:  # the loss after a step, and the latents
        assert entry["deviation"] < 1e-3


def test_stream_is_counted_in_spectra():
    bucket = stream.stream.BUCKETS[0]._replace(grid=Grid(64, 18.0), highest=4.0, frames=2)
    [entry] = stream.run(1, (bucket,))
    assert entry["per_second"]["jaxcal"] == 8 / entry["seconds"]["jaxcal"]  # four of a frame
    assert entry["deviation"] == 0


def test_answers_of_two_machines_are_compared(tmp_path, monkeypatch, capsys):
    """In standard deviations, by knob; a series that only one has is left out."""
    def found(knobs, sd):
        return {"tuned_knobs_nm": knobs, "sd_nm": sd, "frames_used": 9, "seconds": 2.0}

    there = {"a.h5": found([10.0, -4.0], [1.0, 0.5]), "b.h5": found([0.0], [1.0])}
    here = {"a.h5": found([10.2, -4.0], [1.0, 0.55])}
    [row] = platforms.compared(here, there)
    assert row["series"] == "a.h5"
    assert row["off"] == pytest.approx(0.2) and row["sd_ratio"] == pytest.approx(1.1)
    for name, answers, status in (("same", here, 0), ("other", there, 1)):
        beside = tmp_path / f"{name}.json"
        beside.write_text(json.dumps({"provenance": provenance.provenance(), "answers": answers}))
        monkeypatch.setattr(platforms, "answers", lambda files: iter([here]))
        own = tmp_path / "own.json"
        assert platforms.main(["a.h5", "--beside", str(beside), "--json", str(own)]) == status
        assert json.loads(own.read_text())["answers"] == here
        assert "| a.h5 |" in capsys.readouterr().out
    for series in (["a.h5", "other/a.h5"], ["c.h5"]):
        with pytest.raises(SystemExit):
            platforms.main([*series, "--beside", str(beside)])
    assert "same file name" in (told := capsys.readouterr().err) and "no answer for c.h5" in told


def test_the_roofline_is_reached_by_the_matrix_product_it_was_measured_with(monkeypatch):
    matrix = np.ones((roofline.SIZE, roofline.SIZE), np.float32)
    product = jax.jit(lambda a: jnp.matmul(a, a, precision="highest"))
    rate, bandwidth = roofline.rates()
    seconds = 2 * roofline.SIZE**3 / rate
    assert rate > 0 and bandwidth > 0
    monkeypatch.setattr(roofline, "rates", lambda: (rate, bandwidth))
    share = roofline.share(product, (matrix,), seconds)
    np.testing.assert_allclose(share.flops, 1.0, rtol=0.05)
    assert share.whole == max(share.flops, share.traffic)
    np.testing.assert_allclose(share.program_mb, 2 * matrix.nbytes / 1e6, rtol=0.5)


def test_speed_writes_entries_and_a_table(tmp_path, document, monkeypatch, capsys):
    one = timing.Timing(1.0, (0.4, 0.5, 0.6), None)
    entry = timing.entry("simulate", {"size": 8}, {"jaxcal": one, "numpy": one}, 10, "spectra", 0.0)
    monkeypatch.setattr(simulate, "run", lambda repetitions: [dict(entry)])
    out = tmp_path / "out.json"
    assert speed.main(["--only", "simulate", "--json", str(out), "--document", str(document)]) == 0
    [written] = json.loads(out.read_text())
    assert written["per_second"] == {"jaxcal": 20.0, "numpy": 20.0}
    assert written["provenance"]["versions"]["jax"]
    assert "numpy" in capsys.readouterr().out and "`simulate` size 8" in document.read_text()


def test_an_unknown_benchmark_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        speed.main(["--only", "nothing"])
    assert "e_step" in capsys.readouterr().err


def test_a_document_without_the_marks_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no place for the table"):
        provenance.put("closed_loop", "table", page)


def test_a_result_knows_what_it_was_made_with(monkeypatch, tmp_path):
    """Of packages that are not installed nothing is said, and of the processor what Python knows
    where the system has no /proc/cpuinfo or names no model in it."""
    made = provenance.provenance()
    assert set(made["versions"]) == {"python", *provenance.PACKAGES}
    assert made["processor"] and made["memory_gb"] > 0.5
    assert provenance.installed(("numpy", "no-such-package")) == {"numpy": np.__version__}
    told = tmp_path / "cpuinfo"
    monkeypatch.setattr(provenance.platform, "processor", lambda: "")
    monkeypatch.setattr(provenance.platform, "machine", lambda: "riscv64")
    assert provenance.processor(told) == "riscv64"
    told.write_text("processor\t: 0\nBogoMIPS\t: 50\n")
    assert provenance.processor(told) == "riscv64"
    told.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nmodel name\t: Other\n")
    assert provenance.processor(told) == "Some CPU @ 2 GHz"
    json.dumps(made)


def test_a_table_says_what_its_result_knows():
    """Results of before, which know the machine's cores alone, and those of now; packages that were
    measured beside where the table asks for them and the result knows of them."""
    before = {"commit": "abc", "model": "def", "versions": {"python": "3.12", "numpy": "2.4"},
              "cores": 2, "device": "cpu (cpu)"}
    assert provenance.source({"provenance": before}, "torch") == (
        "Commit abc, model def, Python 3.12, numpy 2.4, 2 cores, cpu (cpu).")
    now = before | {"beside": {"torch": "2.9", "abtem": "1.0"}, "processor": "Some CPU",
                    "memory_gb": 16.0}
    assert provenance.source({"provenance": now}, "torch", "gpytorch") == (
        "Commit abc, model def, Python 3.12, numpy 2.4, torch 2.9, 2 cores of Some CPU, 16 GB, "
        "cpu (cpu).")


@pytest.mark.parametrize(("seeds", "told"), [
    (range(64), "64 runs, seeds 0 to 63, once."), ([7], "1 runs, seed 7, once."),
    ([5, 3], "2 runs, seeds 3, 5, once."), ([4, 3], "2 runs, seeds 3 to 4, once.")])
def test_a_table_says_how_many_seeds_it_has(seeds, told):
    assert provenance.sampled("runs", seeds, "once") == told


# closed loop --------------------------------------------------------------------------------------


def made(truth, off):
    """What `calibrate` returns, its correction wrong by ``off`` nm in every knob."""
    run = standins.calibration()
    values = np.array([truth[name] for name in standins.KNOBS])
    return SimpleNamespace(verdict=run.verdict, history=run.history, series=run.series,
                           estimate=run.estimate, applied_knobs_nm=off - values,
                           limits_nm=run.limits_nm)


def closed_loop_options(tmp_path, document, runs):
    weights = tmp_path / "weights"
    weights.write_bytes(b"weights")
    return ["--runs", str(runs), "--model", str(weights), "--lines", str(tmp_path / "runs.jsonl"),
            "--json", str(tmp_path / "result.json"), "--document", str(document), "--no-refine"]


def test_closed_loop_goes_on_after_a_kill(tmp_path, document, monkeypatch):
    called = []

    def calibrate(microscope, *, frames, model, seed, refined):
        called.append(seed)
        if seed == 1:
            return SimpleNamespace(verdict="refused", reason="no frame can be used")
        if seed == 2 and called.count(2) == 1:
            raise KeyboardInterrupt
        return made(microscope.truth_nm, 3.0 if seed == 0 else 6.0)

    monkeypatch.setitem(vars(jaxcal), "calibrate", calibrate)
    monkeypatch.setattr(closed_loop.models, "load", lambda path: None)
    options = closed_loop_options(tmp_path, document, 3)
    with pytest.raises(KeyboardInterrupt):
        closed_loop.main(options)
    with open(tmp_path / "runs.jsonl", "a") as lines:
        lines.write('{"settings": {"fra')  # what a kill cuts off
    assert closed_loop.main(options) == 1  # one of three is within 5 nm
    assert called == [0, 1, 2, 2]
    (tmp_path / "runs.jsonl").unlink()  # the result alone serves too, and only with these settings
    assert closed_loop.main(options) == 1 and called == [0, 1, 2, 2]
    assert kept.read(tmp_path / "none", {"frames": 3}, tmp_path / "result.json") == {}
    result = json.loads((tmp_path / "result.json").read_text())
    summary = result["summary"]
    assert (summary["within_each"], summary["failed"], summary["runs"]) == (1, 1, 3)
    assert summary["inside"] == 0  # the limits are 1.57 nm
    assert result["runs"][0]["residual_nm"] == pytest.approx(dict.fromkeys(standins.KNOBS, 3.0))
    page = document.read_text()
    assert "**0 of 3**" in page and "| 1 of 3 |" in page


def test_runs_of_another_model_are_made_again(tmp_path):
    lines = tmp_path / "runs.jsonl"
    kept.add(lines, {"model": "a"}, {"seed": 0})
    kept.add(lines, {"model": "b"}, {"seed": 1})
    assert kept.read(lines, {"model": "b"}) == {1: {"seed": 1}}


def test_each_run_is_made_once_though_a_call_is_cut_off(tmp_path, capsys):
    lines, made = tmp_path / "runs.jsonl", []

    def make(seed):
        made.append(seed)
        if made == [0, 1]:
            raise KeyboardInterrupt
        return {"seed": seed}

    def call():
        return kept.each(lines, {"model": "a"}, range(3), make, lambda r: f"run {r['seed']}")

    with pytest.raises(KeyboardInterrupt):
        call()
    assert call() == call() == [{"seed": 0}, {"seed": 1}, {"seed": 2}]
    assert made == [0, 1, 1, 2]
    assert capsys.readouterr().err.split("\n") == ["run 0", "run 1", "run 2", ""]


# series of another simulator ----------------------------------------------------------------------

X0 = {"C10": 10.0, "C12a": -20.0, "C12b": 30.0}
TRUTH = {
    "a.h5": {"tier": "A", "knob_names": list(X0), "x0_nm": X0},
    "d.h5": {"tier": "D", "knob_names": list(X0), "x0_nm": X0,
             "G": np.diag([1.25, 1.0, 1.0]).tolist(), "drift_nm": [[0, 0, 0], [2.5, 0, 0]]},
    "grid.h5": {"tier": "grid", "knob_names": list(X0), "x0_nm": X0},
}  # fmt: skip


def answer(values, sd=2.0):
    """An entry of the result's JSON."""
    return {"x0_nm": dict(values), "sd_nm": dict.fromkeys(values, sd),
            "tuned_knobs_nm": {k: -v for k, v in values.items()},
            "tuned_sd_nm": dict.fromkeys(values, sd), "frames_used": 2, "rejected_frames": [],
            "converged": True, "message": "", "seconds": 1.0}


def test_ask_leaves_the_fault_of_a_series_that_cannot_be_read(tmp_path):
    bad = tmp_path / "bad.h5"
    bad.write_text("nothing")
    seconds, fault = reality.ask(bad, tmp_path / "out.json")
    assert seconds > 0 and "bad.h5" in fault
    assert json.loads((tmp_path / "out.json").read_text()) == {}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(TRUTH))
    for name in ("a.h5", "d.h5"):
        jaxcal.write_series(tmp_path / name, replace(standins.series(2), name=name))
    return tmp_path


def test_drift_and_gain_count_where_the_tuning_is_judged(folder):
    truth = reality.scored(folder)
    assert list(truth) == ["a.h5", "d.h5"]
    assert reality.wanted(truth["a.h5"]) == X0
    assert reality.wanted(truth["d.h5"])["C10"] == pytest.approx(-10.0)  # (10 + 2.5) / 1.25
    assert reality.wanted(truth["d.h5"], 1)["C10"] == pytest.approx(-8.0)


def test_reality_scores_what_the_command_writes(folder, document, monkeypatch):
    values = {"C10": 14.0, "C12a": -20.0, "C12b": 28.0}

    def ask(series, out, model, seed):
        out.write_text(json.dumps({"a.h5": answer(values)} if series.name == "a.h5" else {}))
        return 12.0, "d.h5: not HDF5"

    monkeypatch.setattr(reality, "ask", ask)
    monkeypatch.setattr(reality.models, "load", lambda path: None)
    out = folder / "result.json"
    code = reality.main(["--folder", str(folder), "--json", str(out), "--document", str(document)])
    assert code == 1  # a series was not answered
    result = json.loads(out.read_text())["command"]
    first, second = result["series"]
    assert first["error_nm"] == {"C10": 4.0, "C12a": 0.0, "C12b": -2.0} and second["missing"]
    assert (first["wall_seconds"], second["fault"]) == (12.0, "d.h5: not HDF5")
    summary = result["summary"]["A"]["first"]
    assert (summary["median_nm"], summary["largest_nm"]) == (2.0, 4.0)
    assert summary["rms_error_over_sd"] == pytest.approx(np.sqrt(5 / 3))
    assert summary["quartiles_nm"] == [1.0, 3.0]
    page = document.read_text()
    assert "no answer" in page and "2 series, 2 to 2 frames used." in page


def test_reality_from_fewer_frames(folder, document, monkeypatch):
    asked = []

    def infer(observations, series, model, *, seed, published, length):
        asked.append((len(observations), len(series.frames), published, length))
        return standins.estimate(len(observations))

    monkeypatch.setattr(observation, "observe", lambda frame, optics: None)
    monkeypatch.setattr(estimation, "infer", infer)
    monkeypatch.setattr(reality.models, "load", lambda path: None)
    out = folder / "result.json"
    assert reality.main(["--folder", str(folder), "--no-command", "--published", "--frames",
                         "1,2,4", "--json", str(out), "--document", str(document)]) == 0
    assert asked == [(2, 2, True, 2)] * 2 + [(1, 1, False, 2), (2, 2, False, 2)] * 2
    page = document.read_text()
    assert "| first frames | tier A and B | tier D |" in page and "| 1 |" in page


# scripts and documents ----------------------------------------------------------------------------


def test_whole_plane_is_symmetric_about_its_middle():
    image = np.random.default_rng(0).standard_normal((spectra.ROWS, spectra.COLUMNS))
    image[spectra.ROWS // 2 :, 0] = image[spectra.ROWS // 2 : 0 : -1, 0]  # f_x = 0 is its own image
    plane = drawing.whole_plane(image)
    assert plane.shape == (spectra.ROWS - 1, 2 * spectra.COLUMNS - 1)
    np.testing.assert_array_equal(plane[:, spectra.COLUMNS - 1 :], image[1:])
    np.testing.assert_array_equal(plane, plane[::-1, ::-1])


def test_discriminants_part_what_differs_beside_its_scatter():
    """Two classes apart by one step each along a wide and a narrow axis: the narrow one parts them,
    ten to one by Fisher's rule S^-1 d. Three classes on a line have one direction that counts."""
    random, scatter = np.random.default_rng(0), np.array([np.sqrt(10), 1.0, 1.0])
    half = scatter * random.standard_normal((4000, 3))
    half -= half.mean(0)
    numbers = np.repeat([3, 7], 4000)
    points = np.concatenate([half, half + np.array([1.0, 1.0, 0.0])])
    directions, share = figures.latents.discriminants(points, numbers)
    assert directions.shape == (1, 3) and share == pytest.approx([1.0])
    expected = np.linalg.solve(np.cov(half.T), [1.0, 1.0, 0.0])
    np.testing.assert_allclose(directions[0] / directions[0, 1], expected / expected[1], atol=1e-9)
    assert np.std((points @ directions[0])[numbers == 3]) == pytest.approx(1.0)
    three = np.concatenate([half, half + 1.0, half + 2.0])
    _, share = figures.latents.discriminants(three, np.repeat([0, 1, 2], 4000))
    np.testing.assert_allclose(share, [1.0, 0.0], atol=1e-9)


@pytest.mark.parametrize(("state", "name"), [
    ((10, 10, 0), "near focus"), ((100, 20, 0), "defocus"), ((-100, 0, -20), "defocus"),
    ((100, 100, 0), "line focus along x"), ((-100, -100, 0), "line focus along x"),
    ((100, -100, 0), "line focus along y"), ((-100, 100, 0), "line focus along y"),
    ((100, 0, 100), "line focus, falling"), ((-100, 0, -100), "line focus, falling"),
    ((100, 0, -100), "line focus, rising"), ((-100, 0, 100), "line focus, rising")])
def test_regions_are_named_by_where_the_spectrum_is_longest(state, name):
    """There the defocus of the line, C10 + C12 along its direction, is largest; y runs down."""
    number = int(figures.latents.region(*np.float64(state)))
    assert figures.latents.REGIONS[number][0] == name
    directions = {"along x": (1, 0), "along y": (0, 1), "falling": (1, 1), "rising": (1, -1)}
    c10, c12a, c12b = state
    longest = {way: abs(c10 + (c12a * (x * x - y * y) + 2 * c12b * x * y) / (x * x + y * y))
               for way, (x, y) in directions.items()}
    if name.startswith("line"):
        assert name.endswith(max(longest, key=longest.get))


def test_disc_only_keeps_the_disc():
    cut = drawing.disc_only(np.arange(96.0 * 96).reshape(96, 96), spectra.Disc(47.5, 48.2, 20.0))
    assert cut.shape == (43, 43) and np.isnan(cut[0, 0]) and np.nanmin(cut) == 0
    assert np.isfinite(cut).sum() == pytest.approx(np.pi * 20.0**2, rel=0.01)


def test_overview_draws(tmp_path, monkeypatch):
    run = standins.calibration()
    candidates = SimpleNamespace(positions=np.random.default_rng(0).normal(0, 50, (64, 8)))
    for number, estimate in enumerate(run.history):
        own = min(number, len(run.history) - 2)  # the last goes on from the one before
        used = SimpleNamespace(frame_noise=np.where(np.arange(8) <= own, 1.0, em.EXCLUDED))
        estimate.posterior = (SimpleNamespace(candidates=candidates), used)
    monkeypatch.setitem(vars(jaxcal), "calibrate", lambda *_, **__: run)
    monkeypatch.setattr(drawing, "observe", lambda frame, optics: (
        spectra.Disc(48.0, 48.0, 40.0), np.random.default_rng(0).standard_normal((128, 64))))
    assert figures.loop._last_of_em(run.history) == [len(run.history) - 2]
    figures.loop.overview(None, tmp_path / "overview.png")
    assert (tmp_path / "overview.png").stat().st_size > 20_000


def test_model_card_tells_what_training_wrote(tmp_path):
    weights = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(
        {"vae.encoder.out": np.zeros((3, 4), np.float16), "map.mean": np.zeros(5, np.float32)},
        weights)
    card = {
        "config": {"seed": 3, "vae_rounds": 4, "map_rounds": 2, "replays": 1, "map_hidden": 16,
                   "architecture": {"rows": 128, "columns": 64, "patch": 8, "features": 24,
                                    "hidden": 256, "latents": 12}},
        "ranges": {"buckets": [{"highest": 18.0}, {"highest": 70.0}], "energies_keV": [30.0, 300.0],
                   "semi_angles_mrad": [14.0, 33.0], "coma_waves": 2.1},
        "spectra": 1234, "held_back_elbo": {"elbo": -5.0, "distortion": 4.0, "divergence": 1.0},
        "map_losses": [{"epoch": 0, "loss": 1.5, "held_back": 1.75}],
        "versions": {"jax": "0.9.2"}, "seconds": 120.0,
    }  # fmt: skip
    weights.with_suffix(".json").write_text(json.dumps(card))
    out = tmp_path / "card.md"
    model_card.main(["--model", str(weights), "--out", str(out)])
    text = out.read_text()
    assert "| ELBO | -5.0 |" in text and "1,234 simulated spectra" in text
    assert "2 minutes on two cores" in text and "30 to 300 keV" in text


def test_the_conventions_compute():
    failed, attempted = doctest.testfile(
        str(ROOT / "docs" / "conventions.md"), module_relative=False)
    assert attempted and not failed


# widths, steps, bound -----------------------------------------------------------------------------


def test_coverage_of_errors_that_are_as_wide_as_stated():
    """Normal errors with the stated deviation: each level within four standard errors, ranks even,
    and twice the error is found out."""
    random = np.random.default_rng(0)

    def rows(wide):
        return [{"error_nm": (wide * random.standard_normal(7)).tolist(), "sd_nm": [1.0] * 7,
                 "bound_nm": [0.8] * 7, "actuator": False, "drifts": 0.25, "unfit": 0,
                 "seconds": 1.0}
                for _ in range(400)]

    good = coverage.summarise([*rows(1.0), {"failed": "dark"}])
    assert good["instruments"] == 400 and good["failed"] == 1 and good["drifts"] == 0.25
    for level in coverage.LEVELS:
        allowed = 4 * np.sqrt(level * (1 - level) / 2800)
        assert abs(good["coverage"][str(level)] - level) < allowed
    assert min(good["ranks_chi2_p"]) > 1e-3
    np.testing.assert_allclose(good["error_over_bound"], 1 / 0.8, rtol=0.15)
    narrow = coverage.summarise(rows(2.0))
    assert narrow["coverage"]["0.68"] < 0.45 and max(narrow["ranks_chi2_p"]) < 1e-3


def test_order_of_a_modelled_coefficient_and_one_left_out():
    """At the largest value, for what is among the unknowns; equal is not less."""
    def row(value, form, moved, free=True):
        return {"knobs": "three", "coefficient": "C30", "value_nm": value, "form": form,
                "free": free, "moved_nm": [moved] * 3}

    def rows(modelled, left_out, free=True):
        return [row(1e3, "modelled", 9.0, free), row(1e3, "left out", 1.0, free),
                row(4e3, "modelled", modelled, free), row(4e3, "left out", left_out, free)]

    assert broken_symmetry.ordered(rows(1.0, 2.0))
    assert not broken_symmetry.ordered(rows(2.0, 2.0))
    assert not broken_symmetry.ordered(rows(1.0, 2.0, free=False))


def test_steps_table_holds_the_medians(document):
    runs = [{"seed": seed, **{rule: {"error": [e, e / 2], "sd": [1.0, 0.5]}
                              for rule in steps.RULES}}
            for seed, e in enumerate((1.0, 2.0, 9.0), 100)]
    summary = steps.summarise(runs)
    assert summary["chosen"] == {"error": [2.0, 1.0], "sd": [1.0, 0.5]}
    page = steps.markdown({"summary": summary, "runs": runs,
                           "provenance": provenance.provenance()})
    assert "\n\n3 instruments, seeds 100 to 102, 4 frames each" in page
    assert "| next step | 3 frames | 4 frames |" in page
    assert ("| chosen | 2.00 (1.00 ... 9.00) / 1.00 (1.00 ... 1.00) | "
            "1.00 (0.50 ... 4.50) / 0.50 (0.50 ... 0.50) |") in page


def test_frames_unlike_are_counted_with_those_refused_before():
    parts = [{"misfit": [0.0, 0.1], "refused": 1}, {"misfit": [0.5], "refused": 0}]
    found = unlike.row(parts)
    assert found["frames"] == 4 and found["refused"] == 1 and found["unlike"] == 1
    assert found["misfit"][0] == 0.1 and found["misfit"][2] == 0.5
    none = unlike.row([{"misfit": [], "refused": 6}])
    plain = unlike.row([{"misfit": [0.0] * unlike.FRAMES, "refused": 0}] * 3)
    page = unlike.markdown({"rows": {"simulated, as they are": plain, "a": found, "b": none},
                            "unlike": 0.2, "provenance": provenance.provenance()})
    assert "| a | 4 | 1 | 0.100 |" in page and "| b | 6 | 6 |" in page
    assert "3 simulated instruments, seeds 70000 to 70002, 6 frames each" in page


def test_instruments_that_are_followed_are_counted_look_by_look():
    def look(z, left, untouched, corrected=False, worse=0.0, taught=True):
        return {"z": [z] * 3, "sd_nm": [1.0, 2.0, 3.0], "stated": 0.5, "left": left, "worse": worse,
                "untouched": untouched, "corrected": corrected, "taught": taught}

    jumps = {f"{name} {jump:g}": jump > 10
             for name in ("C10", "C12a") for jump in followed.JUMPS_NM}
    runs = [{"seed": 1, "failed": "not decided"},
            {"seed": 2, "noticed": jumps, "looks": [look(1.0, 0.5, 1.5, True, -1.0),
                                                    look(-3.0, 1.5, 0.5, True, 0.4, False)]}]
    found = followed.summarise(runs)
    assert (found["instruments"], found["failed"]) == (1, 1)
    assert (found["looks"], found["untaught"]) == (2, 1)
    assert (found["inside"], found["untouched"], found["within_2"]) == (0.5, 0.5, 0.5)
    assert (found["corrections"], found["worsened"], found["worst"]) == (2, 1, 0.4)
    page = followed.markdown({"summary": found, "seeds": [1, 2],
                              "provenance": provenance.provenance()})
    assert "2 instruments, seeds 1 to 2, " in page
    assert "| C10 | 0% | 0% | 100% | 100% |" in page and "| 2; 1 |" in page


def test_series_disbelieved_are_counted_and_a_wrong_answer_only_where_it_is_converged():
    runs = [{"misfit": 0.01, "gain": 0.0, "converged": True, "off": 1.0},
            {"misfit": 0.2, "gain": 0.6, "converged": False, "off": 90.0},
            {"misfit": 0.02, "gain": 0.2, "converged": True, "off": 4.5}, {"refused": "no frame"}]
    found = unexplained.row(runs)
    assert (found["series"], found["refused"], found["unexplained"], found["disbelieved"]) == (
        4, 1, 1, 1)
    assert (found["converged"], found["wrong"], found["gain"]) == (2, 1, 0.6)
    none = unexplained.row(runs[3:])
    page = unexplained.markdown({
        "rows": {"a": found, "b": none}, "unexplained": 0.15, "disbelieved": 0.5, "wrong": 4.0,
        "seeds": [75000, 75003], "provenance": provenance.provenance()})
    assert "| a | 4 | 1 | 0.020 |" in page and "| b | 1 | 1 |" in page
    assert "4 simulated series of a kind, seeds 75000 to 75003, 8 frames each" in page


@pytest.mark.parametrize("kind", [*unexplained.BORNE, *unexplained.NOTICED])
def test_series_to_be_borne_and_to_be_noticed(kind):
    behind, before = unexplained.microscopes(5, kind)
    start = behind.state_nm()[:3]
    before.set([100.0, 100.0, 100.0])
    arrived = 90.0 if kind == "hysteresis" else 100.0
    gains = (behind.state_nm()[:3] - start) / arrived - 1
    assert np.allclose(gains, 0) != kind.startswith("gains") and np.all(np.abs(gains) <= 0.4)
    assert behind.knobs_nm[0] == arrived
    behind.frames_taken = 1
    assert np.allclose(behind.state_nm()[:3], start + arrived * (1 + gains)) == (kind != "drift")
    np.testing.assert_array_equal(unexplained.microscopes(5, kind)[0].state_nm()[:3], start)


@pytest.mark.parametrize(("kind", "seen"), [
    ("as they are", lambda frame: frame), ("camera mirrored", lambda frame: frame[:, ::-1]),
    ("camera turned", np.rot90), ("crystalline", None)])
def test_how_the_camera_of_a_series_sees_it(kind, seen):
    plain = np.asarray(unexplained.microscopes(5, "as they are")[0].acquire(), np.float32)
    shown = unexplained.microscopes(5, kind)[1].acquire()
    if seen is None:
        assert abs(np.corrcoef(shown.ravel(), plain.ravel())[0, 1]) < 0.99
    else:
        np.testing.assert_array_equal(shown, seen(plain))


def test_verification_counts_what_is_doubted_by_error(monkeypatch):
    """One frame of two above the threshold is half; one that cannot be used does not count."""
    def odds(seen, state_nm, optics, model, **_):
        np.testing.assert_array_equal(state_nm, 0.0)
        return seen.odds

    taken = []

    def observe(frame, optics):
        taken.append(len(taken))
        fault = "blank" if len(taken) == 2 else None
        return SimpleNamespace(fault=fault, odds=10.0 * len(taken))

    monkeypatch.setattr(verification.verification, "log_odds_elsewhere", odds)
    monkeypatch.setattr(verification.observation, "observe", observe)
    monkeypatch.setattr(jaxcal.SimulatedMicroscope, "acquire", lambda self: self.state_nm())
    runs = [verification.one(seed, None) for seed in (60000, 60001)]
    assert list(runs[0]["log_odds"]) == list(verification.cases())
    assert runs[0]["log_odds"]["tuned"] == 10.0 and runs[0]["log_odds"]["C10 30 nm"] is None
    summary = verification.summarise(runs)
    assert summary["tuned"]["frames"] == 2 and summary["tuned"]["doubted"] == 0.5
    assert summary["C10 30 nm"]["frames"] == 1 and summary["C10 60 nm"]["doubted"] == 1.0
    page = verification.markdown({"summary": summary, "runs": runs,
                                  "provenance": provenance.provenance()})
    assert "| C10 60 nm | 2 |" in page and "2 instruments, seeds 60000 to 60001, one " in page


def test_verification_frames_are_off_by_what_they_say(monkeypatch):
    """The knobs named are off by their error and what the tuned state leaves, the rest alike."""
    states = []
    monkeypatch.setattr(jaxcal.SimulatedMicroscope, "acquire",
                        lambda self: states.append(self.state_nm()[:7]))
    monkeypatch.setattr(verification.observation, "observe",
                        lambda frame, optics: SimpleNamespace(fault="not looked at"))
    verification.one(60000, None)
    tuned, *others = states
    assert np.all(np.abs(tuned) < 1.5 * np.array([1.6] * 3 + [120.0] * 4))
    for state, (name, size) in zip(others, verification.OFF_NM, strict=True):
        off = np.zeros(7)
        off[jaxcal.microscopes.simulated.SEVEN.index(name)] = size
        np.testing.assert_allclose(state - tuned, off, atol=1e-9)


def test_states_of_the_bound_are_sampled_and_priors_bound_the_deviations():
    made, phases = bound.case(0)
    assert made.tail == 0.0 and phases.shape == (25,)
    per_nm = bound.edge_phases(bound.simulated_optics())[:7]
    nothing = bound._deviations(np.zeros((10, 10)), [1.0, 1.0])
    np.testing.assert_allclose(nothing / per_nm, [150.0] * 3 + [600.0] * 4)


# faults -------------------------------------------------------------------------------------------


def test_faults_are_drawn_of_all_kinds_and_the_same_for_a_seed():
    seen = set()
    for seed in range(60):
        told, microscope, bench = faults.draw(seed)
        assert 1 <= len(told) <= 2
        seen.update(told)
        assert len(bench.knob_names) == (7 if seed % 4 == 3 else 3)
        assert ("wrong energy" in told) == (microscope.optics.energy_keV != 200.0)
        assert (bench.limits_nm[:3].max() < 250) == ("narrow limits" in told)
        assert faults.draw(seed)[0] == told
    assert seen == set(faults.FAULTS)


def fault_run(seed, verdict="tuned", inside=True, broken=()):
    return {"seed": seed, "faults": {"drift": "1.0 nm a frame"}, "verdict": verdict,
            "inside": inside, "left": 0.5 if inside else 3.0, "broken": list(broken),
            "reason": "a drift, 90% likely, is allowed for" if seed == 0 else "too few frames"}


@pytest.mark.parametrize(("runs", "holds"), [
    ([fault_run(k) for k in range(50)], True),
    ([fault_run(k, inside=k > 0) for k in range(50)], True),
    ([fault_run(k, inside=k > 0) for k in range(49)], False),
    ([fault_run(0, "refused", inside=False), fault_run(1)], True),
    ([fault_run(0, "refused", inside=False)], False),  # who never tunes promises nothing
    ([fault_run(0), fault_run(1, broken=["a knob was sent beyond its limit"])], False),
])  # fmt: skip
def test_what_has_to_hold_under_faults(runs, holds):
    summary = faults.summarise(runs)
    assert summary["holds"] == holds
    named = sum(run["seed"] == 0 for run in runs)
    assert summary["by_fault"]["drift"].get("named", 0) == named
    assert summary["by_fault"]["drift"]["wrongly"] == 0
    other = fault_run(0) | {"faults": {"gains": "1.1"}}
    assert faults.summarise([*runs, other])["by_fault"]["drift"]["wrongly"] == 1
    page = faults.markdown({"summary": summary, "runs": runs,
                            "provenance": provenance.provenance()})
    assert page.startswith("| fault | tuned | not decided | refused | \"tuned\" but outside |")
    assert ("beyond its limit" in page) == bool(summary["broken"])
    assert ("seed 0 (3.0 limits; drift 1.0 nm a frame)" in page) == (
        runs[0]["verdict"] == "tuned" and not runs[0]["inside"])


TUNED = standins.estimate().tuned_knobs_nm


class Held:
    """A microscope and its bench that remember; `broke` is what calibrate did to them."""

    optics = None

    def __init__(self, sent=(0.0, 0.0, 0.0), asked=(0.0, 0.0, 0.0)):
        self.largest_nm, self.asked_nm = np.array(sent), np.array(asked)
        self.limits_nm, self.knob_names = np.full(3, 100.0), ("C10", "C12a", "C12b")

    def state_nm(self):
        return np.zeros(25)


@pytest.mark.parametrize(("bench", "verdict", "broken"), [
    (Held(), "tuned", []),
    (Held(sent=(101.0, 0, 0)), "tuned", ["a knob was sent beyond its limit"]),
    (Held(asked=(5.0, 0, 0)), "refused", ["the knobs do not stand where it says"]),
    (Held(), "perhaps", ["no stated verdict: perhaps"]),
])  # fmt: skip
def test_what_a_run_with_faults_breaks(monkeypatch, bench, verdict, broken):
    made = SimpleNamespace(verdict=verdict, reason="because", applied_knobs_nm=np.zeros(3),
                           limits_nm=np.ones(3), history=[], estimate=standins.estimate(),
                           knob_names=bench.knob_names)
    monkeypatch.setattr(faults, "draw", lambda seed: ({"none": ""}, bench, bench))
    monkeypatch.setattr(faults.jaxcal, "calibrate", lambda *_, **__: made)
    run = faults.one(1, None)
    assert run["broken"] == broken and run["verdict"] == verdict and run["inside"]
    monkeypatch.setattr(faults.jaxcal, "calibrate", lambda *_, **__: 1 / 0)
    assert faults.one(1, None)["broken"] == ["raised"]


@pytest.mark.parametrize(("verdict", "applied", "reason", "broken"), [
    ("not decided", TUNED, "", []), ("tuned", TUNED, "", []), ("not decided", np.zeros(3), "", []),
    ("refused", TUNED, "", ["the knobs were left in between"]),
    ("tuned", TUNED + 5.0, "", ["the knobs were left in between"]),
    ("refused", None, "the knobs could not be brought back", []),
    ("refused", None, "", ["it is not said that nobody knows where the knobs stand"]),
])  # fmt: skip
def test_where_a_run_with_faults_may_leave_the_knobs(monkeypatch, verdict, applied, reason, broken):
    bench = Held(asked=np.zeros(3) if applied is None else applied)
    bench.limits_nm = np.full(3, np.inf)
    made = SimpleNamespace(verdict=verdict, reason=f"because {reason}", applied_knobs_nm=applied,
                           limits_nm=np.ones(3), history=[], estimate=standins.estimate(),
                           knob_names=bench.knob_names)
    monkeypatch.setattr(faults, "draw", lambda seed: ({"none": ""}, bench, bench))
    monkeypatch.setattr(faults.jaxcal, "calibrate", lambda *_, **__: made)
    assert faults.one(1, None)["broken"] == broken


def test_whole_estimates_and_calibrations_are_timed_apart(monkeypatch):
    """Each repetition has an instrument of its own; a calibration takes the frames it needs."""
    class Bench:
        def __init__(self, knob_names, seed, hidden_range_nm):
            self.knob_names, self.seed, self.frames_taken = knob_names, seed, 0

    def acquire_series(bench, knobs):
        bench.frames_taken = len(knobs)
        return bench.seed

    def calibrate(bench, seed):
        asked.append(("calibrate", bench.seed))
        bench.frames_taken = 7 + seed % 2

    asked = []
    monkeypatch.setattr(jaxcal, "SimulatedMicroscope", Bench)
    monkeypatch.setattr(whole, "acquire_series", acquire_series)
    monkeypatch.setattr(jaxcal, "estimate", lambda series: asked.append(("estimate", series)))
    monkeypatch.setattr(jaxcal, "calibrate", calibrate)
    cases = [whole.one(case, 5, 2) for case in whole.CASES]
    seeds = [whole.FIRST_SEED + k for k in range(3)]
    assert asked == [*[("estimate", s) for s in seeds] * 2, *[("calibrate", s) for s in seeds]]
    assert [case["frames"] for case in cases] == [[5] * 3, [5] * 3, [7, 8, 7]]
    assert all(len(case["again"]) == 2 for case in cases)
    with jax.enable_x64(False):
        monkeypatch.setattr(timing, "apart", lambda module, case, *_, environment: {
            "frames": [7, 8, 7], "first": 9.0 if environment == timing.UNCACHED else 6.0,
            "again": [4.0, 5.0], "peak_mb": 700.0})
        three, _, calibrated = whole.run(2)
    assert three["case"] == {"knobs": 3, "frames": "7 ... 8"} and three["repetitions"] == 2
    assert three["peak_memory_mb"] == 700.0
    assert three["seconds"] == {"jaxcal": 4.5, "cache filled": 4.5}
    assert three["compile_seconds"] == 4.5
    assert three["others"]["cache filled"]["compile_seconds"] == 1.5
    assert calibrated["benchmark"] == "calibrate" and set(calibrated["seconds"]) == {"jaxcal"}
    assert "| cache filled | 4500.0 | 0.222 estimates | 1 (1 ... 1) | 1.5 |" in timing.markdown(
        [three | {"provenance": provenance.provenance()}])
    assert list(whole.run(2)) == []  # in double precision
