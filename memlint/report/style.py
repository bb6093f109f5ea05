"""The few styles of the terminal output."""

from __future__ import annotations

import os
import textwrap
from typing import Any, TextIO, TypeAlias

import click

from memlint.findings import Severity

Style: TypeAlias = dict[str, Any]
"""Arguments of :func:`click.style`."""

BOLD: Style = {"bold": True}
FIXABLE: Style = {"fg": "cyan"}
GUTTER: Style = {"fg": "blue", "bold": True}
HELP: Style = {"fg": "cyan", "bold": True}
RELATED: Style = {"fg": "blue", "bold": True}
SEVERITIES: dict[Severity, Style] = {
    Severity.ERROR: {"fg": "red", "bold": True},
    Severity.WARNING: {"fg": "yellow", "bold": True},
    Severity.NOTE: {"fg": "blue", "bold": True},
}


def styled(text: str, style: Style, color: bool) -> str:
    """``text`` in ``style``, if there are to be colours."""
    return click.style(text, **style) if color and text else text


def wrapped(prefix: str, text: str, indent: int, width: int | None) -> str:
    """``text``, broken between words so that it fits in ``width`` columns behind ``prefix``, which is left out.

    Further lines are indented by ``indent`` columns.
    """
    if width is None:
        return text
    lines = textwrap.wrap(
        text,
        max(width, indent + 20),
        initial_indent=" " * len(prefix),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return "\n".join(lines)[len(prefix) :]


def wants_color(stream: TextIO) -> bool:
    """Whether to write colours to ``stream``: only to a terminal, unless NO_COLOR or FORCE_COLOR say otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "0") not in ("", "0"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def cell_len(text: str) -> int:
    """How many columns of a terminal ``text`` takes."""
    if text.isascii() and text.isprintable():
        return len(text)
    from rich import cells

    return cells.cell_len(text)
