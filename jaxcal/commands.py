"""What the subcommands of jaxcal do.  Each takes its arguments and returns an exit status."""

import os
import signal
import sys
import threading
from contextlib import contextmanager

from jaxcal import console, inputs
from jaxcal.inputs import InputError

ANSWERED, FAULT, UNREADABLE = 0, 1, 2


def run(command, arguments):
    """Run one subcommand; what goes wrong becomes one line on stderr and an exit status.

    With JAXCAL_DEBUG set in the environment, errors are raised with their traceback instead.
    """
    try:
        return command(arguments)
    except KeyboardInterrupt as error:
        console.complain("; ".join(["interrupted", *_notes(error),
                                    "what was written before is complete"]))
        return 130
    except Exception as error:  # the last place before the user: any becomes one line
        return _report(error)


def calibrate(arguments):
    inputs.positive("frames", arguments.frames)
    inputs.not_negative("seed", arguments.seed)
    if arguments.tolerance is not None:
        inputs.positive("tolerance", arguments.tolerance)
    if arguments.resume and arguments.run is None:
        raise InputError("--resume goes on with a run that was kept; name its folder with --run")
    if arguments.run is not None and arguments.run.exists() and not arguments.run.is_dir():
        raise InputError(f"{arguments.run}: is a file; name a folder for the run")
    outputs = arguments.json, arguments.report, arguments.nexus
    inputs.check_outputs(*outputs)
    read = inputs.file_of(arguments.microscope)
    kept = [arguments.run / name for name in ("run.json", "series.h5", "lock") if arguments.run]
    inputs.check_apart(outputs, [read, *kept] if read else kept)
    microscope, frames = inputs.microscope(arguments)
    name = getattr(microscope, "name", "microscope")

    from jaxcal import calibration, results
    from jaxcal.microscopes.protocol import InstrumentError

    model = inputs.load_model(arguments.model)
    try:
        for told in calibration.beforehand(
                frames, microscope.knob_names, microscope.optics, arguments.refine):
            console.warn(told)
        with _ended_in_order(), console.Progress("calibrate") as progress:
            run = calibration.calibrate(
                microscope,
                frames=frames,
                tolerance_nm=arguments.tolerance,
                model=model,
                seed=arguments.seed,
                refined=arguments.refine,
                run=arguments.run,
                resume=arguments.resume,
                progress=progress,
            )
    except InstrumentError as error:  # it cannot take up the run
        raise InputError(f"{name}: {error}") from error
    try:  # told before files are written, as the instrument has moved, and both whatever fails
        if run.estimate is not None:
            console.estimate_table(
                "simulated microscope" if name == "simulated" else name,
                run.estimate,
                run.limits_nm,
                truth_nm=run.truth_nm,
                applied_nm=run.applied_knobs_nm,
                verdict=run.verdict,
                limit=results.limit_name(run.limits_nm, _limits(microscope)),
            )
    finally:
        if arguments.json is not None:
            results.write(arguments.json, {name: results.calibration_entry(run)})
        _write_nexus(arguments.nexus, {name: (run.estimate, microscope.optics)},
                     {name: run})
        if arguments.report is not None:
            _write_report(arguments.report, [run], arguments.seed)
    if run.verdict == calibration.REFUSED:
        raise InputError(f"{name}: refused: {run.reason}")
    return ANSWERED


@contextmanager
def _ended_in_order():
    """While the block runs, a request to end, and a terminal that is closed, are Ctrl-C: the knobs
    are brought back. kill -9 cannot be heard."""
    heard = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        heard = []  # another thread cannot hear them
    before = {one: signal.getsignal(one) for one in heard}
    ours = [one for one in heard if before[one] not in (signal.SIG_IGN, None)]  # nohup, others'

    def interrupt(number, frame):
        for one in ours:  # once is enough; the next would stop the way back
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    for one in ours:
        signal.signal(one, interrupt)
    try:
        yield
    finally:
        for one in ours:
            signal.signal(one, before[one])


def check(arguments):
    microscope = inputs.own(arguments.microscope)

    from jaxcal.microscopes import check as conformance

    model = inputs.load_model(arguments.model)
    with _ended_in_order(), console.Progress("check") as progress:
        found = conformance(microscope, beyond_limits=arguments.beyond_limits, model=model,
                            progress=progress)
    print(found)
    if not found.passed:
        failed = [one.question for one in found.checks if one.passed is False]
        raise InputError(f"{arguments.microscope}: not ready to be tuned: "
                         f"{'; '.join(failed) or 'how the knobs act was not come to'}")
    return ANSWERED


def estimate(arguments):
    if not arguments.series:
        raise InputError("no series given; name at least one HDF5 file: jaxcal estimate SERIES.h5")
    inputs.not_negative("seed", arguments.seed)
    outputs = arguments.json, arguments.report, arguments.nexus
    inputs.check_outputs(*outputs)
    inputs.check_apart(outputs, arguments.series)
    answers, entries, runs, model, status = {}, {}, [], None, ANSWERED
    stream = arguments.json is not None and inputs.is_stream(arguments.json)
    as_they_come = None if stream else arguments.json  # a pipe is written once, at the end
    _write_json(as_they_come, answers)
    _write_nexus(arguments.nexus, entries)
    for path in dict.fromkeys(arguments.series):
        try:
            series, truth_nm = inputs.read_for(path, answers)
        except ValueError as error:
            status = max(status, _report(error))
            continue
        if model is None:
            model = inputs.load_model(arguments.model)
        try:
            answer = _estimate_one(series, model, arguments)
        except Exception as error:  # whatever one series leads to, the others are answered
            status = max(status, _report(error, path))
            continue
        from jaxcal import results

        answers[series.name] = results.entry(answer)
        _write_json(as_they_come, answers)
        entries[series.name] = answer, series.optics
        _write_nexus(arguments.nexus, entries)
        console.estimate_table(series.name, answer, _limits(series), truth_nm)
        if arguments.report is not None:
            runs.append((series, answer, truth_nm))
    if stream:
        _write_json(arguments.json, answers)
    if arguments.report is not None:
        _write_report(arguments.report, runs, arguments.seed)
    return status


def simulate(arguments):
    inputs.positive("frames", arguments.frames)
    inputs.not_negative("seed", arguments.seed)
    inputs.not_negative("step", arguments.step)
    inputs.check_outputs(arguments.series)
    inputs.check_replaceable(arguments.series)
    microscope = inputs.simulated(arguments, arguments.energy_kev, arguments.semi_angle_mrad)

    import numpy as np

    from jaxcal import series as series_file
    from jaxcal.microscopes.simulated import random_steps

    knobs = random_steps(
        arguments.seed, arguments.frames, microscope.knob_names, step_nm=arguments.step
    )
    frames = []
    with console.Progress("simulate") as progress:
        for number, setting in enumerate(knobs):
            progress(f"frame {number + 1} of {len(knobs)}", number / len(knobs))
            microscope.set(setting)
            frames.append(microscope.acquire())
    series = series_file.Series(
        np.stack(frames),
        knobs,
        microscope.knob_names,
        microscope.optics,
        os.path.basename(arguments.series),
    )
    series_file.write(
        arguments.series,
        series,
        truth_nm=microscope.hidden_nm if arguments.truth else None,
        simulated=True,
    )
    height, width = series.frames.shape[1:]
    print(f"{arguments.series}: {len(series)} frames of {height} x {width} pixels")
    if arguments.truth:
        hidden = ", ".join(f"{name} {value:+.1f}" for name, value in microscope.truth_nm.items())
        print(f"hidden state (nm): {hidden}")
    return ANSWERED


def watch(arguments):
    if arguments.folder.exists() and not arguments.folder.is_dir():
        raise InputError(f"{arguments.folder}: is a file; name the folder of the run")

    from jaxcal.watch import Watch

    with Watch(arguments.folder, arguments.port) as server:
        print(f"watching {arguments.folder}: open {server.url} (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
    return ANSWERED


def series(arguments):
    for item, value in vars(arguments).items():
        if item not in ("series", "table") and value is not None:
            inputs.positive(item.replace("_", "-"), value)
    inputs.check_outputs(arguments.series)
    inputs.check_replaceable(arguments.series)

    from jaxcal import knob_table
    from jaxcal import series as series_file

    table = knob_table.read(arguments.table)
    with console.Progress("series") as progress:
        progress("reading the frames")
        made, remarks = knob_table.assemble(
            table,
            os.path.basename(arguments.series),
            energy_keV=arguments.energy_kev,
            semi_angle_mrad=arguments.semi_angle_mrad,
            pixel_mrad=arguments.pixel_mrad,
        )
    for remark in remarks:
        console.warn(remark)
    series_file.write(arguments.series, made)
    height, width = made.frames.shape[1:]
    print(
        f"{arguments.series}: {len(made)} frames of {height} x {width} pixels, knobs "
        f"{', '.join(made.knob_names)}"
    )
    optics = made.optics
    print(
        f"{optics.energy_keV:g} keV, semi-angle {optics.semi_angle_mrad:g} mrad, "
        f"{optics.pixel_mrad:.4g} mrad a pixel"
    )
    return ANSWERED


def train(arguments):
    given = {"vae_rounds": arguments.vae_rounds, "map_rounds": arguments.map_rounds}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        inputs.positive(name.replace("_", "-"), value)
    inputs.not_negative("seed", arguments.seed)
    if arguments.directory.exists() and not arguments.directory.is_dir():
        raise InputError(f"{arguments.directory}: is a file; name a folder for the training run")

    from jaxcal import training

    config = training.Config(seed=arguments.seed, **given)
    with console.Progress("train") as progress:
        path = training.train(config, arguments.directory, progress)
    print(f"trained: use it with --model {path}")
    return ANSWERED


def convert(arguments):
    if arguments.report == "-":
        report, place = sys.stdin.read().removeprefix("\ufeff"), "standard input"
    else:
        report, place = inputs.read_text(arguments.report), arguments.report
    if not report.strip():
        raise InputError(f"{place}: is empty; give lines such as 'A1 3.2 nm 45 deg' or JSON")

    from jaxcal import notations

    try:
        print(
            notations.convert(
                report,
                arguments.source,
                arguments.target,
                flip_imaginary=arguments.flip_imaginary,
                angles=arguments.angles,
                form=arguments.form,
            )
        )
    except ValueError as error:
        raise InputError(f"{place}: {error}") from error
    return ANSWERED


def _estimate_one(series, model, arguments):
    from jaxcal import calibration

    with console.Progress(series.name) as progress:
        return calibration.estimate(
            series,
            model,
            seed=arguments.seed,
            actuator=arguments.actuator,
            published=arguments.published,
            refined=arguments.refine,
            progress=progress,
        )


def _limits(instrument):
    from jaxcal.optics import quarter_pi_limits_nm

    return quarter_pi_limits_nm(instrument.optics, instrument.knob_names)


def _write_json(path, answers):
    if path is not None:
        from jaxcal import results

        results.write(path, answers)


def _write_nexus(path, entries, calibrations=None):
    if path is not None:
        from jaxcal import nexus

        nexus.write(path, entries, calibrations)


def _write_report(path, runs, seed):
    from jaxcal import report

    with console.Progress("report") as progress:
        progress("drawing the figures")
        report.write_report(path, runs, seed=seed)


def _report(error, path=None):
    """Say what went wrong in one line; the exit status it means."""
    if os.environ.get("JAXCAL_DEBUG"):
        raise error
    if isinstance(error, (ValueError, OSError)):
        message = str(error)
        if path is not None and os.path.basename(path) not in message:
            message = f"{path}: {message}"
        console.complain(message)
        return UNREADABLE
    place = "" if path is None else f"{path}: "
    message = "; ".join([f"{type(error).__name__}: {error}", *_notes(error)])
    console.complain(
        f"{place}a fault of jaxcal, please report it: {message} (JAXCAL_DEBUG=1 shows where)")
    return FAULT


def _notes(error):
    """What was added to an error on its way, such as where the knobs were left."""
    return getattr(error, "__notes__", [])
