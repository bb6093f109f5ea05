"""Where a finding stands in its file: its statement, the loop around it, and the expressions that a run can look at."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from memlint.diagnostics import Diagnostic, Location

_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_Rows = tuple[int, int]


@dataclass(frozen=True)
class Place:
    """Rows are 1-based; ranges include their ends."""

    rows: _Rows
    loop: _Rows | None
    function: int
    """The row on which the function around it begins, decorators included; 0 at module level."""
    function_end: int
    """The last row of that function, or of the file."""
    receiver: str | None
    """``optimizer`` of the call ``optimizer.step()`` that the finding is, or that its statement is."""
    taker: str | None
    """``losses`` of the call ``losses.update(x)`` that gets the finding as an argument."""
    arguments: tuple[str, ...]
    """The positional arguments of the call that the finding is."""
    targets: tuple[str, ...]
    """What the statement binds."""
    block: _Rows = (0, 0)
    """The whole statement, with what is inside of a compound one."""
    repeats: bool = False
    """Whether the loop comes back to the row of the statement without passing another one."""


class Statements:
    """The statements of one file. Raises SyntaxError for what Python does not parse."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tree = ast.parse(text)
        self._lines = text.splitlines()

    def place(self, diagnostic: Diagnostic) -> Place:
        """Where the expression of ``diagnostic`` stands; the finding may be a call or lie in one."""
        return self.place_of(diagnostic.location, diagnostic.end_location)

    def place_of(self, start: Location, end: Location) -> Place:
        """Where an expression stands."""
        path = self._path_to(start)
        statement = next((node for node in reversed(path) if isinstance(node, ast.stmt)), None)
        if statement is None:
            return Place((start.row, start.row), None, 0, len(self._lines), None, None, (), ())
        call = self._call(start, end, statement)
        return Place(
            rows=_header(statement),
            loop=_loop(path),
            function=_function_row(path),
            function_end=_function_end(path) or len(self._lines),
            receiver=self._receiver(call),
            taker=self._receiver(self._taking_call(path, start)),
            arguments=tuple(ast.unparse(each) for each in call.args) if call is not None else (),
            targets=tuple(ast.unparse(target) for target in _targets(statement)),
            block=(_header(statement)[0], statement.end_lineno or statement.lineno),
            repeats=_repeats(path, statement),
        )

    def same_function(self, one: Location, other: Location) -> bool:
        """Whether names mean the same at both places."""
        return self._function(one) is self._function(other)

    def _function(self, location: Location) -> ast.AST:
        return next((node for node in reversed(self._path_to(location)) if isinstance(node, _FUNCTIONS)), self._tree)

    def _path_to(self, location: Location) -> list[ast.AST]:
        """The nodes that contain a place, the outermost first."""
        node: ast.AST = self._tree
        path = [node]
        while True:
            inner = next((child for child in ast.iter_child_nodes(node) if self._contains(child, location)), None)
            if inner is None:
                return path
            path.append(inner)
            node = inner

    def _contains(self, node: ast.AST, location: Location) -> bool:
        start, end = self._start(node), self._end(node)
        if start is None or end is None:
            # Arguments of a function, a context manager: what is inside them has places.
            return any(self._contains(child, location) for child in ast.iter_child_nodes(node))
        return start <= location < end

    def _start(self, node: ast.AST) -> Location | None:
        row = getattr(node, "lineno", None)
        if row is None:
            return None
        decorators = getattr(node, "decorator_list", None)
        if decorators:
            row = min(row, decorators[0].lineno)
            return Location(row, 1)
        return Location(row, self._column(row, getattr(node, "col_offset", 0)))

    def _end(self, node: ast.AST) -> Location | None:
        row = getattr(node, "end_lineno", None)
        return None if row is None else Location(row, self._column(row, getattr(node, "end_col_offset", 0) or 0))

    def _column(self, row: int, offset: int) -> int:
        """A column in characters, from 1; ``offset`` counts bytes of UTF-8."""
        line = self._lines[row - 1] if row <= len(self._lines) else ""
        if line.isascii():
            return offset + 1
        return len(line.encode()[:offset].decode("utf-8", "ignore")) + 1

    def _call(self, start: Location, end: Location, statement: ast.stmt) -> ast.Call | None:
        """The call that the expression is, else the one that its statement is."""
        own = [
            node
            for node in ast.walk(statement)
            if isinstance(node, ast.Call) and self._start(node) == start and self._end(node) == end
        ]
        if own:
            return own[0]
        value = getattr(statement, "value", None)
        return value if isinstance(value, ast.Call) else None

    def _taking_call(self, path: list[ast.AST], location: Location) -> ast.Call | None:
        calls = [node for node in reversed(path) if isinstance(node, ast.Call)]
        return next((call for call in calls if any(self._contains(each, location) for each in _arguments(call))), None)

    @staticmethod
    def _receiver(call: ast.Call | None) -> str | None:
        return ast.unparse(call.func.value) if call is not None and isinstance(call.func, ast.Attribute) else None


def _arguments(call: ast.Call) -> list[ast.expr]:
    return [*call.args, *(keyword.value for keyword in call.keywords)]


def _header(statement: ast.stmt) -> _Rows:
    """The rows of a statement; of a compound one those before its body."""
    last = statement.end_lineno or statement.lineno
    body = getattr(statement, "body", None)
    if isinstance(body, list) and body and isinstance(body[0], ast.stmt):
        last = max(statement.lineno, min(last, body[0].lineno - 1))
    return statement.lineno, last


def _function_row(path: list[ast.AST]) -> int:
    function = _function_around(path)
    if function is None:
        return 0
    decorators: list[ast.expr] = getattr(function, "decorator_list", [])
    return min([function.lineno, *(each.lineno for each in decorators)])


def _function_end(path: list[ast.AST]) -> int | None:
    function = _function_around(path)
    return None if function is None else function.end_lineno


def _function_around(path: list[ast.AST]) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    return next((node for node in reversed(path) if isinstance(node, functions)), None)


def _loop(path: list[ast.AST]) -> _Rows | None:
    loop = _loop_around(path)
    return None if loop is None else (loop.lineno, max(each.end_lineno or each.lineno for each in loop.body))


def _loop_around(path: list[ast.AST]) -> ast.For | ast.AsyncFor | ast.While | None:
    """The innermost loop in whose body the end of ``path`` lies, within its function."""
    inner: ast.AST | None = None
    for node in reversed(path):
        if isinstance(node, _FUNCTIONS):
            return None
        if isinstance(node, _LOOPS) and inner in node.body:
            return node
        inner = node
    return None


def _repeats(path: list[ast.AST], statement: ast.stmt) -> bool:
    """A comprehension in the statement comes back to its row as well, and is one execution all the same."""
    loop = _loop_around(path)
    if loop is None or statement.lineno != statement.end_lineno:
        return False
    rows = {row for each in loop.body for row in (each.lineno, each.end_lineno)}
    if rows != {statement.lineno}:
        return False
    # ``while True`` is not looked at again.
    return loop.lineno == statement.lineno or (isinstance(loop, ast.While) and isinstance(loop.test, ast.Constant))


def _targets(statement: ast.stmt) -> Iterator[ast.expr]:
    match statement:
        case ast.Assign(targets=targets):
            for target in targets:
                yield from target.elts if isinstance(target, (ast.Tuple, ast.List)) else (target,)
        case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
            yield target
