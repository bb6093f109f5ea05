"""Tells one memlint from another: findings of another one are not believed."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import memlint

_FORMAT = 1
"""Of what the cache keeps; another number means that older caches cannot be read."""


def fingerprint() -> str:
    """Stands for everything outside of the checked project that findings depend on.

    Those are memlint's version and files (a developer changes them without changing the version), Python, and the
    libraries that read programs and documents. Files are told apart by their size and the time of their last change.
    """
    parts = [str(_FORMAT), memlint.__version__, sys.version, *map(_library, ("libcst", "yaml", "yaml_ft"))]
    for folder in _folders():
        parts += _files(folder)
    return "\n".join(parts)


def _folders() -> list[str]:
    """Where memlint lies; rules and fixers may lie elsewhere in a checkout."""
    specs = (find_spec("memlint.rules"), find_spec("memlint.fixers"))
    others = [place for spec in specs if spec is not None for place in spec.submodule_search_locations or ()]
    return list(dict.fromkeys([str(Path(memlint.__file__).parent), *others]))


def _files(folder: str) -> Iterator[str]:
    """The files that memlint consists of, each with what changes when it does."""
    try:
        with os.scandir(folder) as scan:
            entries = sorted(scan, key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        if entry.name == "__pycache__":
            continue
        if entry.is_dir():
            yield from _files(entry.path)
        elif entry.name.endswith((".py", ".json")):
            status = entry.stat()
            yield f"{entry.path}:{status.st_mtime_ns}:{status.st_size}"


def _library(name: str) -> str:
    """Which version of a library is installed, as far as that can be told without importing it."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        return ""
    try:
        versions = (spec.origin, os.path.join(os.path.dirname(spec.origin), "_version.py"))  # noqa: PTH118, PTH120
        return "".join(f"{path}:{os.stat(path).st_mtime_ns}" for path in versions if os.path.exists(path))  # noqa: PTH110, PTH116
    except OSError:
        return spec.origin
