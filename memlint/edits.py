"""Edits as text operations: in what order they apply, when they collide, where other text is afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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


def moved(offset: int, replacements: Sequence[Replacement]) -> tuple[int, int]:
    """Where the character at ``offset`` is after ``replacements``: before and after what was inserted right there.

    The two differ only where a replacement starts at ``offset`` or holds it; then they are its new start and end.
    """
    before = after = offset
    for start, end, content in replacements:
        growth = len(content) - (end - start)
        if end < offset or start < end == offset:
            before += growth
            after += growth
        elif start <= offset:
            before -= offset - start
            after += len(content) - (offset - start)
    return before, after
