"""From bytes to a tree: the encoding of a source, and parsing that cannot take the process down.

libcst's native parser overflows the stack on deep nesting.
"""

from __future__ import annotations

import io
import re
import sys
import tokenize
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import libcst

from memlint.bare_trees.building import QUOTED, NoBareTree, bare_tree
from memlint.bare_trees.layout import (
    LayoutError,
    is_bare,
    is_incomplete,
    lay_out,
    lay_out_part,
    outer_function,
    parents,
)
from memlint.bare_trees.making import BareTree

# libcst 1.9 with the usual stack of 8 MiB dies from 1100 open brackets, 3100 calls in a chain or 8000 elif on.
MAX_BRACKETS = 200
"""Brackets open at once; CPython's own limit (``MAXLEVEL`` in ``Parser/lexer/state.h``)."""
MAX_NESTING = 1000
"""Brackets, operators, attributes, calls and joined strings around one expression."""
MAX_BRANCHES = 4000
"""``elif`` in one file, each of which libcst nests in the one before."""
TOO_DEEP = "nested too deeply"
_DEEP = 50
_DEEP_RECURSION = 20_000
"""Python frames; libcst generates code recursively, with up to three frames for each level of nesting."""

_TOKEN = re.compile(
    r"""
      (?P<skipped>\#[^\r\n]*|\\\r?\n)
    | (?P<operator>[-+%@&|^~.]|[*/]{1,2}|\b(?:not|lambda|if|else|and|or|await)\b
        |\"{3}(?:[^"\\]|\\.|\"(?!\"\"))*\"{3}|'{3}(?:[^'\\]|\\.|'(?!''))*'{3}
        |"(?:[^"\\\r\n]|\\.)*"|'(?:[^'\\\r\n]|\\.)*')
    | (?P<open>[(\[{])
    | (?P<close>[)\]}])
    | (?P<comma>,)
    | (?P<branch>[\r\n][ \t\f]*elif\b)
    | (?P<statement>[\r\n][ \t\f]*(?:def|class|import|return|raise|while|try|pass|del|assert)\b)
    | (?P<row>[\r\n])
    """,
    re.DOTALL | re.VERBOSE,
)


_NEWLINE = re.compile(r"\r\n?|\n")
_HEAD_BYTES = 4096
"""Enough for the two rows in which an encoding may be declared."""
_REWRITING_CODEC = re.compile(rb"\A(?:[^\n]*\n)?[ \t\f]*#[^\n]*?coding[:=][ \t]*future[_-](?:fstrings|annotations)\b")
"""Codecs that read UTF-8 and turn syntax of a later release into that of an older one: now it is everywhere."""


def source_encoding(data: bytes) -> str:
    """The encoding of the source ``data`` as Python finds it: byte order mark, declaration (PEP 263), UTF-8.

    Raises ``SyntaxError`` for an encoding that Python does not know, and for bytes in the first rows that are no UTF-8.
    """
    # detect_encoding knows only \n as the end of a row.
    head = re.sub(rb"\r\n?", b"\n", data[:_HEAD_BYTES])
    if _REWRITING_CODEC.match(head):
        return "utf-8"
    return tokenize.detect_encoding(io.BytesIO(head).readline)[0]


def parse(text: str) -> libcst.Module:
    """The tree of ``text``. Raises ``libcst.ParserSyntaxError``, also for a text that is nested too deeply."""
    expect_shallow(text)
    with _unvalidated():
        return libcst.parse_module(text)


_bare: WeakValueDictionary[int, BareTree] = WeakValueDictionary()
"""The trees without layout by their numbers; that of the file which is being checked comes last."""


def read(text: str) -> libcst.Module:
    """The tree of ``text``, which has no layout until it is completed. Raises as :func:`parse` does."""
    expect_shallow(text)
    with _unvalidated():
        try:
            tree = bare_tree(text)
        except NoBareTree:
            return libcst.parse_module(text)
    _bare[id(tree)] = tree
    return tree


def complete(tree: libcst.Module) -> None:
    """Gives ``tree`` the layout of its text, if it has none.

    Raises :class:`~memlint.bare_trees.layout.LayoutError` if libcst cannot read the text, or reads it in another way
    than Python does.
    """
    if not is_incomplete(tree):
        return
    try:
        full = parse(tree.text)
    except libcst.ParserSyntaxError as error:
        raise LayoutError("Python can read it, and libcst cannot") from error
    lay_out(tree, full)
    _bare.pop(id(tree), None)


class LaidOut(NamedTuple):
    """A function that has its layout, where it stands, and the defaults that its layout leaves out."""

    function: libcst.FunctionDef
    start: int
    """The offset of the first row."""
    end: int
    """The offset after the last row."""
    indentation: str
    default_indent: str
    default_newline: str


def complete_function(tree: BareTree, function: libcst.FunctionDef) -> LaidOut | None:
    """Gives one of the outermost functions of ``tree`` its layout, without the comments above and below it.

    None if only the whole text shows how it is laid out. ``tree`` has no layout yet.
    """
    start, end = _rows(tree.text, *tree.functions[id(function)])
    text = tree.text[start:end]
    indentation = text[: len(text) - len(text.lstrip(" \t"))]
    header = f"if True:{tree.default_newline}" if indentation else ""
    try:
        parsed = parse(header + text)
        around = parsed.body[0] if header else None
        (full,) = around.body.body if isinstance(around, libcst.If) else parsed.body
        lay_out_part(function, full)
    except (libcst.ParserSyntaxError, LayoutError, ValueError):
        return None
    return LaidOut(function, start, end, indentation, parsed.default_indent, parsed.default_newline)


def _rows(text: str, first: int, last: int) -> tuple[int, int]:
    """The offsets of the first character of a row, and after the last one of another."""
    starts = [0, *(match.end() for match in islice(_NEWLINE.finditer(text), last))]
    return starts[first - 1], starts[last] if last < len(starts) else len(text)


def complete_around(node: libcst.CSTNode) -> None:
    """Completes the function that ``node`` stands in, or the whole tree; see :func:`complete`.

    Raises ValueError for a node without layout that is in no tree: a changed copy of one, which would lose the
    parentheses of its text.
    """
    if not is_bare(node):
        return
    for tree in reversed(list(_bare.values())):
        above = parents(tree)
        if id(node) in above:
            function = outer_function(tree, above, node)
            if function is None or complete_function(tree, function) is None:
                complete(tree)
            return
    raise ValueError(f"a {type(node).__name__} without layout is in no tree")


def expect_places_in(tree: libcst.Module) -> None:
    """Says that ``tree`` is the one which will be completed next, if any is."""
    if isinstance(tree, BareTree) and id(tree) in _bare:
        _bare[id(tree)] = _bare.pop(id(tree))


@contextmanager
def deep_recursion() -> Iterator[None]:
    """Lets code inside recurse as deep as anything needs that follows a tree that libcst can parse."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, _DEEP_RECURSION))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


@contextmanager
def _unvalidated() -> Iterator[None]:
    """Keeps nodes from validating themselves, which is a sixth of the time of a parse.

    What the parser makes is valid, since it stood in a text; validation is for trees that are made by hand.
    """
    node: Any = libcst.CSTNode
    validated = node.__post_init__
    node.__post_init__ = lambda _: None
    try:
        yield
    finally:
        node.__post_init__ = validated


def expect_shallow(text: str) -> None:
    """Raises ``libcst.ParserSyntaxError`` if ``text`` is nested too deeply for libcst."""
    if _is_surely_shallow(text):
        return
    excess = _excess(text, MAX_NESTING)
    if excess is not None:
        start = text.rfind("\n", 0, excess) + 1
        row = text.count("\n", 0, start) + 1
        raise libcst.ParserSyntaxError(TOO_DEEP, lines=[text[start:]], raw_line=row, raw_column=excess - start)


_STRING_OR_COMMENT = re.compile(rf"\#[^\r\n]*|{QUOTED}", re.DOTALL | re.VERBOSE)
_STATEMENT = re.compile(r"[\r\n][ \t\f]*(?:def|class|import|return|raise|while|try|pass|del|assert)\b")


_LEVELS = (*"+-%@&|^~.*/([{", "not", "lambda", "if", "else", "and", "or", "await")
"""What :func:`_excess` may count as a level, where strings are gone."""


def _is_surely_shallow(text: str) -> bool:
    """Whether a look at ``text`` shows that :func:`_excess` would find nothing: what almost every file passes."""
    if text.count("elif") > MAX_BRANCHES:
        return False
    # A string counts as one level, which a dot stands for.
    bare = _STRING_OR_COMMENT.sub(".", text)
    return all(len(chunk) <= MAX_BRACKETS or _is_shallow_chunk(chunk) for chunk in _STATEMENT.split(bare))


def _is_shallow_chunk(chunk: str) -> bool:
    """Whether nothing is nested too deeply in what stands between two statements that close all brackets."""
    few_brackets = chunk.count("(") + chunk.count("[") + chunk.count("{") <= MAX_BRACKETS
    few_levels = len(chunk) <= MAX_NESTING or sum(chunk.count(level) for level in _LEVELS) <= MAX_NESTING
    return (few_brackets and few_levels) or _excess(chunk, MAX_NESTING) is None


def is_deep(text: str) -> bool:
    """Whether ``text`` has expressions so deep that code which follows them recursively may give up."""
    return _excess(text, _DEEP) is not None


def _excess(text: str, limit: int) -> int | None:
    """The offset at which ``text`` becomes nested more than ``limit`` deep, or more than libcst can bear.

    An upper bound of the depth: every operator counts as a level until a comma or the end of the row ends its
    expression. Words that only start statements close all brackets, so that an odd string cannot hold one open.
    """
    branches = operators = depth = 0
    outer: list[int] = []
    """For each open bracket, the operators beside it; ``depth`` is their sum, plus ``operators``, plus brackets."""
    for token in _TOKEN.finditer(text):
        kind = token.lastgroup
        if kind == "operator":
            operators += 1
            depth += 1
        elif kind == "open":
            outer.append(operators)
            operators = 0
            depth += 1
        elif kind == "close" and outer:
            depth -= operators
            operators = outer.pop() + 1
        elif kind == "comma":
            depth -= operators
            operators = 0
        elif kind in ("statement", "branch") or (kind == "row" and not outer):
            outer.clear()
            operators = depth = 0
            branches += kind == "branch"
        if depth > limit or len(outer) > MAX_BRACKETS or branches > MAX_BRANCHES:
            return token.start()
    return None
