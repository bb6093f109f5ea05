"""Which files of a project mention a word: an index that stays small however many files there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

_SEPARATED = bytes(
    byte if chr(byte).isalnum() or byte == ord("_") or byte >= 0x80 else ord(" ")  # bytes of other alphabets: letters
    for byte in range(256)
)


class Mentions:
    """For each word, up to ``limit`` of ``files`` whose bytes hold it, in their order.

    A word that occurs in more files than that is too common: only that is remembered of it. What is kept grows with
    the vocabulary of a project, not with its text: 9 MB for 45 MB in 2,000 files.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[Path], bytes], limit: int) -> None:
        self._files = files
        self._limit = limit
        self._places: dict[bytes, tuple[int, ...] | None] = {}
        for number, path in enumerate(files):
            self._add(number, words(read(path)))

    def _add(self, number: int, found: set[bytes]) -> None:
        places = self._places
        here = (number,)
        for word in found:
            known = places.get(word, ())
            if known is not None:
                places[word] = (known + here if known else here) if len(known) < self._limit else None

    def of(self, name: str) -> tuple[Path, ...] | None:
        """The files that mention ``name``; None if they are too many."""
        places = self._places.get(name.encode(), ())
        return None if places is None else tuple(self._files[number] for number in places)


def words(data: bytes) -> set[bytes]:
    """The identifiers, keywords and numbers in source text, those in strings and comments included."""
    return set(data.translate(_SEPARATED).split())
