"""State that one iteration hands to the next: hidden states of recurrent networks, memories, carried activations."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

from memlint.model.aliases import display_element, qualified_names, sources
from memlint.model.attachment import Attachment, attachment
from memlint.model.calls import callees
from memlint.model.effects import backward_of, started_roots
from memlint.model.kinds import kinds
from memlint.model.knowledge.torch import IN_PLACE_DETACH
from memlint.model.scopes import Function
from memlint.model.upstream import ancestors, component_index, local_ancestors
from memlint.model.values import (
    Binary,
    Call,
    Display,
    Element,
    Item,
    Loop,
    Occurrence,
    Part,
    Phi,
    Unary,
    Value,
    operand_occurrences,
)


class Recurrence(NamedTuple):
    """A state that each iteration of ``loop`` gets from the last one and computes anew for the next one.

    The call ``step`` gets the states ``keys``, and a backward in the same iteration runs over the result.
    """

    keys: tuple[str, ...]
    """The states that the call gets: ``h`` and ``c`` of an LSTM cell are two."""
    loop: Loop
    step: Call
    state: Occurrence
    """The first state, where the call gets it."""
    carried: tuple[Value, ...]
    """The states that are handed on."""
    backward: Call

    @property
    def retains(self) -> bool | None:
        """Whether the backward keeps the graph; None if that is not known."""
        backward = backward_of(self.backward)
        return backward.retains if backward is not None else None


def recurrences(function: Function) -> Iterator[Recurrence]:
    """The recurrences of one function whose state keeps its graph from one iteration to the next."""
    for loop in function.loops:
        if loop.is_comprehension:
            continue
        backwards = [call for call in function.calls if call.region.loop is loop and any(started_roots(call))]
        if not backwards:
            continue
        found: dict[Call, Recurrence] = {}
        for phi in loop.phis.values():
            for state in _carried_states(phi, loop, backwards):
                known = found.get(state.step, state)
                if state.keys[0] not in known.keys:
                    known = known._replace(keys=known.keys + state.keys, carried=known.carried + state.carried)
                found[state.step] = known
        yield from found.values()


def _carried_states(phi: Phi, loop: Loop, backwards: list[Call]) -> Iterator[Recurrence]:
    for carried in phi.carried:
        if attachment(carried) <= Attachment.UNKNOWN:
            continue
        upstream = list(local_ancestors(carried))
        if not any(value is phi for value in upstream) or _detaches_in_place(loop, phi):
            continue
        for step in upstream:
            if isinstance(step, Call) and step.region.within(loop):
                state = _receives(step, phi)
                backward = _backward_over(step, backwards)
                if state is not None and backward is not None:
                    yield Recurrence((phi.key,), loop, step, state, (carried,), backward)


def _detaches_in_place(loop: Loop, state: Phi) -> bool:
    """Whether an iteration detaches the tensors in ``state`` where they are: ``for h in hidden: h.detach_()``."""
    held = set(sources(state))
    return any(
        call.method in IN_PLACE_DETACH
        and call.receiver is not None
        and call.region.within(loop)
        and any(not held.isdisjoint(sources(each)) for each in _with_wholes(call.receiver))
        for call in loop.function.calls
    )


def _with_wholes(part: Value) -> Iterator[Value]:
    """``part``, what it is an element of, and what that is an element of."""
    yield part
    while isinstance(part, (Item, Part, Element)):
        part = part.iterable if isinstance(part, Element) else part.base
        yield part


def _receives(step: Call, phi: Phi) -> Occurrence | None:
    """The argument by which ``step`` gets the state, if it gets something else as well."""
    arguments = [operand for operand in operand_occurrences(step) if operand.value is not step.receiver]
    if len(arguments) < 2:
        return None
    for argument in arguments:
        if any(value is phi for value in local_ancestors(argument.value)):
            return argument
    return None


def _backward_over(step: Call, backwards: list[Call]) -> Call | None:
    for backward in backwards:
        if backward.order > step.order and any(v is step for root in started_roots(backward) for v in ancestors(root)):
            return backward
    return None


# ----------------------------------------------------------------------- what a state is


class Layout(str, Enum):
    """What a state is made of."""

    TENSOR = "tensor"
    TENSORS = "tuple of tensors"


_LAYOUTS: dict[str, dict[tuple[object, ...], Layout]] = {
    "torch.nn.RNN": {(1,): Layout.TENSOR},
    "torch.nn.GRU": {(1,): Layout.TENSOR},
    "torch.nn.LSTM": {(1,): Layout.TENSORS, (1, 0): Layout.TENSOR, (1, 1): Layout.TENSOR},
    "torch.nn.RNNCell": {(): Layout.TENSOR},
    "torch.nn.GRUCell": {(): Layout.TENSOR},
    "torch.nn.LSTMCell": {(): Layout.TENSORS, (0,): Layout.TENSOR, (1,): Layout.TENSOR},
    "torch.nn.Linear": {(): Layout.TENSOR},
    "torch.nn.LayerNorm": {(): Layout.TENSOR},
}
"""What the modules of torch return, by the indices that lead to it."""

_MAX_STEPS = 100


def is_recurrent(module: Value) -> bool:
    """Whether ``module`` is a recurrent network of torch, or a cell of one."""
    return any(kind.name in _LAYOUTS and kind.name.startswith(_RECURRENT) for kind in kinds(module))


_RECURRENT = ("torch.nn.RNN", "torch.nn.GRU", "torch.nn.LSTM")


def layout(state: Value) -> Layout | None:
    """What ``state`` is made of, the functions of the project included that compute it; None if that is not known."""
    found: set[Layout | None] = set()
    seen: set[tuple[int, tuple[object, ...]]] = set()
    pending: list[tuple[Value, tuple[object, ...]]] = [(state, ())]
    while pending:
        value, path = pending.pop()
        for source in sources(value):
            if (id(source), path) in seen:
                continue
            seen.add((id(source), path))
            nearer = _behind(source, path)
            pending.extend(nearer)
            if not nearer:
                found.add(_own_layout(source, path))
        if len(seen) > _MAX_STEPS:
            return None
    return found.pop() if len(found) == 1 else None


def _behind(source: Value, path: tuple[object, ...]) -> list[tuple[Value, tuple[object, ...]]]:
    """Where the component ``path`` of ``source`` comes from, if that lies further upstream."""
    match source:
        case Display() if path and display_element(source, path[0]) is not None:
            element = display_element(source, path[0])
            return [(element, path[1:])] if element is not None else []
        case Part() | Item() if component_index(source) is not None:
            return [(source.base, (component_index(source), *path))]
        case Call() if not _known_layouts(source):
            return [(exit.value, path) for function in callees(source) for exit in function.returns]
    return []


def _own_layout(source: Value, path: tuple[object, ...]) -> Layout | None:
    match source:
        case Display(kind="tuple") if not path and not source.starred:
            tensors = all(layout(element) is Layout.TENSOR for element in source.elements)
            return Layout.TENSORS if tensors else None
        case Binary() | Unary() if not path and attachment(source) > Attachment.UNKNOWN:
            return Layout.TENSOR
        case Call():
            known = _known_layouts(source)
            return known.get(path) if known else _result_layout(source, path)
    return None


def _known_layouts(call: Call) -> dict[tuple[object, ...], Layout]:
    return next((_LAYOUTS[kind.name] for kind in kinds(call.callee) if kind.name in _LAYOUTS), {})


def _result_layout(call: Call, path: tuple[object, ...]) -> Layout | None:
    """A function or method of torch that returns one tensor."""
    if path or call.name not in _RETURNING_A_TENSOR:
        return None
    known = call.receiver is not None or any(name.startswith("torch.") for name in qualified_names(call.callee))
    return Layout.TENSOR if known else None


_RETURNING_A_TENSOR = frozenset(
    """
    tanh sigmoid relu gelu elu softmax log_softmax cat stack concat where lerp add sub mul div matmul mm bmm einsum
    clone contiguous view reshape permute transpose unsqueeze squeeze flatten expand masked_fill mean sum clamp
    layer_norm dropout linear float half double to cuda cpu
    """.split()
)
