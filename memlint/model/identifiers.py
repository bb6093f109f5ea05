"""Which names a function uses, and which packages a file imports."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from memlint.model.aliases import sources
from memlint.model.knowledge import frameworks
from memlint.model.memo import query
from memlint.model.scopes import Function, Module
from memlint.model.values import External, Value


def names_used(function: Function) -> Iterator[str]:
    """What a function calls, passes by keyword, and reads or sets as an attribute; names of other packages as well."""
    yield from (value.name for value in function.attributes)
    yield from (store.attribute for store in function.stores if store.attribute is not None)
    for call in function.calls:
        yield call.name
        yield from (argument.keyword for argument in call.arguments if argument.keyword is not None)
    for value in _given(function):
        # A name of another package, as `torch.float16`, is one value.
        yield from (each.qualified_name.rpartition(".")[2] for each in sources(value) if isinstance(each, External))


def _given(function: Function) -> Iterator[Value]:
    """What is passed, stored and returned, and what parameters are by default."""
    yield from (argument.value for call in function.calls for argument in call.arguments)
    yield from (store.value for store in function.stores)
    yield from (leaving.value for leaving in function.returns)
    yield from function.defaults.values()


@query(on_cycle=frozenset())
def imported_packages(module: Module) -> frozenset[str]:
    """The packages that a file imports from, wherever it does."""
    bound = (value for function in module.functions for values in function.bindings.values() for value in values)
    return frozenset(value.qualified_name.partition(".")[0] for value in bound if isinstance(value, External))


def imports_any(module: Module, packages: Collection[str]) -> bool:
    """Whether a file imports something from one of ``packages``."""
    return not imported_packages(module).isdisjoint(packages)


@query(on_cycle=False)
def is_of_another_library(module: Module) -> bool:
    """Whether a file imports a library of tensors that is not PyTorch, and nothing of PyTorch."""
    if not any(name in module.text for name in frameworks.OTHER_TENSOR_LIBRARIES):
        return False  # Imports are known when the whole file is lowered.
    return imports_any(module, frameworks.OTHER_TENSOR_LIBRARIES) and not imports_any(
        module, frameworks.TORCH_LIBRARIES
    )
