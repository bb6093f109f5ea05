"""Context managers that are made by a statement of their own, so that nothing enters them."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import qualified_names
from memlint.model.calls import callees
from memlint.model.gradmode import GradMode, context_mode, grad_mode
from memlint.model.knowledge import torch
from memlint.model.scopes import Function
from memlint.model.values import Call, Choice, Value


def contexts_in_vain(function: Function) -> Iterator[tuple[Value, Call]]:
    """The statements of ``function`` that make a context manager and do not enter it, each with the context.

    Those that a caller has entered already, so that nothing is missing, are left out.
    """
    for statement in function.statements:
        match statement:
            case Choice():
                chosen = [choice for choice in statement.values if isinstance(choice, Call) and _is_context(choice)]
                if chosen:
                    yield statement, chosen[0]
            case Call() if _is_context(statement) and context_mode(statement) is not grad_mode(statement.region):
                yield statement, statement


def is_meant_without_gradients(call: Call) -> bool:
    """Whether a context manager that disables gradients is made before ``call`` in its block, and not entered."""
    return any(
        statement.order < call.order
        and call.region.within(statement.region)
        and context_mode(context) is GradMode.DISABLED
        for statement, context in contexts_in_vain(call.function)
    )


def _is_context(call: Call) -> bool:
    """Whether ``call`` makes a context manager of torch, or one of the project that enters one of torch's."""
    if qualified_names(call.callee) & torch.GRADIENT_CONTEXTS:
        return True
    made_here = any(
        qualified_names(decorator) & {"contextlib.contextmanager"}
        for function in callees(call)
        for decorator in function.decorators
    )
    return made_here and context_mode(call) is not None
