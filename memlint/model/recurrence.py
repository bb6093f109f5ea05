"""State that one iteration hands to the next: hidden states of recurrent networks, memories, carried activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from memlint.model.attachment import Attachment, attachment
from memlint.model.effects import backward_of, started_roots
from memlint.model.scopes import Function
from memlint.model.upstream import ancestors, local_ancestors
from memlint.model.values import Call, Loop, Occurrence, Phi, Value, operand_occurrences


@dataclass(frozen=True)
class Recurrence:
    """A state that each iteration of ``loop`` gets from the last one and computes anew for the next one.

    The call ``step`` gets the state ``key``, and a backward in the same iteration runs over the result.
    """

    key: str
    loop: Loop
    step: Call
    state: Occurrence
    """The state where the call gets it."""
    carried: Value
    """The state that is handed on."""
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
        reported: set[int] = set()
        for phi in loop.phis.values():
            for found in _carried_states(phi, loop, backwards):
                if id(found.step) not in reported:
                    reported.add(id(found.step))
                    yield found


def _carried_states(phi: Phi, loop: Loop, backwards: list[Call]) -> Iterator[Recurrence]:
    for carried in phi.carried:
        if attachment(carried) <= Attachment.UNKNOWN:
            continue
        upstream = list(local_ancestors(carried))
        if not any(value is phi for value in upstream):
            continue
        for step in upstream:
            if isinstance(step, Call) and step.region.within(loop):
                state = _receives(step, phi)
                backward = _backward_over(step, backwards)
                if state is not None and backward is not None:
                    yield Recurrence(phi.key, loop, step, state, carried, backward)


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
