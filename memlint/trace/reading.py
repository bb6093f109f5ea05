"""Reads a trace of whatever kind it is."""

from __future__ import annotations

from pathlib import Path

from memlint.trace.errors import TraceError
from memlint.trace.events import Recording
from memlint.trace.kineto import read_kineto
from memlint.trace.snapshot import read_snapshot

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def read_trace(path: Path) -> Recording:
    """The recording in a CUDA memory snapshot (pickle) or a profiler trace (JSON, also gzipped), told by its content.

    Raises :class:`TraceError`.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror or error}") from error
    if start.startswith(_GZIP) or start.removeprefix(_BOM).lstrip()[:1] in (b"{", b"["):
        return read_kineto(path)
    return read_snapshot(path)
