"""What the steps of a LightningModule collect in attributes from epoch to epoch, and what empties it again."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import find_method, instance_class, mro, sources
from memlint.model.containers import names_of
from memlint.model.destinations import destinations
from memlint.model.kinds import class_of
from memlint.model.scopes import Class, Function
from memlint.model.values import (
    Attribute,
    Call,
    Constant,
    Display,
    External,
    Item,
    Occurrence,
    Parameter,
    Phi,
    Store,
    Value,
    operand_occurrences,
)

_EMPTYING = frozenset({"clear", "pop", "popleft", "popitem", "remove"})
_ONCE = frozenset(
    {"__init__", "__post_init__", "setup", "configure_model", "on_fit_start", "on_train_start", "prepare_data"}
)
"""Methods that run once, before the first epoch."""


def collecting_attribute(container: Value) -> Attribute | None:
    """``self.outputs`` for what is collected in it or in one of its items; None if the instance does not keep it."""
    value = container
    while isinstance(value, (Phi, Item)):
        value = value.inputs[0] if isinstance(value, Phi) else value.base
    if not isinstance(value, Attribute) or instance_class(value.base) is None:
        return None
    # What an object of the project keeps, and for how long, is its own business.
    return value if class_of(value) is None else None


def is_emptied(collector: Attribute) -> bool | None:
    """Whether a method that runs more than once, or other code of the project, empties or replaces an attribute.

    None: something sets attributes whose names are not in sight.
    """
    owner = instance_class(collector.base)
    assert owner is not None
    name = collector.name
    modules = dict.fromkeys((*(cls.module for cls in mro(owner)), *(owner.module.project.mentioning(name) or ())))
    functions = [function for module in modules for function in module.functions]
    if any(_replaces(store, name) and _may_be(store.base, owner) for each in functions for store in each.stores):
        return True
    if any(f".{name}" in deletion.key for each in functions for deletion in each.deletions):
        return True
    loads = (load for module in modules for load in module.loads.get(name, ()))
    if any(_may_be(load.base, owner) and _empties(load) for load in loads):
        return True
    return None if any(_sets_any_attribute(call) for each in _methods(owner) for call in each.calls) else False


def _may_be(base: Value | None, owner: Class) -> bool:
    """Whether ``base`` is an instance of ``owner``, or nothing says of which class it is."""
    known = class_of(base) if base is not None else None
    return known is None or known in mro(owner) or owner in mro(known)


def _methods(owner: Class) -> Iterator[Function]:
    for cls in mro(owner):
        for method in cls.methods.values():
            yield from method.walk()


def _replaces(store: Store, attribute: str) -> bool:
    """``self.outputs = []``, ``module.outputs = []``, ``self.outputs[:] = []``."""
    if store.attribute == attribute:
        return not store.augmented and store.function.name not in _ONCE
    base = store.base
    return store.index is not None and isinstance(base, Attribute) and base.name == attribute and _is_fresh(store.value)


def _is_fresh(value: Value) -> bool:
    """Whether ``value`` is an empty literal."""
    return isinstance(value, Display) and not value.elements


def _empties(load: Value) -> bool:
    """Whether a method that empties is called on what is read, or on a part of it, under any of its names."""
    for name in names_of(load):
        users = (*name.uses, *(destination.user for destination in destinations(name)))
        if any(isinstance(user, Attribute) and user.name in _EMPTYING for user in users):
            return True
    return False


def _sets_any_attribute(call: Call) -> bool:
    """``setattr(self, name, [])``, ``getattr(self, name).clear()`` with a name that is computed."""
    if not isinstance(call.callee, External) or call.callee.qualified_name not in _BY_NAME or len(call.arguments) < 2:
        return False
    return class_of(call.arguments[0].value) is not None and not isinstance(call.arguments[1].value, Constant)


_BY_NAME = frozenset({"builtins.setattr", "builtins.getattr", "builtins.delattr"})

_EPOCH_ENDS = {
    "training_step": "on_train_epoch_end",
    "validation_step": "on_validation_epoch_end",
    "test_step": "on_test_epoch_end",
    "predict_step": "on_predict_epoch_end",
}


def epoch_end_of(step: Function) -> Function | None:
    """The hook of the same class that runs when the epoch of ``step`` is over."""
    name = _EPOCH_ENDS.get(step.name)
    return step.owner.methods.get(name) if step.owner is not None and name is not None else None


_TAKEN_OUT = frozenset({"loss", "log", "progress_bar", "hiddens"})
"""What Lightning takes out of the dict that a training step returns, and detaches."""


def kept_until_epoch_end(step: Function) -> Iterator[Occurrence]:
    """What Lightning keeps of a training step for ``training_epoch_end(outputs)``, as the step returns it.

    From 1.6 on, and before 2.0, which removed that hook, Lightning keeps all entries but the loss as they are.
    """
    if step.name != "training_step" or step.owner is None or find_method(step.owner, "training_epoch_end") is None:
        return
    for returned in dict.fromkeys(_collected(step)):
        if isinstance(returned, Display) and returned.kind == "dict" and not returned.starred:
            for key, entry in zip(returned.keys, operand_occurrences(returned), strict=True):
                if isinstance(key, Constant) and key.constant not in _TAKEN_OUT:
                    yield entry


def _collected(step: Function) -> Iterator[Value]:
    """What Lightning collects of a step: what it returns, or what ``training_step_end`` makes of that."""
    returned = [source for exit in step.returns for source in sources(exit.value)]
    end = find_method(step.owner, "training_step_end") if step.owner is not None else None
    if end is None:
        yield from returned
        return
    for exit in end.lower().returns:
        for source in sources(exit.value):
            handed_on = isinstance(source, Parameter) and source is not end.instance
            yield from returned if handed_on else (source,)
