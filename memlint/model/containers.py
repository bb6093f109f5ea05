"""Containers: where they are made, what is put into them, and who takes it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import instance_class, instance_loads, qualified_names, sources
from memlint.model.memo import query
from memlint.model.scopes import Class
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    Choice,
    Comprehension,
    Constant,
    Display,
    External,
    Item,
    Parameter,
    Phi,
    Region,
    Store,
    Value,
)

GROWING_METHODS = frozenset(
    {"append", "appendleft", "add", "put", "put_nowait", "insert", "extend", "extendleft", "update"}
)
"""Methods of lists, deques, sets, dicts and queues that keep what they are given."""

_OF_ONE_ARGUMENT = frozenset({"append", "appendleft", "add", "extend", "extendleft"})
"""Those of them that take one argument; what is given more is an object of another kind."""

FACTORIES = frozenset(
    {
        "builtins.list",
        "builtins.dict",
        "builtins.set",
        "collections.deque",
        "collections.defaultdict",
        "collections.OrderedDict",
        "queue.Queue",
        "queue.SimpleQueue",
        "multiprocessing.Queue",
    }
)


class Insertion(NamedTuple):
    """``container`` keeps ``value`` from ``event`` on."""

    container: Value
    value: Value
    event: Call | Store | Binary | Comprehension
    node: cst.CSTNode
    """The expression that is put in."""
    holder: cst.CSTNode
    """The expression that names the container."""


def insertions_of(call: Call) -> Iterator[Insertion]:
    """What a call such as ``container.append(value)`` puts where."""
    receiver = call.receiver
    function = call.node.func
    if (
        receiver is None
        or not isinstance(function, cst.Attribute)
        or call.method not in GROWING_METHODS
        or not call.arguments
        or (call.method in _OF_ONE_ARGUMENT and len(call.arguments) > 1)
    ):
        return
    position = 1 if call.method == "insert" and len(call.arguments) > 1 else 0
    for argument in call.arguments if call.method == "update" else call.arguments[position : position + 1]:
        yield Insertion(receiver, argument.value, call, argument.node.value, function.value)


def is_container(value: Value) -> bool:
    """Whether every known origin of ``value`` is a list, dict, set, deque or queue made in Python."""
    origins = container_origins(value)
    return bool(origins)


def is_made_here(value: Value) -> bool:
    """Whether ``value`` is the very expression that makes a list, dict, set, deque or queue."""
    match value:
        case Display(kind="list" | "dict" | "set"):
            return True
        case Call(callee=External() as callee):
            return callee.qualified_name in FACTORIES
    return False


@query(on_cycle=())
def container_origins(value: Value) -> tuple[Value, ...]:
    """The displays, comprehensions and calls that made the container ``value``; empty if one of them is unknown."""
    found: list[Value] = []
    for source in sources(value):
        match source:
            case Comprehension():
                found.append(source)
            case Display() | Call() if is_made_here(source):
                found.append(source)
            case Binary(operator="+" | "*") if is_container(source.left) or is_container(source.right):
                found.append(source)
            case Item() if container_origins(source.base):
                found.extend(container_origins(source.base))
            case Call() if source.method in {"setdefault", "get"} and source.receiver is not None:
                found.extend(container_origins(source.receiver))
            case Constant():
                continue
            case _:
                return ()
    return tuple(dict.fromkeys(found))


def names_of(value: Value) -> Iterator[Value]:
    """The values by which the object ``value`` is known: its names at later points, its attribute in other methods."""
    seen: set[int] = set()
    read: set[tuple[Class, str]] = set()
    pending: list[Value] = [value, *sources(value)]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        for use in current.uses:
            if isinstance(use, (Phi, Choice)):
                pending.append(use)
            elif isinstance(use, Store) and use.attribute is not None and use.value is current and use.base is not None:
                pending.extend(_loads(use.base, use.attribute, read))
            elif isinstance(use, Store) and use.base is None and use.value is current:
                pending.extend(use.function.captures.get(use.key or "", ()))
        if isinstance(current, Attribute):
            pending.extend(_loads(current.base, current.name, read))


def _loads(base: Value, name: str, read: set[tuple[Class, str]]) -> tuple[Value, ...]:
    """Where ``self.name`` is read, if that is none of the attributes that have been ``read`` before."""
    owner = instance_class(base)
    if owner is None or (owner, name) in read:
        return ()
    read.add((owner, name))
    return instance_loads(owner, name)


def _written_out(container: Value) -> Iterator[Value]:
    """The elements that stand where ``container`` is made."""
    match container:
        case Display():
            yield from container.elements
        case Comprehension():
            yield container.element
        case Call() if qualified_names(container.callee) == {"builtins.dict"}:
            yield from (argument.value for argument in container.arguments if argument.keyword is not None)
        case Binary(operator="+"):
            yield from (
                e for side in (container.left, container.right) if isinstance(side, Display) for e in side.elements
            )


@query(on_cycle=())
def elements(container: Value) -> tuple[Value, ...]:
    """The values that are known to be put into ``container``, by functions that it is passed to as well."""
    # What a function puts into its arguments is known by the elements of its parameters.
    from memlint.model.calls import gathered_arguments
    from memlint.model.deposits import deposited

    found: list[Value] = []
    if isinstance(container, Parameter) and container.star:
        found.extend(gathered_arguments(container))
    for name in names_of(container):
        found.extend(_written_out(name))
        for use in name.uses:
            if isinstance(use, Attribute):
                for user in use.uses:
                    if isinstance(user, Call) and user.callee is use:
                        found.extend(insertion.value for insertion in insertions_of(user))
            elif isinstance(use, Store) and use.base is name and use.index is not None:
                found.append(use.value)
            elif isinstance(use, Call) and use.callee is not name:
                found.extend(deposited(use, name))
    return tuple(dict.fromkeys(found))


def is_emptied_in(container: Value, region: Region) -> bool:
    """Whether the container is cleared, or drained by ``pop``, in each run of ``region``."""
    if any(_calls_one_of(name, EMPTYING, region) for name in (*names_of(container), *_reads_beside(container))):
        return True
    return any(
        isinstance(deletion.node.target, cst.Subscript)
        and deletion.region.within(region)
        and deletion.value is container
        for deletion in region.function.deletions
    )


def is_consumed(container: Value) -> bool:
    """Whether what is put into the container, or into others beside it, is taken out again: ``queues[i].pop(0)``."""
    beside = names_of(container.base) if isinstance(container, Item) else ()
    items = (use for name in beside for use in name.uses if isinstance(use, Item))
    read = (*names_of(container), *items, *_reads_beside(container))
    return any(_calls_one_of(name, _CONSUMING, None) for name in read)


def _reads_beside(container: Value) -> Sequence[Value]:
    """Where the file reads what may be the same attribute of another object: ``state.queue.pop()``."""
    place = container.base if isinstance(container, Item) else container
    if not isinstance(place, Attribute) or instance_class(place.base) is not None:
        return ()
    return place.region.function.module.loads.get(place.name, ())


_CONSUMING = frozenset({"pop", "popleft", "get", "get_nowait"})
EMPTYING = _CONSUMING | {"clear"}
"""Methods that take out of a container what has been put in."""


def _calls_one_of(name: Value, methods: frozenset[str], region: Region | None) -> bool:
    """Whether one of ``methods`` of the container ``name`` is called: in ``region``, or anywhere."""
    return any(
        isinstance(use, Attribute)
        and use.name in methods
        and (region is None or use.region.within(region))
        and any(isinstance(user, Call) and user.callee is use for user in use.uses)
        for use in name.uses
    )


def length_limit(container: Value) -> int | None:
    """The constant ``maxlen`` of a deque."""
    for origin in container_origins(container):
        if isinstance(origin, Call):
            limit = origin.argument("maxlen", 1)
            if isinstance(limit, Constant) and isinstance(limit.constant, int):
                return limit.constant
    return None
