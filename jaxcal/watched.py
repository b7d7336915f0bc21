"""The folder of a run as one sees it from outside while the loop runs.

    series.h5  the frames taken so far, a calibration series
    run.json   what the loop asks for, knows and decided, an estimate for each frame

Both may be absent, cut off, or replaced while they are read. What cannot be read now is said, and
what was read last stays. Nothing is written, and neither JAX nor the simulator is imported.
"""

import hashlib
import json
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from time import localtime, strftime
from typing import NamedTuple

import numpy as np

from jaxcal import png, thumbnails

MOST_FRAMES = 100
"""How many frames are shown, the last ones."""
LARGEST_JSON = 16_000_000
"""Bytes of run.json, above which it is not read."""
THUMBNAIL = 192
"""Fewest pixels along a side of a frame's picture, where the frame has as many."""


@dataclass(frozen=True)
class Step:
    """One estimate of the loop; mappings are {knob: nm}, None in them what is not known."""

    frame: int
    x0_nm: dict
    sd_nm: dict
    tuned_knobs_nm: dict
    tuned_sd_nm: dict
    actuator: dict
    """{knob: {knob that is turned: how much of it acts}}, empty where each acts as told"""
    left_sd_nm: dict
    rejected: dict
    """{number of a frame set aside: why, empty where that is not told}"""
    converged: bool
    message: str
    seconds: float | None


@dataclass(frozen=True)
class Run:
    """What run.json holds; ``standing_nm``, where the knobs arrived, is None while they move."""

    microscope: str
    knob_names: tuple[str, ...]
    limits_nm: dict
    frames: int | None
    seed: int | None
    state: str
    message: str
    asked_nm: dict
    standing_nm: dict | None
    started: str
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Frame:
    """One frame for the eye: two PNG files, and a digest of its counts that names them."""

    number: int
    knobs_nm: dict
    digest: str
    picture: bytes
    spectrum: bytes


@dataclass(frozen=True)
class View:
    """All there is to show. ``changed`` is when a file last changed, s since 1970, or None."""

    folder: str
    run: Run | None = None
    frames: tuple[Frame, ...] = ()
    problems: tuple[str, ...] = ()
    changed: float | None = None

    def frame(self, number):
        """The frame of a number, or None."""
        return next((frame for frame in self.frames if frame.number == number), None)


class Folder:
    """A run's folder; `look` may be called from several threads and reads only what changed."""

    def __init__(self, path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._run = _Kept(self.path / "run.json", lambda handle, _: read_run(handle))
        self._series = _Kept(self.path / "series.h5", read_frames)
        self._started = None  # of the run to which the frames kept belong

    def look(self):
        """The `View` of this moment."""
        with self._lock:
            self._run.look()
            run, frames = self._run.value, self._series
            started = run.started if run else None
            if frames.look():
                self._started = started
            # A new run in the same folder: the frames still lying there are the old one's.
            there = frames.path.exists()
            of_this_run = run is None or started == self._started or (bool(run.steps) and there)
            problems = [self._run.problem, frames.problem if of_this_run or there else None]
            if not self.path.is_dir() and (run or frames.value):
                problems = [f"{self.path} is not there any more; shown is what was in it last"]
            changes = [kept.changed for kept in (self._run, frames) if kept.changed is not None]
            return View(
                str(self.path),
                run,
                (frames.value or ()) if of_this_run else (),
                tuple(problem for problem in problems if problem),
                max(changes, default=None),
            )


class _Kept:
    """What a file held when it could last be read."""

    def __init__(self, path, reader):
        self.path, self._reader = path, reader
        self.value = self.problem = self.changed = self._seen = self._read_at = None

    def look(self):
        """Read the file if it changed; True where it did and could be read."""
        name = self.path.name
        try:
            with open(self.path, "rb") as handle:
                # Of the open file, not of the path: that may be another one a moment later.
                state = os.fstat(handle.fileno())
                seen = (state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
                if seen == self._seen:
                    return False
                self._seen, self.changed = seen, state.st_mtime
                self.value = self._reader(handle, self.value)
        except (FileNotFoundError, NotADirectoryError):
            self._seen = None
            self.problem = self._say(f"{name} is not there any more") if self._read_at else None
            return False
        except Exception as error:  # whatever a file cut off or damaged makes a reader stumble over
            self.problem = self._say(f"{name} cannot be read now ({_first_line(error)})")
            return False
        self.problem, self._read_at = None, strftime("%H:%M:%S", localtime())
        return True

    def _say(self, problem):
        if self._read_at is None:
            return f"{problem}; nothing of it is shown until it can be"
        return f"{problem}; shown is what it held at {self._read_at}"


def read_run(handle):
    """The `Run` in an open run.json; what is missing or of the wrong kind is left out.

    Raises:
        ValueError: not JSON, not an object, or too large.
    """
    text = handle.read(LARGEST_JSON + 1)
    if len(text) > LARGEST_JSON:
        raise ValueError(f"expected at most {LARGEST_JSON} bytes")
    held = json.loads(text)
    if not isinstance(held, dict):
        raise ValueError(f"expected an object, got {type(held).__name__}")
    limits = _numbers(held.get("limits_nm"))
    names = tuple(str(name) for name in _list(held.get("knob_names"))) or tuple(limits)
    standing = held.get("arrived_nm") or held.get("standing_nm")
    return Run(
        microscope=_text(held.get("microscope")),
        knob_names=names,
        limits_nm=limits,
        frames=_whole(held.get("frames")),
        seed=_whole(held.get("seed")),
        state=_text(held.get("state")),
        message=_text(held.get("message")),
        asked_nm=_numbers(held.get("asked_nm")),
        standing_nm=_numbers(standing) if isinstance(standing, dict) else None,
        started=_text(held.get("started")),
        steps=tuple(
            _step(number, step)
            for number, step in enumerate(_list(held.get("steps")))
            if isinstance(step, dict)
        ),
    )


def read_frames(handle, known=None):
    """The `Frame`s in an open series.h5; pictures of those already ``known`` are not drawn again.

    Raises:
        ValueError, OSError, KeyError: not a calibration series, or one that is cut off.
    """
    import h5py

    drawn = {frame.digest: frame for frame in known or ()}
    frames = []
    with h5py.File(handle, "r") as file:
        counts, knobs = file["frames"], np.asarray(file["knobs"][...], float)
        names = [_decoded(name) for name in np.ravel(file.attrs["knob_names"])]
        optics = _Angles(*(float(file.attrs[name]) for name in _Angles._fields))
        if counts.ndim != 3 or knobs.shape != (len(counts), len(names)):
            raise ValueError(f"frames {counts.shape} and knobs {knobs.shape} do not fit")
        for number in range(max(0, len(counts) - MOST_FRAMES), len(counts)):
            frame = np.ascontiguousarray(counts[number])
            digest = hashlib.blake2b(frame.tobytes(), digest_size=8).hexdigest()
            before = drawn.get(digest)
            pictures = (before.picture, before.spectrum) if before else _draw(frame, optics)
            setting = {name: float(u) for name, u in zip(names, knobs[number], strict=True)}
            frames.append(Frame(number, setting, digest, *pictures))
    return tuple(frames)


class _Angles(NamedTuple):
    """What a picture needs of the optics."""

    semi_angle_mrad: float
    pixel_mrad: float


def _draw(frame, optics):
    frame = np.nan_to_num(np.asarray(frame, float), posinf=0.0, neginf=0.0)
    with np.errstate(all="ignore"):  # a blank frame has no spectrum; its picture is black
        spectrum = thumbnails.display_spectrum(frame, optics)[1]
    return png.grey(thumbnails.smaller(frame, THUMBNAIL)), png.grey(spectrum, (20, 99.9))


def _step(number, held):
    frame = _whole(held.get("frame"))
    return Step(
        frame=number if frame is None else frame,
        x0_nm=_numbers(held.get("x0_nm")),
        sd_nm=_numbers(held.get("sd_nm")),
        tuned_knobs_nm=_numbers(held.get("tuned_knobs_nm")),
        tuned_sd_nm=_numbers(held.get("tuned_sd_nm")),
        actuator=_rows(held.get("actuator")),
        left_sd_nm=_numbers(held.get("left_sd_nm")),
        rejected=_rejected(held),
        converged=held.get("converged") is True,
        message=_text(held.get("message")),
        seconds=_number(held.get("seconds")),
    )


def _rows(held):
    return {name: _numbers(row) for name, row in held.items()} if isinstance(held, dict) else {}


def _rejected(held):
    """{number: reason} from numbers, from pairs (number, reason), and from their reasons apart."""
    reasons = held.get("rejected_reasons")
    reasons = reasons if isinstance(reasons, dict) else {}
    found = {}
    for item in _list(held.get("rejected_frames")):
        pair = item if isinstance(item, list) else [item]
        number = _whole(pair[0]) if pair else None
        if number is not None:
            reason = pair[1] if len(pair) > 1 else reasons.get(str(number))
            found[number] = _text(reason)
    return found


def _numbers(held):
    held = held if isinstance(held, dict) else {}
    return {str(name): _number(value) for name, value in held.items()}


def _number(value):
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if abs(value) < 1e300 and math.isfinite(value) else None


def _whole(value):
    number = _number(value)
    return None if number is None or abs(number) > 1e9 else int(number)


def _list(held):
    return held if isinstance(held, list) else []


def _text(value):
    return "" if value is None else " ".join(str(value).split())


def _decoded(name):
    return name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)


def _first_line(error):
    return str(error).splitlines()[0] if str(error) else type(error).__name__
