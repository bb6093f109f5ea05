"""Which modules were looked for in vain: where one of them appears, an import may mean something else."""

from __future__ import annotations

import os
from collections import defaultdict
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path


class Lookups:
    """Looks for files by lists of folders, and remembers for each folder that imports what was not there.

    A name that was missed is that of a file; with a slash that of a folder; without a suffix that of a module, which
    may be a file or a folder.
    """

    def __init__(self) -> None:
        self._news: dict[Path, tuple[list[str], dict[str, set[str]]]] = {}
        self._names: dict[str, frozenset[str]] = {}
        self.missed: defaultdict[Path, defaultdict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
        """For each folder that imports: folders, and the names that were not in them."""
        self.packages: dict[Path, tuple[str, ...]] = {}
        """For each folder that imports: the ``__init__.py`` that make it a part of a package."""

    def may_hold(self, importing: Path, folder: str, name: str) -> bool:
        """Whether ``folder`` holds a module or a folder ``name``, asked for a file in ``importing``."""
        names = self._listed(folder)
        if name in names or f"{name}.py" in names:
            return True
        self._miss(importing, folder.rstrip(os.sep) or os.sep, name)
        return False

    def is_file(self, importing: Path, path: str) -> bool:
        """Whether there is a file at ``path``, asked for a file in ``importing``."""
        folder, name = os.path.split(path)
        if name in self._listed(folder) and os.path.isfile(path):  # noqa: PTH113 - thousands of these are asked for
            return True
        while not os.path.isdir(folder) and os.path.dirname(folder) != folder:  # noqa: PTH112, PTH120
            folder, name = os.path.split(folder)
            name += "/"
        self._miss(importing, folder, name)
        return False

    def _miss(self, importing: Path, folder: str, name: str) -> None:
        missed = self.missed[importing][folder]
        if name not in missed:
            missed.add(name)
            self._new(importing)[1].setdefault(folder, set()).add(name)

    def _new(self, importing: Path) -> tuple[list[str], dict[str, set[str]]]:
        return self._news.setdefault(importing, ([], {}))

    def news(self) -> dict[Path, tuple[list[str], dict[str, set[str]]]]:
        """What has been found out since this was last asked: :attr:`packages` and :attr:`missed`, by folder."""
        news, self._news = self._news, {}
        return news

    def follow_package(self, folder: Path) -> None:
        """Takes note of which folders make ``folder`` a part of a package."""
        if folder in self.packages:
            return
        found = []
        each = folder
        while self.is_file(folder, f"{each}{os.sep}__init__.py") and each.parent != each:
            found.append(f"{each}{os.sep}__init__.py")
            each = each.parent
        self.packages[folder] = tuple(found)
        self._new(folder)[0].extend(found)

    def matching(self, folder: Path, pattern: str) -> list[Path]:
        """The files in ``folder`` whose names match ``pattern``, sorted."""
        return [folder / name for name in matching(self._listed(str(folder)), pattern) if (folder / name).is_file()]

    def _listed(self, folder: str) -> frozenset[str]:
        names = self._names.get(folder)
        if names is None:
            names = self._names[folder] = listed(folder or ".")
        return names


def listed(folder: str) -> frozenset[str]:
    """The names of what is in ``folder``; nothing if it cannot be read."""
    try:
        return frozenset(os.listdir(folder))  # noqa: PTH208 - a list of names is what is wanted
    except OSError:
        return frozenset()


@lru_cache(maxsize=256)
def matching(names: frozenset[str], pattern: str) -> tuple[str, ...]:
    """Those of ``names`` that match ``pattern``, sorted."""
    return tuple(sorted(name for name in names if fnmatchcase(name, pattern)))
