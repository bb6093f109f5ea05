"""Who holds the memory of a tensor: names, containers, and what autograd has saved for the backward."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import argument_parameters, callees
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.kinds import Role, kinds, role
from memlint.model.knowledge import frameworks, saving, torch
from memlint.model.memo import query
from memlint.model.values import (
    Attribute,
    Awaited,
    Binary,
    Call,
    Choice,
    Comparison,
    Constant,
    Display,
    Element,
    Exit,
    Formatted,
    Item,
    Narrowed,
    Parameter,
    Part,
    Phi,
    Store,
    Unary,
    Value,
)

_MAX_VALUES = 400


@dataclass
class Holders:
    """What holds the memory of a value within its function."""

    names: list[Store] = field(default_factory=list)
    """Local variables that are bound to it, to a view of it, or to a structure that has it."""
    uses: list[Value | Store | Exit] = field(default_factory=list)
    """What reads it, names and views left out."""
    carried: bool = False
    """Whether the next iteration reads it."""
    saved: bool = False
    """Whether autograd saves it, or other objects keep it."""
    unknown: bool = False
    """Whether it goes through code that is not in sight and may save it."""


def holders(value: Value, losses: frozenset[int] = frozenset(), graph: frozenset[int] | None = None) -> Holders:
    """Who holds ``value``, the result of a call or a parameter, in its function.

    ``losses``: ids of values that are scalars; ``graph``: ids of those that the backward runs over, if that is known.
    """
    walk = _Walk(losses, graph)
    walk.run(value)
    return walk.found


class _Walk:
    """Follows a value through names, views and structures."""

    def __init__(self, losses: frozenset[int], graph: frozenset[int] | None) -> None:
        self.losses = losses
        self.graph = graph
        self.found = Holders()
        self.seen: set[int] = set()
        self.pending: list[tuple[Value, bool]] = []

    def run(self, value: Value) -> None:
        self.pending.append((value, False))
        while self.pending:
            current, carried = self.pending.pop()
            if id(current) in self.seen or id(current) in self.losses:
                continue
            self.seen.add(id(current))
            if len(self.seen) > _MAX_VALUES:
                self.found.saved = True
                return
            for use in current.uses:
                self.follow(current, use, carried)

    def follow(self, value: Value, use: Value | Store | Exit, carried: bool) -> None:
        match use:
            case Phi():
                self.pending.append((use, carried or use.loop is not None))
                return
            case Choice() | Awaited() | Narrowed() | Display() | Item() | Part() | Element():
                self.pending.append((use, carried))
            case Attribute():
                self.attribute(use, carried)
            case Store():
                self.store(value, use)
            case Binary():
                self.binary(value, use, carried)
            case Call():
                self.call(value, use, carried)
            case Exit() | Comparison() | Formatted() | Unary():
                pass
            case _:
                self.found.unknown = True
        self.found.uses.append(use)
        self.found.carried |= carried

    def attribute(self, use: Attribute, carried: bool) -> None:
        called = [user for user in use.uses if isinstance(user, Call) and user.callee is use]
        if called:
            for user in called:
                self.found.uses.append(user)
                self.consumed(user, user.method or "", carried)
        elif use.name == "data" or (use.name not in torch.DETACHING_ATTRIBUTES and use.name != "loss"):
            self.pending.append((use, carried))

    def store(self, value: Value, use: Store) -> None:
        if use.value is not value:
            return
        function = use.function
        captured = use.key in function.global_names or bool(function.captures.get(use.key or ""))
        if use.base is not None or captured or (function.parent is None and _is_read_in_functions(use)):
            self.found.saved = True
        else:
            self.found.names.append(use)

    def binary(self, value: Value, use: Binary, carried: bool) -> None:
        if use.augmented is not None and use.left is value:
            self.pending.append((use, carried))
        other = use.right if use.left is value else use.left
        plain = isinstance(other, Constant) or not role(other, Role.TENSOR, Role.OUTPUT, Role.BATCH)
        if use.operator in {"**", "@", "%"} or (use.operator in {"*", "/"} and not plain):
            self.found.saved |= _records(use)

    def call(self, value: Value, use: Call, carried: bool) -> None:
        if use.callee is not value:
            self.consumed(use, use.name, carried, value)

    def consumed(self, call: Call, name: str, carried: bool, argument: Value | None = None) -> None:
        """What a call does with the value: as its receiver, or as ``argument``."""
        functions = callees(call)
        if functions and argument is not None:
            self.entered(call, argument, carried)
        elif name in saving.VIEWS:
            self.pending.append((call, carried))
        elif argument is not None and role(call.callee, Role.LOSS_FUNCTION, Role.MODULE):
            self.through_module(call, argument)
        elif argument is not None and name in {"append", "add", "extend", "update", "put", "appendleft"}:
            self.found.saved = True
        elif name in saving.FREE_OF_INPUT or not _records(call) or _forgets(call):
            return
        elif argument is None or any(n.startswith("torch.") for n in qualified_names(call.callee)):
            self.found.saved = True
        elif (self.graph is None or id(call) in self.graph) and not _scores_classes(call, argument):
            self.found.unknown = True

    def entered(self, call: Call, argument: Value, carried: bool) -> None:
        for given in call.arguments:
            for parameter in argument_parameters(call, given) if given.value is argument else ():
                fate = fate_of(parameter)
                self.found.saved |= fate.saved
                self.found.unknown |= fate.unknown
                if fate.returned:
                    self.pending.append((call, carried))

    def through_module(self, call: Call, argument: Value) -> None:
        classes = {kind.name for kind in kinds(call.callee) if kind.role in {Role.LOSS_FUNCTION, Role.MODULE}}
        lasts = {name.rpartition(".")[2] for name in classes if name.startswith("torch.nn.")}
        if not lasts or len(lasts) < len(classes):
            self.found.unknown |= not _scores_classes(call, argument)
        elif not lasts <= saving.FREE_LOSSES:
            self.found.saved = True


class Fate(NamedTuple):
    """What a function does with a parameter."""

    saved: bool
    unknown: bool
    returned: bool


@query(on_cycle=Fate(False, True, False))
def fate_of(parameter: Parameter) -> Fate:
    """Whether the function of ``parameter`` saves it, or hands it back."""
    found = holders(parameter)
    return Fate(found.saved, found.unknown, any(isinstance(use, Exit) for use in found.uses))


def _scores_classes(call: Call, scores: Value) -> bool:
    """Whether a loss out of sight gets scores with the classes in one dimension, and targets: a cross entropy."""
    return len(call.arguments) > 1 and any(
        isinstance(source, Call) and source.method in {"view", "reshape", "flatten", "transpose", "permute"}
        for source in sources(scores)
    )


def _records(value: Value) -> bool:
    return grad_mode(value.region) is not GradMode.DISABLED


def _forgets(call: Call) -> bool:
    """Whether ``call`` formats or logs what it is given, or hands it to a library that knows no autograd."""
    return call.method in frameworks.DETACHING_SINK_METHODS or any(
        name.startswith(torch.DETACHING_ROOTS) or name in torch.DETACHING_FUNCTIONS
        for name in qualified_names(call.callee)
    )


def _is_read_in_functions(store: Store) -> bool:
    """Whether functions of the file read a variable of its top level."""
    for function in store.function.walk():
        if function is not store.function and store.function.captures.get(store.key or ""):
            return True
    return False


def is_saved_result(call: Call) -> bool:
    """Whether autograd saves what ``call`` returns, so that names of it hold nothing more."""
    if call.name in saving.SAVED_RESULT:
        return True
    lasts = {kind.name.rpartition(".")[2] for kind in kinds(call.callee) if kind.name.startswith("torch.nn.")}
    return bool(lasts & saving.SAVED_RESULT_MODULES)


def producers(value: Value) -> Iterator[Call]:
    """The calls that allocate what ``value`` is, or is a view or a copy in another type of."""
    seen: set[int] = set()
    pending: list[Value] = [value]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        for source in sources(current):
            if isinstance(source, Call) and source.receiver is not None and source.name in saving.VIEWS:
                pending.append(source.receiver)
            elif isinstance(source, Call) and not source.receiver and source.name in saving.VIEWS and source.arguments:
                pending.append(source.arguments[0].value)
            elif isinstance(source, Call):
                yield source
            elif isinstance(source, (Item, Attribute)):
                pending.append(source.base)
            elif isinstance(source, Binary) and isinstance(source.right, Constant):
                pending.append(source.left)
