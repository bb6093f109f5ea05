"""Functions that checkpointing runs again in the backward, when what they read has another value."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import qualified_names, sources
from memlint.model.checkpointing import CHECKPOINT
from memlint.model.effects import Effect, region_effects
from memlint.model.gradmode import GradMode, grad_mode
from memlint.model.program import Program
from memlint.model.scopes import Function
from memlint.model.values import Call, FunctionValue, Loop, Value

_HANDED_ON = "_gradient_checkpointing_func"
"""The attribute in which models of transformers and diffusers keep ``checkpoint`` with its options."""


def rebound_in_segments(program: Program) -> Iterator[tuple[Call, str]]:
    """Checkpoints in a loop, with a name that their function reads and each iteration of the loop binds anew.

    ``for block in blocks: x = checkpoint(lambda h: block(h), x)`` computes every segment again with the last block.
    Where the backward runs in the same iteration, the name has the value of the forward still.
    """
    if "checkpoint" not in program.module.text:
        return
    for call in program.calls():
        loop = call.region.loop
        if loop is None or not call.arguments or not _checkpoints(call):
            continue
        if grad_mode(call.region) is GradMode.DISABLED or region_effects(loop) & Effect.BACKWARD:
            continue
        name = next(_rebound(call, loop), None)
        if name is not None:
            yield call, name


def _checkpoints(call: Call) -> bool:
    return call.name == _HANDED_ON or bool(qualified_names(call.callee) & CHECKPOINT)


def _rebound(call: Call, loop: Loop) -> Iterator[str]:
    run = call.argument("function", 0)
    for source in sources(run) if run is not None else ():
        if isinstance(source, FunctionValue) and source.target.parent is call.function and source.region.within(loop):
            inside = set(source.target.walk())
            yield from (name for name in _read_late(call.function, inside) if _is_bound_in(loop, name))


def _read_late(function: Function, readers: set[Function]) -> Iterator[str]:
    """The variables of ``function`` that functions inside it read when they run."""
    for name, reads in function.captures.items():
        if any(read.function in readers for read in reads):
            yield name


def _is_bound_in(loop: Loop, name: str) -> bool:
    """Whether ``loop`` binds ``name`` to its element, or to what is computed from it."""
    stores = (store for store in loop.function.stores if store.key == name and store.region.within(loop))
    return any(_depends_on_element(store.value, loop) for store in stores)


_MAX_VALUES = 50


def _depends_on_element(value: Value, loop: Loop) -> bool:
    seen: set[int] = set()
    pending = [value]
    while pending and len(seen) < _MAX_VALUES:
        current = pending.pop()
        if current is loop.element:
            return True
        if id(current) not in seen:
            seen.add(id(current))
            pending.extend(current.operands())
    return False
