"""``except`` clauses that catch running out of memory, what they run again, and what they keep of the exception.

An exception holds its traceback, that the frames of the failed call, and those their local tensors: all of them stay
alive until the handler is left, and longer if the exception is kept (measured on torch 2.13).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.bare_trees.layout import spelling
from memlint.findings import Confidence
from memlint.model.aliases import instance_class, qualified_names, sources
from memlint.model.calls import callees
from memlint.model.detaching import written_members
from memlint.model.effects import Effect, effects
from memlint.model.footprint import moves_to_host
from memlint.model.forwards import called_module, forwards
from memlint.model.kinds import Role, role
from memlint.model.knowledge import torch
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.source_text import text
from memlint.model.spans import container_span
from memlint.model.stashes import insertions_in
from memlint.model.values import (
    Attribute,
    Call,
    Display,
    External,
    Free,
    Handler,
    Occurrence,
    Opaque,
    Parameter,
    Region,
    Store,
    Try,
    Value,
)


class Caught(NamedTuple):
    """An ``except`` clause, and what it guards."""

    handler: Handler
    tried: Try | None
    out_of_memory: Confidence | None
    """How sure it is that the clause is about running out of memory; None if nothing says so."""

    @property
    def node(self) -> cst.ExceptHandler | cst.ExceptStarHandler:
        """The clause as it is written."""
        node = self.handler.node
        assert isinstance(node, (cst.ExceptHandler, cst.ExceptStarHandler))
        return node


def caught_in(function: Function) -> Iterator[Caught]:
    """The ``except`` clauses of one function that do something."""
    if not any(isinstance(part, Handler) for part in function.parts):
        return
    regions: dict[int, Region] = {}
    places = [*(call.region for call in function.calls), *(store.region for store in function.stores)]
    for place in places:
        regions.update((id(region), region) for region in place.ancestors())
    tries = [region for region in regions.values() if isinstance(region, Try)]
    for region in regions.values():
        if isinstance(region, Handler):
            tried = next((each for each in tries if _guards(each, region)), None)
            yield Caught(region, tried, _out_of_memory(region))


@query(on_cycle=False)
def catches_out_of_memory(module: Module) -> bool:
    """Whether a file has an ``except`` clause that is about running out of memory."""
    if "except" not in module.text:
        return False
    return any(caught.out_of_memory is not None for function in module.functions for caught in caught_in(function))


def _guards(tried: Try, handler: Handler) -> bool:
    node = tried.node
    return isinstance(node, (cst.Try, cst.TryStar)) and any(each is handler.node for each in node.handlers)


def _out_of_memory(handler: Handler) -> Confidence | None:
    names = _names_caught(handler.caught)
    if any(name in torch.OUT_OF_MEMORY_ERRORS for name in names):
        return Confidence.CERTAIN
    if names and not names & {"builtins.RuntimeError", "builtins.Exception", "builtins.BaseException"}:
        return None
    if not _speaks_of_memory(handler.function.module.text):
        return None
    return Confidence.LIKELY if _speaks_of_memory(text(handler.node)) else None


def _speaks_of_memory(text: str) -> bool:
    lowered = text.lower()
    return any(word in lowered for word in _WORDS)


_WORDS = ("out of memory", "out_of_memory", "outofmemory", "is_oom", "oom_error", "should_reduce_batch_size")


def _names_caught(caught: Value | None) -> frozenset[str]:
    if caught is None:
        return frozenset()
    elements = caught.elements if isinstance(caught, Display) else (caught,)
    return frozenset(name for element in elements for name in qualified_names(element))


# ----------------------------------------------------------------------------- running again


class Retry(NamedTuple):
    """A call in the handler of what has just failed."""

    call: Call
    confidence: Confidence


def retries(caught: Caught) -> Iterator[Retry]:
    """The calls in a handler that run again what the ``try`` ran, while the exception is alive."""
    if caught.tried is None or caught.out_of_memory is None:
        return
    calls = caught.handler.function.calls
    inside = [call for call in calls if call.region.within(caught.handler)]
    tried = [call for call in calls if call.region.within(caught.tried)]
    released = min((each for each in _releases(caught, inside)), default=None)
    for call in inside:
        if released is not None and released < call.order:
            return
        confidence = _runs_again(call, tried, caught)
        if confidence is not None:
            on_host = any(moves_to_host(each) for each in inside if each.order < call.order)
            yield Retry(call, Confidence.POSSIBLE if on_host else confidence)


def _runs_again(call: Call, tried: list[Call], caught: Caught) -> Confidence | None:
    if caught.handler.function in callees(call):
        return Confidence.CERTAIN
    same = [each for each in tried if spelling(each.node.func) == spelling(call.node.func)]
    if not same or not any(map(_is_heavy, (call, *same))):
        return None
    assert caught.out_of_memory is not None
    known = called_module(call) is not None or bool(callees(call))
    return Confidence.weakest(caught.out_of_memory, Confidence.CERTAIN if known else Confidence.LIKELY)


_LIGHT = frozenset(
    """
    zero_grad print write close clear append extend get pop add items keys values format join split strip
    synchronize empty_cache collect save load state_dict load_state_dict parameters named_parameters train eval to cuda
    cpu size dim item numel unsqueeze squeeze view reshape sleep exit time perf_counter setattr getattr hasattr
    set_epoch next set_description set_postfix log info debug warning error exception barrier reset
    """.split()
)
"""Calls that need little memory, whoever's they are."""


def _is_heavy(call: Call) -> bool:
    """Whether ``call`` runs a module or a backward, or code out of sight that it hands data to."""
    if call.name in _LIGHT:
        return False
    if called_module(call) is not None or effects(call) & Effect.BACKWARD:
        return True
    functions = callees(call)
    if functions:
        return any(_works(function, 3) for function in functions)
    if isinstance(call.callee, External):
        name = call.callee.qualified_name
        return name.startswith(torch.FUNCTION_MODULES) and not name.startswith(("torch.cuda.", "torch.distributed."))
    if call.receiver is not None and role(call.receiver, Role.OPTIMIZER, Role.TEXT, Role.SCHEDULER, Role.CONTAINER):
        return False
    return bool(call.arguments) and any(map(_is_handed_in, sources(call.callee)))


def _is_handed_in(callee: Value) -> bool:
    """Whether what is called is an argument of the function or belongs to one, the instance included."""
    while isinstance(callee, Attribute):
        callee = callee.base
    return isinstance(callee, (Parameter, Free)) or instance_class(callee) is not None


def _works(function: Function, depth: int) -> bool:
    """Whether ``function`` runs a module, itself or in the functions that it calls."""
    if any(True for _ in forwards(function.lower())):
        return True
    calls = function.calls
    if any(called_module(call) is not None or effects(call) & Effect.BACKWARD for call in calls):
        return True
    return depth > 0 and any(_works(inner, depth - 1) for call in calls for inner in callees(call))


def _releases(caught: Caught, inside: list[Call]) -> Iterator[int]:
    """The orders of what lets go of the frames: ``e.__traceback__ = None``, ``traceback.clear_frames(...)``."""
    for store in caught.handler.function.stores:
        if store.attribute == "__traceback__" and store.region.within(caught.handler):
            yield store.order
    for call in inside:
        if call.name in {"clear_frames", "with_traceback"}:
            yield call.order


# ------------------------------------------------------------------------- kept exceptions


class KeptException(NamedTuple):
    """The exception outlives its handler."""

    node: cst.CSTNode
    """The exception where it is handed over."""
    holder: cst.CSTNode
    grows: bool
    """Whether each failure adds one to a container."""
    confidence: Confidence


def kept_exceptions(caught: Caught) -> Iterator[KeptException]:
    """Where a handler keeps its exception in a container, an attribute or another variable of a loop."""
    if caught.node.name is None:
        return
    confidence = caught.out_of_memory or (Confidence.LIKELY if _tries_model(caught) else None)
    if confidence is None:
        return
    function = caught.handler.function
    if any(order for order in _releases(caught, [c for c in function.calls if c.region.within(caught.handler)])):
        return
    for insertion in insertions_in(function):
        if not insertion.event.region.within(caught.handler):
            continue
        for member in written_members(Occurrence(insertion.value, insertion.node)):
            if _is_exception(member.value, caught) and container_span(insertion.container, caught.handler)[0]:
                yield KeptException(member.node, insertion.holder, True, confidence)
    for store in function.stores:
        if _is_exception(store.value, caught) and _outlives(store, caught) and isinstance(store.node, cst.Assign):
            yield KeptException(
                store.node.value, store.target, False, Confidence.weakest(confidence, Confidence.LIKELY)
            )


def _is_exception(value: Value, caught: Caught) -> bool:
    return isinstance(value, Opaque) and value.node is caught.node.name


def _outlives(store: Store, caught: Caught) -> bool:
    """Whether an attribute gets the exception, or a variable that the next iteration of a loop finds."""
    if store.attribute is not None:
        return store.base is not None and instance_class(store.base) is not None
    return store.base is None and caught.handler.loop is not None and not _leaves_loop(store.region)


def _leaves_loop(region: Region) -> bool:
    """Whether the code in ``region`` ends the loop around it."""
    for each in region.ancestors():
        if each is region.loop:
            return False
        if each.leaves in {"break", "return", "raise"}:
            return True
    return True


def _tries_model(caught: Caught) -> bool:
    """Whether the ``try`` runs a module or a backward itself."""
    if caught.tried is None:
        return False
    calls = (call for call in caught.handler.function.calls if call.region.within(caught.tried))
    return any(called_module(call) is not None or effects(call) & Effect.BACKWARD for call in calls)
