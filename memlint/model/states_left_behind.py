"""States of modules that keep their old weights alive when the module moves to another device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from memlint.model.aliases import sources
from memlint.model.devices import moves_to_accelerator
from memlint.model.effects import Effect, effects
from memlint.model.identity import Objects, everywhere, holds, objects
from memlint.model.kinds import Role, role
from memlint.model.program import Program
from memlint.model.values import Call, Store, Value


class LeftBehind(NamedTuple):
    """``state`` is bound by ``store`` when the module moves in ``move``, and still when ``begin`` trains."""

    state: Call
    store: Store
    move: Call
    begin: Call


def states_left_behind(program: Program) -> Iterator[LeftBehind]:
    """The results of ``state_dict()`` in a file that outlive the move of their module, and are bound through training.

    ``to()`` gives each parameter new memory; what the state holds is the old one, which nothing else needs.
    """
    for state in program.calls("state_dict"):
        if state.receiver is None or state.arguments or state.region.loop is not None or state.function.module.is_test:
            continue
        store = next((use for use in state.uses if isinstance(use, Store) and use.base is None), None)
        if store is None or not role(state.receiver, Role.MODULE) or _is_let_go(store):
            continue
        move = move_after(state)
        begin = _training_after(move) if move is not None else None
        if move is not None and begin is not None:
            yield LeftBehind(state, store, move, begin)


def _is_let_go(store: Store) -> bool:
    """Whether the name is deleted, or bound to something else, anywhere behind."""
    function = store.function
    deleted = any(deletion.key == store.key and deletion.order > store.order for deletion in function.deletions)
    return deleted or any(other.key == store.key and other.order > store.order for other in function.stores)


def move_after(state: Call) -> Call | None:
    """The call behind ``state`` that moves the module, or one around it, to an accelerator; None if one is before."""
    assert state.receiver is not None
    module = everywhere(objects(state.receiver))
    moves = [call for call in state.function.calls if any(holds(found, module) for found in _moved(call))]
    return moves[0] if moves and moves[0].order > state.order else None


def _moved(call: Call) -> Iterator[Objects]:
    """What ``call`` moves to an accelerator: its receiver, or what Accelerate prepares."""
    if call.receiver is not None and moves_to_accelerator(call):
        yield everywhere(objects(call.receiver))
    elif call.method == "prepare" and role(call, Role.PREPARED):
        for argument in call.arguments:
            yield everywhere(objects(argument.value))
            yield from _made_of(argument.value)


def _made_of(module: Value) -> Iterator[Objects]:
    """What a module is made of that is given to its constructor: ``unet`` of ``Adapter(unet, width)``."""
    for source in sources(module):
        if isinstance(source, Call) and role(source, Role.MODULE):
            yield from (everywhere(objects(argument.value)) for argument in source.arguments)


def _training_after(move: Call) -> Call | None:
    return next((call for call in move.function.calls if call.order > move.order and effects(call) & Effect.STEP), None)
