"""What a call does to gradients, itself or further down: run a backward, step an optimizer, clear gradients."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Flag, auto
from typing import NamedTuple

from memlint.model.aliases import base_names, instance_class, qualified_names, sources
from memlint.model.calls import argument_parameters, callees
from memlint.model.gradmode import is_hf_trainer, is_lightning_module
from memlint.model.kinds import Role, is_known_other, role
from memlint.model.knowledge import frameworks, torch
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.upstream import ancestors
from memlint.model.values import (
    Attribute,
    Call,
    ClassValue,
    Constant,
    External,
    FunctionValue,
    Parameter,
    Region,
    Store,
    Value,
)


class Effect(Flag):
    """What happens to gradients."""

    NONE = 0
    BACKWARD = auto()
    STEP = auto()
    ZERO = auto()


class Backward(NamedTuple):
    """A backward pass that a call starts: over ``roots``, keeping the graph or not (None: not known)."""

    call: Call
    roots: tuple[Value, ...]
    retains: bool | None
    creates_graph: bool | None


_GRADIENT_ENTRY = frozenset({"backward", "manual_backward"})


def backward_of(call: Call) -> Backward | None:
    """The backward pass that ``call`` itself starts."""
    name = call.name
    if name in _GRADIENT_ENTRY and call.receiver is not None and not _is_backward_definition(call):
        return Backward(call, _backward_roots(call), _flag(call, "retain_graph"), _flag(call, "create_graph"))
    if name in {"grad", "backward"} and qualified_names(call.callee) & torch.GRADIENT_FUNCTIONS and call.arguments:
        outputs = call.argument("outputs", 0) or call.argument("tensors", 0) or call.arguments[0].value
        return Backward(call, (outputs,), _flag(call, "retain_graph"), _flag(call, "create_graph"))
    if "backward" in name and isinstance(call.callee, External) and not callees(call):
        # A library's own: ``torch.distributed.autograd.backward(context, [loss])``, ``mtl_backward(losses, ...)``.
        roots = tuple(argument.value for argument in call.arguments)
        return Backward(call, roots, _flag(call, "retain_graph"), _flag(call, "create_graph"))
    return None


def _backward_roots(call: Call) -> tuple[Value, ...]:
    """The loss: the receiver of ``loss.backward()``, the argument of ``accelerator.backward(loss)``; both if unsure."""
    receiver = call.receiver
    assert receiver is not None
    given = call.argument("loss", 0)
    if call.name == "manual_backward" or role(receiver, Role.ACCELERATOR, Role.ENGINE, Role.OPTIMIZER, Role.MODULE):
        return (given,) if given is not None else (receiver,)
    if given is None or role(receiver, Role.OUTPUT):
        return (receiver,)
    return (receiver, given)


def _is_backward_definition(call: Call) -> bool:
    """``SomeFunction.backward(ctx, grad)`` calls a formula, it does not traverse a graph."""
    receiver = call.receiver
    if receiver is None:
        return False
    if any(isinstance(source, ClassValue) for source in sources(receiver)):
        return True
    owner = call.function.owner
    return owner is not None and bool(base_names(owner) & frameworks.GRADIENT_FREE_CLASSES)


def _flag(call: Call, keyword: str) -> bool | None:
    """The constant value of a boolean argument; False if it is not given, None if it is not constant."""
    value = call.argument(keyword)
    if value is None:
        return None if call.is_open else False
    constants = [source.constant for source in sources(value) if isinstance(source, Constant)]
    if len(constants) == len(sources(value)) == 1:
        return bool(constants[0])
    return None


def optimizers_stepped(call: Call) -> tuple[Value, ...]:
    """The optimizers that ``call`` itself steps: ``optimizer.step()``, ``scaler.step(optimizer)``, ..."""
    if call.name != "step" or call.receiver is None:
        return ()
    receiver = call.receiver
    given = call.argument("optimizer", 0)
    if role(receiver, Role.SCALER) or (given is not None and role(given, Role.OPTIMIZER)):
        return (given,) if given is not None else ()
    if role(receiver, Role.OPTIMIZER, Role.ENGINE):
        return (receiver,)
    if is_known_other(receiver, Role.OPTIMIZER) or given is not None:
        return ()
    return (receiver,) if _is_first_step(call) else ()


def _is_first_step(call: Call) -> bool:
    """Whether an object of unknown origin steps first after a backward: schedulers step after the optimizer."""
    backwards = [other for other in call.function.calls if backward_of(other)]
    steps = [
        other
        for other in call.function.calls
        if other.name == "step" and other.receiver is not None and not is_known_other(other.receiver, Role.OPTIMIZER)
    ]
    begin = max((other.order for other in backwards if other.order < call.order), default=0)
    rivals = [other for other in steps if begin < other.order < call.order] if begin else steps
    return bool(backwards) and all(_same_receiver(call, other) for other in rivals)


def _same_receiver(one: Call, other: Call) -> bool:
    return one.receiver is not None and other.receiver is not None and sources(one.receiver) == sources(other.receiver)


def cleared_by(call: Call) -> Value | None:
    """The optimizer or module whose gradients ``call`` itself clears."""
    if call.name == "zero_grad" and call.receiver is not None:
        return call.receiver
    return None


def clears_gradient(store: Store) -> bool:
    """Whether the store is ``p.grad = None``."""
    return store.attribute == "grad" and isinstance(store.value, Constant) and store.value.constant is None


def direct_effects(call: Call) -> Effect:
    """What ``call`` itself does, callees in the project left out."""
    effect = Effect.NONE
    if backward_of(call) is not None:
        effect |= Effect.BACKWARD
    if optimizers_stepped(call):
        effect |= Effect.STEP
        if call.receiver is not None and role(call.receiver, Role.ENGINE):
            effect |= Effect.ZERO
    if cleared_by(call) is not None:
        effect |= Effect.ZERO
    if call.name == "zero_" and call.receiver is not None and getattr(call.receiver, "name", "") == "grad":
        effect |= Effect.ZERO
    return effect


def effects(call: Call) -> Effect:
    """What ``call`` does, the functions of the project that it runs included."""
    effect = direct_effects(call)
    for function in callees(call):
        effect |= function_effects(function)
    for argument in call.arguments:
        for source in sources(argument.value):
            if isinstance(source, FunctionValue) and call.name == "step":
                effect |= function_effects(source.target.lower())
    return effect


@query(on_cycle=Effect.NONE)
def function_effects(function: Function) -> Effect:
    """What running ``function`` does."""
    effect = Effect.NONE
    for call in function.lower().calls:
        effect |= effects(call)
    if any(clears_gradient(store) for store in function.stores):
        effect |= Effect.ZERO
    return effect


def region_effects(region: Region) -> Effect:
    """What running the code inside ``region`` once does."""
    effect = Effect.NONE
    for call in calls_in(region):
        effect |= effects(call)
    if any(clears_gradient(store) for store in region.function.stores if store.region.within(region)):
        effect |= Effect.ZERO
    return effect


def calls_in(region: Region) -> Iterator[Call]:
    """The calls inside ``region``, nested regions included."""
    for call in region.function.calls:
        if region.first <= call.order <= region.last and call.region.within(region):
            yield call


@query(on_cycle=frozenset())
def runs_backward_on(function: Function) -> frozenset[str]:
    """The parameters of ``function`` that it (or what it calls) runs a backward over."""
    upstream = (
        value for root in (*backward_roots(function.lower()), *_stored_roots(function)) for value in ancestors(root)
    )
    return frozenset(v.name for v in upstream if isinstance(v, Parameter) and v.function is function)


def _stored_roots(function: Function) -> Iterator[Value]:
    """What a method of the same object that ``function`` calls starts a backward from: ``self.loss.backward()``."""
    for call in function.calls:
        if call.receiver is not None and instance_class(call.receiver) is not None:
            for method in callees(call):
                yield from (root for root in backward_roots(method) if isinstance(root, Attribute))


def backward_roots(function: Function, freeing: bool = False) -> Iterator[Value]:
    """Values in ``function`` that a backward starts from, here or in a function of the project that gets them.

    ``freeing``: only backwards that do not keep the graph.
    """
    for call in function.calls:
        yield from freeing_roots(call) if freeing else started_roots(call)
    if returns_loss_to_framework(function):
        for exit in function.returns:
            yield exit.value


def started_roots(call: Call) -> Iterator[Value]:
    """The values over which ``call`` starts a backward, itself or in the function of the project that it calls."""
    backward = backward_of(call)
    if backward is not None:
        yield from backward.roots
        return
    others = (function for function in callees(call) if function is not call.function)
    if call.arguments and any(map(runs_backward_on, others)):
        for argument in call.arguments:
            for parameter in argument_parameters(call, argument):
                if parameter.function is not call.function and parameter.name in runs_backward_on(parameter.function):
                    yield argument.value


def freeing_roots(call: Call) -> Iterator[Value]:
    """Like :func:`started_roots`, without backwards that keep the graph."""
    backward = backward_of(call)
    # A graph of the gradients keeps the one that it was made from, unless that is released by name.
    derived = backward is not None and backward.creates_graph is not False and call.argument("retain_graph") is None
    if not derived and (backward is None or not backward.retains):
        yield from started_roots(call)


def returns_loss_to_framework(function: Function) -> bool:
    """Whether a framework runs a backward on what the method returns (``training_step``, ``compute_loss``)."""
    owner = function.owner
    if owner is None:
        return False
    bases = base_names(owner)
    if function.name in frameworks.LIGHTNING_TRAINING_HOOKS and is_lightning_module(bases):
        return True
    return function.name in frameworks.HF_LOSS_HOOKS and is_hf_trainer(bases)
