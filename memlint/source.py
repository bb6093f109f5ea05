r"""The text of one file: how its bytes become characters and back, and where its syntax nodes stand.

Offsets count characters of the decoded text from 0; rows and columns are those of
:class:`~memlint.diagnostics.Location`. Rows end at ``\n``, ``\r\n`` or a lone ``\r`` and nowhere else, which is how
Python, flake8 and editors count them.
"""

from __future__ import annotations

import codecs
import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import libcst

from memlint.bare_trees.layout import LayoutError, is_incomplete, is_part, outer_function, parents
from memlint.diagnostics import Diagnostic, Edit, Location
from memlint.parsing import complete, complete_function, source_encoding
from memlint.places import Places, Span

Statement = libcst.BaseSmallStatement | libcst.BaseCompoundStatement | libcst.SimpleStatementLine

_NEWLINE = re.compile(r"\r\n?|\n")
_INDENTATION = re.compile(r"[ \t\f]*")


class SourceError(Exception):
    """Bytes that are not the text of a Python file; ``str(error)`` says in one line what is wrong with them."""


class Source:
    """The decoded text of a file and, once a tree is attached, the places of the tree's nodes in it."""

    def __init__(self, text: str, encoding: str = "utf-8", data: bytes | None = None) -> None:
        self.text = text
        self.encoding = encoding
        self._data = data
        self._tree: libcst.Module | None = None
        self._known: list[Places] = []
        """Of functions, or of everything."""

    @classmethod
    def decode(cls, data: bytes) -> Source:
        """Reads ``data`` as Python does: byte order mark, then the declared encoding (PEP 263), then UTF-8.

        Raises :class:`SourceError` for bytes that are not text in that encoding, for an unknown encoding and for
        NUL bytes.
        """
        encoding = _encoding(data)
        if b"\0" in data:
            raise SourceError(f"contains NUL bytes (the first at byte {data.index(0)})")
        try:
            return cls(data.decode(encoding), encoding, data)
        except UnicodeDecodeError as error:
            row = data.count(b"\n", 0, error.start) + 1
            raise SourceError(f"not valid {_shown(encoding)} at byte {error.start} (row {row})") from error
        except LookupError as error:
            raise SourceError(f"declares {encoding}, which is not a text encoding") from error

    def encode(self, text: str) -> bytes:
        """The bytes of ``text`` in the encoding of this file, with its byte order mark if it has one.

        Raises :class:`SourceError` if the encoding cannot express ``text``, or would change bytes of the file that
        the text does not change (encodings with several spellings of one character do).
        """
        try:
            if self._data is not None and self.text.encode(self.encoding) != self._data:
                raise SourceError(f"rewriting it as {_shown(self.encoding)} would change other bytes")
            return text.encode(self.encoding)
        except UnicodeEncodeError as error:
            raise SourceError(f"{_shown(self.encoding)} cannot express {text[error.start]!r}") from error

    def attach(self, tree: libcst.Module) -> None:
        """Says that ``tree`` is what :attr:`text` parses to."""
        self._tree = tree
        self._known = []
        for known in ("_above", "_everything"):
            self.__dict__.pop(known, None)

    @property
    def tree(self) -> libcst.Module:
        """The attached tree."""
        if self._tree is None:
            raise ValueError("no tree is attached to this source")
        return self._tree

    # Offsets and rows

    @cached_property
    def row_starts(self) -> list[int]:
        """The offset at which each row starts; row 1 is the first element."""
        return [0, *(match.end() for match in _NEWLINE.finditer(self.text))]

    def place(self, offset: int) -> Location:
        """The row and column of ``offset``."""
        row = bisect_right(self.row_starts, offset)
        return Location(row, offset - self.row_starts[row - 1] + 1)

    def offset(self, location: Location, cell: int | None = None) -> int:
        """The offset of ``location``; a column past the end of its row means the end of the row.

        ``cell`` is the notebook cell that the location is relative to (:mod:`memlint.notebook`).
        """
        if cell is not None:
            raise ValueError("only notebooks have cells")
        if location.row > len(self.row_starts):
            return len(self.text)
        return min(self.row_starts[location.row - 1] + location.column - 1, self.row_end(location.row))

    def row_end(self, row: int) -> int:
        """The offset after the last character of ``row``, before its newline."""
        match = _NEWLINE.search(self.text, self.row_starts[row - 1])
        return match.start() if match else len(self.text)

    def newline(self, offset: int) -> str:
        """The newline to write at ``offset``: that of its row, or of the row above where the text ends without one."""
        row = self.place(offset).row
        for candidate in (row, row - 1):
            match = _NEWLINE.match(self.text, self.row_end(candidate)) if candidate else None
            if match:
                return match.group()
        return "\n"

    def edit(self, start: int, end: int, content: str) -> Edit:
        """The edit that replaces the text between two offsets."""
        return Edit(self.place(start), self.place(end), content)

    def relocate(self, diagnostic: Diagnostic) -> Diagnostic:
        """``diagnostic`` with the places that a reader of the file knows: a notebook's are relative to its cells."""
        return diagnostic

    # Nodes

    # Most nodes that anybody asks for stand in a function, and what they need of the layout stands there as well: the
    # function is completed, and not the whole tree, which takes long in large files.

    @cached_property
    def _above(self) -> Mapping[int, libcst.CSTNode | None]:
        """The parents of those nodes that the tree has while it is not complete."""
        return parents(self.tree) if is_incomplete(self.tree) else {}

    @cached_property
    def _everything(self) -> Places:
        complete(self.tree)
        everything = Places.of_tree(self.tree, self.text)
        self._known = [everything]
        return everything

    def _places(self, node: libcst.CSTNode) -> Places:
        """Places among which there is that of ``node``, if it is a node of the tree."""
        for places in self._known:
            if node in places:
                return places
        return self._places_in_function(node) or self._everything

    def _places_in_function(self, node: libcst.CSTNode) -> Places | None:
        """The places in the function that ``node`` stands in; None if it is in none, or that cannot be completed."""
        if id(node) not in self._above or not is_incomplete(self.tree):
            return None
        function = outer_function(self.tree, self._above, node)
        laid_out = complete_function(self.tree, function) if function is not None else None
        if laid_out is None:
            return None
        try:
            places = Places.of_function(laid_out, self.text, self._above[id(function)])
        except LayoutError:
            return None
        self._known.append(places)
        return places

    def _places_on(self, row: int) -> Places:
        """Places among which there are all on a row."""
        start, end = self.row_starts[row - 1], self.row_end(row)
        return next((places for places in self._known if places.cover(start, end)), None) or self._everything

    def __contains__(self, node: libcst.CSTNode) -> bool:
        """Whether ``node`` is a node of the attached tree, and not of another file's."""
        if id(node) in self._above or any(node in places for places in self._known):
            return True
        return not (is_part(node) and is_incomplete(self.tree)) and node in self._everything

    def span(self, node: libcst.CSTNode) -> Span:
        """Where ``node`` stands, without surrounding whitespace, comments and parentheses of its own.

        After this, the layout of ``node`` and of what is in it is known.
        """
        return self._places(node).span(node)

    def outer_span(self, node: libcst.CSTNode) -> Span:
        """Where ``node`` stands, with the parentheses around an expression that are its own (not a call's)."""
        span = self.span(node)  # Parentheses are known when the tree is complete.
        if isinstance(node, libcst.BaseExpression) and node.lpar:
            return Span(self.span(node.lpar[0]).start, self.span(node.rpar[-1]).end)
        return span

    def location(self, node: libcst.CSTNode) -> Location:
        """The place of the first character of ``node``."""
        return self.place(self.span(node).start)

    def end_location(self, node: libcst.CSTNode) -> Location:
        """The place after the last character of ``node``."""
        return self.place(self.span(node).end)

    def code(self, node: libcst.CSTNode) -> str:
        """The text of ``node`` with its own parentheses, so that an expression stays one wherever it is put."""
        span = self.outer_span(node)
        return self.text[span.start : span.end]

    def parent(self, node: libcst.CSTNode) -> libcst.CSTNode | None:
        """The node that ``node`` is a part of; None for the module."""
        for places in self._known:
            if node in places:
                return places.parent(node)
        return self._above[id(node)] if id(node) in self._above else self._everything.parent(node)

    def ancestors(self, node: libcst.CSTNode) -> Iterator[libcst.CSTNode]:
        """The nodes that ``node`` is a part of, from its parent to the module."""
        parent = self.parent(node)
        while parent is not None:
            yield parent
            parent = self.parent(parent)

    def statement(self, node: libcst.CSTNode) -> Statement:
        """The innermost statement that ``node`` is, or is a part of.

        Raises ValueError for the module and for blocks, which are in no statement.
        """
        for candidate in (node, *self.ancestors(node)):
            if isinstance(candidate, (libcst.BaseSmallStatement, libcst.BaseCompoundStatement)):
                return candidate
            if isinstance(candidate, libcst.SimpleStatementLine):
                return candidate.body[0] if len(candidate.body) == 1 else candidate
        raise ValueError(f"a {type(node).__name__} is in no statement")

    def indentation(self, node: libcst.CSTNode) -> str:
        """The whitespace before the row on which ``node`` starts."""
        start = self.row_starts[self.location(node).row - 1]
        match = _INDENTATION.match(self.text, start)
        # A form feed sets the indentation back to nothing.
        return match.group().rpartition("\f")[2] if match else ""

    # Rows that belong together

    def noqa_row(self, row: int) -> int:
        """The row whose ``# noqa`` comment speaks about ``row``: the last one that a string or a backslash joins to it.

        This is flake8's rule: rows inside brackets are separate, rows joined by a multi-line string or a
        continuation are one.
        """
        for first, last in self._joined_rows(self._places_on(row)):
            if first <= row <= last:
                return last
        return row

    def _joined_rows(self, places: Places) -> list[tuple[int, int]]:
        """Ranges of rows that a string or a continuation joins, sorted, merged where they share a row."""
        joined: list[tuple[int, int]] = []
        for start, end in sorted([*places.multi_line_strings, *places.continuations]):
            first, last = self.place(start).row, self.place(end).row
            if joined and first <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            elif first < last:
                joined.append((first, last))
        return joined

    def inside_string(self, row: int) -> bool:
        """Whether ``row`` starts inside a string, so that its leading whitespace is part of a value."""
        start = self.row_starts[row - 1]
        return any(string.start < start <= string.end for string in self._places_on(row).multi_line_strings)

    def has_comment(self, start: int, end: int) -> bool:
        """Whether a comment starts between two offsets."""
        known = (places for places in self._known if places.cover(start, end))
        return any(start <= comment < end for comment in (next(known, None) or self._everything).comments)


def _encoding(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise SourceError("is UTF-16; Python source must be UTF-8 or declare another encoding")
    try:
        return source_encoding(data)
    except SyntaxError as error:
        if "invalid or missing encoding" in str(error):
            return "utf-8"
        raise SourceError(f"declares an {error.msg}") from error


def _shown(encoding: str) -> str:
    return "UTF-8" if encoding in ("utf-8", "utf-8-sig") else encoding


def encoded(lines: Sequence[str]) -> bytes:
    """The bytes of a file that a host has decoded: in the encoding that the file declares, without byte order mark."""
    rows = io.BytesIO("".join(lines[:2]).encode())
    try:
        encoding, _ = tokenize.detect_encoding(rows.readline)
    except SyntaxError:
        # The host has read it as best it could.
        encoding = "utf-8"
    return "".join(lines).encode(encoding, "replace")
