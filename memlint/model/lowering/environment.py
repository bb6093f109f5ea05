"""What names are bound to while a function body is walked: environments, regions, joins of branches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import libcst as cst

from memlint.model.paths import path_key
from memlint.model.scopes import Class, Function
from memlint.model.values import (
    Loop,
    Phi,
    Region,
    Value,
)

MISSING: Any = object()


class Environment:
    """What names are bound to in one open branch or loop body; ``None`` marks a binding that is out of sight."""

    __slots__ = ("breaks", "comprehension", "continues", "loop", "names", "owner", "parent")

    def __init__(
        self,
        parent: Environment | None,
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


class State:
    """Where the walk through one function body stands."""

    def __init__(self, function: Function) -> None:
        self.function = function
        self.module = function.module
        self.region: Region = function.body
        self.order = 0
        self.env = Environment(None)
        self.root_env = self.env
        self.leaves: str | None = None
        self.paths: frozenset[str] = frozenset()
        self.path_tails: frozenset[str] = frozenset()
        self.has_items = False

    def expression(self, node: cst.CSTNode) -> Value:
        """The value of an expression; what stands in it is evaluated first."""
        raise NotImplementedError

    def tick(self) -> int:
        self.order += 1
        return self.order

    def find(self, key: str) -> Any:
        """The value of ``key``; a loop that is entered on the way gets a phi. ``MISSING`` if nothing binds it."""
        env: Environment | None = self.env
        loops: list[Environment] = []
        value: Any = MISSING
        while env is not None:
            value = env.names.get(key, MISSING)
            if value is not MISSING:
                break
            if env.loop is not None and not env.comprehension:
                loops.append(env)
            env = env.parent
        if value is MISSING or value is None:
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

    def defining_scope(self, name: str) -> Function | None:
        scope = self.function.parent
        while scope is not None:
            if name in scope.bindings or scope.parent is None:
                return scope
            scope = scope.parent
        return None

    def open(self, **kwargs: Any) -> Environment:
        outer = self.env
        self.env = Environment(outer, **kwargs)
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

    def snapshot(self, until: Environment) -> dict[str, Value | None]:
        """Bindings made since ``until`` was opened, innermost first, ``until`` included."""
        names: dict[str, Value | None] = {}
        env: Environment | None = self.env
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
                value = names.get(key, MISSING)
                if value is MISSING:
                    value = self.find(key)
                if value is MISSING:
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

    def rebind(self, node: cst.CSTNode, known: Value, value: Value) -> None:
        key = path_key(node)
        if key is not None and self.find(key) is known:
            self.env.names[key] = value
