"""Makes nodes without layout."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any, TypeAlias

import libcst as cst

Node: TypeAlias = cst.CSTNode
Make: TypeAlias = Callable[..., Any]


class BareTree(cst.Module):
    """The tree of a file that may have no layout yet."""

    text: str
    """What the layout is to be read from."""
    is_complete: bool
    """Whether that is done."""
    functions: Mapping[int, tuple[int, int]]
    """The first and the last row of each function that is in no other one, by the numbers of their nodes."""


PARTS: dict[type[Node], tuple[str, ...]] = {
    cst.FormattedString: ("parts",),
    cst.FormattedStringExpression: ("expression", "format_spec"),
    cst.FormattedStringText: (),
}
"""The fields of each kind of node that hold more than layout; all else in a tree, operators too, counts as layout."""
MAKERS: dict[type[Node], Make] = {}


class _NoLayout(tuple[Node, ...]):
    """No parentheses and no empty lines, as nodes have them that are not laid out."""

    __slots__ = ()


NO_LAYOUT = _NoLayout()


def _maker(kind: type[Node], *parts: str) -> Make:
    """A function that makes nodes of ``kind`` from its ``parts`` and gives all other fields their defaults.

    It fills the slots of the node, which is twice as fast as the initialiser of a frozen dataclass. Defaults that are
    nodes are shared: nothing asks for them before the tree is complete.
    """
    make = MAKERS[kind] = _filler(kind, parts)
    PARTS[kind] = parts
    return make


def _filler(kind: type[Node], parts: tuple[str, ...]) -> Make:
    setters = {each.name: getattr(kind, each.name).__set__ for each in fields(kind)}
    defaults = tuple((setters[each.name], _default(each)) for each in fields(kind) if each.name not in parts)
    new = object.__new__
    if len(parts) == 1:
        set_only = setters[parts[0]]

        def make_of_one(value: object) -> Node:
            node = new(kind)
            set_only(node, value)
            for set_default, default in defaults:
                set_default(node, default)
            return node

        return make_of_one
    if len(parts) == 2:
        set_first, set_second = setters[parts[0]], setters[parts[1]]

        def make_of_two(first: object, second: object) -> Node:
            node = new(kind)
            set_first(node, first)
            set_second(node, second)
            for set_default, default in defaults:
                set_default(node, default)
            return node

        return make_of_two
    chosen = tuple(setters[part] for part in parts)

    def make(*values: object) -> Node:
        node = new(kind)
        for set_part, value in zip(chosen, values, strict=True):
            set_part(node, value)
        for set_default, default in defaults:
            set_default(node, default)
        return node

    return make


def _default(field: Field[Any]) -> object:
    default = field.default_factory() if field.default_factory is not MISSING else field.default
    return NO_LAYOUT if default == () else default


annotation = _maker(cst.Annotation, "annotation")
arg = _maker(cst.Arg, "value", "keyword", "star")
as_name = _maker(cst.AsName, "name")
assertion = _maker(cst.Assert, "test", "msg")
assign = _maker(cst.Assign, "targets", "value")
assign_target = _maker(cst.AssignTarget, "target")
ann_assign = _maker(cst.AnnAssign, "target", "annotation", "value")
attribute = _maker(cst.Attribute, "value", "attr")
aug_assign = _maker(cst.AugAssign, "target", "operator", "value")
await_ = _maker(cst.Await, "expression")
binary = _maker(cst.BinaryOperation, "left", "operator", "right")
block = _maker(cst.IndentedBlock, "body")
boolean = _maker(cst.BooleanOperation, "left", "operator", "right")
break_ = _maker(cst.Break)
call = _maker(cst.Call, "func", "args")
class_ = _maker(cst.ClassDef, "name", "body", "bases", "keywords", "decorators")
comp_for = _maker(cst.CompFor, "target", "iter", "ifs", "inner_for_in", "asynchronous")
comp_if = _maker(cst.CompIf, "test")
comparison = _maker(cst.Comparison, "left", "comparisons")
comparison_target = _maker(cst.ComparisonTarget, "operator", "comparator")
concatenated = _maker(cst.ConcatenatedString, "left", "right")
continue_ = _maker(cst.Continue)
decorator = _maker(cst.Decorator, "decorator")
del_ = _maker(cst.Del, "target")
dict_ = _maker(cst.Dict, "elements")
dict_comp = _maker(cst.DictComp, "key", "value", "for_in")
dict_element = _maker(cst.DictElement, "key", "value")
element = _maker(cst.Element, "value")
ellipsis = _maker(cst.Ellipsis)
else_ = _maker(cst.Else, "body")
except_ = _maker(cst.ExceptHandler, "body", "type", "name")
except_star = _maker(cst.ExceptStarHandler, "body", "type", "name")
expr = _maker(cst.Expr, "value")
finally_ = _maker(cst.Finally, "body")
float_ = _maker(cst.Float, "value")
for_ = _maker(cst.For, "target", "iter", "body", "orelse", "asynchronous")
from_ = _maker(cst.From, "item")
function = _maker(cst.FunctionDef, "name", "params", "body", "decorators", "returns", "asynchronous")
generator = _maker(cst.GeneratorExp, "elt", "for_in")
global_ = _maker(cst.Global, "names")
if_ = _maker(cst.If, "test", "body", "orelse")
if_exp = _maker(cst.IfExp, "test", "body", "orelse")
imaginary = _maker(cst.Imaginary, "value")
import_ = _maker(cst.Import, "names")
import_alias = _maker(cst.ImportAlias, "name", "asname")
import_from = _maker(cst.ImportFrom, "module", "names", "relative")
import_star = _maker(cst.ImportStar)
index = _maker(cst.Index, "value", "star")
integer = _maker(cst.Integer, "value")
lambda_ = _maker(cst.Lambda, "params", "body")
line = _maker(cst.SimpleStatementLine, "body")
list_ = _maker(cst.List, "elements")
list_comp = _maker(cst.ListComp, "elt", "for_in")
module = _maker(BareTree, "body")
name = _maker(cst.Name, "value")
name_item = _maker(cst.NameItem, "name")
named_expr = _maker(cst.NamedExpr, "target", "value")
nonlocal_ = _maker(cst.Nonlocal, "names")
param = _maker(cst.Param, "name", "annotation", "default", "star")
parameters = _maker(
    cst.Parameters, "params", "star_arg", "kwonly_params", "star_kwarg", "posonly_params", "posonly_ind"
)
pass_ = _maker(cst.Pass)
raise_ = _maker(cst.Raise, "exc", "cause")
return_ = _maker(cst.Return, "value")
set_ = _maker(cst.Set, "elements")
set_comp = _maker(cst.SetComp, "elt", "for_in")
slice_ = _maker(cst.Slice, "lower", "upper", "step")
starred_dict_element = _maker(cst.StarredDictElement, "value")
starred_element = _maker(cst.StarredElement, "value")
string = _maker(cst.SimpleString, "value")
subscript = _maker(cst.Subscript, "value", "slice")
subscript_element = _maker(cst.SubscriptElement, "slice")
suite = _maker(cst.SimpleStatementSuite, "body")
try_ = _maker(cst.Try, "body", "handlers", "orelse", "finalbody")
try_star = _maker(cst.TryStar, "body", "handlers", "orelse", "finalbody")
tuple_ = _maker(cst.Tuple, "elements")
unary = _maker(cst.UnaryOperation, "operator", "expression")
while_ = _maker(cst.While, "test", "body", "orelse")
with_ = _maker(cst.With, "items", "body", "asynchronous")
with_item = _maker(cst.WithItem, "item", "asname")
yield_ = _maker(cst.Yield, "value")

# What an f-string consists of counts as its layout, but for the expressions.
formatted = _filler(cst.FormattedString, ("parts", "start", "end"))
formatted_expression = _filler(cst.FormattedStringExpression, ("expression", "conversion", "format_spec"))
formatted_text = _filler(cst.FormattedStringText, ("value",))

ASYNCHRONOUS = cst.Asynchronous()
NO_PARAMETER = cst.MaybeSentinel.DEFAULT
BARE_STAR, SLASH, DOT = cst.ParamStar(), cst.ParamSlash(), cst.Dot()

BINARY: dict[type[ast.operator], tuple[cst.BaseBinaryOp, cst.BaseAugOp]] = {
    ast.Add: (cst.Add(), cst.AddAssign()),
    ast.Sub: (cst.Subtract(), cst.SubtractAssign()),
    ast.Mult: (cst.Multiply(), cst.MultiplyAssign()),
    ast.MatMult: (cst.MatrixMultiply(), cst.MatrixMultiplyAssign()),
    ast.Div: (cst.Divide(), cst.DivideAssign()),
    ast.Mod: (cst.Modulo(), cst.ModuloAssign()),
    ast.Pow: (cst.Power(), cst.PowerAssign()),
    ast.LShift: (cst.LeftShift(), cst.LeftShiftAssign()),
    ast.RShift: (cst.RightShift(), cst.RightShiftAssign()),
    ast.BitOr: (cst.BitOr(), cst.BitOrAssign()),
    ast.BitXor: (cst.BitXor(), cst.BitXorAssign()),
    ast.BitAnd: (cst.BitAnd(), cst.BitAndAssign()),
    ast.FloorDiv: (cst.FloorDivide(), cst.FloorDivideAssign()),
}
UNARY: dict[type[ast.unaryop], cst.BaseUnaryOp] = {
    ast.Not: cst.Not(),
    ast.USub: cst.Minus(),
    ast.UAdd: cst.Plus(),
    ast.Invert: cst.BitInvert(),
}
BOOLEAN: dict[type[ast.boolop], cst.BaseBooleanOp] = {ast.And: cst.And(), ast.Or: cst.Or()}
COMPARE: dict[type[ast.cmpop], cst.BaseCompOp] = {
    ast.Eq: cst.Equal(),
    ast.NotEq: cst.NotEqual(),
    ast.Lt: cst.LessThan(),
    ast.LtE: cst.LessThanEqual(),
    ast.Gt: cst.GreaterThan(),
    ast.GtE: cst.GreaterThanEqual(),
    ast.Is: cst.Is(),
    ast.IsNot: cst.IsNot(),
    ast.In: cst.In(),
    ast.NotIn: cst.NotIn(),
}
KEYWORDS = {None: "None", True: "True", False: "False"}
