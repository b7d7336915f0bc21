"""What a person sees in the terminal: progress and complaints on stderr, tables on stdout."""

import sys
import time

QUIET_SECONDS = 2.0
"""Nothing is said of what takes less."""
LINE_SECONDS = 5.0
"""Pause between two lines of progress where stderr is not a terminal."""


def complain(error):
    """One line on stderr, whatever the message held."""
    print(f"jaxcal: error: {one_line(error)}", file=sys.stderr, flush=True)


def warn(remark):
    """One line on stderr about what goes on all the same."""
    print(f"jaxcal: warning: {one_line(remark)}", file=sys.stderr, flush=True)


def one_line(message):
    """A message with its line ends and runs of blanks made single blanks, that can be printed: the
    name of a file may hold what is no text."""
    return " ".join(str(message).encode("utf-8", "replace").decode().split())


class Progress:
    """Progress of a long job on stderr: a bar in a terminal, now and then a line elsewhere.

    Use as a context manager; call it with a message and the fraction done (0 to 1, or None where
    nobody knows).
    """

    def __init__(self, title, stream=None):
        self._title = one_line(title)
        self._stream = sys.stderr if stream is None else stream
        self._bar = self._task = None

    def __enter__(self):
        self._start = self._last = time.monotonic()
        return self

    def __exit__(self, *_):
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, message, fraction=None):
        now = time.monotonic()
        message = one_line(message)
        if self._bar is not None:
            total = None if fraction is None else 1.0
            self._bar.update(self._task, total=total, completed=fraction or 0, message=message)
        elif now - self._start < QUIET_SECONDS and not self._stream.isatty():
            return
        elif self._stream.isatty():
            self._open(message, fraction)
        elif self._last == self._start or now - self._last >= LINE_SECONDS:
            self._last = now
            done = "" if fraction is None else f" {100 * fraction:.0f} %"
            line = f"{self._title}:{done} {message} ({now - self._start:.0f} s)"
            print(line, file=self._stream, flush=True)

    def _open(self, message, fraction):
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(
            SpinnerColumn(),
            TextColumn(self._title),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[message]}"),
            TimeElapsedColumn(),
            console=Console(file=self._stream),
            transient=True,
        )
        total = None if fraction is None else 1.0
        self._task = self._bar.add_task("", total=total, completed=fraction or 0, message=message)
        self._bar.start()


def estimate_table(name, estimate, limits_nm, truth_nm=None, applied_nm=None, verdict=None,
                   limit="π/4 limit"):
    """Print the state of one instrument, knob by knob, in nm, and what was used for it.

    Args:
        name: heading, such as the file's name.
        estimate: `jaxcal.Estimate`.
        limits_nm: (P,) of the knobs, nm; limit: what they are called.
        truth_nm: {name: nm} or None; adds a column.
        applied_nm: (P,) knob setting that was applied, nm, or None; adds a column.
        verdict: of a calibration, or None.
    """
    from rich.console import Console
    from rich.table import Table

    from jaxcal.results import standard_deviation

    table = Table(title=one_line(name), title_justify="left", title_style="bold", box=None,
                  pad_edge=False)
    columns = ["knob", "x0 (nm)", "sd", "tunes at (nm)", "sd", limit.replace("π", "pi")]
    columns += ["applied"] if applied_nm is not None else []
    columns += ["true x0"] if truth_nm is not None else []
    for place, heading in enumerate(columns):
        table.add_column(heading, justify="left" if place == 0 else "right", no_wrap=True)
    spread = standard_deviation(estimate.covariance_nm2)
    tuned_spread = standard_deviation(estimate.tuned_covariance_nm2)
    for k, knob in enumerate(estimate.knob_names):
        row = [knob, _nm(estimate.x0_nm[k]), f"{spread[k]:.2f}"]
        row += [_nm(estimate.tuned_knobs_nm[k]), f"{tuned_spread[k]:.2f}", f"{limits_nm[k]:.2f}"]
        row += [_nm(applied_nm[k])] if applied_nm is not None else []
        row += [_nm(truth_nm[knob]) if knob in truth_nm else ""] if truth_nm is not None else []
        table.add_row(*row)
    # Plain text: what a message or a file's name holds is not markup.
    console = Console(markup=False, highlight=False)
    console.print(table)
    outcome = verdict or ("converged" if estimate.converged else "not converged")
    used = "1 frame" if estimate.frames_used == 1 else f"{estimate.frames_used} frames"
    message = one_line(estimate.message).removeprefix(f"{outcome}: ")
    print(f"{outcome}: {message} ({used}, {estimate.seconds:.1f} s)")
    for number, reason in estimate.rejected_frames:
        print(f"frame {number} set aside: {one_line(reason)}")
    possible = [mode for mode in estimate.modes if mode.weight > 0.001]  # the others print as zero
    if len(possible) > 1:
        weights = ", ".join(f"{100 * mode.weight:.1f} %" for mode in possible)
        print(f"{len(possible)} states remain possible, with weights {weights}")
    print()


def _nm(value):
    return f"{value:+.2f}"
