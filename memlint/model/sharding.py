"""Fully sharded models: which calls shard, and which state dicts they gather."""

from __future__ import annotations

from collections.abc import Iterator

from memlint.model.aliases import qualified_names
from memlint.model.definitions import definitions
from memlint.model.memo import query
from memlint.model.scopes import Module
from memlint.model.values import Call, Value

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


def wrapped_by_fsdp(value: Value) -> Iterator[Call]:
    """The calls of the FSDP1 class that ``value`` may be the result of."""
    for source in definitions(value):
        if isinstance(source, Call) and qualified_names(source.callee) & WRAPPERS:
            yield source
