"""The report: complete, in one file, and free of what a message might smuggle in."""

import re
import xml.etree.ElementTree as ElementTree
from base64 import b64decode
from types import SimpleNamespace

import numpy as np
import pytest
import standins

from jaxcal import figures, report, thumbnails

SEVEN = ("C10", "C12a", "C12b", "C21a", "C21b", "C23a", "C23b")


def images(page):
    return [b64decode(data) for data in re.findall(r"data:image/svg\+xml;base64,([^\"]+)", page)]


def test_a_calibration_is_told_in_full():
    page = report.render(standins.calibration(), seed=7)
    for heading in (
        "Final state", "Frames and spectra", "Posterior by frame", "States that remain possible",
        "State of each frame", "Latents", "All frames", "Frames set aside",
    ):  # fmt: skip
        assert f"<h3>{heading}</h3>" in page
    assert "every knob is known to its pi/4 limit" in page
    assert "saturated: 40 % of the disc" in page
    assert "seed 7" in page and "jax " in page
    assert len(images(page)) == 7
    assert "true x0" in page and "applied" in page


def test_nothing_is_fetched_from_elsewhere():
    page = report.render(standins.calibration())
    assert not re.search(r"<(script|link|iframe)\b", page)
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert "url(" not in page
    for image in images(page):
        assert ElementTree.fromstring(image).tag.endswith("svg")


@pytest.mark.parametrize("names", [("C10",), ("C10", "C12a"), SEVEN], ids=len)
def test_any_number_of_knobs(names):
    page = report.render(standins.calibration(names))
    for name in names:
        assert f"<td>{name}</td>" in page


def test_the_truth_of_a_series_where_it_is_known():
    pair = standins.series(), standins.estimate()
    assert "true x0" not in report.render([pair])
    page = report.render([(*pair, {"C10": 31.25})])
    assert "true x0" in page and "+31.2" in page


def test_several_series_one_section_each():
    runs = [
        (standins.series(name="p01.h5"), standins.estimate()),
        (standins.series(name="p02.h5", names=SEVEN), standins.estimate(names=SEVEN)),
    ]
    page = report.render(runs)
    assert page.count("<section>") == 2
    assert "<h2>p01.h5</h2>" in page and "<h2>p02.h5</h2>" in page
    assert "true x0" not in page
    assert page.index("p01.h5") < page.index("p02.h5")


def test_no_series_answered_is_said():
    assert "No series was answered" in report.render([])


def test_a_refused_run_without_an_estimate_says_why_and_shows_its_frames():
    refused = standins.calibration()
    refused.estimate, refused.verdict = None, "refused"
    refused.reason = "no frame can be used, the last because: <blank>"
    page = report.render(refused)
    assert "<b>refused</b> no frame can be used, the last because: &lt;blank&gt;" in page
    assert "All frames" in page and page.count("<img") == 1
    refused.series = None
    page = report.render([refused])
    assert "<b>refused</b>" in page and "<img" not in page


def test_what_remains_counts_its_uncertainty():
    run = standins.calibration()
    left = report._Run(run).left_nm
    sd = np.sqrt(np.diag(run.estimate.tuned_covariance_nm2))
    np.testing.assert_allclose(left, np.hypot(0.2, sd))
    pair = report._Run((standins.series(), run.estimate))
    np.testing.assert_allclose(pair.left_nm, sd)


def test_knobs_that_do_not_act_as_told_are_shown_with_their_widths():
    assert "How the knobs act" not in report.render([(standins.series(), standins.estimate())])
    made = standins.estimate()
    made.actuator[:2, :2] = [[1.234, 0.05], [0.0, 0.876]]
    made.refinement.solutions[0].gain_sd[:2, :2] = [[0.021, 0.004], [0.003, 0.017]]
    shown = report.render([(standins.series(), made)])
    assert "How the knobs act" in shown
    for cell in ("+1.234 ± 0.021", "+0.050 ± 0.004", "+0.000 ± 0.003", "+0.876 ± 0.017", "+1.000"):
        assert f"<td>{cell}</td>" in shown
    made.refinement = None  # of EM alone
    assert "<td>+0.876</td>" in report.render([(standins.series(), made)])


def test_text_is_escaped():
    run = standins.calibration()
    run.estimate.message = "<script>alert(1)</script> & more"
    run.estimate.rejected_frames = ((2, "<b>blank</b>"),)
    page = report.render(run)
    assert "<script>" not in page and "<b>blank" not in page
    assert "&lt;script&gt;" in page


def test_frames_without_a_disc_are_shown_all_the_same():
    optics = standins.optics()
    for frame in (np.zeros((96, 96)), np.full((96, 96), 7, np.uint16), np.eye(96)):
        assert figures.frames_with_spectra([frame], ["blank"], optics).startswith(b"<?xml")
        reach, image = thumbnails.display_spectrum(frame, optics)
        assert 0 < reach <= thumbnails.HIGHEST_FREQUENCY and np.all(np.isfinite(image))


def test_display_spectrum_shows_a_grating_where_it_is():
    """cos(2 pi f.rho) of 9 cycles per radius along x gives its two peaks at f_x = +-9."""
    optics = standins.optics(128)
    radius = optics.semi_angle_mrad / optics.pixel_mrad
    x, y = np.meshgrid(*2 * [(np.arange(128) - 63.5) / radius])
    frame = 100 * (1 + 0.1 * np.cos(2 * np.pi * 9 * x)) * (np.hypot(x, y) < 1)
    reach, image = thumbnails.display_spectrum(frame, optics)
    row, column = np.unravel_index(np.argmax(image), image.shape)
    step = 2 * reach / (image.shape[0] - 1)
    # The disc's radius is known to the nominal value and its middle to a pixel.
    assert abs(abs(column - image.shape[1] // 2) * step - 9) < 0.5
    assert abs(row - image.shape[0] // 2) * step < 0.5


def test_estimate_that_knows_nothing_is_reported():
    estimate = standins.estimate(converged=False)
    estimate.latents = np.empty((0, 8))
    estimate.modes = ()
    page = report.render([(standins.series(1), estimate)])
    assert "not converged" in page and "Latents" not in page


def test_figures_are_the_same_every_time():
    drawn = [figures.latents_by_frame(standins.estimate().latents) for _ in range(2)]
    assert drawn[0] == drawn[1]


def test_report_is_written_whole(tmp_path):
    report.write_report(tmp_path / "tuned.html", standins.calibration(), seed=1)
    text = (tmp_path / "tuned.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>") and text.rstrip().endswith("</html>")
    assert [path.name for path in tmp_path.iterdir()] == ["tuned.html"]


def test_a_run_without_truth_or_verification():
    run = SimpleNamespace(**{**vars(standins.calibration()), "truth_nm": None})
    run.verification_frame = run.applied_knobs_nm = None
    page = report.render(run)
    assert "true x0" not in page and "applied" not in page
