"""The jaxcal command: arguments in, tables and files out.

Exit status 0 where every series was answered, also with "not converged"; 2 with one line on
stderr for each input that cannot be used, a microscope that refuses or fails its check among them;
1 for a fault of jaxcal itself.  JAX is imported only once the input has been read.
"""

import os

# Before the first import of NumPy: OpenBLAS's threads fight XLA's over the same cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# XLA complains of every program that it finds compiled, though of this very machine.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import sys  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Literal  # noqa: E402

import tyro  # noqa: E402

from jaxcal import commands  # noqa: E402

Notation = Literal["krivanek", "polar", "ceos", "jeol", "nion"]
Text = tyro.conf.arg  # an argument with a name or a help of its own

# What may be left out; its default is told in words, not as "None".
Names = Annotated[str | None, Text(metavar="NAME,NAME", help_behavior_hint="")]
Number = Annotated[float | None, Text(metavar="FLOAT", help_behavior_hint="")]
Whole = Annotated[int | None, Text(metavar="INT", help_behavior_hint="")]
Energy = Annotated[float | None, Text(metavar="FLOAT", help_behavior_hint="",
                                      aliases=["--energy-keV"])]
File = Annotated[Path | None, Text(metavar="FILE", help_behavior_hint="")]
Folder = Annotated[Path | None, Text(metavar="FOLDER", help_behavior_hint="")]


@dataclass(frozen=True)
class Calibrate:
    """Tune a microscope: look, estimate, turn the knobs, verify."""

    microscope: Annotated[str, Text(metavar="simulated|replay:FILE|FILE.py:NAME")] = "simulated"
    """What to tune: a simulated microscope, a recorded series played back, or your own, by the
    Python file and the name of what makes its adapter there."""
    knobs: Names = None
    """Simulated: the knobs to turn (default C10 to C23, seven)."""
    frames: int = 10
    """The most frames to take before the correction; one more verifies it."""
    seed: int = 0
    """Fixes the simulated microscope, its noise and the estimate."""
    hidden_range: float = 200.0
    """Simulated: the hidden C10 and C12 lie within plus or minus this, nm."""
    energy_kev: Energy = None
    """Simulated: beam energy, keV (default 200)."""
    semi_angle_mrad: Number = None
    """Simulated: convergence semi-angle, mrad (default 20)."""
    tolerance: Number = None
    """Stop when all knobs are within this, nm, with 95 % (default: the pi/4 limit of each)."""
    refine: bool = True
    """Go on to the spectra under the wave optics after EM over the latents."""
    model: File = None
    """A trained model (default: the one that ships with jaxcal)."""
    run: Folder = None
    """Keep frames, settings and estimates in this folder while the run goes on."""
    resume: bool = False
    """Go on with the interrupted run of that folder; say all else as before."""
    json: File = None
    """Write the result for programs here."""
    report: File = None
    """Write the report for people here: one HTML file."""
    nexus: File = None
    """Write the result in NeXus here: one HDF5 file."""


@dataclass(frozen=True)
class Estimate:
    """Estimate the state of an instrument from each recorded series."""

    series: Annotated[
        tyro.conf.Positional[tuple[Path, ...]],
        Text(metavar="SERIES.h5 ...", help_behavior_hint=""),
    ]
    """HDF5 files: datasets frames and knobs; attributes knob_names, energy_keV, ..."""
    json: File = None
    """Write the results for programs here, after every series anew."""
    report: File = None
    """Write the report for people here: one HTML file."""
    nexus: File = None
    """Write the results in NeXus here, after every series anew: one HDF5 file."""
    model: File = None
    """A trained model (default: the one that ships with jaxcal)."""
    seed: int = 0
    """Fixes what the estimate draws at random."""
    refine: bool = True
    """Go on to the spectra under the wave optics after EM over the latents."""
    actuator: bool = False
    """Estimate the knobs' gains, cross-talk and drift in any case, not only where they show."""
    published: bool = False
    """Use the map without its simulated mean: the method as published."""


@dataclass(frozen=True)
class Check:
    """Ask an instrument whether its adapter is right: units, signs, limits, fresh frames."""

    microscope: Annotated[tyro.conf.Positional[str], Text(metavar="FILE.py:NAME")]
    """The Python file, and the name of what makes the adapter there."""
    beyond_limits: bool = False
    """Send each knob 1 % beyond its limit too, which the adapter should refuse."""
    model: File = None
    """A trained model (default: the one that ships with jaxcal)."""


@dataclass(frozen=True)
class Simulate:
    """Write a calibration series of a simulated microscope, with the truth about it."""

    series: Annotated[tyro.conf.Positional[Path], Text(metavar="SERIES.h5")]
    """HDF5 file to write; one that is there is replaced only if jaxcal simulated it."""
    knobs: Annotated[str, Text(metavar="NAME,NAME")] = "C10,C12a,C12b"
    """The knobs that are turned from frame to frame."""
    frames: int = 10
    """How many frames."""
    step: float = 120.0
    """The knobs are set at random within plus or minus this, nm (C21, C23: five times that)."""
    seed: int = 0
    """Fixes the microscope, the steps and the noise."""
    hidden_range: float = 150.0
    """The hidden C10 and C12 lie within plus or minus this, nm."""
    energy_kev: Annotated[float, Text(aliases=["--energy-keV"])] = 200.0
    """Beam energy, keV."""
    semi_angle_mrad: float = 20.0
    """Convergence semi-angle, mrad."""
    truth: bool = True
    """Keep the hidden state in the file."""


@dataclass(frozen=True)
class Watch:
    """Show a calibration while it runs, on a page that only this machine can open."""

    folder: Annotated[tyro.conf.Positional[Path], Text(metavar="FOLDER")]
    """Folder of the run, as given to jaxcal calibrate; it need not be there yet."""
    port: int = 8642
    """Port of the page on 127.0.0.1; 0 takes a free one."""


@dataclass(frozen=True)
class Series:
    """Write a calibration series of recorded files and a table of the knob settings."""

    series: Annotated[tyro.conf.Positional[Path], Text(metavar="SERIES.h5")]
    """HDF5 file to write; a measured one that is there is never replaced."""
    table: Annotated[Path, Text(metavar="TABLE.csv")]
    """Columns file, frame (its number in a stack, from 0) and one a knob, such as C10 (nm)."""
    energy_kev: Energy = None
    """Beam energy, keV (default: what the files say)."""
    semi_angle_mrad: Number = None
    """Convergence semi-angle, mrad (default: what the files say)."""
    pixel_mrad: Number = None
    """Angle of one pixel of the frames, mrad (default: what the files say)."""


@dataclass(frozen=True)
class Train:
    """Train a model on simulated spectra; goes on where an earlier run was stopped."""

    directory: tyro.conf.Positional[Path]
    """Folder of the run: configuration, checkpoints, losses and, at the end, the model."""
    vae_rounds: Whole = None
    """Rounds of simulated spectra for the autoencoder (default: as for the shipped model)."""
    map_rounds: Whole = None
    """Rounds for the map from aberrations to latents (default: as for the shipped model)."""
    seed: int = 0
    """Fixes the data and the weights."""


@dataclass(frozen=True)
class Convert:
    """Rewrite aberration coefficients from one notation into another."""

    source: Annotated[Notation, Text(name="from")]
    """Notation of the report."""
    report: tyro.conf.Positional[str] = "-"
    """File with lines "name value unit [angle]" or JSON; - reads what is piped in."""
    target: Annotated[Notation, Text(name="to")] = "krivanek"
    """Notation wanted."""
    flip_imaginary: bool = False
    """CEOS: the imaginary parts of B2, S3, B4, D4, S5 and R5 count with the opposite sign."""
    angles: Literal["azimuth", "argument"] = "azimuth"
    """Whether a printed angle is the direction phi or m phi."""
    form: Annotated[
        Literal["text", "json"] | None, Text(metavar="text|json", help_behavior_hint="")
    ] = None
    """Form of the output (default: that of the report)."""


_COMMANDS = {
    Calibrate: commands.calibrate,
    Estimate: commands.estimate,
    Check: commands.check,
    Simulate: commands.simulate,
    Series: commands.series,
    Watch: commands.watch,
    Train: commands.train,
    Convert: commands.convert,
}


def _notations_in_lower_case(arguments):
    """Arguments in which CEOS is ceos after --from and --to."""
    made = []
    for argument in arguments:
        flag, equals, value = argument.partition("=")
        if made and made[-1] in ("--from", "--to"):
            argument = argument.lower()
        elif flag in ("--from", "--to"):
            argument = flag + equals + value.lower()
        made.append(argument)
    return made


def main(arguments=None):
    """Run the command with a list of arguments (default: those of the program).

    Returns:
        The exit status, 0, 1 or 2.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments == ["--version"]:
        import jaxcal

        print(f"jaxcal {jaxcal.__version__}")
        return 0
    chosen = tyro.cli(
        Calibrate | Estimate | Check | Simulate | Series | Watch | Train | Convert,
        prog="jaxcal",
        description="Calibrate the aberrations of an electron microscope from Ronchigrams.",
        args=_notations_in_lower_case(arguments),
    )
    return commands.run(_COMMANDS[type(chosen)], chosen)


if __name__ == "__main__":
    sys.exit(main())
