"""What a training step trains: the modules behind the optimizers that it steps."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from memlint.model.aliases import base_names, display_element, find_method, sources
from memlint.model.calls import call_sites, callees
from memlint.model.effects import returns_loss_to_framework
from memlint.model.gradmode import is_lightning_module
from memlint.model.identity import Object, Objects, everywhere, holds, objects, seen_from
from memlint.model.kinds import Role, role
from memlint.model.optimization import stepped_in, trained_by
from memlint.model.scopes import Class, Function
from memlint.model.values import Call, Constant, Region, Value

_MAX_CALLERS = 3
"""Callers that are asked one after the other for the optimizers that they step."""


def is_trained(module: Value, region: Region) -> bool | None:
    """Whether the training step around ``region`` trains ``module``; None if its optimizers are not in sight."""
    if role(module, Role.ENGINE):
        return True
    trained = trained_in_step(region)
    if trained is None:
        return None
    whole = frozenset(inside(everywhere(objects(module))))
    every = frozenset(inside(trained | frozenset(ingredients(trained))))
    # A loss that was made with the discriminator runs it.
    parts = frozenset(ingredients(whole))
    return holds(every, whole) or holds(whole, every) or holds(every, parts)


def trained_in_step(region: Region) -> Objects | None:
    """The modules and parameters that the training step around ``region`` trains; None if that is not in sight."""
    hook = _training_hook(region.function)
    if hook is not None:
        return _trained_by_framework(hook)
    optimizers = list(_stepped_around(region, _MAX_CALLERS))
    found = [trained_by(optimizer) for optimizer in optimizers]
    return frozenset().union(*found) if found and all(found) else None


def _stepped_around(region: Region, depth: int) -> Iterator[Objects]:
    """The optimizers that are stepped in the outermost loop around ``region``, or in that around a caller."""
    function = region.function
    outermost: Region = function.body
    for loop in region.loops():
        outermost = loop
    found = list(stepped_in(outermost))
    yield from found
    if not found and depth:
        for site in call_sites(function):
            if site.function is not function:
                yield from _stepped_around(site.region, depth - 1)


def _training_hook(function: Function) -> Function | None:
    """The method around (or equal to) ``function`` whose loss a framework differentiates."""
    return next((each for each in (function, *function.enclosing()) if returns_loss_to_framework(each)), None)


def _trained_by_framework(hook: Function) -> Objects | None:
    owner = hook.owner
    assert owner is not None
    if is_lightning_module(base_names(owner)):
        return _trained_by_configured(owner)
    # The Trainer of transformers trains the model that it hands to the hook and keeps as an attribute.
    model = next((parameter for parameter in hook.parameters if parameter.name == "model"), None)
    instance = hook.instance
    if model is None or instance is None:
        return None
    return objects(model) | {each.part("model") for each in objects(instance)}


def _trained_by_configured(owner: Class) -> Objects | None:
    """What the optimizers train that ``configure_optimizers`` makes."""
    method = find_method(owner, "configure_optimizers")
    if method is None:
        return None
    made = [call for function in method.walk() for call in function.calls if role(call, Role.OPTIMIZER)]
    found = [trained_by(objects(call)) for call in made]
    return frozenset().union(*found) if found and all(found) else None


def ingredients(modules: Objects) -> Iterator[Object]:
    """What the constructors of modules were given: the encoder in ``Model(encoder, decoder)``."""
    seen: set[Object] = set()
    pending = list(modules)
    while pending:
        root, path = pending.pop()
        # A part of a module was given what is not in sight here.
        for argument in root.arguments if isinstance(root, Call) and not path else ():
            for found in everywhere(objects(argument.value)) - seen:
                seen.add(found)
                pending.append(found)
                yield found


def is_meant_for_evaluation(module: Value) -> bool:
    """Whether ``eval()`` is called on ``module``, or trained weights are loaded, where it is used, made or returned."""
    whole = frozenset(inside(everywhere(objects(module))))
    whole |= frozenset(_stored(whole))
    made = [each.root for each in whole if isinstance(each.root, Call)]
    files = dict.fromkeys([module.function.module, *(call.function.module for call in made)])
    switches = (call for file in files for name in _LOADING for call in file.calls_by_name.get(name, ()))
    if any(call.receiver is not None and holds(everywhere(objects(call.receiver)), whole) for call in switches):
        return True
    return any(_loads_weights(call) for call in made)


_LOADING = ("eval", "load_state_dict")
"""Methods that are called on a module which is done with training."""


def inside(found: Objects) -> Iterator[Object]:
    """``found``, and what the project's functions call the same objects that return them."""
    seen: set[Object] = set()
    pending = list(found)
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        made = current.root
        if not isinstance(made, Call):
            continue
        for function in callees(made):
            for value, path in _returned_at(function, current.path):
                # What this call passed, and not what others did: ``G = load(G)`` beside ``D = load(D)``.
                returned = seen_from(objects(value), made, function)
                pending.extend(inner.part(*path) for inner in everywhere(returned))


def _returned_at(function: Function, path: tuple[Hashable, ...]) -> Iterator[tuple[Value, tuple[Hashable, ...]]]:
    """What ``function`` returns at ``path``: the element of a returned tuple, and the way on from there."""
    for exit in function.returns:
        for source in sources(exit.value) if path else ():
            element = display_element(source, path[0])
            if element is not None:
                yield element, path[1:]
        yield exit.value, path


def _stored(found: Objects) -> Iterator[Object]:
    """What the methods of a class store in the attribute that an object is known as: ``nn.Linear(4, 2)``."""
    for each in found:
        owner = each.root[-1] if isinstance(each.root, tuple) else None
        if isinstance(owner, Class) and each.path:
            for store in owner.instance_stores.get(str(each.path[0]), ()):
                yield from (stored.part(*each.path[1:]) for stored in objects(store.value))


def _loads_weights(call: Call) -> bool:
    """Whether ``call`` makes a module with weights that were trained before."""
    if call.name in {"from_pretrained", "load_from_checkpoint"}:
        return True
    given = call.argument("pretrained") or call.argument("weights")
    return given is not None and not (isinstance(given, Constant) and not given.constant)
