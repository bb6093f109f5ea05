"""The value of each kind of expression."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import libcst as cst

from memlint.model.lowering.targets import Targets
from memlint.model.scopes import Function
from memlint.model.values import (
    Argument,
    Awaited,
    Binary,
    Call,
    Choice,
    Comparison,
    Comprehension,
    Constant,
    Display,
    Element,
    Exit,
    External,
    Formatted,
    FunctionValue,
    Loop,
    Narrowed,
    Opaque,
    Unary,
    Value,
)

_MAX_PLAIN_DIGITS = 100
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "\n": ""}
"""What the usual escapes stand for."""
_TOLD_APART = (".Tensor", ".Module", ".PreTrainedModel")
"""Endings of classes whose instances a failed ``isinstance`` shows a value not to be."""
_BINARY: dict[type, str] = {
    cst.Add: "+",
    cst.Subtract: "-",
    cst.Multiply: "*",
    cst.Divide: "/",
    cst.FloorDivide: "//",
    cst.Modulo: "%",
    cst.Power: "**",
    cst.MatrixMultiply: "@",
    cst.BitAnd: "&",
    cst.BitOr: "|",
    cst.BitXor: "^",
    cst.LeftShift: "<<",
    cst.RightShift: ">>",
}
_UNARY: dict[type, str] = {cst.Minus: "-", cst.Plus: "+", cst.BitInvert: "~", cst.Not: "not"}
_COMPARISON: dict[type, str] = {
    cst.Equal: "==",
    cst.NotEqual: "!=",
    cst.LessThan: "<",
    cst.LessThanEqual: "<=",
    cst.GreaterThan: ">",
    cst.GreaterThanEqual: ">=",
    cst.Is: "is",
    cst.IsNot: "is not",
    cst.In: "in",
    cst.NotIn: "not in",
}
_DISPLAYS: dict[type, str] = {cst.Tuple: "tuple", cst.List: "list", cst.Set: "set"}
_COMPREHENSIONS: dict[type, str] = {
    cst.ListComp: "list",
    cst.SetComp: "set",
    cst.DictComp: "dict",
    cst.GeneratorExp: "generator",
}


class Expressions(Targets):
    """A walk that evaluates expressions."""

    def expression(self, node: cst.CSTNode) -> Value:
        method = _EXPRESSIONS.get(type(node))
        if method is not None:
            return method(self, node)
        return Opaque(node, self.region, self.tick())

    def call(self, node: cst.Call) -> Value:
        callee = self.expression(node.func)
        arguments = tuple(
            [
                Argument(
                    arg, arg.keyword.value if arg.keyword is not None else None, arg.star, self.expression(arg.value)
                )
                for arg in node.args
            ]
        )
        call = Call(node, self.region, self.tick(), callee, arguments)
        self.function.calls.append(call)
        return call

    def binary(self, node: cst.BinaryOperation) -> Value:
        chain: list[cst.BinaryOperation] = []
        left: cst.BaseExpression = node
        while isinstance(left, cst.BinaryOperation):
            chain.append(left)
            left = left.left
        value = self.expression(left)
        for operation in reversed(chain):
            right = self.expression(operation.right)
            operator = _BINARY.get(type(operation.operator), "?")
            value = Binary(operation, self.region, self.tick(), operator, value, right)
            self.function.sums.append(value)
        return value

    def unary(self, node: cst.UnaryOperation) -> Value:
        operand = self.expression(node.expression)
        operator = _UNARY.get(type(node.operator), "?")
        if operator == "-" and isinstance(operand, Constant) and isinstance(operand.constant, (int, float)):
            return Constant(node, self.region, self.tick(), -operand.constant)
        return Unary(node, self.region, self.tick(), operator, operand)

    def boolean(self, node: cst.BooleanOperation) -> Value:
        values: list[Value] = []
        left: cst.BaseExpression = node
        chain: list[cst.BaseExpression] = []
        while isinstance(left, cst.BooleanOperation):
            chain.append(left.right)
            left = left.left
        chain.append(left)
        values = [self.expression(part) for part in reversed(chain)]
        return Choice(node, self.region, self.tick(), tuple(values), None)

    def comparison(self, node: cst.Comparison) -> Value:
        values = [self.expression(node.left)]
        operators: list[str] = []
        for target in node.comparisons:
            operators.append(_COMPARISON.get(type(target.operator), "?"))
            values.append(self.expression(target.comparator))
        return Comparison(node, self.region, self.tick(), tuple(values), tuple(operators))

    def conditional(self, node: cst.IfExp) -> Value:
        test = self.expression(node.test)
        values: list[Value] = []
        for branch, passed in ((node.body, True), (node.orelse, False)):
            outer_env = self.open(owner=self.env.owner, comprehension=self.env.comprehension)
            self.narrow_names(test, passed=passed)
            values.append(self.expression(branch))
            self.env = outer_env
        return Choice(node, self.region, self.tick(), tuple(values), test)

    def narrow_names(self, test: Value, *, passed: bool) -> None:
        """What a test shows of a name: that it is None, or that it is no tensor and no module."""
        if isinstance(test, Unary) and test.operator == "not":
            test, passed = test.operand, not passed
        none = _none_test(test, passed=passed)
        if none is not None:
            self.rebind(*none, self.none(none[0]))
        tensor = None if passed else _kind_test(test)
        if tensor is not None:
            node, value = tensor
            self.rebind(node, value, Narrowed(node, self.region, self.tick(), value))

    def lambda_(self, node: cst.Lambda) -> Value:
        function = Function(node, "<lambda>", self.module, self.function, None)
        self.function.functions.append(function)
        return FunctionValue(node, self.region, self.tick(), function)

    def display(self, node: cst.Tuple | cst.List | cst.Set) -> Value:
        starred = False
        values: list[Value] = []
        for element in node.elements:
            starred = starred or isinstance(element, cst.StarredElement)
            values.append(self.expression(element.value))
        kind = _DISPLAYS[type(node)]
        return Display(node, self.region, self.tick(), kind, tuple(values), (), starred)

    def dictionary(self, node: cst.Dict) -> Value:
        starred = False
        keys: list[Value | None] = []
        values: list[Value] = []
        for element in node.elements:
            if isinstance(element, cst.DictElement):
                keys.append(self.expression(element.key))
            else:
                starred = True
                keys.append(None)
            values.append(self.expression(element.value))
        return Display(node, self.region, self.tick(), "dict", tuple(values), tuple(keys), starred)

    def comprehension(self, node: cst.BaseComp) -> Value:
        outer, outer_env = self.region, self.env
        clause: cst.CompFor | None = node.for_in
        outermost: Loop | None = None
        while clause is not None:
            iterable = self.expression(clause.iter)
            loop = Loop(self.region, self.function, clause, self.order, iterable)
            outermost = outermost or loop
            self.function.loops.append(loop)
            self.region = loop
            self.open(loop=loop, comprehension=True)
            loop.element = Element(clause.target, loop, self.tick(), iterable)
            self.comprehension_target(clause.target, loop.element)
            for condition in clause.ifs:
                self.expression(condition.test)
            clause = clause.inner_for_in
        key = self.expression(node.key) if isinstance(node, cst.DictComp) else None
        element = self.expression(node.value if isinstance(node, cst.DictComp) else node.elt)  # type: ignore[attr-defined]
        self.leave(outer)
        self.env = outer_env
        assert outermost is not None
        kind = _COMPREHENSIONS[type(node)]
        made = Comprehension(node, self.region, self.tick(), kind, element, key, outermost)
        self.function.comprehensions.append(made)
        return made

    def walrus(self, node: cst.NamedExpr) -> Value:
        value = self.expression(node.value)
        env = self.env
        while self.env.comprehension and self.env.parent is not None:
            self.env = self.env.parent
        self.store(node.target, value, node)
        self.env = env
        return value

    def await_(self, node: cst.Await) -> Value:
        return Awaited(node, self.region, self.tick(), self.expression(node.expression))

    def yield_(self, node: cst.Yield) -> Value:
        kind = "yield"
        if isinstance(node.value, cst.From):
            kind = "yield from"
            value = self.expression(node.value.item)
        elif node.value is not None:
            value = self.expression(node.value)
        else:
            value = self.none(node)
        self.function.exits.append(Exit(node, self.region, self.tick(), kind, value))
        return Awaited(node, self.region, self.tick(), value) if kind == "yield from" else self.opaque(node)

    def none(self, node: cst.CSTNode) -> Value:
        return Constant(node, self.region, self.tick(), None)

    def opaque(self, node: cst.CSTNode) -> Value:
        return Opaque(node, self.region, self.tick())

    def integer(self, node: cst.Integer) -> Value:
        return Constant(node, self.region, self.tick(), _number(node.value))

    def number(self, node: cst.Float | cst.Imaginary) -> Value:
        return Constant(node, self.region, self.tick(), _number(node.value))

    def string(self, node: cst.SimpleString) -> Value:
        return Constant(node, self.region, self.tick(), _text(node.value))

    def concatenated(self, node: cst.ConcatenatedString) -> Value:
        left, right = self.expression(node.left), self.expression(node.right)
        if isinstance(left, Constant) and isinstance(right, Constant):
            both = (left.constant, right.constant)
            if isinstance(both[0], str) and isinstance(both[1], str):
                return Constant(node, self.region, self.tick(), both[0] + both[1])
        return Formatted(node, self.region, self.tick(), (left, right))

    def formatted(self, node: cst.FormattedString) -> Value:
        parts: list[Value] = []
        pending: list[cst.BaseFormattedStringContent] = list(node.parts)
        while pending:
            part = pending.pop(0)
            if isinstance(part, cst.FormattedStringExpression):
                parts.append(self.expression(part.expression))
                pending = [*(part.format_spec or ()), *pending]
        return Formatted(node, self.region, self.tick(), tuple(parts))

    def ellipsis(self, node: cst.Ellipsis) -> Value:
        return Constant(node, self.region, self.tick(), ...)

    def starred(self, node: cst.StarredElement) -> Value:
        return self.expression(node.value)


def _number(text: str) -> object:
    if text.isdecimal() and len(text) < _MAX_PLAIN_DIGITS:
        return int(text)  # what almost all are; literal_eval compiles a program for each
    try:
        return float(text) if "." in text and not text.endswith(("j", "J")) else ast.literal_eval(text)
    except ValueError:  # more digits than sys.get_int_max_str_digits allows
        return None


def _text(source: str) -> object:
    quote = source[0]
    if quote in "'\"":
        inner = source[3:-3] if source[:3] == quote * 3 and len(source) >= 6 else source[1:-1]
        if "\\" not in inner:
            return inner
        with suppress(KeyError):
            return _ESCAPE.sub(lambda match: _ESCAPED[match[1]], inner)
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return ""


def _none_test(test: Value, *, passed: bool) -> tuple[cst.CSTNode, Value] | None:
    """The expression and value that are None where ``x is None`` or ``x is not None`` has come out as ``passed``."""
    if not isinstance(test, Comparison) or len(test.values) != 2 or not isinstance(test.node, cst.Comparison):
        return None
    against = test.values[1]
    tells = test.operators[0] == ("is" if passed else "is not")
    if tells and isinstance(against, Constant) and against.constant is None:
        return test.node.left, test.values[0]
    return None


def _kind_test(test: Value) -> tuple[cst.CSTNode, Value] | None:
    """The expression and value that ``test`` holds to be a tensor or a module: ``torch.is_tensor(x)`` and its like."""
    if not isinstance(test, Call) or not isinstance(test.callee, External) or not test.arguments:
        return None
    name = test.callee.qualified_name
    tested = (test.arguments[0].node.value, test.arguments[0].value)
    if name == "torch.is_tensor":
        return tested
    if len(test.arguments) < 2:
        return None
    against = test.arguments[1].value
    if name == "builtins.hasattr" and isinstance(against, Constant):
        return tested if against.constant in {"item", "detach", "cpu", "backward", "requires_grad"} else None
    if name == "builtins.isinstance":
        classes = against.elements if isinstance(against, Display) else (against,)
        told = any(isinstance(c, External) and c.qualified_name.endswith(_TOLD_APART) for c in classes)
        return tested if told else None
    return None


_EXPRESSIONS: dict[type, Callable[[Expressions, Any], Value]] = {
    cst.Name: Expressions.name,
    cst.Attribute: Expressions.attribute,
    cst.Call: Expressions.call,
    cst.Subscript: Expressions.subscript,
    cst.BinaryOperation: Expressions.binary,
    cst.UnaryOperation: Expressions.unary,
    cst.BooleanOperation: Expressions.boolean,
    cst.Comparison: Expressions.comparison,
    cst.IfExp: Expressions.conditional,
    cst.Lambda: Expressions.lambda_,
    cst.Tuple: Expressions.display,
    cst.List: Expressions.display,
    cst.Set: Expressions.display,
    cst.Dict: Expressions.dictionary,
    cst.ListComp: Expressions.comprehension,
    cst.SetComp: Expressions.comprehension,
    cst.DictComp: Expressions.comprehension,
    cst.GeneratorExp: Expressions.comprehension,
    cst.NamedExpr: Expressions.walrus,
    cst.Await: Expressions.await_,
    cst.Yield: Expressions.yield_,
    cst.Integer: Expressions.integer,
    cst.Float: Expressions.number,
    cst.Imaginary: Expressions.number,
    cst.SimpleString: Expressions.string,
    cst.ConcatenatedString: Expressions.concatenated,
    cst.FormattedString: Expressions.formatted,
    cst.Ellipsis: Expressions.ellipsis,
    cst.StarredElement: Expressions.starred,
}
