"""A thousand damaged inputs: a clear error or a right answer, never a traceback, never a hang."""

import json
import re
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import standins

from jaxcal import notation_reports, notations
from jaxcal.microscopes.ceos import CeosCorrector, netstring
from jaxcal.microscopes.protocol import InstrumentError
from jaxcal.series import SeriesError, probe, read, write

SERIES, REPORTS, NETSTRINGS = 1500, 3000, 300


def damaged(data: bytes, random) -> bytes:
    """Bytes with one of: some flipped, cut off, a stretch of zeros, doubled, or left out."""
    data, kind = bytearray(data), random.integers(5)
    at, length = random.integers(len(data)), 1 + random.integers(min(64, len(data)))
    if kind == 0:
        for place in random.integers(0, len(data), 1 + random.integers(8)):
            data[place] ^= 1 << random.integers(8)
    elif kind == 1:
        data = data[:at]
    elif kind == 2:
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == 3:
        data[at:at] = data[at : at + length]
    else:
        del data[at : at + length]
    return bytes(data)


READ = """
import sys
sys.path.insert(0, {tests!r})
from test_mutations import read_all
read_all({folder!r}, *map(int, sys.argv[1:]))
"""


def read_all(folder, first, end=SERIES):
    """Read the damaged files from one on; a line for each: its number and what came of it."""
    whole = read(Path(folder) / "whole.h5")
    for number in range(first, end):
        print(number, "begun", flush=True)
        path = Path(folder) / f"{number}.h5"
        try:
            found = read(path)
        except SeriesError as error:
            clear = str(error).startswith(str(path)) and "\n" not in str(error)
            print(number, "refused" if clear else f"unclear: {error}", flush=True)
            continue
        right = (found.frames.shape == whole.frames.shape and found.optics == whole.optics
                 and found.knob_names == whole.knob_names)
        if right:  # a lost frame reads as zeros, and is then set aside as blank
            right = np.array_equal(found.knobs_nm, whole.knobs_nm) and all(
                np.array_equal(frame, before) or not frame.any()
                for frame, before in zip(found.frames, whole.frames, strict=True))
        print(number, "read" if right else "wrong", flush=True)


@pytest.mark.slow
def test_series_files(tmp_path):
    """Frames and knobs of a damaged file are those that were written, or it is refused. In another
    process: where HDF5 itself loops or crashes on a file, `probe` has to see it."""
    write(tmp_path / "whole.h5", standins.series(3, size=64))
    data, random = (tmp_path / "whole.h5").read_bytes(), np.random.default_rng(0)
    for number in range(SERIES):
        (tmp_path / f"{number}.h5").write_bytes(damaged(data, random))
    script = READ.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    told, stuck = {}, []
    while len(told) + len(stuck) < SERIES:
        first = len(told) + len(stuck)
        child = subprocess.Popen([sys.executable, "-c", script, str(first)],
                                 stdout=subprocess.PIPE, text=True)
        last, watch = first, threading.Timer(15.0, child.kill)
        watch.start()
        for line in child.stdout:
            number, what = line.strip().split(maxsplit=1)
            last = int(number)
            if what != "begun":
                told[last] = what
            watch.cancel()
            watch = threading.Timer(4.0, child.kill)
            watch.start()
        watch.cancel()
        child.stdout.close()
        if child.wait():
            stuck.append(last)
    for number in stuck:
        try:
            probe(tmp_path / f"{number}.h5", 10.0)
        except SeriesError as error:
            assert "HDF5 cannot read it, it is damaged; copy it again" in str(error)
        else:  # it was only slow, on a busy machine
            again = subprocess.run([sys.executable, "-c", script, str(number), str(number + 1)],
                                   capture_output=True, text=True, timeout=60, check=True)
            told[number] = again.stdout.split(maxsplit=3)[-1].strip()
    assert set(told.values()) <= {"read", "refused"}, told
    assert min(list(told.values()).count(what) for what in ("read", "refused")) > SERIES / 20
    probe(tmp_path / "whole.h5")


REPORT = """C1 12.5 nm
A1 3.2 nm 45 deg
B2 120 nm -30 deg
A2 85.5 nm 10 deg
C3 1.2 um
"""


def lengths_nm(text):
    """Every length that a text may mean: its numbers in all units, times the notations' factors."""
    numbers = np.abs([float(number.replace("−", "-")) for number in re.findall(
        r"(?:\d+\.?\d*|\.\d+)(?:[eE][+\-−]?\d+)?", text)])
    units = np.array([1e-3, 0.1, 1.0, 1e3, 1e6, 1e9])
    factors = np.array([1.0, 3.0, 4.0, 5.0, 6.0])
    factors = np.concatenate([factors, 1 / factors])
    return (numbers[:, None, None] * units[:, None] * factors).ravel()


def stands_in(value, lengths):
    return bool(np.any(np.isclose(abs(value), lengths, rtol=1e-6, atol=1e-9))) or abs(value) < 1e-9


def untouched(text, whole):
    """Names, "C12" say, whose lines in a damaged text are those of the whole, each once."""
    lines, kept = text.splitlines(), whole.splitlines()
    for name in {re.match(r"[A-Z]+\d+", line)[0] for line in kept}:
        own = [line for line in kept if line.startswith(name)]
        if sorted(line for line in lines if name in line.upper()) == sorted(own):
            yield name


def test_reports():
    """A damaged report converts to numbers that stand in it, under names that stand in it, or one
    sentence says what is wrong. What stands in untouched lines is read as if nothing else were
    damaged, unit and angle too; what a flipped digit makes of a number, no text can show."""
    random, told, exact = np.random.default_rng(1), {"read": 0, "refused": 0}, 0
    sources = [(name, notations.convert(REPORT, "ceos", name, form=form))
               for name in notations.NOTATIONS for form in ("text", "json")]
    for number in range(REPORTS):
        source, whole = sources[number % len(sources)]
        text = damaged(whole.encode(), random).decode("utf-8", "replace")
        try:
            found = json.loads(notations.convert(text, source, "krivanek", form="json"))
        except ValueError as error:
            assert str(error) and not isinstance(error, json.JSONDecodeError)
            told["refused"] += 1
            continue
        assert all(abs(value) <= 1e11 for value in found.values())
        lengths, terms = lengths_nm(text), notation_reports.TABLE[source].terms
        plain = text.upper().replace("_", "")
        for own, (name, _) in terms.items():
            parts = [found[key] for key in (name, f"{name}a", f"{name}b") if key in found]
            if parts:
                assert own in plain, (text, found)
                assert all(stands_in(part, lengths) for part in parts) or stands_in(
                    np.linalg.norm(parts), lengths), (text, found)
        told["read"] += 1
        if whole.startswith("{"):
            continue
        right = json.loads(notations.convert(whole, source, "krivanek", form="json"))
        for own in untouched(text, whole):
            name, _ = terms[own]
            for key in (name, f"{name}a", f"{name}b"):
                assert found.get(key) == right.get(key), (text, found)
                exact += key in right
    assert min(told.values()) > REPORTS / 20 and exact > REPORTS / 6, (told, exact)


GREETING = netstring(b'{"jsonrpc": "2.0", "id": 1, "result": {"type": "DCOR"}}')


@pytest.fixture
def parrot():
    """A server that says what it is on every connection, answers the next request with what it is
    given, then is silent."""
    listener, answers, threads = socket.create_server(("127.0.0.1", 0)), [], []

    def talk(connection, answer):
        with connection, suppress(OSError):  # the other side may be gone before it is answered
            for said in (GREETING, answer):
                connection.recv(65536)
                connection.sendall(said)
            if not answer.endswith(b"\0"):
                connection.recv(1)  # until the other side gives up

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threads.append(threading.Thread(target=talk, args=(connection, answers[-1])))
            threads[-1].start()

    threading.Thread(target=serve, daemon=True).start()
    yield listener.getsockname()[1], answers
    listener.close()
    for thread in threads:
        thread.join(5.0)


def test_netstrings(parrot):
    """A damaged answer is an error of the instrument, or it is an answer of the same kind; nothing
    undamaged is refused."""
    port, answers = parrot
    random, told = np.random.default_rng(2), {"read": 0, "refused": 0}
    whole = netstring(json.dumps({"jsonrpc": "2.0", "id": 2, "result": [1.5e-9]}).encode())
    answers.append(whole)
    with CeosCorrector("127.0.0.1", port, timeout_s=10.0) as corrector:
        assert corrector.call("measureC1A1") == [1.5e-9]
    for _ in range(NETSTRINGS):
        answers.append(damaged(whole, random))
        with CeosCorrector("127.0.0.1", port, timeout_s=0.1) as corrector:
            try:
                found = corrector.call("measureC1A1")
            except InstrumentError as error:
                assert "\n" not in str(error)
                told["refused"] += 1
            else:
                # a flipped bit in a digit is no damage that a netstring could show
                assert isinstance(found, list) and len(found) == 1 and np.isfinite(found[0])
                told["read"] += 1
    assert told["refused"] > NETSTRINGS / 2 and told["read"], told
