"""Which kept findings still hold after some files have changed."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memlint.cache.world import Changes, World, is_other_now, read

if TYPE_CHECKING:
    from memlint.cache.facts import Comparison

_MAX_COMPARED = 64
"""Changed files that are compared word by word; after larger changes, findings that rest on callers are made anew."""


class Validity:
    """Says of each entry whether it still holds."""

    def __init__(self, world: World, changes: Changes, old_data: Callable[[str], bytes | None]) -> None:
        """``old_data`` gives what a file held when the entries were right."""
        self._changes = changes
        self._dirty = {folder for folder, each in world.importing.items() if is_other_now(each, changes.folders)}
        self._comparison = _comparison(world, changes, old_data) if len(changes.members) <= _MAX_COMPARED else None

    def holds(self, path: str, basis: dict[str, Any] | None) -> bool:
        """Whether the findings of the file at ``path``, made on ``basis``, are still right."""
        if path in self._changes.files:
            return False
        if basis is None:
            return True
        files = basis["files"]
        if not self._changes.files.isdisjoint(files):
            return False
        if self._dirty and not self._dirty.isdisjoint(str(Path(each).parent) for each in (path, *files)):
            return False
        return all(self._is_listed(*each) for each in basis["listed"]) and self._is_sought_alike(basis)

    def _is_listed(self, folder: str, pattern: str, names: list[str]) -> bool:
        there = self._changes.folders.get(folder)
        return there is None or sorted(name for name in there if fnmatchcase(name, pattern)) == names

    def _is_sought_alike(self, basis: dict[str, Any]) -> bool:
        """Whether who searches the project for callers and users finds the same files."""
        if not self._changes.members:
            return True
        compared = self._comparison
        if compared is None:
            return not basis["calls"] and not basis["names"]
        return all(map(compared.same_users, basis["names"])) and all(
            compared.same_callers(tuple(sought)) for sought in basis["calls"]
        )


def _comparison(world: World, changes: Changes, old_data: Callable[[str], bytes | None]) -> Comparison | None:
    """What the changed files of the project say and said; not needed where none has changed."""
    if not changes.members:
        return None
    from memlint.cache.facts import Comparison

    def is_member(path: str) -> bool:
        seen = world.files.get(path)
        return seen is not None and seen.is_member

    return Comparison({path: (old_data(path), read(path) if is_member(path) else None) for path in changes.members})
