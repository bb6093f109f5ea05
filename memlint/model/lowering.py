"""From a libcst function body to the value graph of :mod:`memlint.model.values`.

One walk in evaluation order, no visitor: each node type has one method, and only fields that carry meaning are
followed. What a name is bound to is kept in a chain of environments, one for each branch and loop that is open.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import libcst as cst

from memlint.model.knowledge.torch import IN_PLACE_DETACH, SET_GRAD_ENABLED
from memlint.model.paths import path_key, stored_paths
from memlint.model.scopes import Class, Function
from memlint.model.values import (
    Argument,
    Attribute,
    Awaited,
    Binary,
    Branch,
    Call,
    Choice,
    ClassValue,
    Comparison,
    Comprehension,
    Constant,
    Deletion,
    Display,
    Element,
    Entered,
    Exit,
    External,
    Formatted,
    Free,
    FunctionValue,
    Handler,
    Item,
    Loop,
    Narrowed,
    Opaque,
    Parameter,
    Part,
    Phi,
    Region,
    Store,
    Try,
    Unary,
    Unbound,
    Value,
    With,
    operand_occurrences,
)

_BUILTINS = frozenset(dir(builtins))
_MAX_PLAIN_DIGITS = 100
_NAMED_CONSTANTS: dict[str, object] = {"None": None, "True": True, "False": False}


def lower(function: Function) -> None:
    """Fills ``function`` with the values, stores, calls, loops and exits of its body."""
    _Lowering(function).run()


class _Environment:
    """What names are bound to in one open branch or loop body; ``None`` marks a binding that is out of sight."""

    __slots__ = ("breaks", "comprehension", "continues", "loop", "names", "owner", "parent")

    def __init__(
        self,
        parent: _Environment | None,
        loop: Loop | None = None,
        owner: Class | None = None,
        comprehension: bool = False,
    ) -> None:
        self.parent = parent
        self.names: dict[str, Value | None] = {}
        self.loop = loop
        self.owner = owner
        self.comprehension = comprehension
        self.continues: list[dict[str, Value | None]] = []
        self.breaks: list[dict[str, Value | None]] = []


_MISSING: Any = object()


class _Lowering:
    def __init__(self, function: Function) -> None:
        self.function = function
        self.module = function.module
        self.region: Region = function.body
        self.order = 0
        self.env = _Environment(None)
        self.root_env = self.env
        self.leaves: str | None = None
        self.paths: frozenset[str] = frozenset()
        self.path_tails: frozenset[str] = frozenset()

    # ---------------------------------------------------------------- function

    def run(self) -> None:
        node = self.function.node
        self.paths = stored_paths(node)
        self.path_tails = frozenset(path.rsplit(".", 1)[-1] for path in self.paths if not path.endswith("]"))
        self.has_items = any(path.endswith("]") for path in self.paths)
        if isinstance(node, cst.Module):
            self.block(node.body)
        else:
            self.parameters(node.params)
            if isinstance(node, cst.Lambda):
                value = self.expression(node.body)
                self.function.exits.append(Exit(node.body, self.region, self.tick(), "return", value))
            else:
                self.suite(node.body)
        self.region.last = self.order

    def tick(self) -> int:
        self.order += 1
        return self.order

    def parameters(self, params: cst.Parameters) -> None:
        ordered: list[tuple[cst.Param, str, bool]] = [(p, "", False) for p in (*params.posonly_params, *params.params)]
        if isinstance(params.star_arg, cst.Param):
            ordered.append((params.star_arg, "*", False))
        ordered += [(p, "", True) for p in params.kwonly_params]
        if params.star_kwarg is not None:
            ordered.append((params.star_kwarg, "**", False))
        for index, (param, star, keyword_only) in enumerate(ordered):
            annotation = param.annotation.annotation if param.annotation else None
            value = Parameter(
                param,
                self.region,
                self.tick(),
                param.name.value,
                index,
                star,
                annotation,
                param.default,
                keyword_only,
            )
            self.function.parameters.append(value)
            self.env.names[param.name.value] = value
            self.function.bindings.setdefault(param.name.value, []).append(value)

    # ------------------------------------------------------------- environments

    def find(self, key: str) -> Any:
        """The value of ``key``; a loop that is entered on the way gets a phi. ``_MISSING`` if nothing binds it."""
        env: _Environment | None = self.env
        loops: list[_Environment] = []
        value: Any = _MISSING
        while env is not None:
            value = env.names.get(key, _MISSING)
            if value is not _MISSING:
                break
            if env.loop is not None and not env.comprehension:
                loops.append(env)
            env = env.parent
        if value is _MISSING or value is None:
            return value
        for env in reversed(loops):
            loop = env.loop
            assert loop is not None
            phi = Phi(loop.node, loop, loop.first, key, [value], loop)
            loop.phis[key] = phi
            env.names[key] = phi
            value = phi
        return value

    def bind(self, key: str, value: Value) -> None:
        env = self.env
        env.names[key] = value
        if env.owner is not None:
            env.owner.attributes.setdefault(key, []).append(value)
        elif not env.comprehension:
            scope = self.function
            if key in scope.global_names:
                outer = self.defining_scope(key)
                if outer is not None:
                    outer.bindings.setdefault(key, []).append(value)
            scope.bindings.setdefault(key, []).append(value)
        self.forget_below(key)

    def forget_below(self, key: str) -> None:
        """What stood at ``key.x`` or ``key[i]`` is out of sight once ``key`` is bound anew."""
        for path in self.paths:
            if path.startswith(key) and len(path) > len(key) and path[len(key)] in ".[":
                self.env.names[path] = None

    def open(self, **kwargs: Any) -> _Environment:
        outer = self.env
        self.env = _Environment(outer, **kwargs)
        return outer

    def enter(self, region: Region) -> Region:
        outer = self.region
        self.region = region
        return outer

    def leave(self, outer: Region) -> None:
        """Back to ``outer``, closing every region that was opened inside it."""
        while self.region is not outer:
            self.region.last = self.order
            assert self.region.parent is not None
            self.region = self.region.parent

    def snapshot(self, until: _Environment) -> dict[str, Value | None]:
        """Bindings made since ``until`` was opened, innermost first, ``until`` included."""
        names: dict[str, Value | None] = {}
        env: _Environment | None = self.env
        while env is not None:
            for key, value in env.names.items():
                names.setdefault(key, value)
            if env is until:
                break
            env = env.parent
        return names

    def join(self, node: cst.CSTNode, envs: Sequence[dict[str, Value | None]], fallthrough: bool) -> None:
        """Merges what branches bound into the current environment; ``fallthrough``: none of them may have run."""
        if len(envs) == 1 and not fallthrough:
            self.env.names.update(envs[0])
            return
        for key in {key: None for names in envs for key in names}:
            inputs: list[Value] = []
            hidden = False
            for names in [*envs, *([{}] if fallthrough else [])]:
                value = names.get(key, _MISSING)
                if value is _MISSING:
                    value = self.find(key)
                if value is _MISSING:
                    continue
                if value is None:
                    hidden = True
                elif not any(value is known for known in inputs):
                    inputs.append(value)
            if not inputs:
                if hidden:
                    self.env.names[key] = None
                continue
            self.env.names[key] = (
                inputs[0] if len(inputs) == 1 else Phi(node, self.region, self.tick(), key, inputs, None)
            )

    # --------------------------------------------------------------- statements

    def suite(self, body: cst.BaseSuite) -> None:
        self.block(body.body)

    def block(self, body: Iterable[cst.BaseStatement | cst.BaseSmallStatement]) -> None:
        outer = self.region
        for statement in body:
            if self.leaves is not None:
                break
            method = _STATEMENTS.get(type(statement))
            if method is not None:
                method(self, statement)
        # Statements such as ``if x: return`` or torch.set_grad_enabled(False) open a region for the rest of the block.
        self.leave(outer)
        if self.leaves is not None:
            self.region.leaves = self.leaves

    def simple_line(self, node: cst.SimpleStatementLine) -> None:
        for statement in node.body:
            method = _STATEMENTS.get(type(statement))
            if method is not None:
                method(self, statement)
            if self.leaves is not None:
                break

    def expr_statement(self, node: cst.Expr) -> None:
        value = self.expression(node.value)
        self.function.statements.append(value)
        if isinstance(value, Call) and value.method in IN_PLACE_DETACH and value.receiver is not None:
            # From here on the name means what the call returns.
            self.rebind(operand_occurrences(value)[0].node, value.receiver, value)
        entered = _entered_for_the_rest(value)
        if entered is not None:
            self.region = With(self.region, self.function, node, self.order, (entered,))

    def assign(self, node: cst.Assign) -> None:
        value = self.expression(node.value)
        for target in node.targets:
            self.store(target.target, value, node)

    def annotated(self, node: cst.AnnAssign) -> None:
        if self.env.owner is not None and isinstance(node.target, cst.Name):
            self.env.owner.annotations[node.target.value] = node.annotation.annotation
        if node.value is not None:
            self.store(node.target, self.expression(node.value), node)

    def augmented(self, node: cst.AugAssign) -> None:
        left = self.expression(node.target)
        right = self.expression(node.value)
        operator = _AUGMENTED.get(type(node.operator), "?")
        value = Binary(node, self.region, self.tick(), operator, left, right, node)
        self.function.sums.append(value)
        self.store(node.target, value, node, augmented=True)

    def store(self, target: cst.CSTNode, value: Value, node: cst.CSTNode, augmented: bool = False) -> None:
        if isinstance(target, cst.Name):
            self.bind(target.value, value)
            self.function.stores.append(
                Store(node, target, self.region, self.tick(), target.value, value, augmented=augmented)
            )
        elif isinstance(target, (cst.Tuple, cst.List)):
            self.unpack(target, value, node)
        elif isinstance(target, cst.StarredElement):
            self.store(target.value, value, node)
        elif isinstance(target, cst.Attribute):
            self.store_attribute(target, value, node, augmented)
        elif isinstance(target, cst.Subscript):
            self.store_item(target, value, node, augmented)

    def store_attribute(self, target: cst.Attribute, value: Value, node: cst.CSTNode, augmented: bool) -> None:
        base = self.expression(target.value)
        name = target.attr.value
        key = path_key(target)
        if key is not None:
            self.env.names[key] = value
            self.forget_below(key)
        self.function.stores.append(
            Store(node, target, self.region, self.tick(), key, value, base, attribute=name, augmented=augmented)
        )

    def store_item(self, target: cst.Subscript, value: Value, node: cst.CSTNode, augmented: bool) -> None:
        base = self.expression(target.value)
        index = self.subscript_index(target)
        key = path_key(target)
        if key is not None:
            self.env.names[key] = value
            self.forget_below(key)
        first = index[0] if index else None
        if first is None:
            first = Opaque(target, self.region, self.tick())
        self.function.stores.append(
            Store(node, target, self.region, self.tick(), key, value, base, index=first, augmented=augmented)
        )

    def unpack(self, target: cst.Tuple | cst.List, value: Value, node: cst.CSTNode) -> None:
        elements = target.elements
        count = len(elements)
        direct = isinstance(value, Display) and not value.starred and len(value.elements) == count
        starred = False
        for index, element in enumerate(elements):
            starred = starred or isinstance(element, cst.StarredElement)
            part: Value
            if direct and not starred:
                assert isinstance(value, Display)
                part = value.elements[index]
            else:
                part = Part(element, self.region, self.tick(), value, None if starred else index, count)
            self.store(element.value, part, node)

    def delete(self, node: cst.Del) -> None:
        targets: list[cst.BaseExpression] = (
            [element.value for element in node.target.elements]
            if isinstance(node.target, (cst.Tuple, cst.List))
            else [node.target]
        )
        for target in targets:
            key = path_key(target)
            if key is None:
                if isinstance(target, cst.Subscript):
                    self.delete_items(node, target)
                continue
            found = self.find(key)
            value = None if found is _MISSING else found
            self.function.deletions.append(Deletion(node, self.region, self.tick(), key, value))
            self.env.names[key] = None

    def delete_items(self, node: cst.Del, target: cst.Subscript) -> None:
        """``del items[:]``, or at an index that is not constant."""
        base = self.expression(target.value)
        key = path_key(target.value)
        if key is not None:
            self.function.deletions.append(Deletion(node, self.region, self.tick(), f"{key}[...]", base))

    def return_(self, node: cst.Return) -> None:
        value = self.expression(node.value) if node.value is not None else self.none(node)
        self.function.exits.append(Exit(node, self.region, self.tick(), "return", value))
        self.leaves = "return"

    def none(self, node: cst.CSTNode) -> Value:
        return Constant(node, self.region, self.tick(), None)

    def raise_(self, node: cst.Raise) -> None:
        if node.exc is not None:
            self.expression(node.exc)
        self.leaves = "raise"

    def assert_(self, node: cst.Assert) -> None:
        self.expression(node.test)

    def jump(self, kind: str) -> None:
        env: _Environment | None = self.env
        while env is not None and (env.loop is None or env.comprehension):
            env = env.parent
        if env is not None:
            (env.continues if kind == "continue" else env.breaks).append(self.snapshot(env))
        self.leaves = kind

    def break_(self, _: cst.Break) -> None:
        self.jump("break")

    def continue_(self, _: cst.Continue) -> None:
        self.jump("continue")

    def global_(self, node: cst.Global | cst.Nonlocal) -> None:
        self.function.global_names.update(item.name.value for item in node.names)

    def import_(self, node: cst.Import) -> None:
        for alias in node.names:
            name = _dotted(alias.name)
            if alias.asname is not None and isinstance(alias.asname.name, cst.Name):
                self.bind(alias.asname.name.value, External(alias, self.region, self.tick(), name))
            else:
                top = name.split(".", 1)[0]
                self.bind(top, External(alias, self.region, self.tick(), top))

    def import_from(self, node: cst.ImportFrom) -> None:
        name = self.module.absolute(_dotted(node.module) if node.module is not None else "", len(node.relative))
        if isinstance(node.names, cst.ImportStar):
            self.module.star_imports.append(name)
            return
        for alias in node.names:
            imported = _dotted(alias.name)
            bound = imported
            if alias.asname is not None and isinstance(alias.asname.name, cst.Name):
                bound = alias.asname.name.value
            self.bind(bound, External(alias, self.region, self.tick(), f"{name}.{imported}" if name else imported))

    def function_definition(self, node: cst.FunctionDef) -> None:
        owner = self.env.owner
        function = Function(node, node.name.value, self.module, self.function, owner)
        function.decorators = [self.expression(decorator.decorator) for decorator in node.decorators]
        for param in (*node.params.posonly_params, *node.params.params, *node.params.kwonly_params):
            if param.default is not None:
                function.defaults[param.name.value] = self.expression(param.default)
        self.function.functions.append(function)
        if owner is not None:
            owner.methods[node.name.value] = function
        self.bind(node.name.value, FunctionValue(node, self.region, self.tick(), function))

    def class_definition(self, node: cst.ClassDef) -> None:
        owner = Class(node, node.name.value, self.module, self.function)
        owner.bases = [self.expression(_unsubscripted(base.value)) for base in node.bases]
        owner.decorators = [self.expression(decorator.decorator) for decorator in node.decorators]
        self.function.classes.append(owner)
        outer = self.open(owner=owner)
        self.suite(node.body)
        self.env = outer
        self.leaves = None
        self.bind(node.name.value, ClassValue(node, self.region, self.tick(), owner))

    # -------------------------------------------------------- compound statements

    def if_(self, node: cst.If) -> None:
        self.branches(node, self.expression(node.test), node.body, node.orelse)

    def branches(self, node: cst.If, test: Value, body: cst.BaseSuite, orelse: cst.If | cst.Else | None) -> None:
        then = Branch(self.region, self.function, node, self.order, test, negated=False)
        other = Branch(self.region, self.function, node, self.order, test, negated=True)
        then.siblings = other.siblings = [then, other]
        open_envs: list[dict[str, Value | None]] = []
        left: list[str] = []
        for branch in (then, other):
            outer, outer_env = self.enter(branch), self.open(owner=self.env.owner)
            branch.first = self.order
            self.narrow_names(test, passed=branch is then)
            if branch is then:
                self.suite(body)
            elif isinstance(orelse, cst.If):
                self.if_(orelse)
            elif orelse is not None:
                self.suite(orelse.body)
            branch.leaves = self.leaves
            if self.leaves is None:
                open_envs.append(self.env.names)
            else:
                left.append(self.leaves)
            self.leaves = None
            self.leave(outer)
            self.env = outer_env
        if not open_envs:
            self.leaves = left[0] if left[0] == left[1] else "return"
            return
        self.join(node, open_envs, fallthrough=False)
        if left and open_envs:
            self.narrow(node, then if then.leaves is None else other)

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

    def rebind(self, node: cst.CSTNode, known: Value, value: Value) -> None:
        key = path_key(node)
        if key is not None and self.find(key) is known:
            self.env.names[key] = value

    def narrow(self, node: cst.If, branch: Branch) -> None:
        """After ``if test: return`` the rest of the block runs under the other branch's condition."""
        rest = Branch(self.region, self.function, node, self.order, branch.test, branch.negated)
        rest.siblings = branch.siblings
        rest.follows = True
        self.region = rest

    def for_(self, node: cst.For) -> None:
        iterable = self.expression(node.iter)
        loop = Loop(self.region, self.function, node, self.order, iterable)
        outer, outer_env = self.enter(loop), self.open(loop=loop, owner=self.env.owner)
        loop.element = Element(node.target, loop, self.tick(), iterable)
        self.store(node.target, loop.element, node)
        self.loop_body(node, loop, outer, outer_env)

    def while_(self, node: cst.While) -> None:
        loop = Loop(self.region, self.function, node, self.order, None)
        outer, outer_env = self.enter(loop), self.open(loop=loop, owner=self.env.owner)
        loop.test = self.expression(node.test)
        self.loop_body(node, loop, outer, outer_env)

    def loop_body(self, node: cst.For | cst.While, loop: Loop, outer: Region, outer_env: _Environment) -> None:
        self.function.loops.append(loop)
        self.suite(node.body)
        env = self.env
        ends: list[dict[str, Value | None]] = [*env.continues]
        if self.leaves is None:
            ends.append(env.names)
        self.leaves = None
        for names in ends:
            for key, value in names.items():
                phi = loop.phis.get(key)
                if phi is not None and value is not None:
                    phi.add(value)
        self.leave(outer)
        self.env = outer_env
        self.after_loop(node, loop, [*ends, *env.breaks], env.breaks)
        if node.orelse is not None:
            self.suite(node.orelse.body)

    def after_loop(
        self,
        node: cst.For | cst.While,
        loop: Loop,
        ends: list[dict[str, Value | None]],
        breaks: list[dict[str, Value | None]],
    ) -> None:
        for key in {key: None for names in ends for key in names}:
            phi = loop.phis.get(key)
            leaving = breaks if phi is not None else ends
            inputs: list[Value] = [] if phi is None else [phi]
            if phi is None:
                before = self.find(key)
                if before is not _MISSING and before is not None:
                    inputs.append(before)
            for names in leaving:
                value = names.get(key)
                if value is not None and not any(value is known for known in inputs):
                    inputs.append(value)
            if not inputs or (inputs == [phi] and len(phi.inputs) == 1):  # type: ignore[union-attr]
                continue
            self.env.names[key] = (
                inputs[0] if len(inputs) == 1 else Phi(node, self.region, self.tick(), key, inputs, None)
            )

    def with_(self, node: cst.With) -> None:
        contexts: list[Value] = []
        outer = self.region
        for item in node.items:
            context = self.expression(item.item)
            contexts.append(context)
            if item.asname is not None:
                self.store(item.asname.name, Entered(item, self.region, self.tick(), context), node)
        self.region = With(outer, self.function, node, self.order, tuple(contexts))
        self.suite(node.body)
        self.leave(outer)

    def try_(self, node: cst.Try | cst.TryStar) -> None:
        outer_env = self.open(owner=self.env.owner)
        outer = self.enter(Try(self.region, self.function, node, self.order))
        self.suite(node.body)
        self.leave(outer)
        body_names = dict(self.env.names)
        if self.leaves is None and node.orelse is not None:
            self.suite(node.orelse.body)
        left = [self.leaves]
        open_envs = [self.env.names] if self.leaves is None else []
        self.leaves = None
        self.env = outer_env
        for handler in node.handlers:
            caught = self.expression(handler.type) if handler.type is not None else None
            outer_env = self.open(owner=self.env.owner)
            outer = self.enter(Handler(self.region, self.function, handler, self.order, caught))
            self.join(handler, [body_names], fallthrough=True)
            if handler.name is not None and isinstance(handler.name.name, cst.Name):
                error = Opaque(handler.name, self.region, self.tick())
                self.bind(handler.name.name.value, error)
            self.suite(handler.body)
            self.region.leaves = self.leaves
            left.append(self.leaves)
            if self.leaves is None:
                open_envs.append(self.env.names)
            self.leaves = None
            self.leave(outer)
            self.env = outer_env
        if open_envs:
            self.join(node, open_envs, fallthrough=False)
        if node.finalbody is not None:
            self.suite(node.finalbody.body)
        if not open_envs and self.leaves is None:
            self.leaves = next((kind for kind in left if kind is not None), None)

    def match(self, node: cst.Match) -> None:
        subject = self.expression(node.subject)
        open_envs: list[dict[str, Value | None]] = []
        siblings: list[Branch] = []
        exhaustive = False
        for case in node.cases:
            branch = Branch(self.region, self.function, case, self.order, subject, negated=False)
            siblings.append(branch)
            branch.siblings = siblings
            outer, outer_env = self.enter(branch), self.open(owner=self.env.owner)
            self.pattern(case.pattern, subject)
            if case.guard is not None:
                self.expression(case.guard)
            elif isinstance(case.pattern, cst.MatchAs) and case.pattern.pattern is None:
                exhaustive = True
            self.suite(case.body)
            branch.leaves = self.leaves
            if self.leaves is None:
                open_envs.append(self.env.names)
            self.leaves = None
            self.leave(outer)
            self.env = outer_env
        if open_envs:
            self.join(node, open_envs, fallthrough=not exhaustive)
        elif exhaustive:
            self.leaves = siblings[0].leaves

    def pattern(self, pattern: cst.CSTNode, subject: Value) -> None:
        """Binds the names of a ``case`` pattern to parts of the subject."""
        if isinstance(pattern, (cst.MatchAs, cst.MatchStar)) and pattern.name is not None:
            self.bind(pattern.name.value, Part(pattern, self.region, self.tick(), subject, None, 0))
        for child in pattern.children:
            if isinstance(child, cst.CSTNode):
                self.pattern(child, subject)

    # -------------------------------------------------------------- expressions

    def expression(self, node: cst.CSTNode) -> Value:
        method = _EXPRESSIONS.get(type(node))
        if method is not None:
            return method(self, node)
        return Opaque(node, self.region, self.tick())

    def name(self, node: cst.Name) -> Value:
        key = node.value
        if key in _NAMED_CONSTANTS:
            return Constant(node, self.region, self.tick(), _NAMED_CONSTANTS[key])
        value = self.find(key)
        if value is _MISSING:
            value = self.outside(node, key)
        if value is None:
            return Opaque(node, self.region, self.tick())
        return value  # type: ignore[no-any-return]

    def outside(self, node: cst.CSTNode, name: str) -> Value:
        """A name that this function does not bind (so far): an enclosing scope's, the module's, a builtin."""
        value = self.from_scopes(node, name)
        if isinstance(value, Free):
            value.scope.captures.setdefault(name, []).append(value)
        if name in self.function.global_names or isinstance(value, Free):
            self.root_env.names[name] = value
            return self.find(name)  # type: ignore[no-any-return]
        return value

    def defining_scope(self, name: str) -> Function | None:
        scope = self.function.parent
        while scope is not None:
            if name in scope.bindings or scope.parent is None:
                return scope
            scope = scope.parent
        return None

    def from_scopes(self, node: cst.CSTNode, name: str) -> Value:
        scope = self.function.parent
        while scope is not None:
            bound = scope.bindings.get(name)
            if bound:
                only = bound[0]
                if len(bound) == 1 or _is_one_import(bound):
                    if type(only) is External:
                        return External(node, self.region, self.tick(), only.qualified_name)
                    if type(only) is FunctionValue:
                        return FunctionValue(node, self.region, self.tick(), only.target)
                    if type(only) is ClassValue:
                        return ClassValue(node, self.region, self.tick(), only.target)
                return Free(node, self.region, self.tick(), name, scope)
            scope = scope.parent
        if name in _BUILTINS:
            return External(node, self.region, self.tick(), f"builtins.{name}")
        if self.module.star_imports:
            found = self.module.project.star_import(self.module, name)
            if found is not None:
                return External(node, self.region, self.tick(), found)
        return Unbound(node, self.region, self.tick(), name)

    def attribute(self, node: cst.Attribute) -> Value:
        base = self.expression(node.value)
        name = node.attr.value
        if type(base) is External:
            return External(node, self.region, self.tick(), f"{base.qualified_name}.{name}")
        if name in self.path_tails:
            return self.tracked(node, lambda: self.load_attribute(node, base, name))
        return self.load_attribute(node, base, name)

    def load_attribute(self, node: cst.Attribute, base: Value, name: str) -> Value:
        value = Attribute(node, self.region, self.tick(), base, name)
        self.function.attributes.append(value)
        return value

    def tracked(self, node: cst.BaseExpression, make: Callable[[], Value]) -> Value:
        """The value at a path that this function stores to somewhere."""
        key = path_key(node)
        if key is None or key not in self.paths:
            return make()
        value = self.find(key)
        if value is None:
            made = make()
            self.env.names[key] = made
            return made
        if value is _MISSING:
            self.entry_env(key).names[key] = make()
            value = self.find(key)
        return value  # type: ignore[no-any-return]

    def entry_env(self, key: str) -> _Environment:
        """Where the first reading of a path belongs: as far out as its root name stays the same."""
        root = key.replace("[", ".").split(".", 1)[0]
        env: _Environment = self.env
        while env.parent is not None and root not in env.names:
            env = env.parent
        if env.loop is not None and root in env.names and env.names[root] is env.loop.phis.get(root):
            while env.parent is not None:
                env = env.parent
                if root in env.names and not (env.loop is not None and env.names[root] is env.loop.phis.get(root)):
                    break
        return env

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

    def subscript(self, node: cst.Subscript) -> Value:
        base = self.expression(node.value)
        index = self.subscript_index(node)
        if self.has_items:
            return self.tracked(node, lambda: Item(node, self.region, self.tick(), base, index))
        return Item(node, self.region, self.tick(), base, index)

    def subscript_index(self, node: cst.Subscript) -> tuple[Value | None, ...]:
        found: list[Value | None] = []
        for element in node.slice:
            part = element.slice
            if isinstance(part, cst.Index):
                value = self.expression(part.value)
                if isinstance(value, Display) and value.kind == "tuple":
                    found.extend(value.elements)
                else:
                    found.append(value)
            else:
                if isinstance(part, cst.Slice):
                    for bound in (part.lower, part.upper, part.step):
                        if bound is not None:
                            self.expression(bound)
                found.append(None)
        return tuple(found)

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

    def comprehension_target(self, target: cst.BaseExpression, value: Value) -> None:
        if isinstance(target, cst.Name):
            self.env.names[target.value] = value
        elif isinstance(target, (cst.Tuple, cst.List)):
            for index, element in enumerate(target.elements):
                part = Part(element, self.region, self.tick(), value, index, len(target.elements))
                self.comprehension_target(element.value, part)

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


def _is_one_import(bound: list[Value]) -> bool:
    """Whether a name is imported several times, and is the same each time: ``import torch`` and ``import torch.nn``."""
    names = {each.qualified_name if type(each) is External else None for each in bound}
    return len(names) == 1 and None not in names


def _unsubscripted(base: cst.BaseExpression) -> cst.BaseExpression:
    """``Base`` for a base class that is written ``Base[T]``."""
    return base.value if isinstance(base, cst.Subscript) else base


def _dotted(node: cst.BaseExpression) -> str:
    if isinstance(node, cst.Attribute):
        return f"{_dotted(node.value)}.{node.attr.value}"
    return node.value if isinstance(node, cst.Name) else ""


def _number(text: str) -> object:
    if text.isdecimal() and len(text) < _MAX_PLAIN_DIGITS:
        return int(text)  # what almost all are; literal_eval compiles a program for each
    try:
        return float(text) if "." in text and not text.endswith(("j", "J")) else ast.literal_eval(text)
    except ValueError:  # more digits than sys.get_int_max_str_digits allows
        return None


_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", "'": "'", '"': '"', "\n": ""}
"""What the usual escapes stand for."""


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


_TOLD_APART = (".Tensor", ".Module", ".PreTrainedModel")
"""Endings of classes whose instances a failed ``isinstance`` shows a value not to be."""


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


def _entered_for_the_rest(value: Value) -> Value | None:
    """What a statement enters without a ``with``: ``set_grad_enabled(...)``, ``stack.enter_context(...)``."""
    if not isinstance(value, Call):
        return None
    if isinstance(value.callee, External) and value.callee.qualified_name in SET_GRAD_ENABLED:
        return value
    if value.method == "enter_context" and value.arguments:
        return value.arguments[0].value
    return value.receiver if value.method == "__enter__" else None


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
_AUGMENTED: dict[type, str] = {
    cst.AddAssign: "+",
    cst.SubtractAssign: "-",
    cst.MultiplyAssign: "*",
    cst.DivideAssign: "/",
    cst.FloorDivideAssign: "//",
    cst.ModuloAssign: "%",
    cst.PowerAssign: "**",
    cst.MatrixMultiplyAssign: "@",
    cst.BitAndAssign: "&",
    cst.BitOrAssign: "|",
    cst.BitXorAssign: "^",
    cst.LeftShiftAssign: "<<",
    cst.RightShiftAssign: ">>",
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
_STATEMENTS: dict[type, Callable[[_Lowering, Any], None]] = {
    cst.SimpleStatementLine: _Lowering.simple_line,
    cst.Expr: _Lowering.expr_statement,
    cst.Assign: _Lowering.assign,
    cst.AnnAssign: _Lowering.annotated,
    cst.AugAssign: _Lowering.augmented,
    cst.Del: _Lowering.delete,
    cst.Return: _Lowering.return_,
    cst.Raise: _Lowering.raise_,
    cst.Assert: _Lowering.assert_,
    cst.Break: _Lowering.break_,
    cst.Continue: _Lowering.continue_,
    cst.Global: _Lowering.global_,
    cst.Nonlocal: _Lowering.global_,
    cst.Import: _Lowering.import_,
    cst.ImportFrom: _Lowering.import_from,
    cst.FunctionDef: _Lowering.function_definition,
    cst.ClassDef: _Lowering.class_definition,
    cst.If: _Lowering.if_,
    cst.For: _Lowering.for_,
    cst.While: _Lowering.while_,
    cst.With: _Lowering.with_,
    cst.Try: _Lowering.try_,
    cst.TryStar: _Lowering.try_,
    cst.Match: _Lowering.match,
}
_EXPRESSIONS: dict[type, Callable[[_Lowering, Any], Value]] = {
    cst.Name: _Lowering.name,
    cst.Attribute: _Lowering.attribute,
    cst.Call: _Lowering.call,
    cst.Subscript: _Lowering.subscript,
    cst.BinaryOperation: _Lowering.binary,
    cst.UnaryOperation: _Lowering.unary,
    cst.BooleanOperation: _Lowering.boolean,
    cst.Comparison: _Lowering.comparison,
    cst.IfExp: _Lowering.conditional,
    cst.Lambda: _Lowering.lambda_,
    cst.Tuple: _Lowering.display,
    cst.List: _Lowering.display,
    cst.Set: _Lowering.display,
    cst.Dict: _Lowering.dictionary,
    cst.ListComp: _Lowering.comprehension,
    cst.SetComp: _Lowering.comprehension,
    cst.DictComp: _Lowering.comprehension,
    cst.GeneratorExp: _Lowering.comprehension,
    cst.NamedExpr: _Lowering.walrus,
    cst.Await: _Lowering.await_,
    cst.Yield: _Lowering.yield_,
    cst.Integer: _Lowering.integer,
    cst.Float: _Lowering.number,
    cst.Imaginary: _Lowering.number,
    cst.SimpleString: _Lowering.string,
    cst.ConcatenatedString: _Lowering.concatenated,
    cst.FormattedString: _Lowering.formatted,
    cst.Ellipsis: _Lowering.ellipsis,
    cst.StarredElement: _Lowering.starred,
}
