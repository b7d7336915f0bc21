"""Files that are either there in full or not there at all."""

import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacing(path):
    """Path of a scratch file that takes the place of ``path`` when the block ends well.

    A reader, or a program killed at any moment, sees the old file or the new one, never a part.
    What is not a regular file (``/dev/stdout``, a pipe) is written to directly.

    Args:
        path: where the file is to be; its folder must exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "note.txt") as scratch:
        ...         _ = scratch.write_text("whole")
        ...     (Path(folder) / "note.txt").read_text()
        'whole'
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        yield path
        return
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
        with open(scratch, "rb+") as written:
            os.fsync(written.fileno())
        # mkstemp keeps the file to its owner; give it what an ordinary file would have had.
        scratch.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
        os.replace(scratch, target)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def sweep(path):
    """Remove scratch files that killed programs left beside ``path``, for who is alone there."""
    target = Path(os.path.realpath(path))
    for scratch in target.parent.glob(f".{target.name}.{'?' * 8}"):  # as mkstemp names them
        with suppress(OSError):
            scratch.unlink()


def write_text(path, text):
    """Write a text file in UTF-8, whole or not at all (see `replacing`)."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def first_line(error):
    """What an error says, in one line; its kind where it says nothing."""
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
