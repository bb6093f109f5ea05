"""Builds bare trees."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import libcst as cst

from memlint.bare_trees import making as make


class NoBareTree(Exception):
    """A text that has no bare tree: Python's parser refuses it, or it holds syntax that is left to libcst."""


# What ast does not say is read from the text.

_NEWLINE = re.compile(r"\r\n?|\n")
_CONTINUATION = re.compile(r"\\(?:\r\n?|\n)")
QUOTED = r"""
    \"\"\"[^"\\]*(?:(?:\\.|\"(?!\"\"))[^"\\]*)*\"\"\"|\'\'\'[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*\'\'\'
    |"[^"\\\r\n]*(?:\\.[^"\\\r\n]*)*"|'[^'\\\r\n]*(?:\\.[^'\\\r\n]*)*'
"""
"""A string without its prefix, as a verbose pattern in which a dot is any character. Each alternative begins with a
character and not with a repetition: where they may begin is then found much faster."""
_STRING = re.compile(rf"(?:\#[^\r\n]*|[\s\\])*([A-Za-z]{{0,2}}(?:{QUOTED}))", re.DOTALL | re.VERBOSE)
"""A string, with what may stand between it and one before it."""
_FORMATTED = re.compile(r"([rR]?[fF][rR]?)(\"{3}|'{3}|\"|')(.*)\2", re.DOTALL)
"""An f-string: its prefix, its quotes, and what is between them."""
_FIELD = re.compile(
    r"""
    (?<!\{) \{ [^\W\d]\w* (?: [.()] | (?<=[.()])[^\W\d]\w* )*   # names, attributes, and calls of them
    (?: !([rsa]) )?  (?: :([^{}\\\r\n]+) )?  \}
    """,
    re.VERBOSE,
)
"""A field of an f-string whose expression needs no place in the text, with its conversion and its format."""


class _Builder:
    """Builds the bare tree of one text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(match.end() for match in _NEWLINE.finditer(text))]
        self._is_ascii = text.isascii()
        self._has_semicolons = ";" in text
        self._indent: str | None = None
        """The indentation of the first block."""
        self._functions: dict[int, tuple[int, int]] = {}
        self._is_in_function = False

    def module(self, module: ast.Module) -> make.BareTree:
        made: make.BareTree = make.module(self._statements(module.body))
        newline = _NEWLINE.search(self._text)
        object.__setattr__(made, "default_newline", newline.group() if newline else "\n")
        if self._indent is not None:
            object.__setattr__(made, "default_indent", self._indent)
        object.__setattr__(made, "text", self._text)
        object.__setattr__(made, "is_complete", False)
        object.__setattr__(made, "functions", self._functions)
        return made

    # Places

    def _offset(self, row: int, column: int) -> int:
        """The offset of a place of ast, whose columns count bytes."""
        start = self._starts[row - 1]
        if self._is_ascii:
            return start + column
        end = self._starts[row] if row < len(self._starts) else len(self._text)
        return start + len(self._text[start:end].encode("utf-8", "surrogatepass")[:column].decode("utf-8", "replace"))

    def _segment(self, node: ast.expr) -> str:
        """The text of ``node`` without parentheses around it."""
        end_row, end_column = node.end_lineno, node.end_col_offset
        if end_row is None or end_column is None:
            raise NoBareTree
        return self._text[self._offset(node.lineno, node.col_offset) : self._offset(end_row, end_column)]

    def _parsed(self, node: ast.expr) -> Any:
        """``node`` as libcst's parser reads it."""
        parsed = cst.parse_expression(f"({self._segment(node)}\n)")
        for parentheses in ("lpar", "rpar"):
            object.__setattr__(parsed, parentheses, make.NO_LAYOUT)
        return parsed

    # Statements

    def _statements(self, statements: Iterable[ast.stmt]) -> tuple[Any, ...]:
        made: list[Any] = []
        last: ast.stmt | None = None
        for statement in statements:
            small = _SMALL.get(statement.__class__)
            if small is None:
                compound = _COMPOUND.get(statement.__class__)
                if compound is None:
                    raise NoBareTree
                made.append(compound(self, statement))
                last = None
                continue
            node = small(self, statement)
            if last is not None and self._has_semicolons and self._share_a_line(last, statement):
                made[-1] = make.line((*made[-1].body, node))
            else:
                made.append(make.line((node,)))
            last = statement
        return tuple(made)

    def _share_a_line(self, first: ast.stmt, second: ast.stmt) -> bool:
        """Whether a semicolon joins two small statements that follow each other."""
        between = self._text[
            self._offset(first.end_lineno or 0, first.end_col_offset or 0) : self._offset(
                second.lineno, second.col_offset
            )
        ]
        return ";" in between and not _NEWLINE.search(_CONTINUATION.sub("", between))

    def _body(self, statements: list[ast.stmt]) -> Any:
        first = statements[0]
        if first.__class__ in _SMALL and self._follows_colon(first):
            lines = self._statements(statements)
            if len(lines) != 1:
                raise NoBareTree
            return make.suite(lines[0].body)
        if self._indent is None:
            start = self._starts[first.lineno - 1]
            self._indent = self._text[start : start + first.col_offset]
        return make.block(self._statements(statements))

    def _follows_colon(self, statement: ast.stmt) -> bool:
        """Whether ``statement``, the first of a body, stands on the row of its header."""
        start = self._starts[statement.lineno - 1]
        before = self._text[start : start + statement.col_offset]
        if before and not before.isspace():
            return True
        if self._text[max(start - 3, 0) : start].rstrip("\r\n").endswith("\\"):
            raise NoBareTree  # A continuation, or a comment that ends like one.
        return False

    def _else(self, statements: list[ast.stmt]) -> Any:
        return make.else_(self._body(statements)) if statements else None

    def _if(self, node: ast.If) -> Any:
        orelse = node.orelse
        other: Any = None
        if len(orelse) == 1 and isinstance(orelse[0], ast.If) and self._is_elif(orelse[0]):
            other = self._if(orelse[0])
        elif orelse:
            other = make.else_(self._body(orelse))
        return make.if_(self.expression(node.test), self._body(node.body), other)

    def _is_elif(self, node: ast.If) -> bool:
        return self._text.startswith("elif", self._offset(node.lineno, node.col_offset))

    def _for(self, node: ast.For | ast.AsyncFor) -> Any:
        return make.for_(
            self.expression(node.target),
            self.expression(node.iter),
            self._body(node.body),
            self._else(node.orelse),
            make.ASYNCHRONOUS if isinstance(node, ast.AsyncFor) else None,
        )

    def _while(self, node: ast.While) -> Any:
        return make.while_(self.expression(node.test), self._body(node.body), self._else(node.orelse))

    def _with(self, node: ast.With | ast.AsyncWith) -> Any:
        items = [
            make.with_item(self.expression(each.context_expr), self._as(each.optional_vars)) for each in node.items
        ]
        return make.with_(items, self._body(node.body), make.ASYNCHRONOUS if isinstance(node, ast.AsyncWith) else None)

    def _as(self, target: ast.expr | None) -> Any:
        return make.as_name(self.expression(target)) if target is not None else None

    def _try(self, node: Any) -> Any:
        is_star = not isinstance(node, ast.Try)
        handlers = [self._handler(each, make.except_star if is_star else make.except_) for each in node.handlers]
        last = make.finally_(self._body(node.finalbody)) if node.finalbody else None
        return (make.try_star if is_star else make.try_)(self._body(node.body), handlers, self._else(node.orelse), last)

    def _handler(self, node: ast.ExceptHandler, make_handler: make.Make) -> Any:
        name = make.as_name(make.name(node.name)) if node.name else None
        return make_handler(self._body(node.body), self._optional(node.type), name)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Any:
        if getattr(node, "type_params", None):
            raise NoBareTree
        is_outer, self._is_in_function = not self._is_in_function, True
        made = self._made_function(node)
        if is_outer:
            self._is_in_function = False
            first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            self._functions[id(made)] = (first, node.end_lineno or first)
        return made

    def _made_function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> Any:
        return make.function(
            make.name(node.name),
            self._parameters(node.args),
            self._body(node.body),
            tuple([make.decorator(self.expression(each)) for each in node.decorator_list]),
            make.annotation(self.expression(node.returns)) if node.returns else None,
            make.ASYNCHRONOUS if isinstance(node, ast.AsyncFunctionDef) else None,
        )

    def _parameters(self, node: ast.arguments) -> Any:
        positional = [*node.posonlyargs, *node.args]
        defaults: list[ast.expr | None] = [None] * (len(positional) - len(node.defaults))
        defaults.extend(node.defaults)
        made = tuple([self._parameter(each, default) for each, default in zip(positional, defaults, strict=True)])
        star: Any = make.NO_PARAMETER
        if node.vararg is not None:
            star = self._parameter(node.vararg, None, "*")
        elif node.kwonlyargs:
            star = make.BARE_STAR
        split = len(node.posonlyargs)
        return make.parameters(
            made[split:],
            star,
            tuple(
                [
                    self._parameter(each, default)
                    for each, default in zip(node.kwonlyargs, node.kw_defaults, strict=True)
                ]
            ),
            self._parameter(node.kwarg, None, "**") if node.kwarg is not None else None,
            made[:split],
            make.SLASH if split else make.NO_PARAMETER,
        )

    def _parameter(self, node: ast.arg, default: ast.expr | None, star: str = "") -> Any:
        annotation = make.annotation(self.expression(node.annotation)) if node.annotation is not None else None
        return make.param(make.name(node.arg), annotation, self._optional(default), star)

    def _class(self, node: ast.ClassDef) -> Any:
        if getattr(node, "type_params", None):
            raise NoBareTree
        arguments = self._arguments(node.bases, node.keywords)
        first = next((i for i, each in enumerate(arguments) if each.keyword or each.star == "**"), len(arguments))
        return make.class_(
            make.name(node.name),
            self._body(node.body),
            arguments[:first],
            arguments[first:],
            tuple([make.decorator(self.expression(each)) for each in node.decorator_list]),
        )

    def _expr(self, node: ast.Expr) -> Any:
        return make.expr(self.expression(node.value))

    def _assign(self, node: ast.Assign) -> Any:
        expression = self.expression
        return make.assign(
            tuple([make.assign_target(expression(each)) for each in node.targets]), expression(node.value)
        )

    def _ann_assign(self, node: ast.AnnAssign) -> Any:
        annotation = make.annotation(self.expression(node.annotation))
        return make.ann_assign(self.expression(node.target), annotation, self._optional(node.value))

    def _aug_assign(self, node: ast.AugAssign) -> Any:
        return make.aug_assign(self.expression(node.target), make.BINARY[type(node.op)][1], self.expression(node.value))

    def _return(self, node: ast.Return) -> Any:
        return make.return_(self._optional(node.value))

    def _raise(self, node: ast.Raise) -> Any:
        return make.raise_(self._optional(node.exc), make.from_(self.expression(node.cause)) if node.cause else None)

    def _assert(self, node: ast.Assert) -> Any:
        return make.assertion(self.expression(node.test), self._optional(node.msg))

    def _del(self, node: ast.Delete) -> Any:
        targets = [self.expression(each) for each in node.targets]
        return make.del_(targets[0] if len(targets) == 1 else make.tuple_([make.element(each) for each in targets]))

    def _global(self, node: ast.Global) -> Any:
        return make.global_([make.name_item(make.name(each)) for each in node.names])

    def _nonlocal(self, node: ast.Nonlocal) -> Any:
        return make.nonlocal_([make.name_item(make.name(each)) for each in node.names])

    def _import(self, node: ast.Import) -> Any:
        return make.import_(_aliases(node.names))

    def _import_from(self, node: ast.ImportFrom) -> Any:
        names = make.import_star() if node.names[0].name == "*" else _aliases(node.names)
        return make.import_from(_dotted(node.module) if node.module else None, names, [make.DOT] * node.level)

    # Expressions

    def expression(self, node: ast.expr) -> Any:
        """The bare node of an expression."""
        method = _EXPRESSIONS.get(node.__class__)
        if method is None:
            raise NoBareTree
        return method(self, node)

    def _optional(self, node: ast.expr | None) -> Any:
        return None if node is None else self.expression(node)

    def _name(self, node: ast.Name) -> Any:
        return make.name(node.id)

    def _attribute(self, node: ast.Attribute) -> Any:
        return make.attribute(self.expression(node.value), make.name(node.attr))

    def _constant(self, node: ast.Constant) -> Any:
        value = node.value
        if value is None or value is True or value is False:
            return make.name(make.KEYWORDS[value])
        if value is ...:
            return make.ellipsis()
        text = self._segment(node)
        if isinstance(value, (str, bytes)):
            is_one = text.find(text[0], 1) == len(text) - 1 > 0
            return make.string(text) if is_one else self._strings(text)
        if isinstance(value, int):
            return make.integer(text)
        return make.float_(text) if isinstance(value, float) else make.imaginary(text)

    def _strings(self, text: str) -> Any:
        """One string, or several that are joined by standing beside each other."""
        return _concatenated([make.string(literal) for literal in _STRING.findall(text)])

    def _f_strings(self, node: ast.JoinedStr) -> Any:
        """One f-string, or several strings with one among them. libcst parses fields that hold more than names."""
        literals = _STRING.findall(self._segment(node))
        values = [each.value for each in node.values if isinstance(each, ast.FormattedValue)]
        if not _are_plain(literals, len(values)):
            return self._parsed(node)
        expressions = map(self.expression, values)
        return _concatenated([_f_string(literal, expressions) for literal in literals])

    def _call(self, node: ast.Call) -> Any:
        return make.call(self.expression(node.func), self._arguments(node.args, node.keywords))

    def _arguments(self, positional: list[ast.expr], keywords: list[ast.keyword]) -> tuple[Any, ...]:
        expression = self.expression
        has_stars = False
        made = []
        for each in positional:
            if isinstance(each, ast.Starred):
                has_stars = True
                made.append(make.arg(expression(each.value), None, "*"))
            else:
                made.append(make.arg(expression(each), None, ""))
        for keyword in keywords:
            name = keyword.arg
            made.append(make.arg(expression(keyword.value), make.name(name) if name else None, "" if name else "**"))
        if has_stars and keywords:
            # Only behind stars may a positional argument follow one that is named.
            nodes: list[ast.expr | ast.keyword] = [*positional, *keywords]
            places = [(each.lineno, each.col_offset) for each in nodes]
            made = [each for _, each in sorted(zip(places, made, strict=True), key=lambda pair: pair[0])]
        return tuple(made)

    def _subscript(self, node: ast.Subscript) -> Any:
        inner = node.slice
        parts = inner.elts if isinstance(inner, ast.Tuple) and not self._is_parenthesised(inner) else [inner]
        elements = tuple([make.subscript_element(self._slice(each)) for each in parts])
        return make.subscript(self.expression(node.value), elements)

    def _is_parenthesised(self, node: ast.Tuple) -> bool:
        text = self._segment(node)
        if not (text.startswith("(") and text.endswith(")")):
            return False
        # Parentheses around the first and the last element, or around the whole.
        return not node.elts or bool(cst.parse_expression(text).lpar)

    def _slice(self, node: ast.expr) -> Any:
        if isinstance(node, ast.Slice):
            return make.slice_(self._optional(node.lower), self._optional(node.upper), self._optional(node.step))
        if isinstance(node, ast.Starred):
            return make.index(self.expression(node.value), "*")
        return make.index(self.expression(node), None)

    def _elements(self, nodes: list[ast.expr]) -> tuple[Any, ...]:
        return tuple(
            [
                make.starred_element(self.expression(each.value))
                if isinstance(each, ast.Starred)
                else make.element(self.expression(each))
                for each in nodes
            ]
        )

    def _tuple(self, node: ast.Tuple) -> Any:
        return make.tuple_(self._elements(node.elts))

    def _list(self, node: ast.List) -> Any:
        return make.list_(self._elements(node.elts))

    def _set(self, node: ast.Set) -> Any:
        return make.set_(self._elements(node.elts))

    def _dict(self, node: ast.Dict) -> Any:
        expression = self.expression
        return make.dict_(
            tuple(
                [
                    make.starred_dict_element(expression(value))
                    if key is None
                    else make.dict_element(expression(key), expression(value))
                    for key, value in zip(node.keys, node.values, strict=True)
                ]
            )
        )

    def _binary(self, node: ast.BinOp) -> Any:
        return make.binary(self.expression(node.left), make.BINARY[node.op.__class__][0], self.expression(node.right))

    def _boolean(self, node: ast.BoolOp) -> Any:
        operator = make.BOOLEAN[node.op.__class__]
        made, *others = map(self.expression, node.values)
        for each in others:
            made = make.boolean(made, operator, each)
        return made

    def _unary(self, node: ast.UnaryOp) -> Any:
        return make.unary(make.UNARY[node.op.__class__], self.expression(node.operand))

    def _comparison(self, node: ast.Compare) -> Any:
        targets = [
            make.comparison_target(make.COMPARE[operator.__class__], self.expression(each))
            for operator, each in zip(node.ops, node.comparators, strict=True)
        ]
        return make.comparison(self.expression(node.left), targets)

    def _if_exp(self, node: ast.IfExp) -> Any:
        return make.if_exp(self.expression(node.test), self.expression(node.body), self.expression(node.orelse))

    def _named_expr(self, node: ast.NamedExpr) -> Any:
        return make.named_expr(self.expression(node.target), self.expression(node.value))

    def _lambda(self, node: ast.Lambda) -> Any:
        return make.lambda_(self._parameters(node.args), self.expression(node.body))

    def _await(self, node: ast.Await) -> Any:
        return make.await_(self.expression(node.value))

    def _yield(self, node: ast.Yield) -> Any:
        return make.yield_(self._optional(node.value))

    def _yield_from(self, node: ast.YieldFrom) -> Any:
        return make.yield_(make.from_(self.expression(node.value)))

    def _generator(self, node: ast.GeneratorExp) -> Any:
        return make.generator(self.expression(node.elt), self._generators(node.generators))

    def _list_comp(self, node: ast.ListComp) -> Any:
        return make.list_comp(self.expression(node.elt), self._generators(node.generators))

    def _set_comp(self, node: ast.SetComp) -> Any:
        return make.set_comp(self.expression(node.elt), self._generators(node.generators))

    def _dict_comp(self, node: ast.DictComp) -> Any:
        return make.dict_comp(self.expression(node.key), self.expression(node.value), self._generators(node.generators))

    def _generators(self, nodes: Sequence[ast.comprehension]) -> Any:
        made: Any = None
        for node in reversed(nodes):
            conditions = tuple([make.comp_if(self.expression(each)) for each in node.ifs])
            asynchronous = make.ASYNCHRONOUS if node.is_async else None
            made = make.comp_for(
                self.expression(node.target), self.expression(node.iter), conditions, made, asynchronous
            )
        return made

    def _starred(self, node: ast.Starred) -> Any:
        return make.starred_element(self.expression(node.value))


def _concatenated(strings: list[Any]) -> Any:
    made = strings.pop()
    while strings:
        made = make.concatenated(strings.pop(), made)
    return made


def _are_plain(literals: list[str], fields: int) -> bool:
    """Whether the f-strings among ``literals`` have so many ``fields``, and all of them are such as :data:`_FIELD`."""
    for literal in filter(_FORMATTED.match, literals):
        rest, count = _FIELD.subn(" ", literal)
        rest = rest.replace("{{", "").replace("}}", "")
        if "{" in rest or "}" in rest or r"\N" in literal:
            return False
        fields -= count
    return bool(literals) and fields == 0


def _f_string(literal: str, expressions: Iterator[Any]) -> Any:
    """The string ``literal``, with the next of the ``expressions`` in its fields if it is an f-string."""
    match = _FORMATTED.match(literal)
    if match is None:
        return make.string(literal)
    prefix, quotes, inner = match.groups()
    pieces = _FIELD.split(inner)
    parts = [make.formatted_text(pieces[0])] if pieces[0] else []
    for conversion, form, text in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        parts.append(
            make.formatted_expression(next(expressions), conversion, [make.formatted_text(form)] if form else None)
        )
        if text:
            parts.append(make.formatted_text(text))
    return make.formatted(parts, f"{prefix}{quotes}", quotes)


def _aliases(names: Iterable[ast.alias]) -> list[Any]:
    return [
        make.import_alias(_dotted(each.name), make.as_name(make.name(each.asname)) if each.asname else None)
        for each in names
    ]


def _dotted(name: str) -> Any:
    first, *others = name.split(".")
    made = make.name(first)
    for other in others:
        made = make.attribute(made, make.name(other))
    return made


_SMALL: dict[type[ast.stmt], make.Make] = {
    ast.AnnAssign: _Builder._ann_assign,
    ast.Assert: _Builder._assert,
    ast.Assign: _Builder._assign,
    ast.AugAssign: _Builder._aug_assign,
    ast.Break: lambda _builder, _node: make.break_(),
    ast.Continue: lambda _builder, _node: make.continue_(),
    ast.Delete: _Builder._del,
    ast.Expr: _Builder._expr,
    ast.Global: _Builder._global,
    ast.Import: _Builder._import,
    ast.ImportFrom: _Builder._import_from,
    ast.Nonlocal: _Builder._nonlocal,
    ast.Pass: lambda _builder, _node: make.pass_(),
    ast.Raise: _Builder._raise,
    ast.Return: _Builder._return,
}
_COMPOUND: dict[type[ast.stmt], make.Make] = {
    ast.AsyncFor: _Builder._for,
    ast.AsyncFunctionDef: _Builder._function,
    ast.AsyncWith: _Builder._with,
    ast.ClassDef: _Builder._class,
    ast.For: _Builder._for,
    ast.FunctionDef: _Builder._function,
    ast.If: _Builder._if,
    ast.Try: _Builder._try,
    ast.While: _Builder._while,
    ast.With: _Builder._with,
}
if hasattr(ast, "TryStar"):
    _COMPOUND[ast.TryStar] = _Builder._try
_EXPRESSIONS: dict[type[ast.expr], make.Make] = {
    ast.Attribute: _Builder._attribute,
    ast.Await: _Builder._await,
    ast.BinOp: _Builder._binary,
    ast.BoolOp: _Builder._boolean,
    ast.Call: _Builder._call,
    ast.Compare: _Builder._comparison,
    ast.Constant: _Builder._constant,
    ast.Dict: _Builder._dict,
    ast.DictComp: _Builder._dict_comp,
    ast.GeneratorExp: _Builder._generator,
    ast.IfExp: _Builder._if_exp,
    ast.JoinedStr: _Builder._f_strings,
    ast.Lambda: _Builder._lambda,
    ast.List: _Builder._list,
    ast.ListComp: _Builder._list_comp,
    ast.Name: _Builder._name,
    ast.NamedExpr: _Builder._named_expr,
    ast.Set: _Builder._set,
    ast.SetComp: _Builder._set_comp,
    ast.Starred: _Builder._starred,
    ast.Subscript: _Builder._subscript,
    ast.Tuple: _Builder._tuple,
    ast.UnaryOp: _Builder._unary,
    ast.Yield: _Builder._yield,
    ast.YieldFrom: _Builder._yield_from,
}


# A file that is checked is looked at in several ways, one soon after the other.
@lru_cache(maxsize=2)
def python_tree(text: str) -> ast.Module:
    """The tree of Python's own parser, which nobody changes. Raises as ``ast.parse`` does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def bare_tree(text: str) -> make.BareTree:
    """The tree of ``text`` without its layout. Raises :class:`NoBareTree` if there is none."""
    try:
        return _Builder(text).module(python_tree(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError, cst.ParserSyntaxError) as error:
        raise NoBareTree from error
