"""Edits as text operations: in what order they apply, when they collide, where other text is afterwards."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from memlint.diagnostics import Edit


class Replacement(NamedTuple):
    """Replace the text from offset ``start`` up to, not including, offset ``end`` by ``content``."""

    start: int
    end: int
    content: str

    def touches(self, other: Replacement) -> bool:
        """Whether the two overlap or meet, so that the result would depend on which is applied first."""
        return self.start <= other.end and other.start <= self.end

    def ends_before(self, offset: int) -> bool:
        """Whether the character at ``offset`` stands behind what is replaced."""
        return self.end < offset or self.start < self.end == offset


def merged(edits: Iterable[Edit]) -> tuple[Edit, ...]:
    """The edits of one fix in the order of their places; insertions at one place become one, in the order given.

    Raises ValueError for edits that overlap.
    """
    result: list[Edit] = []
    for edit in sorted(edits, key=lambda edit: (edit.location, edit.end_location)):
        last = result[-1] if result else None
        if last and last.location == last.end_location == edit.location == edit.end_location:
            result[-1] = Edit(edit.location, edit.end_location, last.content + edit.content)
        elif last and edit.location < last.end_location:
            raise ValueError(f"the edits {last} and {edit} of one fix overlap")
        else:
            result.append(edit)
    return tuple(result)


def applied(text: str, replacements: Iterable[Replacement]) -> str:
    """``text`` with all ``replacements``, which do not overlap."""
    pieces = []
    at = 0
    for start, end, content in sorted(replacements, key=lambda replacement: replacement[:2]):
        pieces += [text[at:start], content]
        at = end
    return "".join([*pieces, text[at:]])


class Moves:
    """Where text is after ``replacements``, which do not overlap."""

    def __init__(self, replacements: Iterable[Replacement]) -> None:
        self._replacements = sorted(replacements, key=lambda replacement: replacement[:2])
        self._starts = [replacement.start for replacement in self._replacements]
        growth = (len(content) - (end - start) for start, end, content in self._replacements)
        self._growth = [0, *accumulate(growth)]
        """How much longer the text has become by the first of the replacements, by the first two, ..."""

    def of(self, offset: int) -> tuple[int, int]:
        """Where the character at ``offset`` is: before and after what has been inserted right there.

        The two differ only where a replacement starts at ``offset`` or holds it; then they are its new start and end.
        """
        index = bisect_right(self._starts, offset)
        here = []
        while index and not self._replacements[index - 1].ends_before(offset):
            index -= 1
            here.append(self._replacements[index])
        before = after = offset + self._growth[index]
        for start, _, content in here:
            before -= offset - start
            after += len(content) - (offset - start)
        return before, after
