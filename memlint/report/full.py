"""Findings with their code: what is wrong, where, what stays alive, and how to fix it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from memlint.check.results import FileResult
from memlint.diagnostics import Diagnostic, Location
from memlint.findings import Applicability
from memlint.report import Report
from memlint.report.concise import headline, place
from memlint.report.style import GUTTER, HELP, RELATED, SEVERITIES, Style, cell_len, styled, wrapped

_CONTEXT = 2
"""Rows shown before and after a finding."""
_WIDEST = 160
"""Columns of a row that are shown at most; of a longer row it is the part around the finding."""
_NARROWEST = 40
"""Columns of a row that are shown on the narrowest of terminals."""
_TAB = 4
"""Columns to the next tab stop."""
_LONGEST = 6
"""Rows of a finding that are shown; of a longer one it is its beginning and its end."""

_NEWLINE = re.compile(r"\r\n?|\n")
_APPLICABILITY = {
    Applicability.SAFE: "",
    Applicability.UNSAFE: " (unsafe fix)",
    Applicability.DISPLAY: " (not applied automatically)",
}


def render(report: Report, *, color: bool = False) -> str:
    """A paragraph for each diagnostic."""
    return "".join(
        f"{_paragraph(report, result, diagnostic, color)}\n"
        for result in report.results
        for diagnostic in result.diagnostics
    )


def _paragraph(report: Report, result: FileResult, diagnostic: Diagnostic, color: bool) -> str:
    text = result.text if diagnostic.cell is None else result.cells[diagnostic.cell]
    here = [related for related in diagnostic.related if related.cell == diagnostic.cell]
    notes = [
        _Note(diagnostic.location, diagnostic.end_location, "", "^", SEVERITIES[diagnostic.severity]),
        *(_Note(related.location, related.end_location, related.message, "-", RELATED) for related in here),
    ]
    frame = _Frame(_rows(text or ""), notes, color, report.width)
    arrow = styled("-->", GUTTER, color)
    fix = report.applicable_fix(diagnostic) or diagnostic.fix
    lines = [
        headline(report, diagnostic, color, report.width),
        f"{' ' * frame.width}{arrow} {place(diagnostic)}",
        *frame.lines(),
        *([frame.footnote("holds", diagnostic.holds)] if diagnostic.holds else []),
        *([frame.footnote("help", f"{fix.message}{_APPLICABILITY[fix.applicability]}")] if fix else []),
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _rows(text: str) -> list[str]:
    rows = _NEWLINE.split(text)
    # Nothing follows the last newline.
    return rows[:-1] if len(rows) > 1 and not rows[-1] else rows


class _Note(NamedTuple):
    """A marked stretch of code; ``end`` is the place after its last character."""

    start: Location
    end: Location
    label: str
    sign: str
    style: Style

    @property
    def rows(self) -> range:
        # A stretch that ends before the first character of a row has nothing on that row.
        last = self.end.row - (self.end.column == 1 and self.end.row > self.start.row)
        return range(self.start.row, last + 1)


class _Frame:
    """The rows of a text around the first of ``notes``, and those of the other notes."""

    def __init__(self, rows: Sequence[str], notes: Sequence[_Note], color: bool, width: int | None) -> None:
        self._rows = rows
        self._notes = notes
        self._color = color
        self._available = width
        self._shown = self._choose()
        self.width = len(str(max(self._shown)))
        margin = 2 if any(len(note.rows) > 1 for note in notes) else 0
        room = _WIDEST if width is None else width - self.width - len(" | ") - margin
        self._widest = min(max(room, _NARROWEST), _WIDEST)

    def _choose(self) -> list[int]:
        main = self._notes[0].rows
        shown = {each for note in self._notes for each in (note.rows[0], note.rows[-1])}
        shown |= set(main if len(main) <= _LONGEST else (*main[: _CONTEXT + 1], *main[-_CONTEXT - 1 :]))
        shown |= set(range(main[0] - _CONTEXT, main[0])) | set(range(main[-1] + 1, main[-1] + _CONTEXT + 1))
        # A gap of one row is wider when it is said than when it is filled.
        shown |= {each + 1 for each in shown if each + 2 in shown}
        return sorted(each for each in shown if 1 <= each <= len(self._rows)) or [1]

    def lines(self) -> Iterator[str]:
        """The frame with its gutter."""
        yield self._line("")
        before = self._shown[0] - 1
        for row in self._shown:
            if row > before + 1:
                yield styled("...", GUTTER, self._color)
            yield from self._row(row)
            before = row
        yield self._line("")

    def footnote(self, title: str, text: str) -> str:
        """A line, or a few, below the frame."""
        plain = f"{' ' * self.width} = {title}: "
        head = f"{' ' * self.width} {styled('=', GUTTER, self._color)} {styled(f'{title}:', HELP, self._color)} "
        return f"{head}{wrapped(plain, text, len(plain), self._available)}"

    def _line(self, content: str, row: int | None = None) -> str:
        number = " " * self.width if row is None else str(row).rjust(self.width)
        return f"{styled(f'{number} |', GUTTER, self._color)} {content}"

    def _row(self, row: int) -> Iterator[str]:
        here = [note for note in self._notes if row in note.rows]
        single = [note for note in here if len(note.rows) == 1]
        first = next((note for note in here if note.start.row == row), None)
        focus = (1, 1) if first is None else (first.start.column, first.end.column if first in single else 1)
        code = _Row(self._rows[row - 1], focus, self._widest)
        yield self._line(f"{self._margin(row)}{code.text}", row)
        for note in sorted(single, key=lambda note: note.start, reverse=True):
            start, end = code.column(note.start.column), code.column(note.end.column)
            marks = note.sign * max(end - start, 1)
            marked = styled(f"{marks} {note.label}".rstrip(), note.style, self._color)
            yield self._line(f"{self._margin(row, beside=True)}{' ' * start}{marked}")
        for note in here:
            if len(note.rows) > 1 and row == note.rows[-1]:
                reach = code.column(note.end.column) if note.end.row == row else len(code.text)
                mark = f"|{'_' * max(reach, 1)}{note.sign} {note.label}".rstrip()
                yield self._line(styled(mark, note.style, self._color))

    def _margin(self, row: int, beside: bool = False) -> str:
        """The bar to the left of notes of several rows, if there are any."""
        if all(len(note.rows) == 1 for note in self._notes):
            return ""
        for note in self._notes:
            if len(note.rows) > 1 and row in note.rows:
                bar = "/" if row == note.rows[0] and not beside else "|"
                return styled(bar, note.style, self._color) + " "
        return "  "


class _Row:
    """A row as a terminal shows it: tabs and wide characters take their room, control characters do nothing."""

    def __init__(self, row: str, focus: tuple[int, int], widest: int) -> None:
        """``focus`` is the stretch of 1-based columns that should be visible in ``widest`` columns of the terminal."""
        cells = [0]
        shown = []
        for character in row:
            visible = _visible(character, cells[-1])
            shown.append(visible)
            cells.append(cells[-1] + cell_len(visible))
        first, last = 0, len(shown)
        if cells[-1] > widest:
            # An ellipsis on either side takes a column.
            widest -= 2
            if cells[min(max(focus) - 1, len(shown))] > widest:
                first = min(focus[0] - 1, max(0, max(focus) - 1 - widest // 2))
            last = next((at for at in range(first, len(shown)) if cells[at + 1] - cells[first] > widest), len(shown))
        head, tail = "\u2026" * (first > 0), "\u2026" * (last < len(shown))
        self.text = f"{head}{''.join(shown[first:last])}{tail}"
        self._columns = [min(max(cell - cells[first], 0), cells[last] - cells[first]) + len(head) for cell in cells]

    def column(self, column: int) -> int:
        """How many columns of the terminal stand before the 1-based ``column`` of the row."""
        return self._columns[min(column - 1, len(self._columns) - 1)]


def _visible(character: str, column: int) -> str:
    if character == "\t":
        return " " * (_TAB - column % _TAB)
    # Escape sequences in a string literal must not reach the terminal.
    return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
