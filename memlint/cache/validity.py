"""Which kept findings still hold after some files have changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from memlint.cache.world import Changes, World, is_other_now, read
from memlint.model.callers import call
from memlint.model.dependencies import CallersSought
from memlint.model.mentions import words
from memlint.model.outline import Outline, outline

_MAX_COMPARED = 64
"""Changed files that are compared word by word; after larger changes, findings that rest on callers are made anew."""


@dataclass(frozen=True)
class Facts:
    """What the text of one file says to those who search the project."""

    path: Path
    words: frozenset[bytes] = frozenset()
    outline: Outline | None = None

    @classmethod
    def of(cls, path: str, data: bytes | None) -> Facts:
        """The facts of a file that holds ``data``; None is no file at all."""
        place = Path(path)
        if data is None or place.suffix != ".py":
            return cls(place)
        return cls(place, frozenset(words(data)), outline(data, is_package=place.name == "__init__.py"))

    def about_callers(self, sought: CallersSought) -> tuple[bool, ...]:
        """What :func:`memlint.model.callers.caller_files` sees of the file."""
        if self.outline is None:
            return (False,) * 4
        word, calls = call(sought)
        owner = sought.owner
        return (
            word.encode() in self.words,
            owner is not None and owner.encode() in self.words,
            calls(self.outline),
            owner in self.outline.used,
        )

    def about_users(self, name: str) -> tuple[bool, bool]:
        """What :meth:`memlint.model.project.Project.mentioning` sees of the file."""
        used = self.outline is not None and name in self.outline.used
        return name.encode() in self.words, used


class Validity:
    """Says of each entry whether it still holds."""

    def __init__(self, world: World, changes: Changes, old_data: Callable[[str], bytes | None]) -> None:
        """``old_data`` gives what a file held when the entries were right."""
        self._changes = changes
        self._dirty = {folder for folder, each in world.importing.items() if is_other_now(each, changes.folders)}
        self._compared = len(changes.members) <= _MAX_COMPARED
        self._facts = list(self._differences(world, old_data)) if self._compared else []
        self._callers: dict[CallersSought, bool] = {}
        self._users: dict[str, bool] = {}

    def _differences(self, world: World, old_data: Callable[[str], bytes | None]) -> Iterator[tuple[Facts, Facts]]:
        for path in self._changes.members:
            seen = world.files.get(path)
            is_member = seen is not None and seen.is_member
            yield Facts.of(path, old_data(path)), Facts.of(path, read(path) if is_member else None)

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
        if not all(self._is_listed(*each) for each in basis["listed"]):
            return False
        if not self._changes.members:
            return True
        if not self._compared:
            return not basis["calls"] and not basis["names"]
        return all(map(self._same_users, basis["names"])) and all(
            self._same_callers(CallersSought(Path(own), module, owner, name))
            for own, module, owner, name in basis["calls"]
        )

    def _is_listed(self, folder: str, pattern: str, names: list[str]) -> bool:
        there = self._changes.folders.get(folder)
        return there is None or sorted(name for name in there if fnmatchcase(name, pattern)) == names

    def _same_callers(self, sought: CallersSought) -> bool:
        known = self._callers.get(sought)
        if known is None:
            known = all(before.about_callers(sought) == after.about_callers(sought) for before, after in self._facts)
            self._callers[sought] = known
        return known

    def _same_users(self, name: str) -> bool:
        known = self._users.get(name)
        if known is None:
            known = all(before.about_users(name) == after.about_users(name) for before, after in self._facts)
            self._users[name] = known
        return known
