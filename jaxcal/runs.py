"""The folder of a calibration: what was asked of the microscope and what came, as it happens.

    series.h5  the frames taken so far at the settings where they were taken, a calibration series
    run.json   the call, where the knobs are, how it ended, and an estimate for each frame
    lock       held by the calibration that is at it; free again when that ends, in whatever way

The first two are replaced whole, so that a run killed at any moment leaves what it had. To go on
with one, the same call is made with the recorded frames: it comes to the same decisions as before
and then to the first that was not recorded.
"""

import json
import time
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from jaxcal import answers, results, series
from jaxcal.files import sweep, write_text
from jaxcal.microscopes.guarded import GuardedMicroscope
from jaxcal.microscopes.protocol import InstrumentError, NoAnswerError, Past
from jaxcal.series import Series, SeriesError

RUNNING = "running"
TRIES, PAUSE_S = 3, 1.0  # to bring the knobs back


class RecordedMicroscope:
    """A guarded microscope whose every setting and frame is kept in a folder.

    Args:
        instrument: `GuardedMicroscope`.
        folder: of the run, which is there, see `alone`; None keeps nothing.
        call: what must be the same to go on, plain values by name.
        limits_nm: (P,) tolerances aimed at, nm, for who looks on.
        resume: go on with the run of the folder.

    Attributes:
        knob_names, optics, name, knobs_nm, limits_nm, arrives: of the instrument.
        recorded: how many frames are still to be shown from the record.
        ended: whether this goes on with a run that had ended, and has moved nothing yet.

    Raises:
        SeriesError: there is no run to go on with, or it was another call; or there is one and it
            is not to be gone on with.
        InstrumentError: the microscope cannot take up counting where it was left.
    """

    def __init__(self, instrument: GuardedMicroscope, folder=None, *, call=None, limits_nm=None,
                 resume: bool = False):
        self.instrument = instrument
        self.knob_names, self.optics = instrument.knob_names, instrument.optics
        self.name, self.limits_nm = instrument.name, instrument.limits_nm
        self.arrives = instrument.arrives
        self.knobs_nm = np.zeros(len(self.knob_names))
        self.folder = None if folder is None else Path(folder)
        self._frames, self._stood, self._asked, self._shown = [], [], [], 0
        self._left = None  # state of the run that is gone on with, as long as nothing is moved
        self._told = {
            "microscope": self.name, "knob_names": list(self.knob_names),
            "limits_nm": None if limits_nm is None else self._named(limits_nm),
            **(call or {}), "state": RUNNING, "message": "", "started": _now(),
            "origin": instrument.origin, "asked_nm": None, "settings_nm": [],
            "standing_nm": self._named(self.knobs_nm), "arrived_nm": self._named(self.knobs_nm),
            "steps": []}
        if resume and self.folder is None:
            raise SeriesError("there is no folder to go on from", "name the folder of the run")
        if resume:
            self._take_up(call or {})
        elif self.folder is not None:
            self._begin()

    @property
    def recorded(self) -> int:
        return len(self._frames) - self._shown

    @property
    def ended(self) -> bool:
        return self._left not in (None, RUNNING)

    def set(self, knobs_nm) -> None:
        """Turn the knobs to (P,) nm; while recorded frames are shown, go where they were taken."""
        wanted = np.asarray(knobs_nm, float)
        self._told["asked_nm"] = self._named(wanted)
        if self.recorded:
            before = self._asked[self._shown]
            if not _same(wanted, before):
                raise SeriesError(
                    f"frame {self._shown} of the run was taken at {before} nm, now it would be "
                    f"{wanted}", "go on with the version and the machine it was begun with, or "
                    "begin a new run", file=self.folder)
            self.knobs_nm = self._stood[self._shown].copy()
            return
        if self.ended:
            self._told |= {"state": RUNNING, "message": ""}
        self._left = None
        self._write(**self._standing())
        self.instrument.set(wanted)
        self.knobs_nm = self.instrument.knobs_nm.copy()
        self._write(**self._standing(wanted, self.knobs_nm))

    def acquire(self) -> np.ndarray:
        """One frame (H, W), from the record as long as there are any."""
        new = not self.recorded
        if new:
            frame = self.instrument.acquire()
            self._frames.append(frame)
            self._stood.append(self.knobs_nm.copy())
            asked = self._told["asked_nm"] or self._named(self.knobs_nm)
            self._asked.append(np.array(list(asked.values())))
            if self.folder is not None:
                series.write(self.folder / "series.h5", Series(
                    np.stack(self._frames), np.stack(self._stood), self.knob_names, self.optics,
                    self.name))
            self._told["settings_nm"].append(self._asked[-1].tolist())
        self._shown += 1
        if new:
            self._write()
        return self._frames[self._shown - 1]

    def stay(self) -> None:
        """See to it that the knobs stand where they were asked to: where a run is gone on with
        after its last frame, they may have been brought back, or turned, since."""
        asked, arrived = (told and list(told.values())
                          for told in (self._told["asked_nm"], self._told["arrived_nm"]))
        standing = self.instrument.standing_nm
        there = standing is not None and arrived and _same(standing, asked)
        if there and self._left is not None and self.arrives:
            there = _same(self.instrument.where(arrived), arrived)
        if asked and (self._left == RUNNING or not there):
            self.set(asked)

    def bring_back(self) -> None:
        """Turn the knobs back to zero, whatever was recorded, also where it cannot be kept; TRIES
        times where the microscope fails, once where it does not answer.

        Raises:
            InstrumentError: the microscope failed; where the knobs stand is not known.
            OSError: the knobs are back, but the folder cannot be written.
        """
        try:
            self._put(**self._standing())
        except OSError:
            pass  # of a full disk, say; it is told of once the knobs are back
        home = np.zeros(len(self.knob_names))
        self._told["asked_nm"] = self._named(home)
        for attempt in range(TRIES):
            try:
                self.instrument.set(home)
                break
            except InstrumentError as error:  # a link may have been down for a moment
                if isinstance(error, NoAnswerError) or attempt + 1 == TRIES:
                    raise
                time.sleep(PAUSE_S)
        self.knobs_nm = self.instrument.knobs_nm.copy()
        self._put(**self._standing(home, self.instrument.knobs_nm))

    def step(self, answer) -> None:
        """Keep the `Estimate` after a frame."""
        _, left = answers.left(answer)
        entry = results.entry(answer) | {
            "frame": self._shown - 1,
            "actuator": results.actuator(answer),
            "left_sd_nm": self._named(results.standard_deviation(left)),
            "rejected_reasons": {str(number): why for number, why in answer.rejected_frames}}
        steps = [step for step in self._told["steps"] if step["frame"] < entry["frame"]]
        self._write(steps=[*steps, entry])

    def end(self, state: str, message: str) -> None:
        """Say how the run ended."""
        standing = self.instrument.standing_nm
        told = self._standing() if standing is None else {"standing_nm": self._named(standing)}
        self._put(state=state, message=message, **told)

    def _begin(self):
        if (self.folder / "run.json").exists():
            raise SeriesError("holds a run already", "go on with it, or name another folder",
                              file=self.folder)
        if (self.folder / "series.h5").exists():
            raise SeriesError("holds a series.h5 that is not of a run", "name another folder",
                              file=self.folder)
        self._write()

    def _take_up(self, call):
        told = read(self.folder)
        same = ("microscope", "knob_names", "limits_nm", *call)
        wanted = {name: self._told[name] for name in same}
        for name, value in wanted.items():
            if told.get(name) != value:
                raise SeriesError(f"was begun with {name} {told.get(name)}, now it is {value}",
                                  "make the same call again, or begin a new run",
                                  file=self.folder)
        if told["settings_nm"]:
            series.probe(self.folder / "series.h5")
            kept = series.read(self.folder / "series.h5")
            count = min(len(kept), len(told["settings_nm"]))  # killed between the two files
            self._frames, self._stood = list(kept.frames[:count]), list(kept.knobs_nm[:count])
            self._asked = list(np.array(told["settings_nm"][:count], float))
            self.instrument.shape = kept.frames.shape[1:]
        for name in ("run.json", "series.h5"):
            sweep(self.folder / name)
        self._left = told.get("state", RUNNING)
        if self.ended:
            self._told |= {"state": self._left, "message": told.get("message", "")}
        standing = told["standing_nm"] and np.array(list(told["standing_nm"].values()))
        self._told |= {"started": told["started"], "origin": told["origin"],
                       "standing_nm": told["standing_nm"], "arrived_nm": told.get("arrived_nm"),
                       "settings_nm": [asked.tolist() for asked in self._asked]}
        self.instrument.resume(Past(
            np.reshape(self._asked, (-1, len(self.knob_names))), standing, told["origin"]))

    def _standing(self, standing_nm=None, arrived_nm=None):
        """Where the knobs were sent and where that is, (P,) nm; None while they move."""
        return {"standing_nm": None if standing_nm is None else self._named(standing_nm),
                "arrived_nm": None if arrived_nm is None else self._named(arrived_nm)}

    def _named(self, values):
        return {name: float(value) for name, value in zip(self.knob_names, values, strict=True)}

    def _write(self, **changes):
        """Keep what changed, unless recorded frames are shown: that is known already."""
        self._told |= changes
        if not self.recorded:
            self._put()

    def _put(self, **changes):
        self._told |= changes
        if self.folder is not None:
            write_text(self.folder / "run.json", json.dumps(self._told, indent=1) + "\n")


@contextmanager
def alone(folder, *, new: bool):
    """Keep others from the folder of a run while the block runs, where its file system can lock;
    None is no folder.

    Args:
        new: make the folder where it is not there.

    Raises:
        SeriesError: another process, or another call of this one, is at it.
    """
    if folder is not None and new:
        Path(folder).mkdir(parents=True, exist_ok=True)
    if folder is None or not Path(folder).is_dir():  # what is wrong then, taking up the run says
        yield
        return
    lock = FileLock(Path(folder) / "lock", mode=0o666)  # others may go on with the run
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SeriesError("a calibration is at this run", "wait until it has ended, or name "
                          "another folder", file=folder) from None
    except (OSError, NotImplementedError):  # a file system, of a network say, that cannot lock
        pass
    try:
        yield
    finally:
        lock.release()


def read(folder) -> dict:
    """What run.json of a folder says.

    Raises:
        SeriesError: there is none, or it is not that of a run.
    """
    path = Path(folder) / "run.json"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        missing = {"settings_nm", "standing_nm", "started", "origin"} - told.keys()
    except FileNotFoundError:
        raise SeriesError("there is no run here", "check the folder", file=folder) from None
    except (OSError, ValueError, AttributeError) as error:
        raise SeriesError(f"run.json cannot be read ({error})", "begin a new run",
                          file=folder) from None
    if missing:
        raise SeriesError(f"run.json lacks {', '.join(sorted(missing))}", "begin a new run",
                          file=folder)
    names, standing = told.get("knob_names"), told["standing_nm"]
    known = standing is None or (
        isinstance(standing, dict) and list(standing) == names
        and _settings([list(standing.values())], len(names)))
    if not (isinstance(names, list) and known and _settings(told["settings_nm"], len(names))):
        raise SeriesError("run.json tells no settings of the knobs", "begin a new run", file=folder)
    return told


def _same(setting_nm, other_nm) -> bool:
    """Whether two settings (P,), nm, are one, but for what machines round differently."""
    return np.allclose(setting_nm, other_nm, rtol=1e-3, atol=1e-2)


def _settings(value, count: int) -> bool:
    """Whether it is a list of settings of so many knobs."""
    try:
        return np.array(value, float).shape in ((0,), (len(value), count))
    except (TypeError, ValueError, OverflowError):
        return False


def _now():
    return datetime.now().isoformat(timespec="seconds")
