"""The value graph: what every expression of a function computes from, and who uses it.

Lowering (:mod:`memlint.model.lowering`) evaluates a function body once, in order, and makes one :class:`Value` for each
expression. Local names are already resolved, as in SSA form: a name read after a branch is a :class:`Phi` of what
the branches bound, and a name read inside a loop is a :class:`Phi` of what came in and what the last iteration left.
Questions about a value (is it a tensor with a graph? can a backward reach it?) are answered later, on demand, by
walking the graph against (``operands``) or along (``uses``) the flow of data.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import libcst as cst

if TYPE_CHECKING:
    from memlint.model.project import Project
    from memlint.model.scopes import Class, Function, Module


NO_ANSWERS: dict[Any, Any] = {}
"""What a subject knows before it is asked anything; see :mod:`memlint.model.memo`."""


class Region:
    """A stretch of code that runs under one condition; regions form a tree whose root is the function's body.

    ``first`` and ``last`` are the orders of the first and the last value computed inside.
    """

    __slots__ = ("first", "function", "known", "last", "leaves", "node", "parent", "project")

    def __init__(self, parent: Region | None, function: Function, node: cst.CSTNode, first: int) -> None:
        self.parent = parent
        self.function = function
        self.node = node
        self.first = first
        self.last = first
        self.leaves: str | None = None
        """How the region's end is never reached: ``return``, ``raise``, ``continue`` or ``break``; None if it is."""
        self.known = NO_ANSWERS
        self.project: Project = function.module.project
        """The project that the region belongs to; every question about a value asks for it."""
        function.parts.append(self)

    @property
    def module(self) -> Module:
        """The file that the region stands in."""
        return self.function.module

    def ancestors(self) -> Iterator[Region]:
        """This region and all that enclose it, innermost first."""
        region: Region | None = self
        while region is not None:
            yield region
            region = region.parent

    def within(self, other: Region) -> bool:
        """Whether this is ``other`` or lies inside it."""
        return any(region is other for region in self.ancestors())

    def loops(self) -> Iterator[Loop]:
        """The loops around this region, innermost first; comprehensions count."""
        for region in self.ancestors():
            if isinstance(region, Loop):
                yield region

    @property
    def loop(self) -> Loop | None:
        """The innermost loop around this region."""
        return next(self.loops(), None)


class Branch(Region):
    """One side of an ``if``, a ``match`` case, or the body of a conditional expression."""

    __slots__ = ("follows", "negated", "siblings", "test")

    def __init__(
        self, parent: Region, function: Function, node: cst.CSTNode, first: int, test: Value | None, negated: bool
    ) -> None:
        super().__init__(parent, function, node, first)
        self.test = test
        self.negated = negated
        self.follows = False
        """Whether this is the rest of a block after ``if test: return`` (or ``continue``), and no branch of its own."""
        self.siblings: list[Branch] = [self]


class Loop(Region):
    """A ``for``, a ``while`` or the part of a comprehension that runs once for each element."""

    __slots__ = ("element", "iterable", "phis", "test")

    def __init__(
        self, parent: Region, function: Function, node: cst.CSTNode, first: int, iterable: Value | None
    ) -> None:
        super().__init__(parent, function, node, first)
        self.iterable = iterable
        self.element: Value | None = None
        self.test: Value | None = None
        self.phis: dict[str, Phi] = {}

    @property
    def is_comprehension(self) -> bool:
        """Whether this loop is part of a comprehension or generator expression."""
        return not isinstance(self.node, (cst.For, cst.While))


class With(Region):
    """The body of a ``with``, or what follows a call that works like one until the end of its block."""

    __slots__ = ("contexts",)

    def __init__(
        self, parent: Region, function: Function, node: cst.CSTNode, first: int, contexts: tuple[Value, ...]
    ) -> None:
        super().__init__(parent, function, node, first)
        self.contexts = contexts


class Try(Region):
    """The body of a ``try``."""

    __slots__ = ()


class Handler(Region):
    """An ``except`` clause; ``caught`` is the exception type."""

    __slots__ = ("caught",)

    def __init__(self, parent: Region, function: Function, node: cst.CSTNode, first: int, caught: Value | None) -> None:
        super().__init__(parent, function, node, first)
        self.caught = caught


class Value:
    """What an expression evaluates to. ``order`` grows along the evaluation of a function."""

    __slots__ = ("known", "node", "order", "region", "uses")

    def __init__(self, node: cst.CSTNode, region: Region, order: int) -> None:
        self.node = node
        self.region = region
        self.order = order
        self.known = NO_ANSWERS
        self.uses: list[Value | Store | Exit] = []
        region.function.parts.append(self)

    @property
    def function(self) -> Function:
        """The function in whose body the value is computed."""
        return self.region.function

    @property
    def module(self) -> Module:
        """The file in which the value is computed."""
        return self.region.function.module

    @property
    def project(self) -> Project:
        """The project that the value belongs to."""
        return self.region.project

    def operands(self) -> tuple[Value, ...]:
        """The values that this one is computed from."""
        return ()

    def used_by(self, user: Value | Store | Exit) -> None:
        """Registers a use of this value."""
        self.uses.append(user)


class Constant(Value):
    """A literal: number, text, bytes, bool, None or Ellipsis."""

    __slots__ = ("constant",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, constant: object) -> None:
        super().__init__(node, region, order)
        self.constant = constant


class Parameter(Value):
    """A parameter. ``star`` is ``""``, ``"*"`` or ``"**"``; ``index`` counts from 0, ``self`` included."""

    __slots__ = ("annotation", "default", "index", "keyword_only", "name", "star")

    def __init__(
        self,
        node: cst.CSTNode,
        region: Region,
        order: int,
        name: str,
        index: int,
        star: str,
        annotation: cst.BaseExpression | None,
        default: cst.BaseExpression | None,
        keyword_only: bool,
    ) -> None:
        super().__init__(node, region, order)
        self.name = name
        self.index = index
        self.star = star
        self.annotation = annotation
        self.default = default
        self.keyword_only = keyword_only


class External(Value):
    """A name that an import or the builtins provide, by its qualified name; it may belong to the project."""

    __slots__ = ("qualified_name",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, qualified_name: str) -> None:
        super().__init__(node, region, order)
        self.qualified_name = qualified_name


class Free(Value):
    """A variable of an enclosing function or of the module, read where its value at that time is not known."""

    __slots__ = ("name", "scope")

    def __init__(self, node: cst.CSTNode, region: Region, order: int, name: str, scope: Function) -> None:
        super().__init__(node, region, order)
        self.name = name
        self.scope = scope


class Unbound(Value):
    """A name that nothing in sight binds."""

    __slots__ = ("name",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, name: str) -> None:
        super().__init__(node, region, order)
        self.name = name


class FunctionValue(Value):
    """A ``def`` or ``lambda``."""

    __slots__ = ("target",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, target: Function) -> None:
        super().__init__(node, region, order)
        self.target = target


class ClassValue(Value):
    """A ``class`` statement."""

    __slots__ = ("target",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, target: Class) -> None:
        super().__init__(node, region, order)
        self.target = target


class ModuleValue(Value):
    """A module of the project."""

    __slots__ = ("target",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, target: Module) -> None:
        super().__init__(node, region, order)
        self.target = target


class Attribute(Value):
    """``base.name``, read where no store in the same function decides what it is."""

    __slots__ = ("base", "name")

    def __init__(self, node: cst.CSTNode, region: Region, order: int, base: Value, name: str) -> None:
        super().__init__(node, region, order)
        self.base = base
        self.name = name
        base.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.base,)


class Item(Value):
    """``base[index]``; ``index`` holds one value for each dimension, None for a slice."""

    __slots__ = ("base", "index")

    def __init__(
        self, node: cst.CSTNode, region: Region, order: int, base: Value, index: tuple[Value | None, ...]
    ) -> None:
        super().__init__(node, region, order)
        self.base = base
        self.index = index
        base.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.base,)


class Element(Value):
    """What iterating over ``iterable`` yields."""

    __slots__ = ("iterable",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, iterable: Value) -> None:
        super().__init__(node, region, order)
        self.iterable = iterable
        iterable.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.iterable,)


class Part(Value):
    """The component of ``base`` that tuple unpacking binds; ``index`` is None for a starred target and what follows."""

    __slots__ = ("base", "index", "of")

    def __init__(self, node: cst.CSTNode, region: Region, order: int, base: Value, index: int | None, of: int) -> None:
        super().__init__(node, region, order)
        self.base = base
        self.index = index
        self.of = of
        base.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.base,)


class Argument:
    """One argument of a call. ``star`` is ``""``, ``"*"`` or ``"**"``."""

    __slots__ = ("keyword", "node", "star", "value")

    def __init__(self, node: cst.Arg, keyword: str | None, star: str, value: Value) -> None:
        self.node = node
        self.keyword = keyword
        self.star = star
        self.value = value


class Call(Value):
    """``callee(arguments)``."""

    __slots__ = ("_name", "arguments", "callee")
    node: cst.Call

    def __init__(
        self, node: cst.Call, region: Region, order: int, callee: Value, arguments: tuple[Argument, ...]
    ) -> None:
        super().__init__(node, region, order)
        self.callee = callee
        self.arguments = arguments
        self._name: str | None = None
        callee.used_by(self)
        for argument in arguments:
            argument.value.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.callee, *(argument.value for argument in self.arguments))

    @property
    def name(self) -> str:
        """The last component of what is called; empty if it has no name."""
        if self._name is None:
            self._name = self._find_name()
        return self._name

    def _find_name(self) -> str:
        callee = self.callee
        while isinstance(callee, Phi):
            # A name that is bound before a loop and called inside.
            callee = callee.inputs[0]
        if isinstance(callee, Attribute):
            return callee.name
        if isinstance(callee, External):
            return callee.qualified_name.rsplit(".", 1)[-1]
        if isinstance(callee, (FunctionValue, ClassValue)):
            return callee.target.name
        if isinstance(callee, (Free, Unbound, Parameter)):
            return callee.name
        return ""

    @property
    def method(self) -> str | None:
        """``name`` for a call of the form ``receiver.name(...)``."""
        return self.callee.name if isinstance(self.callee, Attribute) else None

    @property
    def receiver(self) -> Value | None:
        """``receiver`` for a call of the form ``receiver.name(...)``."""
        return self.callee.base if isinstance(self.callee, Attribute) else None

    @property
    def is_open(self) -> bool:
        """Whether ``*args`` or ``**kwargs`` may pass arguments that are not in sight."""
        return any(argument.star for argument in self.arguments)

    def argument(self, keyword: str, position: int | None = None) -> Value | None:
        """The value passed as ``keyword`` or at ``position`` (0-based); None if neither is in sight."""
        place = 0
        for argument in self.arguments:
            if argument.keyword == keyword:
                return argument.value
            if argument.keyword is None and argument.star == "":
                if place == position:
                    return argument.value
                place += 1
            elif argument.star == "*":
                position = None
        return None

    def positional(self) -> list[Value]:
        """Values of the plain positional arguments, up to the first starred one."""
        found: list[Value] = []
        for argument in self.arguments:
            if argument.star == "*":
                break
            if argument.keyword is None and not argument.star:
                found.append(argument.value)
        return found


class Binary(Value):
    """``left operator right``; ``augmented`` is the statement if it came from ``left operator= right``."""

    __slots__ = ("augmented", "left", "operator", "right")

    def __init__(
        self,
        node: cst.CSTNode,
        region: Region,
        order: int,
        operator: str,
        left: Value,
        right: Value,
        augmented: cst.AugAssign | None = None,
    ) -> None:
        super().__init__(node, region, order)
        self.operator = operator
        self.left = left
        self.right = right
        self.augmented = augmented
        left.used_by(self)
        right.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.left, self.right)


class Unary(Value):
    """``operator operand``; the operator is ``-``, ``+``, ``~`` or ``not``."""

    __slots__ = ("operand", "operator")

    def __init__(self, node: cst.CSTNode, region: Region, order: int, operator: str, operand: Value) -> None:
        super().__init__(node, region, order)
        self.operator = operator
        self.operand = operand
        operand.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.operand,)


class Comparison(Value):
    """``a < b``, ``a is None``, chained or not."""

    __slots__ = ("operators", "values")

    def __init__(
        self, node: cst.CSTNode, region: Region, order: int, values: tuple[Value, ...], operators: tuple[str, ...]
    ) -> None:
        super().__init__(node, region, order)
        self.values = values
        self.operators = operators
        for value in values:
            value.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return self.values


class Choice(Value):
    """One of several values: ``a if test else b``, ``a or b``, ``a and b``."""

    __slots__ = ("test", "values")

    def __init__(
        self, node: cst.CSTNode, region: Region, order: int, values: tuple[Value, ...], test: Value | None
    ) -> None:
        super().__init__(node, region, order)
        self.values = values
        self.test = test
        for value in values:
            value.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return self.values


class Display(Value):
    """``[...]``, ``(...)``, ``{...}`` or ``{k: v}``.

    ``kind`` is list, tuple, set or dict. A starred element stands as the iterable that it unpacks.
    """

    __slots__ = ("elements", "keys", "kind", "starred")

    def __init__(
        self,
        node: cst.CSTNode,
        region: Region,
        order: int,
        kind: str,
        elements: tuple[Value, ...],
        keys: tuple[Value | None, ...],
        starred: bool,
    ) -> None:
        super().__init__(node, region, order)
        self.kind = kind
        self.elements = elements
        self.keys = keys
        self.starred = starred
        for element in elements:
            element.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return self.elements


class Comprehension(Value):
    """A comprehension; ``kind`` is list, set, dict or generator."""

    __slots__ = ("element", "key", "kind", "loop")

    def __init__(
        self, node: cst.CSTNode, region: Region, order: int, kind: str, element: Value, key: Value | None, loop: Loop
    ) -> None:
        super().__init__(node, region, order)
        self.kind = kind
        self.element = element
        self.key = key
        self.loop = loop
        element.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.element,)


class Formatted(Value):
    """An f-string."""

    __slots__ = ("parts",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, parts: tuple[Value, ...]) -> None:
        super().__init__(node, region, order)
        self.parts = parts
        for part in parts:
            part.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return self.parts


class Awaited(Value):
    """``await value``, or what ``yield from`` returns."""

    __slots__ = ("value",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, value: Value) -> None:
        super().__init__(node, region, order)
        self.value = value
        value.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.value,)


class Entered(Value):
    """What ``with context as name`` binds."""

    __slots__ = ("context",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, context: Value) -> None:
        super().__init__(node, region, order)
        self.context = context
        context.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.context,)


class Phi(Value):
    """A name that may be bound to any of ``inputs``.

    ``loop`` is set at the head of a loop: ``inputs[0]`` is then what came in, the others what an iteration left.
    ``key`` is the name (``total``), attribute path (``self.total``) or item (``meters['loss']``).
    """

    __slots__ = ("inputs", "key", "loop")

    def __init__(
        self, node: cst.CSTNode, region: Region, order: int, key: str, inputs: list[Value], loop: Loop | None
    ) -> None:
        super().__init__(node, region, order)
        self.key = key
        self.inputs = inputs
        self.loop = loop
        for value in inputs:
            value.used_by(self)

    def add(self, value: Value) -> None:
        """One more input."""
        if value is not self and not any(value is known for known in self.inputs):
            self.inputs.append(value)
            value.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return tuple(self.inputs)

    @property
    def carried(self) -> tuple[Value, ...]:
        """For the head of a loop: what iterations leave for the next one."""
        return tuple(self.inputs[1:]) if self.loop is not None else ()


class Narrowed(Value):
    """``base`` where a test has shown that it is no tensor (after ``if isinstance(x, torch.Tensor): ... else:``)."""

    __slots__ = ("base",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, base: Value) -> None:
        super().__init__(node, region, order)
        self.base = base
        base.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return (self.base,)


class Opaque(Value):
    """An expression that says nothing about memory, or a name whose binding is out of sight."""

    __slots__ = ("parts",)

    def __init__(self, node: cst.CSTNode, region: Region, order: int, parts: tuple[Value, ...] = ()) -> None:
        super().__init__(node, region, order)
        self.parts = parts
        for part in parts:
            part.used_by(self)

    def operands(self) -> tuple[Value, ...]:
        return self.parts


class Occurrence(NamedTuple):
    """A value at a place where it is written: its name, or the expression that computes it."""

    value: Value
    node: cst.CSTNode


def operand_occurrences(value: Value) -> tuple[Occurrence, ...]:
    """The operands of ``value`` with the expressions by which they stand in it."""
    match value:
        case Binary(node=cst.AugAssign() as node):
            return (Occurrence(value.left, node.target), Occurrence(value.right, node.value))
        case Binary(node=cst.BinaryOperation() as node):
            return (Occurrence(value.left, node.left), Occurrence(value.right, node.right))
        case Unary(node=cst.UnaryOperation() as node):
            return (Occurrence(value.operand, node.expression),)
        case Display(node=(cst.List() | cst.Tuple() | cst.Set() | cst.Dict()) as node):
            written = [element.value for element in node.elements]
            return tuple(Occurrence(e, n) for e, n in zip(value.elements, written, strict=True))
        case Choice(node=cst.IfExp() as node):
            return (Occurrence(value.values[0], node.body), Occurrence(value.values[1], node.orelse))
        case Item(node=cst.Subscript() as node):
            return (Occurrence(value.base, node.value),)
        case Call():
            function = value.node.func
            receiver = value.receiver
            first = (
                (Occurrence(receiver, function.value),)
                if receiver is not None and isinstance(function, cst.Attribute)
                else ()
            )
            return (*first, *(Occurrence(a.value, a.node.value) for a in value.arguments))
    return tuple(Occurrence(operand, operand.node) for operand in value.operands())


class Store:
    """An assignment. ``key`` is what a later read of the same name, path or item will find, None if not nameable.

    For ``base.name = value`` and ``base[index] = value`` the ``base`` and ``attribute`` or ``index`` are set.
    """

    __slots__ = ("attribute", "augmented", "base", "index", "key", "node", "order", "region", "target", "value")

    def __init__(
        self,
        node: cst.CSTNode,
        target: cst.CSTNode,
        region: Region,
        order: int,
        key: str | None,
        value: Value,
        base: Value | None = None,
        attribute: str | None = None,
        index: Value | None = None,
        augmented: bool = False,
    ) -> None:
        self.node = node
        self.target = target
        self.region = region
        self.order = order
        self.key = key
        self.value = value
        self.base = base
        self.attribute = attribute
        self.index = index
        self.augmented = augmented
        value.used_by(self)
        if base is not None:
            base.used_by(self)

    @property
    def function(self) -> Function:
        """The function in whose body the store happens."""
        return self.region.function


class Exit:
    """A ``return`` or ``yield`` of ``value``; ``kind`` is return, yield or yield from."""

    __slots__ = ("kind", "node", "order", "region", "value")

    def __init__(self, node: cst.CSTNode, region: Region, order: int, kind: str, value: Value) -> None:
        self.node = node
        self.region = region
        self.order = order
        self.kind = kind
        self.value = value
        value.used_by(self)

    @property
    def function(self) -> Function:
        """The function that is left."""
        return self.region.function


class Deletion:
    """``del key``."""

    __slots__ = ("key", "node", "order", "region", "value")

    def __init__(self, node: cst.Del, region: Region, order: int, key: str, value: Value | None) -> None:
        self.node = node
        self.region = region
        self.order = order
        self.key = key
        self.value = value
