"""Which files of a project may say something of a name: an index that stays small however many files there are."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

from memlint.model.outline import Outline, outline, words

_MAX_FILES = 256
"""Files that a word may occur in before it says nothing any more."""
_MAX_OUTLINES = 2048
"""Outlines that are kept, of about 10 kB each."""


class Mentions:
    """For each word, the files whose bytes hold it, in their order, and outlines of those files.

    A word that occurs in more files than :data:`_MAX_FILES` is too common: only that is remembered of it. What is kept
    grows with the vocabulary of a project, not with its text: 12 MB for 45 MB in 2,000 files.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[Path], bytes]) -> None:
        self._files = files
        self._read = read
        self._places: dict[bytes, tuple[int, ...] | None] = {}
        self._outlines: OrderedDict[Path, Outline] = OrderedDict()
        for number, path in enumerate(files):
            self._add(number, words(read(path)))

    def _add(self, number: int, found: set[bytes]) -> None:
        places = self._places
        here = (number,)
        for word in found:
            known = places.get(word, ())
            if known is not None:
                places[word] = (known + here if known else here) if len(known) < _MAX_FILES else None

    def of(self, name: str) -> tuple[Path, ...] | None:
        """The files that hold ``name``, be it in a comment; None if they are too many."""
        places = self._places.get(name.encode(), ())
        return None if places is None else tuple(self._files[number] for number in places)

    def outline(self, path: Path) -> Outline:
        """The outline of one of the files."""
        known = self._outlines.get(path)
        if known is None:
            known = outline(self._read(path), is_package=path.name == "__init__.py")
            self._outlines[path] = known
            if len(self._outlines) > _MAX_OUTLINES:
                self._outlines.popitem(last=False)
        return known
