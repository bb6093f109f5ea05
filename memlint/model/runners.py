"""Functions that a framework calls for each batch, because they were handed to an object of it."""

from __future__ import annotations

from memlint.model.aliases import qualified_names, sources
from memlint.model.knowledge import frameworks
from memlint.model.memo import query
from memlint.model.scopes import Function
from memlint.model.values import FunctionValue


@query(on_cycle=False)
def runs_for_each_batch(function: Function) -> bool:
    """Whether an engine of Ignite runs ``function`` for each batch: it keeps what is returned until the next one.

    The engine runs no backward by itself, and switches no gradients off.
    """
    if function.name == "<lambda>" or function.parent is None:
        return False
    return any(
        isinstance(source, FunctionValue) and source.target is function
        for name in frameworks.BATCH_ENGINE_NAMES
        for call in function.module.calls_by_name.get(name, ())
        if qualified_names(call.callee) & frameworks.BATCH_ENGINES
        for process in [call.argument("process_function", 0)]
        if process is not None
        for source in sources(process)
    )
