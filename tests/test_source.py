from __future__ import annotations

import ast
import codecs
import subprocess
import sys
from pathlib import Path

import libcst
import pytest
from libcst.metadata import MetadataWrapper, ParentNodeProvider, PositionProvider

from memlint.bare_trees.layout import is_incomplete, is_part
from memlint.diagnostics import Edit, Location
from memlint.parsing import complete, read
from memlint.source import Source, SourceError


def source_of(text: str) -> Source:
    source = Source(text)
    source.attach(libcst.parse_module(text))
    return source


def name(source: Source, value: str) -> libcst.Name:
    """The first mention of a name."""
    found: list[libcst.Name] = []

    class Finder(libcst.CSTVisitor):
        def visit_Name(self, node: libcst.Name) -> None:  # noqa: N802 - libcst's name for it
            if node.value == value:
                found.append(node)

    source.tree.visit(Finder())
    return found[0]


# Bytes to text and back


@pytest.mark.parametrize(
    ("data", "text"),
    [
        pytest.param(b"", "", id="empty"),
        pytest.param("x = 'é'\n".encode(), "x = 'é'\n", id="utf-8"),
        pytest.param(codecs.BOM_UTF8 + b"x = 1\n", "x = 1\n", id="byte-order-mark"),
        pytest.param("# -*- coding: latin-1 -*-\nx = 'é'\n".encode("latin-1"), None, id="latin-1"),
        pytest.param("#!/bin/python\n# vim: set fileencoding=cp1251 :\nx = 'ж'\n".encode("cp1251"), None, id="row-2"),
        pytest.param("# coding: utf-8\r# é\rx = 1\r".encode(), None, id="declared-before-a-lone-cr"),
        pytest.param("# coding: euc-jp\nx = '日本'\n".encode("euc-jp"), None, id="multi-byte"),
        pytest.param("# -*- coding: future_fstrings -*-\nx = f'é'\n".encode(), None, id="rewritten-by-its-codec"),
        pytest.param(b"a\r\nb\n\rc\x0cd\r", "a\r\nb\n\rc\x0cd\r", id="mixed-newlines"),
    ],
)
def test_decoding_keeps_every_byte(data: bytes, text: str | None) -> None:
    source = Source.decode(data)
    assert text is None or source.text == text
    assert source.encode(source.text) == data
    assert source.encode(source.text + "y") == data + b"y"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"x = 1\ny = '\xff'\n", r"^not valid UTF-8 at byte 11 \(row 2\)$", id="not-utf-8"),
        pytest.param(b"# coding: ascii\nx = '\xe9'\n", "^not valid (us-)?ascii at byte 21", id="not-as-declared"),
        pytest.param(b"# coding: klingon\n", "^declares an unknown encoding: klingon$", id="unknown-encoding"),
        pytest.param(b"# coding: hex\n", "^declares hex, which is not a text encoding$", id="no-text-encoding"),
        pytest.param(codecs.BOM_UTF8 + b"# coding: latin-1\n", "^declares an encoding problem", id="bom-and-cookie"),
        pytest.param(b"x = 1\0\n", r"^contains NUL bytes \(the first at byte 5\)$", id="nul"),
        pytest.param("x = 1\n".encode("utf-16"), "^is UTF-16", id="utf-16"),
    ],
)
def test_bytes_that_are_no_text(data: bytes, reason: str) -> None:
    with pytest.raises(SourceError, match=reason) as caught:
        Source.decode(data)
    assert "\n" not in str(caught.value)


def test_text_that_the_encoding_lacks() -> None:
    source = Source.decode(b"# coding: latin-1\n")
    with pytest.raises(SourceError, match="cannot express"):
        source.encode("# coding: latin-1\nx = 'ж'\n")


def test_an_encoding_that_would_change_other_bytes() -> None:
    # UTF-7 can write an ampersand in two ways; only one comes back.
    source = Source.decode(b"# coding: utf-7\nx = '+ACY-'\n")
    with pytest.raises(SourceError, match="other bytes"):
        source.encode(source.text)


# Places


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a\nb\nhere\n", id="lf"),
        pytest.param("a\r\nb\r\nhere\r\n", id="crlf"),
        pytest.param("a\rb\rhere\r", id="lone-cr"),
        pytest.param("a\r\nb\n\rc; here\r", id="mixed-newlines"),
        pytest.param("a\n\x0c\nb; here\n", id="form-feed-row"),
        pytest.param("\x0ca; here\n", id="form-feed-at-the-start"),
        pytest.param("if x:\n    a\n\x0c    here\n", id="form-feed-before-indentation"),
        pytest.param("if x:\n    a\n  \x0c    here\n", id="form-feed-inside-indentation"),
        pytest.param("a; \x0chere\n", id="form-feed-between"),
        pytest.param("if x:\n\ta\n\there\n", id="tabs"),
        pytest.param("\\\nhere\n", id="continuation-before-a-statement"),
        pytest.param("if x:\n    a\n    \\\n  here\n", id="continuation-before-an-indented-statement"),
        pytest.param("a = 1 + \\\r\n  here\r\n", id="continuation"),
        pytest.param("x = '''\r\nq\x0c\r'''; here\r\n", id="newlines-in-a-string"),
        pytest.param("here", id="no-final-newline"),
        pytest.param("a\n\nhere\n\n   ", id="space-at-the-end"),
        pytest.param("f(a, # é\n  here)\n", id="brackets"),
        pytest.param("x = '\u2028\x85\x1c'; here\n", id="separators-that-end-no-row"),
    ],
)
def test_rows_and_columns_are_pythons(text: str) -> None:
    source = source_of(text)
    expected = next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name) and node.id == "here")
    column = _characters(text, expected)
    assert source.location(name(source, "here")) == Location(expected.lineno, column + 1)
    assert source.end_location(name(source, "here")) == Location(expected.lineno, column + 5)
    assert source.code(name(source, "here")) == "here"


def _characters(text: str, node: ast.Name) -> int:
    """The column of a node of ``ast``, which counts bytes."""
    row = Source(text).row_starts[node.lineno - 1]
    return len(text[row:].encode()[: node.col_offset].decode())


def test_rows_and_columns_are_flake8s(tmp_path: Path) -> None:
    text = "x = '\x0c\u2028'\n\x0c\nif x:\r\n    y = undefined\n"
    (tmp_path / "x.py").write_bytes(text.encode())
    command = [sys.executable, "-m", "flake8", "--isolated", "--select=F821", "--format=%(row)d:%(col)d", "x.py"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False).stdout
    source = source_of(text)
    assert source.location(name(source, "undefined")) == Location(*map(int, found.split(":"))) == Location(4, 9)


ZOO = '''\
# head
"""Doc."""
from __future__ import annotations
import a.b as c, d; from .. import (e, f as g,)
@decorator(1)  # why

@other
async def f(a, /, b: int = 1, *args: str, c, d=(2), **kw) -> None:
    global x; nonlocal_ = await g(*args, **kw)
    async with a as (b), c: pass
    async for i, *j in [k async for k in l if m]: yield i
    else: return (yield from z)
    # foot

class A(B, metaclass=M):
    x: int = lambda y, *z: (y if not z else -z)
    def g(self): ...
while True:
    try:
        raise E from (e)
    except* (A, B) as error: break
    else:
        continue
    finally: del a[1:2, ..., ::3], b.c
if (n := 10) > 5 >= -1 in z is not None: assert x, "message"
elif a: pass
else:
    with (open("x") as f, g() as h,): x += 1; y @= 2
match [a, *rest]:
    case {"k": v, **r} if v: pass
    case A(1, x=(2 | 3)) | None as q: pass
x = {**a, 1: 2}, {3, *b}, {k: v for k, v in w}, f"{a!r:>{b}} {{}} {c=}" "joined" 's', not a or b and c
type_ = a[b][c](d)(e).f ** -g if h else (  # comment
    i
)
'''


@pytest.mark.parametrize("text", [ZOO, Path(__file__).read_text(encoding="utf-8")], ids=["zoo", "this-file"])
def test_places_and_parents_are_libcsts(text: str) -> None:
    source = source_of(text)
    wrapper = MetadataWrapper(source.tree, unsafe_skip_copy=True)
    parents = wrapper.resolve(ParentNodeProvider)
    for node, place in wrapper.resolve(PositionProvider).items():
        start, end = source.location(node), source.end_location(node)
        assert (start.row, start.column - 1) == (place.start.line, place.start.column), node
        assert (end.row, end.column - 1) == (place.end.line, place.end.column), node
        assert source.parent(node) is parents.get(node)


FUNCTIONS = '''\
# head
x = """a
b"""
@decorator(1)  # why

@other
async def f(a, /, b: int = 1, *args: str, c, d=(2), **kw) -> None:
    global x; y = await g(*args,
                          **kw)
    return f"""{a}
    {b}"""
    # foot

class A(B):
    # about
    @staticmethod
    def g(self):
        """Doc.

        More."""
        def inner(): return (a \\
            + b)  # end
        try: return inner
        finally: pass
    async def h(self, x=lambda: (1)): pass ; return 2

    if a:
        def i(self): ...
def last(): pass'''


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("text", [FUNCTIONS, Path(__file__).read_text(encoding="utf-8")], ids=["zoo", "this-file"])
def test_places_in_a_function_are_those_in_the_whole_tree(text: str, newline: str) -> None:
    text = text.replace("\n", newline)
    source = Source(text)
    source.attach(read(text))
    functions = [node for node in parts(source.tree) if isinstance(node, libcst.FunctionDef)]
    before = {function: said_of(source, function) for function in functions}
    assert is_incomplete(source.tree), "one function was enough"
    complete(source.tree)
    source.attach(source.tree)
    for function in functions:
        assert said_of(source, function) == before[function], function.name.value


def parts(node: libcst.CSTNode) -> list[libcst.CSTNode]:
    """``node`` and the nodes in it that are more than layout."""
    return [*([node] if is_part(node) else []), *(each for child in node.children for each in parts(child))]


def said_of(source: Source, function: libcst.FunctionDef) -> list[object]:
    """Everything that a source says of what stands in ``function``."""
    start, end = source.span(function)
    rows = range(source.place(start).row, source.place(end).row + 1)
    of_nodes = [
        (source.outer_span(node), source.code(node), source.parent(node), source.indentation(node), node in source)
        for node in parts(function)
    ]
    of_rows = [(source.noqa_row(row), source.inside_string(row)) for row in rows]
    return [of_nodes, of_rows, [source.has_comment(at, end) for at in range(start, end)]]


def test_offsets_and_places_are_inverse() -> None:
    source = Source("a\r\n\x0cb\rc\n\nd")
    for offset in range(len(source.text) + 1):
        if source.text[offset - 1 : offset + 1] != "\r\n":  # between the two is no place of its own
            assert source.offset(source.place(offset)) == offset


def test_places_outside_the_text_are_its_borders() -> None:
    source = Source("ab\r\nc")
    assert source.offset(Location(1, 99)) == 2
    assert source.offset(Location(9, 1)) == 5


def test_only_notebooks_have_cells() -> None:
    with pytest.raises(ValueError, match="cells"):
        Source("a").offset(Location(1, 1), cell=1)


def test_code_has_the_expressions_own_parentheses() -> None:
    source = source_of("x = (a\n  + b)\n")
    statement = source.statement(name(source, "a"))
    assert isinstance(statement, libcst.Assign)
    assert source.code(statement.value) == "(a\n  + b)"
    assert source.location(statement.value) == Location(1, 6)


def test_the_innermost_statement() -> None:
    source = source_of("if a:\n    for b in c:\n        d; e\n")
    assert source.code(source.statement(name(source, "e"))) == "e"
    assert isinstance(source.statement(name(source, "b")), libcst.For)
    assert isinstance(source.statement(name(source, "a")), libcst.If)
    with pytest.raises(ValueError, match="in no statement"):
        source.statement(source.tree)


def test_indentation_is_that_of_the_row() -> None:
    source = source_of("if a:\n\x0c  b; c\n")
    assert source.indentation(name(source, "c")) == "  "
    assert source.indentation(name(source, "a")) == ""


def test_edits_say_places() -> None:
    assert Source("a\nbc").edit(3, 4, "x") == Edit(Location(2, 2), Location(2, 3), "x")


@pytest.mark.parametrize(
    ("text", "offset", "newline"), [("a\r\nb\nc", 0, "\r\n"), ("a\r\nb\nc", 3, "\n"), ("a\rb", 2, "\r"), ("a", 0, "\n")]
)
def test_the_newline_to_write_is_that_of_the_row(text: str, offset: int, newline: str) -> None:
    assert Source(text).newline(offset) == newline


# Suppression


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        pytest.param("a\nb\n", {1: 1, 2: 2}, id="rows-of-their-own"),
        pytest.param("f('''\nx\n''')  # noqa\nb\n", {1: 3, 2: 3, 3: 3, 4: 4}, id="string"),
        pytest.param("f(\n  a,\n)\n", {1: 1, 2: 2, 3: 3}, id="brackets"),
        pytest.param("a = \\\n  b\nc\n", {1: 2, 2: 2, 3: 3}, id="continuation"),
        pytest.param("a = '''\n''' + '''\n''' + \\\n b\nc\n", {1: 4, 2: 4, 3: 4, 4: 4, 5: 5}, id="chain"),
        pytest.param("f(f'''\n{x}\n''',\n  a)\n", {1: 3, 3: 3, 4: 4}, id="formatted-string"),
        pytest.param("f(a, \\\n  b,\n  c)\n", {1: 2, 2: 2, 3: 3}, id="continuation-in-brackets"),
    ],
)
def test_the_row_that_a_noqa_speaks_about(text: str, rows: dict[int, int]) -> None:
    source = source_of(text)
    assert {row: source.noqa_row(row) for row in rows} == rows
