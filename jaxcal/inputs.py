"""What the arguments of the command name: microscopes, series, models, files, numbers.

Whatever cannot be used becomes an `InputError` that says what to give instead.
"""

import os
import sys
from importlib import util
from pathlib import Path

from jaxcal.files import first_line

MEMBERS = "knob_names", "optics", "set", "acquire"
"""What a microscope has at least, `jaxcal.Microscope`."""


class InputError(ValueError):
    """An argument or a file that cannot be used."""


def read_for(path, answers):
    """The series of a path, whose base name must not be that of one answered before, and the truth
    about it, {name: nm}, or None."""
    from jaxcal import series as series_file

    series_file.probe(path)
    series = series_file.read(path)
    if series.name in answers:
        raise InputError(
            f"{path}: another series of this run is called {series.name} too, and results are "
            f"kept by that name; rename one or run them apart"
        )
    return series, series_file.read_truth(path)


def microscope(arguments):
    """The microscope asked for, and how many frames it can give for the estimate."""
    kind, _, path = arguments.microscope.partition(":")
    if kind == "simulated" and not path:
        energy = 200.0 if arguments.energy_kev is None else arguments.energy_kev
        angle = 20.0 if arguments.semi_angle_mrad is None else arguments.semi_angle_mrad
        return simulated(arguments, energy, angle), arguments.frames
    if is_own(arguments.microscope):
        return _own_for_calibrate(arguments), arguments.frames
    if kind != "replay" or not path:
        raise InputError(
            f"unknown microscope {arguments.microscope!r}; write simulated, replay:SERIES.h5, or "
            f"FILE.py:NAME, a Python file and what makes the adapter of your instrument in it"
        )
    if arguments.energy_kev is not None or arguments.semi_angle_mrad is not None:
        raise InputError(
            f"{path}: a replay takes energy and semi-angle from its file; leave --energy-kev and "
            f"--semi-angle-mrad out"
        )
    from jaxcal import series as series_file

    series_file.probe(path)
    series = series_file.read(path)
    if arguments.knobs is not None and knob_names(arguments.knobs) != series.knob_names:
        raise InputError(
            f"{path}: was taken with the knobs {','.join(series.knob_names)}; leave --knobs out"
        )
    from jaxcal.microscopes import ReplayMicroscope

    if len(series) < 3:
        raise InputError(f"{path}: a replay takes two frames and one for the verification, it has "
                         f"{len(series)}; estimate it instead: jaxcal estimate {path}")
    # Every recorded frame counts once, and the last is for the verification.
    return ReplayMicroscope(series), min(arguments.frames, len(series) - 1)


def _own_for_calibrate(arguments):
    """The user's own microscope, of which no option says what its adapter says."""
    for option in ("knobs", "energy_kev", "semi_angle_mrad"):
        if getattr(arguments, option) is not None:
            raise InputError(f"{arguments.microscope}: an adapter tells its knobs and optics "
                             f"itself; leave --{option.replace('_', '-')} out")
    return own(arguments.microscope)


def file_of(text) -> str:
    """The file that --microscope names, a series or a Python file; "" where it names none."""
    return text.rpartition(":")[0] if is_own(text) else text.partition(":")[2]


def is_own(text) -> bool:
    """Whether an argument names an adapter in a Python file, FILE.py:NAME."""
    return text.rpartition(":")[0].endswith(".py")


def own(text):
    """The microscope that FILE.py:NAME names: an object, or a class or function without arguments
    that makes it. What stands beside the file can be imported there, as in a script.

    Raises:
        InputError: there is no such file or name, what stands there raises, or makes no microscope.
    """
    if not is_own(text):
        raise InputError(f"{text}: write FILE.py:NAME, a Python file and what makes the adapter of "
                         f"your instrument in it")
    path, _, name = text.rpartition(":")
    if not Path(path).is_file():
        raise InputError(f"{path}: there is no such file")
    sys.path.insert(0, str(Path(path).resolve().parent))
    spec = util.spec_from_file_location(f"adapter_{Path(path).stem}", path)
    try:
        module = sys.modules[spec.name] = util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not hasattr(module, name):
            raise InputError(f"{path}: has no {name!r}; there are "
                             f"{', '.join(n for n in dir(module) if not n.startswith('_'))}")
        made = getattr(module, name)
        if isinstance(made, type) or (callable(made) and not hasattr(made, "acquire")):
            made = made()
        missing = [one for one in MEMBERS if not hasattr(made, one)]
    except InputError:
        raise
    except Exception as error:  # a user's own file may raise anything
        raise InputError(f"{text}: {type(error).__name__}: {first_line(error)}; JAXCAL_DEBUG=1 in "
                         f"the environment shows where") from error
    if missing:
        raise InputError(f"{text}: is no microscope, it has no {', '.join(missing)}; see the "
                         f"template in the documentation")
    return made


def simulated(arguments, energy_kev, semi_angle_mrad):
    """The simulated microscope that the arguments describe."""
    not_negative("hidden-range", arguments.hidden_range)
    from jaxcal.microscopes.simulated import SEVEN, SimulatedMicroscope, simulated_optics

    knobs = SEVEN if arguments.knobs is None else knob_names(arguments.knobs)
    return SimulatedMicroscope(
        simulated_optics(energy_kev, semi_angle_mrad),
        knob_names=knobs,
        seed=arguments.seed,
        hidden_range_nm=arguments.hidden_range,
    )


def knob_names(text):
    """The knobs of a list with commas."""
    from jaxcal.aberrations import indices

    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise InputError("--knobs names no knob; write for example --knobs C10,C12a,C12b")
    try:
        indices(names)
    except ValueError as error:
        raise InputError(f"--knobs {text}: {error}") from None
    return names


def load_model(path):
    """The model of a file or of a training run's folder; the shipped one where None."""
    if path is not None and not path.exists():
        raise InputError(f"{path}: no such model; give the file that jaxcal train wrote")
    if path is not None and path.is_dir() and (path / "model.safetensors").exists():
        path = path / "model.safetensors"  # the folder of a training run will do
    from jaxcal import model

    try:
        return model.load(path)
    except (OSError, ValueError, KeyError) as error:
        if path is None:
            raise
        raise InputError(f"{path}: is not a model of jaxcal ({error})") from error


def read_text(path):
    """What stands in a text file."""
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text; give lines or JSON") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; check the path") from None


def check_outputs(*paths):
    """Nobody waits a minute to learn that the answer cannot be written."""
    for path in paths:
        if path is None or is_stream(path):
            continue
        folder = path.resolve().parent
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a file in it")
        if not folder.is_dir():
            raise InputError(f"{path}: there is no folder {folder}; make it first")
        if not os.access(folder, os.W_OK):
            raise InputError(f"{path}: the folder {folder} cannot be written to; choose another")


def is_stream(path):
    """Whether a path is a pipe or a device, which is written once."""
    return path.exists() and not path.is_file() and not path.is_dir()


def check_apart(outputs, measured):
    """No output is one of the measured files, another output, or a series of frames."""
    outputs = [Path(path) for path in outputs if path is not None and not is_stream(path)]
    for number, path in enumerate(outputs):
        for other in [*measured, *outputs[:number]]:
            if _same(path, Path(other)):
                raise InputError(f"{path}: is named twice, to be written and as {other}; choose "
                                 f"another name for what is written")
        if path.exists():
            from jaxcal import series as series_file  # loads HDF5

            if series_file.holds_frames(path):
                raise InputError(f"{path}: holds a series of frames; choose another name")


def _same(one, other):
    try:
        return os.path.samefile(one, other)
    except OSError:  # one is not there
        return os.path.realpath(one) == os.path.realpath(other)


def check_replaceable(path):
    """A measured series is not to be lost to a slip of the hand."""
    if not path.exists() or not path.is_file():
        return
    from jaxcal import series as series_file

    if not series_file.is_simulated(path):
        raise InputError(
            f"{path}: exists, and jaxcal replaces only what it simulated; delete it or choose "
            f"another name"
        )


def positive(name, value):
    """Refuse what is no positive number."""
    if not 0 < value < float("inf"):
        raise InputError(f"--{name} should be positive, got {value}")


def not_negative(name, value):
    """Refuse what is no number from zero on."""
    if not 0 <= value < float("inf"):
        raise InputError(f"--{name} should be 0 or more, got {value}")
