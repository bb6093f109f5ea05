"""A copy of a project in which some files hold something else, cheap however large its data is.

Python files are copied; everything else, data and checkpoints, is a symbolic link to what it is. Python takes the real
place of a script for the first entry of its path, so that a linked one would import the original modules.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from memlint.files import absolute

_MAX_FILES = 5_000
"""Python files that are copied; more are links."""
_PYTHON = (".py", ".pyi", ".pyw")
_VIRTUAL_ENVIRONMENT = "pyvenv.cfg"


@dataclass(frozen=True)
class Mirror:
    """``root``, as it is found again at ``place``."""

    root: Path
    place: Path

    @classmethod
    def make(cls, root: Path, place: Path, contents: Mapping[Path, bytes], kept: Iterable[Path] = ()) -> Mirror:
        """Mirrors ``root`` in the new folder ``place``, with ``contents`` in the files of these paths.

        ``kept`` are further paths whose folders have to be folders of the mirror. Raises OSError where links cannot be
        made.
        """
        mirror = cls(Path(os.path.realpath(root)), place)
        inside = {path: data for path, data in contents.items() if mirror.contains(path)}
        wanted = {folder for path in (*inside, *kept) for folder in Path(os.path.realpath(path)).parents}
        _Copier(wanted).copy(mirror.root, place)
        for path, data in inside.items():
            Path(mirror.of(path)).write_bytes(data)
        return mirror

    def contains(self, path: str | Path) -> bool:
        """Whether ``path`` lies below the root."""
        return Path(os.path.realpath(path)).is_relative_to(self.root)

    def of(self, path: str | Path) -> str:
        """Where a path is found again; an absolute path elsewhere is itself."""
        if not self.contains(path):
            return str(absolute(Path(path)))
        return str(self.place / Path(os.path.realpath(path)).relative_to(self.root))

    def python_path(self) -> str:
        """``PYTHONPATH`` for a program in the mirror: what lies below the root is looked for in the mirror first.

        An installation in development mode puts folders of the project on the path without that variable.
        """
        given = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
        known = {os.path.realpath(each) for each in given}
        more = [each for each in sys.path[1:] if each and os.path.realpath(each) not in known and self._is_source(each)]
        return os.pathsep.join(dict.fromkeys(self.of(each) for each in (*given, *more)))

    def _is_source(self, entry: str) -> bool:
        return self.contains(entry) and Path(self.of(entry)).is_dir() and "site-packages" not in Path(entry).parts


class _Copier:
    def __init__(self, wanted: set[Path]) -> None:
        self._wanted = wanted
        self._files = 0

    def copy(self, source: Path, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        with os.scandir(source) as entries:
            for entry in entries:
                path, place = Path(entry.path), target / entry.name
                if entry.is_dir(follow_symlinks=False) and (path in self._wanted or _holds_code(path)):
                    self.copy(path, place)
                elif entry.name.endswith(_PYTHON) and entry.is_file() and self._files < _MAX_FILES:
                    place.write_bytes(path.read_bytes())
                    self._files += 1
                elif entry.name != "__pycache__":
                    place.symlink_to(path, target_is_directory=entry.is_dir())


def _holds_code(folder: Path) -> bool:
    """Whether there is a Python file right in the folder; hidden folders and environments hold other people's."""
    if folder.name.startswith(".") or folder.name in ("site-packages", "__pycache__"):
        return False
    with os.scandir(folder) as entries:
        names = {entry.name for entry in entries if entry.name.endswith((*_PYTHON, _VIRTUAL_ENVIRONMENT))}
    return bool(names) and _VIRTUAL_ENVIRONMENT not in names
