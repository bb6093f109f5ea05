"""Jupyter notebooks as one Python program: cells become text, places become cells, fixes go back into the JSON.

The code cells stand one after the other, each below a marker comment and an empty row. IPython's own syntax is
replaced by placeholders, in the same row and from the same column on, and cells in other languages are left out.
Writing touches nothing of the file but the ``source`` of the cells that changed.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from memlint.diagnostics import Diagnostic, Edit, LocatedFix, Location, RelatedLocation
from memlint.places import Span
from memlint.source import Source, SourceError

PYTHON_CELL_MAGICS = frozenset({"capture", "debug", "ipytest", "memit", "prun", "time", "timeit", "wandb"})
"""Cell magics whose cell is Python in the notebook's own namespace (of IPython, ipytest, memory_profiler, wandb)."""

_SPACE = re.compile(r"[ \t\r\n]*")
_CELL_MAGIC = re.compile(r"\s*%%(\w+)")
_MAGIC_ROW = re.compile(r"(?P<indentation>\s*)(?:%{1,2}[A-Za-z_?]|!|\?|[,;/]\S|[^#\s][^#]*\?\s*$)")
_MAGIC_VALUE = re.compile(r"\s*[\w.,\[\]'\"*() \t]+=\s*(?=%[A-Za-z_]|!)")
_TOKEN = re.compile(r"""#|\"{3}|'{3}|\"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[()\[\]{}]""")
_STRING_END = {quote: re.compile(rf"(?:\\.|[^\\])*?{quote}") for quote in ('"' * 3, "'" * 3)}
_DECODER = json.JSONDecoder()


def read_source(path: Path, data: bytes) -> Source:
    """The source of the file at ``path``: of a notebook if that is what its suffix says, else of a Python file.

    Raises :class:`~memlint.source.SourceError`.
    """
    return Notebook.decode(data) if path.suffix == ".ipynb" else Source.decode(data)


class _Cell(NamedTuple):
    """A code cell: its 1-based number among all cells, its text, and where its source stands in the JSON."""

    number: int
    text: str
    span: Span


class Notebook(Source):
    """The Python program in a notebook."""

    @classmethod
    def decode(cls, data: bytes) -> Notebook:
        """Reads a notebook of format 4 (Jupyter since 2015).

        Raises :class:`~memlint.source.SourceError` for what is not JSON and for JSON that is not such a notebook.
        """
        try:
            return cls(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise SourceError(f"not valid UTF-8 at byte {error.start}") from error

    def __init__(self, content: str) -> None:
        self._json = content
        self._cells = tuple(_cells(content))
        everything = "\n".join(cell.text for cell in self._cells)
        self._mark = _unused("cell", everything)
        self._magics = _Magics(_unused("magic", everything))
        first_rows = []
        pieces: list[str] = []
        rows = 0
        for cell in self._cells:
            piece = f"{self._marker(cell)}{self._magics.hide(cell.text)}\n"
            first_rows.append(rows + 3)
            rows += len(Source(piece).row_starts) - 1
            pieces.append(piece)
        self._first_rows = first_rows
        super().__init__("".join(pieces))

    def _marker(self, cell: _Cell) -> str:
        # The empty row keeps the marker from being taken for a comment about the first statement.
        return f"# {self._mark} {cell.number}\n\n"

    # Places

    def relocate(self, diagnostic: Diagnostic) -> Diagnostic:
        """``diagnostic``, found in :attr:`text`, with each place relative to the cell that it is in."""
        index = self._index(diagnostic.location.row)
        return diagnostic._replace(
            location=self._relative(diagnostic.location, index),
            end_location=self._relative(diagnostic.end_location, index),
            noqa_row=diagnostic.noqa_row - self._first_rows[index] + 1,
            cell=self._cells[index].number,
            related=tuple(map(self._relocated, diagnostic.related)),
            fixes=tuple(self._relocated_fix(fix) for fix in diagnostic.fixes),
        )

    def place_in_cell(self, location: Location) -> tuple[int, Location]:
        """The number of the cell in which ``location`` of :attr:`text` is, and the place relative to that cell."""
        index = self._index(location.row)
        return self._cells[index].number, self._relative(location, index)

    def offset(self, location: Location, cell: int | None = None) -> int:
        """The offset in :attr:`text` of a ``location`` that is relative to ``cell``, or to the whole text."""
        if cell is None:
            return super().offset(location)
        first_row = next(row for row, each in zip(self._first_rows, self._cells, strict=True) if each.number == cell)
        return super().offset(Location(first_row + location.row - 1, location.column))

    @property
    def cell_numbers(self) -> list[int]:
        """The numbers of the cells that :attr:`text` holds, from 1 and counting cells of every kind."""
        return [cell.number for cell in self._cells]

    def cell_text(self, cell: int) -> str:
        """The text of the code cell with the number ``cell``, as the notebook shows it."""
        return next(each.text for each in self._cells if each.number == cell)

    def _index(self, row: int) -> int:
        return max(bisect_right(self._first_rows, row) - 1, 0)

    def _relative(self, location: Location, index: int) -> Location:
        return Location(location.row - self._first_rows[index] + 1, location.column)

    def _relocated(self, related: RelatedLocation) -> RelatedLocation:
        index = self._index(related.location.row)
        return RelatedLocation(
            self._relative(related.location, index),
            self._relative(related.end_location, index),
            related.message,
            self._cells[index].number,
        )

    def _relocated_fix(self, fix: LocatedFix) -> LocatedFix:
        return fix._replace(edits=tuple(map(self._relocated_edit, fix.edits)))

    def _relocated_edit(self, edit: Edit) -> Edit:
        index = self._index(edit.location.row)
        return Edit(
            self._relative(edit.location, index),
            self._relative(edit.end_location, index),
            edit.content,
            self._cells[index].number,
        )

    # Writing

    def encode(self, text: str) -> bytes:
        """The notebook's bytes with :attr:`text` changed to ``text``; everything outside changed cells stays as it is.

        Raises :class:`~memlint.source.SourceError` if the change does not respect the borders of cells or magics.
        """
        content = self._json
        for cell, new in reversed(list(zip(self._cells, self._split(text), strict=True))):
            if new != cell.text:
                raw = content[slice(*cell.span)]
                content = content[: cell.span.start] + _in_style(new, raw, content) + content[cell.span.end :]
        try:
            return content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise SourceError("a cell holds half a character (a lone surrogate)") from error

    def _split(self, text: str) -> list[str]:
        """The texts of the cells in a changed :attr:`text`."""
        texts = []
        rest = text
        for cell in reversed(self._cells):
            head, marker, tail = ("\n" + rest).rpartition("\n" + self._marker(cell))
            if not marker:
                raise SourceError(f"the change would cross the border of cell {cell.number}")
            texts.append(tail.removesuffix("\n"))
            rest = head[1:] + "\n" if head else ""
        if rest or text.count(f"# {self._mark} ") != len(self._cells):
            raise SourceError("the change would cross the border of a cell")
        return self._magics.restore(texts[::-1])


class _Magics:
    """Hides IPython's syntax in placeholders and brings it back.

    A placeholder is a comment with a number, behind ``pass`` or ``None`` where Python wants a statement or a value;
    so it stays what it is when the row around it is indented or moved.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._hidden: list[str] = []
        self._placeholder = re.compile(rf"(?:(?:pass|None)  )?# {mark} (\d+)$", re.MULTILINE)

    def hide(self, text: str) -> str:
        """``text`` with a placeholder for each magic, shell command and help request."""
        hidden = []
        state = _BETWEEN_STATEMENTS
        continued = False
        for row in text.split("\n"):
            start = 0 if continued else _magic_start(row) if state == _BETWEEN_STATEMENTS else None
            if start is None:
                hidden.append(row)
                state = state.after(row)
                continue
            value = "None  " if row[:start].strip() else "pass  " if row[:start] else ""
            hidden.append(f"{row[:start]}{value}# {self._mark} {len(self._hidden)}")
            self._hidden.append(row[start:])
            continued = row.endswith("\\")
        return "\n".join(hidden)

    def restore(self, texts: Sequence[str]) -> list[str]:
        """``texts`` with every magic back in place."""
        found = [int(match.group(1)) for text in texts for match in self._placeholder.finditer(text)]
        if sorted(found) != list(range(len(self._hidden))):
            raise SourceError("the change would lose a magic command")
        return [self._placeholder.sub(lambda match: self._hidden[int(match.group(1))], text) for text in texts]


def _magic_start(row: str) -> int | None:
    """The offset in ``row`` from which on it is IPython's and not Python's; None if it is all Python."""
    if value := _MAGIC_VALUE.match(row):
        return value.end()
    if magic := _MAGIC_ROW.match(row):
        return magic.end("indentation")
    return None


class _RowState(NamedTuple):
    """What is open where a row of Python starts."""

    brackets: int = 0
    string: str = ""
    """The quotes of a multi-line string."""
    continued: bool = False

    def after(self, row: str) -> _RowState:
        """What is open at the end of ``row``."""
        brackets, string, at = self.brackets, self.string, 0
        while at < len(row):
            match = (_STRING_END[string].match if string else _TOKEN.search)(row, at)
            if not match or match.group() == "#":
                break
            at = match.end()
            if string:
                string = ""
            elif match.group() in _STRING_END:
                string = match.group()
            else:
                brackets += (match.group() in "([{") - (match.group() in ")]}")
        return _RowState(max(brackets, 0), string, not string and row.endswith("\\"))


_BETWEEN_STATEMENTS = _RowState()


def _unused(word: str, text: str) -> str:
    """``word``, lengthened until no comment in ``text`` starts with it."""
    while f"# {word} " in text:
        word += "_"
    return word


# The JSON around the cells


class _Value(NamedTuple):
    value: Any
    span: Span


def _cells(content: str) -> Iterator[_Cell]:
    """The code cells of a Python notebook that hold Python."""
    if not _is_python(_checked(content).get("metadata")):
        return
    cells = _members(content, content.index("{"))["cells"]
    for number, cell in enumerate(_items(content, cells.span.start), 1):
        if not isinstance(cell.value, dict) or "cell_type" not in cell.value:
            raise SourceError(f"not a notebook: cell {number} is not a cell")
        if cell.value["cell_type"] != "code":
            continue
        text = _joined(cell.value.get("source"))
        if text is None:
            raise SourceError(f"not a notebook: the source of cell {number} is not text")
        if _holds_python(text):
            yield _Cell(number, text, _members(content, cell.span.start)["source"].span)


def _checked(content: str) -> dict[str, Any]:
    """The JSON of a notebook of format 4."""
    try:
        notebook = json.loads(content.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise SourceError(f"not valid JSON: {error.msg} (row {error.lineno}, column {error.colno})") from error
    except RecursionError as error:
        raise SourceError("not a notebook: its JSON is nested too deeply") from error
    if not isinstance(notebook, dict) or not isinstance(notebook.get("nbformat"), int):
        raise SourceError('not a notebook: it has no "nbformat"')
    if notebook["nbformat"] < 4:
        raise SourceError("a notebook of format 3 or older; `jupyter nbconvert --to notebook` brings it up to date")
    if not isinstance(notebook.get("cells"), list):
        raise SourceError('not a notebook: it has no list of "cells"')
    return notebook


def _is_python(metadata: Any) -> bool:
    """Whether the kernel speaks Python; a notebook that names no language does."""
    match metadata:
        case {"language_info": {"name": str(language)}} | {"kernelspec": {"language": str(language)}}:
            return language.lower() in ("python", "ipython")
    return True


def _holds_python(text: str) -> bool:
    magic = _CELL_MAGIC.match(text)
    return magic is None or magic.group(1) in PYTHON_CELL_MAGICS


def _joined(source: Any) -> str | None:
    if isinstance(source, str):
        return source
    if isinstance(source, list) and all(isinstance(line, str) for line in source):
        return "".join(source)
    return None


def _members(content: str, at: int) -> dict[str, _Value]:
    """The members of the JSON object that starts at ``at``, with the spans of their values."""
    members = {}
    at = _after_space(content, at + 1)
    while content[at] != "}":
        key, at = _DECODER.raw_decode(content, at)
        at = _after_space(content, _after_space(content, at) + 1)
        value, end = _DECODER.raw_decode(content, at)
        members[key] = _Value(value, Span(at, end))
        at = _after_comma(content, end)
    return members


def _items(content: str, at: int) -> Iterator[_Value]:
    """The items of the JSON list that starts at ``at``."""
    at = _after_space(content, at + 1)
    while content[at] != "]":
        value, end = _DECODER.raw_decode(content, at)
        yield _Value(value, Span(at, end))
        at = _after_comma(content, end)


def _after_space(content: str, at: int) -> int:
    match = _SPACE.match(content, at)
    return match.end() if match else at


def _after_comma(content: str, at: int) -> int:
    at = _after_space(content, at)
    return _after_space(content, at + 1) if content[at] == "," else at


def _in_style(text: str, raw: str, content: str) -> str:
    """``text`` as the JSON of a cell's source, laid out as ``raw`` is, rows that ``raw`` has spelled as there."""
    escaped = content.removeprefix("\ufeff").isascii()
    if not raw.startswith("["):
        return json.dumps(text, ensure_ascii=escaped)
    items = list(_items(raw, 0))
    spelled = {item.value: raw[slice(*item.span)] for item in items}
    lines = [spelled.get(line) or json.dumps(line, ensure_ascii=escaped) for line in text.splitlines(keepends=True)]
    if not lines:
        return "[]"
    opening = raw[: items[0].span.start] if items else "["
    closing = raw[items[-1].span.end :] if items else "]"
    if len(items) > 1:
        separator = raw[items[0].span.end : items[1].span.start]
    else:
        separator = "," + (opening[1:] or (" " if '": ' in content else ""))
    return opening + separator.join(lines) + closing
