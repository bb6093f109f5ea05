"""Reads of names, attributes and items."""

from __future__ import annotations

import builtins
from collections.abc import Callable

import libcst as cst

from memlint.model.lowering.environment import MISSING, Environment, State
from memlint.model.paths import path_key
from memlint.model.values import (
    Attribute,
    ClassValue,
    Constant,
    Display,
    External,
    Free,
    FunctionValue,
    Item,
    Opaque,
    Unbound,
    Value,
)

_BUILTINS = frozenset(dir(builtins))
_NAMED_CONSTANTS: dict[str, object] = {"None": None, "True": True, "False": False}


class Names(State):
    """A walk that reads what is bound."""

    def name(self, node: cst.Name) -> Value:
        key = node.value
        if key in _NAMED_CONSTANTS:
            return Constant(node, self.region, self.tick(), _NAMED_CONSTANTS[key])
        value = self.find(key)
        if value is MISSING:
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
        if value is MISSING:
            self.entry_env(key).names[key] = make()
            value = self.find(key)
        return value  # type: ignore[no-any-return]

    def entry_env(self, key: str) -> Environment:
        """Where the first reading of a path belongs: as far out as its root name stays the same."""
        root = key.replace("[", ".").split(".", 1)[0]
        env: Environment = self.env
        while env.parent is not None and root not in env.names:
            env = env.parent
        if env.loop is not None and root in env.names and env.names[root] is env.loop.phis.get(root):
            while env.parent is not None:
                env = env.parent
                if root in env.names and not (env.loop is not None and env.names[root] is env.loop.phis.get(root)):
                    break
        return env

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


def _is_one_import(bound: list[Value]) -> bool:
    """Whether a name is imported several times, and is the same each time: ``import torch`` and ``import torch.nn``."""
    names = {each.qualified_name if type(each) is External else None for each in bound}
    return len(names) == 1 and None not in names
