"""Which object a value is: one object under many names and behind wrappers, as seen from a function or its callers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import aliases, instance_class, mro, qualified_names, sources, zipped
from memlint.model.calls import bound_arguments, passed_arguments
from memlint.model.containers import elements
from memlint.model.kinds import Role, class_of, role
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Constant,
    Element,
    Entered,
    External,
    Free,
    Item,
    Parameter,
    Part,
    Unbound,
    Value,
)

ANY = "*"
"""The step of a path to an element whose index is not known."""
_LONGEST_PATH = 6
"""Steps of a path that are told apart. A function that calls itself on a part of its argument has no longest one."""


class Object(NamedTuple):
    """An object, by where its way starts (a call that makes it, a parameter, an instance) and the way from there."""

    root: Hashable
    path: tuple[Hashable, ...] = ()

    def part(self, *steps: Hashable) -> Object:
        """What is at the end of further ``steps``."""
        return Object(self.root, (*self.path, *steps)[:_LONGEST_PATH])

    def holds(self, other: Object) -> bool:
        """Whether ``other`` is this object or a part of it; unknown indices count as the same."""
        if self.root != other.root or len(self.path) > len(other.path):
            return False
        pairs = zip(self.path, other.path[: len(self.path)], strict=True)
        return all(mine == theirs or ANY in (mine, theirs) for mine, theirs in pairs)


Objects = frozenset[Object]
"""The objects that a value may be, each under every name by which it may be known."""


def holds(container: Iterable[Object], content: Iterable[Object]) -> bool:
    """Whether one of ``container`` may be, or have as a part, one of ``content``."""
    content = tuple(content)
    return any(outer.holds(inner) for outer in container for inner in content)


@query(on_cycle=frozenset())
def objects(value: Value) -> Objects:
    """The objects that ``value`` may be, in terms of its function: parameters stand for themselves."""
    return frozenset(_objects(value))


def everywhere(found: Objects) -> Objects:
    """``found`` and what the project's calls pass for the parameters in it."""
    known = set(found)
    pending = list(found)
    while pending:
        current = pending.pop()
        if isinstance(current.root, Parameter):
            for passed in passed_arguments(current.root) or ():
                nearer = {each.part(*current.path) for each in objects(passed)} - known
                known |= nearer
                pending += nearer
    return frozenset(known)


def seen_from(found: Objects, call: Call, function: Function) -> Objects:
    """``found`` in ``function`` in terms of the caller: what ``call`` passes stands for the parameters."""
    bound = bound_arguments(call, function)
    return frozenset(rebased for each in found for rebased in _rebased(each, call, function, bound))


def _rebased(found: Object, call: Call, function: Function, bound: dict[str, Value]) -> Iterator[Object]:
    parameter = found.root
    if not isinstance(parameter, Parameter) or parameter.function is not function:
        yield found
    elif parameter.name in bound:
        yield from (passed.part(*found.path) for passed in objects(bound[parameter.name]))
    elif parameter.star == "*" and found.path:
        # An element of *args is one of the positional arguments that no other parameter takes.
        plain = sum(not p.star and not p.keyword_only for p in function.parameters) - function.is_method
        for argument in call.positional()[max(plain, 0) :]:
            yield from (passed.part(*found.path[1:]) for passed in objects(argument))


def _objects(value: Value) -> Iterator[Object]:
    owner = instance_class(value)
    if owner is not None:
        # One instance runs the methods of all its classes.
        yield Object(("instance", list(mro(owner))[-1]))
        return
    yield from _from_here(value)
    for nearer in aliases(value) or ():
        yield from objects(nearer)


def _from_here(value: Value) -> Iterator[Object]:
    """The objects by what the value itself says, whatever it is another name of."""
    match value:
        case Parameter():
            yield Object(value)
        case External():
            yield Object(("name", value.qualified_name))
        case Free() | Unbound():
            yield Object(("name", value.name))
        case Call():
            yield from _returned(value)
        case Attribute():
            yield from _attribute(value)
        case Item() | Part():
            yield from _component(value)
        case Element():
            yield from _element(value)
        case Binary(augmented=cst.AugAssign()):
            # A tensor, list or set is changed in place.
            yield from objects(value.left)
        case Entered():
            yield from objects(value.context)


def _returned(call: Call) -> Iterator[Object]:
    inner = _wrapped(call)
    if inner is not None:
        yield from objects(inner)
        return
    yield Object(call)
    if role(call, Role.OPTIMIZER):
        # A wrapper such as Lookahead(optimizer), or DistributedOptimizer(optimizer, ...).
        for argument in call.arguments:
            if role(argument.value, Role.OPTIMIZER):
                yield from objects(argument.value)


_COPIES = frozenset({"copy.copy", "copy.deepcopy"})
_PREPARING = frozenset({"prepare", "setup", "prepare_model", "prepare_optimizer", "setup_module", "unwrap_model"})


def _wrapped(call: Call) -> Value | None:
    """The object that a call returns itself or a wrapper of."""
    receiver = call.receiver
    if receiver is not None:
        if call.method in torch.SELF_RETURNING or call.method in {"parameters", "named_parameters"}:
            return receiver
        if _prepares(call) and len(call.arguments) == 1:
            return call.arguments[0].value
    names = qualified_names(call.callee)
    if call.arguments and names & torch.MODULE_WRAPPERS and not names & _COPIES:
        return call.argument("module", 0) or call.argument("model", 0)
    return None


def _prepares(call: Call) -> bool:
    """Whether Accelerate or Fabric wraps what ``call`` passes."""
    return call.method in _PREPARING and call.receiver is not None and bool(role(call.receiver, Role.ACCELERATOR))


def _attribute(value: Attribute) -> Iterator[Object]:
    base = objects(value.base)
    if value.name == "module" and not _declares(value.base, "module"):
        # What DataParallel and DistributedDataParallel wrap.
        yield from base
    yield from (each.part(value.name) for each in base)
    owner = class_of(value.base)
    if owner is not None:
        yield Object(("instance", list(mro(owner))[-1]), (value.name,))


def _declares(value: Value, name: str) -> bool:
    owner = class_of(value)
    return owner is not None and any(name in cls.instance_stores for cls in mro(owner))


def _component(value: Item | Part) -> Iterator[Object]:
    paired = zipped(value)
    if paired is not None:
        yield from _elements_of(paired)
    index = _index(value)
    for source in sources(value.base):
        given = _prepared_argument(source, index) if isinstance(source, Call) and isinstance(index, int) else None
        if given is not None:
            yield from objects(given)
    step = ANY if index is None else index
    yield from (each.part(step) for each in objects(value.base))
    if index is None:
        for element in elements(value.base):
            yield from objects(element)


def _prepared_argument(call: Call, index: int) -> Value | None:
    """What ``call`` was given for the component ``index`` of the tuple that it returns."""
    if qualified_names(call.callee) & frameworks.ENGINE_FACTORIES:
        return call.argument("model", 1) if index == 0 else call.argument("optimizer", 2) if index == 1 else None
    arguments = call.positional() if _prepares(call) else []
    return arguments[index] if 0 <= index < len(arguments) else None


def _index(value: Item | Part) -> Hashable | None:
    if isinstance(value, Part):
        return value.index
    index = value.index[0] if len(value.index) == 1 else None
    constant = index.constant if isinstance(index, Constant) else None
    return constant if isinstance(constant, (int, str)) else None


def _element(value: Element) -> Iterator[Object]:
    if role(value.iterable, Role.PARAMETERS):
        yield from objects(value.iterable)
    yield from _elements_of(value.iterable)


def _elements_of(iterable: Value) -> Iterator[Object]:
    """What an iteration over ``iterable`` may yield, whichever element it is."""
    yield from (each.part(ANY) for each in objects(iterable))
    for element in elements(iterable):
        yield from objects(element)
