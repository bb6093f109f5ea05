"""The optimization step: which gradients a backward adds to, which optimizer uses them, what clears them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

import libcst as cst

from memlint.model.aliases import constant_texts, display_element, mro, qualified_names, sources
from memlint.model.calls import call_sites, callees
from memlint.model.containers import elements, is_made_here
from memlint.model.effects import backward_of, calls_in, optimizers_stepped
from memlint.model.identity import Object, Objects, everywhere, holds, objects, seen_from
from memlint.model.kinds import Role, role
from memlint.model.knowledge.torch import CREATORS_WITH_GRAD
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import (
    Attribute,
    Binary,
    Call,
    ClassValue,
    Comparison,
    Comprehension,
    Constant,
    Display,
    External,
    FunctionValue,
    Loop,
    Occurrence,
    Region,
    Store,
    Unary,
    Value,
    operand_occurrences,
)

UNKNOWN: Objects = frozenset()
"""What is cleared when that cannot be told."""

_MAX_CALLERS = 3
_MAX_VALUES = 300


class Update(NamedTuple):
    """Parameters are changed by their gradients: ``optimizer.step()``, or by hand ``w.data -= lr * w.grad``."""

    node: cst.CSTNode
    region: Region
    call: Call | None
    """The call that steps the optimizer; None for an update by hand."""
    optimizer: Occurrence
    """The optimizer; for an update by hand, the parameter."""

    @property
    def objects(self) -> Objects:
        """The optimizer, or the parameter."""
        return objects(self.optimizer.value)


def updates(function: Function) -> Iterator[Update]:
    """The updates that the code of ``function`` itself makes; DeepSpeed's engines, which clear as well, left out."""
    for call in function.calls:
        for optimizer in optimizers_stepped(call):
            if call.receiver is None or not (_steps_engine(call, call.receiver) or _runs_backward(call.receiver)):
                yield Update(call.node, call.region, call, _occurrence(call, optimizer))
        if call.method in _IN_PLACE_UPDATES and call.receiver is not None:
            given = (argument.value for argument in call.arguments)
            yield from _by_hand(call.node, call.region, operand_occurrences(call)[0], given)
    for store in function.stores:
        if store.augmented and isinstance(store.value, Binary):
            target = Occurrence(store.value.left, store.target)
            yield from _by_hand(store.node, store.region, target, (store.value.right,))


def _runs_backward(stepped: Value) -> bool:
    """Whether the same object runs the backward, ``x.backward(loss)``: an engine that may clear when it steps."""
    whole = objects(stepped)
    return any(
        call.method == "backward" and call.arguments and call.receiver is not None and objects(call.receiver) & whole
        for call in stepped.function.calls
    )


_IN_PLACE_UPDATES = frozenset({"add_", "sub_", "addcmul_", "addcdiv_"})


def _by_hand(node: cst.CSTNode, region: Region, target: Occurrence, given: Iterable[Value]) -> Iterator[Update]:
    parameter = (
        target.value.base if isinstance(target.value, Attribute) and target.value.name == "data" else target.value
    )
    mine = objects(parameter)
    used = (
        value for each in given for value in _upstream(each) if isinstance(value, Attribute) and value.name == "grad"
    )
    if any(objects(gradient.base) & mine for gradient in used):
        yield Update(node, region, None, Occurrence(parameter, target.node))


def _upstream(value: Value) -> Iterator[Value]:
    """``value`` and what it is computed from within one expression."""
    pending = [value]
    while pending:
        current = pending.pop()
        yield current
        if isinstance(current, (Attribute, Binary, Unary, Call)):
            pending.extend(current.operands())


def _occurrence(call: Call, value: Value) -> Occurrence:
    return next(occurrence for occurrence in operand_occurrences(call) if occurrence.value is value)


# -------------------------------------------------------------------- accumulation


def accumulates(call: Call) -> bool:
    """Whether running ``call`` adds to the ``.grad`` of parameters; ``torch.autograd.grad`` does not."""
    return _accumulates_directly(call) or any(_accumulates(function) for function in functions_run_by(call))


def _accumulates_directly(call: Call) -> bool:
    return backward_of(call) is not None and call.name != "grad"


@query(on_cycle=False)
def _accumulates(function: Function) -> bool:
    return any(accumulates(call) for call in function.lower().calls)


def accumulates_in(region: Region) -> bool:
    """Whether a run of ``region`` adds to the ``.grad`` of parameters."""
    calls = list(calls_in(region))
    # What stands in the region itself is cheaper to ask than what its calls lead to.
    return any(_accumulates_directly(call) for call in calls) or any(accumulates(call) for call in calls)


def functions_run_by(call: Call) -> tuple[Function, ...]:
    """The functions of the project that ``call`` runs: callees, and the closure of ``optimizer.step(closure)``."""
    closures = () if call.name != "step" else (s for a in call.arguments for s in sources(a.value))
    return (*callees(call), *(c.target.lower() for c in closures if isinstance(c, FunctionValue)))


# ------------------------------------------------------------------------ clearing


def cleared_in(region: Region, but: Call | None = None) -> Iterator[Objects]:
    """The optimizers, modules and parameters whose gradients a run of ``region`` clears, callees included.

    What the functions do that the call ``but`` runs is left out.
    """
    yield from directly_cleared_in(region)
    for call in calls_in(region):
        if call is not but and directly_cleared(call) is None:
            yield from _cleared_by_callees(call)


def directly_cleared_in(region: Region) -> Iterator[Objects]:
    """What the code of ``region`` itself clears."""
    for call in calls_in(region):
        direct = directly_cleared(call)
        if direct is not None:
            yield direct
    for store in region.function.stores:
        if store.region.within(region):
            yield from _cleared_by_store(store)
    for deletion in region.function.deletions:
        if deletion.key.endswith(".grad") and deletion.region.within(region):
            yield UNKNOWN


def cleared_by(call: Call) -> Iterator[Objects]:
    """What ``call`` clears, itself or in the functions that it runs."""
    direct = directly_cleared(call)
    if direct is None:
        yield from _cleared_by_callees(call)
    else:
        yield direct


def _cleared_by_callees(call: Call) -> Iterator[Objects]:
    for function in functions_run_by(call):
        for found in _clearings(function):
            yield seen_from(found, call, function)


def directly_cleared(call: Call) -> Objects | None:
    """What ``call`` itself clears; None if it clears nothing."""
    receiver = call.receiver
    if receiver is not None and (call.method == "zero_grad" or _steps_engine(call, receiver)):
        return objects(receiver)
    owner = gradient_owner(receiver) if receiver is not None and call.method in {"zero_", "fill_"} else None
    if owner is not None:
        return objects(owner)
    if "zero_grad" in call.name and not callees(call):
        return UNKNOWN
    flag = call.argument("zero_grad")
    return UNKNOWN if isinstance(flag, Constant) and flag.constant is True else None


def _steps_engine(call: Call, receiver: Value) -> bool:
    """Whether ``call`` is ``engine.step()``, after which DeepSpeed clears the gradients itself."""
    return call.method == "step" and bool(role(receiver, Role.ENGINE))


def gradient_owner(value: Value) -> Value | None:
    """``p`` if ``value`` is ``p.grad`` or a part of it, such as ``p.grad.data``."""
    while isinstance(value, Attribute):
        if value.name == "grad":
            return value.base
        value = value.base
    return None


def gradient_reads(region: Region) -> Iterator[int]:
    """The orders of what reads ``.grad`` in ``region``, itself or in a function of the project that it calls."""
    for attribute in region.function.attributes:
        if attribute.region.within(region) and is_gradient_read(attribute):
            yield attribute.order
    for call in calls_in(region):
        if call.name in _GRADIENT_READERS or any(_reads_gradients(function) for function in callees(call)):
            yield call.order


_GRADIENT_READERS = frozenset({"clip_grad_norm_", "clip_grad_value_", "clip_grad_norm", "unscale_"})


@query(on_cycle=False)
def _reads_gradients(function: Function) -> bool:
    return any(True for _ in gradient_reads(function.lower().body))


def is_gradient_read(attribute: Attribute) -> bool:
    """Whether ``attribute`` is ``p.grad`` and more is done with it than comparing and clearing it."""
    if attribute.name != "grad":
        return False
    return any(not isinstance(use, Comparison) and not _is_clearing(use) for use in attribute.uses)


def _is_clearing(use: object) -> bool:
    if isinstance(use, Attribute) and use.name == "data":
        return all(map(_is_clearing, use.uses))
    return isinstance(use, Attribute) and use.name in {"zero_", "detach_", "requires_grad_", "fill_"}


def _cleared_by_store(store: Store) -> Iterator[Objects]:
    if store.attribute != "grad" or store.base is None:
        return
    if not store.augmented or _is_zero_product(store.value):
        yield objects(store.base)


def _is_zero_product(value: Value) -> bool:
    return isinstance(value, Binary) and isinstance(value.right, Constant) and value.right.constant == 0


@query(on_cycle=frozenset())
def _clearings(function: Function) -> frozenset[Objects]:
    """What running ``function`` clears, in terms of its parameters."""
    return frozenset(cleared_in(function.lower().body))


# ------------------------------------------------------------------ trained parameters


def trained_by(optimizer: Objects) -> Objects:
    """The modules and parameters that an optimizer was made for, as far as that is in sight."""
    made = (each for each in everywhere(optimizer) if isinstance(each.root, Call))
    return everywhere(frozenset(found for each in made for found in _given_to(each)))


def _given_to(optimizer: Object) -> Iterator[Object]:
    """What an optimizer got that a call made, or that is a component of what a call of a function returns."""
    call = optimizer.root
    assert isinstance(call, Call)
    given = call.argument("params", 0)
    if given is not None and not optimizer.path and _is_constructor(call):
        for owner in _parameter_owners(given):
            yield from objects(owner)
    for function in callees(call):
        for leaving in function.returns:
            yield from seen_from(_trained_by_component(leaving.value, optimizer.path), call, function)


def _is_constructor(call: Call) -> bool:
    return any(isinstance(source, (External, ClassValue)) for source in sources(call.callee))


@query(on_cycle=frozenset())
def _trained_by_component(returned: Value, path: tuple[object, ...]) -> Objects:
    found: set[Object] = set()
    for source in sources(returned):
        component = source if not path else display_element(source, path[0])
        if component is not None:
            made = (each for each in objects(component) if isinstance(each.root, Call))
            found.update(inner for each in made for inner in _given_to(each))
    return frozenset(found)


def _parameter_owners(given: Value) -> Iterator[Value]:
    """The modules whose parameters are in ``given``, and the tensors that stand in it by themselves."""
    seen: set[int] = set()
    pending = [given]
    while pending and len(seen) < _MAX_VALUES:
        current = pending.pop()
        if id(current) in seen:
            continue
        seen.add(id(current))
        nearer = [source for source in sources(current) if source is not current]
        if isinstance(current, Call) and current.method in _PARAMETER_METHODS and current.receiver is not None:
            yield current.receiver
        elif isinstance(current, Call) and makes_parameter(current):
            yield current
        elif isinstance(current, (Call, Display, Comprehension)):
            pending.extend(_contents(current))
        elif nearer:
            pending.extend(nearer)
        elif not isinstance(current, (Constant, External, FunctionValue)):
            yield current


_PARAMETER_METHODS = frozenset({"parameters", "named_parameters"})


def makes_parameter(call: Call) -> bool:
    """Whether ``call`` returns a tensor that requires a gradient by itself: ``torch.zeros(3, requires_grad=True)``."""
    required = call.argument("requires_grad")
    if isinstance(required, Constant) and required.constant is True:
        return True
    return call.method == "requires_grad_" or bool(qualified_names(call.callee) & CREATORS_WITH_GRAD)


def _contents(collection: Call | Display | Comprehension) -> Iterator[Value]:
    yield from collection.operands()
    if is_made_here(collection):
        yield from elements(collection)  # Parameters that a loop sorts into lists.
    if isinstance(collection, Comprehension) and collection.loop.iterable is not None:
        yield collection.loop.iterable
    if isinstance(collection, Call):
        yield from (leaving.value for function in callees(collection) for leaving in function.returns)


# ------------------------------------------------------------------- stale gradients


class Cleared(Enum):
    """Whether the gradients that an update uses are cleared in each repetition."""

    YES = 1
    UNKNOWN = 2
    NO = 3


def stepped_in(region: Region) -> Iterator[Objects]:
    """The optimizers that a run of ``region`` steps, callees included."""
    for call in calls_in(region):
        yield from stepped_by(call)


def stepped_by(call: Call) -> Iterator[Objects]:
    """The optimizers that ``call`` steps, itself or in the functions of the project that it runs."""
    for optimizer in optimizers_stepped(call):
        yield objects(optimizer)
    for function in callees(call):
        for found in _steps(function):
            yield seen_from(found, call, function)


@query(on_cycle=frozenset())
def _steps(function: Function) -> frozenset[Objects]:
    return frozenset(stepped_in(function.lower().body))


def clears(target: Objects, optimizer: Objects) -> bool:
    """Whether clearing ``target`` clears gradients that ``optimizer`` uses."""
    if holds(target, optimizer) or holds(optimizer, target):
        return True
    trained = trained_by(optimizer)
    target = everywhere(target)
    return holds(target, trained) or holds(trained, target)


def cleared_for(optimizer: Objects, region: Region, but: Call | None = None) -> Cleared:
    """Whether a run of ``region`` clears the gradients that ``optimizer`` uses.

    What is cleared for another optimizer that ``region`` steps says nothing about this one; what is cleared for
    none that is known may be for any.
    """
    targets: list[Objects] = []
    for target in cleared_in(region, but):
        if target and clears(target, optimizer):
            return Cleared.YES
        targets.append(target)
    if _is_handed_on(optimizer, region):
        return Cleared.UNKNOWN
    others = [other for other in stepped_in(region) if not holds(other, optimizer)]
    explained = all(target and any(clears(target, other) for other in others) for target in targets)
    return Cleared.NO if explained else Cleared.UNKNOWN


@query(on_cycle=frozenset())
def _called_by_name(function: Function) -> Objects:
    """What ``function`` passes to functions that it looks up by name, ``getattr(callback, event)(self)``.

    Functions are left out that clear no gradients, where the name is in sight and the project has functions of it.
    """
    return frozenset(
        found
        for call in function.lower().calls
        if isinstance(call.callee, Call) and _may_clear_by_name(call.callee)
        for argument in call.arguments
        for found in objects(argument.value)
    )


def _may_clear_by_name(lookup: Call) -> bool:
    if "builtins.getattr" not in qualified_names(lookup.callee):
        return False
    name = lookup.argument("", 1)
    for text in constant_texts(name) if name is not None else (None,):
        named = lookup.function.project.defining(text) if text is not None else None
        if not named or any(map(_clearings, named)):
            return True
    return False


_KEEPING_GRADIENTS = frozenset(
    {"step", "unscale_", "scale_loss", "clip_grad_norm_", "clip_grad_value_", "print", "len"}
)


def _is_handed_on(optimizer: Objects, region: Region) -> bool:
    """Whether code that is out of sight gets the optimizer, or a closure that it runs, and may clear gradients."""
    for call in calls_in(region):
        functions = callees(call)
        if any(holds(seen_from(_called_by_name(each), call, each), optimizer) for each in functions):
            return True
        if functions or _is_arithmetic(call):
            continue
        arguments = [argument.value for argument in call.arguments]
        if call.name == "step" and optimizers_stepped(call):
            if any(not holds(optimizer, objects(a)) and not _is_plain(a) for a in arguments):
                return True
        elif call.name not in _KEEPING_GRADIENTS and any(holds(objects(a), optimizer) for a in arguments):
            return True
    return False


def _is_arithmetic(call: Call) -> bool:
    """Whether ``call`` is an operation of torch, or writes into a tensor what it computes: ``p.data.add_(p.grad)``."""
    names = qualified_names(call.callee)
    return call.method in _IN_PLACE_UPDATES or any(name.startswith("torch.") for name in names)


def _is_plain(argument: Value) -> bool:
    """Whether an argument of ``step`` is another optimizer, a number, or a closure whose code is in sight."""
    return bool(role(argument, Role.OPTIMIZER, Role.NUMBER, Role.NONE)) or any(
        isinstance(source, FunctionValue) for source in sources(argument)
    )


class Stage(NamedTuple):
    """A function that is called between a loop and an update; ``optimizer`` is what is stepped, as seen there."""

    function: Function
    optimizer: Objects
    site: Call


def innermost_step(region: Region) -> Loop | None:
    """The innermost loop around ``region`` whose iterations run a backward."""
    return next((loop for loop in region.loops() if not loop.is_comprehension and accumulates_in(loop)), None)


class Repetition(NamedTuple):
    """A loop whose iterations each run a backward and an update."""

    loop: Loop
    optimizer: Objects
    """What is stepped, as seen in the loop."""
    stages: tuple[Stage, ...]

    @property
    def cleared(self) -> Cleared:
        """Whether each iteration clears the gradients of the optimizer."""
        # A call on the way may name a method that the function on the way overrides.
        sites = [None, *(stage.site for stage in self.stages)]
        answers = [cleared_for(self.optimizer, self.loop, sites[-1])]
        for stage, inner in zip(self.stages, sites, strict=False):
            answers.append(cleared_for(stage.optimizer, stage.function.body, inner))
        return min(answers, key=lambda answer: answer.value)


def repetitions(update: Update) -> Iterator[Repetition]:
    """The innermost loops that repeat an update and a backward: around the update, or around calls of its function."""
    yield from _repetitions(update.region, update.objects, ())


def _repetitions(region: Region, optimizer: Objects, stages: tuple[Stage, ...]) -> Iterator[Repetition]:
    inside = any(accumulates_in(stage.function.body) for stage in stages)
    for loop in region.loops():
        if not loop.is_comprehension and (inside or accumulates_in(loop)):
            yield Repetition(loop, optimizer, stages)
            return
    function = region.function
    if len(stages) < _MAX_CALLERS and all(stage.function is not function for stage in stages):
        for site in call_sites(function):
            seen = seen_from(optimizer, site, function)
            yield from _repetitions(site.region, seen, (*stages, Stage(function, optimizer, site)))


def is_fresh(repetition: Repetition) -> bool:
    """Whether each iteration makes its own parameters, or an optimizer for parameters that are out of sight."""
    if not any(_is_made_in(each, repetition) for each in repetition.optimizer):
        return False
    trained = trained_by(repetition.optimizer)
    return not trained or any(_is_made_in(each, repetition) for each in trained)


def _is_made_in(found: Object, repetition: Repetition) -> bool:
    root = found.root
    if not isinstance(root, Call):
        return False
    return root.region.within(repetition.loop) or any(root.function is stage.function for stage in repetition.stages)


def cleared_by_class(function: Function) -> bool:
    """Whether another method of the same class clears gradients, as a hook that a framework calls may do."""
    owner = function.owner
    return owner is not None and any(
        _clearings(m) for cls in mro(owner) for m in cls.methods.values() if m is not function
    )
