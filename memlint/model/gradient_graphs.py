"""Gradients that carry a graph of their own: what ``backward(create_graph=True)`` leaves behind, and who drops it.

The gradient's graph holds the tensor that it is the gradient of, and the tensor holds the gradient: a cycle of C++
objects that no garbage collector sees. Only dropping or detaching ``.grad`` ends it; ``.grad.zero_()`` does not
(measured on torch 2.13).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import base_names, instance_class, mro, same_object, sources
from memlint.model.calls import call_sites
from memlint.model.effects import Backward, calls_in
from memlint.model.freezing import turns_off_grad
from memlint.model.gradmode import is_hf_trainer, is_lightning_module
from memlint.model.identity import Objects, everywhere, holds, objects, seen_from
from memlint.model.kinds import Role, role
from memlint.model.knowledge.torch import PARAMETER_METHODS
from memlint.model.memo import query
from memlint.model.optimization import UNKNOWN, directly_cleared, functions_run_by, gradient_owner, trained_by
from memlint.model.scopes import Function
from memlint.model.upstream import ancestors, graph_sources, local_ancestors
from memlint.model.values import Attribute, Call, Constant, Element, Item, Parameter, Part, Phi, Region, Store, Value

_MAX_CALLERS = 3


def is_accumulated(backward: Backward) -> bool:
    """Whether the backward writes to ``.grad``; ``torch.autograd.grad`` returns the gradients instead."""
    return backward.call.name != "grad"


# --------------------------------------------------------------- tensors of the call


class Leaf(NamedTuple):
    """A tensor that requires a gradient and is made (or turned into a leaf) for one call or one iteration."""

    names: tuple[Value, ...]
    """The values that are this tensor; ``x.requires_grad_()`` returns ``x`` itself."""
    made_here: bool
    """Whether the function makes the tensor itself, so that nothing else can drop its gradient."""

    def is_named(self, value: Value) -> bool:
        """Whether ``value`` is known to be this tensor."""
        return any(same_object(value, name) for name in self.names) or not self.objects.isdisjoint(objects(value))

    @property
    def objects(self) -> Objects:
        """The tensor as the object, or the part of an object, that it is."""
        return frozenset(found for name in self.names for found in objects(name))


def leaves(backward: Backward) -> tuple[Leaf, ...]:
    """The tensors, parameters of modules left out, to whose ``.grad`` the backward adds and that are not kept."""
    given = backward.call.argument("inputs")
    roots = backward.roots if given is None else (given,)
    upstream = {id(value): value for root in roots for value in local_ancestors(root)}
    return tuple(
        Leaf(names, not any(map(_is_handed_in, names)))
        for names in _requiring(backward.call.function)
        if any(_is_among(name, upstream) for name in names) and not any(map(_is_lasting, names))
    )


def _is_among(name: Value, upstream: dict[int, Value]) -> bool:
    """Whether one of ``upstream`` is the tensor ``name``, or holds it as a part: ``data`` for ``data.pos``."""
    if any(id(source) in upstream for source in (name, *sources(name))):
        return True
    mine = objects(name) if isinstance(name, (Attribute, Item)) else ()
    return bool(mine) and any(holds(objects(value), mine) for value in upstream.values())


def _requiring(function: Function) -> Iterator[tuple[Value, ...]]:
    """The tensors, each under its names, that the code of ``function`` makes leaves that require a gradient."""
    for store in function.stores:
        if store.attribute == "requires_grad" and store.base is not None and _is_true(store.value):
            yield (store.base,)
    for call in function.calls:
        if call.method == "requires_grad_" and call.receiver is not None:
            if not turns_off_grad(call):
                yield (call.receiver, call)
        elif _is_true(call.argument("requires_grad")):
            yield (call,)


def _is_true(value: Value | None) -> bool:
    return isinstance(value, Constant) and value.constant is True


def _is_lasting(value: Value) -> bool:
    """Whether the leaf lives on in a module or another object, which may drop its gradient elsewhere."""
    while isinstance(value, Phi):
        value = value.inputs[0]
    if isinstance(value, Attribute):
        return instance_class(value.base) is not None or bool(role(value.base, Role.MODULE))
    if role(value, Role.MODULE):
        return True
    return isinstance(value, Element) and bool(role(value.iterable, Role.PARAMETERS, Role.MODULE))


def _is_handed_in(value: Value) -> bool:
    """Whether the leaf is a parameter of its function, or a part of one."""
    while isinstance(value, (Phi, Attribute, Item, Part)):
        value = value.inputs[0] if isinstance(value, Phi) else value.base
    return isinstance(value, Parameter)


def is_leaf_dropped(leaf: Leaf, function: Function) -> bool:
    """Whether ``function``, or a caller that hands the leaf in, drops the gradient of the leaf."""
    if any(map(leaf.is_named, _dropping_owners(function.body))):
        return True
    if any(deletion.key.endswith(".grad") for deletion in function.deletions):
        return True
    mine = everywhere(leaf.objects)
    if not mine:
        return False
    scopes = [function]
    if not leaf.made_here:
        scopes.extend(site.function for site in call_sites(function))
    return any(_drops(target, mine) for scope in scopes for target in dropped_by(scope))


def _drops(target: Objects, leaf: Objects) -> bool:
    return holds(everywhere(target), leaf) or holds(trained_by(target), leaf)


# ------------------------------------------------------------------ parameters of modules


def reaches_parameters(backward: Backward) -> bool:
    """Whether the backward adds to the gradients of parameters: a module, or code out of sight, lies upstream."""
    if backward.call.argument("inputs") is not None:
        return False
    if any(graph_sources(root) for root in backward.roots):
        return True
    upstream = (value for root in backward.roots for value in ancestors(root))
    return any(_hands_graph_in(value, backward.call.function) for value in upstream)


def _hands_graph_in(value: Value, function: Function) -> bool:
    """Whether ``value`` is the end of what is in sight and may bring parameters with it."""
    if isinstance(value, Parameter):
        return value.function is function and value is not function.instance and not _is_required(value)
    return isinstance(value, Attribute) and instance_class(value.base) is not None


def _is_required(parameter: Parameter) -> bool:
    return any(parameter in (name, *sources(name)) for names in _requiring(parameter.function) for name in names)


def drops_parameters(call: Call) -> bool:
    """Whether something that runs along with the backward ``call`` drops gradients of parameters.

    Where the backward is repeated in its function, only the repetition counts. Else the function itself, the functions
    around it, other methods of its class, and its callers do; each with what it calls. A framework's trainer may do
    it in any case.
    """
    function = call.function
    loops = [loop for loop in call.region.loops() if not loop.is_comprehension]
    if _is_run_by_trainer(function):
        return True
    if loops:
        return any(map(_is_of_parameters, _dropped_in(loops[-1])))
    return _drops_somewhere(function, _MAX_CALLERS)


def _drops_somewhere(function: Function, depth: int) -> bool:
    if any(_is_of_parameters(found) for each in (function, *_nearby(function)) for found in dropped_by(each)):
        return True
    if depth == 0:
        return False
    callers = {site.function for site in call_sites(function) if site.function is not function}
    return any(_drops_somewhere(caller, depth - 1) for caller in callers)


def _nearby(function: Function) -> Iterator[Function]:
    yield from function.enclosing()
    owner = next((each.owner for each in (function, *function.enclosing()) if each.owner is not None), None)
    for cls in mro(owner) if owner is not None else ():
        yield from cls.methods.values()


def _is_of_parameters(dropped: Objects) -> bool:
    """Whether what is dropped may be gradients of parameters: not those of an input that the function made."""
    return not dropped or not all(_is_input(found.root) for found in dropped)


def _is_input(root: object) -> bool:
    if not isinstance(root, Call) or role(root, Role.OPTIMIZER, Role.MODULE, Role.ENGINE, Role.PARAMETERS):
        return False
    return root.method not in PARAMETER_METHODS and any(_is_true(a.value) for a in root.arguments if a.keyword)


def _is_run_by_trainer(function: Function) -> bool:
    owner = next((each.owner for each in (function, *function.enclosing()) if each.owner is not None), None)
    if owner is None:
        return False
    bases = base_names(owner)
    return is_hf_trainer(bases) or is_lightning_module(bases)


# -------------------------------------------------------------------------- dropping


@query(on_cycle=frozenset())
def dropped_by(function: Function) -> frozenset[Objects]:
    """The optimizers, modules and tensors whose gradients a run of ``function`` drops, in terms of its parameters."""
    return frozenset(_dropped_in(function.lower().body))


def _dropped_in(region: Region) -> Iterator[Objects]:
    for call in calls_in(region):
        yield from _dropped_by_call(call)
    for owner in _dropping_owners(region):
        yield objects(owner)
    if any(deletion.key.endswith(".grad") and deletion.region.within(region) for deletion in region.function.deletions):
        yield UNKNOWN


def _dropped_by_call(call: Call) -> Iterator[Objects]:
    direct = None if call.method in {"zero_", "fill_"} else directly_cleared(call)
    if direct is not None:
        yield direct
        return
    for function in functions_run_by(call):
        for found in dropped_by(function):
            yield seen_from(found, call, function)


def _dropping_owners(region: Region) -> Iterator[Value]:
    """The tensors whose gradient the code of ``region`` itself drops: ``x.grad = None``, ``x.grad.detach_()``."""
    for store in region.function.stores:
        if store.attribute == "grad" and store.base is not None and not store.augmented and store.region.within(region):
            yield store.base
    for call in calls_in(region):
        owner = gradient_owner(call.receiver) if call.method == "detach_" and call.receiver is not None else None
        if owner is not None:
            yield owner


def gradient_names(leaf: Leaf, call: Call) -> tuple[Store, ...] | None:
    """The statements after ``call`` that give the leaf's gradient a name, ``g = x.grad``; None if it is read elsewhere.

    From the last of them on, ``x.grad`` itself is of no use.
    """
    named: list[Store] = []
    for load in call.function.attributes:
        if load.name != "grad" or load.order < call.order or not leaf.is_named(load.base):
            continue
        stores = [use for use in load.uses if isinstance(use, Store) and use.base is None and use.value is load]
        if len(stores) != 1 or stores[0].region is not call.region:
            return None
        named.extend(stores)
    return tuple(named)
