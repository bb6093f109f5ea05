"""Which modules and parameters an optimizer covers, and whether that is all: the map from optimizers to modules."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator
from typing import NamedTuple

from memlint.model.aliases import aliases, base_names, display_element, find_method, qualified_names, sources, zipped
from memlint.model.calls import callees, passed_arguments
from memlint.model.containers import elements
from memlint.model.gradmode import is_lightning_module
from memlint.model.identity import ANY, Object, Objects, everywhere, holds, objects, seen_from
from memlint.model.kinds import Role, is_known_other, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.optimization import makes_parameter
from memlint.model.scopes import Class
from memlint.model.training import inside
from memlint.model.values import (
    Binary,
    Call,
    Comprehension,
    Constant,
    Display,
    Element,
    External,
    FunctionValue,
    Item,
    Parameter,
    Part,
    Store,
    Value,
)


class Coverage(NamedTuple):
    """What optimizers train, under every name."""

    objects: Objects
    complete: bool
    """Whether nothing else is among it: False if part of what they were given is not in sight."""


_UNKNOWN = Coverage(frozenset(), False)
_MAX_VALUES = 300


def coverage(optimizers: Iterable[Objects]) -> Coverage:
    """What ``optimizers`` cover together; not complete if there are none."""
    found = [_covered_by(optimizer) for optimizer in optimizers]
    if not found:
        return _UNKNOWN
    together = frozenset().union(*(each.objects for each in found))
    return Coverage(frozenset(inside(together)), all(each.complete for each in found))


def overlap(one: Objects, other: Objects) -> bool:
    """Whether one of two may hold something of the other."""
    return holds(one, other) or holds(other, one)


def _covered_by(optimizer: Objects) -> Coverage:
    made = [(root, path) for root, path in everywhere(optimizer) if isinstance(root, Call)]
    # What Accelerate or Fabric has made ready goes by the name of what they were given as well.
    given = [(call, path) for call, path in made if not (path and role(call, Role.PREPARED))]
    return _union(_made_by(call, path) for call, path in given or made)


def _union(found: Iterable[Coverage]) -> Coverage:
    known = list(found)
    if not known:
        return _UNKNOWN
    return Coverage(frozenset().union(*(each.objects for each in known)), all(each.complete for each in known))


@query(on_cycle=_UNKNOWN)
def _made_by(call: Call, path: tuple[Hashable, ...]) -> Coverage:
    """What an optimizer covers that ``call`` makes, or that is at ``path`` in what it returns."""
    functions = callees(call)
    if functions:
        return _union(
            Coverage(everywhere(seen_from(inner.objects, call, function)), inner.complete)
            for function in functions
            for leaving in function.returns
            for inner in _returned(leaving.value, path)
        )
    if call.method == "optimizers":
        return _union(_configured(call, path))
    given = call.argument("params", 0)
    if path or given is None or not role(call, Role.OPTIMIZER):
        return _UNKNOWN
    return owners(given)


def _returned(value: Value, path: tuple[Hashable, ...]) -> Iterator[Coverage]:
    for source in sources(value):
        component = display_element(source, path[0]) if path else source
        yield _covered_by(objects(component)) if component is not None else _UNKNOWN


def _configured(call: Call, path: tuple[Hashable, ...]) -> Iterator[Coverage]:
    """What Lightning hands out as ``self.optimizers()``: the optimizers that ``configure_optimizers`` returns."""
    owner = call.function.owner
    if owner is None or not is_lightning_module(base_names(owner)):
        return
    for made in configured_optimizers(owner):
        for source in sources(made):
            component = display_element(source, path[0]) if path else source
            yield _covered_by(objects(component)) if component is not None else _UNKNOWN


def configured_optimizers(owner: Class) -> Iterator[Value]:
    """What ``configure_optimizers`` of a LightningModule returns: an optimizer, or a list or tuple of some."""
    method = find_method(owner, "configure_optimizers")
    for leaving in method.lower().returns if method is not None else ():
        for source in sources(leaving.value):
            if isinstance(source, Display) and source.kind == "dict":
                optimizer = display_element(source, "optimizer")
                yield source if optimizer is None else optimizer
                continue
            first = display_element(source, 0)
            # ([optimizers], [schedulers]), or the optimizers alone.
            lists: list[Value] = [s for s in sources(first) if isinstance(s, Display)] if first is not None else []
            yield from lists or [source]


def owners(given: Value) -> Coverage:
    """The modules whose parameters are in ``given``, and the tensors that stand in it by themselves."""
    found: set[Object] = set()
    complete = True
    seen: set[int] = set()
    pending = [given]
    while pending:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        if len(seen) > _MAX_VALUES:
            return Coverage(frozenset(found), False)
        inner = _contents(current)
        if inner is not None:
            pending.extend(inner)
            continue
        owner = _owner(current)
        if owner is not None:
            known = frozenset(inside(everywhere(objects(owner) | frozenset(_stored_as(owner)))))
            found |= known
            complete = complete and any(map(_is_grounded, known))
        elif isinstance(current, Call) and callees(current):
            returned = _union(_owners_returned(current))
            found |= returned.objects
            complete = complete and returned.complete
        elif not isinstance(current, (Constant, FunctionValue)) and not is_known_other(current, Role.OBJECT):
            complete = False
    return Coverage(frozenset(found), complete)


def _stored_as(module: Value) -> Iterator[Object]:
    """The attribute of another module that ``module`` is put into: ``model.fc = nn.Linear(8, 2)``."""
    for source in sources(module):
        for use in source.uses:
            if isinstance(use, Store) and use.attribute is not None and use.base is not None and use.value is source:
                yield from (base.part(use.attribute) for base in objects(use.base))


def _is_grounded(known: Object) -> bool:
    """Whether an object is told apart from others: by the call that makes it, by its name, or as a part of those."""
    if ANY in known.path:
        return False
    return (
        not isinstance(known.root, Call)
        or bool(role(known.root, Role.MODULE, Role.ENGINE, Role.PREPARED))
        or (makes_parameter(known.root))
    )


def _owners_returned(call: Call) -> Iterator[Coverage]:
    for function in callees(call):
        for leaving in function.exits:
            inner = owners(leaving.value)
            yield Coverage(everywhere(seen_from(inner.objects, call, function)), inner.complete)


def _owner(value: Value) -> Value | None:
    """The module or parameter that ``value`` stands for; None if it is neither."""
    if isinstance(value, Call) and value.method in torch.PARAMETER_METHODS and value.receiver is not None:
        return value.receiver
    if isinstance(value, (Element, Part, Item)):
        # A parameter that a loop over the parameters of a module picks.
        walked = walked_module(value)
        if walked is not None:
            return walked
    if role(value, Role.MODULE, Role.ENGINE) or (isinstance(value, Call) and makes_parameter(value)):
        return value
    return None


def makes_optimizer(call: Call) -> bool:
    """Whether ``call`` makes an optimizer of what it is given, by a class of torch, a library or the project."""
    # From the cheapest question to the dearest: what a call returns is known only once its callee is resolved.
    if call.argument("params", 0) is None or not (call.name[:1].isupper() or "optim" in call.name.lower()):
        return False
    return not callees(call) and role(call, Role.OPTIMIZER) is not None


def walked_module(value: Value) -> Value | None:
    """The module over whose parameters a loop runs that picks ``value``, or that a mapping has by name."""
    while isinstance(value, (Element, Part, Item)):
        value = zipped(value) or (value.iterable if isinstance(value, Element) else value.base)
        module = _listed_module(value, _MAX_NESTING)
        if module is not None:
            return module
    return None


_MAX_NESTING = 4


def _listed_module(listing: Value, depth: int) -> Value | None:
    """The module whose parameters ``listing`` holds, in whatever order or mapping."""
    for source in sources(listing) if depth else ():
        if not isinstance(source, Call):
            continue
        if source.method in torch.PARAMETER_METHODS:
            return source.receiver
        inner: Value | None = None
        if source.arguments and qualified_names(source.callee) & torch.PASSING_BUILTINS:
            inner = source.arguments[-1].value
        elif source.method in {"items", "values"}:
            inner = source.receiver
        found = _listed_module(inner, depth - 1) if inner is not None else None
        if found is not None:
            return found
    return walked_module(listing) if 0 < depth < _MAX_NESTING else None


def _contents(value: Value) -> list[Value] | None:
    """What a collection of parameters, or of groups of them, is made of; None if ``value`` is no such collection."""
    match value:
        case Display():
            groups = display_element(value, "params") if value.kind == "dict" else None
            return [groups] if groups is not None else [*value.elements, *_inserted(value)]
        case Comprehension():
            return [value.element]
        case Binary(operator="+" | "|"):
            return [value.left, value.right]
        case Call() if not callees(value) and value.method not in torch.PARAMETER_METHODS:
            return _contents_of_call(value)
        case Item() | Element() | Part():
            inner = elements(value.iterable if isinstance(value, Element) else value.base)
            return list(inner) if inner else _named(value)
    return _named(value)


def _inserted(display: Display) -> Iterator[Value]:
    own = {id(element) for element in display.elements}
    yield from (element for element in elements(display) if id(element) not in own)


def _contents_of_call(call: Call) -> list[Value] | None:
    if role(call, Role.MODULE, Role.ENGINE) or makes_parameter(call):
        return None
    names = qualified_names(call.callee)
    if names & torch.PASSING_BUILTINS or "builtins.filter" in names:
        return [argument.value for argument in call.arguments]
    if call.method in {"values", "items", "copy"} and call.receiver is not None:
        return [call.receiver]
    # A helper out of sight takes the parameters of the modules that it is given.
    modules = [argument.value for argument in call.arguments if role(argument.value, Role.MODULE)]
    return modules or None


def _named(value: Value) -> list[Value] | None:
    nearer = [other for other in aliases(value) or () if other is not value]
    if nearer:
        return nearer
    if isinstance(value, Parameter) and not role(value, Role.MODULE):
        return list(passed_arguments(value) or ()) or None
    return None if not isinstance(value, External) else []
