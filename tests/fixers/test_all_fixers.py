"""What holds for every fixer, on programs that nobody wrote with it in mind."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path

import libcst
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import memlint.fixers
from memlint.diagnostics import Edit
from memlint.edits import Replacement, applied, merged
from memlint.findings import Applicability, CannotFix, Fix
from memlint.source import Source
from tests.fixers.conftest import in_bare_tree, repaired, walk

EXPRESSION = (libcst.Name, libcst.Attribute, libcst.Call, libcst.BinaryOperation, libcst.Comparison, libcst.IfExp)
STATEMENT = (libcst.BaseSmallStatement, libcst.For, libcst.While, libcst.If, libcst.With, libcst.FunctionDef)
REQUESTS: Mapping[str, tuple[Mapping[str, tuple[type[libcst.CSTNode], ...]], Mapping[str, str]]] = {
    "accumulate_gradients": (
        {
            "loop": (libcst.For,),
            "call": (libcst.Call,),
            "step": STATEMENT,
            "clear": STATEMENT,
            "batch": (libcst.Integer,),
        },
        {"steps": "2", "batch": "3"},
    ),
    "add_argument": ({"call": (libcst.Call,)}, {"code": "new=1"}),
    "add_decorator": ({"function": (libcst.FunctionDef,)}, {"code": "new()"}),
    "backward_in_loop": ({"expression": EXPRESSION, "call": (libcst.Call,)}, {"name": "new", "total": "loss"}),
    "call_method": ({"expression": EXPRESSION}, {"method": "new"}),
    "drop_attribute": ({"attribute": (libcst.Attribute,)}, {}),
    "call_parentheses": ({"expression": EXPRESSION}, {}),
    "hoist_from_handler": ({"statement": STATEMENT}, {"name": "new"}),
    "insert_at_end": ({"function": (libcst.FunctionDef,)}, {"code": "new()", "import": "new"}),
    "insert_statement": ({"statement": STATEMENT}, {"code": "new()", "where": "after"}),
    "move_statement": ({"statement": STATEMENT, "anchor": STATEMENT}, {}),
    "remove_argument": ({"argument": (libcst.Arg,)}, {}),
    "remove_statement": ({"statement": STATEMENT}, {}),
    "replace_expression": ({"expression": EXPRESSION}, {"code": "new if new else new", "import": "new"}),
    "save_for_backward": (
        {"statement": (libcst.Assign,), "backward": (libcst.FunctionDef,), "reads": (libcst.Attribute,)},
        {"name": "new"},
    ),
    "with_rest_of_block": ({"statement": (libcst.Expr,)}, {}),
    "wrap_in_with": ({"statement": STATEMENT}, {"code": "new()"}),
}
"""For each fixer, the kinds of nodes that are its targets, and options."""

PIECES = (
    "total = 0.0  # sum\n",
    "for x, y in loader: loss = model(x); total += loss\n",
    "for x, y in loader:\n    optimizer.zero_grad()\n\n    # forward\n    loss = model(x)\n    loss.backward()\n",
    "def f(model, a=(1, 2), *, k=3):\n    '''Doc.'''\n    model.eval; torch.no_grad()\n    return [g(x) for x in a]\n",
    "@decorated\nasync def f():\n    async with a as b, c:\n        await g(x, *y, k=1, **z)\n    return b\n",
    "class A(B):\n    x = 1\n\n    def __init__(self): super().__init__()\n    # end\n",
    "log(f'''{x}\n  text\n''', 'a'\n    'b',\n  c)\n",
    "torch.load(\n    path,  # where\n    weights_only=True,\n)\n",
    "try:\n    a = b if c else d\nexcept E as e:\n    raise\nelse:\n    del a[0], b.c\nfinally: pass\n",
    "if (a\n        and b): f(x for x in y)\nelif c:\n    g(lambda t: t + 1)\nelse: h(not x, -y ** 2)\n",
    "with open(p) as f: data = f.read(); print(data);\n",
    "x = a \\\n    + b[1:2] * (c)\n",
    "while True:\n\tif x > 1: break\n\ty = (z :=\n\t\t3)\n",
    "\x0c\nmatch x:\n    case [1, *_]: f()\n    case {'a': b}:\n        pass\n",
)


@st.composite
def programs(draw: st.DrawFn) -> str:
    """Pieces of training code in any order, at any depth, with any newline."""
    pieces = draw(st.lists(st.sampled_from(PIECES), min_size=1, max_size=4))
    text = "".join(pieces)
    if draw(st.booleans()):
        rows = text.split("\n")
        text = "def outer():\n" + "\n".join(f"    {row}" if row.strip() else row for row in rows)
    if draw(st.booleans()):
        text = text.rstrip("\n")
    text = text.replace("\n", draw(st.sampled_from(["\n", "\r\n"])))
    try:
        libcst.parse_module(text)
    except libcst.ParserSyntaxError:
        assume(False)  # a string of several rows has been indented apart
    return text


def replacements(source: Source, edits: list[Edit]) -> list[Replacement]:
    return [Replacement(source.offset(e.location), source.offset(e.end_location), e.content) for e in merged(edits)]


def test_every_fixer_is_tested_here() -> None:
    names = {entry.name for entry in pkgutil.iter_modules(memlint.fixers.__path__)}
    assert {name for name in names if not name.startswith("_")} == set(REQUESTS)


@pytest.mark.parametrize("fixer", REQUESTS)
def test_every_fixer_says_what_it_takes(fixer: str) -> None:
    module = importlib.import_module(f"memlint.fixers.{fixer}")
    targets, options = REQUESTS[fixer]
    for name in (*targets, *options):
        assert f"    {name}: " in (module.__doc__ or ""), name
    with pytest.raises(ValueError, match=f"{fixer} knows no option 'nonsense'"):
        module.edits(Fix(fixer, "", Applicability.SAFE, {}, {"nonsense": True}), Source(""))
    with pytest.raises(ValueError, match=f"{fixer} needs the target"):
        module.edits(Fix(fixer, "", Applicability.SAFE, {}, dict(options)), Source(""))


def _edits(
    fixer: str, source: Source, targets: Mapping[str, libcst.CSTNode], options: Mapping[str, str]
) -> list[Edit] | None:
    """What the fixer does; None if it cannot."""
    try:
        return importlib.import_module(f"memlint.fixers.{fixer}").edits(  # type: ignore[no-any-return]
            Fix(fixer, "", Applicability.SAFE, targets, options), source
        )
    except CannotFix:
        return None


@pytest.mark.parametrize("fixer", REQUESTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(text=programs(), data=st.data())
def test_the_result_parses_and_the_rest_of_the_file_stays(fixer: str, text: str, data: st.DataObject) -> None:
    source = Source(text)
    source.attach(libcst.parse_module(text))
    kinds, options = REQUESTS[fixer]
    targets = {}
    for name, types in kinds.items():
        nodes = [node for node in walk(source.tree) if isinstance(node, types) and applies(source, node)]
        assume(nodes)
        targets[name] = data.draw(st.sampled_from(nodes), label=name)
    edits = _edits(fixer, source, targets, options)
    assert _edits(fixer, *in_bare_tree(source, targets), options) == edits
    if edits is None:
        return
    changes = replacements(source, edits)
    after = applied(text, changes)
    libcst.parse_module(after)
    for comment in comments(source.tree):
        if fixer not in ("remove_statement", "remove_argument"):
            assert after.count(comment) >= text.count(comment), comment
    newline = "\r\n" if "\r\n" in text else "\n"
    assert "".join(content for _, _, content in changes).replace(newline, "").count("\n") == 0


def applies(source: Source, node: libcst.CSTNode) -> bool:
    """Whether a rule could ask for this node: an expression that is evaluated, an argument of a call."""
    if isinstance(node, libcst.Arg):
        return isinstance(source.parent(node), libcst.Call)
    if isinstance(node, libcst.BaseExpression):
        return evaluated(source, node)
    return True


def evaluated(source: Source, node: libcst.BaseExpression) -> bool:
    match source.parent(node):
        case libcst.Arg(value=value) | libcst.Return(value=value) | libcst.Assign(value=value):
            return value is node
        case libcst.Expr() | libcst.BinaryOperation() | libcst.IfExp() | libcst.UnaryOperation() | libcst.Index():
            return True
    return False


def comments(tree: libcst.Module) -> set[str]:
    return {node.value for node in walk(tree) if isinstance(node, libcst.Comment)}


@pytest.mark.parametrize("newline", ["\r\n", "\r", "\n"])
def test_insertions_end_rows_as_their_neighbours_do(newline: str) -> None:
    text = newline.join(["if x:", "    a()", "b()", ""])
    after = repaired("insert_statement", text, {"statement": "a()"}, code="c()")
    assert after == newline.join(["if x:", "    a()", "    c()", "b()", ""])


def test_this_folder_tests_each_fixer() -> None:
    tested = {path.stem.removeprefix("test_") for path in Path(__file__).parent.glob("test_*.py")}
    assert set(REQUESTS) <= tested
