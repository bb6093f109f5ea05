"""Which files are checked: walks directories as ruff does, with excludes and ``.gitignore`` files respected."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from memlint.config import ConfigError, Configuration, Settings, is_pattern, relative, shown
from memlint.messages import did_you_mean

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

SUFFIXES = frozenset({".py", ".pyi", ".ipynb"})
"""The files that a walk finds; a file that is named may be called anything."""

_ROOT_MARKERS = ("pyproject.toml", "setup.py", "setup.cfg", ".git")
_ENTRIES_OF_A_PROJECT = 20_000
"""Files and directories that are looked at, below a root and not excluded, before it is taken for a home directory."""
_ENTRIES_OF_A_FOLDER = 2_000
"""The same without a root marker."""


class ErrorKind(Enum):
    """Why a file was not checked, or not fixed."""

    SYNTAX = "syntax"
    """It is not Python that can be parsed."""
    FILE = "file"
    """The system does not let it be read or written, or it is not there."""
    CONFIGURATION = "configuration"
    """Its configuration cannot be used."""
    INTERNAL = "internal"
    """A bug of memlint."""


@dataclass(frozen=True)
class FileError:
    """A file that could not be checked, or not completely; ``message`` is one line that says why."""

    path: Path
    message: str
    row: int | None = None
    column: int | None = None
    kind: ErrorKind = ErrorKind.SYNTAX
    cell: int | None = None
    """1-based number of the notebook cell that the place is relative to."""

    def __str__(self) -> str:
        if self.kind is ErrorKind.CONFIGURATION:
            return self.message
        cell = f":cell {self.cell}" if self.cell else ""
        place = "".join(f":{number}" for number in (self.row, self.column) if number is not None)
        return f"{shown(self.path)}{cell}{place}: {self.message}"


class SourceFile(NamedTuple):
    """A file to check: its absolute path, and whether the user named it (or a walk found it)."""

    path: Path
    named: bool


@dataclass
class Discovery:
    """The files to check, sorted and each once, and what stood in the way of finding more."""

    files: list[SourceFile] = field(default_factory=list)
    errors: list[FileError] = field(default_factory=list)


def discover(paths: Iterable[Path], configuration: Configuration) -> Discovery:
    """Finds the files that are meant by ``paths``: files themselves, and what is in directories.

    Named files are taken even if they are excluded, unless the configuration says ``force-exclude``.
    """
    walk = _Walk(configuration)
    for path in paths:
        walk.start(absolute(path))
    return walk.finished()


def absolute(path: Path) -> Path:
    """``path`` from the root on, without ``..``, symbolic links not resolved."""
    return Path(os.path.normpath(path.absolute()))


def project_root(paths: Sequence[Path]) -> Path:
    """The root of the project that the absolute ``paths`` belong to.

    It is the nearest directory above all of them that holds a pyproject.toml, setup.py, setup.cfg or .git, else the
    directory that they have in common.
    """
    directories = [path if path.is_dir() else path.parent for path in paths] or [Path.cwd()]
    try:
        common = Path(os.path.commonpath(directories))
    except ValueError:
        # On Windows, paths on several drives.
        return directories[0]
    return next((each for each in (common, *common.parents) if is_root(each)), common)


def project_files(root: Path, checked: Iterable[Path], configuration: Configuration) -> tuple[Path, ...]:
    """The files below ``root`` and the ``checked`` ones: what one of them says depends on who calls it from where.

    Only the checked ones if ``root`` holds so much that it is more than one project.
    """
    walk = _Walk(configuration, _ENTRIES_OF_A_PROJECT if is_root(root) else _ENTRIES_OF_A_FOLDER)
    try:
        walk.start(root)
    except _TooMany:
        return tuple(checked)
    return tuple(sorted({*checked, *(file.path for file in walk.finished().files)}))


def is_root(directory: Path) -> bool:
    """Whether a project begins in ``directory``."""
    return any((directory / marker).exists() for marker in _ROOT_MARKERS)


class _Ignores(NamedTuple):
    """The .gitignore files that hold in a directory, the outermost first, each with the directory that it is in."""

    specs: tuple[tuple[Path, GitIgnoreSpec], ...] = ()
    in_repository: bool = False

    @classmethod
    def above(cls, directory: Path) -> _Ignores:
        """What holds in the parent of ``directory``; nothing if that leaves out ``directory`` itself."""
        repository = next((each for each in directory.parents if (each / ".git").exists()), None)
        if repository is None:
            return cls()
        between = [each for each in reversed(directory.parents) if each.is_relative_to(repository)]
        ignores = cls()
        for each in between:
            ignores = ignores.within(each, {name for name in (".git", ".gitignore") if (each / name).exists()})
        return cls(in_repository=True) if ignores.ignores(directory, is_directory=True) else ignores

    def within(self, directory: Path, names: set[str]) -> _Ignores:
        """What holds in ``directory``, which holds entries with ``names``. A repository starts from nothing."""
        starts = ".git" in names
        specs = () if starts else self.specs
        if not (starts or self.in_repository):
            return self
        files = [directory / ".git" / "info" / "exclude"] if starts else []
        files += [directory / ".gitignore"] if ".gitignore" in names else []
        read = ((directory, spec) for file in files if (spec := _gitignore(file)))
        return _Ignores((*specs, *read), in_repository=True)

    def ignores(self, path: Path, is_directory: bool) -> bool:
        """Whether ``path`` is ignored; the innermost file that says something about it decides."""
        for directory, spec in reversed(self.specs):
            decision = spec.check_file(relative(path, directory) + "/" * is_directory).include
            if decision is not None:
                return decision
        return False


def _gitignore(file: Path) -> GitIgnoreSpec | None:
    try:
        lines = file.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return None
    from pathspec import GitIgnoreSpec

    # Git passes over a line that is no pattern.
    return GitIgnoreSpec.from_lines(line for line in lines if is_pattern(line))


class _TooMany(Exception):
    """A walk that met more entries than it may."""


class _Walk:
    def __init__(self, configuration: Configuration, entries: float = math.inf) -> None:
        self._configuration = configuration
        self._entries = entries
        self._found: dict[Path, SourceFile] = {}
        self._errors: dict[str, FileError] = {}

    def finished(self) -> Discovery:
        return Discovery(sorted(_once(self._found.values()), key=_order), list(self._errors.values()))

    def start(self, path: Path) -> None:
        """Takes the file at ``path``, or walks the directory, because the user named it."""
        try:
            mode = path.stat().st_mode
        except OSError as error:
            self._fail(path, _missing(path) if isinstance(error, FileNotFoundError) else _unreadable(error))
            return
        is_directory = stat.S_ISDIR(mode)
        if not is_directory and not stat.S_ISREG(mode):
            self._fail(path, "is neither a file nor a directory")
            return
        settings = self._settings(path if is_directory else path.parent)
        if settings is None:
            return
        excluded = settings.excludes(path, is_directory=is_directory)
        if excluded and settings.force_exclude:
            return
        if is_directory:
            # Patterns that leave out what the user asked for must not leave out everything in it.
            self._directory(path, _Ignores.above(path), path if excluded else None)
        else:
            self._found[path] = SourceFile(path, named=True)

    def _directory(self, directory: Path, ignores: _Ignores, base: Path | None) -> None:
        """Walks ``directory``; exclude patterns are relative to ``base`` instead of to where they are configured."""
        settings = self._settings(directory)
        if settings is None:
            return
        try:
            with os.scandir(directory) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            self._fail(directory, _unreadable(error))
            return
        self._entries -= len(entries)
        if self._entries < 0:
            raise _TooMany
        ignores = ignores.within(directory, {entry.name for entry in entries})
        for entry in entries:
            # Links to directories are not followed: what they lead to is found where it is, and loops do no harm.
            is_directory = entry.is_dir(follow_symlinks=False)
            path = Path(entry.path)
            if not is_directory and path.suffix not in SUFFIXES:
                continue
            if settings.excludes(path, base, is_directory):
                continue
            if settings.respect_gitignore and ignores.ignores(path, is_directory):
                continue
            if is_directory:
                self._directory(path, ignores, base)
            elif self._leads_to_file(entry):
                self._found.setdefault(path, SourceFile(path, named=False))

    def _leads_to_file(self, entry: os.DirEntry[str]) -> bool:
        """Whether an entry is a file or a link to one; links to nowhere (editors' locks) are passed over."""
        try:
            return entry.is_file()
        except OSError as error:
            self._fail(Path(entry.path), _unreadable(error))
            return False

    def _settings(self, directory: Path) -> Settings | None:
        try:
            return self._configuration.settings(directory)
        except ConfigError as error:
            self._errors[str(error)] = FileError(directory, str(error), kind=ErrorKind.CONFIGURATION)
            return None

    def _fail(self, path: Path, message: str) -> None:
        error = FileError(path, message, kind=ErrorKind.FILE)
        self._errors[str(error)] = error


def _missing(path: Path) -> str:
    if path.is_symlink():
        return f"leads to {path.readlink()}, which does not exist"
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    return f"does not exist{did_you_mean(path.name, (sibling.name for sibling in siblings))}"


def _unreadable(error: OSError) -> str:
    return f"cannot be read: {error.strerror or error}"


def _order(file: SourceFile) -> tuple[str, ...]:
    return file.path.parts


def _once(files: Iterable[SourceFile]) -> Iterator[SourceFile]:
    """Each file once, however many links lead to it: by its own path if that was found, and named if any was."""
    found: dict[str, SourceFile] = {}
    for file in sorted(files, key=_order):
        real = _real_path(file.path)
        known = found.setdefault(real, file)
        path = file.path if str(file.path) == real else known.path
        found[real] = SourceFile(path, known.named or file.named)
    yield from found.values()


def _real_path(path: Path) -> str:
    return os.path.realpath(path) if path.is_symlink() else f"{_real_directory(path.parent)}/{path.name}"


@lru_cache(maxsize=4096)
def _real_directory(directory: Path) -> str:
    return os.path.realpath(directory)
