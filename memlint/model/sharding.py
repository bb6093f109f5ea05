"""Fully sharded models: which calls shard, and which state dicts they gather."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import qualified_names, sources
from memlint.model.definitions import definitions
from memlint.model.memo import query
from memlint.model.scopes import Module
from memlint.model.values import Attribute, Call, Comprehension, Exit, Store, Value

_FSDP_ROOTS = (
    "torch.distributed.fsdp.FullyShardedDataParallel",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel",
)
WRAPPERS = frozenset(_FSDP_ROOTS)
"""FSDP1: the class that wraps a module."""
FULLY_SHARD = frozenset(
    {
        "torch.distributed.fsdp.fully_shard",
        "torch.distributed._composable.fsdp.fully_shard",
        "torch.distributed._composable.fsdp.fully_shard.fully_shard",
        "torch.distributed._composable.fully_shard",
    }
)
"""FSDP2: the function that shards the parameters of a module that no inner call has sharded."""
_WRAPPING = frozenset({"torch.distributed.fsdp.wrap.wrap", "torch.distributed.fsdp.wrap.auto_wrap"})


def fsdp_methods(call: Call, *names: str) -> bool:
    """Whether ``call`` is one of these methods of the FSDP1 class, called on the class."""
    return any(name.rpartition(".")[0] in WRAPPERS and call.name in names for name in qualified_names(call.callee))


@query(on_cycle=())
def sharding_calls(module: Module) -> tuple[Call, ...]:
    """The calls of a file that make a unit of FSDP, of either kind, whatever it holds."""
    return tuple(call for function in module.functions for call in function.calls if shards(call))


def shards(call: Call) -> bool:
    """Whether ``call`` makes a unit of FSDP of a module that it is given."""
    return bool(qualified_names(call.callee) & (WRAPPERS | FULLY_SHARD | _WRAPPING))


def mentions_sharding_elsewhere(module: Module) -> bool:
    """Whether another file of the project shards modules, too, so that the units are not all in sight here."""
    others = {
        other
        for name in ("fully_shard", "FullyShardedDataParallel")
        for other in module.project.mentioning(name) or ()
        if other is not module
    }
    return any(sharding_calls(other) for other in others)


def gathered_and_kept(module: Module) -> Iterator[Call]:
    """Where every parameter of a model is gathered by ``full_tensor()`` and kept where it is, one after the other."""
    for call in module.calls_by_name.get("full_tensor", ()):
        if call.method == "full_tensor" and any(map(_keeps, _unchanged(call))) and _is_one_of_all(call):
            yield call


def _unchanged(call: Call) -> Iterator[Value | Store]:
    """Who uses a gathered tensor, or the same without its graph."""
    for use in call.uses:
        if isinstance(use, Attribute) and use.name in {"detach", "data", "contiguous"}:
            for user in use.uses:
                yield from _unchanged(user) if isinstance(user, Call) and user.callee is use else ()
        elif not isinstance(use, Exit):
            yield use


def _keeps(use: Value | Store) -> bool:
    """Whether a use puts the tensor into a dict or list: a comprehension, or an assignment to a key."""
    if isinstance(use, Store):
        return use.index is not None
    return isinstance(use, Comprehension) and use.kind in {"dict", "list"}


def _is_one_of_all(call: Call) -> bool:
    """Whether the loop around goes over the parameters, or the entries of a state dict."""
    return any(
        isinstance(source, Call) and source.name in _ALL_OF_MODEL
        for loop in call.region.loops()
        if loop.iterable is not None
        for source in _through_items(loop.iterable)
    )


_ALL_OF_MODEL = frozenset({"state_dict", "named_parameters", "parameters", "get_model_state_dict"})


def _through_items(iterable: Value) -> Iterator[Value]:
    for source in sources(iterable):
        yield source
        if isinstance(source, Call) and source.method in {"items", "values"} and source.receiver is not None:
            yield from sources(source.receiver)


def wrapped_by_fsdp(value: Value) -> Iterator[Call]:
    """The calls of the FSDP1 class that ``value`` may be the result of."""
    for source in definitions(value):
        if isinstance(source, Call) and qualified_names(source.callee) & WRAPPERS:
            yield source
