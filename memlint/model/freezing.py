"""Modules whose parameters are frozen: set to require no gradient."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import attribute_values, find_method, instance_class, instance_loads, mro, sources
from memlint.model.calls import argument_parameters, bound_arguments_of_constructor, callees, passed_arguments
from memlint.model.containers import names_of
from memlint.model.instances import may_hold_parameters, registers_parameters
from memlint.model.kinds import class_of
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Class
from memlint.model.values import Attribute, Call, ClassValue, Constant, Element, Parameter, Phi, Store, Value


def turns_off_grad(call: Call) -> bool:
    """Whether ``call``, of ``requires_grad_``, passes False."""
    value = call.argument("requires_grad", 0)
    return isinstance(value, Constant) and value.constant is False


@query(on_cycle=False)
def is_frozen(module: Value) -> bool:
    """Whether all parameters of a module are set to require no gradient, and never to require one again."""
    found = [_freezing(name) for name in _module_names(module)]
    found += [_switches(call) for call in _chained(module)]
    if False in found:
        return False
    return True in found or _wraps_frozen(module) or _is_given_frozen(module)


def _is_given_frozen(module: Value) -> bool:
    """Whether all that calls in the project pass for a module is frozen."""
    given = [
        passed
        for source in sources(module)
        for passed in ((passed_arguments(source) or (source,)) if isinstance(source, Parameter) else (source,))
    ]
    return bool(given) and module not in given and all(is_frozen(each) for each in given)


def _wraps_frozen(module: Value) -> bool:
    """Whether a module of the project is made around frozen ones, and has no parameters but theirs."""
    made = sources(module)
    return bool(made) and all(isinstance(source, Call) and _is_made_of_frozen(source) for source in made)


def _is_made_of_frozen(call: Call) -> bool:
    classes = [source.target for source in sources(call.callee) if isinstance(source, ClassValue)]
    init = find_method(classes[0], "__init__") if len(classes) == 1 else None
    if init is None or registers_parameters(classes[0]):
        return False
    given = bound_arguments_of_constructor(call, init)
    held = [
        source
        for cls in mro(classes[0])
        for name, stores in cls.instance_stores.items()
        for store in stores
        if may_hold_parameters(store.value) and not _is_setting(cls, name, store.value)
        for source in sources(store.value)
    ]
    passed = [given.get(source.name) if isinstance(source, Parameter) else None for source in held]
    return bool(held) and all(each is not None and is_frozen(each) for each in passed)


def _is_setting(cls: Class, name: str, value: Value) -> bool:
    """Whether the class only reads fields of what it was given as ``name``: ``self.args.format``."""
    loads = [load for load in cls.module.loads.get(name, ()) if instance_class(load.base) is not None]
    return (
        all(isinstance(source, Parameter) for source in sources(value))
        and bool(loads)
        and all(isinstance(use, Attribute) for load in loads for use in load.uses)
        and not any(isinstance(user, Call) for load in loads for use in load.uses for user in _users(use))
    )


def _users(attribute: object) -> Iterator[object]:
    if isinstance(attribute, Attribute):
        yield from (user for user in attribute.uses if isinstance(user, Call) and user.callee is attribute)


def _module_names(module: Value) -> Iterator[Value]:
    yield from names_of(module)
    for source in sources(module):
        if isinstance(source, Parameter):
            for passed in passed_arguments(source) or ():
                yield from names_of(passed)
    if isinstance(module, Attribute):
        yield from _names_inside(module)
    for call in _chained(module):
        if call.receiver is not None:
            yield from names_of(call.receiver)


def _names_inside(part: Attribute) -> Iterator[Value]:
    """The names of ``model.backbone`` in the methods of the class of ``model``: ``self.backbone`` and what it holds."""
    owner = class_of(part.base) if instance_class(part.base) is None else None
    for cls in mro(owner) if owner is not None else ():
        for known in (*instance_loads(cls, part.name), *attribute_values(cls, part.name)):
            yield from names_of(known)


def _chained(module: Value) -> Iterator[Call]:
    """The calls that ``module`` is the result of and the module itself before: ``Encoder().requires_grad_(False)``."""
    pending = list(sources(module))
    seen: set[int] = set()
    while pending:
        source = pending.pop()
        if not isinstance(source, Call) or id(source) in seen:
            continue
        if source.method not in torch.SELF_RETURNING and not _takes_its_place(source):
            continue
        seen.add(id(source))
        yield source
        if source.receiver is not None:
            pending.extend(sources(source.receiver))


def _takes_its_place(call: Call) -> bool:
    """Whether a method of a module out of sight returns what bears its name from then on: ``model = model.fuse()``."""
    if call.receiver is None or callees(call):
        return False
    names = {store.key for store in call.uses if isinstance(store, Store) and store.value is call and not store.base}
    before = call.receiver
    known_as = {before.key} if isinstance(before, Phi) else {use.key for use in before.uses if isinstance(use, Store)}
    return not names.isdisjoint(known_as - {None})


@query(on_cycle=None)
def _freezing(name: Value) -> bool | None:
    """True if gradients are switched off for all parameters of the module ``name``, False if on, None if neither.

    ``name`` may also be that of a parameter that the module is passed for.
    """
    result: bool | None = None
    for use in name.uses:
        for switched in _switched_by(name, use):
            if switched is False:
                return False
            result = result or switched
    return result


def _switched_by(name: Value, use: object) -> Iterator[bool | None]:
    if isinstance(use, Attribute):
        yield from (_switches(user) for user in use.uses if isinstance(user, Call) and user.callee is use)
    elif isinstance(use, Call):
        yield from (_freezing(inner) for parameter in _passed_for(name, use) for inner in names_of(parameter))


def _passed_for(value: Value, call: Call) -> Iterator[Parameter]:
    for argument in call.arguments if call.callee is not value else ():
        if argument.value is value:
            yield from argument_parameters(call, argument)


def _switches(call: Call) -> bool | None:
    if call.method == "requires_grad_":
        return turns_off_grad(call)
    if call.method in torch.SELF_RETURNING:
        return _freezing(call)
    return _switches_each(call) if call.method == "parameters" else None


@query(on_cycle=None)
def _switches_each(parameters: Value) -> bool | None:
    """Like :func:`_freezing`, for what is done with each of ``parameters``, here or in a function that gets them."""
    for use in parameters.uses:
        switched = _switches_element(use) if isinstance(use, Element) else None
        if isinstance(use, Call):
            given = (name for parameter in _passed_for(parameters, use) for name in names_of(parameter))
            switched = next(filter(None, map(_switches_each, given)), None)
        if switched is not None:
            return switched
    return None


def _switches_element(parameter: Element) -> bool | None:
    for user in parameter.uses:
        if isinstance(user, Store) and user.attribute == "requires_grad" and isinstance(user.value, Constant):
            return not user.value.constant
        if isinstance(user, Attribute) and user.name == "requires_grad_":
            for inner in user.uses:
                if isinstance(inner, Call):
                    return turns_off_grad(inner)
    return None
