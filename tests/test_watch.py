"""The page of a running calibration: what it shows, to whom, and what it does not stumble over."""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import h5py
import made_up
import numpy as np
import pytest
import standins
import test_runs
from numpy.testing import assert_allclose

from jaxcal import png, watch_figures, watch_page
from jaxcal.cli import main
from jaxcal.files import replacing, write_text
from jaxcal.series import write
from jaxcal.watch import Watch
from jaxcal.watched import Folder, View

ROOT = Path(__file__).parent.parent
NAMES = standins.KNOBS


def step(frame, sd=1.0, rejected=(), **other):
    """An estimate of run.json: C10 found at -30 nm, so that it tunes at +30."""
    x0 = dict(zip(NAMES, (-30.0, 12.0, 5.0), strict=True))
    return {
        "frame": frame, "x0_nm": x0, "sd_nm": dict.fromkeys(NAMES, sd),
        "tuned_knobs_nm": {name: -value for name, value in x0.items()},
        "tuned_sd_nm": dict.fromkeys(NAMES, sd), "frames_used": frame + 1,
        "rejected_frames": list(rejected), "converged": False, "message": "m", "seconds": 3.25,
        **other,
    }  # fmt: skip


def tell(folder, **changes):
    """Write run.json as the loop does, whole."""
    held = {
        "microscope": "simulated", "knob_names": list(NAMES),
        "limits_nm": dict.fromkeys(NAMES, 1.5), "frames": 10, "seed": 4, "state": "running",
        "message": "looking", "asked_nm": dict.fromkeys(NAMES, 0.0),
        "standing_nm": dict.fromkeys(NAMES, 0.0), "started": "2026-01-01T12:00:00", "steps": [],
    }  # fmt: skip
    write_text(folder / "run.json", json.dumps({**held, **changes}))


def shoot(folder, count):
    """Write the series of the frames so far, as the loop does."""
    write(folder / "series.h5", standins.series(count))


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    shoot(path, 3)
    tell(path, steps=[step(0, 90.0), step(1, 9.0), step(2, 0.9)])
    return path


@pytest.fixture
def server(folder):
    with Watch(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path="/", method="GET", host=None, body=None):
    """Status, headers and content of one request, its path sent exactly as it stands."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", f"127.0.0.1:{server.server_port}" if host is None else host)
    if body is not None:
        connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body)
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def page(view):
    return watch_page.render(view, 0.0)


def pixels(content):
    """The levels of an 8-bit grey PNG whose lines are not filtered, read chunk by chunk."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(content):
        (length,) = struct.unpack_from(">I", content, at)
        kind, data = content[at + 4 : at + 8], content[at + 8 : at + 8 + length]
        assert struct.unpack_from(">I", content, at + 8 + length)[0] == zlib.crc32(kind + data)
        chunks[kind], at = data, at + 12 + length
    assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
    width, height, *form = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert form == [8, 0, 0, 0, 0]
    lines = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not lines[:, 0].any()
    return lines[:, 1:]


# ---- who is answered


def test_pages_and_pictures_at_their_addresses(server):
    for path, kind in (
        ("/", "text/html; charset=utf-8"), ("/?x=1", "text/html; charset=utf-8"),
        ("/status.json", "application/json; charset=utf-8"),
        ("/frame/0.png", "image/png"), ("/spectrum/2.png", "image/png"),
    ):  # fmt: skip
        status, headers, content = ask(server, path)
        assert (status, headers["Content-Type"]) == (200, kind)
        assert int(headers["Content-Length"]) == len(content) > 0
        status, headers, content = ask(server, path, "HEAD")
        assert (status, headers["Content-Type"], content) == (200, kind, b"")


def test_pictures_are_those_of_the_frames(server, folder):
    frame = standins.series(3).frames[1]
    shown = pixels(ask(server, "/frame/1.png")[2])
    assert shown.shape == frame.shape
    dark, bright = np.percentile(frame, (0.5, 99.8))
    assert not shown[frame <= dark].any() and np.all(shown[frame >= bright] == 255)
    between = (frame > dark) & (frame < bright)
    np.testing.assert_allclose(
        shown[between], 255 * (frame[between] - dark) / (bright - dark), atol=0.51  # rounding
    )  # fmt: skip
    spectrum = pixels(ask(server, "/spectrum/1.png")[2])
    # Point symmetric, as the spectrum of real numbers is.
    assert spectrum.std() > 10 and np.array_equal(spectrum[1:, 1:], spectrum[1:, 1:][::-1, ::-1])


@pytest.mark.parametrize(
    "path",
    ["/run.json", "/series.h5", "/../run.json", "/frame/../../etc/passwd", "/%2e%2e/run.json",
     "/frame/3.png", "/frame/-1.png", "/frame/1.png/", "/frame/1.h5", "//etc/passwd",
     "/frame/%D9%A1.png", "/index.html", "/frame/0000000001.png", "http://127.0.0.1/"],
)  # fmt: skip
def test_nothing_else_has_an_address(server, path):
    status, headers, content = ask(server, path)
    assert status == 404
    assert headers["Content-Type"] == "text/plain; charset=utf-8" and b"C10" not in content


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "X"])
def test_it_can_only_be_looked_at(server, folder, method):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    status, headers, content = ask(server, "/", method, body=b"state=tuned")
    assert status == 405 and headers["Allow"] == "GET, HEAD"
    assert headers["Connection"] == "close"  # the content that came along was not read
    assert b"only be looked at" in content and b"<" not in content
    ask(server), ask(server, "/frame/0.png")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example:{port}", "",
             "127.0.0.1", "127.0.0.1:1", "localhost:{port}@evil.example", "0.0.0.0:{port}"],
)  # fmt: skip
@pytest.mark.parametrize("path", ["/", "/status.json", "/frame/0.png"])
def test_a_request_by_another_name_is_refused(server, host, path):
    status, _, content = ask(server, path, host=host.format(port=server.server_port))
    assert status == 403 and b"C10" not in content and b"PNG" not in content


def test_a_request_by_its_own_names_is_answered(server):
    for host in ("127.0.0.1", "localhost", "LOCALHOST"):
        assert ask(server, "/status.json", host=f"{host}:{server.server_port}")[0] == 200


@pytest.mark.parametrize("hosts", [b"", b"Host: 127.0.0.1:%d\r\nHost: evil.example\r\n"])
def test_a_request_with_no_host_or_two_is_refused(server, hosts):
    hosts = hosts % server.server_port if hosts else hosts
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as plug:
        plug.sendall(b"GET /status.json HTTP/1.1\r\n" + hosts + b"Connection: close\r\n\r\n")
        assert b" 403 " in plug.makefile("rb").readline()


def test_only_the_loopback_interface_is_listened_on(server):
    assert server.socket.family == socket.AF_INET
    assert server.socket.getsockname()[0] == "127.0.0.1"
    if sys.platform == "linux":  # any address of 127.0.0.0/8 is this machine, but not this socket
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", server.server_port), timeout=5)


@pytest.mark.parametrize("path", ["/", "/status.json", "/frame/0.png", "/nothing"])
def test_every_answer_forbids_other_origins(server, path):
    headers = ask(server, path)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in
                 headers["Content-Security-Policy"].split(";"))  # fmt: skip
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["frame-ancestors"] == "'none'"
    assert rules["img-src"] == rules["connect-src"] == "'self'"
    for rule in ("script-src", "style-src"):
        assert re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='", rules[rule])
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert "Access-Control-Allow-Origin" not in headers


def test_nothing_is_asked_of_elsewhere(server):
    text = ask(server)[2].decode()
    addresses = re.findall(r"(?:src|href|action|poster|srcset)\s*=\s*\"([^\"]*)\"", text)
    assert len(addresses) == 6
    for address in addresses:
        assert re.fullmatch(r"/(frame|spectrum)/[0-2]\.png\?[0-9a-f]{16}", address)
        assert ask(server, address)[1]["Cache-Control"].startswith("private")
    assert "//" not in text and "url(" not in text and "@import" not in text
    assert " style=" not in text  # the policy would drop it
    assert ask(server, "/frame/0.png?0123456789abcdef")[1]["Cache-Control"] == "no-store"


# ---- what is shown


def test_the_state_of_the_run_is_told(server, folder):
    text = ask(server)[2].decode()
    assert '<p class="state busy"><b>running</b> looking</p>' in text
    for fact in ("simulated microscope", "3 frames taken", "10 at most", "3 estimates", "seed 4",
                 "3.2 s", "started 2026-01-01T12:00:00", "<title>jaxcal: running</title>"):
        assert fact in text
    status = json.loads(ask(server, "/status.json")[2])
    assert {key: status[key] for key in ("state", "message", "frames", "steps", "problems")} == {
        "state": "running", "message": "looking", "frames": 3, "steps": 3, "problems": []
    }  # fmt: skip
    assert status["version"] == re.search(r'data-version="(\w+)"', text)[1]


def test_the_folder_of_a_calibration_is_shown(monkeypatch, tmp_path):
    """As `jaxcal.calibrate` writes it, while it runs and in the end."""
    made_up.install(monkeypatch.setattr)
    microscope, seen = test_runs.Bench(), []
    run = made_up.calibrate(microscope, run=tmp_path, progress=lambda message, _: seen.append(
        Folder(tmp_path).look()) if message.endswith(": acquire") else None)
    view = Folder(tmp_path).look()
    assert view.run.state == run.verdict and not view.problems
    assert len(view.frames) == len(run.series) + 1
    assert [len(one.frames) for one in seen] == list(range(len(run.series)))
    assert all(one.run.state == "running" and not one.problems for one in seen)
    text = page(view)
    assert f"<title>jaxcal: {run.verdict}</title>" in text and "bench" in text
    tuned = view.run.steps[-1].tuned_knobs_nm
    assert_allclose([tuned[name] for name in run.knob_names], run.estimate.tuned_knobs_nm)
    assert_allclose([view.run.standing_nm[name] for name in run.knob_names], run.applied_knobs_nm)
    for name in run.knob_names:
        assert name in text


@pytest.mark.parametrize(
    "state, kind",
    [("running", "busy"), ("tuned", "good"), ("not decided", "open"), ("refused", "bad"),
     ("<odd>", "idle")],
)  # fmt: skip
def test_every_state_has_its_look(folder, state, kind):
    watched = Folder(folder)
    before = watch_page.version(watched.look())
    tell(folder, state=state, message="so it is")
    view = watched.look()
    assert f'class="state {kind}"' in page(view) and "so it is" in page(view)
    assert watch_page.version(view) != before
    assert state.replace("<", "&lt;").replace(">", "&gt;") in page(view)
    assert watch_page.status(view, 0.0)["state"] == state


def knob_row(view, name):
    row = re.search(rf"<tr><th scope=row>{name}</th>(.*?)</tr>", page(view))[1]
    return [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td>(.*?)</td>", row)]


def test_a_knob_is_told_in_full(folder):
    tell(folder, steps=[step(0, 9.0), step(1, 0.9)], asked_nm={"C10": 29.0, "C12a": 0.0},
         standing_nm={"C10": 29.4, "C12a": 0.0})  # fmt: skip
    view = Folder(folder).look()
    stands, x0, _, tunes, left, tolerance, _ = knob_row(view, "C10")
    assert stands == "+29.4 asked +29.0"
    assert x0 == "−30.00 ± 0.90" and tunes == "+30.00 ± 0.90"
    assert left == "−0.60 ± 0.90" and tolerance == "1.50"  # 29.4 - 30
    assert knob_row(view, "C12a")[0] == "+0.0"
    assert knob_row(view, "C12b")[0] == knob_row(view, "C12b")[4] == "–"


def test_knobs_stand_where_they_arrived(folder):
    tell(folder, steps=[step(0, 9.0)], asked_nm={"C10": 29.0}, standing_nm={"C10": 29.0},
         arrived_nm={"C10": 29.4})  # fmt: skip
    assert knob_row(Folder(folder).look(), "C10")[0] == "+29.4 asked +29.0"


def test_moving_knobs_stand_nowhere(folder):
    tell(folder, steps=[step(0)], asked_nm={"C10": 12.0}, standing_nm=None)
    view = Folder(folder).look()
    assert "The knobs are moving" in page(view)
    assert knob_row(view, "C10")[0] == "→ +12.0" and knob_row(view, "C10")[4] == "–"
    assert "The knobs are moving" not in page(Folder(folder.parent / "none").look())


def test_rejected_frames_are_marked_with_their_reason(folder):
    tell(folder, steps=[step(0), step(1, rejected=[1], rejected_reasons={"1": "blank <i>"})])
    text = page(Folder(folder).look())
    cards = dict(re.findall(r'<li id="frame-(\d)"(.*?)</li>', text))
    assert list(cards) == ["2", "1", "0"]  # newest first
    assert "set aside: blank &lt;i&gt;" in cards["1"] and 'class="aside"' in cards["1"]
    assert "not in the estimate yet" in cards["2"] and "aside" not in cards["2"]
    assert "aside" not in cards["0"] and "estimate" not in cards["0"]
    knobs = standins.series(3).knobs_nm[0]
    assert f"<span>C10 {knobs[0]:+.1f}</span>".replace("-", "−") in cards["0"]
    tell(folder, steps=[step(1, rejected=[[0, "pair"], 1])])
    text = page(Folder(folder).look())
    assert "set aside: pair</span>" in text and "set aside</span>" in text


def test_left_is_what_the_knobs_do_not_what_they_are_sent(folder):
    """A knob that acts by 1.4, and another that acts on it."""
    acting = {"C10": {"C10": 1.4, "C12a": 0.1}, "C12a": {"C12a": 1.0}, "C12b": {"C12b": 1.0}}
    tell(folder, steps=[step(2, actuator=acting, left_sd_nm={"C10": 1.26})],
         standing_nm={"C10": 29.0, "C12a": -10.0, "C12b": 0.0})
    assert knob_row(Folder(folder).look(), "C10")[4] == "−1.20 ± 1.26"  # 1.4 (29 - 30) + 0.1 2
    assert knob_row(Folder(folder).look(), "C12a")[4] == "+2.00 ± 1.00"


def test_left_is_drawn_on_the_scale_of_the_tolerance():
    def dot(left, sd=0.1, limit=2.0):
        drawn = watch_figures.against_limit(left, sd, limit)
        found = re.search(r'<circle cx="([\d.]+)".*?fill="([^"]+)"', drawn)
        return (float(found[1]), found[2]) if found else drawn

    middle, edge = 86.0, float(re.search(r'<rect x="([\d.]+)"', dot(1e3))[1])
    assert dot(0.0) == (middle, watch_figures.GOOD)
    assert dot(-2.0, 0.0)[0] == pytest.approx(edge, abs=0.06)  # a tolerance off: the ground's edge
    assert dot(1.9)[1] == watch_figures.INK  # within, but not with two sd
    assert dot(2.4)[1] == watch_figures.OUTSIDE
    assert "<path" in dot(7.0) and "<circle" not in dot(7.0)
    assert watch_figures.against_limit(1.0, 0.1, None) == ""
    assert "not known" in watch_figures.against_limit(None, None, 1.0)


def test_widths_are_drawn_on_a_log_axis():
    drawn = watch_figures.widths_by_frame({"C10": [(0, 100.0), (1, 10.0), (2, 1.0), (3, None)]})
    heights = [float(y) for y in re.findall(r'<circle cx="[\d.]+" cy="([\d.]+)"', drawn)]
    assert len(heights) == 3
    assert heights[1] - heights[0] == pytest.approx(heights[2] - heights[1], abs=0.11)
    dashed = re.search(r'y1="([\d.]+)"[^>]*stroke-dasharray', drawn)
    assert float(dashed[1]) == heights[2]  # the width of one tolerance
    assert "no width" in watch_figures.widths_by_frame({"C10": [(0, None), (1, 0.0)]})


def test_the_course_of_an_estimate_needs_two_of_them():
    assert watch_figures.course([(1.0, 2.0), (None, 1.0)]) == ""
    drawn = watch_figures.course([(0.0, 1e9), (4.0, 2.0), (4.0, 1.0)])
    assert "nan" not in drawn and drawn.count("<polyline") == 1
    assert "<polygon" in watch_figures.course([(1.0, 0.0), (1.0, 0.0)])


def test_age_of_the_last_change(folder):
    view = Folder(folder).look()
    assert watch_page.age(view, view.changed + 7.4).endswith(", 7 s ago")
    assert watch_page.age(view, view.changed + 299).endswith(", 4 min ago")
    assert "may have ended" in watch_page.age(view, view.changed + 900)
    assert watch_page.age(view, view.changed - 5).endswith(", 0 s ago")  # a clock set back
    tell(folder, state="tuned")
    view = Folder(folder).look()
    assert "may have ended" not in watch_page.age(view, view.changed + 900)
    assert watch_page.age(View("x"), 0.0) == ""


NASTY = "<script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


def test_nothing_in_a_file_becomes_markup(folder):
    tell(
        folder, microscope=NASTY, state=NASTY, message=NASTY, started=NASTY,
        knob_names=[NASTY, "C10"], limits_nm={NASTY: 1.0, "C10": 1.0},
        asked_nm={NASTY: 1.0}, standing_nm={NASTY: 1.0},
        steps=[{**step(2, message=NASTY), "tuned_sd_nm": {NASTY: 2.0, "C10": 1.0},
                "rejected_frames": [[1, NASTY]]}],
    )  # fmt: skip
    with h5py.File(folder / "series.h5", "r+") as file:
        file.attrs["knob_names"] = [NASTY, "C12a", "C12b"]
    view = Folder(folder).look()
    text = page(view)
    assert text.count("<script>") == 1 and "<img src=x" not in text
    assert text.count("&lt;script&gt;") >= 7  # state, title, message, facts, knob, line, frame
    page(View(NASTY, problems=(NASTY,)))
    assert page(View(NASTY, problems=(NASTY,))).count("<script>") == 1


# ---- files that are absent, partial, damaged or new


def test_no_folder_yet_is_waited_for(tmp_path):
    watched = Folder(tmp_path / "later")
    view = watched.look()
    text = page(view)
    assert f"<b>waiting</b> for a run in {tmp_path / 'later'}<" in text and view.problems == ()
    assert watch_page.title(view) == "jaxcal: waiting"
    (tmp_path / "later").mkdir()
    assert watched.look() == view
    tell(tmp_path / "later")
    assert watched.look().run.state == "running" and watched.look().frames == ()
    shoot(tmp_path / "later", 2)
    assert len(watched.look().frames) == 2


def test_frames_without_a_run_are_shown(folder):
    (folder / "run.json").unlink()
    view = Folder(folder).look()
    assert len(view.frames) == 3 and "nothing is told of the run" in page(view)


@pytest.mark.parametrize(
    "content", [b"", b'{"state": "tun', b"[1]", b"null", b"\xff\xfe", b"[" * 200_000, b"{]"],
    ids=["empty", "cut", "list", "null", "bytes", "deep", "wrong"],
)  # fmt: skip
def test_a_damaged_run_leaves_what_was_read_last(server, folder, content):
    before = ask(server)[2].decode()
    (folder / "run.json").write_bytes(content)
    status, _, text = ask(server)
    text = text.decode()
    assert status == 200 and "Traceback" not in text
    assert re.search(r'class="problem">run.json cannot be read now \(.*shown is what it held', text)
    for part in ("knobs", "posterior", "frames"):
        section = re.compile(rf'<section id="{part}">.*?</section>', re.S)
        assert section.search(text)[0] == section.search(before)[0]
    tell(folder, state="tuned")
    assert "cannot be read" not in ask(server)[2].decode()
    assert json.loads(ask(server, "/status.json")[2])["state"] == "tuned"


def test_a_damaged_run_from_the_start_is_said(folder):
    (folder / "run.json").write_text("{")
    view = Folder(folder).look()
    assert "nothing of it is shown until it can be" in view.problems[0]
    assert len(view.frames) == 3 and "cannot be read now" in page(view)


@pytest.mark.parametrize("keep", [0, 4, 100, 2048, -700], ids=str)
def test_a_series_cut_off_leaves_the_frames_read_last(server, folder, keep):
    picture = ask(server, "/frame/1.png")[2]
    whole = (folder / "series.h5").read_bytes()
    (folder / "series.h5").write_bytes(whole[:keep])
    status, _, text = ask(server)
    assert status == 200 and b"series.h5 cannot be read now" in text and b"Traceback" not in text
    assert ask(server, "/frame/1.png")[2] == picture
    assert json.loads(ask(server, "/status.json")[2])["frames"] == 3
    shoot(folder, 4)
    assert json.loads(ask(server, "/status.json")[2])["problems"] == []
    assert ask(server, "/frame/3.png")[0] == 200


def without(name):
    def change(file):
        del file[name]

    return change


def set_knobs(value):
    def change(file):
        del file["knobs"]
        file["knobs"] = value

    return change


@pytest.mark.parametrize(
    "change",
    [without("frames"), without("knobs"), set_knobs(np.zeros((2, 3))), set_knobs(np.zeros((3, 2))),
     lambda file: file.attrs.__delitem__("pixel_mrad"), lambda file: file.attrs.clear()],
)  # fmt: skip
def test_a_series_with_something_missing_is_said(folder, change):
    with h5py.File(folder / "series.h5", "r+") as file:
        change(file)
    view = Folder(folder).look()
    assert view.frames == () and view.run.state == "running"
    assert len(view.problems) == 1 and "series.h5 cannot be read now" in view.problems[0]
    page(view)


def test_frames_of_any_content_are_drawn(folder):
    series = standins.series(4)
    frames = series.frames.copy()
    frames[0], frames[1] = 0, 7
    with replacing(folder / "series.h5") as scratch, h5py.File(scratch, "w") as file:
        frames[2, 5, 5], frames[2, 40, 40], frames[3] = np.nan, np.inf, np.inf
        file["frames"], file["knobs"] = frames, series.knobs_nm
        file.attrs["knob_names"] = list(NAMES)
        file.attrs["semi_angle_mrad"], file.attrs["pixel_mrad"] = 20.0, series.optics.pixel_mrad
    view = Folder(folder).look()
    assert view.problems == () and len(view.frames) == 4
    assert not pixels(view.frames[0].picture).any()
    assert pixels(view.frames[2].picture).std() > 10 < pixels(view.frames[2].spectrum).std()


def test_values_of_the_wrong_kind_are_left_out(folder):
    tell(
        folder, knob_names="C10", limits_nm={"C10": "1", "C12a": True, "C12b": 0}, frames=None,
        seed="x", message=["a"], asked_nm=3, standing_nm=[], steps=[7, None, {}, {"frame": 1e99,
        "x0_nm": {"C10": float("nan")}, "sd_nm": {"C10": 10**400}, "rejected_frames": {"1": 2}}],
    )  # fmt: skip
    view = Folder(folder).look()
    assert view.problems == () and view.run.knob_names == ("C10", "C12a", "C12b")
    assert view.run.limits_nm == {"C10": None, "C12a": None, "C12b": 0.0}
    assert [step.frame for step in view.run.steps] == [2, 3]
    assert view.run.steps[1].x0_nm == view.run.steps[1].sd_nm == {"C10": None}
    text = page(view)
    assert "nan" not in text and "None" not in text and "inf" not in text
    json.dumps(watch_page.status(view, 0.0), allow_nan=False)


def test_a_lone_surrogate_is_no_fault(server, folder):
    (folder / "run.json").write_text('{"state": "tuned", "message": "\\ud800 odd"}')
    status, _, text = ask(server)
    assert status == 200 and b"odd" in text
    assert ask(server, "/status.json")[0] == 200


def test_a_folder_taken_away_leaves_what_was_in_it(server, folder):
    ask(server)
    shutil.rmtree(folder)
    text = ask(server)[2].decode()
    assert "is not there any more; shown is what was in it last" in text
    assert "<b>running</b>" in text and ask(server, "/frame/2.png")[0] == 200


def test_a_new_run_in_the_folder_does_not_show_the_frames_of_the_old_one(folder):
    watched = Folder(folder)
    assert len(watched.look().frames) == 3
    tell(folder, started="2026-01-02T12:00:00")
    assert watched.look().frames == ()
    (folder / "series.h5").unlink()
    view = watched.look()
    assert view.frames == () and view.problems == ()
    shoot(folder, 1)
    assert len(watched.look().frames) == 1
    # A run that goes on where another ended holds estimates from those frames.
    tell(folder, started="2026-01-03T12:00:00", steps=[step(0)])
    assert len(watched.look().frames) == 1


def test_only_what_changed_is_read_and_drawn_again(folder, monkeypatch):
    from jaxcal import watched as module

    drawn, draw = [], module._draw
    monkeypatch.setattr(module, "_draw", lambda *given: drawn.append(1) or draw(*given))
    watched = Folder(folder)
    first = watched.look()
    assert len(drawn) == 3 and watched.look() == first and len(drawn) == 3
    series = standins.series(4)
    series.frames[:3] = standins.series(3).frames
    write(folder / "series.h5", series)
    assert [frame.digest for frame in watched.look().frames[:3]] == [
        frame.digest for frame in first.frames
    ]
    assert len(drawn) == 4


def test_files_replaced_all_the_while_never_make_a_problem(server, folder):
    """A writer that replaces both files atomically, against readers on several connections."""
    seen, faults, stop = set(), [], threading.Event()

    def look():
        while not stop.is_set():
            status = json.loads(ask(server, "/status.json")[2])
            seen.add(status["steps"])
            faults.extend(status["problems"])

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for round in range(12):
        shoot(folder, 1 + round % 3)
        tell(folder, steps=[step(k) for k in range(round + 1)])
    stop.set()
    for reader in readers:
        reader.join()
    assert faults == [] and len(seen) > 1


# ---- the command


def test_png_needs_an_image():
    for wrong in (np.zeros(3), np.zeros((0, 4)), np.zeros((2, 2, 2))):
        with pytest.raises(ValueError, match=r"should have shape \(H, W\), got"):
            png.grey(wrong)
    np.testing.assert_array_equal(
        pixels(png.grey([[0.0, 1.0], [2.0, np.nan]], (0, 100))), [[0, 128], [255, 0]]
    )


def test_a_port_in_use_is_one_line(server, tmp_path, capsys):
    assert main(["watch", str(tmp_path), "--port", str(server.server_port)]) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"jaxcal: error: port {server.server_port} is in use, perhaps by another jaxcal watch; "
        "choose another one with --port"
    ]


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_that_is_none_is_one_line(tmp_path, capsys, port):
    assert main(["watch", str(tmp_path), "--port", port]) == 2
    assert f"--port should be 0 to 65535, got {port}" in capsys.readouterr().err


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert main(["watch", str(tmp_path / "run.json")]) == 2
    assert "is a file; name the folder of the run" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C is sent as a POSIX signal")
def test_the_command_prints_its_address_answers_and_ends_on_ctrl_c(folder):
    code = (
        "import signal, sys; from jaxcal.cli import main\n"
        # A shell starts what runs in its background deaf to Ctrl-C, and so its children.
        "signal.signal(signal.SIGINT, signal.default_int_handler); status = main()\n"
        "print('LOADED', *sorted({'jax', 'matplotlib', 'scipy'} & set(sys.modules)))\n"
        "sys.exit(status)"
    )
    command = [sys.executable, "-c", code, "watch", str(folder), "--port", "0"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        line = process.stdout.readline()
        port = int(re.search(r"open http://127\.0\.0\.1:(\d+)/ \(Ctrl-C ends\)", line)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/frame/0.png")
        assert connection.getresponse().read()[:4] == b"\x89PNG"
        connection.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 0 and err == ""
    assert out.splitlines() == ["stopped", "LOADED"]


# ---- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
                None)  # fmt: skip
browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")


def browse(url, profile, *, milliseconds=6000):
    """The document as it stands after so long in a browser that may ask nothing of the net."""
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--disable-dev-shm-usage", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={profile}", f"--virtual-time-budget={milliseconds}", "--dump-dom",
        "--enable-logging=stderr", "--v=0",
    ]  # fmt: skip
    done = subprocess.run(
        [CHROMIUM, *options, url], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@browser
def test_the_browser_follows_the_run_without_being_reloaded(server, folder, tmp_path):
    look, looks = server.folder.look, []

    def look_and_go_on():
        view = look()
        looks.append(view)
        if len(looks) == 1:  # the page has been given out: from here on the script is alone
            shoot(folder, 4)
            tell(folder, state="tuned", message="verified", steps=[step(k) for k in range(4)])
        return view

    server.folder.look = look_and_go_on
    dom, console = browse(server.url, tmp_path / "profile")
    assert looks[0].run.state == "running"
    assert '<p class="state good"><b>tuned</b> verified</p>' in dom
    assert 'id="frame-3"' in dom and "<title>jaxcal: tuned</title>" in dom
    assert '<p id="lost" hidden' in dom
    assert not [line for line in console if "favicon" not in line], console


@browser
def test_the_browser_says_when_the_server_is_gone(server, tmp_path):
    look = server.folder.look

    def look_once():
        server.folder.look = None  # every later request falls over
        return look()

    server.folder.look = look_once
    dom, _ = browse(server.url, tmp_path / "profile")
    assert '<p id="lost">No contact' in dom and "<b>running</b>" in dom


@browser
def test_the_browser_runs_no_script_but_the_pages_own(folder, tmp_path, monkeypatch):
    """Were something not escaped, the policy would still hold it."""
    monkeypatch.setattr(
        watch_page, "_facts",
        lambda view: '<p id="mark">unharmed</p><script>mark.textContent = "hit"</script>'
        '<img src="data:," onerror="mark.textContent = `hit`">',
    )  # fmt: skip
    with Watch(folder, port=0) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        dom, console = browse(server.url, tmp_path / "profile", milliseconds=1000)
        server.shutdown()
        thread.join()
    assert '<p id="mark">unharmed</p>' in dom
    assert any("Content Security Policy" in line for line in console)
