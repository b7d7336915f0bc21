"""Does an adapter do what `jaxcal.calibrate` takes for granted? Asked of the instrument itself.

`check` turns the knobs by known steps and looks at what the frames say of it: that settings are
reached, limits kept (on demand), frames fresh, and that the camera sees each knob do what its name
says, in nm, with x to the right and y down. The knobs are brought back in the end, whatever
happens.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from jaxcal import diagnosis, estimation, observation
from jaxcal import model as models
from jaxcal.aberrations import ORDER, indices
from jaxcal.files import first_line
from jaxcal.microscopes.guarded import TIMEOUT_S, GuardedMicroscope
from jaxcal.microscopes.protocol import InstrumentError
from jaxcal.optics import Optics, edge_waves

DEFOCUS_WAVES = 12.0  # C10 about which the steps are made, at the aperture's edge
STEP_WAVES = {1: 4.0, 2: 3.0}  # of the other knobs
ARRIVES = 0.1  # share of a step by which the setting told may differ
NOMINAL = 0.05  # by which the disc may differ from the nominal radius
LEAST = 3  # frames that tell how the knobs act


@dataclass(frozen=True)
class Check:
    """One question: passed, True, False, or None where it could not be asked; and the answer."""

    question: str
    passed: bool | None
    told: str


@dataclass(frozen=True)
class Conformance:
    """What an adapter was asked, and how the knobs act (None where that was not come to)."""

    checks: tuple[Check, ...]
    response: diagnosis.Response | None

    @property
    def passed(self) -> bool:
        return all(check.passed is not False for check in self.checks) and self.response is not None

    def __str__(self):
        signs = {True: "ok  ", False: "FAIL", None: "--  "}
        return "\n".join(f"{signs[check.passed]} {check.question}: {check.told}"
                         for check in self.checks)


def check(microscope, *, defocus_nm: float | None = None, steps_nm=None,
          beyond_limits: bool = False, model=None, timeout_s: float = TIMEOUT_S,
          progress: Callable | None = None) -> Conformance:
    """Ask an adapter whether it does what a calibration needs.

    Give it an instrument that is roughly tuned, over a thin amorphous film. It takes two frames
    for each knob and four more, and keeps to the ``limits_nm`` that the microscope states.

    Args:
        microscope: a `jaxcal.Microscope`.
        defocus_nm: C10 about which the other knobs are turned; DEFOCUS_WAVES where None.
        steps_nm: (P,) steps of the knobs, nm; those of STEP_WAVES where None.
        beyond_limits: send each knob 1 % beyond its limit, up and down, which the adapter itself
            should refuse; the first that it does not refuse is the last tried. Ask for it where
            that can do no harm: `jaxcal.calibrate` keeps to the limits whatever the adapter does.
        model: trained model; the shipped one where None.
        timeout_s: for each call of the microscope, s.
        progress: called with (message, fraction).

    Returns:
        `Conformance`; print it. It never raises for what the microscope does.
    """
    report = progress or (lambda message, fraction: None)
    members = _members(microscope)
    if not members.passed:
        return Conformance((members,), None)
    try:
        guarded = GuardedMicroscope(microscope, timeout_s)
    except Exception as error:  # an adapter's members may raise anything
        unread = Check("its members can be read", False, first_line(error))
        return Conformance((members, unread), None)
    checks, response = [members], None
    try:
        first = _first_frame(guarded)
        checks += first
        if all(one.passed for one in first):
            response = _respond(guarded, checks, _settings(guarded, defocus_nm, steps_nm),
                                model or models.load(), report)
        checks.append(_limits(guarded, response, beyond_limits))
    except (InstrumentError, ValueError) as error:
        checks.append(Check("the instrument goes on", False, str(error)))
    finally:
        checks.append(_bring_back(guarded))
    return Conformance(tuple(checks), response)


def _members(microscope) -> Check:
    question = "it has knob_names, optics, set and acquire"
    try:
        names = tuple(microscope.knob_names)
        indices(names)
        for member in ("set", "acquire"):
            if not callable(getattr(microscope, member)):
                return Check(question, False, f"{member} cannot be called")
        if not isinstance(microscope.optics, Optics):
            return Check(question, False, f"optics should be a jaxcal.Optics, got "
                                          f"{type(microscope.optics).__name__}")
    except Exception as error:  # an adapter's members may raise anything
        return Check(question, False, first_line(error))
    return Check(question, bool(names), f"the knobs are {', '.join(names) or 'none'}")


def _first_frame(guarded) -> list[Check]:
    """Frames with the knobs at zero: one that can be used, of the nominal size, and a fresh one."""
    guarded.set(np.zeros(len(guarded.knob_names)))
    frame = guarded.acquire()
    seen = observation.observe(frame, guarded.optics)
    usable = Check("a frame can be used", seen.fault is None,
                   seen.fault or f"{frame.shape[1]} x {frame.shape[0]} pixels, the disc's radius "
                                 f"is {seen.disc.radius:.1f}")
    if seen.fault is not None:
        return [usable]
    nominal = guarded.optics.radius_pixels
    off = seen.disc.radius / nominal - 1
    size = Check("the aperture has its nominal size", abs(off) <= NOMINAL,
                 f"{100 * off:+.1f} % of {nominal:.1f} pixels" + (
                     "" if abs(off) <= NOMINAL else
                     ": check semi_angle_mrad (half the full angle), and pixel_mrad of the frames "
                     "as they come, binned"))
    again = observation.stale(guarded.acquire(), [frame])
    fresh = Check("a frame is exposed when it is asked for", again is None,
                  again or "two of one setting differ")
    return [usable, size, fresh]


def _limits(guarded, response, beyond_limits: bool) -> Check:
    """Whether the adapter itself refuses a setting beyond a limit it states; not tried where the
    knobs do not act as told, in another unit, say."""
    question = "a setting beyond the limits is refused"
    if response is None or response.findings:
        return Check(question, None, "not tried before the knobs act as told")
    if not np.any(np.isfinite(guarded.limits_nm)):
        return Check(question, None, "it states no limits_nm; give some, if the knobs can do harm")
    if not beyond_limits:
        return Check(question, None, "not tried; check(..., beyond_limits=True) goes 1 % beyond")
    for place in np.flatnonzero(np.isfinite(guarded.limits_nm)):
        for sign in (1, -1):
            beyond = np.zeros(len(guarded.knob_names))
            limit = guarded.limits_nm[place]
            beyond[place] = sign * (1.01 * limit if limit else 0.1)  # a knob that is to stand still
            failed = guarded.send(beyond)
            if failed is None:
                return Check(question, False, f"{guarded.knob_names[place]} was turned to "
                                              f"{beyond[place]:.1f} nm, beyond its limit")
            if not isinstance(failed, ValueError):
                return Check(question, False, f"it should raise ValueError, got {failed!r}")
    return Check(question, True, str(failed))


def _settings(guarded, defocus_nm, steps_nm) -> np.ndarray:
    """Settings (2 P + 2, P), nm: two of opposite defocus, and each knob up and down about one."""
    names = guarded.knob_names
    unit = edge_waves(guarded.optics)[indices(names)]
    if steps_nm is None:
        steps_nm = np.array([STEP_WAVES.get(int(n), 2.0) for n in ORDER[indices(names)]]) / unit
    away = np.zeros(len(names))
    if "C10" in names:
        place = names.index("C10")
        away[place] = DEFOCUS_WAVES / unit[place] if defocus_nm is None else defocus_nm
        away[place] = np.clip(away[place], *(0.7 * guarded.limits_nm[place] * np.array([-1, 1])))
    steps = np.minimum(np.broadcast_to(np.asarray(steps_nm, float), len(names)),
                       guarded.limits_nm - np.abs(away))
    around = [sign * step * row for step, row in zip(steps, np.eye(len(names)), strict=True)
              for sign in (1, -1)]
    return np.array([away, -away, *(away + step for step in around)])


def _respond(guarded, checks, settings, model, report) -> diagnosis.Response:
    """Take a frame at each setting (N, P); how the knobs act, and the checks of it."""
    names, frames, states, used, arrived = guarded.knob_names, [], [], [], []
    for number, setting in enumerate(settings):
        report(f"step {number + 1} of {len(settings)}", number / len(settings))
        guarded.set(setting)
        arrived.append(guarded.knobs_nm - setting)
        frame = guarded.acquire()
        old = observation.stale(frame, frames)
        frames.append(frame)
        seen = observation.observe(frame, guarded.optics)
        wrong = old or seen.fault
        if not wrong:
            try:
                states.append(estimation.state_of(seen, names, guarded.optics, model))
                used.append(number)
            except ValueError as error:  # no state explains it
                wrong = str(error)
        if wrong:
            checks.append(Check(f"frame {number + 1} is a new one that can be used", False, wrong))
    off = np.abs(arrived).max(0)
    short = off > ARRIVES * np.abs(settings).max(0) + 0.5
    checks.append(Check("the knobs say that they arrive", not short.any(), ", ".join(
        f"{name} within {value:.1f} nm" for name, value in zip(names, off, strict=True))))
    if len(states) < LEAST:
        raise ValueError(f"how the knobs act takes {LEAST} frames that can be used, "
                         f"{len(states)} of {len(settings)} can: look for a better area")
    states_nm, sd_nm = zip(*states, strict=True)
    before = np.concatenate([np.zeros_like(settings[:1]), settings[:-1]])
    found, late = (diagnosis.response(states_nm, sd_nm, knobs[used], names, guarded.optics)
                   for knobs in (settings, before))
    in_time = found.cost < late.cost + diagnosis.GUESSED
    checks.append(Check("a frame is exposed after the knobs moved", in_time,
                        "the frames fit the settings" if in_time else
                        "the frames fit the settings before: wait until the knobs stand, and take "
                        "a frame that begins after that"))
    gains = ", ".join(f"{name} {gain:.2f} ± {sd:.2f}" for name, gain, sd in zip(
        names, np.diag(found.actuator), np.diag(found.sd), strict=True))
    checks.append(Check("the camera sees each knob do what its name says", not found.findings,
                        "; ".join([*found.findings, f"gains {gains}"])))
    return found


def _bring_back(guarded) -> Check:
    question = "the knobs are brought back"
    try:
        guarded.set(np.zeros(len(guarded.knob_names)))
    except (InstrumentError, ValueError) as error:
        return Check(question, False, str(error))
    return Check(question, True, "they stand where they stood")
