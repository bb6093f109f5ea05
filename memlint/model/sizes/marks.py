"""Numbers and texts that remember the line that they were written in."""

from __future__ import annotations

from typing import Any

from memlint.model.sizes.objects import Place


class Mark:
    """Where a value comes from."""

    place: Place
    by_command_line: bool = False
    """Whether it is the default of a command-line argument, so that a run may have another."""


class MarkedInt(int, Mark):
    """A number with its line."""


class MarkedFloat(float, Mark):
    """A number with its line."""


class MarkedText(str, Mark):  # noqa: SLOT000 - it has to remember its line
    """A text with its line."""


_KINDS: dict[type, type] = {
    int: MarkedInt,
    float: MarkedFloat,
    str: MarkedText,
    MarkedInt: MarkedInt,
    MarkedFloat: MarkedFloat,
    MarkedText: MarkedText,
}


def marked(value: Any, place: Place, *, by_command_line: bool = False) -> Any:
    """``value`` with its line, if it is a number or a text."""
    kind = _KINDS.get(type(value))
    if kind is None:
        return value
    result = kind(value)
    result.place = place
    result.by_command_line = by_command_line
    return result


def place_of(value: Any, otherwise: Place) -> Place:
    """The line that ``value`` was written in; ``otherwise`` if it does not remember one."""
    return value.place if isinstance(value, Mark) else otherwise
