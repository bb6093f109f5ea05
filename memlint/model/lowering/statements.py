"""What each kind of statement does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import libcst as cst

from memlint.model.knowledge.torch import IN_PLACE_DETACH, SET_GRAD_ENABLED
from memlint.model.lowering.environment import MISSING, Environment
from memlint.model.lowering.expressions import Expressions
from memlint.model.paths import dotted_name, stored_paths
from memlint.model.scopes import Class, Function
from memlint.model.values import (
    Binary,
    Branch,
    Call,
    ClassValue,
    Element,
    Entered,
    Exit,
    External,
    FunctionValue,
    Handler,
    Loop,
    Opaque,
    Parameter,
    Part,
    Phi,
    Region,
    Try,
    Value,
    With,
    operand_occurrences,
)

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


class Statements(Expressions):
    """A walk through statements."""

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

    def return_(self, node: cst.Return) -> None:
        value = self.expression(node.value) if node.value is not None else self.none(node)
        self.function.exits.append(Exit(node, self.region, self.tick(), "return", value))
        self.leaves = "return"

    def raise_(self, node: cst.Raise) -> None:
        if node.exc is not None:
            self.expression(node.exc)
        self.leaves = "raise"

    def assert_(self, node: cst.Assert) -> None:
        self.expression(node.test)

    def jump(self, kind: str) -> None:
        env: Environment | None = self.env
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
            name = dotted_name(alias.name)
            if alias.asname is not None and isinstance(alias.asname.name, cst.Name):
                self.bind(alias.asname.name.value, External(alias, self.region, self.tick(), name))
            else:
                top = name.split(".", 1)[0]
                self.bind(top, External(alias, self.region, self.tick(), top))

    def import_from(self, node: cst.ImportFrom) -> None:
        name = self.module.absolute(dotted_name(node.module) if node.module else "", len(node.relative))
        if isinstance(node.names, cst.ImportStar):
            self.module.star_imports.append(name)
            return
        for alias in node.names:
            imported = dotted_name(alias.name)
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
        if owner is not None and not function.is_setter:
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

    def loop_body(self, node: cst.For | cst.While, loop: Loop, outer: Region, outer_env: Environment) -> None:
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
                if before is not MISSING and before is not None:
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


def _unsubscripted(base: cst.BaseExpression) -> cst.BaseExpression:
    """``Base`` for a base class that is written ``Base[T]``."""
    return base.value if isinstance(base, cst.Subscript) else base


def _entered_for_the_rest(value: Value) -> Value | None:
    """What a statement enters without a ``with``: ``set_grad_enabled(...)``, ``stack.enter_context(...)``."""
    if not isinstance(value, Call):
        return None
    if isinstance(value.callee, External) and value.callee.qualified_name in SET_GRAD_ENABLED:
        return value
    if value.method == "enter_context" and value.arguments:
        return value.arguments[0].value
    return value.receiver if value.method == "__enter__" else None


_STATEMENTS: dict[type, Callable[[Statements, Any], None]] = {
    cst.SimpleStatementLine: Statements.simple_line,
    cst.Expr: Statements.expr_statement,
    cst.Assign: Statements.assign,
    cst.AnnAssign: Statements.annotated,
    cst.AugAssign: Statements.augmented,
    cst.Del: Statements.delete,
    cst.Return: Statements.return_,
    cst.Raise: Statements.raise_,
    cst.Assert: Statements.assert_,
    cst.Break: Statements.break_,
    cst.Continue: Statements.continue_,
    cst.Global: Statements.global_,
    cst.Nonlocal: Statements.global_,
    cst.Import: Statements.import_,
    cst.ImportFrom: Statements.import_from,
    cst.FunctionDef: Statements.function_definition,
    cst.ClassDef: Statements.class_definition,
    cst.If: Statements.if_,
    cst.For: Statements.for_,
    cst.While: Statements.while_,
    cst.With: Statements.with_,
    cst.Try: Statements.try_,
    cst.TryStar: Statements.try_,
    cst.Match: Statements.match,
}
