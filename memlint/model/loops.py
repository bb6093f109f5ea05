"""What loops iterate over."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from memlint.findings import Confidence
from memlint.model.aliases import qualified_names, sources
from memlint.model.calls import argument_parameters, callees, passed_arguments
from memlint.model.containers import container_origins, insertions_of, names_of
from memlint.model.destinations import destinations
from memlint.model.devices import moves_to_accelerator
from memlint.model.effects import Effect, calls_in, region_effects
from memlint.model.kinds import Role, is_known_other, role
from memlint.model.knowledge import frameworks
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import (
    Attribute,
    Call,
    Comprehension,
    Constant,
    Display,
    External,
    Item,
    Loop,
    Parameter,
    Value,
)

_WRAPPERS = frozenset({"enumerate", "zip", "tqdm", "trange", "track", "iter", "reversed", "sorted", "list", "islice"})
"""Functions that hand on the elements of what they are given, whichever library has them."""
_PAIRING = frozenset({"enumerate", "zip", "reversed"})
"""Those of them that end with the shortest of what they are given."""


def iterates_over_data(loop: Loop) -> Confidence | None:
    """How sure it is that each iteration takes a batch or a sample of a data set.

    Certain: a loader. Likely: positions in a collection (``range(len(samples))``), or the starts of its batches
    (``range(0, len(samples), batch_size)``). None: layers, parameters, a literal, time steps, or nobody knows what.
    """
    if loop.iterable is None:
        return None
    batch = role(loop.element, Role.BATCH) if loop.element is not None else None
    if batch is not None:
        # The parts of a batch, and of what is computed of it, count as batches, too.
        return batch if role(loop.iterable, Role.BATCH, Role.OUTPUT) is None else None
    return _is_data(loop.iterable) or (Confidence.LIKELY if _moves_elements(loop) else None)


def iterates_over_loader(loop: Loop) -> bool:
    """Whether the loop takes batches from a loader, and not slices of something that is there already."""
    found = iterates_over_data(loop)
    if found is None or loop.element is None:
        return False
    if found is Confidence.CERTAIN or role(loop.element, Role.BATCH) is not None or _moves_elements(loop):
        return True
    if loop.iterable is not None and any(_is_sliced_in(loop, counted) for counted in _counted(loop.iterable)):
        return True
    if _becomes_tensors(loop.element):
        return True
    return takes_next(loop)


def takes_next(loop: Loop) -> bool:
    """Whether each iteration takes the next element of an iterator that was made before: ``next(batches)``."""
    return any(_takes_next(call, loop) for call in calls_in(loop))


def _takes_next(call: Call, loop: Loop) -> bool:
    """Whether ``call`` takes the next element of an iterator that was made before ``loop``, or runs what does."""
    for argument in call.arguments:
        made = [source for source in sources(argument.value) if isinstance(source, Call) and source.name == "iter"]
        if any(not source.region.within(loop) for source in made):
            if "builtins.next" in qualified_names(call.callee):
                return True
            for parameter in argument_parameters(call, argument):
                users = (use for use in parameter.uses if isinstance(use, Call))
                if any("builtins.next" in qualified_names(use.callee) for use in users):
                    return True
    return False


def _counted(iterable: Value) -> Iterator[Value]:
    """The collections whose length bounds ``iterable``: ``xs`` in ``range(0, len(xs), size)``."""
    calls = (source for source in sources(iterable) if isinstance(source, Call))
    for call in calls:
        for bound in call.positional():
            yield from _measured(bound) if call.name in {"range", "trange"} else _counted(bound)


def _measured(bound: Value) -> Iterator[Value]:
    for source in sources(bound) if _is_length(bound) else ():
        if isinstance(source, Call):
            yield from source.positional()


def _is_sliced_in(loop: Loop, collection: Value) -> bool:
    """Whether each iteration takes a slice of ``collection``, which is known to be no tensor: some of a list."""
    slices = [
        use
        for name in names_of(collection)
        for use in name.uses
        if isinstance(use, Item) and _is_slice(use) and use.region.within(loop)
    ]
    if is_known_other(collection, Role.TENSOR, Role.OUTPUT, Role.BATCH):
        return bool(slices)
    return any(map(_becomes_tensors, slices))


def _becomes_tensors(value: Value) -> bool:
    """Whether a tokenizer or processor makes tensors of ``value``, which has been none: ``return_tensors="pt"``."""
    users = (use.user for use in destinations(value))
    return any(isinstance(user, Call) and user.argument("return_tensors") is not None for user in users)


def _moves_elements(loop: Loop) -> bool:
    """Whether each element, or a part of it, is moved to an accelerator, as batches are that come from host memory.

    A function that calls itself for each element moves the parts of one batch. So do those that were given a list: it
    holds all of its elements already.
    """
    if loop.iterable is not None and _is_given_list(loop.iterable):
        return False
    if any(loop.function in callees(call) for call in loop.function.calls if call.region.within(loop)):
        return False
    return loop.element is not None and any(
        isinstance(call, Call) and moves_to_accelerator(call)
        for use in destinations(loop.element)
        if isinstance(use.user, Attribute)
        and (use.user.function is loop.function or _runs_no_module(use.user.function))
        for call in use.user.uses
    )


def _is_given_list(iterable: Value) -> bool:
    """Whether ``iterable`` is a list of Python that a function was given or returned, or several that are paired."""
    for source in sources(iterable):
        if isinstance(source, Call) and source.name in _PAIRING and not callees(source):
            if not any(map(_is_given_list, source.positional())):
                return False
        elif role(source, Role.CONTAINER) is None:
            return False
    return True


def _runs_no_module(function: Function) -> bool:
    """Whether ``function`` may be there to move a batch; one that runs a module is not."""
    return not any(role(call.callee, Role.MODULE) for call in function.calls)


@query(on_cycle=None)
def _is_data(iterable: Value) -> Confidence | None:
    found: list[Confidence] = []
    for source in sources(iterable):
        known = role(source, Role.LOADER, Role.DATASET)
        if known is not None:
            found.append(known)
        elif isinstance(source, Call):
            found.extend(_call_over_data(source))
        elif isinstance(source, Comprehension) and _is_slice(source.element):
            found.extend(_call_over_data_of(source))
    return max(found, key=lambda confidence: confidence.rank, default=None)


def _call_over_data(call: Call) -> list[Confidence]:
    positional = call.positional()
    if call.name in {"range", "trange"}:
        return [Confidence.LIKELY] if any(_is_length(bound) for bound in positional) else []
    if call.name == "tqdm" or (call.name in _WRAPPERS and call.receiver is None):
        inner = (_is_data(given) for given in positional if not isinstance(given, Display))
        return [confidence for confidence in inner if confidence is not None]
    return []


def _is_slice(value: Value) -> bool:
    return isinstance(value, Item) and value.index == (None,)


def _call_over_data_of(batches: Comprehension) -> list[Confidence]:
    """Of ``[texts[i : i + size] for i in range(0, len(texts), size)]``, the batches of a collection."""
    over = batches.loop.iterable
    known = _is_data(over) if over is not None else None
    return [known] if known is not None else []


def _is_length(value: Value) -> bool:
    """Whether ``value`` is the length of a collection that has no element for each module, and is no output of one."""
    return any(
        isinstance(source, Call)
        and "builtins.len" in qualified_names(source.callee)
        and not any(
            role(given, Role.MODULE, Role.PARAMETERS, Role.OUTPUT) or _is_kept_for_parts(given)
            for given in source.positional()
        )
        for source in sources(value)
    )


def _is_kept_for_parts(collection: Value) -> bool:
    """Whether a collection has an element for each part of the program: for each layer, for each of some encoders."""
    return _is_filled_for_parts(collection) or any(
        isinstance(source, Attribute)
        and source.name in frameworks.LAYER_FIELDS
        and all(isinstance(made, Call) for made in sources(source.base))
        for source in sources(collection)
    )


@query(on_cycle=False)
def _is_filled_for_parts(collection: Value) -> bool:
    """Whether a list gets its elements in loops over parts of the program: the embeddings by each of two encoders."""
    origins = container_origins(collection)
    fillings = [
        insertion.event.region
        for name in names_of(collection)
        for use in name.uses
        if isinstance(use, Attribute)
        for user in use.uses
        if isinstance(user, Call) and user.callee is use
        for insertion in insertions_of(user)
    ]
    return bool(fillings) and all(
        any(map(iterates_over_parts, region.loops()))
        and all(iterates_over_parts(loop) or _lies_within(origins, loop) for loop in region.loops())
        for region in fillings
    )


def _lies_within(origins: tuple[Value, ...], loop: Loop) -> bool:
    return bool(origins) and all(origin.region.within(loop) for origin in origins)


def iterates_over_parts(loop: Loop) -> bool:
    """Whether the loop goes over layers, parameters or the elements of a literal: as many as the program has.

    Or counts to a constant, and does not train: over classes, heads, samples of one prediction.
    """
    if loop.iterable is None:
        return False
    if loop.element is not None and role(loop.element, Role.MODULE):
        return True
    return _is_made_of_parts(loop.iterable) or (
        _counts_to_constant(loop.iterable) and not region_effects(loop) & (Effect.BACKWARD | Effect.STEP)
    )


def _counts_to_constant(iterable: Value) -> bool:
    """Whether ``iterable`` is ``range`` with bounds that are constants, here or in a module out of sight."""
    made = sources(iterable)
    return bool(made) and all(isinstance(call, Call) and _is_constant_range(call) for call in made)


def _is_constant_range(call: Call) -> bool:
    names = qualified_names(call.callee)
    if names & {"builtins.list", "builtins.tuple"}:
        return any(map(_counts_to_constant, call.positional()))
    bounds = [bound for given in call.positional() for bound in sources(given)]
    return "builtins.range" in names and all(isinstance(bound, (Constant, External)) for bound in bounds)


@query(on_cycle=False)
def _is_made_of_parts(iterable: Value) -> bool:
    if role(iterable, Role.MODULE, Role.PARAMETERS):
        return True
    for source in sources(iterable):
        if isinstance(source, Parameter) and any(map(_holds_modules, passed_arguments(source) or ())):
            return True
        if isinstance(source, Display) and source.elements:
            return True
        if isinstance(source, Attribute) and source.name == "_fields":
            return True  # The names in a named tuple.
        if isinstance(source, Call) and source.name in _PAIRING and any(map(_is_made_of_parts, source.positional())):
            return True
    return False


def _holds_modules(given: Value) -> bool:
    """Whether a list is written out and holds modules: ``Pipeline([first_encoder, second_encoder])``."""
    return any(
        isinstance(source, Display) and any(role(element, Role.MODULE) for element in source.elements)
        for source in sources(given)
    )


_FEW = 200
"""Iterations that a loop with a constant bound may have to count as short."""


def is_cut_short(loop: Loop) -> bool:
    """Whether the loop ends after a few iterations: by ``break``, ``islice``, or a small constant ``range``."""
    if isinstance(loop.node, (cst.For, cst.While)) and _breaks(loop.node.body):
        return True
    found = sources(loop.iterable) if loop.iterable is not None else ()
    return any(_is_short(source) for source in found)


def _is_short(iterable: Value) -> bool:
    if not isinstance(iterable, Call):
        return False
    positional = iterable.positional()
    if iterable.name == "islice":
        return True
    if iterable.name in {"range", "trange"} and positional:
        bound = positional[-1 if len(positional) == 1 else 1]
        return isinstance(bound, Constant) and isinstance(bound.constant, int) and bound.constant <= _FEW
    return iterable.name in _WRAPPERS and any(_is_short(s) for given in positional for s in sources(given))


def _breaks(body: cst.BaseSuite) -> bool:
    """Whether a block leaves the loop that it is the body of."""
    pending: list[cst.CSTNode] = [body]
    while pending:
        node = pending.pop()
        if isinstance(node, cst.Break):
            return True
        if not isinstance(node, (cst.For, cst.While, cst.FunctionDef, cst.ClassDef, cst.BaseExpression)):
            pending.extend(node.children)
    return False
