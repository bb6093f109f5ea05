"""Writes files whole or not at all."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


class WriteError(Exception):
    """A file that could not be written and is as it was; ``str(error)`` names it and says why, in one line."""


def write_atomically(path: Path, data: bytes, expected: bytes | None = None) -> None:
    """Makes the file at ``path`` hold ``data``: at every moment, whatever happens, it is the old file or the new one.

    Mode bits are kept, and the owner where the system allows it; a symbolic link stays one, and the file that it
    leads to is written. ``expected`` is what the file is believed to hold. Raises :class:`WriteError` if it holds
    something else by now, if it is read-only, or if it cannot be written for any other reason.
    """
    try:
        _replace(Path(os.path.realpath(path)), data, expected)
    except OSError as error:
        raise WriteError(f"{path}: cannot be written: {error.strerror or error}") from error
    except _Unwritable as error:
        raise WriteError(f"{path}: {error}") from error


class _Unwritable(Exception):
    """Why a file must not be written."""


def _replace(path: Path, data: bytes, expected: bytes | None) -> None:
    status = path.stat()
    # The directory decides whether a file can be replaced, so the file's own mode has to be asked for.
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        raise _Unwritable("is read-only and was not changed")
    import tempfile

    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:32]}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _keep_status(temporary, status)
        if expected is not None and path.read_bytes() != expected:
            raise _Unwritable("has changed since it was read and was not overwritten")
        temporary.replace(path)
    except BaseException:
        # Also after Ctrl-C: the old file is whole, and nothing is left beside it.
        with suppress(OSError):
            temporary.unlink()
        raise


def _keep_status(path: Path, status: os.stat_result) -> None:
    if hasattr(os, "chown"):
        # Only the superuser may give files away; a file of one's own in a foreign group keeps its group if possible.
        with suppress(OSError):
            os.chown(path, -1, status.st_gid)
        with suppress(OSError):
            os.chown(path, status.st_uid, -1)
    path.chmod(stat.S_IMODE(status.st_mode))
