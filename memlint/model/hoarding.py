"""What is collected for each batch of a data set: in containers, in a tensor that grows, in objects that keep it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from memlint.findings import Confidence
from memlint.model.accumulations import Accumulation, accumulations, concatenates, is_reset_in_loop
from memlint.model.aliases import base_names, sources
from memlint.model.calls import argument_parameters, callees, passed_arguments, proven_call_sites
from memlint.model.containers import container_origins, is_container, is_emptied_in, length_limit
from memlint.model.detaching import written_members
from memlint.model.effects import Effect, region_effects
from memlint.model.footprint import is_joined, is_moved_to_host
from memlint.model.gradmode import evaluates_a_batch
from memlint.model.kinds import Role, class_of, kinds, role
from memlint.model.knowledge import frameworks
from memlint.model.loops import iterates_over_data, iterates_over_loader
from memlint.model.memo import query
from memlint.model.numpy_reads import is_array
from memlint.model.regrowth import concatenation
from memlint.model.scopes import Function
from memlint.model.spans import Span
from memlint.model.stashes import Stash, insertions_in, stashes
from memlint.model.values import Call, Comprehension, Display, Loop, Occurrence, Parameter, Region, Value


class Hoard(NamedTuple):
    """``container`` keeps ``kept`` for each batch of a data set, outside of the steps of training."""

    kept: Occurrence
    container: Value
    holder: cst.CSTNode | None
    """The expression that names the container; None for a comprehension, which has no name."""
    region: Region
    over_data: Confidence
    """How sure it is that a data set is gone through."""
    from_loader: bool
    """Whether what is gone through gives batches, and not slices of something that is there already."""
    grows_in_place: bool = False
    """Whether the container is a tensor, so that what is kept must be on its device."""


@query(on_cycle=())
def hoards(function: Function) -> tuple[Hoard, ...]:
    """What ``function`` collects for each batch of a data set."""
    return tuple(_hoards(function))


def _hoards(function: Function) -> Iterator[Hoard]:
    for stash in stashes(function):
        yield from _stashed(stash)
    for accumulation in accumulations(function):
        yield from _concatenated(accumulation)
    for comprehension in function.comprehensions:
        yield from _comprehended(comprehension)
    for call in function.calls:
        yield from _handed_over(call)


def _stashed(stash: Stash) -> Iterator[Hoard]:
    insertion = stash.insertion
    region = insertion.event.region
    if length_limit(insertion.container) is not None or not _keeps_all(stash):
        return
    loop = _loop_over_data(stash)
    over_data = _goes_over(loop, insertion.container) if loop is not None else None
    if loop is None and stash.span is Span.CALL and evaluates_a_batch(region.function):
        over_data = Confidence.LIKELY
    if over_data is not None:
        from_loader = loop is None or _evaluates_over(loop) is None or iterates_over_loader(loop)
        for member in written_members(stash.occurrence):
            # What a method is given is told where it is called.
            if any(passed_arguments(parameter) for parameter in _unchanged(member.value)):
                continue
            for kept in _put_in_beforehand(member) or (member,):
                if is_array(kept.value):
                    continue
                yield Hoard(kept, insertion.container, insertion.holder, region, over_data, from_loader)


def _put_in_beforehand(kept: Occurrence) -> tuple[Occurrence, ...]:
    """What a function of the same file puts into the list or dict that it returns and that is ``kept``."""
    found: list[Occurrence] = []
    for call in sources(kept.value):
        for function in callees(call) if isinstance(call, Call) and role(call, Role.CONTAINER) else ():
            if function.module is kept.value.function.module:
                returned = {id(source) for exit in function.returns for source in sources(exit.value)}
                found.extend(
                    Occurrence(insertion.value, insertion.node)
                    for insertion in insertions_in(function)
                    if any(id(origin) in returned for origin in container_origins(insertion.container))
                )
    return tuple(found)


def _loop_over_data(stash: Stash) -> Loop | None:
    """The innermost loop over a data set that the container outlives, here or where the function is called."""
    container, region = stash.insertion.container, stash.insertion.event.region
    if stash.span is Span.CALL:
        return _loop_of_callers(region.function) if region.loop is None else None
    origins = container_origins(container)
    outlived = (loop for loop in region.loops() if not origins or not all(each.region.within(loop) for each in origins))
    found = next((loop for loop in outlived if _goes_over(loop, container) is not None), None)
    return None if found is not None and is_emptied_in(container, found) else found


def _keeps_all(stash: Stash) -> bool:
    """Whether the container keeps what it is given: metrics and writers have ``update`` and ``add`` as well."""
    event, container = stash.insertion.event, stash.insertion.container
    if class_of(container) is not None:
        return False
    return not isinstance(event, Call) or event.method in {"append", "appendleft", "extend"} or is_container(container)


def _evaluates_over(loop: Loop) -> Confidence | None:
    """How sure it is that ``loop`` goes through a data set; None if it trains."""
    over_data = iterates_over_data(loop)
    return over_data if over_data is not None and not region_effects(loop) & Effect.BACKWARD else None


def _goes_over(loop: Loop, container: Value) -> Confidence | None:
    """Like :func:`_evaluates_over`; what nobody knows is taken for data if its results end in host memory.

    ``torch.cat(outputs).cpu()``: such results are not for the next step of the same computation.
    """
    known = _evaluates_over(loop)
    if known is not None or region_effects(loop) & Effect.BACKWARD or loop.iterable is None:
        return known
    if not all(map(_is_unknown, sources(loop.iterable))) or not (is_joined(container) and is_moved_to_host(container)):
        return None
    return Confidence.LIKELY


def _is_unknown(iterable: Value) -> bool:
    """Whether nothing says what a loop goes over: neither parts of the program nor numbers nor a list."""
    if isinstance(iterable, Call) and iterable.name in {"range", "trange"}:
        return False
    return not kinds(iterable) and not isinstance(iterable, Display)


def _loop_of_callers(function: Function) -> Loop | None:
    """The loop over a data set in which ``function`` is called, one batch after the other."""
    loops = (site.region.loop for site in proven_call_sites(function) if site.function is not function)
    return next((loop for loop in loops if loop is not None and _evaluates_over(loop) is not None), None)


def _concatenated(accumulation: Accumulation) -> Iterator[Hoard]:
    """``everything = torch.cat([everything, out])``."""
    accumulation = concatenation(accumulation)
    loop = accumulation.loop
    if accumulation.span is not Span.ITERATION or loop is None or not concatenates(accumulation):
        return
    over_data = None if is_reset_in_loop(accumulation) else _evaluates_over(loop)
    if over_data is not None:
        for addend in accumulation.addends:
            yield Hoard(
                addend,
                accumulation.value,
                accumulation.holder,
                accumulation.region,
                over_data,
                iterates_over_loader(loop),
                grows_in_place=True,
            )


def _comprehended(comprehension: Comprehension) -> Iterator[Hoard]:
    """``[model(x) for x in loader]``."""
    over_data = _evaluates_over(comprehension.loop) if comprehension.kind != "generator" else None
    if over_data is None:
        return
    node = comprehension.node
    written = node.value if isinstance(node, cst.DictComp) else getattr(node, "elt", comprehension.element.node)
    for member in written_members(Occurrence(comprehension.element, written)):
        yield Hoard(
            member,
            comprehension,
            None,
            comprehension.region,
            over_data,
            iterates_over_loader(comprehension.loop),
        )


def _handed_over(call: Call) -> Iterator[Hoard]:
    """``meter.update(out)``, where the method of a class of the project puts it into a list of its instance."""
    loop = call.region.loop
    over_data = _evaluates_over(loop) if loop is not None and _keeps_some(call) else None
    if over_data is None or loop is None:
        return
    for argument in call.arguments:
        for parameter in argument_parameters(call, argument):
            if parameter.name in _kept_parameters(parameter.function):
                kept = Occurrence(argument.value, argument.node.value)
                holder = call.node.func.value if isinstance(call.node.func, cst.Attribute) else call.node.func
                yield from (
                    Hoard(member, call, holder, call.region, over_data, iterates_over_loader(loop))
                    for member in written_members(kept)
                )
                break


def _keeps_some(call: Call) -> bool:
    return any(_kept_parameters(function) for function in callees(call))


@query(on_cycle=frozenset())
def _kept_parameters(function: Function) -> frozenset[str]:
    """The parameters that ``function`` puts into a container of its instance as they are."""
    owner = function.owner
    if owner is None or any(name.startswith(frameworks.METRIC_ROOTS) for name in base_names(owner)):
        return frozenset()
    kept = (
        parameter
        for stash in stashes(function.lower())
        if stash.span is Span.CALL and length_limit(stash.insertion.container) is None
        for member in written_members(stash.occurrence)
        for parameter in _unchanged(member.value)
    )
    return frozenset(parameter.name for parameter in kept if parameter.function is function)


_SAME_SIZE = frozenset({"detach", "clone", "contiguous", "float", "squeeze", "flatten", "view", "reshape", "data"})


def _unchanged(value: Value) -> Iterator[Parameter]:
    """The parameters that ``value`` may be, detached or in another form."""
    seen: set[Value] = set()
    pending = [value]
    while pending:
        # In a loop a value may be made of itself.
        for source in set(sources(pending.pop())) - seen:
            seen.add(source)
            match source:
                case Parameter():
                    yield source
                case Call() if source.method in _SAME_SIZE and source.receiver is not None:
                    pending.append(source.receiver)
                case Display():
                    pending.extend(source.elements)
