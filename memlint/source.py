r"""The text of one file: how its bytes become characters and back, and where its syntax nodes stand.

Offsets count characters of the decoded text from 0; rows and columns are those of
:class:`~memlint.diagnostics.Location`. Rows end at ``\n``, ``\r\n`` or a lone ``\r`` and nowhere else, which is how
Python, flake8 and editors count them.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
import tokenize
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple, TypeVar, cast

import libcst
from libcst._nodes.internal import CodegenState

from memlint.diagnostics import Diagnostic, Edit, Location
from memlint.parsing import complete, source_encoding

_Node = TypeVar("_Node", bound=libcst.CSTNode)

Statement = libcst.BaseSmallStatement | libcst.BaseCompoundStatement | libcst.SimpleStatementLine

_NEWLINE = re.compile(r"\r\n?|\n")
_INDENTATION = re.compile(r"[ \t\f]*")
_BLANKS_OF_PYTHON = " \t\f\r\n\\"
_DEEP_RECURSION = 20_000
"""Python frames; libcst generates code recursively, with up to three frames for each level of nesting."""


class SourceError(Exception):
    """Bytes that are not the text of a Python file; ``str(error)`` says in one line what is wrong with them."""


class Span(NamedTuple):
    """A stretch of text: the offset of its first character and the offset after its last."""

    start: int
    end: int


class Source:
    """The decoded text of a file and, once a tree is attached, the places of the tree's nodes in it."""

    def __init__(self, text: str, encoding: str = "utf-8", data: bytes | None = None) -> None:
        self.text = text
        self.encoding = encoding
        self._data = data
        self._tree: libcst.Module | None = None

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
        self.__dict__.pop("_nodes", None)

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

    @cached_property
    def _nodes(self) -> _Nodes:
        complete(self.tree)
        return _Nodes(self.tree, self.text)

    def __contains__(self, node: libcst.CSTNode) -> bool:
        """Whether ``node`` is a node of the attached tree, and not of another file's."""
        return id(node) in self._nodes.parents

    def span(self, node: libcst.CSTNode) -> Span:
        """Where ``node`` stands, without surrounding whitespace, comments and parentheses of its own."""
        return self._nodes.span(node)

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
        return self._nodes.parents[id(node)]

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
        for first, last in self._joined_rows:
            if first <= row <= last:
                return last
        return row

    @cached_property
    def _joined_rows(self) -> list[tuple[int, int]]:
        """Ranges of rows that a string or a continuation joins, sorted, merged where they share a row."""
        continuations = (self.span(node) for node in self._nodes.of_kind(libcst.SimpleWhitespace) if "\\" in node.value)
        joined: list[tuple[int, int]] = []
        for start, end in sorted([*self._multi_line_strings, *continuations]):
            first, last = self.place(start).row, self.place(end).row
            if joined and first <= joined[-1][1]:
                joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
            elif first < last:
                joined.append((first, last))
        return joined

    def inside_string(self, row: int) -> bool:
        """Whether ``row`` starts inside a string, so that its leading whitespace is part of a value."""
        return row in self._rows_inside_strings

    @cached_property
    def _rows_inside_strings(self) -> frozenset[int]:
        rows = (range(self.place(start).row + 1, self.place(end).row + 1) for start, end in self._multi_line_strings)
        return frozenset(row for string in rows for row in string)

    @cached_property
    def _multi_line_strings(self) -> list[Span]:
        spans = (self.span(node) for kind in _STRINGS for node in self._nodes.of_kind(kind))
        return [span for span in spans if _NEWLINE.search(self.text, span.start, span.end)]

    def has_comment(self, start: int, end: int) -> bool:
        """Whether a comment starts between two offsets."""
        return any(start <= comment < end for comment in self._comments)

    @cached_property
    def _comments(self) -> list[int]:
        return [self.span(comment).start for comment in self._nodes.of_kind(libcst.Comment)]


# Template strings came with Python 3.14 and later versions of libcst.
_STRINGS: tuple[type[libcst.CSTNode], ...] = tuple(
    getattr(libcst, kind) for kind in ("SimpleString", "FormattedString", "TemplatedString") if hasattr(libcst, kind)
)


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


class _Nodes:
    """The places and parents of all nodes of a tree, found in one pass of code generation.

    This is what libcst's own position and parent providers find, several times faster (they take longer than the
    parse), and in characters of the real text, from which libcst drops form feeds and continuations before
    indentation.
    """

    def __init__(self, tree: libcst.Module, text: str) -> None:
        recorder = _Recorder(tree)
        with deep_recursion():
            tree._codegen(recorder)
        self._all = recorder.nodes  # That keeps the numbers of the nodes theirs.
        self.parents = recorder.parents
        self._spans = recorder.spans
        generated = "".join(recorder.tokens)
        self._offsets = None if generated == text else _align(generated, text)

    def of_kind(self, kind: type[_Node]) -> Iterator[_Node]:
        """The nodes of one type, in the order of the text."""
        # The check of an instance of an abstract class is slow, and there are few types.
        types = {found for found in set(map(type, self._all)) if issubclass(found, kind)}
        return (cast(_Node, node) for node in self._all if type(node) in types)

    def span(self, node: libcst.CSTNode) -> Span:
        start, end = self._spans[id(node)]
        if self._offsets is None:
            return Span(start, end)
        if start == end:
            return Span(self._offsets[start], self._offsets[start])
        return Span(self._offsets[start], self._offsets[end - 1] + 1)


class _Recorder(CodegenState):
    """Generates code and notes, for each node, its span in characters and the node that it is a part of.

    The spans are those of libcst's PositionProvider: a node says while it generates itself which part of it counts.
    """

    def __init__(self, tree: libcst.Module) -> None:
        super().__init__(tree.default_indent, tree.default_newline)
        self.at = 0
        self.nodes: list[libcst.CSTNode] = []
        # By their numbers: a node calculates its hash in Python.
        self.spans: dict[int, tuple[int, int]] = {}
        self.parents: dict[int, libcst.CSTNode | None] = {}
        self._open: list[tuple[libcst.CSTNode | None, int]] = [(None, 0)]

    def add_token(self, value: str) -> None:
        self.tokens.append(value)
        self.at += len(value)

    def add_indent_tokens(self) -> None:
        for token in self.indent_tokens:
            self.add_token(token)

    def before_codegen(self, node: libcst.CSTNode) -> None:
        self.nodes.append(node)
        self.parents[id(node)] = self._open[-1][0]
        self._open.append((node, self.at))

    def after_codegen(self, node: libcst.CSTNode) -> None:
        _, start = self._open.pop()
        self.spans.setdefault(id(node), (start, self.at))

    @contextmanager
    def record_syntactic_position(
        self,
        node: libcst.CSTNode,
        *,
        start_node: libcst.CSTNode | None = None,
        end_node: libcst.CSTNode | None = None,
    ) -> Iterator[None]:
        start = self.at
        yield
        self.spans[id(node)] = (
            self.spans[id(start_node)][0] if start_node is not None else start,
            self.spans[id(end_node)][1] if end_node is not None else self.at,
        )


def _align(generated: str, text: str) -> list[int]:
    """For each offset of the code that libcst generates, the offset of the same character in the text.

    The two differ only in whitespace and continuations, so everything else is found in order.
    """
    offsets = []
    at = 0
    for character in generated:
        while at < len(text) and text[at] != character and text[at] in _BLANKS_OF_PYTHON:
            at += 1
        offsets.append(at)
        if at < len(text) and text[at] == character:
            at += 1
        elif not character.isspace() and _is_comment_to_the_end(text, at):
            # Of comments at the end that are indented like nothing before, libcst keeps only the last.
            return [*offsets, *[len(text)] * (len(generated) + 1 - len(offsets))]
        elif not character.isspace():
            raise SourceError(f"cannot tell where its statements stand (at character {at})")
    return [*offsets, len(text)]


def _is_comment_to_the_end(text: str, at: int) -> bool:
    """Whether the row at offset ``at``, and all rows below, hold nothing but comments."""
    start = max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1
    return all(not row.strip() or row.lstrip().startswith("#") for row in _NEWLINE.split(text[start:]))


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Lets code inside recurse as deep as anything needs that follows a tree that libcst can parse."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEEP_RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def encoded(lines: Sequence[str]) -> bytes:
    """The bytes of a file that a host has decoded: in the encoding that the file declares, without byte order mark."""
    rows = io.BytesIO("".join(lines[:2]).encode())
    try:
        encoding, _ = tokenize.detect_encoding(rows.readline)
    except SyntaxError:
        # The host has read it as best it could.
        encoding = "utf-8"
    return "".join(lines).encode(encoding, "replace")
