"""Alternating training of two networks: gradients of one network that are computed in the step of the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from memlint.findings import Confidence
from memlint.model.aliases import instance_class
from memlint.model.attachment import Attachment, attachment
from memlint.model.calls import bound_arguments, callees, passed_arguments, proven_call_sites
from memlint.model.effects import started_roots
from memlint.model.forwards import called_module
from memlint.model.grad_switches import is_switched_off
from memlint.model.gradient_use import NextUse, next_use, optimizers_after
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.identity import Objects, everywhere, objects
from memlint.model.kinds import Role, role
from memlint.model.optimization import accumulates
from memlint.model.optimized import coverage, overlap
from memlint.model.retained import graph_of
from memlint.model.scopes import Function, Module
from memlint.model.training import inside
from memlint.model.upstream import component_index, exit_values, local_ancestors
from memlint.model.values import Argument, Call, Item, Parameter, Part, Value

_MAX_VALUES = 2000


class StrayGradient(NamedTuple):
    """A backward over ``judge`` goes on into ``source`` through ``argument``, but only ``judge`` is trained next."""

    backward: Call
    judge: Call
    argument: Argument
    source: Call
    confidence: Confidence


def stray_gradients(function: Function) -> Iterator[StrayGradient]:
    """The gradients that backwards of ``function`` compute for networks which another optimizer trains, in vain."""
    reported: set[int] = set()
    for backward in function.calls:
        roots = tuple(started_roots(backward)) if accumulates(backward) and not names_inputs(backward) else ()
        if not roots:
            continue
        stepped = optimizers_after(backward)
        trained = coverage(stepped)
        if not trained.objects or not trained.complete:
            continue
        for root in roots:
            for found in _over(root, backward, trained.objects):
                if id(found.argument) not in reported:
                    reported.add(id(found.argument))
                    yield found


def names_inputs(backward: Call) -> bool:
    """Whether the backward says whose gradients it wants: ``loss.backward(inputs=...)``."""
    return backward.argument("inputs") is not None


def _over(root: Value, backward: Call, trained: Objects) -> Iterator[StrayGradient]:
    for judge in forwards_behind(root):
        module = called_module(judge)
        if module is None or not overlap(known_as(module), trained):
            continue
        for argument in _arguments_seen_from(backward.function.module, judge):
            source = _foreign_source(argument.value, backward, trained)
            if source is not None and not _serves_its_own_step(judge, source, backward):
                sure = [role(module, Role.MODULE), role(source.callee, Role.MODULE)]
                certain = all(each is Confidence.CERTAIN for each in sure) and judge.function is backward.function
                confidence = Confidence.CERTAIN if certain else Confidence.LIKELY
                yield StrayGradient(backward, judge, argument, source, confidence)


def _serves_its_own_step(judge: Call, source: Call, backward: Call) -> bool:
    """Whether the same output of ``judge`` is differentiated once more in order to train ``source``."""
    known = known_as(source.callee)
    beside = dict.fromkeys((*judge.function.calls, *backward.function.calls))
    others = (call for call in beside if call is not backward and accumulates(call))
    return any(
        overlap(coverage(optimizers_after(call)).objects, known)
        for call in others
        if any(each is judge for root in started_roots(call) for each in forwards_behind(root))
    )


def forwards_behind(value: Value) -> Iterator[Call]:
    """The calls of modules that ``value`` is computed from, without the parts that those run themselves."""
    seen: set[int] = set()
    pending = [value]
    while pending and len(seen) < _MAX_VALUES:
        graph = tuple(graph_of(pending.pop()))
        picked = _picked(graph)
        for current in graph:
            if id(current) in seen:
                continue
            seen.add(id(current))
            if isinstance(current, Parameter):
                pending.extend(passed_arguments(current) or ())
            elif isinstance(current, Call):
                if called_module(current) is not None:
                    yield current
                elif not _is_module_method(current):
                    components = picked.get(id(current), {None})
                    for function in callees(current):
                        pending.extend(value for each in components for value in exit_values(function, each))


def _picked(graph: Iterable[Value]) -> dict[int, set[object]]:
    """The components of what calls return that stand in a graph, by the identity of the call."""
    found: dict[int, set[object]] = {}
    for value in graph:
        if isinstance(value, (Part, Item)):
            found.setdefault(id(value.base), set()).add(component_index(value))
    return found


def _is_module_method(call: Call) -> bool:
    """Whether ``call`` runs another method of a module than its forward, in which the module goes by another name."""
    receiver = call.receiver
    return receiver is not None and instance_class(receiver) is None and bool(role(receiver, Role.MODULE))


def _arguments_seen_from(module: Module, judge: Call) -> Iterator[Argument]:
    """The arguments of ``judge``; if it stands in another file, those that ``module`` passes for them."""
    if judge.function.module is module:
        yield from judge.arguments
        return
    handed_on = {
        value.name
        for argument in judge.arguments
        for value in local_ancestors(argument.value)
        if isinstance(value, Parameter)
    }
    for site in proven_call_sites(judge.function):
        bound = bound_arguments(site, judge.function) if site.function.module is module else {}
        passed = [bound[name] for name in handed_on if name in bound]
        yield from (argument for argument in site.arguments if any(argument.value is value for value in passed))


def known_as(module: Value) -> Objects:
    """A module under every name, those in the functions that make it included."""
    return frozenset(inside(everywhere(objects(module))))


def _foreign_source(fake: Value, backward: Call, trained: Objects) -> Call | None:
    """The forward pass behind ``fake`` whose network the step does not train, and clears before it is trained."""
    if attachment(fake) <= Attachment.UNKNOWN:
        return None
    for source in forwards_behind(fake):
        if grad_mode(source.region) is GradMode.DISABLED:
            continue
        module = called_module(source)
        if module is None or not role(module, Role.MODULE) or attachment(source) <= Attachment.UNKNOWN:
            continue
        known = known_as(module)
        if not known or overlap(known, trained) or is_switched_off(known, source):
            continue
        if next_use(backward, known) is NextUse.CLEARED:
            return source
    return None
