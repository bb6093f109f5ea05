"""Where the nodes of a tree, or of a function, stand in a text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import NamedTuple, TypeVar, cast

import libcst
from libcst._nodes.internal import CodegenState

from memlint.bare_trees.layout import LayoutError
from memlint.parsing import LaidOut, deep_recursion

_Node = TypeVar("_Node", bound=libcst.CSTNode)

_NEWLINE = re.compile(r"\r\n?|\n")
_BLANKS_OF_PYTHON = " \t\f\r\n\\"


class Span(NamedTuple):
    """A stretch of text: the offset of its first character and the offset after its last."""

    start: int
    end: int


class Places:
    """The places and parents of all nodes of a tree, or of a function, found in one pass of code generation.

    This is what libcst's own position and parent providers find, several times faster (they take longer than the
    parse), and in characters of the real text, from which libcst drops form feeds and continuations before
    indentation.
    """

    def __init__(self, recorder: _Recorder, text: str, span: Span) -> None:
        self._nodes = recorder.nodes  # That keeps the numbers of the nodes theirs.
        self._parents = recorder.parents
        self._spans = recorder.spans
        self._text = text
        self._covered = span
        generated, written = "".join(recorder.tokens), text[span.start : span.end]
        self._offsets = None if generated == written else _align(generated, written)

    @classmethod
    def of_tree(cls, tree: libcst.Module, text: str) -> Places:
        """The places in ``text`` of the nodes of ``tree``, which is complete.

        Raises :class:`~memlint.bare_trees.layout.LayoutError` if the tree is not that of the text.
        """
        recorder = _Recorder(tree.default_indent, tree.default_newline)
        recorder.record(tree, above=None)
        return cls(recorder, text, Span(0, len(text)))

    @classmethod
    def of_function(cls, laid_out: LaidOut, text: str, above: libcst.CSTNode | None) -> Places:
        """The places in ``text`` of the nodes of a function that is a part of ``above``. Raises as for a tree."""
        recorder = _Recorder(laid_out.default_indent, laid_out.default_newline)
        recorder.increase_indent(laid_out.indentation)
        recorder.record(laid_out.function, above)
        return cls(recorder, text, Span(laid_out.start, laid_out.end))

    def cover(self, start: int, end: int) -> bool:
        """Whether all nodes between two offsets are among these."""
        return self._covered.start <= start and end <= self._covered.end

    def __contains__(self, node: libcst.CSTNode) -> bool:
        return id(node) in self._parents

    def parent(self, node: libcst.CSTNode) -> libcst.CSTNode | None:
        """The node that ``node`` is a part of; None for a module."""
        return self._parents[id(node)]

    def span(self, node: libcst.CSTNode) -> Span:
        """Where ``node`` stands."""
        start, end = self._spans[id(node)]
        first = self._covered.start
        if self._offsets is None:
            return Span(first + start, first + end)
        if start == end:
            return Span(first + self._offsets[start], first + self._offsets[start])
        return Span(first + self._offsets[start], first + self._offsets[end - 1] + 1)

    @cached_property
    def comments(self) -> list[int]:
        """Where comments start."""
        return [self.span(comment).start for comment in self._of_kinds(libcst.Comment)]

    @cached_property
    def multi_line_strings(self) -> list[Span]:
        """The strings in which a row ends, those with expressions in them included."""
        spans = map(self.span, self._of_kinds(*_STRINGS))
        return [span for span in spans if _NEWLINE.search(self._text, span.start, span.end)]

    @cached_property
    def continuations(self) -> list[Span]:
        """The whitespace in which a backslash joins two rows."""
        return [self.span(node) for node in self._of_kinds(libcst.SimpleWhitespace) if "\\" in node.value]

    def _of_kinds(self, *kinds: type[_Node]) -> Iterator[_Node]:
        """The nodes of some types, in the order of the text."""
        return (cast(_Node, node) for node in self._nodes if type(node) in kinds)


class _Recorder(CodegenState):
    """Generates code and notes, for each node, its span in characters and the node that it is a part of.

    The spans are those of libcst's PositionProvider: a node says while it generates itself which part of it counts.
    """

    def __init__(self, default_indent: str, default_newline: str) -> None:
        super().__init__(default_indent, default_newline)
        self.at = 0
        self.nodes: list[libcst.CSTNode] = []
        # By their numbers: a node calculates its hash in Python.
        self.spans: dict[int, tuple[int, int]] = {}
        self.parents: dict[int, libcst.CSTNode | None] = {}
        self._open: list[tuple[libcst.CSTNode | None, int]] = [(None, 0)]

    def record(self, node: libcst.CSTNode, above: libcst.CSTNode | None) -> None:
        """Generates the code of ``node``, a part of ``above``."""
        with deep_recursion():
            node._codegen(self)
        self.parents[id(node)] = above

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
            raise LayoutError(f"at character {at}")
    return [*offsets, len(text)]


def _is_comment_to_the_end(text: str, at: int) -> bool:
    """Whether the row at offset ``at``, and all rows below, hold nothing but comments."""
    start = max(text.rfind("\n", 0, at), text.rfind("\r", 0, at)) + 1
    return all(not row.strip() or row.lstrip().startswith("#") for row in _NEWLINE.split(text[start:]))


# Template strings came with Python 3.14 and later versions of libcst.
_STRINGS: tuple[type[libcst.CSTNode], ...] = tuple(
    getattr(libcst, kind) for kind in ("SimpleString", "FormattedString", "TemplatedString") if hasattr(libcst, kind)
)
