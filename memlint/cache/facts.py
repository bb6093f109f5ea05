"""What a changed file says to those who search the project, before and after the change."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from memlint.model.callers import call
from memlint.model.outline import Outline, defines, outline, words

Sought = tuple[str, str, str | None, str]
"""The fields of :class:`~memlint.model.dependencies.CallersSought` as they are kept."""


class Facts(NamedTuple):
    """What the text of one file says."""

    data: bytes = b""
    words: frozenset[bytes] = frozenset()
    outline: Outline | None = None

    @classmethod
    def of(cls, path: str, data: bytes | None) -> Facts:
        """The facts of a file that holds ``data``; None is no file at all."""
        place = Path(path)
        if data is None or place.suffix != ".py":
            return cls()
        return cls(data, frozenset(words(data)), outline(data, is_package=place.name == "__init__.py"))

    def about_callers(self, module: str, owner: str | None, name: str) -> tuple[bool, ...]:
        """What :func:`memlint.model.callers.caller_files` sees of the file."""
        if self.outline is None:
            return (False,) * 4
        word, calls = call(module, owner, name)
        return (
            word.encode() in self.words,
            owner is not None and owner.encode() in self.words,
            calls(self.outline),
            owner in self.outline.used,
        )

    def about_users(self, name: str) -> tuple[bool, ...]:
        """What those see of the file that :class:`memlint.model.project.Project` asks for the users of a name."""
        if self.outline is None:
            return (False,) * 4
        return (
            name.encode() in self.words,
            name in self.outline.used,
            name in self.outline.imported,
            defines(self.data, name),
        )


class Comparison:
    """Compares what some files say with what they said."""

    def __init__(self, changed: dict[str, tuple[bytes | None, bytes | None]]) -> None:
        """``changed`` holds what each file held and holds; None where it is no file of the project."""
        self._facts = [(Facts.of(path, old), Facts.of(path, new)) for path, (old, new) in changed.items()]
        self._touched = _touched(self._facts)
        self._callers: dict[Sought, bool] = {}
        self._users: dict[str, bool] = {}

    def same_callers(self, kept: Sought) -> bool:
        """Whether a search for callers gives what it gave."""
        _, module, owner, name = kept
        if self._touched is not None and name not in self._touched and owner not in self._touched:
            return True
        known = self._callers.get(kept)
        if known is None:
            sought = (module, owner, name)
            known = all(before.about_callers(*sought) == after.about_callers(*sought) for before, after in self._facts)
            self._callers[kept] = known
        return known

    def same_users(self, name: str) -> bool:
        """Whether a search for the users of a name gives what it gave."""
        known = self._users.get(name)
        if known is None:
            known = all(before.about_users(name) == after.about_users(name) for before, after in self._facts)
            self._users[name] = known
        return known


def _touched(compared: Iterable[tuple[Facts, Facts]]) -> frozenset[str] | None:
    """The names of which files say something else after the change; None if what they import is something else.

    Those who search for callers of a function look at the imports of a file and at what it says of two names, so that
    a quick look tells most of them that nothing has changed for them.
    """
    names: set[str] = set()
    for before, after in compared:
        if before.outline is None or after.outline is None:
            return None
        if (before.outline.imported, before.outline.imports_all) != (after.outline.imported, after.outline.imports_all):
            return None
        names.update(word.decode("utf-8", "replace") for word in before.words ^ after.words)
        for then, now in zip(before.outline, after.outline, strict=True):
            if isinstance(then, frozenset) and isinstance(now, frozenset):
                names |= then ^ now
    return frozenset(names)
