"""Trees without layout: completed, they are the trees that libcst makes."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import libcst
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memlint.bare_trees.building import NoBareTree, bare_tree
from memlint.bare_trees.layout import LayoutError, is_bare, lay_out, parents, spelling
from memlint.parsing import complete, complete_around, read
from memlint.source import Source

SMALL = [
    "x = 1",
    "x = y = (1_000, 0x1F, 1.5e3, 2j)",
    "x: int",
    "x: 'int' = (yield)",
    "x += (a)",
    "del a, b[0]",
    "assert a, 'why'",
    "raise",
    "raise ValueError('x') from error",
    "return",
    "import a.b.c as d, e",
    "from . import (a as b, c,)",
    "from ...a.b import *",
    "pass",
    "global a, b",
    "f(a, *b, c=1, **d)",
    "f(c=1, *b, **d)",
    "f((a for a in b))",
    "f(a for a in b if a if not a)",
    "a[1], a[(1, 2)], a[(1), (2)], a[1:2, ..., ::3], a[()], a[b:=1]",
    "a = [*b, c], {*b, c}, {**b, 'c': c}, (*b,), ()",
    "a = {k: v async for k, v in b for c in d}, {x for x in y}, [[x for x in y] for z in w]",
    "a < b <= c != d is not e not in f",
    "a and b and (c or d) or not e",
    "-a ** ~b @ c // d % e << f >> g & h ^ i | j",
    "x = a if b else c if d else e",
    "lambda: 0",
    "lambda a, /, b=1, *c, d, e=2, **f: (a, b)",
    "print(None, True, False, ..., b'x', rb'\\x')",
    "x = 'a' \"b\" r'c' f'{d!r:>{width}} {{}}'",
    "x = ('a'  # first\n     'b')",
    "x = '''a\n\n  b''' + \"\\\"'\"",
    "x = f'{a}' if a else f\"{a['b']}\"",
    "x = f'' rf'{a.b(c)!r:>10}\\d' '{a}' fR\"{{{a}}}{b}\"",
    "x = f'\\N{DIGIT ONE}{a}' f'{{a}}{ b }{c=}{1}{f(2)}'",
    "(yield from a)",
    "await a",
    "é = 'é', a['é', 1], 'ü' 'ä'",
]
COMPOUND = [
    "if a: pass",
    "if a:\n    b\nelif c:\n    d\nelse:\n    if e:\n        f\n",
    "if a: b; c\nelse: d",
    "for a, *b in c, d:\n    break\nelse:\n    continue\n",
    "while (a):\n    pass\n",
    "with a as b, c:\n    pass\n",
    "with (\n    a as b,\n    c,\n):\n    pass\n",
    "try:\n    a\nexcept (B, C) as d:\n    pass\nexcept:\n    raise\nelse:\n    e\nfinally:\n    f\n",
    "@a.b(c)\n@d\ndef f(a: int, /, b: 'x' = 1, *, c) -> None: ...\n",
    "def f(*args: int, key=(), **kwargs):\n    '''Doc.'''\n    nonlocal x\n",
    "async def f():\n    async with a: pass\n    async for b in c: pass\n",
    "class A(B, *C, metaclass=M, **K):\n    x = 1; y = 2;\n    # end\n",
    "@a\nclass A: pass\n",
    "def f():\n\tif a:\n\t\treturn (\n  b)\n\t# c\n\n\treturn\n",
]
PROGRAMS = [*SMALL, *COMPOUND, "", "# nothing\n", "\n\n", "a;", "a; b ; \\\n  c\n", "a = 1 \\\n    + 2\n", "\fa = 1\n"]


def completed(text: str) -> libcst.Module:
    """The tree of ``text`` that was bare first. Nodes must not change by becoming complete."""
    tree = bare_tree(text)
    before = list(map(id, tree.body))
    full = libcst.parse_module(text)
    assert (tree.default_indent, tree.default_newline) == (full.default_indent, full.default_newline)
    lay_out(tree, full)
    assert list(map(id, tree.body)) == before
    return tree


def expect_same(text: str) -> None:
    """Expects what libcst makes of ``text``, and every place in it."""
    tree, full = completed(text), libcst.parse_module(text)
    assert tree.code == full.code
    assert len(tree.body) == len(full.body)
    assert all(mine.deep_equals(theirs) for mine, theirs in zip(tree.body, full.body, strict=True))


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("text", PROGRAMS)
def test_completed_it_is_what_libcst_makes(text: str, newline: str) -> None:
    expect_same(text.replace("\n", newline))


@pytest.mark.parametrize("text", ["match a:\n    case 1: pass\n", "if a: \\\n    b\n", "a = = b", "print 'a'"])
def test_what_python_refuses_or_is_left_to_libcst_has_none(text: str) -> None:
    with pytest.raises(NoBareTree):
        bare_tree(text)


def _indented(text: str) -> str:
    return "".join(f"    {row}\n" for row in text.splitlines())


small = st.lists(st.sampled_from([each for each in SMALL if "\n" not in each]), min_size=1, max_size=3)
lines = st.builds(lambda parts, glue, end: glue.join(parts) + end, small, st.sampled_from(["; ", ";", " ; \\\n  "]),
                  st.sampled_from(["\n", ";\n", "  # a; b\n", " ;# c\n"]))  # fmt: skip
headers = st.sampled_from(["if a:", "while b :", "for x in y:  # z", "with a as b:", "def f(x):", "class A:", "else:"])


def _block(header: str, body: list[str]) -> str:
    before = "if q:\n    pass\n" if header.startswith("else") else ""
    return f"{before}{header}\n" + "".join(map(_indented, body))


blocks = st.recursive(lines, lambda inner: st.builds(_block, headers, st.lists(inner, min_size=1, max_size=3)))


@settings(deadline=None, max_examples=150)
@given(st.lists(blocks, max_size=4), st.sampled_from(["", "\n", "# comment\n"]))
def test_programs_of_such_parts(parts: list[str], between: str) -> None:
    text = between.join(parts)
    try:
        bare_tree(text)
    except NoBareTree:
        return
    expect_same(text)


def _real_files() -> list[Path]:
    library = Path(sysconfig.get_paths()["stdlib"])
    tests = Path(__file__).parent
    return [*sorted(library.glob("*.py"))[::12], *sorted(tests.rglob("*.py"))[::12], *tests.parent.glob("memlint/*.py")]


def test_real_programs() -> None:
    seen = 0
    for path in _real_files():
        text = Source.decode(path.read_bytes()).text
        try:
            tree = bare_tree(text)
        except NoBareTree:
            continue
        lay_out(tree, libcst.parse_module(text))
        assert tree.code == text, path
        seen += 1
    assert seen > 50


def test_a_tree_of_another_text_is_refused() -> None:
    with pytest.raises(LayoutError):
        lay_out(bare_tree("a = b\n"), libcst.parse_module("a = b()\n"))
    with pytest.raises(LayoutError):
        lay_out(bare_tree("f(a)\n"), libcst.parse_module("f(a, b)\n"))


def test_a_node_completes_the_tree_that_it_stands_in() -> None:
    trees = [read("x = (a  + b)\n"), read("y = (c  + d)\n")]
    statement = trees[1].body[0]
    assert is_bare(statement)
    assert id(statement) in parents(trees[1])
    assert id(statement) not in parents(trees[0])
    complete_around(statement)
    assert trees[1].code == "y = (c  + d)\n"
    assert not is_bare(statement)
    assert is_bare(trees[0].body[0])
    complete(trees[0])
    assert trees[0].code == "x = (a  + b)\n"


def test_a_node_in_a_function_completes_that() -> None:
    tree = read("x = (a  + b)\nclass A:\n  def f(self):  # why\n    return  1\n  def g(self): return  2\n")
    _, cls = tree.body
    first, second = cls.body.body  # type: ignore[union-attr]
    complete_around(first.body.body[0])  # type: ignore[union-attr]
    assert not is_bare(first)
    assert libcst.Module((), default_indent="  ").code_for_node(first) == "def f(self):  # why\n  return  1\n"
    assert is_bare(second)
    assert is_bare(tree.body[0])
    complete(tree)
    assert tree.code == "x = (a  + b)\nclass A:\n  def f(self):  # why\n    return  1\n  def g(self): return  2\n"


def test_a_changed_copy_is_not_shown_without_its_layout() -> None:
    tree = read("x = f((a + b) * c)\n")
    call = tree.body[0].body[0].value  # type: ignore[index, union-attr]
    copy = call.with_changes(func=libcst.Name("g"))
    with pytest.raises(ValueError, match="in no tree"):
        complete_around(copy)
    assert tree.code == "x = f(a + b * c)\n"
    complete(tree)
    assert libcst.Module(()).code_for_node(call.with_changes(func=libcst.Name("g"))) == "g((a + b) * c)"


def test_a_formatted_string_is_shown_as_it_stands() -> None:
    tree = read("x = (f'{a}'  f'b')\n")
    string = tree.body[0].body[0].value  # type: ignore[index, union-attr]
    complete_around(string)
    assert tree.code == "x = (f'{a}'  f'b')\n"


@pytest.mark.parametrize(
    "text",
    ["f'{a}'", "f'a{{ {b.c(d)!r:>10} }}'", "'{a}' f'''{a}\n{b}''' rf\"\\d\"", "f'{{a}}' f'\\N{DIGIT ONE}{a}{b[1]}'"],
)
def test_a_formatted_string_says_what_stands_in_it_before_it_is_completed(text: str) -> None:
    (line,) = bare_tree(text).body
    assert spelling(line).replace(" ", "") == f"{text}\n".replace(" ", "")


def test_what_a_node_says_does_not_hang_on_its_layout() -> None:
    text = "f( a,b [ 1 : ],c = - 1 )\n"
    before, after = read(text), completed(text)
    assert spelling(before.body[0]) == spelling(after.body[0]) == "f(a, b[1:], c = -1)\n"


def test_places_are_those_of_the_text() -> None:
    text = "if a:\n    b = (c\n         + d)  # e\n"
    source = Source(text)
    source.attach(read(text))
    inner = source.tree.body[0].body.body[0].body[0]  # type: ignore[union-attr]
    assert source.code(inner.value) == "(c\n         + d)"
    assert source.location(inner) == source.place(text.index("b ="))
